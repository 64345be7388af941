"""Split-conformal decisions: from scores of held-out clean texts to p-values and thresholds.

With m held-out scores and a new one that are exchangeable, P(p-value <= alpha) <= alpha, ties or not: over the draw of
both, a threshold on the p-value keeps its false-positive rate in expectation (Vovk, Gammerman and Shafer, *Algorithmic
Learning in a Random World*, 2005; Bates et al., *Testing for Outliers with Conformal p-values*, Annals of Statistics
2023). Given one set of held-out scores, the rate of "score > their k-th smallest" varies as Beta(m + 1 - k, k), less
where there are ties (Vovk, *Conditional Validity of Inductive Conformal Predictors*, ACML 2012), which gives a
threshold that holds for this very set with a chosen probability.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.core.errors import DataError

Floats = NDArray[np.float64]

# 20 * (1 - 0.05) must not become 20 and a bit by rounding; beside a rate, it is nothing.
_SLACK = 1e-9


def conformal_p_values(calibration: ArrayLike, scores: ArrayLike) -> Floats:
    """Split-conformal p-values, (1 + the number of held-out scores that are at least as large) / (m + 1).

    Args:
        calibration: (m,) scores of clean texts that were used for nothing else; m may be 0, then every p is 1.
        scores: (n,) scores to judge.

    Returns:
        (n,) float64, from 1 / (m + 1) to 1; small = unlike the clean texts. A tie counts as at least as large.

    Raises:
        DataError: A score is NaN.
        ValueError: One of them is no vector.
    """
    known = np.sort(checked_scores(calibration, may_be_empty=True))
    asked = checked_scores(scores, may_be_empty=True)
    at_least = known.size - np.searchsorted(known, asked, side="left")
    return np.asarray((1.0 + at_least) / (known.size + 1.0), dtype=np.float64)


def flag_rank(m: int, fpr: float, confidence: float | None = None) -> int | None:
    """The k for which "score > k-th smallest of m held-out scores" keeps a false-positive rate.

    Args:
        m: Held-out clean texts.
        fpr: The rate promised, at least 0 and below 1.
        confidence: None for a rate in expectation over held-out and new texts: k = ceil((m + 1)(1 - fpr)). Else, above
            0 and below 1, the probability over the draw of held-out texts with which the rate given them is at most
            `fpr`: the smallest k with P(Beta(m + 1 - k, k) <= fpr) >= confidence, and never a smaller one than in
            expectation.

    Returns:
        k from 1 to m, or None where m is too small for the promise, so that nothing can be flagged.

    Raises:
        ValueError: A number is out of range.
    """
    if m < 0 or not 0 <= fpr < 1 or not (confidence is None or 0 < confidence < 1):
        raise ValueError(f"no promise can be made with {m} texts, fpr {fpr} and confidence {confidence}.")
    k = max(1, math.ceil((m + 1) * (1 - fpr) - _SLACK))
    if confidence is not None:
        # P(Beta(m + 1 - k, k) <= fpr) = P(Binomial(m, fpr) > m - k), so m - k is the most with a tail that is small.
        allowed = np.flatnonzero(_binomial_cdf(m, fpr) <= (1 - confidence) * (1 + _SLACK))
        k = max(k, m - int(allowed[-1])) if allowed.size else m + 1
    return k if k <= m else None


def threshold_at_fpr(clean_scores: ArrayLike, fpr: float, confidence: float | None = None) -> float:
    """A threshold for a promised false-positive rate from held-out clean texts: flag when score > threshold.

    The threshold is the k-th smallest of the m scores, k of `flag_rank`. Without `confidence` the rate is at most
    `fpr` in expectation over held-out and new texts, with ties too, and then score > threshold exactly where the
    conformal p-value is at most `fpr`. It is an expectation: one draw of held-out texts may realise more, so the
    realised rate is reported beside every TPR.

    Args:
        clean_scores: Scores of clean texts that were used for nothing else, shape (m,).
        fpr: Promised rate, at least 0 and below 1.
        confidence: As in `flag_rank`.

    Returns:
        The threshold; infinity, so that nothing can be flagged, where m is too small for the promise.

    Raises:
        DataError: If a score is NaN, or there are none.
        ValueError: If a number is out of range, or the scores are not a vector.
    """
    flag_rank(0, fpr, confidence)  # a wrong number is told before missing scores are
    scores = checked_scores(clean_scores)
    k = flag_rank(scores.size, fpr, confidence)
    return math.inf if k is None else float(np.partition(scores, k - 1)[k - 1])


def texts_needed(fpr: float, confidence: float | None = None) -> int | None:
    """The fewest held-out texts with which anything can be flagged; None for a rate of 0, which no number keeps.

    In expectation m >= 1 / fpr - 1; with a confidence c, (1 - fpr)^m <= 1 - c as well.

    Raises:
        ValueError: A number is out of range.
    """
    flag_rank(0, fpr, confidence)
    if fpr == 0:
        return None
    m = max(1, math.floor(1 / fpr) - 2)
    if confidence is not None:
        m = max(m, math.floor(math.log1p(-confidence) / math.log1p(-fpr)) - 1)
    while flag_rank(m, fpr, confidence) is None:
        m += 1
    return m


def checked_scores(scores: ArrayLike, *, may_be_empty: bool = False) -> Floats:
    """Scores as a float64 vector.

    Raises:
        DataError: One is NaN, or there are none.
        ValueError: They are no vector.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"scores must be a vector, got shape {values.shape}.")
    if values.size == 0 and not may_be_empty:
        raise DataError("there are no scores.", "Score at least one text.")
    missing = int(np.isnan(values).sum())
    if missing:
        raise DataError(
            f"{missing} of {values.size} scores are NaN.",
            "Look for empty texts or an overflow in half precision.",
        )
    return values


def _binomial_cdf(m: int, p: float) -> Floats:
    """P(X <= j) of X ~ Binomial(m, p) for j = 0 ... m - 1."""
    if p == 0 or m == 0:
        return np.ones(m)
    log_factorials = np.array([math.lgamma(i + 1) for i in range(m + 1)])
    j = np.arange(m)
    log_pmf = log_factorials[m] - log_factorials[j] - log_factorials[m - j] + j * math.log(p) + (m - j) * math.log1p(-p)
    cdf: Floats = np.cumsum(np.exp(log_pmf))
    return cdf
