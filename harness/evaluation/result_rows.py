"""From scored samples to result rows: metrics with intervals, paired comparisons, and the whole protocol inside."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.core.conformal import threshold_at_fpr
from harness.core.prevalence import PREVALENCES, precision_at_prevalence
from harness.core.rows import ORACLE_METRICS, finish_row
from harness.core.runs import versions
from harness.core.scores import Cost
from harness.detectors.registry import DETECTORS
from harness.evaluation.attacks import EvaluatedAttack
from harness.evaluation.metrics import Estimate, detection_metrics, mean_over_seeds
from harness.evaluation.paired import AUCDifference, compare_aucs
from harness.evaluation.scoring import FittedDetector, SeedScores
from harness.evaluation.word_evidence import substituted_positions, word_evidence

if TYPE_CHECKING:
    from harness.evaluation.detection import EvaluationSettings

HELDOUT_RATES = {"1": 0.01, "5": 0.05, "10": 0.10}
# What every detector is compared with: the published winner, and plain confidence.
REFERENCES = ("rde", "msp")
_ABSENT = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Compared:
    """Paired comparisons of one detector: of the mean over seeds, and of each seed; JSON-able."""

    mean: list[dict[str, Any]]
    seeds: list[list[dict[str, Any]]]


@dataclass(frozen=True)
class Measured:
    """One detector measured: rows, their mean, word-level evidence and cost; JSON-able."""

    rows: list[dict[str, Any]]
    mean: dict[str, dict[str, float | None]]
    words: dict[str, Any] | None
    cost: dict[str, float]


def compare_all(
    scored: Sequence[tuple[FittedDetector, list[SeedScores]]], settings: EvaluationSettings
) -> list[Compared]:
    """Compare every detector with RDE and MSP on the same texts, where these were scored.

    Detectors that scored only some of the texts are compared on those. Holm's correction is over all comparisons of
    detectors that scored the same texts.

    Args:
        scored: Detectors with their scored samples.
        settings: The protocol's settings.
    """
    replicates = settings.replicates
    references = {one.spec: seeds for one, seeds in scored if one.spec in REFERENCES}
    groups: dict[int | None, dict[str, list[SeedScores]]] = {}
    for one, seeds in scored:
        groups.setdefault(settings.limit(one.is_dear), {})[one.spec] = seeds
    found: dict[str, Compared] = {}
    for group in groups.values():
        first = next(iter(group.values()))
        members = {**group, **{name: seeds for name, seeds in references.items() if name not in group}}
        common = {
            name: [_on(of.positions, seed) for of, seed in zip(first, seeds, strict=True)]
            for name, seeds in members.items()
        }
        both = [
            compare_aucs(
                common,
                [s.adversarial for s in first],
                [s.sources for s in first],
                list(references),
                replicates=replicates,
            )
        ]
        for number, seed in enumerate(first):
            alone = {name: [values[number]] for name, values in common.items()}
            both.append(
                compare_aucs(alone, [seed.adversarial], [seed.sources], list(references), replicates=replicates)
            )
        for name in group:
            mean, *single = [[_difference(c) for c in part if c.detector == name] for part in both]
            found[name] = Compared(mean, single)
    return [found[one.spec] for one, _ in scored]


def _on(positions: Any, seed: SeedScores) -> Any:
    """A detector's scores of the texts at some positions, which it scored all."""
    # An original and the attacked text of one row are two positions, and no position comes twice in a sample.
    order = np.argsort(seed.positions)
    return seed.scores[order[np.searchsorted(seed.positions, positions, sorter=order)]]


def _difference(found: AUCDifference) -> dict[str, Any]:
    return {
        "reference": found.reference,
        "auc_difference": {"value": found.value, "low": _finite(found.low), "high": _finite(found.high)},
        "p": _finite(found.p),
        "p_holm": _finite(found.p_holm),
    }


