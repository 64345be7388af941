"""Mahalanobis and relative Mahalanobis distance against solves in plain NumPy."""

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf

from harness.core.errors import ConfigurationError, DataError, NotFittedError
from harness.detectors.mahalanobis import Mahalanobis, RelativeMahalanobis
from harness.text.victims import VictimOutputs

KINDS = (Mahalanobis, RelativeMahalanobis)
CLASSES, DIMENSIONS = 3, 12


def outputs(features, classes=CLASSES, layer=3):
    """Victim outputs with the given features; the predictions say nothing."""
    return VictimOutputs(np.full((len(features), classes), 1 / classes), {layer: np.asarray(features, np.float32)})


@pytest.fixture(scope="module")
def data():
    """Correlated clusters far from the origin: (train, labels, test)."""
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((DIMENSIONS, DIMENSIONS))
    centres = 5 + 2 * rng.standard_normal((CLASSES, DIMENSIONS))
    labels = rng.choice(CLASSES, 400, p=[0.6, 0.3, 0.1])
    train = centres[labels] + rng.standard_normal((400, DIMENSIONS)) @ mixing
    test = centres[rng.integers(0, CLASSES, 60)] + 1.5 * rng.standard_normal((60, DIMENSIONS)) @ mixing
    return train.astype(np.float32), labels, test.astype(np.float32)


def oracle(train, labels, test, relative, covariance=None):
    """The papers' formulas, a text and a class at a time."""
    train, test = train.astype(np.float64), test.astype(np.float64)
    means = [train[labels == c].mean(axis=0) for c in range(CLASSES)]
    tied, background = np.zeros((DIMENSIONS, DIMENSIONS)), np.zeros((DIMENSIONS, DIMENSIONS))
    for row, label in zip(train, labels, strict=True):
        tied += np.outer(row - means[label], row - means[label]) / len(train)
        background += np.outer(row - train.mean(axis=0), row - train.mean(axis=0)) / len(train)
    if covariance is not None:
        tied = covariance(np.array([row - means[label] for row, label in zip(train, labels, strict=True)]))
        background = covariance(train - train.mean(axis=0))
    scores = []
    for row in test:
        distances = [(row - mean) @ np.linalg.solve(tied, row - mean) for mean in means]
        away = row - train.mean(axis=0)
        to_all = away @ np.linalg.solve(background, away)
        scores.append(min(distance - to_all for distance in distances) if relative else min(distances))
    return np.array(scores)


@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_the_formula(kind, data):
    train, labels, test = data
    scores = kind().fit(outputs(train), labels).score(outputs(test))
    assert scores.dtype == np.float64
    expected = oracle(train, labels, test, kind is RelativeMahalanobis)
    np.testing.assert_allclose(scores, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_shrunk_covariance_is_ledoit_and_wolfs(kind, data):
    train, labels, test = data
    few, few_labels = train[:40], labels[:40]
    scores = kind(covariance="ledoit-wolf").fit(outputs(few), few_labels).score(outputs(test))

    def shrunk(centred):
        return LedoitWolf(assume_centered=True).fit(centred).covariance_

    expected = oracle(few, few_labels, test, kind is RelativeMahalanobis, shrunk)
    np.testing.assert_allclose(scores, expected, rtol=1e-8, atol=1e-8)
    assert not np.allclose(scores, kind().fit(outputs(few), few_labels).score(outputs(test)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_depends_neither_on_the_other_texts_nor_on_their_order(kind, data, monkeypatch):
    train, labels, test = data
    detector = kind().fit(outputs(train), labels)
    together = detector.score(outputs(test))
    alone = np.concatenate([detector.score(outputs(row[None])) for row in test])
    np.testing.assert_allclose(alone, together, rtol=1e-9)
    order = np.random.default_rng(0).permutation(len(test))
    np.testing.assert_allclose(detector.score(outputs(test[order])), together[order], rtol=1e-9)
    monkeypatch.setattr("harness.detectors.mahalanobis._CHUNK", 7)
    np.testing.assert_allclose(detector.score(outputs(test)), together, rtol=1e-9)
    assert detector.score(outputs(test[:0])).shape == (0,)


@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_detector_scores_the_same_to_the_last_bit(kind, data):
    train, labels, test = data
    detector = kind(layer=3, rows=400).fit(outputs(train), labels)
    again = kind(**detector.parameters()).restore(detector.arrays())
    np.testing.assert_array_equal(again.score(outputs(test)), detector.score(outputs(test)))
    assert again.layers == (3,)


def test_texts_far_from_every_class_score_higher(data):
    train, labels, _ = data
    for kind in KINDS:
        detector = kind().fit(outputs(train), labels)
        assert detector.score(outputs(train + 20)).min() > np.median(detector.score(outputs(train)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_without_training_rows_is_told(kind, data):
    train, labels, _ = data
    with pytest.raises(DataError, match=f"{kind.info.title} takes the mean of each class, and class 1 has 0"):
        kind().fit(outputs(train[labels == 0]), labels[labels == 0])


@pytest.mark.parametrize("kind", KINDS)
def test_too_few_rows_and_features_that_do_not_vary_are_told(kind, data):
    train, labels, _ = data
    few = np.arange(14) % CLASSES
    with pytest.raises(
        DataError, match=f"layer 3: the covariance of {kind.info.title} is singular: .*least 15 .*has 14"
    ):
        kind().fit(outputs(train[:14]), few)
    assert np.isfinite(kind(covariance="ledoit-wolf").fit(outputs(train[:14]), few).score(outputs(train))).all()
    with pytest.raises(DataError, match="within a class the features do not vary"):
        kind().fit(outputs(np.eye(CLASSES, DIMENSIONS)[labels]), labels)


@pytest.mark.parametrize("kind", KINDS)
def test_directions_without_variance_are_left_out(kind, data):
    train, labels, test = data
    expected = kind().fit(outputs(train), labels).score(outputs(test))
    # A constant feature, and one that two others add up to but for float32 rounding.
    wider, more = (
        np.concatenate([values, np.full((len(values), 1), 7), values[:, :1] + values[:, 1:2]], axis=1)
        for values in (train, test)
    )
    scores = kind().fit(outputs(wider), labels).score(outputs(more))
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_rounding_of_a_layer_norm_does_not_count(kind, data):
    train, labels, test = data

    def normalised(values, seed):
        centred = values - values.mean(axis=1, keepdims=True)
        exact = centred / centred.std(axis=1, keepdims=True)
        return exact * (1 + 6e-8 * np.random.default_rng(seed).standard_normal(exact.shape))

    detector = kind().fit(outputs(normalised(train, 0)), labels)
    assert detector.arrays()["layer3.whitening"].shape == (DIMENSIONS, DIMENSIONS - 1)
    # Read again in a batch of another shape.
    once, again = (detector.score(outputs(normalised(test, seed))) for seed in (1, 2))
    np.testing.assert_allclose(once, again, rtol=1e-3, atol=1e-3)


def test_impossible_settings_are_refused(data):
    with pytest.raises(ConfigurationError, match="no covariance 'robust'"):
        Mahalanobis(covariance="robust")
    for rows in (1, 2.5, "many", True):
        with pytest.raises(ConfigurationError, match="Mahalanobis takes a whole number of at least 2 for rows"):
            Mahalanobis(rows=rows)
    with pytest.raises(NotFittedError):
        Mahalanobis().score(outputs(data[2]))
