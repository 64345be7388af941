"""Split-conformal p-values and thresholds against brute force, scipy and simulation."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from harness.core.conformal import conformal_p_values, flag_rank, texts_needed, threshold_at_fpr
from harness.core.errors import DataError

POOLS = [
    [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    [1.0, 1.0, 1.0, 2.0, 2.0, 3.0],
    [0.0, 0.0, 0.0, 0.0, 0.0, 7.0],
    [0.0] * 6,
    [-math.inf, 0.0, 0.0, 1.0, math.inf, math.inf],
    [3.0, 1.0],
]
RATES = [0.05, 1 / 6, 0.2, 0.25, 1 / 3, 0.5, 0.75, 0.9]


def test_p_values_are_what_they_say() -> None:
    draw = np.random.default_rng(0)
    calibration, scores = draw.integers(0, 9, 40).astype(float), draw.integers(-2, 12, 60).astype(float)
    counted = [(1 + sum(c >= s for c in calibration)) / 41 for s in scores]
    np.testing.assert_array_equal(conformal_p_values(calibration, scores), counted)
    np.testing.assert_array_equal(conformal_p_values([], scores), np.ones(60))
    assert conformal_p_values(calibration, []).shape == (0,)
    with pytest.raises(DataError, match="NaN"):
        conformal_p_values(calibration, [math.nan])
    with pytest.raises(DataError, match="NaN"):
        conformal_p_values([math.nan], scores)


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_the_expected_rate_is_kept_exactly(pool: list[float]) -> None:
    """Over every order of a pool of m + 1 texts, the last being the new one: P(p <= alpha) <= alpha, in fractions."""
    orders = list(itertools.permutations(pool))
    for rate in RATES:
        flagged = 0
        for *calibration, new in orders:
            p = conformal_p_values(calibration, [new])[0]
            flags = new > threshold_at_fpr(calibration, rate)
            assert flags == (p <= rate + 1e-12)
            flagged += flags
        share = Fraction(flagged, len(orders))
        assert share <= Fraction(rate).limit_denominator(100)
        if len(set(pool)) == len(pool):  # without ties all of the budget is used that the number of texts allows
            assert share == Fraction(math.floor(rate * len(pool) + 1e-9), len(pool))


def test_the_threshold_is_the_p_value_at_any_size() -> None:
    draw = np.random.default_rng(1)
    for _ in range(300):
        m, rate = int(draw.integers(1, 120)), float(draw.choice([0.01, 0.05, 0.1, 0.3, 0.7]))
        held, new = (draw.integers(0, 30, n).astype(float) for n in (m, 50))
        np.testing.assert_array_equal(new > threshold_at_fpr(held, rate), conformal_p_values(held, new) <= rate + 1e-12)


def ties(draw: np.random.Generator) -> np.ndarray:
    """500 scores of a population, a third of them tied at 0."""
    return np.where(draw.random(500) < 1 / 3, 0.0, np.round(draw.normal(size=500) ** 2, 1))


@pytest.mark.parametrize("rate", [0.05, 0.1])
@pytest.mark.parametrize("tied", [False, True])
def test_the_mean_over_200_splits_keeps_the_rate(tied: bool, rate: float) -> None:
    draw = np.random.default_rng(2)
    pool = ties(draw) if tied else draw.normal(size=500)
    realised = []
    for _ in range(200):
        order = draw.permutation(500)
        threshold = threshold_at_fpr(pool[order[:150]], rate)
        realised.append((pool[order[150:]] > threshold).mean())
    error = 3 * np.std(realised) / math.sqrt(200)
    assert np.mean(realised) <= rate + error
    if not tied:
        assert np.mean(realised) >= math.floor(rate * 151) / 151 - error


CONFIDENT = [(59, 0.05, 0.95), (58, 0.05, 0.95), (200, 0.05, 0.95), (500, 0.01, 0.9), (30, 0.3, 0.5), (5000, 0.1, 0.99)]


@pytest.mark.parametrize(("m", "fpr", "confidence"), CONFIDENT)
def test_the_rank_with_confidence_is_that_of_the_beta_distribution(m: int, fpr: float, confidence: float) -> None:
    enough = [k for k in range(1, m + 1) if stats.beta.cdf(fpr, m + 1 - k, k) >= confidence]
    plain = flag_rank(m, fpr)
    assert flag_rank(m, fpr, confidence) == (max(enough[0], plain or 0) if enough else None)


def test_the_rank_grows_with_the_confidence_and_holds_for_many_texts() -> None:
    ranks = [flag_rank(100_000, 0.05, c) for c in (None, 0.6, 0.9, 0.99, 0.9999)]
    assert all(a < b for a, b in itertools.pairwise(ranks))
    assert stats.beta.cdf(0.05, 100_001 - ranks[3], ranks[3]) >= 0.99
    assert stats.beta.cdf(0.05, 100_002 - ranks[3], ranks[3] - 1) < 0.99
    # A small confidence asks for less than the expectation does: it never loosens the promise.
    assert flag_rank(200, 0.05, 0.01) == flag_rank(200, 0.05)


@pytest.mark.parametrize("tied", [False, True])
def test_with_confidence_the_rate_of_a_set_is_kept_so_often(tied: bool) -> None:
    """2,000 calibration sets from a known law: the share of sets whose rate is above fpr is at most 10 %."""
    draw = np.random.default_rng(3)
    m, fpr, confidence = 150, 0.1, 0.9
    held = draw.random((2000, m))
    if tied:
        held = np.floor(held * 40) / 40
    k = flag_rank(m, fpr, confidence)
    assert k is not None
    thresholds = np.array([threshold_at_fpr(row, fpr, confidence) for row in held])
    np.testing.assert_array_equal(thresholds, np.sort(held, axis=1)[:, k - 1])
    rates = 1 - thresholds - (1 / 40 if tied else 0)  # P(U > t), and P(grid > t)
    above = (rates > fpr + 1e-9).mean()
    assert above <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / 2000)
    if not tied:
        expected = 1 - stats.beta.cdf(fpr, m + 1 - k, k)
        assert abs(above - expected) <= 3 * math.sqrt(expected * (1 - expected) / 2000)


@pytest.mark.parametrize("confidence", [None, 0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("fpr", [0.001, 0.01, 0.05, 0.1, 1 / 3, 0.5, 0.9])
def test_the_fewest_texts(fpr: float, confidence: float | None) -> None:
    m = texts_needed(fpr, confidence)
    assert m is not None
    assert flag_rank(m, fpr, confidence) is not None
    assert flag_rank(m - 1, fpr, confidence) is None
    assert m >= 1 / fpr - 1 - 1e-6
    assert confidence is None or (1 - fpr) ** m <= 1 - confidence + 1e-12


def test_too_few_texts_flag_nothing() -> None:
    assert texts_needed(0.05) == 19
    assert texts_needed(0.05, 0.95) == 59
    assert texts_needed(0) is None
    assert threshold_at_fpr(np.arange(18), 0.05) == math.inf
    assert threshold_at_fpr(np.arange(19), 0.05) == 18
    assert threshold_at_fpr(np.arange(58), 0.05, 0.95) == math.inf
    assert threshold_at_fpr(np.arange(59), 0.05, 0.95) == 58
    assert threshold_at_fpr(np.arange(9), 0, 0.5) == math.inf


@pytest.mark.parametrize(("m", "fpr", "confidence"), [(-1, 0.1, None), (3, 1, None), (3, 0.1, 0), (3, 0.1, 1)])
def test_numbers_out_of_range_are_refused(m: int, fpr: float, confidence: float | None) -> None:
    with pytest.raises(ValueError, match="no promise"):
        flag_rank(m, fpr, confidence)
