from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from harness.core.comparisons import delong_test, holm, midranks
from harness.core.errors import DataError


def delong_oracle(first: np.ndarray, second: np.ndarray, adversarial: np.ndarray) -> tuple[float, float, float]:
    """AUCs and the standard error of their difference from the m x n kernel, entry by entry, as in the paper."""
    aucs, v10, v01 = [], [], []
    for scores in (first, second):
        x, y = scores[adversarial], scores[~adversarial]
        psi = np.zeros((len(x), len(y)))
        for i in range(len(x)):
            for j in range(len(y)):
                psi[i, j] = 1.0 if y[j] < x[i] else 0.5 if y[j] == x[i] else 0.0
        aucs.append(psi.sum() / psi.size)
        v10.append([psi[i].sum() / len(y) for i in range(len(x))])
        v01.append([psi[:, j].sum() / len(x) for j in range(len(y))])
    m, n = len(v10[0]), len(v01[0])
    s10, s01 = np.zeros((2, 2)), np.zeros((2, 2))
    for r in range(2):
        for s in range(2):
            s10[r, s] = sum((v10[r][i] - aucs[r]) * (v10[s][i] - aucs[s]) for i in range(m)) / (m - 1)
            s01[r, s] = sum((v01[r][j] - aucs[r]) * (v01[s][j] - aucs[s]) for j in range(n)) / (n - 1)
    contrast = np.array([1.0, -1.0])
    variance = contrast @ (s10 / m + s01 / n) @ contrast
    return aucs[0], aucs[1], math.sqrt(max(0.0, variance))


@settings(max_examples=60, deadline=None)
@given(m=st.integers(2, 12), n=st.integers(2, 12), levels=st.sampled_from([1, 3, 10**6]), seed=st.integers(0, 10**6))
def test_delong_equals_the_components_of_the_paper(m: int, n: int, levels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    adversarial = rng.permutation(np.arange(m + n) < m)
    first, second = np.round((rng.normal(size=(2, m + n)) + adversarial) * levels) / levels
    got = delong_test(first, second, adversarial)
    one, other, error = delong_oracle(first, second, adversarial)
    assert (got.first, got.second) == pytest.approx((one, other), abs=1e-12)
    assert got.difference == pytest.approx(one - other, abs=1e-12)
    assert got.standard_error == pytest.approx(error, abs=1e-9)
    if abs(one - other) > 1e-9 and error > 1e-9:
        assert got.p == pytest.approx(math.erfc(abs(one - other) / error / math.sqrt(2)), abs=1e-9)


def test_delong_holds_its_level_and_finds_a_difference() -> None:
    rng = np.random.default_rng(0)
    adversarial = np.arange(160) < 80
    null, real = [], []
    for _ in range(400):
        shared = rng.normal(size=160) + adversarial
        noise = rng.normal(size=(2, 160))
        null.append(delong_test(shared + 0.7 * noise[0], shared + 0.7 * noise[1], adversarial).p)
        real.append(delong_test(shared + 0.2 * noise[0], shared + 3 * noise[1], adversarial).p)
    # Three standard errors of 0.05 in 400 runs are 0.033.
    assert 0.02 <= np.mean(np.array(null) < 0.05) <= 0.085
    assert np.mean(np.array(real) < 0.05) > 0.8


def test_delong_at_the_edges() -> None:
    adversarial = np.array([False, False, True, True])
    scores = np.array([0.1, 0.2, 0.3, 0.4])
    # A detector and a monotone transform of it; the same pairs in another scale.
    assert delong_test(scores, np.exp(9 * scores), adversarial) == (1.0, 1.0, 0.0, 0.0, 1.0)
    assert delong_test([1, 3, 2, 4], [1, 3, 2, 4], adversarial).p == 1
    opposite = delong_test(scores, -scores, adversarial)
    assert (opposite.difference, opposite.standard_error) == (1, 0)
    assert math.isnan(opposite.p)
    assert delong_test([-math.inf, 0, 1, math.inf], scores, adversarial).first == 1
    with pytest.raises(DataError, match="1 adversarial and 3 clean"):
        delong_test(scores, scores, np.arange(4) == 0)
    with pytest.raises(DataError, match="NaN"):
        delong_test(scores, [0, math.nan, 1, 2], adversarial)
    with pytest.raises(ValueError, match="one length"):
        delong_test(scores, scores[:3], adversarial)


@given(st.lists(st.integers(-3, 3), max_size=30))
def test_midranks_are_scipys(values: list[int]) -> None:
    assert midranks(values).tolist() == rankdata(values).tolist()


def test_holm_by_hand() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04, which may not fall.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]).tolist() == [1, 1]
    assert holm([0.02]).tolist() == [0.02]
    assert holm([]).size == 0
    # A test without a result is a test still.
    got = holm([math.nan, 0.01])
    assert math.isnan(got[0])
    assert got[1] == 0.02
    for bad in ([1.1], [-0.1], [[0.1]]):
        with pytest.raises(ValueError, match="p-values"):
            holm(bad)


@given(st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.012, 0.04, 0.05, 0.3, 1.0]), min_size=1, max_size=8))
def test_holm_rejects_as_the_step_down_procedure(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for alpha in (0.011, 0.051, 0.11):
        rejected: set[int] = set()
        for step, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
            if p_values[i] * (len(p_values) - step) > alpha:
                break
            rejected.add(i)
        assert {i for i, p in enumerate(adjusted) if p <= alpha} == rejected
