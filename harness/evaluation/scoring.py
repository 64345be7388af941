"""Fit the detectors of an evaluation and score an attack's texts with each; one that cannot is set aside by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import ConfigurationError, DataError, HarnessError, VictimError
from harness.core.scores import Cost
from harness.detectors.base import Arrays, Detector, Floats
from harness.detectors.clean_texts import load_seen
from harness.detectors.fitting import build_detector, corpus_facts, fit_detectors, load_detector
from harness.detectors.joint_detector import JOINT
from harness.detectors.scoring import score_with_cost
from harness.detectors.specs import canonical_spec, constructor_parameters, parse_spec, spec_of, spec_title
from harness.evaluation.attacks import EvaluatedAttack
from harness.evaluation.sampling import Sample
from harness.evaluation.texts import AttackTexts, Rows
from harness.text.datasets import source_key
from harness.text.seen_texts import text_keys

# A detector that runs the victim more often than this on a text is dear: it scores the first texts of a sample only.
DEAR_FORWARDS = 10


@dataclass(frozen=True)
class FittedDetector:
    """A detector of an evaluation.

    Attributes:
        spec: How the command line and rows name it.
        title: How tables call it.
        detector: Fitted, attached to the victim.
        facts: What rows say of its fit.
        seen: Of one fitted before, which is used as it is: keys of the texts that it was fitted and tuned on.
        tuned_on: What that one was tuned or trained on; None for nothing.
    """

    spec: str
    title: str
    detector: Detector
    facts: dict[str, Any]
    seen: NDArray[np.uint64] | None = None
    tuned_on: dict[str, Any] | None = None

    @property
    def is_dear(self) -> bool:
        """Whether it costs so much that it scores only some of a sample's texts."""
        info = self.detector.info
        forwards = info.at_most if info.forwards_per_text is None else info.forwards_per_text
        return forwards is None or forwards > DEAR_FORWARDS


@dataclass(frozen=True)
class Unavailable:
    """A detector that could not be used.

    Attributes:
        spec: How the command line and rows name it.
        title: How tables call it.
        reason: Why.
        built: Whether it was built, and failed later on the texts; if not, something that it needs is not at hand.
    """

    spec: str
    title: str
    reason: str
    built: bool = True


@dataclass(frozen=True)
class SeedScores:
    """One seed's sample scored by one detector.

    Attributes:
        sample: The rows drawn.
        scores: (n,) of the clean texts, then of the adversarial ones.
        adversarial: (n,), True for an adversarial text.
        positions: (n,) where the texts stand among the attack's texts; what two detectors have in common is paired.
        sources: (n,) the source text of each.
        calibration: Scores of held-out clean texts.
        calibration_source: What rows they are of; None where there are none.
        failures: Scores of texts on which the attack failed: a class of its own.
        tuned_on: Validation rows that the detector was tuned or trained on, and of which attack; None for none.
        facts: What rows say of the detector as it scored these, its tuning among it.
        words: Of each adversarial text, the scores of its words; None where they were not asked for, or it gives none.
    """

    sample: Sample
    scores: Floats
    adversarial: NDArray[np.bool_]
    positions: Rows
    sources: NDArray[np.str_]
    calibration: Floats
    calibration_source: str | None
    failures: Floats
    tuned_on: dict[str, Any] | None
    facts: dict[str, Any]
    words: list[Floats] | None


def fit_all(
    attack: EvaluatedAttack,
    specs: Sequence[str],
    parameters: Mapping[str, Any],
    *,
    train_limit: int | None,
    seed: int,
    folders: Mapping[str, Path],
) -> tuple[list[FittedDetector], list[Unavailable], str]:
    """Fit every detector that can be fitted.

    Args:
        attack: Its victim and training texts.
        specs: Detectors, or names in `folders`.
        parameters: Constructor arguments for all detectors that take them.
        train_limit: Training rows that the victim reads for detectors; None for all. Words are counted in all.
        seed: Of the draw of training rows and of seeded detectors.
        folders: Name -> folder of a detector fitted before.

    Returns:
        Those that are fitted, those that cannot be, and what has to be said of training texts that were cut.
    """
    train = None if attack.train is None else attack.train.sample(train_limit, seed)
    offered = 0 if train is None else len(train)
    fitted: list[FittedDetector] = []
    unavailable: list[Unavailable] = []
    truncated = 0
    built: list[tuple[str, str, Detector]] = []
    for spec in specs:
        if spec in folders:
            fitted.append(_load(folders[spec], attack))
            continue
        called, title = canonical_spec(spec), spec_title(spec)
        try:
            built.append((called, title, _build(attack, spec, parameters, seed)))
        except HarnessError as error:
            unavailable.append(Unavailable(called, title, f"{error.message} {error.hint}".strip(), built=False))
    layers = [layer for *_, detector in built for layer in detector.layers]
    for called, title, detector in built:
        try:
            cut = fit_detectors([detector], attack.victim, train, seed, corpus=attack.train, other_layers=layers)
        except HarnessError as error:
            unavailable.append(Unavailable(called, title, f"{error.message} {error.hint}".strip()))
            continue
        truncated = max(truncated, cut)
        wanted = detector.fit_rows
        facts = {
            "train_rows_offered": offered,
            "train_rows_seen": offered if wanted is None else min(offered, wanted),
            "train_hash": train.hash if train is not None and (wanted != 0 or detector.reads_corpus) else None,
            **corpus_facts(detector, attack.train),
            "fit_seed": seed,
        }
        fitted.append(FittedDetector(called, title, detector, facts))
    specs_used = [one.spec for one in fitted]
    if twice := sorted({spec for spec in specs_used if specs_used.count(spec) > 1}):
        raise ConfigurationError(
            f"two of the detectors are {twice[0]!r}, and rows could not tell them apart.", "Evaluate them one by one."
        )
    note = f"Training: {attack.victim.truncation_note(truncated, offered)}" if truncated else ""
    return fitted, unavailable, note


