"""k-NN by DINO's rule against a slow loop and scikit-learn, in any blocking, and on hostile input."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from harness.core.errors import ConfigurationError, DataError
from sdssl import knn
from sdssl.knn import knn_predict

TEMPERATURE = 0.07


def votes(train, labels, query, k, temperature, classes):
    """Votes of one query by DINO's rule, in plain loops, and the gap in similarity between neighbours k and k + 1."""
    similarities = []
    for row in train.astype(np.float64):
        lengths = np.sqrt((row**2).sum()) * np.sqrt((query.astype(np.float64) ** 2).sum())
        similarities.append(float(row @ query.astype(np.float64)) / lengths)
    order = sorted(range(len(train)), key=lambda i: -similarities[i])
    total = [0.0] * classes
    for i in order[:k]:
        total[labels[i]] += np.exp(similarities[i] / temperature)
    gap = similarities[order[k - 1]] - similarities[order[k]] if k < len(train) else 1.0
    return total, gap


def sklearn_predictions(train, labels, test, k):
    """The same rule by scikit-learn: cosine distance is 1 less the similarity."""
    peer = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / TEMPERATURE)
    )
    return peer.fit(train, labels).predict(test)


def clusters(rows, dimensions, classes, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    centres = np.random.default_rng(99).standard_normal((classes, dimensions))
    return (0.5 * centres[labels] + rng.standard_normal((rows, dimensions))).astype(np.float32), labels


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(0, 12),
    st.integers(6, 20),
    st.integers(1, 6),
    st.sets(st.integers(1, 60), min_size=1, max_size=4),
    st.sampled_from([0.02, 0.07, 1.0]),
    st.integers(0, 2**32 - 1),
)
def test_predictions_are_those_of_the_rule(rows, queries, dimensions, classes, ks, temperature, seed):
    rng = np.random.default_rng(seed)
    train = (rng.standard_normal((rows, dimensions)) * rng.uniform(0.1, 10, (rows, 1))).astype(np.float32)
    test = rng.standard_normal((queries, dimensions)).astype(np.float32)
    labels = rng.integers(0, classes, rows)
    ks = sorted({min(k, rows) for k in ks})
    found = knn_predict(train, labels, test, ks=ks, temperature=temperature, num_classes=classes)
    assert sorted(found) == ks
    for k in ks:
        assert found[k].shape == (queries,)
        assert found[k].dtype == np.int64
        for query, predicted in zip(test, found[k], strict=True):
            wanted, gap = votes(train, labels, query, k, temperature, classes)
            # float32 cannot tell nearer ones apart than this.
            assert wanted[predicted] >= max(wanted) * (1 - 1e-4) or gap < 1e-6


@pytest.mark.parametrize("blocks", [None, (7, 50, 16), (64, 333, 100)])
def test_any_blocking_agrees_with_scikit_learn(monkeypatch, blocks):
    if blocks:
        # The smaller segments hold fewer rows than the largest k.
        for name, value in zip(("_QUERIES", "_SEGMENT", "_PRODUCT"), blocks, strict=True):
            monkeypatch.setattr(knn, name, value)
    train, labels = clusters(1201, 24, 7, 0)
    test, _ = clusters(150, 24, 7, 1)
    found = knn_predict(train, labels, test, ks=[1, 5, 120], num_classes=7)
    for k, predicted in found.items():
        np.testing.assert_array_equal(predicted, sklearn_predictions(train, labels, test, k))


def test_real_digits_agree_with_scikit_learn():
    pixels, labels = load_digits(return_X_y=True)
    train, test = pixels[:1400].astype(np.float32), pixels[1400:].astype(np.float32)
    found = knn_predict(train, labels[:1400], test, ks=[200, 10, 20, 10], num_classes=10)
    assert sorted(found) == [10, 20, 200]
    for k, predicted in found.items():
        np.testing.assert_array_equal(predicted, sklearn_predictions(train, labels[:1400], test, k))
    assert (found[10] == labels[1400:]).mean() > 0.9


@pytest.mark.parametrize("rows", [60, 1201])
def test_neighbours_are_exactly_the_nearest(rows):
    """The search itself, also where the nearest all lie in one group of columns."""
    bank = np.random.default_rng(0).standard_normal((rows, 8)).astype(np.float32)
    bank[3::40] += 5 * np.ones(8, dtype=np.float32)
    queries = torch.nn.functional.normalize(torch.ones(4, 8) + 0.1 * torch.randn(4, 8, generator=torch.manual_seed(0)))
    segment = knn._Segment(torch.from_numpy(bank), 12)
    values, found = segment.largest(queries, torch.full((4 * segment.width,), 9.0))
    similarities = queries.numpy() @ (bank / np.linalg.norm(bank, axis=1, keepdims=True)).T
    for row in range(4):
        assert set(found[row].tolist()) == set(np.argsort(-similarities[row])[:12].tolist())
        np.testing.assert_allclose(values[row], similarities[row, found[row]], rtol=1e-5)


