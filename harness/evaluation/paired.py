"""Paired comparison of detectors on the same texts: a cluster bootstrap of the difference of their AUCs.

Two detectors are scored on the same texts, so their errors go together, and whether two intervals overlap says
little of whether the detectors differ. Here each replicate weighs the source texts once, for all detectors and all
sampling seeds, and the differences are taken within it. The replicates are those of `mean_over_seeds`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.core.comparisons import holm
from harness.core.errors import DataError
from harness.core.stats import iter_cluster_weights, percentile_interval
from harness.evaluation.auc import WeightedAUC
from harness.evaluation.metrics import global_codes

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class AUCDifference:
    """How much better one detector is than another, AUC averaged over sampling seeds.

    Attributes:
        detector: The one.
        reference: The other.
        value: AUC of the detector less that of the reference.
        low: Lower bound of the percentile interval; NaN where the bootstrap could not give it.
        high: Upper bound.
        p: Two-sided p-value of no difference, see `bootstrap_p`.
        p_holm: The same after Holm's correction over all comparisons of one call.
    """

    detector: str
    reference: str
    value: float
    low: float
    high: float
    p: float
    p_holm: float


def compare_aucs(
    scores: Mapping[str, Sequence[ArrayLike]],
    adversarial: Sequence[ArrayLike],
    clusters: Sequence[ArrayLike],
    references: Sequence[str],
    *,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> list[AUCDifference]:
    """Compare every detector with every reference.

    Args:
        scores: Detector -> one array of shape (n_s,) for each sampling seed s: all of the same texts in one order.
        adversarial: One array for each sampling seed, True for an adversarial text.
        clusters: Likewise, the source text of each row: integers or strings, the same across the seeds.
        references: Detectors among `scores` to compare all others with.
        replicates: Bootstrap replicates B.
        seed: Seed of the bootstrap.
        level: Level of the intervals.

    Returns:
        A comparison for each reference and each other detector, in that order. Two references are compared with each
        other once. Holm's correction is over the whole list.

    Raises:
        DataError: If a score is NaN, or one of the classes is absent from a sample.
        ValueError: If shapes do not fit, a reference is not among the detectors, or an option is out of range.
    """
    missing = [name for name in references if name not in scores]
    if missing:
        raise ValueError(f"the reference {missing[0]!r} has no scores.")
    pairs: list[tuple[str, str]] = []
    for reference in references:
        others = [name for name in scores if name != reference and (reference, name) not in pairs]
        pairs += [(name, reference) for name in others]
    if not pairs:
        return []
    values, drawn = auc_replicates(scores, adversarial, clusters, replicates=replicates, seed=seed)
    found = []
    for name, reference in pairs:
        apart = drawn[name] - drawn[reference]
        low, high = percentile_interval(apart, level)
        difference = values[name] - values[reference]
        found.append((name, reference, difference, low, high, bootstrap_p(difference, apart)))
    corrected = holm([p for *_, p in found])
    return [AUCDifference(*row, float(p)) for row, p in zip(found, corrected, strict=True)]


def auc_replicates(
    scores: Mapping[str, Sequence[ArrayLike]],
    adversarial: Sequence[ArrayLike],
    clusters: Sequence[ArrayLike],
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> tuple[dict[str, float], dict[str, Floats]]:
    """AUC of every detector, averaged over the sampling seeds, and the same in each bootstrap replicate.

    Args:
        scores: As in `compare_aucs`.
        adversarial: Likewise.
        clusters: Likewise.
        replicates: Bootstrap replicates B.
        seed: Seed of the bootstrap.

    Returns:
        Detector -> value, and detector -> (B,) float64, NaN where a class is absent from a sample.

    Raises:
        DataError: If a score is NaN, or one of the classes is absent from a sample.
        ValueError: If shapes do not fit, or there is no sample.
    """
    labels = [np.asarray(flags, dtype=np.bool_) for flags in adversarial]
    if not labels or any(len(samples) != len(labels) for samples in (clusters, *scores.values())):
        raise ValueError("scores, adversarial and clusters must hold one entry a seed, and one at least.")
    for flags in labels:
        if flags.all() or not flags.any():
            present = "adversarial" if flags.any() else "clean"
            raise DataError(f"all {flags.size} texts are {present}.", "Detection needs clean and adversarial texts.")
    rankings = {
        name: [WeightedAUC(values, flags) for values, flags in zip(samples, labels, strict=True)]
        for name, samples in scores.items()
    }
    bounds = np.cumsum([0, *(flags.size for flags in labels)])
    codes = global_codes(clusters, [flags.size for flags in labels])
    value = {name: float(np.mean([auc()[0] for auc in ranking])) for name, ranking in rankings.items()}
    drawn: dict[str, list[Floats]] = {name: [] for name in scores}
    for weights in iter_cluster_weights(codes, replicates, seed):
        parts = [weights[:, i:j] for i, j in pairwise(bounds)]
        for name, ranking in rankings.items():
            drawn[name].append(np.mean([auc(part) for auc, part in zip(ranking, parts, strict=True)], axis=0))
    return value, {name: np.concatenate(chunks) for name, chunks in drawn.items()}


def bootstrap_p(value: float, replicates: Floats) -> float:
    """Two-sided p-value of "the difference is 0": the value against the normal with the replicates' deviation.

    As in pROC's bootstrap test of two paired curves (Robin et al., BMC Bioinformatics 12:77, 2011). Counting replicates
    beyond 0 instead cannot give less than 2/(B + 1), which Holm's correction over some 30 comparisons turns into more
    than 5 % at B = 1,000, whatever the difference.

    Args:
        value: The difference.
        replicates: (B,) the difference in each bootstrap replicate, NaN where it is undefined.

    Returns:
        The p-value. Where the replicates do not differ from one another, 1 for a value of 0, else NaN: texts so few
        that resampling them changes nothing prove nothing. NaN too if more than half are undefined.
    """
    defined = replicates[~np.isnan(replicates)]
    if defined.size < 2 or 2 * defined.size < replicates.size:
        return math.nan
    deviation = float(defined.std(ddof=1))
    if deviation == 0:
        return 1.0 if value == 0 else math.nan
    return math.erfc(abs(value) / deviation / math.sqrt(2))
