"""Evaluate detectors on attacks: one protocol, one result row per attack, detector, scenario and seed.

Every text is run through the victim once, whatever the number of detectors and seeds, and every detector is
fitted once a victim. Beside the paper's figures, whose threshold is chosen on the test texts themselves, stand
the same figures at a threshold chosen on clean texts that neither victim nor detector has seen.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import VictimError
from harness.core.progress import Progress
from harness.core.rows import ORACLE_METRICS, finish_row
from harness.core.runs import versions
from harness.detectors.base import Detector
from harness.detectors.fitting import build_detector, fit_detectors, load_detector, score
from harness.evaluation.attacks import EvaluatedAttack
from harness.evaluation.metrics import Estimate, mean_over_seeds, threshold_at_fpr
from harness.evaluation.sampling import Sample, Scenario, draw_sample, published_protocol
from harness.text.datasets import source_key
from harness.text.reading import Reading, read_texts

HELDOUT_RATES = {"1": 0.01, "5": 0.05, "10": 0.10}
# Victim and detectors are deterministic up to rounding; more flips than this mean another victim.
_LARGEST_STALE_SHARE = 0.02


@dataclass(frozen=True)
class EvaluationSettings:
    """The protocol of an evaluation.

    Attributes:
        scenario: `s1` or `s2` of Yoo et al. (Findings of ACL 2022).
        seeds: Sampling seeds; a row each.
        target: Adversarial texts aimed at; None for the paper's number for the dataset.
        validation_fraction: Share of the rows set aside; None for the paper's.
        train_limit: Training rows the detectors may see, drawn by `fit_seed`; None for all.
        fit_seed: Seed of the draw of training rows and of seeded detectors.
        replicates: Bootstrap replicates of the intervals.
    """

    scenario: Scenario = "s1"
    seeds: tuple[int, ...] = (0, 1, 2)
    target: int | None = None
    validation_fraction: float | None = None
    train_limit: int | None = None
    fit_seed: int = 0
    replicates: int = 1000


@dataclass(frozen=True)
class SeedScores:
    """One seed's sample scored by one detector."""

    sample: Sample
    scores: NDArray[np.float64]
    adversarial: NDArray[np.bool_]
    sources: NDArray[np.str_]
    calibration: NDArray[np.float64]
    calibration_source: str | None


@dataclass(frozen=True)
class DetectorResult:
    """One detector on one attack: a result row a seed, and their mean.

    Attributes:
        detector: Registry name.
        title: How tables call it.
        rows: Finished result rows, one a seed.
        mean: Metric name -> value, low, high over all seeds jointly; JSON-able.
        cost: Forwards and milliseconds a text.
        seeds: The scored samples, for figures.
    """

    detector: str
    title: str
    rows: list[dict[str, Any]]
    mean: dict[str, dict[str, float | None]]
    cost: dict[str, float]
    seeds: list[SeedScores]


@dataclass(frozen=True)
class AttackResult:
    """All detectors on one attack.

    Attributes:
        attack: The attack.
        detectors: One result a detector, in the order asked for.
        stale: Adversarial texts that the loaded victim classifies right.
        truncation: What has to be said of texts that are longer than the victim takes.
    """

    attack: EvaluatedAttack
    detectors: list[DetectorResult]
    stale: int
    truncation: list[str]


def evaluate_attack(
    attack: EvaluatedAttack,
    detectors: Sequence[str],
    parameters: Mapping[str, Any],
    settings: EvaluationSettings,
    run: str,
    fitted_folders: Mapping[str, Any] | None = None,
) -> AttackResult:
    """Sample, score and measure.

    Args:
        attack: The attack.
        detectors: Registry names, or names in `fitted_folders`.
        parameters: Constructor arguments for detectors that take them.
        settings: The protocol.
        run: Id of the evaluation run, kept in every row.
        fitted_folders: Name -> folder of a detector fitted before.

    Raises:
        DataError: Too few adversarial texts, or too few training rows.
        VictimError: The loaded victim does not reproduce the attack.
    """
    samples, protocol = _draw_samples(attack, settings)
    fitted = _fit(attack, detectors, parameters, settings, fitted_folders or {})
    victim = attack.victim
    layers = sorted({victim.layer(layer) for detector, _ in fitted.detectors for layer in detector.layers})
    originals, perturbed = _needed(samples)
    texts = [attack.rows[i].original_text for i in originals] + [attack.rows[i].perturbed_text for i in perturbed]
    reading = read_texts(victim, texts, layers, what="reading test texts")
    stale = _count_stale(attack, perturbed, reading.outputs.predictions[len(originals) :])
    results = []
    with Progress("scoring and bootstrap", total=len(fitted.detectors), unit="detector") as bar:
        for detector, fit in fitted.detectors:
            scored = _score_samples(attack, samples, detector, reading, originals, perturbed)
            facts = _facts(attack, detector, fit, settings, protocol, stale)
            results.append(_measure(attack, detector, scored, settings, run, facts))
            bar.advance()
    notes = [
        f"Test: {victim.truncation_note(reading.outputs.truncated, len(texts))}" if reading.outputs.truncated else "",
        f"Training: {victim.truncation_note(fitted.truncated, fitted.texts)}" if fitted.truncated else "",
    ]
    return AttackResult(attack, results, stale, [note for note in notes if note])


