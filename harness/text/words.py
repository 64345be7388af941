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

# TextAttack's homoglyph attack writes these look-alikes inside words, so they count as word characters; the others
# that it writes are letters to `\w` already.
_LOOKALIKES = "˗×`"  # noqa: RUF001
_JOINERS = r"'\-_*@"
_INNER = rf"[\w{_LOOKALIKES}{_JOINERS}]"
_OUTER = rf"(?:[^\W_]|[{_LOOKALIKES}])"
_WORD = re.compile(f"{_OUTER}(?:{_INNER}*{_OUTER})?")


class Word(NamedTuple):
    """A word and where it stands: `text[start:end]`."""

    text: str
    start: int
    end: int


def find_words(text: str) -> list[Word]:
    """The words of a text in order, with their places."""
    return [Word(match[0], match.start(), match.end()) for match in _WORD.finditer(text)]


def changed_positions(original: list[str], perturbed: list[str], *, insertions: bool = True) -> list[int]:
    """Positions in `original` of the words that are replaced or deleted in `perturbed`.

    Swaps keep the number of words, and then words are compared place by place. Otherwise the two are aligned
    between the words that they begin and end with in common; a pure insertion is charged to the word it stands
    before (the last word, at the end of the text), unless `insertions` is false.
    """
    if len(original) == len(perturbed):
        return [i for i, (a, b) in enumerate(zip(original, perturbed, strict=True)) if a != b]
    # The aligner's time is quadratic in repeated words, and it loses its way among them.
    first, last = _common_ends(original, perturbed)
    middle = original[first : len(original) - last], perturbed[first : len(perturbed) - last]
    changed: set[int] = set()
    matcher = difflib.SequenceMatcher(a=middle[0], b=middle[1], autojunk=False)
    for tag, start, end, _, _ in matcher.get_opcodes():
        if tag == "insert":
            changed.update([min(first + start, len(original) - 1)] if insertions and original else [])
        elif tag != "equal":
            changed.update(range(first + start, first + end))
    return sorted(changed)


def _common_ends(a: list[str], b: list[str]) -> tuple[int, int]:
    """How many words two texts share at the start, and then at the end."""
    shorter = min(len(a), len(b))
    first = next((i for i in range(shorter) if a[i] != b[i]), shorter)
    rest = shorter - first
    return first, next((i for i in range(rest) if a[-1 - i] != b[-1 - i]), rest)
