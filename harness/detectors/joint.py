"""Several detectors under one false-positive budget: a threshold each, tuned jointly, or their p-values combined.

A text is flagged when any detector's score exceeds that detector's own threshold; all thresholds move together with
one number, so that the rule is a scalar score, which a split-conformal calibration on other clean texts gives its
promise, whatever the dependence between the detectors. The thresholds share the budget equally, or, where adversarial
texts are at hand, so that most of those are flagged: optimisation of many thresholds under one budget, after the idea
of arXiv 2208.07522.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from harness.core.conformal import flag_rank, threshold_at_fpr
from harness.core.errors import ConfigurationError, DataError, NotFittedError
from harness.detectors.base import Arrays, Floats
from harness.detectors.states import Array, bad_state, check_arrays

METHODS = ("thresholds", "bonferroni", "simes", "fisher", "cauchy", "harmonic")
# Log weights that the search tries: a detector without a share of the budget, and factors of e^0.5 up to e^6.
_LOG_WEIGHTS = np.concatenate([[-np.inf], np.arange(-12, 13) / 2])
_SWEEPS = 20
# Beyond it a p-value has no tangent in float64.
_LARGEST_SURPRISE = 700.0


class JointDecision:
    """Scores of D detectors made one score, higher = more adversarial.

    Each detector's score s becomes its surprise y = -log p, with p = (1 + #{tuning scores >= s}) / (n + 1) at the n
    clean tuning texts' scores, linear between them and on beyond the largest with the slope of the upper tenth. Then

    - `thresholds`: max over detectors of y + log w. A threshold t on it is a threshold on each detector that spends
      w exp(-t) of the budget. Weights w are equal, or found by coordinate search on adversarial tuning texts;
    - `bonferroni`: the smallest p-value, which is `thresholds` with equal weights;
    - `simes` (Simes, Biometrika 1986): -min over i of D p_(i) / i;
    - `fisher` (Fisher, 1932): -2 times the sum of log p;
    - `cauchy` (Liu and Xie, JASA 2020): the mean of tan(pi (1/2 - p));
    - `harmonic` (Wilson, PNAS 2019): -log of the harmonic mean of p.

    The published combinations bring thresholds of their own, which hold under independence or only roughly; none is
    used here: each score is calibrated on other clean texts.

    Args:
        method: One of `METHODS`.
        fpr: The budget for which weights are searched.

    Raises:
        ConfigurationError: There is no such method, or no such rate.
    """

    def __init__(self, method: str = "thresholds", fpr: float = 0.05) -> None:
        if method not in METHODS:
            raise ConfigurationError(f"there is no way {method!r} to join detectors.", f"Known: {', '.join(METHODS)}.")
        if not 0 < fpr < 1:
            raise ConfigurationError(f"a false-positive rate of {fpr:g} is not above 0 and below 1.")
        self.method = method
        self.fpr = fpr
        self._arrays: Arrays = {}

    def fit(self, clean: Floats, adversarial: Floats | None = None) -> Self:
        """Learn each detector's surprise, and the weights where the method has some.

        Args:
            clean: (n, D) scores of clean tuning texts that no detector was fitted on.
            adversarial: (a, D) scores of adversarial tuning texts; without them, and for p-value combinations,
                weights are equal.

        Raises:
            DataError: Fewer than two clean texts, or scores that are not finite.
        """
        clean = _checked(clean)
        if len(clean) < 2 or not np.isfinite(clean).all():
            raise DataError(
                f"detectors are joined on the finite scores of at least two clean texts, there are {len(clean)}."
                if len(clean) < 2
                else "detectors cannot be joined: a score of a clean text is infinite."
            )
        arrays: Arrays = {"texts": np.array([len(clean)], np.int64)}
        slopes = []
        for d, column in enumerate(clean.T):
            knots, counts = np.unique(column, return_counts=True)
            at_least = np.cumsum(counts[::-1])[::-1]
            surprises = -np.log((1 + at_least) / (len(column) + 1))
            arrays |= {f"knots.{d}": knots, f"surprises.{d}": surprises}
            slopes.append(_tail_slope(column, knots, surprises))
        arrays["slopes"] = np.array(slopes)
        arrays["log_weights"] = np.zeros(clean.shape[1])
        self._arrays = arrays
        if self.method == "thresholds" and adversarial is not None and len(adversarial):
            seen = self.surprises(_checked(adversarial, clean.shape[1]))
            arrays["log_weights"] = _search(self.surprises(clean), seen, self.fpr)
        return self

    def surprises(self, scores: Floats) -> Floats:
        """(n, D) surprises -log p of (n, D) scores; each grows with its score, strictly beyond the tuning texts.

        Raises:
            NotFittedError: `fit` was not called.
            DataError: Another number of detectors.
        """
        if not self._arrays:
            raise NotFittedError("the detectors are not joined yet.", "Call fit.")
        slopes = self._arrays["slopes"]
        scores = _checked(scores, len(slopes))
        found = np.empty(scores.shape)
        for d, column in enumerate(scores.T):
            knots = self._arrays[f"knots.{d}"]
            beyond = np.maximum(column - knots[-1], 0.0)
            found[:, d] = np.interp(column, knots, self._arrays[f"surprises.{d}"]) + beyond * slopes[d]
        return found

    def score(self, scores: Floats) -> Floats:
        """(n,) joint scores of (n, D) scores.

        Raises:
            NotFittedError: `fit` was not called.
            DataError: Another number of detectors.
        """
        y = self.surprises(scores)
        count = y.shape[1]
        if self.method == "simes":
            ranked = -np.sort(-y, axis=1)
            found = (ranked + np.log(np.arange(1, count + 1) / count)).max(axis=1)
        elif self.method == "fisher":
            found = 2 * y.sum(axis=1)
        elif self.method == "cauchy":
            found = _cauchy(y, int(self._arrays["texts"][0]))
        elif self.method == "harmonic":
            largest = y.max(axis=1, keepdims=True)
            finite = np.where(np.isinf(largest), 0.0, largest)
            found = largest[:, 0] + np.log(np.exp(np.minimum(y - finite, 0.0)).mean(axis=1))
        else:
            found = _weighted(y, self.log_weights)
        result: Floats = np.asarray(found, dtype=np.float64)
        return result

    @property
    def log_weights(self) -> Floats:
        """(D,) log weights, the largest 0; minus infinity for a detector that never flags. Equal = all 0."""
        return np.asarray(self._arrays["log_weights"], dtype=np.float64)

    def thresholds(self, threshold: float) -> Floats:
        """Each detector's own threshold where the joint score's is `threshold`: (D,), flag when any score exceeds its.

        They are exact to rounding: of a joint score that ties with `threshold` only that score decides.

        Raises:
            ConfigurationError: The method combines p-values and has no thresholds.
        """
        if self.method not in ("thresholds", "bonferroni"):
            raise ConfigurationError(f"detectors joined by {self.method} have no thresholds of their own.")
        found = []
        for d, log_weight in enumerate(self.log_weights):
            knots, surprises = self._arrays[f"knots.{d}"], self._arrays[f"surprises.{d}"]
            wanted = threshold - log_weight
            if wanted > surprises[-1]:
                found.append(knots[-1] + (wanted - surprises[-1]) / self._arrays["slopes"][d])
            elif wanted < surprises[0]:
                found.append(-np.inf)  # every score is a surprise of `surprises[0]` at least
            else:
                found.append(np.interp(wanted, surprises, knots))
        return np.array(found)

    def arrays(self) -> Arrays:
        """The fitted arrays."""
        return dict(self._arrays)

    def check(self, arrays: Mapping[str, NDArray[Any]], detectors: int) -> None:
        """Refuse arrays that no fit leaves on so many detectors.

        Raises:
            DataError: They are no such arrays.
        """
        layout = {
            "texts": Array("int64", (1,)),
            "slopes": Array("float64", (detectors,)),
            "log_weights": Array("float64", (detectors,), finite=False),
        }
        for d in range(detectors):
            layout |= {f"{kind}.{d}": Array("float64", (f"tuning{d}",)) for kind in ("knots", "surprises")}
        check_arrays("joint", layout, arrays)
        if not arrays:
            return
        if arrays["texts"][0] < 2 or (arrays["slopes"] <= 0).any() or arrays["log_weights"].max() != 0:
            raise bad_state("joint", "texts, slopes or log_weights are of no tuning")
        for d in range(detectors):
            if any((np.diff(arrays[f"{kind}.{d}"]) < 0).any() for kind in ("knots", "surprises")):
                raise bad_state("joint", f"the surprises of detector {d} do not rise")

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Take fitted arrays back."""
        self._arrays = dict(arrays)
        return self