@dataclass(frozen=True)
class _Fitted:
    """Detectors with what their rows say of their fit; training texts offered to them, and how many were cut."""

    detectors: list[tuple[Detector, dict[str, Any]]]
    texts: int
    truncated: int


@dataclass(frozen=True)
class _Scored:
    seeds: list[SeedScores]
    ms_per_text: float


def _draw_samples(attack: EvaluatedAttack, settings: EvaluationSettings) -> tuple[list[Sample], dict[str, Any]]:
    published = published_protocol(attack.dataset)
    target = published.target if settings.target is None else settings.target
    fraction = published.validation_fraction
    if settings.validation_fraction is not None:
        fraction = settings.validation_fraction
    results = [row.result for row in attack.rows]
    samples = [
        draw_sample(results, settings.scenario, seed, target=target, validation_fraction=fraction)
        for seed in settings.seeds
    ]
    return samples, {"target": target, "validation_fraction": fraction}


def _fit(
    attack: EvaluatedAttack,
    names: Sequence[str],
    parameters: Mapping[str, Any],
    settings: EvaluationSettings,
    folders: Mapping[str, Any],
) -> _Fitted:
    train = None if attack.train is None else attack.train.sample(settings.train_limit, settings.fit_seed)
    offered = 0 if train is None else len(train)
    detectors: list[tuple[Detector, dict[str, Any]]] = []
    fresh: list[Detector] = []
    for name in names:
        if name in folders:
            detector, known = load_detector(folders[name])
            _check_fitted(folders[name], known, attack)
            rows, fit_hash, seed = known["train_rows"], known["dataset_hash"], known["seed"]
        else:
            detector = build_detector(name, attack.victim, _accepted(name, parameters), settings.fit_seed)
            fresh.append(detector)
            rows, fit_hash, seed = offered, None if train is None else train.hash, settings.fit_seed
        facts = {
            "train_rows_offered": rows,
            "train_rows_seen": rows if detector.fit_rows is None else min(rows, detector.fit_rows),
            "train_hash": fit_hash if detector.fit_rows != 0 else None,
            "fit_seed": seed,
        }
        detectors.append((detector, facts))
    truncated = fit_detectors(fresh, attack.victim, train, settings.fit_seed)
    return _Fitted(detectors, offered, truncated)


def _check_fitted(folder: Any, facts: Mapping[str, Any], attack: EvaluatedAttack) -> None:
    """Refuse a fitted detector that read another victim, or read it otherwise."""
    if facts.get("victim_hash") != attack.victim.hash:
        raise VictimError(f"the detector in {folder} was fitted on another victim.", "Fit one on this victim.")
    for name in ("max_length", "dtype"):
        if facts.get(name) != getattr(attack.victim, name):
            raise VictimError(
                f"the detector in {folder} was fitted with {name} {facts.get(name)}, this evaluation reads with "
                f"{getattr(attack.victim, name)}.",
                f"Evaluate with --{name.replace('_', '-')} {facts.get(name)}, or fit again.",
            )


