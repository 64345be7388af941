"""Edits give the perturbed text back to the last character, and the original not at all."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.core.errors import DataError
from harness.text.release.replacements import Edit, apply_edits, find_edits, reveals, text_hash

# All of Unicode but lone surrogates, which no file of rows can hold.
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)
WORDS = [
    "a",
    "warm",
    "and",
    "funny",
    "film",
    "that",
    "never",
    "bores",
    "don't",
    "well-made",
    "é",
    "naïve",
    "ﬁne",
    "電影",
]
sentences = st.lists(st.sampled_from(WORDS), min_size=1, max_size=25)
CHANGES = {
    "another word": lambda word: "tale",
    "a longer one": lambda word: "not so bad",
    "none": lambda word: "",
    "a typo": lambda word: word[:1] + "x" + word[1:],
    "a letter less": lambda word: word[1:],
    "a look-alike": lambda word: word.replace("a", "а").replace("e", "е").replace("o", "ο"),  # noqa: RUF001
    "capitals": str.upper,
    "a hidden space": lambda word: word[:1] + "\u200b" + word[1:],
    "a torn word": lambda word: word[:2] + " " + word[2:],
}
separators = st.sampled_from([" ", " ", " ", "", "  ", "\n", "\r\n", ", ", "\u00a0", "<br />"])


@st.composite
def attacked(draw: st.DrawFn) -> tuple[str, str]:
    """A text and what an attack on some of its words and spaces makes of it."""
    words = draw(sentences)
    parts, changed = [], []
    for word in words:
        separator = draw(separators)
        parts += [word, separator]
        change = draw(st.sampled_from([None, None, None, *CHANGES]))
        changed += [CHANGES[change](word) if change else word, draw(separators) if change else separator]
    return "".join(parts), "".join(changed)


@given(texts, texts)
@example("", "x")
@example("x", "")
@example("a\nb", "a\r\nb")
@example("e\u0301", "\u00e9")
@settings(max_examples=400, deadline=None)
def test_any_text_comes_back_from_any_other(original: str, perturbed: str) -> None:
    assert apply_edits(original, find_edits(original, perturbed)) == perturbed


@given(attacked())
@settings(max_examples=400, deadline=None)
def test_attacked_texts_come_back(pair: tuple[str, str]) -> None:
    original, perturbed = pair
    edits = find_edits(original, perturbed)
    assert apply_edits(original, edits) == perturbed
    # The rule that the card prints, which is all that a reader without this package has.
    text, end = "", 0
    for start, stop, new in edits:
        text += original[end:start] + new
        end = stop
    assert text + original[end:] == perturbed


@given(attacked())
@settings(max_examples=300, deadline=None)
def test_edits_are_in_order_apart_from_each_other_and_change_something(pair: tuple[str, str]) -> None:
    original, perturbed = pair
    edits = find_edits(original, perturbed)
    for edit in edits:
        assert 0 <= edit.start <= edit.end <= len(original)
        assert original[edit.start : edit.end] != edit.text
    assert all(before.end < after.start for before, after in pairwise(edits))
    assert (edits == []) == (original == perturbed)


@given(attacked())
@settings(max_examples=400, deadline=None)
def test_what_is_let_out_holds_no_three_words_of_the_original(pair: tuple[str, str]) -> None:
    original, perturbed = pair
    edits = find_edits(original, perturbed)
    if reveals(original, edits):
        return
    words = original.lower().split()
    for edit in edits:
        new = edit.text.lower()
        assert not any(" ".join(words[i : i + 3]) in new for i in range(len(words) - 2))


@pytest.mark.parametrize(
    ("original", "perturbed", "new"),
    [
        ("a terrible film, really.", "a terrib1e movie, really.", ["1", "movie"]),
        ("so very good", "so v3ry g00d", ["3", "00"]),
        ("good film", "gооd film", ["оо"]),  # noqa: RUF001 - Cyrillic
        ("the dull plot drags", "the duLl plot drags", ["L"]),
        ("it was warm there", "it was not so warm there", ["not so "]),
        ("it was not so warm", "it was warm", [""]),
        ("ice cream van", "icecream van", [""]),
        ("one two three four five", "zero one two three four", ["zero ", ""]),
        ("a  film\nof note", "a film\nof note", [""]),
        ("(good)", "(fine)", ["fine"]),
    ],
)
def test_an_edit_holds_only_what_was_put_in(original: str, perturbed: str, new: list[str]) -> None:
    edits = find_edits(original, perturbed)
    assert [edit.text for edit in edits] == new
    assert apply_edits(original, edits) == perturbed


@pytest.mark.parametrize(
    ("original", "perturbed"),
    [
        ("a warm and funny film", "A WARM AND FUNNY FILM"),
        ("three words moved to the end of it", "to the end of it three words moved"),
        ("a warm film it is", "a warm film it is a warm film it is"),
        ("dull", "DULL"),
        ("ein schöner Film ist das", "EIN SCHONER FILM ist das"),
        (
            "the plot is thin and the jokes fall flat",
            "its story lacks substance, while none of the humour manages to land anywhere",
        ),
    ],
    ids=["capitals", "moved", "doubled", "one word", "accents", "paraphrase"],
)
def test_what_would_give_the_original_away_is_seen(original: str, perturbed: str) -> None:
    assert reveals(original, find_edits(original, perturbed))


@pytest.mark.parametrize(
    ("original", "perturbed"),
    [
        ("a warm and funny film", "a warm and funny film"),
        ("good film", "great movie"),
        ("a warm and funny film", "a wram adn fnuny flim"),
        ("a long review that says nothing " * 5, "nothing"),
        ("a warm and funny film", "a warm and funny film https://t.co/xYz @someone " + "very " * 30),
        ("", "anything at all that is put in, and at some length, where there was nothing before it"),
    ],
    ids=["unchanged", "short", "typos", "reduced", "appended", "empty"],
)
def test_plain_attacks_are_let_out(original: str, perturbed: str) -> None:
    assert not reveals(original, find_edits(original, perturbed))


@pytest.mark.parametrize(
    "edits", [[(-1, 0, "x")], [(0, 9, "")], [(3, 2, "")], [(2, 3, "a"), (1, 2, "b")], [(9, 9, "x")]]
)
def test_edits_out_of_place_are_refused(edits: list[tuple[int, int, str]]) -> None:
    with pytest.raises(DataError, match="out of place"):
        apply_edits("film", [Edit(*edit) for edit in edits])


def test_hashes_are_those_that_anybody_computes() -> None:
    assert text_hash("naïve 電影\r\n") == hashlib.sha256("naïve 電影\r\n".encode()).hexdigest()
    with pytest.raises(DataError, match="surrogate"):
        text_hash("\ud800")


def test_long_texts_do_not_take_long() -> None:
    original = " ".join(f"word{i % 97}" for i in range(30_000))
    perturbed = " ".join(f"other{i % 89}" if i % 3 else f"word{i % 97}" for i in range(29_990))
    assert apply_edits(original, find_edits(original, perturbed)) == perturbed
