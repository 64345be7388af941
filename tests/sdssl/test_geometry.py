"""Alignment, uniformity, rank, collapse and CKA against slow loops over sizes, and on input with nothing to measure."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.errors import DataError
from sdssl import geometry
from sdssl.geometry import (
    class_balanced,
    feature_std,
    linear_cka,
    negative_alignment,
    positive_alignment,
    rankme,
    uniformity,
)

sizes = settings(max_examples=25, deadline=None)
shapes = st.tuples(st.integers(2, 17), st.integers(1, 9))
seeds = st.integers(0, 2**32 - 1)


def draw(shape, seed, offset=0.0):
    return (np.random.default_rng(seed).standard_normal(shape) + offset).astype(np.float32)


def unit(row):
    length = math.sqrt(sum(float(value) ** 2 for value in row))
    return [float(value) / length if length else 0.0 for value in row]


def squared_distance(a, b):
    return sum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True))


@sizes
@given(shapes, seeds, st.booleans())
def test_positive_alignment_is_the_mean_squared_distance_of_pairs(shape, seed, normalised):
    first, second = draw(shape, seed), draw(shape, seed + 1)
    change = unit if normalised else list
    wanted = np.mean([squared_distance(change(a), change(b)) for a, b in zip(first, second, strict=True)])
    assert positive_alignment(first, second, normalised=normalised) == pytest.approx(wanted, rel=1e-9)


@sizes
@given(shapes, seeds, st.booleans(), st.sampled_from([0.0, 1e6]))
def test_negative_alignment_is_the_mean_over_pairs_of_different_classes(shape, seed, normalised, offset):
    features = draw(shape, seed, offset)
    labels = np.random.default_rng(seed).integers(3, 7, shape[0])
    labels[0], labels[-1] = 1, 9
    rows = [unit(row) if normalised else list(row) for row in features]
    pairs = [
        squared_distance(rows[i], rows[j])
        for i in range(len(rows))
        for j in range(i + 1, len(rows))
        if labels[i] != labels[j]
    ]
    found = negative_alignment(features, labels, normalised=normalised)
    assert found == pytest.approx(np.mean(pairs), rel=1e-7, abs=1e-9)


@sizes
@given(shapes, seeds, st.sampled_from([0.5, 2.0, 50.0]))
def test_uniformity_is_the_log_mean_kernel_over_pairs(shape, seed, t):
    features = draw(shape, seed)
    rows = [unit(row) for row in features]
    kernels = [
        math.exp(-t * squared_distance(rows[i], rows[j])) for i in range(len(rows)) for j in range(i + 1, len(rows))
    ]
    assert uniformity(features, t) == pytest.approx(math.log(np.mean(kernels)), rel=1e-9, abs=1e-9)


def test_uniformity_does_not_depend_on_the_block(monkeypatch):
    features = draw((100, 5), 0)
    whole = uniformity(features)
    monkeypatch.setattr(geometry, "_BLOCK", 7)
    assert uniformity(features) == pytest.approx(whole, rel=1e-12)


def test_uniformity_survives_a_bandwidth_under_which_every_kernel_underflows():
    assert uniformity(np.array([[1.0, 0.0], [-1.0, 0.0]]), t=1e4) == pytest.approx(-4e4)


@sizes
@given(shapes, seeds)
def test_rankme_is_the_exponential_entropy_of_singular_values(shape, seed):
    features = draw(shape, seed, offset=0.5)
    gram = features.astype(np.float64).T @ features.astype(np.float64)
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0))
    values = np.sort(values)[::-1][: min(shape)]
    entropy = 0.0
    for value in values:
        share = value / values.sum() + 1e-7
        entropy -= share * math.log(share)
    assert rankme(features) == pytest.approx(math.exp(entropy), rel=1e-4)


def test_rankme_counts_equal_directions():
    assert rankme(np.eye(12, dtype=np.float32)[:, :8] * 3) == pytest.approx(8, rel=1e-4)


@sizes
@given(shapes, seeds)
def test_feature_std_is_the_mean_deviation_times_the_root_of_the_width(shape, seed):
    features = draw(shape, seed)
    rows = [unit(row) for row in features]
    deviations = []
    for column in zip(*rows, strict=True):
        mean = sum(column) / len(column)
        deviations.append(math.sqrt(sum((value - mean) ** 2 for value in column) / len(column)))
    wanted = math.sqrt(shape[1]) * sum(deviations) / len(deviations)
    assert feature_std(features) == pytest.approx(wanted, rel=1e-9, abs=1e-12)


def test_feature_std_is_one_on_the_whole_sphere():
    assert feature_std(draw((4000, 64), 0)) == pytest.approx(1, abs=0.01)


@sizes
@given(st.integers(2, 15), st.lists(st.integers(1, 24), min_size=1, max_size=4), seeds)
def test_cka_is_the_normalised_hsic_of_centred_gram_matrices(rows, widths, seed):
    layers = [draw((rows, width), seed + i, offset=3.0) for i, width in enumerate(widths)]
    centring = np.eye(rows) - 1 / rows
    grams = [centring @ (x.astype(np.float64) @ x.T.astype(np.float64)) @ centring for x in layers]
    wanted = [[np.trace(a @ b) / math.sqrt(np.trace(a @ a) * np.trace(b @ b)) for b in grams] for a in grams]
    found = linear_cka(layers)
    np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-9)
    np.testing.assert_array_equal(found, found.T)


@pytest.mark.parametrize("rows", [6, 60])  # fewer and more rows than dimensions
def test_cka_knows_no_rotation_scale_or_shift(rows):
    features = draw((rows, 20), 0)
    rotation, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((20, 20)))
    other = (1e4 * features @ rotation + 7).astype(np.float32)
    np.testing.assert_allclose(linear_cka([features, other, draw((rows, 20), 2)])[:2, :2], 1, rtol=1e-5)


@pytest.mark.parametrize("rows", [7, 43])  # numbers by which a float64 mean is not exact
def test_a_collapsed_layer_has_no_cka_with_anything(rows):
    features = draw((rows, 10), 0)
    collapsed = np.full((rows, 10), 0.1) * np.linspace(1, 3, 10)
    found = linear_cka([features, collapsed, features])
    np.testing.assert_allclose(found, [[1, 0, 1], [0, 0, 0], [1, 0, 1]], atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_collapsed_features_have_defined_values(value):
    features = np.full((9, 6), value, dtype=np.float32)
    labels = np.arange(9) % 3
    assert positive_alignment(features, features, normalised=True) == 0
    assert negative_alignment(features, labels, normalised=True) == pytest.approx(0, abs=1e-12)
    assert uniformity(features) == pytest.approx(0, abs=1e-12)
    assert feature_std(features) == pytest.approx(0, abs=1e-12)
    assert rankme(features) == pytest.approx(1 if value else 0, abs=1e-4)


def test_float16_features_do_not_overflow():
    features = np.full((4, 3), 6e4, dtype=np.float16)
    features[0] = -6e4
    labels = np.array([0, 1, 1, 1])
    wanted = 3 * (2 * float(np.float16(6e4))) ** 2
    assert negative_alignment(features, labels, normalised=False) == pytest.approx(wanted)
    assert positive_alignment(features[:1], features[1:2], normalised=False) == pytest.approx(wanted)


@pytest.mark.parametrize("measure", [uniformity, feature_std, lambda features: linear_cka([features])])
def test_one_row_is_refused_where_two_are_needed(measure):
    with pytest.raises(DataError, match="too few"):
        measure(np.ones((1, 4), dtype=np.float32))


@pytest.mark.parametrize("measure", [uniformity, feature_std, rankme, lambda features: linear_cka([features])])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(measure, bad):
    features = np.ones((5, 4), dtype=np.float32)
    features[3, 2] = bad
    with pytest.raises(DataError, match="NaN or infinity"):
        measure(features)


@pytest.mark.parametrize("features", [np.ones(3), np.ones((3, 0)), np.ones((3, 2), dtype=int), np.ones((0, 2))])
def test_what_is_no_matrix_of_features_is_refused(features):
    with pytest.raises(DataError):
        rankme(features)


def test_one_class_has_no_negatives():
    with pytest.raises(DataError, match="two classes"):
        negative_alignment(np.ones((3, 2)), np.zeros(3, dtype=int), normalised=False)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="different shapes"):
        positive_alignment(np.ones((3, 2)), np.ones((1, 2)), normalised=False)
    with pytest.raises(DataError, match="as many integer labels"):
        negative_alignment(np.ones((3, 2)), np.array([0, 1]), normalised=False)
    with pytest.raises(DataError, match="same number of rows"):
        linear_cka([np.ones((3, 2)), np.ones((4, 2))])


@sizes
@given(st.lists(st.integers(-2, 3), min_size=1, max_size=60), st.integers(1, 8), seeds)
def test_a_balanced_sample_has_equally_many_of_each_class(labels, per_class, seed):
    labels = np.array(labels)
    positions = class_balanced(labels, per_class, seed)
    _, counts = np.unique(labels, return_counts=True)
    _, taken = np.unique(labels[positions], return_counts=True)
    assert taken.tolist() == [min(per_class, counts.min())] * len(counts)
    assert (np.diff(positions) > 0).all()
    np.testing.assert_array_equal(positions, class_balanced(labels, per_class, seed))


def test_a_balanced_sample_is_random_over_all_rows():
    labels = np.arange(1000) % 2
    first, second = class_balanced(labels, 50, 0), class_balanced(labels, 50, 1)
    assert not np.array_equal(first, second)
    assert first.max() > 900  # and not the first rows of each class
    with pytest.raises(DataError):
        class_balanced(labels, 0, 0)
