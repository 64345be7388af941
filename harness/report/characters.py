"""How texts of others are shown: every character can be seen, none of them acts, and changed words are marked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.text.words import changed_positions, find_words

# Longer texts are folded: a screen or two is read, more is scrolled past.
LONG_TEXT = 1200
_EXCERPT = 400

# Control characters but line feed and tab, controls of writing direction, invisible characters, other line breaks, lone
# surrogates, noncharacters. U+200C and U+200D are left alone: scripts and emoji need them.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ufeff\uffa0\ufff9-\ufffb\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f]"
)


@dataclass(frozen=True)
class Piece:
    """A stretch of a text: as it is, a changed word, or the code of a character that cannot be seen.

    A changed word with hidden characters is several pieces, all of them `changed`.
    """

    text: str
    changed: bool = False
    code: bool = False


def visible(text: str) -> str:
    """A text in one string: hidden characters as codes such as <U+202E>."""
    return _HIDDEN.sub(lambda found: f"<{_code(found[0])}>", text)


def _code(character: str) -> str:
    return f"U+{ord(character):04X}"


def pieces(text: str, positions: Iterable[int] = ()) -> list[Piece]:
    """A text in pieces.

    Args:
        text: Any text.
        positions: Positions of its changed words, as `harness.text.words` counts them.
    """
    words = find_words(text)
    found: list[Piece] = []
    end = 0
    for position in sorted(set(positions)):
        word = words[position]
        found += _split(text[end : word.start], changed=False)
        found += _split(word.text, changed=True)
        end = word.end
    return found + _split(text[end:], changed=False)


def _split(text: str, *, changed: bool) -> list[Piece]:
    found, end = [], 0
    for hidden in _HIDDEN.finditer(text):
        if hidden.start() > end:
            found.append(Piece(text[end : hidden.start()], changed))
        found.append(Piece(_code(hidden[0]), changed, code=True))
        end = hidden.end()
    return found + ([Piece(text[end:], changed)] if end < len(text) else [])


def excerpt(whole: Sequence[Piece]) -> list[Piece]:
    """The part of a long text around its first changed word, or its beginning; empty where the text is not long."""
    if sum(len(piece.text) for piece in whole) <= LONG_TEXT:
        return []
    first = next((place for place, piece in enumerate(whole) if piece.changed), 0)
    before, start = 0, first
    while start > 0 and before < _EXCERPT // 4:
        start -= 1
        before += len(whole[start].text)
    found, room = [], _EXCERPT
    for place in range(start, len(whole)):
        piece, kept = whole[place], whole[place].text
        if place == start and before > _EXCERPT // 4:
            kept = f"\N{HORIZONTAL ELLIPSIS}{kept[before - _EXCERPT // 4 :]}"
        if len(kept) > room:
            found.append(Piece(f"{kept[:room]}\N{HORIZONTAL ELLIPSIS}", piece.changed, piece.code))
            break
        found.append(Piece(kept, piece.changed, piece.code))
        room -= len(kept)
    return found


def pair(original: str, perturbed: str) -> tuple[list[Piece], list[Piece]]:
    """Two texts in pieces, the words that differ marked in both."""
    before = [word.text for word in find_words(original)]
    after = [word.text for word in find_words(perturbed)]
    # A word that was put in, or left out, is marked where it stands, and nothing is where it does not.
    return (
        pieces(original, changed_positions(before, after, insertions=False)),
        pieces(perturbed, changed_positions(after, before, insertions=False)),
    )
