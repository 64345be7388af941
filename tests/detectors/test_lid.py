"""LID against the paper's formula, a text at a time."""

import math

import numpy as np
import pytest

from harness.core.errors import ConfigurationError, DataError
from harness.detectors.lid import LID
from harness.text.victims import VictimOutputs


def outputs(features, layer=2):
    """Victim outputs with the given features."""
    return VictimOutputs(np.full((len(features), 2), 0.5), {layer: np.asarray(features, np.float32)})


@pytest.fixture(scope="module")
def data():
    """(train, labels, test) of a plane of 4 dimensions in a space of 16."""
    rng = np.random.default_rng(0)
    plane = rng.standard_normal((4, 16))
    train = 5 + rng.standard_normal((300, 4)) @ plane
    test = 5 + rng.standard_normal((50, 4)) @ plane
    return train.astype(np.float32), rng.integers(0, 2, 300), test.astype(np.float32)


def oracle(train, test, k):
    """Ma et al.: -1 / mean of log(r_i / r_k), at most the number of features."""
    scores = []
    for text in test.astype(np.float64):
        distances = sorted(math.dist(text, row) for row in train.astype(np.float64))[:k]
        mean = sum(math.log(distance / distances[-1]) for distance in distances) / k
        scores.append(min(-1 / mean, len(text)))
    return np.array(scores)


@pytest.mark.parametrize("k", [5, 20, 299])
def test_agrees_with_the_formula(k, data, monkeypatch):
    train, labels, test = data
    detector = LID(k=k).fit(outputs(train), labels)
    scores = detector.score(outputs(test))
    assert scores.dtype == np.float64
    expected = oracle(train, test, k)
    assert (expected < 16).mean() > 0.9
    np.testing.assert_allclose(scores, expected, rtol=1e-9)
    monkeypatch.setattr("harness.detectors.neighbours._CELLS", 2100)  # seven texts at once
    np.testing.assert_allclose(detector.score(outputs(test)), scores, rtol=1e-9)


def test_it_finds_the_dimension_of_a_plane_and_more_outside_of_it(data):
    train, labels, test = data
    detector = LID().fit(outputs(train), labels)
    inside = np.median(detector.score(outputs(test)))
    assert 3 < inside < 5
    outside = test + 2 * np.random.default_rng(1).standard_normal(test.shape).astype(np.float32)
    assert np.median(detector.score(outputs(outside))) > 2 * inside


def test_copies_of_a_text_are_passed_over(data):
    train, _, _ = data
    expected = oracle(train[1:], train[:1], 20)
    noise = 1 + 1e-7 * np.arange(8)[:, None]
    copied = np.concatenate([train, train[:1] * noise])
    for reference in (train, copied):
        scores = LID().fit(outputs(reference), np.zeros(len(reference))).score(outputs(train[:1]))
        np.testing.assert_allclose(scores, expected, rtol=1e-9)


def test_equal_distances_are_cut_at_the_number_of_features():
    # Nine texts on the axes, all at distance 1 from the origin, and one copy of it.
    reference = np.concatenate([np.eye(9), np.zeros((1, 9))])
    detector = LID(k=6).fit(outputs(reference), np.zeros(10))
    np.testing.assert_array_equal(detector.score(outputs(np.zeros((1, 9)))), [9.0])


def test_a_text_with_few_neighbours_left_is_judged_by_those():
    copies = np.ones((5, 3))
    others = np.array([[2.0, 1, 1], [1, 3, 1]])
    detector = LID(k=5).fit(outputs(np.concatenate([copies, others])), np.zeros(7))
    np.testing.assert_allclose(detector.score(outputs(copies[:1])), [-2 / math.log(1 / 2)], rtol=1e-12)
    nearly = LID(k=5).fit(outputs(np.concatenate([copies, others[:1]])), np.zeros(6))
    np.testing.assert_array_equal(nearly.score(outputs(copies[:1])), [0.0])


def test_a_score_depends_neither_on_the_other_texts_nor_on_their_order(data):
    train, labels, test = data
    detector = LID().fit(outputs(train), labels)
    together = detector.score(outputs(test))
    alone = np.concatenate([detector.score(outputs(row[None])) for row in test])
    np.testing.assert_allclose(alone, together, rtol=1e-12)
    order = np.random.default_rng(0).permutation(len(test))
    np.testing.assert_allclose(detector.score(outputs(test[order])), together[order], rtol=1e-12)
    assert detector.score(outputs(test[:0])).shape == (0,)


def test_a_restored_detector_scores_the_same_to_the_last_bit(data):
    train, labels, test = data
    detector = LID(layer=2, k=7, rows=300).fit(outputs(train), labels)
    again = LID(**detector.parameters()).restore(detector.arrays())
    np.testing.assert_array_equal(again.score(outputs(test)), detector.score(outputs(test)))


def test_too_few_rows_and_impossible_settings_are_refused(data):
    train, labels, _ = data
    with pytest.raises(DataError, match="LID needs more training rows than its 20 neighbours; it has 20"):
        LID().fit(outputs(train[:20]), labels[:20])
    with pytest.raises(ConfigurationError, match="LID takes a whole number of at least 2 for k, not 1"):
        LID(k=1)
