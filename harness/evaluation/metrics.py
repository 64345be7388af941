"""Detection metrics: scores of clean and adversarial texts in, numbers with intervals out.

Higher scores mean more adversarial. Every metric comes from one sort of the scores and is computed for a
whole matrix of row weights at once, so that a bootstrap costs a few cumulative sums and no resampled copy.

Two kinds of threshold are kept apart. `tpr_at_fpr_*`, `fpr_at_tpr_95` and `f1_at_fpr_10` pick their threshold
on the scored texts themselves, as the literature does (Yoo et al., Findings of ACL 2022); they describe the
ranking. `*_heldout_*` use a threshold set on other clean texts; they describe a detector in use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.core.conformal import checked_scores
from harness.core.conformal import threshold_at_fpr as threshold_at_fpr  # noqa: PLC0414 - kept importable from here
from harness.core.errors import DataError
from harness.core.stats import iter_cluster_weights, percentile_interval

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_FPR_LIMITS = {"tpr_at_fpr_1": 0.01, "tpr_at_fpr_5": 0.05, "tpr_at_fpr_10": 0.1}
# A rate that equals its limit on paper, such as 3/30 and 0.1, must count as equal. A rate of m texts that
# differs from whole percent does so by 1 / (100 m) or more, so the slack decides nothing below 10**8 texts.
_RATE_SLACK = 1e-10
# Entries of one float64 temporary: 4 MiB, of which a handful live at a time.
_CHUNK_ENTRIES = 1 << 19


class Estimate(NamedTuple):
    """A metric with its bootstrap interval; the bounds are NaN where the bootstrap could not give them."""

    value: float
    low: float
    high: float


@overload
def detection_metrics(scores: ArrayLike, adversarial: ArrayLike, weights: None = None) -> dict[str, float]: ...
@overload
def detection_metrics(scores: ArrayLike, adversarial: ArrayLike, weights: NDArray[Any]) -> dict[str, Floats]: ...
def detection_metrics(
    scores: ArrayLike, adversarial: ArrayLike, weights: NDArray[Any] | None = None
) -> dict[str, float] | dict[str, Floats]:
    """All of `ORACLE_METRICS`, unweighted or for each row of a matrix of weights.

    A threshold t flags the texts with score >= t. Texts with equal scores are flagged together or not at all,
    and nothing is interpolated between thresholds; "flag nothing" is always available.

    - `auc`: area under the ROC curve; a tie between a clean and an adversarial text counts half.
    - `aupr`: average precision, the sum of precision times the step in recall.
    - `tpr_at_fpr_1`, `_5`, `_10`: largest TPR over the thresholds with an FPR of at most 1, 5, 10 %.
    - `fpr_at_tpr_95`: smallest FPR over the thresholds with a TPR of at least 95 %.
    - `f1_at_fpr_10`: F1 at the threshold of `tpr_at_fpr_10`; of thresholds with equal TPR the one with the
      smallest FPR. On balanced classes it is 2 TPR / (1 + TPR + FPR) of that threshold, nothing new.

    Args:
        scores: Shape (n,), any real numbers; infinities only take part in the order.
        adversarial: Shape (n,), True for an adversarial text.
        weights: Shape (B, n), not negative; a row of weights counts each text that often.

    Returns:
        A float for each metric, or an array of shape (B,), float64, which is NaN in the rows where a class
        has no weight.

    Raises:
        DataError: If a score is NaN, or one of the classes is absent.
        ValueError: If shapes do not fit, or a weight is negative or not finite.
    """
    ranking = _Ranking(*_checked(scores, adversarial))
    if weights is None:
        return {k: float(v[0]) for k, v in ranking.metrics(np.ones((1, ranking.size))).items()}
    return _by_chunk(ranking.metrics, _checked_weights(weights, ranking.size))


@overload
def metrics_at_threshold(
    scores: ArrayLike, adversarial: ArrayLike, threshold: float, weights: None = None
) -> dict[str, float]: ...
@overload
def metrics_at_threshold(
    scores: ArrayLike, adversarial: ArrayLike, threshold: float, weights: NDArray[Any]
) -> dict[str, Floats]: ...
def metrics_at_threshold(
    scores: ArrayLike, adversarial: ArrayLike, threshold: float, weights: NDArray[Any] | None = None
) -> dict[str, float] | dict[str, Floats]:
    """TPR, FPR and F1 of the decision score > threshold, for a threshold set elsewhere.

    F1 is 2 TP / (2 TP + FP + FN); it is 0 where nothing adversarial is flagged, even if nothing at all is
    flagged and precision is undefined.

    Args:
        scores: Shape (n,).
        adversarial: Shape (n,), True for an adversarial text.
        threshold: Any number but NaN; infinity flags nothing.
        weights: Shape (B, n), not negative.

    Returns:
        `tpr`, `fpr` and `f1`: floats, or arrays of shape (B,), float64, NaN where a class has no weight.

    Raises:
        DataError: If a score is NaN, or one of the classes is absent.
        ValueError: If the threshold is NaN, shapes do not fit, or a weight is negative or not finite.
    """
    values, labels = _checked(scores, adversarial)
    decision = _Decision(values, labels, threshold)
    if weights is None:
        return {k: float(v[0]) for k, v in decision.metrics(np.ones((1, values.size))).items()}
    return _by_chunk(decision.metrics, _checked_weights(weights, values.size))


def roc_points(scores: ArrayLike, adversarial: ArrayLike) -> tuple[Floats, Floats]:
    """The whole ROC curve, one point for each distinct score and none thinned out.

    Args:
        scores: Shape (n,).
        adversarial: Shape (n,), True for an adversarial text.

    Returns:
        FPR and TPR, each of shape (k + 1,), float64, for k distinct scores; from (0, 0), nothing flagged, to
        (1, 1).

    Raises:
        DataError: If a score is NaN, or one of the classes is absent.
        ValueError: If the shapes do not fit.
    """
    ranking = _Ranking(*_checked(scores, adversarial))
    tp, fp = ranking.counts(np.ones((1, ranking.size)))
    return np.append(0.0, fp[0] / fp[0, -1]), np.append(0.0, tp[0] / tp[0, -1])


def bootstrap_metrics(
    scores: ArrayLike,
    adversarial: ArrayLike,
    clusters: ArrayLike,
    *,
    replicates: int = 1000,
    seed: int = 0,
    thresholds: Mapping[str, float] | None = None,
    level: float = 0.95,
) -> dict[str, Estimate]:
    """All metrics of one sample with percentile intervals from a bootstrap over source texts.

    Args:
        scores: Shape (n,).
        adversarial: Shape (n,), True for an adversarial text.
        clusters: Source text of each row, shape (n,), integers or strings.
        replicates: Bootstrap replicates.
        seed: Seed of the bootstrap.
        thresholds: Thresholds set on held-out clean texts, by a name such as `10`; each adds
            `tpr_heldout_10`, `fpr_heldout_10` (the realised rate) and `f1_heldout_10`. A threshold is held
            fixed: the intervals do not hold the uncertainty of the texts it was set on.
        level: Level of the intervals.

    Returns:
        (value, low, high) for each metric.

    Raises:
        DataError: If a score is NaN, or one of the classes is absent.
        ValueError: If shapes do not fit, or an option is out of range.
    """
    return mean_over_seeds(
        [scores],
        [adversarial],
        [clusters],
        replicates=replicates,
        seed=seed,
        thresholds=None if thresholds is None else [thresholds],
        level=level,
    )


def mean_over_seeds(
    scores: Sequence[ArrayLike],
    adversarial: Sequence[ArrayLike],
    clusters: Sequence[ArrayLike],
    *,
    replicates: int = 1000,
    seed: int = 0,
    thresholds: Sequence[Mapping[str, float]] | None = None,
    level: float = 0.95,
) -> dict[str, Estimate]:
    """Means of all metrics over several sampling seeds, with intervals from one joint bootstrap.

    The samples of several seeds are drawn from the same attack and share most source texts, so neither the
    spread over seeds nor independent bootstraps tell how sure the mean is. Each replicate draws one weight
    for every source text of any sample, applies it in all samples, and averages the metrics over the samples.
    A replicate in which a class is absent from a sample is left out. A rate at a held-out threshold that is 0 or 1 in
    every sample is the same in every replicate; its interval is the exact binomial one, over the distinct texts.

    Args:
        scores: One array of shape (n_s,) for each sampling seed s.
        adversarial: Likewise, True for an adversarial text.
        clusters: Likewise, the source text of each row: integers or strings, the same across the seeds.
        replicates: Bootstrap replicates.
        seed: Seed of the bootstrap, which is not a sampling seed.
        thresholds: One mapping for each sampling seed, all with the same names; see `bootstrap_metrics`.
        level: Level of the intervals.

    Returns:
        (value, low, high) for each metric.

    Raises:
        DataError: If a score is NaN, or one of the classes is absent from a sample.
        ValueError: If numbers or shapes do not fit, names of thresholds differ, or an option is out of range.
    """
    held_out = [{} for _ in scores] if thresholds is None else [dict(t) for t in thresholds]
    if not len(scores) == len(adversarial) == len(clusters) == len(held_out) or not scores:
        raise ValueError("scores, adversarial, clusters and thresholds must hold one entry a seed, and one at least.")
    if any(t.keys() != held_out[0].keys() for t in held_out):
        raise ValueError("every seed must have thresholds of the same names.")

    samples = [_Scored(s, a, t) for s, a, t in zip(scores, adversarial, held_out, strict=True)]
    codes = global_codes(clusters, [sample.size for sample in samples])
    bounds = np.cumsum([0, *(sample.size for sample in samples)])

    positive = np.concatenate([np.asarray(a, dtype=np.bool_) for a in adversarial])
    of_class = {"tpr": positive, "fpr": ~positive}

    values = _mean([sample.metrics(np.ones((1, sample.size))) for sample in samples])
    chunks = [
        _mean([s.metrics(weights[:, i:j]) for s, i, j in zip(samples, bounds, bounds[1:], strict=False)])
        for weights in iter_cluster_weights(codes, replicates, seed)
    ]
    result = {}
    for name, value in values.items():
        low, high = percentile_interval(np.concatenate([chunk[name] for chunk in chunks]), level)
        rate, _, threshold = name.partition("_heldout_")
        if threshold and rate in ("tpr", "fpr") and value[0] in (0, 1):
            low, high = _exact_interval(bool(value[0]), len(np.unique(codes[of_class[rate]])), level)
        result[name] = Estimate(float(value[0]), low, high)
    return result


def _exact_interval(all_flagged: bool, n: int, level: float) -> tuple[float, float]:
    """Clopper and Pearson's interval (Biometrika 1934) of a rate of 0 or 1 among n texts, which no resampling moves."""
    from scipy.stats import binomtest

    low, high = binomtest(n if all_flagged else 0, n).proportion_ci(level, method="exact")
    return float(low), float(high)