def compare_methods(
    tuning: Floats,
    calibration: Floats,
    clean: Floats,
    adversarial: Floats,
    *,
    names: tuple[str, ...],
    fpr: float,
    confidence: float | None = None,
    tuning_adversarial: Floats | None = None,
) -> list[dict[str, Any]]:
    """Every way to join detectors, and every detector alone, calibrated on the same texts and measured on others.

    Args:
        tuning: (n, D) scores of clean tuning texts.
        calibration: (m, D) of other clean texts.
        clean: (c, D) of clean test texts, at least one.
        adversarial: (a, D) of adversarial test texts, at least one.
        names: The D detectors.
        fpr: The rate promised to each.
        confidence: As in `harness.core.conformal.flag_rank`.
        tuning_adversarial: (b, D) of adversarial tuning texts, for the weights of `thresholds`.

    Returns:
        One row each: `method`, and the realised `tpr` and `fpr`.
    """
    scored: list[tuple[str, Floats, Floats, Floats]] = [
        (name, calibration[:, d], clean[:, d], adversarial[:, d]) for d, name in enumerate(names)
    ]
    for method in METHODS:
        joint = JointDecision(method, fpr).fit(tuning, tuning_adversarial)
        scored.append((method, joint.score(calibration), joint.score(clean), joint.score(adversarial)))
    rows = []
    for name, held, negative, positive in scored:
        threshold = threshold_at_fpr(held, fpr, confidence)
        rows.append(
            {
                "method": name,
                "tpr": float((positive > threshold).mean()),
                "fpr": float((negative > threshold).mean()),
            }
        )
    return rows


