"""Evaluate detectors on attacks: one protocol, one result row per attack, detector, scenario and seed.

Every text is run through the victim once, whatever the number of detectors, scenarios and seeds, and every detector
is fitted once a victim. Beside the paper's figures, whose threshold is chosen on the test texts themselves, stand
the same figures at a threshold chosen on clean texts that neither victim nor detector has seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import DataError
from harness.core.progress import Progress
from harness.core.scores import Cost
from harness.evaluation.attacks import EvaluatedAttack
from harness.evaluation.matching import draw_matched_sample
from harness.evaluation.result_rows import Measured, compare_all, measure
from harness.evaluation.sampling import Sample, Scenario, draw_sample, published_protocol
from harness.evaluation.scoring import FittedDetector, SeedScores, TuningTexts, Unavailable, fit_all, score_samples
from harness.evaluation.texts import AttackTexts, count_stale, read_attack
from harness.text.datasets import source_key


@dataclass(frozen=True)
class EvaluationSettings:
    """The protocol of an evaluation.

    Attributes:
        scenario: `s1` or `s2` of Yoo et al. (Findings of ACL 2022), or `matched`: clean and adversarial texts paired
            by the victim's confidence.
        seeds: Sampling seeds; a row each.
        target: Adversarial texts aimed at; None for the paper's number for the dataset.
        validation_fraction: Share of the rows set aside; None for the paper's.
        train_limit: Training rows that the victim reads for detectors, drawn by `fit_seed`; None for all.
        fit_seed: Seed of the draw of training rows and of seeded detectors.
        replicates: Bootstrap replicates of the intervals.
        dear_texts: Texts of each class that a detector of more than ten forwards scores of a sample.
        same_texts: Whether the others score only those too, so that all figures are of the same texts.
        words: Whether detectors that can say which words look substituted are scored on that too.
    """

    scenario: Scenario = "s1"
    seeds: tuple[int, ...] = (0, 1, 2)
    target: int | None = None
    validation_fraction: float | None = None
    train_limit: int | None = None
    fit_seed: int = 0
    replicates: int = 1000
    dear_texts: int = 100
    same_texts: bool = False
    words: bool = False

    @property
    def draws_clean_texts(self) -> bool:
        """Whether clean texts are drawn at random, and so are exchangeable with those that set the threshold."""
        return self.scenario != "matched"

    def limit(self, is_dear: bool) -> int | None:
        """Texts of each class that a detector scores of a sample; None for all."""
        return self.dear_texts if is_dear or self.same_texts else None


@dataclass(frozen=True)
class DetectorResult:
    """One detector on one attack: a result row a seed, and their mean.

    Attributes:
        detector: Spec.
        title: How tables call it.
        rows: Finished result rows, one a seed.
        mean: Metric name -> value, low, high over all seeds jointly; JSON-able.
        comparisons: Paired comparisons of the mean AUC with RDE and MSP, JSON-able.
        words: Metrics of word-level evidence, JSON-able; None where they were not asked for, or it gives none.
        cost: Forwards, backwards and milliseconds a text.
        seeds: The scored samples, for figures.
        trains: Whether it trained on adversarial texts: a class of its own.
        limited: Whether it scored only some of each sample's texts.
    """

    detector: str
    title: str
    rows: list[dict[str, Any]]
    mean: dict[str, dict[str, float | None]]
    comparisons: list[dict[str, Any]]
    words: dict[str, Any] | None
    cost: dict[str, float]
    seeds: list[SeedScores]
    trains: bool
    limited: bool


@dataclass(frozen=True)
class AttackResult:
    """All detectors on one attack.

    Attributes:
        attack: The attack.
        detectors: One result a detector, in the order asked for.
        unavailable: Detectors that could not be fitted or asked, and why.
        stale: Adversarial texts that the loaded victim classifies right.
        notes: What has to be said of texts that are longer than the victim takes.
    """

    attack: EvaluatedAttack
    detectors: list[DetectorResult]
    unavailable: list[Unavailable]
    stale: int
    notes: list[str]


def evaluate_attack(
    attack: EvaluatedAttack,
    detectors: Sequence[str],
    parameters: Mapping[str, Any],
    settings: EvaluationSettings,
    run: str,
    fitted_folders: Mapping[str, Path] | None = None,
    tune_attack: EvaluatedAttack | None = None,
) -> AttackResult:
    """Sample, score and measure.

    Args:
        attack: The attack.
        detectors: Specs, or names in `fitted_folders`.
        parameters: Constructor arguments for detectors that take them.
        settings: The protocol.
        run: Id of the evaluation run, kept in every row.
        fitted_folders: Name -> folder of a detector fitted before.
        tune_attack: Another attack on the same victim, whose validation rows tune and train the detectors that need
            adversarial texts (cross-attack); by default the evaluated one's.

    Raises:
        DataError: Too few adversarial texts, or no detector could be used.
        VictimError: The loaded victim does not reproduce the attack.
    """
    fitted, unavailable, note = fit_all(
        attack,
        detectors,
        parameters,
        train_limit=settings.train_limit,
        seed=settings.fit_seed,
        folders=fitted_folders or {},
    )
    layers = sorted({attack.victim.layer(layer) for one in fitted for layer in one.detector.layers})
    texts = read_attack(attack, layers)
    stale = count_stale(attack, texts)
    samples, protocol = _draw_samples(attack, texts, settings)
    tuning, tuning_samples = TuningTexts(attack, texts), samples
    if tune_attack is not None:
        tuning = TuningTexts(tune_attack, read_attack(tune_attack, layers))
        tuning_samples, _ = _draw_samples(tune_attack, tuning.texts, settings)
        _check_no_leak(samples, tuning_samples, attack, tune_attack)
    scored: list[tuple[FittedDetector, list[SeedScores], Cost]] = []
    with Progress("scoring", total=len(fitted), unit="detector") as bar:
        for one in fitted:
            try:
                seeds, cost = score_samples(
                    attack,
                    texts,
                    samples,
                    one,
                    limit=settings.limit(one.is_dear),
                    words=settings.words,
                    tuning=tuning,
                    tuning_samples=tuning_samples,
                )
            except DataError as error:
                unavailable.append(Unavailable(one.spec, one.title, f"{error.message} {error.hint}".strip()))
            else:
                scored.append((one, seeds, cost))
            bar.advance()
    if not scored:
        raise DataError(f"no detector could be used; {unavailable[0].spec}: {unavailable[0].reason}")
    results = _measure_all(attack, scored, settings, protocol, stale, run)
    truncated = texts.outputs.truncated
    test_note = attack.victim.truncation_note(truncated, len(texts.outputs.probabilities)) if truncated else ""
    notes = [note, f"Test: {test_note}" if test_note else ""]
    return AttackResult(attack, results, unavailable, stale, [note for note in notes if note])


def _draw_samples(
    attack: EvaluatedAttack, texts: AttackTexts, settings: EvaluationSettings
) -> tuple[list[Sample], dict[str, Any]]:
    published = published_protocol(attack.dataset)
    target = published.target if settings.target is None else settings.target
    fraction = published.validation_fraction
    if settings.validation_fraction is not None:
        fraction = settings.validation_fraction
    results = [row.result for row in attack.rows]
    sources = [source_key(row.original_text) for row in attack.rows]
    samples = []
    for seed in settings.seeds:
        if settings.scenario == "matched":
            clean, adversarial = texts.confidence()
            sample = draw_matched_sample(
                results,
                seed,
                clean_confidence=clean,
                adversarial_confidence=adversarial,
                validation_fraction=fraction,
                target=target,
                sources=sources,
            )
        else:
            sample = draw_sample(
                results,
                settings.scenario,
                seed,
                target=target,
                validation_fraction=fraction,
                sources=sources,
            )
        samples.append(sample)
    return samples, {"target": target, "validation_fraction": fraction}


def _check_no_leak(
    samples: Sequence[Sample], others: Sequence[Sample], attack: EvaluatedAttack, tuned: EvaluatedAttack
) -> None:
    """Refuse a second attack whose validation rows are test texts of the first.

    Two attacks on the same rows of a split, evaluated with the same seed, have the same validation rows.
    """
    for sample, other in zip(samples, others, strict=True):
        scored = {source_key(attack.rows[i].original_text) for i in sample.test}
        if any(source_key(tuned.rows[i].original_text) in scored for i in other.validation):
            raise DataError(
                f"validation texts of {tuned.folder} are test texts of {attack.folder}: tuning on them would leak.",
                "Attack the same texts in both, with the same --limit and --seed.",
            )


def _measure_all(
    attack: EvaluatedAttack,
    scored: Sequence[tuple[FittedDetector, list[SeedScores], Cost]],
    settings: EvaluationSettings,
    protocol: dict[str, Any],
    stale: int,
    run: str,
) -> list[DetectorResult]:
    comparisons = compare_all([(one, seeds) for one, seeds, _ in scored], settings)
    results = []
    with Progress("bootstrap", total=len(scored), unit="detector") as bar:
        for (one, seeds, cost), compared in zip(scored, comparisons, strict=True):
            found: Measured = measure(attack, one, seeds, cost, compared, settings, {**protocol, "stale": stale}, run)
            results.append(
                DetectorResult(
                    detector=one.spec,
                    title=one.title,
                    rows=found.rows,
                    mean=found.mean,
                    comparisons=compared.mean,
                    words=found.words,
                    cost=found.cost,
                    seeds=seeds,
                    trains=one.detector.info.adversarial_texts == "trains",
                    limited=settings.limit(one.is_dear) is not None,
                )
            )
            bar.advance()
    return results