class _Ranking:
    """Scores sorted once, most adversarial first, with the places where a threshold may stand.

    Args:
        scores: Shape (n,), without NaN.
        adversarial: Shape (n,), with both classes.
    """

    def __init__(self, scores: Floats, adversarial: Bools) -> None:
        self.size = scores.size
        self._order = np.argsort(-scores, kind="stable")
        ranked = scores[self._order]
        self._ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
        self._positive = adversarial[self._order].astype(np.float64)

    def counts(self, weights: NDArray[Any]) -> tuple[Floats, Floats]:
        """Weight of true and of false positives at each threshold, strict to lax; each of shape (b, k)."""
        ordered = np.take(weights, self._order, axis=1).astype(np.float64)
        # Two sums, not a difference of sums: neither may fall by rounding, or the searches in `metrics` fail.
        tp = np.cumsum(ordered * self._positive, axis=1)
        fp = np.cumsum(ordered * (1 - self._positive), axis=1)
        if self._ends.size < self.size:
            tp, fp = tp[:, self._ends], fp[:, self._ends]
        return tp, fp

    def metrics(self, weights: NDArray[Any]) -> dict[str, Floats]:
        """`ORACLE_METRICS` for weights of shape (b, n); arrays of shape (b,)."""
        tp, fp = self.counts(weights)
        positives, negatives = _totals(tp[:, -1], fp[:, -1])
        tp_step, fp_step = np.diff(tp, axis=1, prepend=0.0), np.diff(fp, axis=1, prepend=0.0)
        flagged = tp + fp
        precision = np.divide(tp, flagged, out=np.zeros_like(tp), where=flagged > 0)

        result = {
            # A clean text lies below the adversarial ones flagged before it and half of those it ties with.
            "auc": np.einsum("bk,bk->b", fp_step, tp - tp_step / 2) / (positives * negatives),
            "aupr": np.einsum("bk,bk->b", tp_step, precision) / positives,
        }
        for name, limit in _FPR_LIMITS.items():
            # Both counts rise along the thresholds, so the last one allowed has the largest TPR.
            allowed = np.count_nonzero(fp <= ((limit + _RATE_SLACK) * negatives)[:, None], axis=1)
            best = np.where(allowed > 0, _pick(tp, np.maximum(allowed - 1, 0)), 0.0)
            result[name] = best / positives
        first = np.argmax(tp >= ((0.95 - _RATE_SLACK) * positives)[:, None], axis=1)
        result["fpr_at_tpr_95"] = _pick(fp, first) / negatives
        # `allowed` and `best` are those of 10 %, the last limit: step back to the first threshold as good.
        cost = np.where(allowed > 0, _pick(fp, np.argmax(tp >= best[:, None], axis=1)), 0.0)
        result["f1_at_fpr_10"] = _f1(best, cost, positives)
        return result


