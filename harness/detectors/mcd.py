"""The minimum covariance determinant (MCD) estimate of one class's mean and covariance.

Rousseeuw and Van Driessen, *A Fast Algorithm for the Minimum Covariance Determinant Estimator*, Technometrics 41
(1999), in the order of work of scikit-learn's `MinCovDet` and with its random draws: both find the same rows. What
differs is the linear algebra. A concentration step needs distances under one covariance and that covariance's
determinant; one Cholesky factor gives both, where scikit-learn decomposes for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import DataError

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

_FEW = 500  # rows up to which a class is not split
_SUBSET, _MERGED = 300, 1500  # rows of a subset, and of the set that subsets' estimates are judged on next
_TRIALS, _TRIALS_OF_FEW, _BEST = 500, 30, 10  # random starts in all, those of a class not split, and how many go on
_STEPS = 30  # concentration steps at most; they end when the determinant falls no more
_OUTLYING = 0.025  # share of a Gaussian's rows that reweighting leaves out


@dataclass(frozen=True)
class RobustGaussian:
    """A robust mean and covariance, and what it took.

    Attributes:
        mean: (p,).
        precision: (p, p) inverse covariance.
        rows: Rows there were.
        support: Rows whose covariance has the least determinant.
        kept: Rows that reweighting kept, whose mean and covariance it is.
        fallback: Why it is the empirical mean and covariance instead; None where it is not.
    """

    mean: Floats
    precision: Floats
    rows: int
    support: int
    kept: int
    fallback: str | None = None

    def facts(self) -> dict[str, Any]:
        """Rows, support, kept and fallback, JSON-able."""
        return {"rows": self.rows, "support": self.support, "kept": self.kept, "fallback": self.fallback}


@dataclass(frozen=True)
class _Candidate:
    """Mean of some rows, Cholesky factor of their covariance, its log-determinant, and the rows."""

    mean: Floats
    factor: Floats
    log_determinant: float
    rows: Indices


def minimum_covariance_determinant(data: Floats, support: float | None = None, seed: int = 0) -> RobustGaussian:
    """The reweighted MCD estimate, corrected to be consistent at the Gaussian.

    Where every search runs into rows of singular covariance (as many equal texts give), the empirical mean and
    covariance are taken, and said.

    Args:
        data: (n, p), n > p.
        support: Share of the rows whose covariance is to have the least determinant; by default (n + p + 1) / 2n,
            which withstands most outliers.
        seed: Seed of the random subsets.

    Raises:
        DataError: Not even the covariance of all rows has an inverse.
    """
    from scipy.stats import chi2

    n, p = data.shape
    h = min(-(-(n + p + 1) // 2), n) if support is None else int(support * n)
    best = None
    if h <= p:
        reason = f"a support of {h} rows in {p} dimensions has a singular covariance"
    else:
        best = _search(data, h, np.random.RandomState(seed))
        reason = f"every support of {h} rows that was tried has a singular covariance"
    if best is not None:
        distances = _distances(data, best) / _consistency(p, len(best.rows) / n)
        kept = distances < chi2.isf(_OUTLYING, p)
        mean, covariance = _moments(data[kept])
        covariance *= _consistency(p, 1 - _OUTLYING)
        if _regular(covariance):
            return RobustGaussian(mean, _inverse(covariance), n, len(best.rows), int(kept.sum()))
        reason = f"the {int(kept.sum())} rows that reweighting kept have a singular covariance"
    mean, precision = empirical_gaussian(data)
    return RobustGaussian(mean, precision, n, h, n, f"empirical covariance: {reason}")


def empirical_gaussian(data: Floats) -> tuple[Floats, Floats]:
    """Mean (p,) and inverse of the maximum-likelihood covariance (p, p) of (n, p) rows.

    Raises:
        DataError: The covariance is singular.
    """
    mean, covariance = _moments(data)
    if not _regular(covariance):
        raise DataError(
            f"the covariance of {len(data)} training rows in {len(mean)} dimensions is singular: their features differ "
            "in fewer directions.",
            "Give it more or more varied training texts, or fewer dimensions (rde with --components).",
        )
    return mean, _inverse(covariance)


def _search(data: Floats, h: int, random: np.random.RandomState) -> _Candidate | None:
    """The h rows of least covariance determinant that were found; None where all that was tried was singular."""
    n, p = data.shape
    if n <= _FEW:
        starts = (_start(data, random.permutation(n)[:h]) for _ in range(_TRIALS_OF_FEW))
        found = _concentrate(data, starts, h, steps=2, keep=_BEST)
    else:
        # 300 rows a subset, as published, or as many as give its support half as many rows again as dimensions.
        least = int(np.ceil(1.5 * p * n / h))
        parts = max(1, n // max(_SUBSET, least))
        size, merged_size = n // parts, max(_MERGED, least)
        some = _share(size, h, n)
        shuffled = random.permutation(n)
        found = []
        for part in range(parts):
            subset = data[shuffled[part * size : (part + 1) * size]]
            drawn = (random.permutation(size)[:some] for _ in range(max(_BEST, _TRIALS // parts)))
            found += _concentrate(subset, (_start(subset, rows) for rows in drawn), some, steps=2, keep=_BEST)
        if n > merged_size:
            merged = data[random.permutation(n)[:merged_size]]
            some = _share(merged_size, h, n)
            found = _concentrate(merged, _again(merged, found, some), some, keep=_BEST)
        else:
            h = _share(n, h, n)
    return next(iter(_concentrate(data, _again(data, found, h), h)), None)


def _share(rows: int, h: int, n: int) -> int:
    """As many of some rows as h is of n, with scikit-learn's rounding: of n rows it may be h + 1."""
    return int(np.ceil(rows * (h / n)))