def measure(
    attack: EvaluatedAttack,
    fitted: FittedDetector,
    seeds: Sequence[SeedScores],
    cost: Cost,
    compared: Compared,
    settings: EvaluationSettings,
    protocol: Mapping[str, Any],
    run: str,
) -> Measured:
    """Measure one detector's scores and make a result row a seed.

    Args:
        attack: The attack.
        fitted: The detector.
        seeds: Its scored samples.
        cost: What a text cost it.
        compared: Its paired comparisons.
        settings: The protocol's settings.
        protocol: What sampling took as target and validation fraction, and how many rows are stale.
        run: Id of the evaluation run.
    """
    spent = {
        "forwards_per_text": round(cost.forwards, 3),
        "ms_per_text": round(1000 * cost.seconds, 3),
        "backwards_per_text": round(cost.backwards, 3),
        "other_forwards_per_text": round(cost.other_forwards, 3),
    }
    thresholds = [_thresholds(seed) for seed in seeds]
    words = _words(attack, seeds[0], settings)
    rows = []
    for number, (seed, limits) in enumerate(zip(seeds, thresholds, strict=True)):
        estimates = _estimates([seed], [limits], settings)
        rows.append(
            finish_row(
                {
                    "dataset": attack.dataset,
                    "recipe": attack.recipe,
                    "goal": attack.goal,
                    "victim": attack.victim.name,
                    "detector": fitted.spec,
                    "scenario": settings.scenario,
                    "seed": seed.sample.seed,
                    "n_clean": int((~seed.adversarial).sum()),
                    "n_adversarial": int(seed.adversarial.sum()),
                    "n_calibration": len(seed.calibration),
                    "trains_on_adversarial_texts": fitted.detector.info.needs_adversarial_labels,
                    "limited": settings.limit(fitted.is_dear) is not None,
                    "metrics": estimates,
                    "comparisons": compared.seeds[number],
                    "failures": _failures(seed, limits),
                    "prevalence": _prevalence(estimates, settings.draws_clean_texts),
                    "words": words,
                    "cost": spent,
                    "run": run,
                    "protocol": _facts(attack, fitted, settings, protocol, seed, limits),
                }
            )
        )
    shared = set.intersection(*(set(limits) for limits in thresholds))
    common = [{name: limits[name] for name in sorted(shared)} for limits in thresholds]
    return Measured(rows, _estimates(seeds, common, settings), words, spent)


def _thresholds(seed: SeedScores) -> dict[str, float]:
    """Finite thresholds on the calibration scores; with too few texts a rate has none."""
    if not len(seed.calibration):
        return {}
    found = {name: threshold_at_fpr(seed.calibration, rate) for name, rate in HELDOUT_RATES.items()}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _estimates(
    seeds: Sequence[SeedScores], thresholds: Sequence[Mapping[str, float]], settings: EvaluationSettings
) -> dict[str, dict[str, float | None]]:
    found = mean_over_seeds(
        [seed.scores for seed in seeds],
        [seed.adversarial for seed in seeds],
        [seed.sources for seed in seeds],
        replicates=settings.replicates,
        thresholds=thresholds,
    )
    named = {name: found[name] for name in ORACLE_METRICS}
    for rate in HELDOUT_RATES:
        named[f"heldout_tpr_{rate}"] = found.get(f"tpr_heldout_{rate}", _ABSENT)
        named[f"realised_fpr_{rate}"] = found.get(f"fpr_heldout_{rate}", _ABSENT)
    named["heldout_f1_10"] = found.get("f1_heldout_10", _ABSENT)
    return {name: {key: _finite(value) for key, value in e._asdict().items()} for name, e in named.items()}


def _failures(seed: SeedScores, thresholds: Mapping[str, float]) -> dict[str, Any] | None:
    """How texts on which the attack failed score: neither clean nor adversarial, so a class of their own."""
    if not len(seed.failures):
        return None
    clean = seed.scores[~seed.adversarial]
    both = np.concatenate([clean, seed.failures])
    auc = detection_metrics(both, np.arange(len(both)) >= len(clean))["auc"]
    flagged = {name: float((seed.failures > value).mean()) for name, value in thresholds.items()}
    return {"texts": len(seed.failures), "auc_against_clean": auc, "flagged": flagged}


