"""Kernel PCA against a full decomposition and scikit-learn."""

import numpy as np
import pytest
from sklearn.decomposition import KernelPCA

from harness.core.errors import DataError
from harness.detectors import kernel_pca
from harness.detectors.kernel_pca import KernelProjection, fit_kernel_pca, leading_eigenpairs, rbf_kernel_matrix


def features(n, d=24, seed=0):
    """Rows of a decaying spectrum, float32 at their source, with a large mean."""
    rng = np.random.default_rng(seed)
    return (5 + rng.standard_normal((n, d)) * 1.5 / np.sqrt(np.arange(1, d + 1))).astype(np.float32).astype(np.float64)


def test_the_kernel_matrix_is_the_formula_across_tiles(monkeypatch):
    monkeypatch.setattr(kernel_pca, "_TILE", 7)
    rows = features(24, 5)
    expected = [[np.exp(-sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) / 5) for y in rows] for x in rows]
    found = rbf_kernel_matrix(rows)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_array_equal(found, found.T)


@pytest.mark.parametrize(("n", "count"), [(900, 20), (100, 20)], ids=["lanczos", "dense"])
def test_leading_eigenpairs_are_those_of_the_full_decomposition(n, count, monkeypatch):
    decomposed = []
    largest = kernel_pca._largest
    monkeypatch.setattr(kernel_pca, "_largest", lambda m, c: decomposed.append(len(m)) or largest(m, c))
    kernel = rbf_kernel_matrix(features(n))
    values, vectors = leading_eigenpairs(kernel, count)
    centring = np.eye(n) - 1 / n
    all_values, all_vectors = np.linalg.eigh(centring @ kernel @ centring)
    np.testing.assert_allclose(values, all_values[::-1][:count], rtol=1e-10)
    np.testing.assert_allclose(np.abs((vectors * all_vectors[:, ::-1][:, :count]).sum(axis=0)), 1, rtol=1e-10)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(count), atol=1e-10)
    assert (max(decomposed) == n) is (n == 100)


def test_a_kernel_matrix_of_few_directions_is_decomposed_in_full():
    rows = np.repeat(features(10), 60, axis=0)
    values, _ = leading_eigenpairs(rbf_kernel_matrix(rows), 5)
    few = leading_eigenpairs(rbf_kernel_matrix(rows[::60]), 5)[0]
    np.testing.assert_allclose(values, 60 * few, rtol=1e-9)


@pytest.mark.parametrize("texts", [1, 3, 50])
def test_projections_are_scikit_learns_up_to_sign(texts):
    train, test = features(900), features(texts, seed=1)
    peer = KernelPCA(15, kernel="rbf", eigen_solver="dense").fit(train)
    arrays, reduced = fit_kernel_pca(train, 15, "RDE")
    sign = np.sign((reduced * peer.transform(train)).sum(axis=0))
    np.testing.assert_allclose(sign * reduced, peer.transform(train), atol=1e-8)
    projection, expected = KernelProjection(arrays), peer.transform(test)
    np.testing.assert_allclose(sign * projection(test), expected, atol=1e-8)
    assert projection(test[:0]).shape == (0, 15)


def test_fewer_references_say_nearly_the_same_where_they_can():
    train, test = features(2200), features(300, seed=1)
    peer = KernelPCA(15, kernel="rbf", eigen_solver="dense").fit(train)
    arrays, reduced = fit_kernel_pca(train, 15, "RDE")
    assert arrays["reference"].shape == (1024, 24)
    assert {tuple(row) for row in arrays["reference"]} <= {tuple(row) for row in train.astype(np.float32)}
    expected = peer.transform(train)
    sign, spread = np.sign((reduced * expected).sum(axis=0)), expected.std(axis=0)
    np.testing.assert_allclose(sign * reduced, expected, atol=1e-8)  # these are exact
    projection = KernelProjection(arrays)
    error = np.sqrt(((projection(train) - reduced) ** 2).mean(axis=0))
    assert (error <= 0.03 * spread).all()
    assert (error > 1e-7 * spread).any()
    expected = peer.transform(test)
    # On texts that they were not fitted on.
    assert (np.sqrt(((sign * projection(test) - expected) ** 2).mean(axis=0)) <= 0.05 * spread).all()
    again, _ = fit_kernel_pca(train, 15, "RDE")
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array)


def test_all_references_are_kept_where_fewer_would_say_something_else():
    # Hardly any feature is near another: no component can be told from a part of them.
    train = np.random.default_rng(0).standard_normal((2200, 24)) * 4
    arrays, reduced = fit_kernel_pca(train, 15, "RDE")
    assert len(arrays["reference"]) == 2200
    np.testing.assert_allclose(KernelProjection(arrays)(train), reduced, atol=1e-6)


@pytest.mark.parametrize("scale", [1, 10])
def test_a_text_alone_is_projected_as_in_a_batch(scale):
    arrays, _ = fit_kernel_pca(scale * features(60), 5, "RDE")
    projection, test = KernelProjection(arrays), scale * features(12, seed=1)
    np.testing.assert_allclose(projection(test[:1]), projection(test)[:1], rtol=1e-9)


def test_large_batches_are_projected_in_parts(monkeypatch):
    arrays, _ = fit_kernel_pca(features(60), 5, "RDE")
    whole = KernelProjection(arrays)(features(40, seed=1))
    monkeypatch.setattr(kernel_pca, "_CHUNK", 7)
    np.testing.assert_allclose(KernelProjection(arrays)(features(40, seed=1)), whole, rtol=1e-9)


def test_features_of_few_directions_are_refused():
    with pytest.raises(DataError, match="RDE differ in only 9 directions"):
        fit_kernel_pca(np.repeat(features(10), 4, axis=0), 12, "RDE")
    with pytest.raises(DataError, match="RDE differ in only 0 directions"):
        fit_kernel_pca(np.ones((40, 3)), 12, "RDE")