class _Decision:
    """A fixed threshold on one set of scores.

    Args:
        scores: Shape (n,), without NaN.
        adversarial: Shape (n,), with both classes.
        threshold: Flag when the score is larger.
    """

    def __init__(self, scores: Floats, adversarial: Bools, threshold: float) -> None:
        if math.isnan(threshold):
            raise ValueError("the threshold is NaN.")
        flagged = scores > threshold
        # Columns: true positives, false positives, positives, negatives.
        columns = [flagged & adversarial, flagged & ~adversarial, adversarial, ~adversarial]
        self._columns = np.stack(columns, axis=1).astype(np.float64)

    def metrics(self, weights: NDArray[Any]) -> dict[str, Floats]:
        """TPR, FPR and F1 for weights of shape (b, n); arrays of shape (b,)."""
        tp, fp, all_positives, all_negatives = (weights.astype(np.float64) @ self._columns).T
        positives, negatives = _totals(all_positives, all_negatives)
        return {"tpr": tp / positives, "fpr": fp / negatives, "f1": _f1(tp, fp, positives)}


class _Scored:
    """One sample with every metric asked of it: the ranking's and those at held-out thresholds."""

    def __init__(self, scores: ArrayLike, adversarial: ArrayLike, thresholds: Mapping[str, float]) -> None:
        values, labels = _checked(scores, adversarial)
        self.size = values.size
        self._ranking = _Ranking(values, labels)
        self._decisions = {name: _Decision(values, labels, t) for name, t in thresholds.items()}

    def metrics(self, weights: NDArray[Any]) -> dict[str, Floats]:
        result = self._ranking.metrics(weights)
        for name, decision in self._decisions.items():
            result |= {f"{metric}_heldout_{name}": v for metric, v in decision.metrics(weights).items()}
        return result


