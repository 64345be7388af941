"""Few-shot reading against a slow loop and scikit-learn's nearest centroid; its draws; bad input."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestCentroid

from harness.core.errors import ConfigurationError, DataError
from sdssl import fewshot
from sdssl.fewshot import few_shot


def cl2n(train, rows):
    """Centred on the mean of `train`, then L2-normalised, row by row."""
    mean = train.astype(np.float64).mean(axis=0)
    return np.array([(row - mean) / np.sqrt(((row - mean) ** 2).sum()) for row in rows.astype(np.float64)])


def clusters(per_class, dimensions, classes, seed, spread=1.0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(classes), per_class))
    centres = np.random.default_rng(99).standard_normal((classes, dimensions))
    features = centres[labels] + spread * rng.standard_normal((len(labels), dimensions)) + 3
    return features.astype(np.float32), labels


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(2, 12),
    st.integers(2, 7),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 2**32 - 1),
)
def test_accuracy_is_that_of_the_nearest_mean_of_the_drawn_images(shots, dimensions, classes, spare, draws, seed):
    train, labels = clusters(shots + spare, dimensions, classes, seed)
    test, truth = clusters(3, dimensions, classes, seed + 1)
    found = few_shot(train, labels, test, truth, shots=[shots], draws=draws, seed=seed, num_classes=classes)[shots]
    drawn = fewshot._draw_shots(labels, shots, draws, seed, classes)
    support, queries = cl2n(train, train), cl2n(train, test)
    for draw in range(draws):
        correct = 0
        for query, label in zip(queries, truth, strict=True):
            distances = []
            for positions in drawn[draw]:
                mean = sum(support[position] for position in positions) / shots
                distances.append(((query - mean) ** 2).sum())
            correct += int(np.argmin(distances) == label)
        assert found[draw] == pytest.approx(correct / len(test), abs=1e-12)


def test_all_images_as_shots_agree_with_scikit_learn():
    pixels, labels = load_digits(return_X_y=True)
    keep = np.sort(np.concatenate([np.flatnonzero(labels == c)[:100] for c in range(10)]))
    rest = np.setdiff1d(np.arange(len(labels)), keep)
    train, test = pixels[keep].astype(np.float32), pixels[rest].astype(np.float32)
    found = few_shot(train, labels[keep], test, labels[rest], shots=[100, 1], draws=3, seed=0, num_classes=10)
    # The border pixels never change, on which NearestCentroid remarks.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        peer = NearestCentroid().fit(cl2n(train, train), labels[keep])
    wanted = (peer.predict(cl2n(train, test)) == labels[rest]).mean()
    np.testing.assert_allclose(found[100], wanted, atol=2e-3)
    assert found[1].mean() < wanted - 0.1
    assert len(set(found[1].tolist())) > 1


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_draws_are_of_the_class_without_repetition_and_nested(shots, spare, classes, draws, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(classes), shots + spare))
    drawn = fewshot._draw_shots(labels, shots, draws, seed, classes)
    assert drawn.shape == (draws, classes, shots)
    for positions in drawn:
        assert len(set(positions.ravel().tolist())) == positions.size
        for label in range(classes):
            assert (labels[positions[label]] == label).all()
    more = fewshot._draw_shots(labels, shots + spare, draws, seed, classes)
    np.testing.assert_array_equal(more[:, :, :shots], drawn)


def test_draws_differ_among_themselves_and_between_seeds():
    labels = np.repeat(np.arange(3), 50)
    drawn = fewshot._draw_shots(labels, 5, 4, 0, 3)
    assert len({positions.tobytes() for positions in drawn}) == 4
    assert not np.array_equal(drawn, fewshot._draw_shots(labels, 5, 4, 1, 3))
    assert len(np.unique(fewshot._draw_shots(labels, 5, 60, 0, 3))) == 150  # every image has its chance


def test_every_layer_gets_the_same_images_whatever_else_is_asked():
    train, labels = clusters(20, 6, 4, 0, spread=2.0)
    test, truth = clusters(50, 6, 4, 1, spread=2.0)
    rotation, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))
    common = {"draws": 8, "seed": 3, "num_classes": 4}
    first = few_shot(train, labels, test, truth, shots=[1, 5, 10], **common)
    turned = [(5 * features @ rotation).astype(np.float32) for features in (train, test)]
    second = few_shot(turned[0], labels, turned[1], truth, shots=[5], **common)
    np.testing.assert_allclose(second[5], first[5], atol=0.006)  # but for one tie in 200
    assert first[5].std() > 0.01
    assert first[1].mean() < first[5].mean() < first[10].mean() + 0.01


def test_blocks_of_test_rows_do_not_matter(monkeypatch):
    train, labels = clusters(9, 6, 4, 0)
    test, truth = clusters(25, 6, 4, 1)
    common = {"shots": [2], "draws": 3, "seed": 0, "num_classes": 4}
    whole = few_shot(train, labels, test, truth, **common)[2]
    monkeypatch.setattr(fewshot, "_BLOCK", 7)
    np.testing.assert_array_equal(few_shot(train, labels, test, truth, **common)[2], whole)


def test_collapsed_features_read_as_the_lowest_class():
    features, labels = np.full((12, 5), 0.3, dtype=np.float16), np.arange(12) % 3
    assert few_shot(features, labels, features, labels, shots=[2], draws=2, seed=0, num_classes=3)[2] == pytest.approx(
        [1 / 3, 1 / 3]
    )


def test_a_class_with_too_few_images_is_named():
    train, labels = clusters(6, 5, 3, 0)
    short = np.flatnonzero(labels != 1).tolist() + np.flatnonzero(labels == 1)[:4].tolist()
    common = {"shots": [1, 5], "seed": 0}
    with pytest.raises(DataError, match="class 1 has 4 training images and 5 shots"):
        few_shot(train[short], labels[short], train, labels, num_classes=3, **common)
    with pytest.raises(DataError, match=r"class 1 \('dog'\)"):
        few_shot(train[short], labels[short], train, labels, num_classes=3, label_names=["cat", "dog", "cow"], **common)
    with pytest.raises(DataError, match="class 3 has 0"):
        few_shot(train, labels, train, labels, num_classes=4, **common)


def test_what_does_not_fit_is_refused():
    train, labels = clusters(6, 5, 3, 0)
    common = {"seed": 0, "num_classes": 3}
    for shots, draws in (([], 1), ([0], 1), ([1], 0)):
        with pytest.raises(ConfigurationError):
            few_shot(train, labels, train, labels, shots=shots, draws=draws, **common)
    with pytest.raises(DataError):
        few_shot(train, labels, train[:, :4], labels, shots=[1], **common)
    with pytest.raises(DataError):
        few_shot(train, labels, train, labels + 1, shots=[1], **common)
    with pytest.raises(DataError):
        few_shot(train * np.nan, labels, train, labels, shots=[1], **common)
