"""Tests of one method against another: DeLong's for paired AUCs, and Holm's correction for many of them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.core.errors import DataError

Floats = NDArray[np.float64]


class PairedAUC(NamedTuple):
    """Two AUCs on the same texts.

    Attributes:
        first: AUC of the first detector.
        second: AUC of the second one.
        difference: first - second.
        standard_error: Of the difference.
        p: Two-sided, of no difference; 1 where the two rank all pairs alike; NaN where DeLong's variance is 0 although
            the AUCs differ, as for one that is always right and one that is always wrong.
    """

    first: float
    second: float
    difference: float
    standard_error: float
    p: float


def delong_test(first: ArrayLike, second: ArrayLike, adversarial: ArrayLike) -> PairedAUC:
    """Test whether two detectors have the same AUC on the same texts.

    Source: DeLong, DeLong and Clarke-Pearson, Biometrics 1988, in the O(n log n) form with midranks of Sun and Xu,
    IEEE Signal Processing Letters 2014. The test takes texts for independent: where a source text occurs twice
    (scenario s2, several seeds, several attacks), use the cluster bootstrap of `harness.evaluation.paired`.

    Args:
        first: (n,) scores, higher = more adversarial; infinities only take part in the order.
        second: (n,) scores of the other detector.
        adversarial: (n,) True for an adversarial text.

    Returns:
        The AUCs (a tie counts half), their difference, and how sure it is.

    Raises:
        DataError: If a score is NaN, or a class has fewer than two texts.
        ValueError: If the shapes do not fit.
    """
    labels = np.asarray(adversarial, dtype=np.bool_)
    scores = [np.asarray(values, dtype=np.float64) for values in (first, second)]
    if labels.ndim != 1 or any(values.shape != labels.shape for values in scores):
        raise ValueError("both scores and the labels must be vectors of one length.")
    if any(np.isnan(values).any() for values in scores):
        raise DataError("a score is NaN.", "Look for empty texts or an overflow in half precision.")
    m, n = int(labels.sum()), int((~labels).sum())
    if min(m, n) < 2:
        raise DataError(f"{m} adversarial and {n} clean texts are too few.", "DeLong's test needs two of each.")
    placements = [_placements(values, labels) for values in scores]
    auc = [float(of_adversarial.mean()) for of_adversarial, _ in placements]
    # The variance of a difference is that of the differences of the structural components.
    apart = [placements[0][k] - placements[1][k] for k in (0, 1)]
    error = math.sqrt(apart[0].var(ddof=1) / m + apart[1].var(ddof=1) / n)
    difference = auc[0] - auc[1]
    # Components are halves of counts over m or n: anything nearer to 0 than this is rounding.
    if abs(difference) < 1e-12:
        p = 1.0
    elif error < 1e-12:
        p = math.nan
    else:
        p = math.erfc(abs(difference) / error / math.sqrt(2))
    return PairedAUC(auc[0], auc[1], difference, error, p)


def _placements(scores: Floats, adversarial: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Structural components: for each adversarial text the share of clean texts below it, and for each clean text
    the share of adversarial texts above it; ties count half."""  # noqa: D205, D209
    positive, negative = scores[adversarial], scores[~adversarial]
    pooled = midranks(scores)
    of_positive = (pooled[adversarial] - midranks(positive)) / negative.size
    of_negative = 1 - (pooled[~adversarial] - midranks(negative)) / positive.size
    return of_positive, of_negative


def midranks(values: ArrayLike) -> Floats:
    """Ranks from 1, the smallest first; equal values share the mean of their ranks.

    Args:
        values: (n,) numbers without NaN.

    Returns:
        (n,) float64.
    """
    array = np.asarray(values, dtype=np.float64)
    _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[inverse], dtype=np.float64)


def holm(p_values: ArrayLike) -> Floats:
    """Holm's step-down adjustment: the family-wise error rate holds whatever the dependence of the tests.

    Source: Holm, Scandinavian Journal of Statistics 1979. The k-th smallest of m p-values is multiplied by
    m - k + 1, and none falls below one before it.

    Args:
        p_values: (m,) p-values; NaN for a test without a result, which stays NaN but counts among the m.

    Returns:
        (m,) adjusted p-values, at most 1, in the order given; compare them with the level itself.

    Raises:
        ValueError: If they are no vector, or one is not between 0 and 1.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or ((p < 0) | (p > 1)).any():
        raise ValueError("p-values must be a vector of numbers between 0 and 1.")
    order = np.argsort(p, kind="stable")  # NaN last
    steps = np.where(np.isnan(p[order]), np.nan, p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps)) if p.size else steps
    return adjusted