def _accepted(name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The given parameters that the named detector takes: one command line serves several detectors."""
    import inspect

    from harness.detectors.registry import DETECTORS

    known = inspect.signature(DETECTORS.get(name)).parameters
    return {key: value for key, value in parameters.items() if key in known}


def _calibration_rows(sample: Sample) -> tuple[NDArray[np.int64], str | None]:
    """Rows whose originals set the held-out threshold.

    The validation rows, and where the published split has none (SST-2) the test rows that the scenario left.
    """
    if len(sample.validation):
        return sample.validation, "validation rows"
    if len(sample.unsampled):
        return sample.unsampled, "unsampled test rows"
    return sample.unsampled, None


def _needed(samples: Sequence[Sample]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the rows whose original, and whose perturbed text, some seed needs."""
    originals = [part for sample in samples for part in (sample.clean, _calibration_rows(sample)[0])]
    perturbed = [sample.adversarial for sample in samples]
    return np.unique(np.concatenate(originals)), np.unique(np.concatenate(perturbed))


def _count_stale(attack: EvaluatedAttack, perturbed: NDArray[np.int64], predictions: NDArray[np.int64]) -> int:
    """Adversarial texts that the loaded victim now classifies right.

    Raises:
        VictimError: They are more than rounding can explain.
    """
    labels = np.array([attack.rows[i].label for i in perturbed])
    stale = int((labels == predictions).sum())
    if stale > max(1, _LARGEST_STALE_SHARE * len(labels)):
        raise VictimError(
            f"the victim {attack.victim.name!r} classifies {stale} of {len(labels)} adversarial texts right: "
            "it is not the victim that was attacked.",
            "Evaluate on the attacked victim, with the same --max-length and --dtype.",
        )
    return stale


def _score_samples(
    attack: EvaluatedAttack,
    samples: Sequence[Sample],
    detector: Detector,
    reading: Reading,
    originals: NDArray[np.int64],
    perturbed: NDArray[np.int64],
) -> _Scored:
    started = time.perf_counter()
    scores = score(detector, reading.outputs)
    seconds = time.perf_counter() - started
    of_original = _lookup(originals, scores[: len(originals)])
    of_perturbed = _lookup(perturbed, scores[len(originals) :])
    keys = [source_key(row.original_text) for row in attack.rows]
    trained = set() if attack.train is None else {source_key(text) for text in attack.train.texts}
    seeds = []
    for sample in samples:
        positions = np.concatenate([sample.clean, sample.adversarial])
        adversarial = np.arange(len(positions)) >= len(sample.clean)
        sources = np.array([keys[i] for i in positions])
        rows, source = _calibration_rows(sample)
        # A text that occurs twice may be scored, or trained on, as well: it does not calibrate then.
        known = trained | set(sources.tolist())
        rows = np.array([i for i in rows if keys[i] not in known], dtype=np.int64)
        seeds.append(
            SeedScores(
                sample,
                np.concatenate([of_original(sample.clean), of_perturbed(sample.adversarial)]),
                adversarial,
                sources,
                of_original(rows),
                source if len(rows) else None,
            )
        )
    n = len(reading.outputs.probabilities)
    return _Scored(seeds, 1000 * (reading.seconds + seconds) / n)


def _lookup(
    positions: NDArray[np.int64], values: NDArray[np.float64]
) -> Callable[[NDArray[np.int64]], NDArray[np.float64]]:
    def look(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        return values[np.searchsorted(positions, rows)]

    return look


def _thresholds(seed: SeedScores) -> dict[str, float]:
    """Finite thresholds on the calibration scores; with too few texts a rate has none."""
    if not len(seed.calibration):
        return {}
    found = {name: threshold_at_fpr(seed.calibration, rate) for name, rate in HELDOUT_RATES.items()}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _measure(
    attack: EvaluatedAttack,
    detector: Detector,
    scored: _Scored,
    settings: EvaluationSettings,
    run: str,
    facts: dict[str, Any],
) -> DetectorResult:
    cost = {
        "forwards_per_text": float(detector.info.forwards_per_text),
        "ms_per_text": round(scored.ms_per_text, 3),
    }
    thresholds = [_thresholds(seed) for seed in scored.seeds]
    rows = []
    for seed, limits in zip(scored.seeds, thresholds, strict=True):
        estimates = _estimates([seed], [limits], settings)
        calibration = {
            "source": seed.calibration_source,
            "texts": len(seed.calibration),
            "thresholds": limits,
        }
        sampling = {
            **facts["sampling"],
            "test_rows": len(seed.sample.test),
            "subset_rows": len(seed.sample.subset),
        }
        rows.append(
            finish_row(
                {
                    "dataset": attack.dataset,
                    "recipe": attack.recipe,
                    "victim": attack.victim.name,
                    "detector": detector.info.name,
                    "scenario": settings.scenario,
                    "seed": seed.sample.seed,
                    "n_clean": int((~seed.adversarial).sum()),
                    "n_adversarial": int(seed.adversarial.sum()),
                    "n_calibration": len(seed.calibration),
                    "metrics": estimates,
                    "cost": cost,
                    "run": run,
                    "protocol": {**facts, "sampling": sampling, "calibration": calibration},
                }
            )
        )
    shared = set.intersection(*(set(limits) for limits in thresholds))
    common = [{name: limits[name] for name in sorted(shared)} for limits in thresholds]
    mean = _estimates(scored.seeds, common, settings)
    return DetectorResult(detector.info.name, detector.info.title, rows, mean, cost, scored.seeds)


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


_ABSENT = Estimate(math.nan, math.nan, math.nan)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _facts(
    attack: EvaluatedAttack,
    detector: Detector,
    fit: dict[str, Any],
    settings: EvaluationSettings,
    sampling: dict[str, Any],
    stale: int,
) -> dict[str, Any]:
    """The whole protocol, as every row keeps it."""
    return {
        "attack": attack.facts(),
        "victim": {
            "hash": attack.victim.hash,
            "max_length": attack.victim.max_length,
            "dtype": attack.victim.dtype,
            "not_reproduced": stale,
        },
        "detector": {
            **{k: v for k, v in asdict(detector.info).items() if k in ("title", "paper", "needs_adversarial_labels")},
            "parameters": detector.parameters(),
            **fit,
        },
        "sampling": {"rule": "Yoo et al., Findings of ACL 2022", **sampling},
        "intervals": {
            "method": "percentile bootstrap over source texts",
            "level": 0.95,
            "replicates": settings.replicates,
        },
        "versions": versions(),
    }