def _tail_slope(column: Floats, knots: Floats, surprises: Floats) -> float:
    """Surprise a unit of score over the upper tenth of the tuning scores, to go on with beyond the largest."""
    start = int(np.searchsorted(knots, np.quantile(column, 0.9, method="lower")))
    if start == len(knots) - 1:
        start = 0  # the upper tenth is tied
    rise, run = surprises[-1] - surprises[start], knots[-1] - knots[start]
    slope = rise / run if run > 0 else 1.0
    return float(slope) if 0 < slope < np.inf else 1.0


def _weighted(y: Floats, log_weights: Floats) -> Floats:
    """The largest weighted surprise of each text; an infinite one counts for nothing where the weight is 0."""
    shares = np.isfinite(log_weights)
    largest: Floats = (y[:, shares] + log_weights[shares]).max(axis=1)
    return largest


def _cauchy(y: Floats, texts: int) -> Floats:
    """Mean of tan(pi (1/2 - p)); p is kept from 1, where one detector would outvote all others."""
    p = np.minimum(np.exp(-np.minimum(y, _LARGEST_SURPRISE)), 1 - 1 / (texts + 1))
    small = p < 1e-8
    found: Floats = np.where(small, 1 / (np.pi * p), np.tan(np.pi * (0.5 - np.where(small, 0.5, p)))).mean(axis=1)
    return found


def _search(clean: Floats, adversarial: Floats, fpr: float) -> Floats:
    """Log weights under which most adversarial texts exceed the threshold that the clean ones set.

    One detector's weight at a time, as long as it helps; from equal weights and from each detector alone. Of equal
    ones the first is kept, so that equal weights stay where nothing is better.
    """
    count = clean.shape[1]
    fallback = flag_rank(len(clean), fpr) is None

    def flagged(log_weights: Floats) -> int:
        held = _weighted(clean, log_weights)
        threshold = held.max() if fallback else threshold_at_fpr(held, fpr)
        return int((_weighted(adversarial, log_weights) > threshold).sum())

    best, most = np.zeros(count), -1
    for start in (np.zeros(count), *np.where(np.eye(count, dtype=bool), 0.0, -np.inf)):
        current = start.copy()
        found = flagged(current)
        for _ in range(_SWEEPS):
            before = found
            for d in range(count):
                for value in _LOG_WEIGHTS:
                    tried = current.copy()
                    tried[d] = value
                    if np.isfinite(tried).any() and (now := flagged(tried)) > found:
                        current, found = tried, now
            if found == before:
                break
        if found > most:
            best, most = current, found
    shifted: Floats = best - best.max()
    return shifted


def _checked(scores: Floats, detectors: int | None = None) -> Floats:
    """Scores as an (n, D) float64 matrix without NaN."""
    matrix = np.asarray(scores, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[1] == 0 or (detectors is not None and matrix.shape[1] != detectors):
        wanted = "at least one detector" if detectors is None else f"{detectors} detectors"
        raise DataError(f"joined scores are a matrix, texts by {wanted}; got shape {matrix.shape}.")
    if np.isnan(matrix).any():
        raise DataError("a score to join is NaN.")
    return matrix
