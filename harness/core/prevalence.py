"""What a detector's rates mean where few texts are adversarial.

TPR and FPR do not depend on how many texts are adversarial; what a user sees does. At one adversarial text in a
thousand, a detector with a TPR of 90 % and an FPR of 5 % is wrong in 98 of 100 alarms. Rates may be numbers or arrays
that broadcast; results are float64 arrays, or a float where all arguments are numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

# One text in a hundred and one in a thousand.
PREVALENCES = (0.01, 0.001)


def precision_at_prevalence(tpr: ArrayLike, fpr: ArrayLike, prevalence: ArrayLike) -> Any:
    """Share of flagged texts that are adversarial (positive predictive value).

    Args:
        tpr: Share of adversarial texts that are flagged.
        fpr: Share of clean texts that are flagged.
        prevalence: Share of all texts that are adversarial.

    Returns:
        pi TPR / (pi TPR + (1 - pi) FPR); NaN where nothing is flagged.

    Raises:
        ValueError: One of them is not from 0 to 1.
    """
    hit, alarm, _ = _shares(tpr, fpr, prevalence)
    return _ratio(hit, hit + alarm, np.nan)


def flagged_per_thousand(tpr: ArrayLike, fpr: ArrayLike, prevalence: ArrayLike) -> Any:
    """Texts flagged among 1,000, right or wrong, on average: 1,000 (pi TPR + (1 - pi) FPR).

    Args:
        tpr: Share of adversarial texts that are flagged.
        fpr: Share of clean texts that are flagged.
        prevalence: Share of all texts that are adversarial.

    Raises:
        ValueError: One of them is not from 0 to 1.
    """
    hit, alarm, _ = _shares(tpr, fpr, prevalence)
    return _plain(1000 * (hit + alarm))


def f1_at_prevalence(tpr: ArrayLike, fpr: ArrayLike, prevalence: ArrayLike) -> Any:
    """F1 = 2 pi TPR / (pi TPR + (1 - pi) FPR + pi); 0 where nothing adversarial is flagged.

    Args:
        tpr: Share of adversarial texts that are flagged.
        fpr: Share of clean texts that are flagged.
        prevalence: Share of all texts that are adversarial.

    Raises:
        ValueError: One of them is not from 0 to 1.
    """
    hit, alarm, share = _shares(tpr, fpr, prevalence)
    return _ratio(2 * hit, hit + alarm + share, 0.0)


def _shares(tpr: ArrayLike, fpr: ArrayLike, prevalence: ArrayLike) -> tuple[Any, Any, Any]:
    """Shares of all texts: adversarial and flagged, clean and flagged, adversarial. NaN rates stay NaN."""
    rates = np.broadcast_arrays(*(np.asarray(rate, dtype=np.float64) for rate in (tpr, fpr, prevalence)))
    if any(((rate < 0) | (rate > 1)).any() for rate in rates):
        raise ValueError("rates and prevalence are from 0 to 1.")
    return rates[2] * rates[0], (1 - rates[2]) * rates[1], rates[2]


def _ratio(part: Any, whole: Any, undefined: float) -> Any:
    # `whole != 0`, not `whole > 0`: a NaN rate must come out as NaN and not as `undefined`.
    return _plain(np.divide(part, whole, out=np.full(np.shape(whole), undefined), where=whole != 0))


def _plain(values: Any) -> Any:
    return float(values) if np.ndim(values) == 0 else values
