"""Words and their positions, as TextAttack counts them.

An adversarial row names changed words by position, so import, display and attack must agree on what a word is.
The rule is TextAttack's (`words_from_text`): runs of letters, digits, underscores and the joiners `' - _ * @`,
with joiners stripped from both ends; here with the place of each word in the text. Chinese text, which TextAttack
segments with a dictionary, is not segmented here.
"""

from __future__ import annotations

import difflib
import re
from typing import NamedTuple

_JOINERS = "'-_*@"
# TextAttack's homoglyph attack writes these look-alikes inside words, so they count as word characters; most are
# letters to `\w` already.
_LOOKALIKES = "˗৭Ȣ𝟕бƼᏎƷᒿlO`ɑЬϲԁе𝚏ɡհіϳ𝒌ⅼｍոорԛⲅѕ𝚝սѵԝ×уᴢ"  # noqa: RUF001
_CHUNK = re.compile(r"\S+")
_WORD = re.compile(rf"[\w{_LOOKALIKES}'\-_*@]+")


class Word(NamedTuple):
    """A word and where it stands: `text[start:end]`."""

    text: str
    start: int
    end: int


def find_words(text: str) -> list[Word]:
    """The words of a text in order, with their places."""
    found = []
    for chunk in _CHUNK.finditer(text):
        start, end = _stripped(text, chunk.start(), chunk.end())
        for match in _WORD.finditer(text, start, end):
            first, last = _stripped(text, match.start(), match.end())
            if first < last:
                found.append(Word(text[first:last], first, last))
    return found


def changed_positions(original: list[str], perturbed: list[str], *, insertions: bool = True) -> list[int]:
    """Positions in `original` of the words that are replaced or deleted in `perturbed`.

    Swaps keep the number of words, and then words are compared place by place. Otherwise the two are aligned;
    a pure insertion is charged to the word it stands before (the last word, at the end of the text), unless
    `insertions` is false.
    """
    if len(original) == len(perturbed):
        return [i for i, (a, b) in enumerate(zip(original, perturbed, strict=True)) if a != b]
    changed: set[int] = set()
    matcher = difflib.SequenceMatcher(a=original, b=perturbed, autojunk=False)
    for tag, start, end, _, _ in matcher.get_opcodes():
        if tag == "insert":
            changed.update([min(start, len(original) - 1)] if insertions and original else [])
        elif tag != "equal":
            changed.update(range(start, end))
    return sorted(changed)


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start] in _JOINERS:
        start += 1
    while end > start and text[end - 1] in _JOINERS:
        end -= 1
    return start, end
