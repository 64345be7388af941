"""Confidence-matched sampling: clean and adversarial texts paired by the victim's confidence.

Attacks stop when the label flips, so adversarial texts lie next to the decision boundary, and plain max-softmax
confidence (MSP) finds them without knowing anything of attacks. Where each adversarial text has a clean partner
of the same confidence, MSP is at chance by construction, and what a detector still finds is something else.

Matching is one to one within a caliper on the logit of the confidence, as for propensity scores (Rosenbaum and
Rubin, The American Statistician 1985; Austin, Pharmaceutical Statistics 2011). The matched clean texts are no
random draw of clean texts: doubtful and misclassified ones are among them far more often than in traffic, so a
false-positive rate promised for clean texts is not promised for them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.core.errors import ConfigurationError, DataError
from harness.evaluation.sampling import Sample, source_names, split_rows

Floats = NDArray[np.float64]
Positions = NDArray[np.int64]

# In logits: 0.70 may stand beside 0.68 to 0.72, 0.99 beside 0.989 to 0.991.
CALIPER = 0.1
# Confidences of 1 have no logit; beyond this they are the same to a softmax in double precision too.
_CERTAIN = 1e-15


@dataclass(frozen=True, eq=False)
class Matching:
    """Pairs of a clean and an adversarial text.

    Attributes:
        clean: (m,) int64, positions among the clean candidates; no source text occurs twice in all the pairs.
        adversarial: (m,) int64, the partner of each among the adversarial candidates.
        difference: (m,) float64, logit of the adversarial text's confidence less that of the clean one's.
        facts: JSON-able: `caliper`; `clean_candidates` and `adversarial_candidates`; `partnered`, adversarial texts
            that found a partner; `unbalanced`, pairs given up again because MSP would have found them; `pairs` that
            were kept, at most as many as asked for.
    """

    clean: Positions
    adversarial: Positions
    difference: Floats
    facts: dict[str, float]


def match_confidences(
    clean: ArrayLike,
    adversarial: ArrayLike,
    clean_sources: Sequence[str | int],
    adversarial_sources: Sequence[str | int],
    *,
    caliper: float = CALIPER,
    most: int | None = None,
    seed: int = 0,
) -> Matching:
    """Pair clean and adversarial texts of like confidence.

    Texts choose a partner in turn, those with the fewest possible ones first, since doubtful clean texts are scarce.
    Each takes the free one that brings the sum of signed differences nearest to 0, and none where that sum would leave
    the caliper, so that neither class ends up the more confident: over all pairs the mean signed difference is at most
    the caliper divided by their number. Nothing can be added to the pairs on those terms; on ten real attack logs they
    were 90 to 98 % of the most that any matching has. Pairs are then given up, if need be, until the AUC of MSP is
    within 1/(2m) of 0.5 for m pairs: as far off as pairs can be that lie apart from each other and all differ in the
    same direction.

    Args:
        clean: (n,) largest class probability of each clean candidate.
        adversarial: (k,) the same of each adversarial candidate.
        clean_sources: Source text of each clean candidate.
        adversarial_sources: Source text of each adversarial candidate.
        caliper: Largest difference in logits within a pair.
        most: Pairs wanted at most, drawn by the seed; None for all.
        seed: Of that draw and of the order of the pairs, 0 to 2**32 - 1; it decides nothing else.

    Returns:
        The pairs in random order, so that the first few are a sample of them; there may be none.

    Raises:
        ConfigurationError: If the caliper is not positive.
        DataError: If a confidence is NaN, not positive or above 1.
        ValueError: If shapes do not fit.
    """
    if not caliper > 0:
        raise ConfigurationError(f"the caliper must be positive, got {caliper}.", f"The default is {CALIPER}.")
    values = (_confidences(clean, "clean"), _confidences(adversarial, "adversarial"))
    sources = (clean_sources, adversarial_sources)
    for side in (0, 1):
        if len(sources[side]) != values[side].size:
            raise ValueError("there must be one source for each confidence.")
    logits = tuple(np.log(np.maximum(v, _CERTAIN)) - np.log(np.maximum(1 - v, _CERTAIN)) for v in values)
    pairs = _greedy(logits, sources, caliper)
    # Sorted on both sides: of all ways to pair the same texts the one with the smallest largest difference.
    first, second = (_in_order([pair[side] for pair in pairs], logits[side]) for side in (0, 1))
    rng = np.random.RandomState(seed)
    if most is not None and first.size > most:
        drawn = np.sort(rng.permutation(first.size)[:most])
        first, second = first[drawn], second[drawn]
    kept = _balanced(values[0][first], values[1][second])
    facts = {
        "caliper": caliper,
        "clean_candidates": values[0].size,
        "adversarial_candidates": values[1].size,
        "partnered": len(pairs),
        "unbalanced": first.size - kept.size,
        "pairs": kept.size,
    }
    order = kept[rng.permutation(kept.size)]
    first, second = first[order], second[order]
    return Matching(first, second, logits[1][second] - logits[0][first], facts)


def draw_matched_sample(
    results: Sequence[str],
    seed: int,
    *,
    clean_confidence: ArrayLike,
    adversarial_confidence: ArrayLike,
    validation_fraction: float = 0.3,
    target: int = 2000,
    sources: Sequence[str] | None = None,
    caliper: float = CALIPER,
) -> Sample:
    """Draw validation rows as `draw_sample` does, and match the test rows by confidence.

    Candidates are all successes of the test rows and the originals of all test rows, misclassified ones included.
    A source text is in the sample once at most, as clean or as adversarial. Where there are no validation rows,
    all seeds have the same candidates, and their samples differ in ties and in the order of the pairs, and where there
    are more pairs than the target.

    Args:
        results: `success`, `failure`, `maximized` or `skipped` for each of the attack's rows, length n.
        seed: Seed, 0 to 2**32 - 1.
        clean_confidence: (n,) largest class probability of each original text; NaN is allowed in validation rows.
        adversarial_confidence: (n,) the same of each perturbed text; NaN is allowed where the attack did not succeed.
        validation_fraction: Share of the rows set aside first, at least 0 and below 1.
        target: Pairs wanted at most.
        sources: (n,) source text of each row, or a key of it; None where no text occurs twice.
        caliper: Largest difference in logits within a pair.

    Returns:
        The sample: `clean` and `adversarial` are equally long, and partners stand at the same place.

    Raises:
        ConfigurationError: If the target, the fraction, the seed or the caliper is out of range.
        DataError: If a result is unknown, there is no success, no text has a partner, or a confidence that is needed
            is NaN or out of range.
        ValueError: If shapes do not fit.
    """
    outcome, validation, test = split_rows(results, seed, validation_fraction=validation_fraction, target=target)
    of_clean = np.asarray(clean_confidence, dtype=np.float64)
    of_adversarial = np.asarray(adversarial_confidence, dtype=np.float64)
    if of_clean.shape != outcome.shape or of_adversarial.shape != outcome.shape:
        raise ValueError(f"there must be one confidence for each of {outcome.size} rows.")
    keys = source_names(sources, outcome.size)
    # The order decides between equals: shuffled by the seed, as in the published scenarios.
    shuffled = np.arange(test.size)
    np.random.RandomState(seed).shuffle(shuffled)
    candidates = test[shuffled]
    candidates = candidates[~np.isin(keys[candidates], keys[validation])]
    succeeded = candidates[outcome[candidates] == "success"]
    found = match_confidences(
        of_clean[candidates],
        of_adversarial[succeeded],
        keys[candidates].tolist(),
        keys[succeeded].tolist(),
        caliper=caliper,
        most=target,
        seed=seed,
    )
    if not found.clean.size:
        raise DataError(
            f"none of {succeeded.size} adversarial texts has a clean partner of like confidence among "
            f"{candidates.size} test rows.",
            "Attack more texts.",
        )
    return Sample(
        scenario="matched",
        seed=seed,
        validation=validation,
        test=test,
        subset=candidates,
        adversarial=succeeded[found.adversarial],
        clean=candidates[found.clean],
        matching=found.facts,
    )


def _greedy(
    logits: tuple[Floats, ...], sources: tuple[Sequence[str | int], ...], caliper: float
) -> list[tuple[int, int]]:
    """Pairs (clean, adversarial) that nothing can be added to without tipping the balance."""
    free: tuple[list[tuple[float, int]], ...] = ([], [])
    texts_of: dict[str | int, list[tuple[int, tuple[float, int]]]] = {}
    turns = []
    for side in (0, 1):
        others = np.sort(logits[1 - side])
        choice = np.searchsorted(others, logits[side] + caliper, "right") - np.searchsorted(
            others, logits[side] - caliper, "left"
        )
        for i, (value, source) in enumerate(zip(logits[side].tolist(), sources[side], strict=True)):
            free[side].append((value, i))
            texts_of.setdefault(source, []).append((side, (value, i)))
            turns.append((int(choice[i]), i, side))
        free[side].sort()
    pairs: list[tuple[int, int]] = []
    used: set[str | int] = set()
    drift, before = 0.0, -1
    while before < len(pairs):  # what would have tipped the balance may find a partner later
        before = len(pairs)
        for _, i, side in sorted(turns):
            own, value = sources[side][i], float(logits[side][i])
            if own in used:
                continue
            sign = 1 if side == 1 else -1
            aim = value + min(caliper, max(-caliper, sign * drift))
            near = _nearest(free[1 - side], aim, value, caliper, own, sources[1 - side])
            options = [(abs(drift + sign * (value - other)), abs(value - other), other, j) for other, j in near]
            if not options or min(options)[0] > caliper:
                continue
            *_, other, j = min(options)
            pairs.append((i, j) if side == 0 else (j, i))
            drift += sign * (value - other)
            for source in (own, sources[1 - side][j]):
                used.add(source)
                for place, entry in texts_of[source]:
                    del free[place][bisect_left(free[place], entry)]
    return pairs


def _nearest(
    free: list[tuple[float, int]],
    aim: float,
    value: float,
    caliper: float,
    own: str | int,
    sources: Sequence[str | int],
) -> list[tuple[float, int]]:
    """Of the free texts within the caliper of a value, and of another source, the next to the aim on either side."""
    start = bisect_left(free, (aim, -1))
    found = []
    for walk in (range(start, len(free)), range(start - 1, -1, -1)):
        for k in walk:
            if abs(free[k][0] - value) > caliper:
                break
            if sources[free[k][1]] != own:
                found.append(free[k])
                break
    return found


def _in_order(positions: list[int], logits: Floats) -> Positions:
    found = np.array(sorted(positions), dtype=np.int64)
    return found[np.argsort(logits[found], kind="stable")]


def _balanced(clean: Floats, adversarial: Floats) -> Positions:
    """Pairs to keep so that the AUC of MSP is within 1/(2m) of 0.5; both sides are sorted."""
    kept = np.arange(clean.size)
    while kept.size:
        c, a = clean[kept], adversarial[kept]
        m = kept.size
        # MSP takes the less confident for adversarial. Twice the count, so that a tie's half stays whole.
        of_a = 2 * m - np.searchsorted(c, a, "left") - np.searchsorted(c, a, "right")
        excess = int(of_a.sum()) - m * m
        if abs(excess) <= m:
            break
        of_c = np.searchsorted(a, c, "left") + np.searchsorted(a, c, "right")
        own = 1 + np.sign(c - a).astype(np.int64)
        without = excess + m * m - of_a - of_c + own - (m - 1) ** 2
        kept = np.delete(kept, np.argmin(np.abs(without)))
    return kept


def _confidences(values: ArrayLike, what: str) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"confidences must be a vector, got shape {array.shape}.")
    wrong = ~((array > 0) & (array <= 1))
    if wrong.any():
        raise DataError(
            f"{int(wrong.sum())} of {array.size} confidences of {what} texts are no probabilities above 0, such as "
            f"{array[wrong][0]}.",
            "Look for empty texts or an overflow in half precision.",
        )
    return array