def _concentrate(
    data: Floats, starts: Iterable[_Candidate | None], h: int, steps: int = _STEPS, keep: int = 1
) -> list[_Candidate]:
    """The best after concentration: take the h rows nearest under a candidate's covariance, and again.

    A candidate that becomes singular is dropped.
    """
    ended: list[_Candidate] = []
    for start in starts:
        candidate = start
        for _ in range(steps):
            if candidate is None:
                break
            following = _start(data, _nearest(data, candidate, h))
            if following is not None and not following.log_determinant < candidate.log_determinant:
                break
            candidate = following
        if candidate is not None:
            ended.append(candidate)
    return sorted(ended, key=lambda c: c.log_determinant)[:keep]


def _again(data: Floats, candidates: Sequence[_Candidate], h: int) -> Iterable[_Candidate | None]:
    """Candidates that were found on other rows, started on these."""
    return (_start(data, _nearest(data, candidate, h)) for candidate in candidates)


def _start(data: Floats, rows: Indices) -> _Candidate | None:
    """The candidate that rows make; None where their covariance is singular."""
    from scipy.linalg.lapack import dpotrf

    mean, covariance = _moments(data[rows])
    factor, failed = dpotrf(covariance, lower=True, overwrite_a=True)
    diagonal = np.diag(factor)
    # A squared pivot is what a dimension varies beside those before it: at rounding, it is nothing.
    if failed or diagonal.min() ** 2 <= len(mean) * np.finfo(float).eps * diagonal.max() ** 2:
        return None
    return _Candidate(mean, factor, 2 * float(np.log(diagonal).sum()), rows)


def _nearest(data: Floats, candidate: _Candidate, h: int) -> Indices:
    return np.argpartition(_distances(data, candidate), h - 1)[:h]


def _distances(data: Floats, candidate: _Candidate) -> Floats:
    """Squared Mahalanobis distances of (n, p) rows, (n,)."""
    from scipy.linalg.blas import dtrmm
    from scipy.linalg.lapack import dtrtri

    inverse, _ = dtrtri(candidate.factor, lower=True)
    white = dtrmm(1.0, inverse, data.T, lower=True).T
    white -= inverse @ candidate.mean
    distances: Floats = np.einsum("ij,ij->i", white, white)
    return distances


def _moments(rows: Floats) -> tuple[Floats, Floats]:
    """Mean and maximum-likelihood covariance."""
    if not len(rows):
        p = rows.shape[1]
        return np.zeros(p), np.zeros((p, p))
    mean = rows.mean(axis=0)
    centred = rows - mean
    return mean, centred.T @ centred / len(rows)


def _regular(covariance: Floats) -> bool:
    """Whether no eigenvalue is nothing but rounding, by the threshold of the usual pseudo-inverse."""
    values = np.linalg.eigvalsh(covariance)
    return bool(values[0] > len(values) * np.finfo(float).eps * values[-1])


def _inverse(covariance: Floats) -> Floats:
    inverse = np.linalg.inv(covariance)
    symmetric: Floats = (inverse + inverse.T) / 2
    return symmetric


def _consistency(p: int, share: float) -> float:
    """What makes the covariance of a Gaussian's innermost share of rows its covariance.

    Croux and Haesbroeck, *Influence Function and Efficiency of the Minimum Covariance Determinant Scatter Matrix
    Estimator*, Journal of Multivariate Analysis 71 (1999).
    """
    from scipy.stats import chi2

    return float(share / chi2.cdf(chi2.ppf(share, p), p + 2))
