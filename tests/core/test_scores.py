"""The store of costly scores: what is computed, what is kept, and what a killed run loses."""

import numpy as np
import pytest

from harness.core.scores import Cost, Scores, stored_scores

KEY = {"detector": "toy", "k": 1}


def lengths(texts, calls, cost=Cost(seconds=0.5, forwards=3.0, backwards=1.0, other_forwards=2.0)):  # noqa: B008
    """A detector that scores a text by its length, and a list of what it was asked."""

    def compute(places):
        calls.append([texts[place] for place in places])
        return Scores(np.array([len(texts[place]) / 3 for place in places]), cost)

    return compute


def test_only_missing_texts_are_computed_and_each_once(tmp_path):
    calls = []
    texts = ["aa", "b", "aa", "", "cccc", "b"]
    first = stored_scores(tmp_path, KEY, texts, lengths(texts, calls))
    assert calls == [["aa", "b", "", "cccc"]]
    np.testing.assert_array_equal(first.values, np.array([2, 1, 2, 0, 4, 1]) / 3)
    assert first.values.dtype == np.float64
    more = ["new", "b", "cccc", "newer", "new"]
    second = stored_scores(tmp_path, KEY, more, lengths(more, calls))
    assert calls[1:] == [["new", "newer"]]
    np.testing.assert_array_equal(second.values, np.array([3, 1, 4, 5, 3]) / 3)
    third = stored_scores(tmp_path, KEY, more, lengths(more, calls))
    assert len(calls) == 2
    np.testing.assert_array_equal(third.values, second.values)


def test_a_killed_run_keeps_the_chunks_it_finished(tmp_path):
    texts = [f"{'x' * i} {i}" for i in range(10)]
    asked = []

    def dies(places):
        asked.append(places)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return lengths(texts, [])(places)

    with pytest.raises(KeyboardInterrupt):
        stored_scores(tmp_path, KEY, texts, dies, chunk=4)
    assert asked == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    calls = []
    found = stored_scores(tmp_path, KEY, texts, lengths(texts, calls), chunk=4)
    assert calls == [texts[8:]]
    whole = stored_scores(tmp_path / "other", KEY, texts, lengths(texts, []))
    np.testing.assert_array_equal(found.values, whole.values)
    assert found.cost == whole.cost


def test_another_key_is_another_store(tmp_path):
    calls = []
    texts = ["a", "bb"]
    stored_scores(tmp_path, KEY, texts, lengths(texts, calls))
    stored_scores(tmp_path, {**KEY, "k": 2}, texts, lengths(texts, calls))
    assert calls == [texts, texts]
    stored_scores(tmp_path, dict(reversed(KEY.items())), texts, lengths(texts, calls))
    assert len(calls) == 2
    assert len(list(tmp_path.glob("*.sqlite"))) == 2


def test_cost_is_the_mean_over_the_texts_whenever_they_were_scored(tmp_path):
    dear, cheap = Cost(4.0, 10.0, 2.0, 0.0), Cost(1.0, 4.0, 0.0, 8.0)
    stored_scores(tmp_path, KEY, ["a"], lengths(["a"], [], dear))
    texts = ["a", "b", "c", "a"]
    found = stored_scores(tmp_path, KEY, texts, lengths(texts, [], cheap))
    assert found.cost == Cost(2.5, 7.0, 1.0, 4.0)


def test_no_texts_ask_nothing_and_leave_nothing(tmp_path):
    found = stored_scores(tmp_path / "none", KEY, [], lengths([], None))
    assert found.values.shape == (0,)
    assert found.cost == Cost()
    assert not (tmp_path / "none").exists()


def test_more_texts_than_one_question_to_the_store_takes(tmp_path):
    texts = [str(i) for i in range(1203)]
    calls = []
    stored_scores(tmp_path, KEY, texts[:1100], lengths(texts, []), chunk=400)
    found = stored_scores(tmp_path, KEY, texts, lengths(texts, calls), chunk=400)
    assert calls == [texts[1100:]]
    np.testing.assert_array_equal(found.values, [len(text) / 3 for text in texts])


def test_scores_come_back_to_the_last_bit(tmp_path):
    values = np.random.default_rng(0).normal(size=50) * 10.0 ** np.arange(-25, 25)
    texts = [str(i) for i in range(50)]
    for _ in range(2):
        found = stored_scores(tmp_path, KEY, texts, lambda places: Scores(values[places], Cost()))
        np.testing.assert_array_equal(found.values, values)