def can_build(attack: EvaluatedAttack, spec: str, parameters: Mapping[str, Any], seed: int) -> bool:
    """Whether everything is at hand that a detector is built from, such as a language model."""
    try:
        _build(attack, spec, parameters, seed)
    except HarnessError:
        return False
    return True


def _build(attack: EvaluatedAttack, spec: str, parameters: Mapping[str, Any], seed: int) -> Detector:
    name, own = parse_spec(spec)
    common = {key: value for key, value in parameters.items() if key in constructor_parameters(name)}
    return build_detector(name, attack.victim, {**common, **own}, seed)


def _load(folder: Path, attack: EvaluatedAttack) -> FittedDetector:
    """A detector fitted before; one that read another victim, or read it otherwise, is refused."""
    detector, known = load_detector(folder)
    if known.get("victim_hash") != attack.victim.hash:
        raise VictimError(f"the detector in {folder} was fitted on another victim.", "Fit one on this victim.")
    for name in ("max_length", "dtype"):
        if known.get(name) != getattr(attack.victim, name):
            raise VictimError(
                f"the detector in {folder} was fitted with {name} {known.get(name)}, this evaluation reads with "
                f"{getattr(attack.victim, name)}.",
                f"Evaluate with --{name.replace('_', '-')} {known.get(name)}, or fit again.",
            )
    rows, wanted = known["train_rows"], detector.fit_rows
    facts: dict[str, Any] = {
        "train_rows_offered": rows,
        "train_rows_seen": rows if wanted is None else min(rows, wanted),
        "train_hash": known["dataset_hash"] if wanted != 0 or detector.reads_corpus else None,
        **{name: known[name] for name in ("corpus_rows", "corpus_hash") if name in known},
        "fit_seed": known["seed"],
    }
    name = detector.info.name
    parameters = detector.parameters()
    if parameters.get("layer") == attack.victim.num_layers:
        parameters["layer"] = -1  # as a spec has the last one
    spec = name if name == JOINT else spec_of(name, parameters)
    title = detector.info.title if name == JOINT else spec_title(spec)
    # One that was saved without saying what it has seen can only be taken at its word.
    seen = load_seen(folder, known) if "seen_sha256" in known else np.zeros(0, dtype=np.uint64)
    return FittedDetector(spec, title, detector.attach(attack.victim), facts, seen, known.get("tuned_on"))


@dataclass(frozen=True)
class TuningTexts:
    """Where validation rows with adversarial texts come from: the evaluated attack, or another one (cross-attack)."""

    attack: EvaluatedAttack
    texts: AttackTexts


