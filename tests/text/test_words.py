"""Words against TextAttack's own function, and which of them changed."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.core.errors import ConfigurationError
from harness.text.words import changed_positions, find_words

# TextAttack cuts text with Chinese characters by a dictionary; this package does not.
CHINESE = re.compile("[\u4e00-\u9fff]")
# What TextAttack's homoglyph attack writes: a mark, digits, letters, a sign of arithmetic.
LOOKALIKES = "\u02d7\u09ed\u0222\U0001d7d5\u0431\u01bc\u00d7\u1d22"
AWKWARD = st.text(
    st.sampled_from(
        list(" \t\n\r\u00a0\u2028\x1c\x85'-_*@\"`.,!?()[]<>&;:/\\abcZO09éßØ\u2019\u0301\u200d\ufeff😀" + LOOKALIKES)
    )
    | st.characters(exclude_categories=["Cs"]),
    max_size=60,
).filter(lambda text: not CHINESE.search(text))
WORD_LISTS = st.lists(st.sampled_from(["a", "b", "c", "A", "dd"]), max_size=12)


@pytest.fixture(scope="module")
def words_from_text() -> Callable[[str], list[str]]:
    from textadv.runtime import load_textattack

    try:
        textattack = load_textattack()
    except ConfigurationError:
        pytest.skip("TextAttack is not installed")
    function: Callable[[str], list[str]] = textattack.shared.utils.words_from_text
    return function


def test_words_are_textattacks(words_from_text: Callable[[str], list[str]]) -> None:
    @settings(max_examples=1500, deadline=None)
    @example("'quoted' -- it's a *well-known* e@mail.com, don't_")
    @example("-'@*_")
    @example(" ".join(f"a{sign}b {sign}a b{sign} {sign}" for sign in LOOKALIKES))
    @example("a'-b 'a.-b' `x` O\u00d7O")
    @example("one\x1ctwo\x85three\u2028four\u00a0five")
    @given(AWKWARD)
    def check(text: str) -> None:
        assert [word.text for word in find_words(text)] == words_from_text(text)

    check()


def test_words_of_real_texts_are_textattacks(words_from_text: Callable[[str], list[str]], shared_data: Path) -> None:
    pd = pytest.importorskip("pandas")
    compared = 0
    for name in ("imdb", "ag_news", "sst2"):
        texts = pd.read_parquet(shared_data / "text" / name / "test.parquet")["text"][:300]
        for text in texts:
            if not CHINESE.search(text):
                assert [word.text for word in find_words(text)] == words_from_text(text)
                compared += 1
    assert compared > 850


@settings(max_examples=500)
@given(AWKWARD)
def test_words_stand_where_they_say(text: str) -> None:
    end = 0
    for word in find_words(text):
        assert end <= word.start < word.end
        assert text[word.start : word.end] == word.text
        assert word.text == word.text.strip("'-_*@")
        end = word.end
    assert find_words("") == []


def test_chinese_is_not_segmented() -> None:
    assert [word.text for word in find_words("我喜欢电影, really")] == ["我喜欢电影", "really"]


@given(WORD_LISTS, st.data())
def test_swaps_are_compared_place_by_place(words: list[str], data: st.DataObject) -> None:
    swapped = [data.draw(st.sampled_from([word, "other"])) for word in words]
    assert changed_positions(words, swapped) == [i for i, word in enumerate(swapped) if word == "other"]


@settings(max_examples=400)
@given(WORD_LISTS, WORD_LISTS)
def test_changed_positions_of_any_pair(before: list[str], after: list[str]) -> None:
    changed = changed_positions(before, after)
    assert changed == sorted(set(changed))
    assert all(0 <= position < len(before) for position in changed)
    assert changed_positions(before, before) == []
    if before and before != after:
        assert changed
    # What is left unchanged stands in both texts, in the same order.
    kept = [word for position, word in enumerate(before) if position not in set(changed)]
    remaining = iter(after)
    assert all(word in remaining for word in kept)


@given(WORD_LISTS.filter(bool), st.data())
def test_one_deletion_or_insertion(words: list[str], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(words) - 1))
    unique = [f"{word}{i}" for i, word in enumerate(words)]
    assert changed_positions(unique, unique[:place] + unique[place + 1 :]) == [place]
    assert changed_positions(unique, [*unique[:place], "new", *unique[place:]]) == [place]
    assert changed_positions(unique, [*unique, "new"]) == [len(unique) - 1]
    assert changed_positions(unique, [*unique, "new"], insertions=False) == []
    assert changed_positions(unique, unique[:place] + unique[place + 1 :], insertions=False) == [place]
    assert changed_positions([], unique) == []


def test_long_texts_are_aligned_without_shortcuts() -> None:
    # In 200 words or more, difflib leaves out every word that makes up more than one percent, unless told not to.
    before = random.Random(0).choices([f"w{i}" for i in range(20)], k=300)
    after = [word for place, word in enumerate(before) if place not in (60, 140, 220)]
    assert changed_positions(before, after) == [60, 140, 220]
