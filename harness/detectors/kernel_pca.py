"""Kernel PCA with an RBF kernel: leading components by block Lanczos, and cheap projection of few texts.

Schoelkopf, Smola and Mueller, *Nonlinear Component Analysis as a Kernel Eigenvalue Problem*, Neural Computation 10
(1998). The eigenvectors agree with those of a full decomposition to about 1e-8; see `leading_eigenpairs`. Projecting
one text reads every reference, which is most of what a detector adds to the victim's forward; where few references say
nearly the same as all, only those are kept; see `_fewer_references`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import DataError

Floats = NDArray[np.float64]

_TILE = 1000  # rows and columns of the kernel matrix made at once: a tile stays in the cache until it is done
_CHUNK = 1024  # texts projected at once, to bound memory
_BLOCK = 32  # vectors multiplied by the kernel matrix at once; more waste dimensions, fewer waste memory bandwidth
_RESIDUAL = 1e-9  # of an eigenvector, against the largest eigenvalue
_NOTHING = 1e-12  # an eigenvalue below this share of the largest is rounding
_FEW = (1024, 2048)  # how many references are tried instead of all, where all are more than twice as many
_WITHIN = 0.03  # of a component's standard deviation: the error, as a root mean square, that fewer references may have


def fit_kernel_pca(features: Floats, components: int, title: str) -> tuple[dict[str, NDArray[Any]], Floats]:
    """Fit kernel PCA with gamma = 1/d on unscaled features.

    Args:
        features: (n, d), float32 at their source.
        components: Dimensions kept, fewer than n.
        title: The detector, named in the error.

    Returns:
        What `KernelProjection` takes: `reference` (m, d) float32, `directions` (m, components) float64 and
        `kernel_offset` (components,) float64. A feature with kernel values k to the references projects on
        k @ directions - kernel_offset. The references are the features, or 1,024 or 2,048 of them.
        And (n, components), the exact projections of the features themselves: estimates that start from a subset of
        them, such as the MCD, are the same whatever references are kept.

    Raises:
        DataError: The features differ in fewer directions than components.
    """
    kernel = rbf_kernel_matrix(features)
    values, vectors = leading_eigenpairs(kernel, components)
    told = int((values > _NOTHING * max(values[0], 1e-300)).sum())
    if told < components:
        raise DataError(
            f"the training features of {title} differ in only {told} directions after kernel PCA, "
            f"fewer than its {components} components, so that covariances are singular.",
            "Give it more or more varied training texts, or lower --components.",
        )
    vectors -= vectors.mean(axis=0)
    projections = vectors * np.sqrt(values)
    # Features are float32 at the source, so nothing is lost in keeping them so.
    reference = features.astype(np.float32)
    for count in _FEW:
        if 2 * count < len(features) and (fewer := _fewer_references(kernel, projections, count)) is not None:
            kept, directions, offset = fewer
            return {"reference": reference[kept], "directions": directions, "kernel_offset": offset}, projections
    # Centring is in the two, for the columns of `directions` sum to zero.
    directions = np.ascontiguousarray(vectors / np.sqrt(values))
    offset = kernel.mean(axis=0) @ directions
    return {"reference": reference, "directions": directions, "kernel_offset": offset}, projections


def _fewer_references(
    kernel: Floats, projections: Floats, count: int
) -> tuple[NDArray[np.int64], Floats, Floats] | None:
    """Projections from the kernel values to some of the features, where those tell them nearly.

    A reduced set (Schoelkopf et al., *Input Space Versus Feature Space in Kernel-Based Methods*, IEEE Transactions on
    Neural Networks 10, 1999) of random members, the same in every run, and the least-squares fit on all features: the
    leading components of a smooth kernel vary too slowly to need every one.

    Args:
        kernel: (n, n), uncentred.
        projections: (n, components), exact.
        count: How many are kept.

    Returns:
        Positions of the kept ones, sorted; their `directions` and `kernel_offset`. None where a component is
        off by more than 3 % of its standard deviation, as a root mean square over the features.
    """
    from scipy.linalg import cho_factor, cho_solve

    kept = np.sort(np.random.default_rng(0).choice(len(kernel), count, replace=False))
    columns = kernel[:, kept]
    means = columns.mean(axis=0)  # projections have a mean of zero, so the fit's offset is what centres the columns
    columns = columns - means
    squares = columns.T @ columns
    squares[np.diag_indices(count)] += 1e-13 * np.trace(squares) / count  # kernel values are all but dependent
    directions = np.ascontiguousarray(cho_solve(cho_factor(squares), columns.T @ projections))
    error = columns @ directions - projections
    if ((error**2).mean(axis=0) > (_WITHIN * projections.std(axis=0)) ** 2).any():
        return None
    return kept, directions, means @ directions


class KernelProjection:
    """Projects features on the components that `fit_kernel_pca` found.

    In float64 whatever the batch: a single text in float32 would read half the memory, and differ from the same text in
    a batch by about 1e-7. References are moved so that their mean is zero, which an RBF kernel does not see.

    Args:
        arrays: What `fit_kernel_pca` returned.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.directions: Floats = arrays["directions"]
        self.offset: Floats = arrays["kernel_offset"]
        reference = arrays["reference"].astype(np.float64)
        self.centre: Floats = reference.mean(axis=0)
        self.reference: Floats = reference - self.centre
        self.norms: Floats = np.einsum("ij,ij->i", self.reference, self.reference)

    def __call__(self, features: Floats) -> Floats:
        """Project (n, d) float64 features, (n, components)."""
        moved = features - self.centre
        projected = np.empty((len(moved), len(self.offset)))
        for start in range(0, len(moved), _CHUNK):
            part = moved[start : start + _CHUNK]
            projected[start : start + _CHUNK] = self._project(part, part @ self.reference.T)
        return projected

    def _project(self, moved: Floats, kernel: Floats) -> Floats:
        """From (..., d) features and their inner products (..., n) with the references, which are overwritten."""
        kernel *= 2
        kernel -= self.norms
        kernel -= (moved * moved).sum(axis=-1, keepdims=True)
        np.minimum(kernel, 0, out=kernel)
        kernel /= moved.shape[-1]
        np.exp(kernel, out=kernel)
        projected: Floats = kernel @ self.directions - self.offset
        return projected


