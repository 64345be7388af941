"""KNN against sorted distances, a pair at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.errors import ConfigurationError, DataError
from harness.detectors.knn import KNN
from harness.detectors.neighbours import nearest_distances, prepare_references
from harness.text.victims import VictimOutputs


def outputs(features, layer=2):
    """Victim outputs with the given features."""
    return VictimOutputs(np.full((len(features), 2), 0.5), {layer: np.asarray(features, np.float32)})


@pytest.fixture(scope="module")
def data():
    """(train, labels, test); the first test texts are training texts."""
    rng = np.random.default_rng(0)
    train = (3 + rng.standard_normal((150, 9))).astype(np.float32)
    test = np.concatenate([train[:5], (3 + 2 * rng.standard_normal((40, 9))).astype(np.float32)])
    return train, rng.integers(0, 2, 150), test


def oracle(train, test, k):
    """Sun et al.: the k-th smallest distance between vectors of length 1."""
    scores = []
    for text in test.astype(np.float64):
        distances = []
        for row in train.astype(np.float64):
            difference = text / np.sqrt((text**2).sum()) - row / np.sqrt((row**2).sum())
            distances.append(np.sqrt((difference**2).sum()))
        scores.append(sorted(distances)[k - 1])
    return np.array(scores)


@pytest.mark.parametrize("k", [1, 4, 149])
def test_agrees_with_sorted_distances(k, data, monkeypatch):
    train, labels, test = data
    detector = KNN(k=k).fit(outputs(train), labels)
    scores = detector.score(outputs(test))
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, oracle(train, test, k), rtol=1e-12, atol=1e-15)
    monkeypatch.setattr("harness.detectors.neighbours._CELLS", 1000)  # six texts at once
    np.testing.assert_allclose(detector.score(outputs(test)), scores, rtol=1e-12, atol=1e-15)


def test_a_training_text_is_its_own_nearest(data):
    train, labels, test = data
    np.testing.assert_array_equal(KNN(k=1).fit(outputs(train), labels).score(outputs(test[:5])), np.zeros(5))


def test_the_length_of_a_vector_does_not_matter(data):
    train, labels, test = data
    detector = KNN().fit(outputs(train), labels)
    np.testing.assert_allclose(detector.score(outputs(4 * test)), detector.score(outputs(test)), rtol=1e-12)
    assert np.isfinite(detector.score(outputs(0 * test))).all()


def test_a_score_depends_neither_on_the_other_texts_nor_on_their_order(data):
    train, labels, test = data
    detector = KNN().fit(outputs(train), labels)
    together = detector.score(outputs(test))
    alone = np.concatenate([detector.score(outputs(row[None])) for row in test])
    np.testing.assert_allclose(alone, together, rtol=1e-12)
    order = np.random.default_rng(0).permutation(len(test))
    np.testing.assert_allclose(detector.score(outputs(test[order])), together[order], rtol=1e-12)
    assert detector.score(outputs(test[:0])).shape == (0,)


def test_a_restored_detector_scores_the_same_to_the_last_bit(data):
    train, labels, test = data
    detector = KNN(layer=2, k=3, rows=150).fit(outputs(train), labels)
    again = KNN(**detector.parameters()).restore(detector.arrays())
    np.testing.assert_array_equal(again.score(outputs(test)), detector.score(outputs(test)))


def test_fitting_again_forgets_the_first_reference(data):
    train, labels, test = data
    detector = KNN().fit(outputs(train[:50]), labels[:50])
    before = detector.score(outputs(test))
    after = detector.fit(outputs(train[50:]), labels[50:]).score(outputs(test))
    np.testing.assert_array_equal(after, KNN().fit(outputs(train[50:]), labels[50:]).score(outputs(test)))
    assert not np.allclose(before, after)


def test_nearest_distances_ascend():
    rng = np.random.default_rng(2)
    vectors, reference = rng.standard_normal((30, 6)), rng.standard_normal((400, 6))
    expected = np.sort([[np.linalg.norm(vector - row) for row in reference] for vector in vectors], axis=1)
    np.testing.assert_allclose(
        nearest_distances(vectors, prepare_references(reference), 25), expected[:, :25], rtol=1e-12
    )


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([60, 600]),
    st.sampled_from([1, 3, 70, 90]),
    st.sampled_from([1, 5, 60]),
    st.floats(0.01, 100),
    st.booleans(),
    st.sampled_from([-1.0, 1e-5]),
)
@settings(max_examples=60, deadline=None)
def test_of_few_texts_the_nearest_are_those_of_a_plain_search(seed, size, d, k, scale, leave_out, copies_within):
    rng = np.random.default_rng(seed)
    # Two clusters, a decaying spectrum, and copies.
    rows = scale * rng.standard_normal((size, d)) / np.arange(1, d + 1) ** rng.uniform(0, 2)
    rows[::2] += scale * rng.standard_normal(d)
    rows = np.concatenate([rows, rows[:6]])
    own = rng.integers(0, len(rows), 5)
    vectors = rows[own] if leave_out else np.concatenate([rows[own[:2]], scale * rng.standard_normal((3, d))])
    expected = np.linalg.norm(vectors[:, None] - rows, axis=2)
    expected[expected <= copies_within * np.linalg.norm(vectors, axis=1, keepdims=True)] = np.inf
    if leave_out:
        expected[np.arange(5), own] = np.inf
    found = nearest_distances(
        vectors, prepare_references(rows), k, own=own if leave_out else None, copies_within=copies_within
    )
    np.testing.assert_allclose(found, np.sort(expected, axis=1)[:, :k], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_references_that_are_all_alike_are_found(value):
    rows = np.full((50, 4), value)
    references = prepare_references(rows)
    np.testing.assert_allclose(nearest_distances(rows[:1], references, 3), 0, atol=1e-12)
    np.testing.assert_allclose(nearest_distances(rows[:1] + 0.5, references, 3), 1)
    assert np.isinf(nearest_distances(rows[:1], references, 3, copies_within=1e-5)).all()


def test_small_distances_between_long_vectors_keep_their_digits():
    rng = np.random.default_rng(1)
    point = 1e4 * rng.standard_normal(20)
    steps = np.array([1e-5, 2e-5, 3e-5])
    reference = np.concatenate([point + steps[:, None] * np.eye(20)[:3], point + rng.standard_normal((50, 20))])
    reference = reference[rng.permutation(53)]
    found = nearest_distances(point[None], prepare_references(reference), 3)
    np.testing.assert_allclose(found, [steps], rtol=1e-5)


def test_too_few_rows_and_impossible_settings_are_refused(data):
    train, labels, _ = data
    with pytest.raises(DataError, match="KNN needs more training rows than its 10 neighbours; it has 10"):
        KNN().fit(outputs(train[:10]), labels[:10])
    for options, told in (({"k": 0}, "at least 1 for k"), ({"k": 5, "rows": 5}, "5 neighbours, so rows=5 are too few")):
        with pytest.raises(ConfigurationError, match=told):
            KNN(**options)
    for k in (1.5, "ten", True):
        with pytest.raises(ConfigurationError, match="KNN takes a whole number"):
            KNN(k=k)
