from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import friedmanchisquare, rankdata, wilcoxon

from harness.core.errors import DataError
from harness.core.ranks import critical_difference, nemenyi_difference, signed_rank_p

# Demšar (2006), table 6: AUC of C4.5 with four ways of pruning on 14 data sets.
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.97501, 0.975],  # equal as printed, and not in the paper's ranks
        [0.957, 0.978, 0.946, 0.970],
    ]
)
NAMES = ("C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf")


def test_the_example_of_the_paper() -> None:
    got = critical_difference(NAMES, DEMSAR, alpha=0.10)
    ranks = dict(zip(got.names, got.ranks, strict=True))
    # The paper: average ranks 3.143, 2.000, 2.893, 1.964; F_F = 3.69; CD at 0.10 = 1.12.
    assert [ranks[name] for name in NAMES] == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    assert got.names == ("C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5")
    assert got.difference == pytest.approx(1.12, abs=0.005)
    # The paper's 9.28 and 3.69 are not corrected for ties.
    plain = 12 * 14 / (4 * 5) * (sum(r**2 for r in got.ranks) - 4 * 25 / 4)
    assert plain == pytest.approx(9.28, abs=0.01)
    assert 13 * plain / (14 * 3 - plain) == pytest.approx(3.69, abs=0.01)
    assert got.friedman.chi_squared == pytest.approx(friedmanchisquare(*DEMSAR.T).statistic)
    assert got.friedman.f == pytest.approx(13 * got.friedman.chi_squared / (14 * 3 - got.friedman.chi_squared))
    assert (got.cells, got.left_out) == (14, 0)


def test_critical_values_of_the_paper() -> None:
    # Demšar (2006), table 5a: q for 2 to 10 methods.
    table = {
        0.05: [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164],
        0.10: [1.645, 2.052, 2.291, 2.459, 2.589, 2.693, 2.780, 2.855, 2.920],
    }
    for alpha, row in table.items():
        for k, q in enumerate(row, start=2):
            assert nemenyi_difference(k, 14, alpha) == pytest.approx(q * math.sqrt(k * (k + 1) / 84), abs=1.2e-3)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 20), k=st.integers(3, 6), levels=st.sampled_from([2, 5, 10**6]), seed=st.integers(0, 10**6))
def test_ranks_and_friedman_against_scipy(n: int, k: int, levels: int, seed: int) -> None:
    values = np.round(np.random.default_rng(seed).normal(size=(n, k)) * levels) / levels
    got = critical_difference([str(i) for i in range(k)], values)
    expected = np.mean([rankdata(-row) for row in values], axis=0)
    assert [got.ranks[got.names.index(str(i))] for i in range(k)] == pytest.approx(expected.tolist())
    assert list(got.ranks) == sorted(got.ranks)
    if all(len(set(row)) == 1 for row in values.tolist()):
        assert got.friedman == (0, 1, 0, 1)
    else:
        theirs = friedmanchisquare(*values.T)
        assert got.friedman.chi_squared == pytest.approx(theirs.statistic)
        assert got.friedman.p == pytest.approx(theirs.pvalue)
    # Cliques, slowly: all runs whose ends are near, less those inside another.
    near = [(i, j) for i, j in itertools.combinations(range(k), 2) if got.ranks[j] - got.ranks[i] < got.difference]
    maximal = [(i, j) for i, j in near if not any((a, b) != (i, j) and a <= i and j <= b for a, b in near)]
    assert list(got.cliques) == maximal


def test_one_method_always_first() -> None:
    rng = np.random.default_rng(0)
    values = np.column_stack([rng.normal(size=12) + 10, rng.normal(size=12), rng.normal(size=12)])
    got = critical_difference(["best", "a", "b"], values)
    assert got.ranks[0] == 1
    assert got.cliques == ((1, 2),)
    assert got.friedman.f_p < got.friedman.p < 0.001
    # Always in one order: the F statistic has no denominator left.
    assert critical_difference(["a", "b"], [[1, 0], [2, 1], [3, 2]]).friedman.f == math.inf


def test_cells_without_a_value_are_left_out() -> None:
    nan = math.nan
    values = [[1, 2, 3], [nan, 2, 3], [1, 3, 2], [2, 3, 4]]
    got = critical_difference(["a", "b", "c"], values)
    assert (got.cells, got.left_out) == (3, 1)
    assert replace(got, left_out=0) == critical_difference(["a", "b", "c"], [values[i] for i in (0, 2, 3)])
    for few in (values[:2], [[nan, 1, 1]] * 5):
        with pytest.raises(DataError, match="cannot be ranked"):
            critical_difference(["a", "b", "c"], few)
    with pytest.raises(DataError, match="1 methods"):
        critical_difference(["a"], [[1], [2]])
    with pytest.raises(ValueError, match="shape"):
        critical_difference(["a", "b"], values)
    with pytest.raises(ValueError, match="alpha"):
        critical_difference(["a", "b", "c"], values, alpha=5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_signed_ranks_against_all_signs(differences: list[int]) -> None:
    d = np.array(differences, dtype=float)
    ranks = rankdata(np.abs(d))
    centred = abs(float((np.sign(d) * ranks).sum()))
    as_far = 0
    for signs in itertools.product([-1, 1], repeat=len(d)):
        as_far += abs(float((np.array(signs) * np.abs(np.sign(d)) * ranks).sum())) >= centred - 1e-9
    assert signed_rank_p(d) == pytest.approx(as_far / 2 ** len(d))


def test_signed_ranks_against_scipy() -> None:
    rng = np.random.default_rng(1)
    for n in (5, 12, 32):
        d = rng.normal(size=n) + 0.3
        assert signed_rank_p(d) == pytest.approx(wilcoxon(d, method="exact").pvalue)
    assert signed_rank_p(np.ones(5)) == 2 / 2**5
    assert signed_rank_p(np.zeros(5)) == 1
    assert math.isnan(signed_rank_p([]))