def rbf_kernel_matrix(features: Floats) -> Floats:
    """exp(-||x - y||^2 / d) of all pairs of (n, d) rows, (n, n) and exactly symmetric."""
    n, d = features.shape
    moved = features - features.mean(axis=0)
    norms = np.einsum("ij,ij->i", moved, moved)
    kernel = np.empty((n, n))
    for top in range(0, n, _TILE):
        for left in range(top, n, _TILE):
            rows, columns = slice(top, top + _TILE), slice(left, left + _TILE)
            tile = moved[rows] @ moved[columns].T
            tile *= 2
            tile -= norms[rows, None] + norms[columns]
            np.minimum(tile, 0, out=tile)
            tile /= d
            kernel[rows, columns] = np.exp(tile, out=tile)
            kernel[columns, rows] = tile.T
    np.fill_diagonal(kernel, 1.0)
    return kernel


def leading_eigenpairs(kernel: Floats, count: int) -> tuple[Floats, Floats]:
    """The largest eigenvalues of the doubly centred kernel matrix, and their eigenvectors.

    Block Lanczos (Golub and Underwood, *The Block Lanczos Method for Computing Eigenvalues*, 1977) with full
    reorthogonalisation, from a fixed random block, until ||A v - l v|| <= 1e-9 l_max for each of them. Blocks make it
    dense products, several times faster than ARPACK's one vector at a time. Where that takes a basis of half the
    dimensions, or a block is exhausted, all are decomposed.

    Args:
        kernel: (n, n), symmetric, uncentred.
        count: How many.

    Returns:
        (count,) eigenvalues, largest first, and (n, count) orthonormal eigenvectors.
    """
    n = len(kernel)
    limit = n // 2 - _BLOCK
    # Vectors are rows: block @ kernel runs much faster than kernel @ block where blocks are narrow.
    basis = np.empty((max(limit, 0) + _BLOCK, n))
    small = np.zeros((len(basis), len(basis)))
    block = _orthonormal_rows(_centred(np.random.default_rng(0).standard_normal((_BLOCK, n))))[0]
    for size in range(_BLOCK, limit, _BLOCK):
        basis[size - _BLOCK : size] = block
        known = basis[:size]
        image = _centred(block @ kernel)
        inner = known @ image.T
        small[:size, size - _BLOCK : size] = inner
        small[size - _BLOCK : size, :size] = inner.T
        image -= inner.T @ known
        image -= (image @ known.T) @ known
        block, rest = _orthonormal_rows(image)
        if np.abs(np.diag(rest)).min() <= np.finfo(float).eps * np.abs(inner).max() * n:
            break
        # The first looks come too early for any matrix, and a look costs as much as a step.
        if size < 2 * count or (size // _BLOCK) % 2:
            continue
        values, vectors = _largest(small[:size, :size], count)
        if np.linalg.norm(rest @ vectors[-_BLOCK:], axis=0).max() <= _RESIDUAL * values[0]:
            return values, known.T @ vectors
    return _largest(_centred(_centred(kernel).T), count)


def _centred(rows: Floats) -> Floats:
    """Rows less their own mean."""
    centred: Floats = rows - rows.mean(axis=1, keepdims=True)
    return centred


def _orthonormal_rows(rows: Floats) -> tuple[Floats, Floats]:
    """Q (b, n) with orthonormal rows and upper triangular R (b, b), where rows = R.T @ Q."""
    q, r = np.linalg.qr(rows.T)
    return np.ascontiguousarray(q.T), r


def _largest(matrix: Floats, count: int) -> tuple[Floats, Floats]:
    """The largest eigenvalues of a symmetric matrix, largest first, with their eigenvectors in columns."""
    from scipy.linalg import eigh

    n = len(matrix)
    values, vectors = eigh(matrix, subset_by_index=(n - count, n - 1), check_finite=False)
    return values[::-1], vectors[:, ::-1]