def _prevalence(metrics: Mapping[str, Mapping[str, float | None]], drawn: bool) -> dict[str, Any]:
    """Precision where few texts are adversarial, at each held-out threshold.

    Null where no clean text is flagged, since a rate of false alarms below what the texts can show decides it then,
    and where clean texts are not drawn as traffic would.
    """
    found: dict[str, Any] = {}
    for share in PREVALENCES:
        for rate in HELDOUT_RATES:
            tpr, fpr = metrics[f"heldout_tpr_{rate}"]["value"], metrics[f"realised_fpr_{rate}"]["value"]
            value = math.nan
            if drawn and tpr is not None and fpr:
                value = float(precision_at_prevalence(tpr, fpr, share))
            found.setdefault(f"{share:g}", {})[f"precision_{rate}"] = _finite(value)
    return found


def _words(attack: EvaluatedAttack, seed: SeedScores, settings: EvaluationSettings) -> dict[str, Any] | None:
    """How well the detector points at the words that the attack put in; None where it says nothing of words.

    Nor is there a figure where no text has both words that were put in and others, as after deletions alone.
    """
    if seed.words is None:
        return None
    rows = seed.sample.adversarial[: len(seed.words)]
    positions = [substituted_positions(attack.rows[i]) for i in rows]
    if not any(0 < len(changed) < len(words) for changed, words in zip(positions, seed.words, strict=True)):
        return None
    found = word_evidence(seed.words, positions, replicates=settings.replicates)
    metrics = {name: {k: _finite(v) for k, v in e._asdict().items()} for name, e in found.metrics.items()}
    return {"metrics": metrics, "texts": found.texts, "words": found.words, "substituted": found.substituted}


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _facts(
    attack: EvaluatedAttack,
    fitted: FittedDetector,
    settings: EvaluationSettings,
    protocol: Mapping[str, Any],
    seed: SeedScores,
    thresholds: Mapping[str, float],
) -> dict[str, Any]:
    """The whole protocol, as every row keeps it."""
    info = fitted.detector.info
    return {
        "attack": attack.facts(),
        "victim": {
            "hash": attack.victim.hash,
            "max_length": attack.victim.max_length,
            "dtype": attack.victim.dtype,
            "not_reproduced": protocol["stale"],
        },
        "detector": {
            "title": info.title,
            "paper": info.paper,
            "version": info.version,
            "adversarial_texts": info.adversarial_texts,
            "needs_adversarial_labels": info.needs_adversarial_labels,
            "parameters": seed.facts,
            **({"add_on": added} if (added := DETECTORS.add_on(info.name)) else {}),
            "tuned_on": seed.tuned_on,
            **fitted.facts,
        },
        "sampling": {
            "rule": "Yoo et al., Findings of ACL 2022",
            "target": protocol["target"],
            "validation_fraction": protocol["validation_fraction"],
            "test_rows": len(seed.sample.test),
            "subset_rows": len(seed.sample.subset),
            "matching": seed.sample.matching,
            "dear_texts": settings.limit(fitted.is_dear),
        },
        "calibration": {
            "source": seed.calibration_source,
            "texts": len(seed.calibration),
            "thresholds": dict(thresholds),
            "exchangeable": settings.draws_clean_texts,
        },
        "intervals": {
            "method": "percentile bootstrap over source texts; exact binomial for held-out rates of 0 and 1",
            "level": 0.95,
            "replicates": settings.replicates,
        },
        "comparisons": {
            "method": "paired bootstrap over source texts: percentile interval, p by the normal approximation",
            "correction": "Holm, over all comparisons of the detectors that scored the same texts",
        },
        "versions": versions(),
    }
