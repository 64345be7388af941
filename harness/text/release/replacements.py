"""What an attack put into a text, as edits of a text that is not given away.

An edit names a span of the original by its characters and holds what stands there instead. The original's own words
stay out of it: a changed word is written whole where it is another word, and only its changed characters where it is
a variant of the old one, for "terrib1e" would say what "terrible" was.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from harness.core.errors import DataError

# Consecutive words of the original that new text may not hold.
REVEALING_RUN = 3
# A rewritten text: new text of more characters than this, where less than a quarter of the original is kept.
LONGEST_REWRITE = 50
LEAST_KEPT = 0.25

# Texts are compared by what stands between white space, then by words, then by characters.
_SEPARATORS = (re.compile(r"(\s+)"), re.compile(r"(\W+)"))
# From this share of common characters on, a word is a variant of another: "film" and "films", "good" and "g00d".
_ALIKE = 0.5
# Beyond it comparing takes too long: tokens (or characters) of one side times those of the other.
_MOST_COMPARED = 4_000_000


class Edit(NamedTuple):
    """`original[start:end]` is replaced by `text`; positions count Unicode code points."""

    start: int
    end: int
    text: str


def text_hash(text: str) -> str:
    """SHA-256 (hex) of a text's UTF-8 bytes, as anybody can compute it.

    Raises:
        DataError: The text holds a lone surrogate.
    """
    try:
        return hashlib.sha256(text.encode()).hexdigest()
    except UnicodeEncodeError as error:
        raise DataError("a text is no valid Unicode (lone surrogate).") from error


def find_edits(original: str, perturbed: str) -> list[Edit]:
    """The edits that make the perturbed text of the original, in order, none touching another.

    `apply_edits` gives the perturbed text back exactly, whatever the two are. The same pair gives the same edits.
    """
    joined: list[Edit] = []
    for edit in _compare(original, perturbed, 0, 0):
        if joined and joined[-1].end == edit.start:
            before = joined.pop()
            joined.append(Edit(before.start, edit.end, before.text + edit.text))
        else:
            joined.append(edit)
    return joined


def apply_edits(original: str, edits: Iterable[Edit]) -> str:
    """The perturbed text.

    Raises:
        DataError: An edit lies outside the original, or before the end of another.
    """
    parts, end = [], 0
    for edit in edits:
        if not end <= edit.start <= edit.end <= len(original):
            raise DataError(
                f"an edit of characters {edit.start} to {edit.end} is out of place: the text has {len(original)}, "
                f"and {end} of them are behind it."
            )
        parts += [original[end : edit.start], edit.text]
        end = edit.end
    return "".join([*parts, original[end:]])


def reveals(original: str, edits: Sequence[Edit]) -> bool:
    """Whether edits tell too much of the original.

    They do where new text holds `REVEALING_RUN` consecutive words of the original (all of a shorter one), compared
    without case, accents and invisible characters: a text moved, doubled, or written in capitals. They also do where
    the text was rewritten, which makes the new text a version of the old: more than `LONGEST_REWRITE` new characters,
    and less than `LEAST_KEPT` of the original's kept. (Word for word, attacks seldom exchange that much.)
    """
    words = _plain_words(original)
    length = min(REVEALING_RUN, len(words))
    if length:
        known = set(_grams(words, length))
        if any(gram in known for run in _runs(original, edits) for gram in _grams(_plain_words(run), length)):
            return True
    removed = sum(_visible(original[edit.start : edit.end]) for edit in edits)
    new, whole = sum(_visible(edit.text) for edit in edits), _visible(original)
    return new > LONGEST_REWRITE and whole - removed < LEAST_KEPT * whole


def _compare(original: str, perturbed: str, at: int, level: int) -> list[Edit]:
    """Edits of a piece that begins at character `at` of the whole text."""
    if original == perturbed:
        return []
    if level == len(_SEPARATORS):
        return _compare_characters(original, perturbed, at)
    # Tokens at even places, what separates them at odd ones.
    before, after = (_SEPARATORS[level].split(text) for text in (original, perturbed))
    if len(before) == len(after):
        in_place = _compare_places(before, after, at, level)
        changed = [i for i in range(0, len(before), 2) if before[i] != after[i]]
        # No word went to another place: nothing can be gained by aligning.
        if not {before[i] for i in changed} & {after[i] for i in changed}:
            return in_place
        return min(in_place, _compare_aligned(before, after, at, level), key=_new_characters)
    return _compare_aligned(before, after, at, level)


def _new_characters(edits: Sequence[Edit]) -> int:
    return sum(len(edit.text) for edit in edits)


def _compare_places(before: list[str], after: list[str], at: int, level: int) -> list[Edit]:
    edits = []
    for place, (old, new) in enumerate(zip(before, after, strict=True)):
        edits += _compare_characters(old, new, at) if place % 2 else _compare(old, new, at, level + 1)
        at += len(old)
    return edits


def _compare_aligned(before: list[str], after: list[str], at: int, level: int) -> list[Edit]:
    """Align the tokens that both have; what stands between two of them is compared on the next level."""
    edits, i, j = [], 0, 0
    for first, second in _anchors(before[::2], after[::2]):
        old, new = "".join(before[i : 2 * first]), "".join(after[j : 2 * second])
        edits += _compare(old, new, at, level + 1)
        at += len(old) + len(before[2 * first])
        i, j = 2 * first + 1, 2 * second + 1
    return edits + _compare("".join(before[i:]), "".join(after[j:]), at, level + 1)


def _anchors(a: list[str], b: list[str]) -> Iterator[tuple[int, int]]:
    """Places of equal tokens, rising in both."""
    shorter = min(len(a), len(b))
    first = next((i for i in range(shorter) if a[i] != b[i]), shorter)
    rest = shorter - first
    last = next((i for i in range(rest) if a[-1 - i] != b[-1 - i]), rest)
    yield from ((i, i) for i in range(first))
    middle = a[first : len(a) - last], b[first : len(b) - last]
    if len(middle[0]) * len(middle[1]) <= _MOST_COMPARED:
        for i, j, size in difflib.SequenceMatcher(None, *middle, autojunk=False).get_matching_blocks():
            yield from ((first + i + k, first + j + k) for k in range(size))
    yield from ((len(a) - k, len(b) - k) for k in range(last, 0, -1))


def _compare_characters(original: str, perturbed: str, at: int) -> list[Edit]:
    if original == perturbed:
        return []
    if len(original) * len(perturbed) <= _MOST_COMPARED:
        matcher = difflib.SequenceMatcher(None, original, perturbed, autojunk=False)
        if matcher.ratio() >= _ALIKE:
            variant = [
                Edit(at + start, at + end, perturbed[begin:stop])
                for tag, start, end, begin, stop in matcher.get_opcodes()
                if tag != "equal"
            ]
            return min(_exchanged(original, perturbed, at), variant, key=_new_characters)
    # The marks around an exchanged word stay as they are; of its letters none is left over.
    shorter = min(len(original), len(perturbed))
    first = next((i for i in range(shorter) if original[i] != perturbed[i] or original[i].isalnum()), shorter)
    rest = range(shorter - first)
    last = next((i for i in rest if original[-1 - i] != perturbed[-1 - i] or original[-1 - i].isalnum()), len(rest))
    return [Edit(at + first, at + len(original) - last, perturbed[first : len(perturbed) - last])]


def _exchanged(original: str, perturbed: str, at: int) -> list[Edit]:
    """Edits of one character each, place by place; one edit of all where the texts differ in length."""
    if len(original) != len(perturbed):
        return [Edit(at, at + len(original), perturbed)]
    pairs = enumerate(zip(original, perturbed, strict=True), start=at)
    return [Edit(place, place + 1, new) for place, (old, new) in pairs if old != new]


def _runs(original: str, edits: Sequence[Edit]) -> Iterator[str]:
    """New text that reads on: edits with no word of the original between them."""
    run: list[str] = []
    end = 0
    for edit in edits:
        if any(character.isalnum() for character in original[end : edit.start]):
            yield " ".join(run)
            run = []
        run.append(edit.text)
        end = edit.end
    yield " ".join(run)


def _plain_words(text: str) -> list[str]:
    decomposed = unicodedata.normalize("NFKD", text).casefold()
    return re.findall(r"\w+", "".join(c for c in decomposed if unicodedata.category(c) not in ("Mn", "Cf")))


def _grams(words: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
    return (tuple(words[i : i + length]) for i in range(len(words) - length + 1))


def _visible(text: str) -> int:
    return sum(not character.isspace() for character in text)
