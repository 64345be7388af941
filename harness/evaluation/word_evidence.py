"""Word-level evidence: do a detector's word scores point at the words that the attack put in?

A detector scores every word of an attacked text; the words known to be substituted are the ones to find. Texts
are the units: intervals come from a bootstrap over source texts, since words of one text are not independent.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.core.errors import DataError
from harness.core.stats import iter_cluster_weights, percentile_interval
from harness.evaluation.auc import WeightedAUC
from harness.evaluation.metrics import Estimate, global_codes
from harness.text.words import changed_positions, find_words

if TYPE_CHECKING:
    from harness.text.adversarial import AdversarialRow

Floats = NDArray[np.float64]

_CUTS = (1, 3)
WORD_METRICS = ("auc_pooled", "auc_per_text", "r_precision", *(f"precision_at_{k}" for k in _CUTS))


@dataclass(frozen=True)
class WordEvidence:
    """How well word scores find the substituted words.

    Attributes:
        metrics: `WORD_METRICS`, each with its interval.
        texts: Texts that count: some of their words are substituted, and some are not.
        words: Words of those texts.
        substituted: How many of them are substituted.
        without_change: Texts left out because none of their words is substituted, as after a deletion.
        all_changed: Texts left out because all of their words are substituted.
    """

    metrics: dict[str, Estimate]
    texts: int
    words: int
    substituted: int
    without_change: int
    all_changed: int


def substituted_positions(row: AdversarialRow) -> list[int]:
    """Positions in the perturbed text of the words that the attack put there.

    The row's own `changed_positions` count words of the original text, which are other positions where an attack
    splits, joins, inserts or deletes words. A deleted word leaves no word behind to be found.
    """
    before = [word.text for word in find_words(row.original_text)]
    after = [word.text for word in find_words(row.perturbed_text)]
    return changed_positions(after, before, insertions=False)


def word_evidence(
    scores: Sequence[ArrayLike],
    substituted: Sequence[Collection[int]],
    clusters: ArrayLike | None = None,
    *,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> WordEvidence:
    """Metrics of word scores, with intervals over source texts.

    - `auc_pooled`: AUC over all words of all texts, whose scores are compared across texts.
    - `auc_per_text`: AUC within each text, averaged over texts: scores need only rank the words of one text.
    - `r_precision`: share of substituted words among the k highest-scored of a text, k being how many of its words
      are substituted; averaged over texts. Recall at k is the same number.
    - `precision_at_1`, `_3`: the same for the highest-scored one and three words (all words of a shorter text). At 3
      it cannot reach 1 where fewer words are substituted.

    Of words with equal scores at the cut each counts in part: the precision expected if ties were broken at random.

    Args:
        scores: For each of n texts one score a word, higher = more likely substituted.
        substituted: For each text the positions of its substituted words.
        clusters: (n,) source text of each, integers or strings; None where all differ.
        replicates: Bootstrap replicates.
        seed: Seed of the bootstrap.
        level: Level of the intervals.

    Returns:
        The metrics and what they are of.

    Raises:
        DataError: If a score is NaN, or no text has both kinds of words.
        ValueError: If numbers do not fit, or a position is none of a word.
    """
    if len(scores) != len(substituted):
        raise ValueError(f"{len(scores)} texts with scores do not fit {len(substituted)} with positions.")
    names = np.arange(len(scores)) if clusters is None else np.asarray(clusters)
    if names.shape != (len(scores),):
        raise ValueError("clusters must name one source text for each text.")
    kept: list[tuple[int, Floats, NDArray[np.bool_]]] = []
    without = whole = 0
    for number, (given, positions) in enumerate(zip(scores, substituted, strict=True)):
        values = np.asarray(given, dtype=np.float64)
        chosen = sorted(set(positions))
        if values.ndim != 1 or (chosen and not 0 <= chosen[0] <= chosen[-1] < values.size):
            raise ValueError(f"text {number} has scores of shape {values.shape}; positions {chosen} do not fit.")
        if not chosen:
            without += 1
        elif len(chosen) == values.size:
            whole += 1
        else:
            flags = np.zeros(values.size, dtype=np.bool_)
            flags[chosen] = True
            kept.append((number, values, flags))
    if not kept:
        raise DataError(
            f"none of {len(scores)} texts has both substituted and other words.",
            "Word-level evidence needs attacks that replace some words of a text.",
        )
    sizes = np.array([values.size for _, values, _ in kept])
    joined = np.concatenate([flags for *_, flags in kept])
    pooled = WeightedAUC(np.concatenate([values for _, values, _ in kept]), joined)
    table = np.array([_of_text(values, flags) for _, values, flags in kept])
    codes = global_codes([names[[number for number, *_ in kept]]], [len(kept)])

    value = [pooled()[0], *table.mean(axis=0)]
    drawn: list[Floats] = []
    # Weights are of texts, and `pooled` asks for those of words: fewer replicates at a time where texts are long.
    chunk = max(1, (1 << 19) // joined.size)
    for weights in iter_cluster_weights(codes, replicates, seed, chunk=chunk):
        # As many words are drawn from a text as it has: all of them, as often as the text itself.
        of_words = np.repeat(weights, sizes, axis=1)
        means = weights @ table / weights.sum(axis=1, dtype=np.float64)[:, None]
        drawn.append(np.column_stack([pooled(of_words), means]))
    bounds = [percentile_interval(column, level) for column in np.concatenate(drawn).T]
    metrics = {
        name: Estimate(float(v), low, high) for name, v, (low, high) in zip(WORD_METRICS, value, bounds, strict=True)
    }
    return WordEvidence(metrics, len(kept), int(joined.size), int(joined.sum()), without, whole)


def _of_text(scores: Floats, substituted: NDArray[np.bool_]) -> list[float]:
    """AUC, R-precision and precision at each cut of one text's words."""
    auc = float(WeightedAUC(scores, substituted)()[0])
    cuts = (int(substituted.sum()), *_CUTS)
    return [auc, *(_precision(scores, substituted, min(k, scores.size)) for k in cuts)]


def _precision(scores: Floats, substituted: NDArray[np.bool_], k: int) -> float:
    cut = np.partition(scores, -k)[-k]
    above, tied = scores > cut, scores == cut
    free = k - int(above.sum())
    return float((substituted[above].sum() + free * substituted[tied].mean()) / k)