def _mean(samples: Sequence[dict[str, Floats]]) -> dict[str, Floats]:
    return {name: np.mean([sample[name] for sample in samples], axis=0) for name in samples[0]}


def _pick(table: Floats, column: NDArray[np.intp]) -> Floats:
    return table[np.arange(table.shape[0]), column]


def _totals(positives: Floats, negatives: Floats) -> tuple[Floats, Floats]:
    """Class totals, NaN in both where one of them is 0, so that every metric of that row comes out NaN."""
    defined = (positives > 0) & (negatives > 0)
    return np.where(defined, positives, np.nan), np.where(defined, negatives, np.nan)


def _f1(tp: Floats, fp: Floats, positives: Floats) -> Floats:
    return 2 * tp / (tp + fp + positives)


def _by_chunk(metrics: Callable[[NDArray[Any]], dict[str, Floats]], weights: NDArray[Any]) -> dict[str, Floats]:
    step = max(1, _CHUNK_ENTRIES // weights.shape[1])
    chunks = [metrics(weights[i : i + step]) for i in range(0, weights.shape[0], step)]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def global_codes(clusters: Sequence[ArrayLike], sizes: Sequence[int]) -> NDArray[np.int64]:
    """The source texts of all samples as one vector of integers, equal where the names are equal.

    Args:
        clusters: The source text of each row, for each sample: integers in all, or strings in all.
        sizes: Rows of each sample.

    Raises:
        ValueError: If sizes do not fit, or the names are of different kinds.
    """
    arrays = [np.asarray(c) for c in clusters]
    arrays = [a.astype(np.str_) if a.dtype.kind == "O" else a for a in arrays]
    if any(a.shape != (size,) for a, size in zip(arrays, sizes, strict=True)):
        raise ValueError("clusters must name one source text for each score.")
    if len({"i" if a.dtype.kind in "iu" else a.dtype.kind for a in arrays}) > 1 or arrays[0].dtype.kind not in "iuU":
        raise ValueError("clusters must be integers in all seeds, or strings in all seeds.")
    return np.unique(np.concatenate(arrays), return_inverse=True)[1].astype(np.int64)


def _checked(scores: ArrayLike, adversarial: ArrayLike) -> tuple[Floats, Bools]:
    values, labels = checked_scores(scores), np.asarray(adversarial)
    if labels.shape != values.shape:
        raise ValueError(f"{values.shape} scores do not fit {labels.shape} labels.")
    if labels.dtype != np.bool_ and not np.isin(labels, (0, 1)).all():
        raise ValueError("adversarial must be true or false for each score.")
    flags = labels.astype(np.bool_)
    if flags.all() or not flags.any():
        present = "adversarial" if flags.any() else "clean"
        raise DataError(
            f"all {values.size} scored texts are {present}.", "Detection needs clean and adversarial texts."
        )
    return values, flags


def _checked_weights(weights: NDArray[Any], n: int) -> NDArray[Any]:
    array = np.asarray(weights)
    if array.ndim != 2 or array.shape[0] == 0 or array.shape[1] != n:
        raise ValueError(f"weights must have shape (B, {n}) with B at least 1, got {array.shape}.")
    # The extremes tell of every entry without a temporary as large as the weights; NaN fails both tests.
    if not (array.min() >= 0 and array.max() < np.inf):
        raise ValueError("weights must be finite and not negative.")
    return array
