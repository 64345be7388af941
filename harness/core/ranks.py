"""Methods over many cells: average ranks, which of them can be told apart, and the signed-rank test of a pair.

Source: Demšar, "Statistical comparisons of classifiers over multiple data sets", JMLR 2006. Whether two methods differ
by the Nemenyi test depends on which others are in the table; Benavoli, Corani and Mangili ("Should we really use
post-hoc tests based on mean-ranks?", JMLR 2016) recommend signed-rank tests of the pairs that matter, with a
correction, instead, so both are here. Cells are taken for independent: attacks on one dataset and victim share texts,
so the p-values are somewhat too small.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.core.comparisons import midranks
from harness.core.errors import DataError

Floats = NDArray[np.float64]


class Friedman(NamedTuple):
    """Test that all methods rank alike.

    Attributes:
        chi_squared: Friedman's statistic, corrected for ties, k - 1 degrees of freedom.
        p: Its p-value.
        f: Iman and Davenport's less conservative statistic, k - 1 and (k - 1)(N - 1) degrees of freedom.
        f_p: Its p-value.
    """

    chi_squared: float
    p: float
    f: float
    f_p: float


@dataclass(frozen=True)
class CriticalDifference:
    """Average ranks of methods over cells, and how far apart they must lie to be told apart.

    Attributes:
        names: Methods, the best first.
        ranks: Average rank of each; 1 is the best there can be.
        cells: Cells that count.
        left_out: Cells left out because a method has no value there.
        friedman: The test that comes first: where it finds nothing, the differences mean nothing.
        alpha: Level.
        difference: Nemenyi's critical difference at that level.
        cliques: Longest runs of at least two methods in `names` that are not told apart: (first, last), both included.
    """

    names: tuple[str, ...]
    ranks: tuple[float, ...]
    cells: int
    left_out: int
    friedman: Friedman
    alpha: float
    difference: float
    cliques: tuple[tuple[int, int], ...]


def critical_difference(names: Sequence[str], values: ArrayLike, *, alpha: float = 0.05) -> CriticalDifference:
    """Rank methods over cells and find those that are not told apart.

    Args:
        names: k methods.
        values: (N, k) a figure of each method in each cell, higher = better; NaN where a method has none, and then the
            cell is left out: ranks among fewer methods are not comparable.
        alpha: Level of Nemenyi's test.

    Raises:
        DataError: If fewer than two methods, or fewer than two whole cells, are left.
        ValueError: If the shapes do not fit, or alpha is not between 0 and 1.
    """
    table = _checked(names, values)
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}.")
    whole = table[~np.isnan(table).any(axis=1)]
    if len(names) < 2 or len(whole) < 2:
        raise DataError(
            f"{len(names)} methods in {len(whole)} of {len(table)} cells cannot be ranked.",
            "Two methods with values in two cells are the least.",
        )
    ranks = rank_rows(whole)
    average = ranks.mean(axis=0)
    order = np.argsort(average, kind="stable")
    limit = nemenyi_difference(len(names), len(whole), alpha)
    return CriticalDifference(
        names=tuple(names[i] for i in order),
        ranks=tuple(average[order].tolist()),
        cells=len(whole),
        left_out=len(table) - len(whole),
        friedman=_friedman(ranks),
        alpha=alpha,
        difference=limit,
        cliques=tuple(_cliques(average[order], limit)),
    )


def rank_rows(values: Floats) -> Floats:
    """Ranks within each row, shape (N, k): 1 for the highest value, equal values share the mean of their ranks."""
    return np.array([midranks(-row) for row in values])


def nemenyi_difference(methods: int, cells: int, alpha: float = 0.05) -> float:
    """How far two average ranks must lie apart to differ (Nemenyi, 1963).

    Args:
        methods: k, at least 2.
        cells: N.
        alpha: Level.

    Returns:
        q sqrt(k (k + 1) / (6 N)), with q the studentized range statistic of k means and infinite degrees of freedom,
        divided by sqrt(2).
    """
    from scipy.stats import studentized_range

    q = float(studentized_range.ppf(1 - alpha, methods, np.inf)) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * cells))


def signed_rank_p(differences: ArrayLike) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test (Biometrics Bulletin 1945), exact with ties and zeros too.

    Every difference keeps its size and gets either sign with probability 1/2; the distribution of the sum of the ranks
    of the positive ones is counted over all 2^n outcomes. Zeros are ranked and split evenly, so they never speak for
    either method.

    Args:
        differences: (n,) numbers without NaN.

    Returns:
        The p-value; NaN without differences, 1 where all are 0.
    """
    d = np.asarray(differences, dtype=np.float64)
    if not d.size:
        return math.nan
    # Doubled midranks are whole numbers: the distribution is a convolution over whole sums.
    ranks = np.rint(2 * midranks(np.abs(d))).astype(np.int64)[d != 0]
    observed = int(ranks[d[d != 0] > 0].sum())
    total = int(ranks.sum())
    chance = np.zeros(total + 1)
    chance[0] = 1.0
    for rank in ranks:
        moved = np.zeros_like(chance)
        moved[rank:] = chance[: total + 1 - rank]
        chance = (chance + moved) / 2
    tail = min(observed, total - observed)
    return min(1.0, 2 * float(chance[: tail + 1].sum()))


def _friedman(ranks: Floats) -> Friedman:
    from scipy.stats import chi2
    from scipy.stats import f as f_distribution

    n, k = ranks.shape
    # Written with the ranks' own spread, which ties make smaller (Conover, Practical Nonparametric Statistics, 1999).
    spread = float(((ranks - (k + 1) / 2) ** 2).sum())
    between = n * float(((ranks.mean(axis=0) - (k + 1) / 2) ** 2).sum())
    if spread == 0:  # all methods are equal in all cells
        return Friedman(0.0, 1.0, 0.0, 1.0)
    chi_squared = n * (k - 1) * between / spread
    rest = n * (k - 1) - chi_squared
    f = (n - 1) * chi_squared / rest if rest > 1e-9 else math.inf
    return Friedman(
        chi_squared,
        float(chi2.sf(chi_squared, k - 1)),
        f,
        float(f_distribution.sf(f, k - 1, (k - 1) * (n - 1))),
    )


def _cliques(ranks: Floats, limit: float) -> list[tuple[int, int]]:
    """Longest runs of ascending ranks whose ends lie less than the limit apart."""
    found: list[tuple[int, int]] = []
    for first in range(len(ranks)):
        last = int(np.searchsorted(ranks, ranks[first] + limit, "left")) - 1
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found


def _checked(names: Sequence[str], values: ArrayLike) -> Floats:
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] != len(names):
        raise ValueError(f"values must have shape (cells, {len(names)}), got {table.shape}.")
    return table