def score_samples(
    attack: EvaluatedAttack,
    texts: AttackTexts,
    samples: Sequence[Sample],
    fitted: FittedDetector,
    *,
    limit: int | None,
    words: bool,
    tuning: TuningTexts,
    tuning_samples: Sequence[Sample],
) -> tuple[list[SeedScores], Cost]:
    """Score the samples of all seeds with one detector.

    Args:
        attack: The attack.
        texts: Its texts, read.
        samples: One a seed.
        fitted: The detector.
        limit: Texts of each class that it scores of a sample; None for all.
        words: Whether the words of the first sample's adversarial texts are scored, by a detector that can. Those of
            the others would mostly be the same ones again.
        tuning: Where a detector that tunes or trains finds adversarial texts.
        tuning_samples: Samples of that attack, of the same seeds: their validation rows.

    Returns:
        Scores a seed, and what a text cost on average, reading it included.

    Raises:
        DataError: It trains on adversarial texts and there are none to train on, or it was fitted before, on texts
            that are scored.
    """
    keys = [source_key(row.original_text) for row in attack.rows]
    trained = set() if attack.train is None else {source_key(text) for text in attack.train.texts}
    seen, tuned_before = _seen(attack, fitted)
    found: list[SeedScores] = []
    costs: list[tuple[Cost, int]] = []
    untuned = dict(fitted.detector.arrays())
    for sample, other in zip(samples, tuning_samples, strict=True):
        tuned_on, tuned = _tune(fitted, untuned, tuning, other)
        clean, adversarial = sample.clean[:limit], sample.adversarial[:limit]
        rows, source = _calibration_rows(sample, halved=tuned_on is not None)
        sources = [keys[i] for i in (*clean, *adversarial)]
        if known := len({keys[i] for i in (*clean, *adversarial) if tuned_before[i]}):
            raise DataError(
                f"it was fitted or tuned on {known} of the texts that are to be scored.",
                "Tune it on the validation rows of a seed that is evaluated (--validation-fraction 0.3 keeps some).",
            )
        # A text that occurs twice may be scored, trained or tuned on as well: it does not calibrate then.
        taken = trained.union(sources, tuned)
        rows = np.array([i for i in rows if keys[i] not in taken and not seen[i]], dtype=np.int64)[:limit]
        failed = np.array([i for i in sample.test if attack.rows[i].result == "failure"], dtype=np.int64)[:limit]
        parts = [texts.original(clean), texts.perturbed(adversarial), texts.original(rows), texts.perturbed(failed)]
        positions = np.concatenate(parts)
        scored = score_with_cost(fitted.detector, attack.victim, texts.outputs.take(positions))
        costs.append((scored.cost, len(positions)))
        ends = np.cumsum([0, len(clean) + len(adversarial), len(rows), len(failed)])
        values = [scored.values[a:b] for a, b in pairwise(ends)]
        asked = words and not found and fitted.detector.info.scores_words
        found.append(
            SeedScores(
                sample=sample,
                scores=values[0],
                adversarial=np.arange(ends[1]) >= len(clean),
                positions=positions[: ends[1]],
                sources=np.array(sources),
                calibration=values[1],
                calibration_source=source if len(rows) else None,
                failures=values[2],
                tuned_on=tuned_on,
                facts=fitted.detector.facts(),
                words=fitted.detector.word_scores(texts.outputs.take(parts[1])) if asked else None,
            )
        )
    total = sum(count for _, count in costs)
    own = sum((cost * (count / max(1, total)) for cost, count in costs), Cost())
    return found, texts.cost + own


def _seen(attack: EvaluatedAttack, fitted: FittedDetector) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which rows' originals the victim, or a detector out of a folder, says it has seen: (n,) all, and not in training.

    A few texts of published test splits are training texts too, which `load_attack` bounds; others tuned the detector.
    """
    own = text_keys([row.original_text for row in attack.rows])
    by_victim = np.isin(own, attack.victim.seen)
    if fitted.seen is None:
        return by_victim, np.zeros(len(own), dtype=np.bool_)
    before = np.isin(own, fitted.seen)
    trained = by_victim if attack.train is None else by_victim | np.isin(own, text_keys(attack.train.texts))
    return before | by_victim, before & ~trained


def _tune(
    fitted: FittedDetector, untuned: Arrays, tuning: TuningTexts, sample: Sample
) -> tuple[dict[str, Any] | None, set[str]]:
    """Tune or train a detector that needs it on the first half of the validation rows; the others calibrate.

    Returns:
        What rows say of it, and the sources of the texts.
    """
    if fitted.seen is not None:
        return fitted.tuned_on, set()
    need = fitted.detector.info.adversarial_texts
    if need == "none":
        return None, set()
    rows = sample.validation[: (len(sample.validation) + 1) // 2]
    wins = np.array([i for i in rows if tuning.attack.rows[i].result == "success"], dtype=np.int64)
    if not len(wins):
        if need == "tunes":
            fitted.detector.restore(untuned)  # another sample may have tuned it
            return None, set()
        raise DataError(
            f"the detector {fitted.detector.info.name!r} trains on adversarial texts of validation rows, and there "
            "are none.",
            "Keep some with --validation-fraction 0.3.",
        )
    positions = np.concatenate([tuning.texts.original(rows), tuning.texts.perturbed(wins)])
    fitted.detector.fit_adversarial(tuning.texts.outputs.take(positions), np.arange(len(positions)) >= len(rows))
    facts = {"recipe": tuning.attack.recipe, "clean": len(rows), "adversarial": len(wins)}
    return facts, {source_key(tuning.attack.rows[i].original_text) for i in rows}


def _calibration_rows(sample: Sample, *, halved: bool) -> tuple[Rows, str | None]:
    """Rows whose originals set the held-out threshold.

    The validation rows (the second half of them, where the first tuned the detector), and where the published split
    has none (SST-2) the test rows that the scenario left.
    """
    if len(sample.validation):
        return sample.validation[(len(sample.validation) + 1) // 2 if halved else 0 :], "validation rows"
    return sample.unsampled, "unsampled test rows" if len(sample.unsampled) else None
