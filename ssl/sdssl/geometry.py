"""What the features of a layer look like: alignment, uniformity, effective rank, collapse, similarity of layers.

Everything is computed in float64, whatever the features come in, and nothing needs labels but the alignment of
negatives and the drawing of a class-balanced sample. Inputs that are empty or not finite are refused, and so is a
quantity that needs two rows (or two classes) and gets one; features that are all equal have a defined value everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from harness.core.errors import DataError

Features = NDArray[Any]  # (n, d), floating point
Labels = NDArray[Any]  # (n,), integer

_BLOCK = 1024  # rows of a similarity matrix computed at once, to bound memory
_CHECKED_ROWS = 1 << 16  # rows looked at for NaN at once, so that the mask stays small beside the features
_RESOLUTION = 1e-7  # what float32 features resolve, relative to their size


def positive_alignment(first: Features, second: Features, *, normalised: bool) -> float:
    """Mean squared distance between the features of two views of the same images.

    The alignment of Wang and Isola (ICML 2020, exponent 2), as SDSSL (WACV 2023) reports it.

    Args:
        first: (n, d) features of one view.
        second: (n, d) features of the other view, row by row of the same images.
        normalised: Whether every row is divided by its L2 norm first; the value is then in [0, 4].

    Raises:
        DataError: The shapes differ, or the features are empty or not finite.
    """
    if np.shape(first) != np.shape(second):
        raise DataError(f"the two views have features of different shapes: {np.shape(first)} and {np.shape(second)}.")
    difference = _rows(first, normalised) - _rows(second, normalised)
    return float((difference**2).sum(axis=1).mean())


def negative_alignment(features: Features, labels: Labels, *, normalised: bool) -> float:
    """Mean squared distance over all pairs of rows of different classes (SDSSL, WACV 2023).

    Computed from each class's sum and sum of squares, so in O(n d); centring first keeps that exact where the
    features share a large mean.

    Args:
        features: (n, d) features, class-balanced where the figure is to be compared.
        labels: (n,) integer labels.
        normalised: Whether every row is divided by its L2 norm first.

    Raises:
        DataError: Fewer than two classes, or features that are empty or not finite.
    """
    check_labels(labels, len(features))
    rows = _rows(features, normalised)
    rows = rows - rows.mean(axis=0)
    classes, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(classes) < 2:
        raise DataError("negative alignment needs rows of at least two classes.")
    sums = np.stack([rows[inverse == index].sum(axis=0) for index in range(len(classes))])
    squares = np.bincount(inverse, weights=(rows**2).sum(axis=1))
    others = len(rows) - counts
    # Over ordered pairs (i, j) of different classes: |x_i|^2 + |x_j|^2 - 2 x_i . x_j.
    dots = (sums.sum(axis=0) ** 2).sum() - (sums**2).sum()
    total = 2 * (others @ squares) - 2 * dots
    return float(max(0.0, total / (counts @ others)))


def uniformity(features: Features, t: float = 2.0) -> float:
    """Log of the mean of exp(-t |x_i - x_j|^2) over pairs i < j of L2-normalised rows (Wang and Isola, ICML 2020).

    0 where all rows point the same way, lower where they are spread; at least -4 t.

    Args:
        features: (n, d) features; the cost is n^2 d.
        t: The bandwidth.

    Raises:
        DataError: Fewer than two rows, or features that are empty or not finite.
    """
    rows = torch.as_tensor(_rows(features, normalised=True, least=2))
    squares = (rows**2).sum(dim=1)
    parts = []
    for start in range(0, len(rows), _BLOCK):
        block = slice(start, start + _BLOCK)
        distances = squares[block, None] + squares[None, start:] - 2 * rows[block] @ rows[start:].T
        exponents = -t * distances.clamp_(min=0)
        later = torch.ones_like(exponents, dtype=torch.bool).triu_(diagonal=1)
        parts.append(exponents.masked_fill_(~later, -torch.inf).flatten().logsumexp(dim=0))
    pairs = len(rows) * (len(rows) - 1) / 2
    return float(torch.stack(parts).logsumexp(dim=0)) - float(np.log(pairs))


def rankme(features: Features, eps: float = 1e-7) -> float:
    """Effective rank: the exponential of the entropy of the singular values (RankMe, Garrido et al., ICML 2023).

    Not centred, as in the paper. Between 1 (all rows on one line) and min(n, d); 0 where all features are zero.

    Args:
        features: (n, d) features; the paper takes n well above d.
        eps: Added to every normalised singular value.

    Raises:
        DataError: Features that are empty or not finite.
    """
    values = torch.linalg.svdvals(torch.as_tensor(_rows(features, normalised=False)))
    total = values.sum()
    if float(total) == 0:
        return 0.0
    shares = values / total + eps
    return float(torch.exp(-(shares * shares.log()).sum()))


def feature_std(features: Features) -> float:
    """Standard deviation of L2-normalised features over rows, mean over dimensions, times sqrt(d).

    The collapse check of SimSiam (Chen and He, CVPR 2021): 1 where the rows spread over the sphere with no preferred
    direction, 0 where they are all equal. The deviation is the population's (divided by n).

    Args:
        features: (n, d) features.

    Raises:
        DataError: Fewer than two rows, or features that are empty or not finite.
    """
    rows = _rows(features, normalised=True, least=2)
    return float(rows.std(axis=0).mean() * np.sqrt(rows.shape[1]))


def linear_cka(features: Sequence[Features]) -> NDArray[np.float64]:
    """Linear centred kernel alignment between all pairs of layers (Kornblith et al., ICML 2019).

    Args:
        features: One (n, d_i) array a layer, rows of the same items in the same order; widths may differ.

    Returns:
        (L, L) symmetric values in [0, 1], with 1 on the diagonal. A layer whose rows are all equal (to within what
        float32 resolves) shares no variation with anything: its row and column are 0, the diagonal too.

    Raises:
        DataError: No layers, different numbers of rows, fewer than two rows, or features that are not finite.
    """
    if not features or len({len(layer) for layer in features}) != 1:
        raise DataError("CKA needs one array of features a layer, all with the same number of rows.")
    centred = [_centred(_rows(layer, normalised=False, least=2)) for layer in features]
    layers = [torch.as_tensor(layer) for layer in centred]
    count = len(layers)
    shared = torch.zeros((count, count), dtype=torch.float64)
    if len(layers[0]) < max(layer.shape[1] for layer in layers):
        # Fewer rows than dimensions: the (n, n) Gram matrices are smaller than the (d, d) covariances.
        flat = torch.stack([(layer @ layer.T).flatten() for layer in layers])
        shared = flat @ flat.T
    else:
        for i in range(count):
            for j in range(i, count):
                shared[i, j] = shared[j, i] = ((layers[i].T @ layers[j]) ** 2).sum()
    values: NDArray[np.float64] = shared.cpu().numpy()
    sizes = np.sqrt(np.diag(values))
    scale = np.outer(sizes, sizes)
    result = np.divide(values, scale, out=np.zeros_like(values), where=scale > 0)
    limited: NDArray[np.float64] = np.minimum((result + result.T) / 2, 1.0)
    return limited


def class_balanced(labels: Labels, per_class: int, seed: int) -> NDArray[np.int64]:
    """Positions of a random sample with equally many rows of every class that occurs.

    Where the smallest class has fewer than `per_class` rows, every class gives as many as the smallest has: the
    sample is balanced first and of the wanted size second.

    Args:
        labels: (n,) integer labels.
        per_class: How many rows of each class are wanted.
        seed: Draws the rows.

    Returns:
        Positions in increasing order, without repetition.

    Raises:
        DataError: No labels, or `per_class` below 1.
    """
    if per_class < 1 or len(labels) == 0:
        raise DataError("a class-balanced sample needs labels and at least one row a class.")
    check_labels(labels, len(labels))
    order = np.random.default_rng(seed).permutation(len(labels))
    classes, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    size = min(per_class, int(counts.min()))
    shuffled = inverse[order]
    chosen = [order[np.flatnonzero(shuffled == index)[:size]] for index in range(len(classes))]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def check_features(features: Features, *, least: int = 1) -> None:
    """Refuse features that no reading can use.

    Args:
        features: Expected (n, d), floating point, finite, d >= 1.
        least: The fewest rows that will do.

    Raises:
        DataError: They are not that.
    """
    if features.ndim != 2 or features.shape[1] == 0 or not np.issubdtype(features.dtype, np.floating):
        raise DataError(f"features must be (n, d) floating point, not {features.shape} {features.dtype}.")
    if len(features) < least:
        raise DataError(f"{len(features)} rows of features are too few: at least {least} are needed.")
    for start in range(0, len(features), _CHECKED_ROWS):
        if not np.isfinite(features[start : start + _CHECKED_ROWS]).all():
            raise DataError(
                "the features hold NaN or infinity.", "The encoder has diverged, or overflows in its number format."
            )


def check_labels(labels: Labels, rows: int, num_classes: int | None = None) -> None:
    """Refuse labels that do not fit their features.

    Args:
        labels: Expected (rows,) integers, in 0 .. num_classes - 1 where that is given.
        rows: How many rows of features there are.
        num_classes: How many classes there are.

    Raises:
        DataError: They are not that.
    """
    labels = np.asarray(labels)
    if labels.shape != (rows,) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{rows} rows of features need as many integer labels, not {labels.shape} {labels.dtype}.")
    if num_classes is not None and rows and not (labels.min() >= 0 and labels.max() < num_classes):
        raise DataError(
            f"labels must lie in 0 .. {num_classes - 1}, but they go from {labels.min()} to {labels.max()}."
        )


def _rows(features: Features, normalised: bool, least: int = 1) -> NDArray[np.float64]:
    """Checked features in float64, each row divided by its L2 norm if `normalised`; a zero row stays zero."""
    features = np.asarray(features)
    check_features(features, least=least)
    rows = features.astype(np.float64)
    if normalised:
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        rows = rows / np.where(norms > 0, norms, 1.0)
    return rows


def _centred(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows less their mean, scaled to norm 1 over all; exactly zero where what is left is only rounding."""
    centred = rows - rows.mean(axis=0)
    size = float(np.linalg.norm(centred))
    if size <= _RESOLUTION * float(np.linalg.norm(rows)):
        return np.zeros_like(rows)
    scaled: NDArray[np.float64] = centred / size
    return scaled
