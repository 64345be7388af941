"""Metrics at a prevalence against counting."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.core.prevalence import PREVALENCES, f1_at_prevalence, flagged_per_thousand, precision_at_prevalence


@pytest.mark.parametrize("adversarial", [1, 10, 500, 999])
@pytest.mark.parametrize("hits", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("alarms", [0, 1])
def test_rates_are_counts_of_a_thousand_texts(adversarial: int, hits: float, alarms: int) -> None:
    tp = round(hits * adversarial)
    truth = np.arange(1000) < adversarial
    flagged = np.arange(1000) < tp
    flagged[1000 - alarms :] = True
    tpr, fpr = flagged[truth].mean(), flagged[~truth].mean()
    prevalence = adversarial / 1000
    fp, fn = int((flagged & ~truth).sum()), int((~flagged & truth).sum())
    assert flagged_per_thousand(tpr, fpr, prevalence) == pytest.approx(flagged.sum())
    assert f1_at_prevalence(tpr, fpr, prevalence) == pytest.approx(2 * tp / (2 * tp + fp + fn))
    precision = precision_at_prevalence(tpr, fpr, prevalence)
    if flagged.any():
        assert precision == pytest.approx(tp / (tp + fp))
    else:
        assert math.isnan(precision)


def test_known_figures() -> None:
    assert PREVALENCES == (0.01, 0.001)
    assert precision_at_prevalence(0.9, 0.05, 0.001) == pytest.approx(0.9 / (0.9 + 999 * 0.05))
    assert flagged_per_thousand(0.9, 0.05, 0.01) == pytest.approx(9 + 49.5)
    # Balanced classes and an FPR of 10 %, as the literature reports F1.
    assert f1_at_prevalence(0.8, 0.1, 0.5) == pytest.approx(2 * 0.8 / (1.1 + 0.8))


def test_arrays_broadcast_and_gaps_stay_gaps() -> None:
    found = precision_at_prevalence(np.array([[0.5], [1.0]]), 0.1, np.array(PREVALENCES))
    assert found.shape == (2, 2)
    assert found[1, 0] == precision_at_prevalence(1.0, 0.1, 0.01)
    assert math.isnan(f1_at_prevalence(math.nan, 0.1, 0.5))
    assert math.isnan(precision_at_prevalence(0.5, math.nan, 0.5))
    assert f1_at_prevalence(0.0, 0.0, 0.0) == 0.0


@pytest.mark.parametrize("rates", [(1.1, 0, 0.5), (0.5, -0.1, 0.5), (0.5, 0.1, 2)])
def test_what_is_no_rate_is_refused(rates: tuple[float, float, float]) -> None:
    for metric in (precision_at_prevalence, flagged_per_thousand, f1_at_prevalence):
        with pytest.raises(ValueError, match="from 0 to 1"):
            metric(*rates)
