"""Texts in pieces: nothing is lost, nothing hidden is left, and the changed words are those that differ."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from harness.report.characters import LONG_TEXT, excerpt, pair, pieces, visible

HIDDEN = "\x00\x07\r\x1b\x7f\x85\u00ad\u200b\u200e\u202a\u202e\u2066\u2069\u2028\u2029\ufeff\u2060\U000e0041"
TEXT = st.text(st.sampled_from(f"ab c\n\t'-.😀é{HIDDEN}") | st.characters())


def acts(character: str) -> bool:
    """Whether a character moves, hides or reorders others, by Unicode's own tables."""
    turns = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return character not in "\n\t" and (
        unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(character) in turns
    )


@given(TEXT)
def test_what_is_shown_has_nothing_that_acts(text: str) -> None:
    assert not [c for c in visible(text) if acts(c)]
    assert not [c for piece in pieces(text) for c in piece.text if acts(c)]
    visible(text).encode("utf-8")


@given(TEXT)
def test_no_character_is_lost(text: str) -> None:
    kept = "".join(piece.text for piece in pieces(text) if not piece.code)
    codes = [piece for piece in pieces(text) if piece.code]
    rest = iter(text)
    assert all(character in rest for character in kept)  # in order
    assert len(kept) + len(codes) == len(text)


def test_every_hidden_character_has_a_sign_of_its_own() -> None:
    signs = [piece.text for piece in pieces(HIDDEN)]
    assert len(set(signs)) == len(HIDDEN)
    assert visible("a\u202eb") == "a<U+202E>b"
    assert visible("a\x00b\r\n\tc") == "a<U+0000>b<U+000D>\n\tc"


def test_emoji_and_scripts_are_left_alone() -> None:
    for text in ("👩‍👩‍👧‍👦🇬🇧 ❤️", "नमस्ते क्ष", "می‌خواهم", "סרט טוב", "Z͑ͫ̓"):
        assert visible(text) == text


def test_words_that_differ_are_marked_in_both_texts() -> None:
    before, after = pair("A film, a 'good' plot: good!", "A movie, a 'fine' plot: good!")
    assert [piece.text for piece in before if piece.changed] == ["film", "good"]
    assert [piece.text for piece in after if piece.changed] == ["movie", "fine"]
    before, after = pair("a good film", "a very good film")
    assert [piece.text for piece in before if piece.changed] == []
    assert [piece.text for piece in after if piece.changed] == ["very"]


def test_a_changed_word_with_a_hidden_character_is_marked_whole() -> None:
    _, after = pair("a good film", "a bad\u00ad film")
    assert [(p.text, p.changed, p.code) for p in after] == [
        ("a ", False, False),
        ("bad", True, False),
        ("U+00AD", False, True),
        (" film", False, False),
    ]


@given(st.integers(0, 900), st.integers(200, 900))
def test_the_excerpt_of_a_long_text_shows_its_first_change(place: int, length: int) -> None:
    words = [f"w{i}" for i in range(max(length, place + 1))]
    other = [*words[:place], "changed", *words[place + 1 :]]
    _, after = pair(" ".join(words), " ".join(other))
    shown = excerpt(after)
    if len(" ".join(other)) <= LONG_TEXT:
        assert shown == []
    else:
        assert [piece.text for piece in shown if piece.changed] == ["changed"]
        assert sum(len(piece.text) for piece in shown) < LONG_TEXT