def test_equal_votes_go_to_the_lower_class():
    train = np.array([[1, 0], [0, 1]], dtype=np.float32)
    query = np.array([[1, 1]], dtype=np.float32)
    for labels in ([0, 1], [1, 0], [2, 1]):
        assert knn_predict(train, np.array(labels), query, ks=[2], num_classes=3)[2] == min(labels)


def test_near_neighbours_outvote_a_majority():
    """With weights, one close neighbour beats two far ones; with plain counts it would not."""
    train = np.array([[1, 0], [0, 1], [0, 1]], dtype=np.float32)
    query = np.array([[1, 0.2]], dtype=np.float32)
    assert knn_predict(train, np.array([0, 1, 1]), query, ks=[3], num_classes=2)[3] == 0
    assert knn_predict(train, np.array([0, 1, 1]), query, ks=[3], temperature=100, num_classes=2)[3] == 1


def test_a_small_temperature_leaves_the_nearest_alone():
    train, labels = clusters(200, 8, 5, 0)
    test, _ = clusters(50, 8, 5, 1)
    nearest = knn_predict(train, labels, test, ks=[1], num_classes=5)[1]
    np.testing.assert_array_equal(
        knn_predict(train, labels, test, ks=[100], temperature=1e-7, num_classes=5)[100], nearest
    )


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_size_of_features_does_not_matter(scale):
    train, labels = clusters(300, 16, 5, 0)
    test, _ = clusters(40, 16, 5, 1)
    wanted = knn_predict(train, labels, test, ks=[20], num_classes=5)[20]
    found = knn_predict(train * np.float32(scale), labels, test * np.float32(scale), ks=[20], num_classes=5)[20]
    np.testing.assert_array_equal(found, wanted)


def test_zero_rows_and_half_precision_are_read():
    train, labels = clusters(300, 16, 5, 0)
    train[::50] = 0
    test = np.zeros((1, 16), dtype=np.float16)
    predicted = knn_predict(train.astype(np.float16), labels, test, ks=[300], num_classes=5)[300]
    assert predicted == np.bincount(labels).argmax()  # a zero query is equally near to all


def test_the_path_without_onednn_agrees(monkeypatch):
    train, labels = clusters(700, 16, 5, 0)
    test, _ = clusters(90, 16, 5, 1)
    wanted = knn_predict(train, labels, test, ks=[10, 50], num_classes=5)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    found = knn_predict(train, labels, test, ks=[10, 50], num_classes=5)
    for k in wanted:
        np.testing.assert_array_equal(found[k], wanted[k])


def test_the_precision_of_products_is_full_inside_and_restored(monkeypatch):
    train, labels = clusters(50, 16, 5, 0)
    seen = []
    inner = knn._nearest
    monkeypatch.setattr(
        knn, "_nearest", lambda *given: (seen.append(torch.get_float32_matmul_precision()), inner(*given))[1]
    )
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        knn_predict(train, labels, train, ks=[3], num_classes=5)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == ["highest"]


def test_a_read_only_memory_map_is_read_without_a_warning(tmp_path):
    train, labels = clusters(50, 6, 3, 0)
    np.save(tmp_path / "features.npy", train)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = knn_predict(mapped, labels, mapped, ks=[1], num_classes=3)[1]
    np.testing.assert_array_equal(found, labels)


@pytest.mark.parametrize("ks", [[], [0], [3, 41]])
def test_impossible_numbers_of_neighbours_are_refused(ks):
    train, labels = clusters(40, 6, 3, 0)
    with pytest.raises(ConfigurationError):
        knn_predict(train, labels, train, ks=ks, num_classes=3)


def test_what_does_not_fit_is_refused():
    train, labels = clusters(40, 6, 3, 0)
    broken = train.copy()
    broken[7, 1] = np.nan
    for features, truth, test in ((broken, labels, train), (train, labels, broken), (train, labels + 1, train)):
        with pytest.raises(DataError):
            knn_predict(features, truth, test, ks=[3], num_classes=3)
    with pytest.raises(DataError, match="integer labels"):
        knn_predict(train, labels[:-1], train, ks=[3], num_classes=3)
    with pytest.raises(ConfigurationError, match="features a row"):
        knn_predict(train, labels, train[:, :5], ks=[3], num_classes=3)
    for temperature in (0, -1, float("nan")):
        with pytest.raises(ConfigurationError, match="temperature"):
            knn_predict(train, labels, train, ks=[3], temperature=temperature, num_classes=3)
