"""An evaluation as a run: from attack folders to result rows, tables, pictures and a leaderboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from harness.core.errors import ConfigurationError
from harness.core.files import atomic_writer, hash_file, hash_json, hash_path, read_json, write_json
from harness.core.rows import with_provenance
from harness.core.runs import MANIFEST, Run
from harness.detectors.fitting import DETECTOR_FILE
from harness.detectors.registry import DETECTORS
from harness.detectors.specs import canonical_spec, parse_spec
from harness.evaluation.attacks import EvaluatedAttack, load_attack
from harness.evaluation.detection import AttackResult, EvaluationSettings, evaluate_attack
from harness.evaluation.figures import draw_histograms, draw_roc
from harness.evaluation.scoring import can_build
from harness.text.sources import dataset_pointer

RESULTS_FILE, SCORES_FILE = "results.json", "scores.parquet"
_FORMAT = 2  # of the results file


@dataclass(frozen=True)
class EvaluationRequest:
    """What to evaluate."""

    attacks: Sequence[Path]
    detectors: Sequence[str]
    parameters: Mapping[str, Any]
    settings: EvaluationSettings
    victim: str | None = None
    dataset: str | None = None
    text_column: str | None = None
    label_column: str | None = None
    dtype: str = "fp32"
    max_length: int | None = None
    transfer: bool = False
    tune_attack: Path | None = None


@dataclass(frozen=True)
class ResultTable:
    """One attack's detectors, averaged over seeds, with what has to be said beside them.

    Attributes:
        title: What was evaluated on what.
        rows: A line a detector, those that trained on adversarial texts last.
        notes: What has to be said beside the figures, detectors that could not be used among it.
    """

    title: str
    rows: list[dict[str, Any]]
    notes: list[str]


@dataclass(frozen=True)
class EvaluationOutcome:
    """Where an evaluation left what it found."""

    folder: Path
    tables: list[ResultTable]
    rows: list[dict[str, Any]]


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and Path(value).exists()


def run_evaluation(request: EvaluationRequest, out: Path | None) -> EvaluationOutcome:
    """Evaluate detectors on attacks and keep results, scores and pictures in a run folder.

    Args:
        request: What to evaluate.
        out: The run folder; by default `runs/eval-ID`, ID from the configuration.

    Raises:
        HarnessError: Whatever is wrong with the input; nothing is written then.
    """
    folders = {name: Path(name) for name in request.detectors if (Path(name) / DETECTOR_FILE).is_file()}
    specs = [name if name in folders else canonical_spec(name) for name in request.detectors]
    if len(set(specs)) < len(specs):
        raise ConfigurationError("a detector is named twice.", "Name each detector once.")
    fresh = [DETECTORS.get(parse_spec(name)[0]) for name in specs if name not in folders]
    pointer = None
    if request.dataset is not None:
        pointer = dataset_pointer(request.dataset, request.text_column, request.label_column)
    load = partial(
        load_attack,
        victim=request.victim,
        dataset=pointer,
        needs_training_texts=any(kind.info.reads != "probabilities" for kind in fresh),
        dtype=request.dtype,
        max_length=request.max_length,
        transfer=request.transfer,
    )
    attacks = [load(folder) for folder in request.attacks]
    tune_attack = None if request.tune_attack is None else load(request.tune_attack)
    config = {
        "format": _FORMAT,
        "attacks": [_identity(attack) for attack in attacks],
        "tune_attack": None if tune_attack is None else _identity(tune_attack),
        "detectors": [hash_file(folders[n] / DETECTOR_FILE) if n in folders else n for n in specs],
        "parameters": dict(request.parameters),
        **{k: list(v) if isinstance(v, tuple) else v for k, v in asdict(request.settings).items()},
    }
    if not request.settings.same_texts:
        del config["same_texts"]  # as runs have it that were made before the setting
    names = {parse_spec(name)[0] for name in specs if name not in folders}
    if changed := {name: n for name in sorted(names) if (n := DETECTORS.get(name).info.version) > 1}:
        config["detector_versions"] = changed
    given = [request.parameters, *(parse_spec(name)[1] for name in specs if name not in folders)]
    if contents := {value: hash_path(Path(value)) for part in given for value in part.values() if _is_path(value)}:
        config["contents"] = contents  # of word vectors and other models, which may be replaced
    if added := {name: code for name in sorted(names) if (code := DETECTORS.add_on(name))}:
        config["add_ons"] = added  # their code decides what is found as much as the names do
    name = hash_json(config)[:8]
    with Run(out or Path("runs", f"eval-{name}"), "eval detect", config) as run:
        if not run.finished or _newly_available(run.folder, attacks, request):
            results = [
                evaluate_attack(attack, specs, request.parameters, request.settings, run.id, folders, tune_attack)
                for attack in attacks
            ]
            outputs = _write(run, results, request.settings)
            run.finish(outputs, seeds=list(request.settings.seeds), sources=_sources(request))
        kept = read_results(run.folder)
    return EvaluationOutcome(run.folder, [_table(found) for found in kept], [row for f in kept for row in f["rows"]])


def _newly_available(folder: Path, attacks: Sequence[EvaluatedAttack], request: EvaluationRequest) -> bool:
    """Whether a finished evaluation lacks a detector that can be built by now: its model has been fetched since."""
    return any(
        can_build(attack, spec, request.parameters, request.settings.fit_seed)
        for attack, found in zip(attacks, read_results(folder), strict=True)
        for spec in found.get("not_built", ())
    )


def read_results(folder: Path) -> list[dict[str, Any]]:
    """What a finished evaluation found, an entry an attack; its rows know the command and the manifest of the run."""
    manifest = read_json(folder / MANIFEST)
    found: list[dict[str, Any]] = read_json(folder / RESULTS_FILE)
    return [{**one, "rows": [with_provenance(row, manifest) for row in one["rows"]]} for one in found]


def _sources(request: EvaluationRequest) -> dict[str, Any]:
    """Where the attacks lie, for a later command that shows their texts; their hashes are in the configuration."""
    return {"attacks": [str(folder.expanduser().resolve()) for folder in map(Path, request.attacks)]}


def _identity(attack: EvaluatedAttack) -> dict[str, Any]:
    return {
        "dataset": attack.dataset,
        "recipe": attack.recipe,
        "rows_hash": attack.rows_hash,
        "victim_hash": attack.victim.hash,
        "max_length": attack.victim.max_length,
        "dtype": attack.victim.dtype,
        "train_hash": attack.train.hash if attack.train is not None else None,
    }


def _write(run: Run, results: Sequence[AttackResult], settings: EvaluationSettings) -> list[str]:
    """Write results, scores and pictures; return their names."""
    names = [RESULTS_FILE, SCORES_FILE]
    write_json(
        run.path(RESULTS_FILE),
        [
            {
                "title": _title(result, settings),
                "notes": _notes(result, settings),
                "rows": [row for detector in result.detectors for row in detector.rows],
                "mean_over_seeds": {
                    detector.detector: {
                        "title": detector.title,
                        "metrics": detector.mean,
                        "comparisons": detector.comparisons,
                        "words": detector.words,
                        "cost": detector.cost,
                        "trains_on_adversarial_texts": detector.trains,
                        "limited": detector.limited,
                    }
                    for detector in result.detectors
                },
                "unavailable": {one.spec: one.reason for one in result.unavailable},
                "not_built": [one.spec for one in result.unavailable if not one.built],
            }
            for result in results
        ],
    )
    _write_scores(run.path(SCORES_FILE), results)
    for number, result in enumerate(results):
        stem = f"{result.attack.dataset}-{result.attack.recipe}" + (f"-{number}" if len(results) > 1 else "")
        stem = "".join(c if c.isalnum() or c in "-_" else "_" for c in stem)
        for kind, draw in (("roc", draw_roc), ("scores", draw_histograms)):
            draw(result, run.path(f"{stem}-{kind}.png"))
            names.append(f"{stem}-{kind}.png")
    return names


def _write_scores(path: Path, results: Sequence[AttackResult]) -> None:
    """Every score that went into a figure, a line each, so that any figure can be made again."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = []
    for result in results:
        for detector in result.detectors:
            for seed in detector.seeds:
                n, attacked = len(seed.scores), int(seed.adversarial.sum())
                # A dear detector scored the first of each only.
                positions = [*seed.sample.clean[: n - attacked], *seed.sample.adversarial[:attacked]]
                parts.append(
                    pa.table(
                        {
                            "dataset": [result.attack.dataset] * n,
                            "recipe": [result.attack.recipe] * n,
                            "detector": [detector.detector] * n,
                            "seed": pa.array([seed.sample.seed] * n, pa.int64()),
                            "id": [result.attack.rows[i].id for i in positions],
                            "adversarial": seed.adversarial,
                            "score": seed.scores,
                        }
                    )
                )
    with atomic_writer(path) as handle:
        pq.write_table(pa.concat_tables(parts), handle)


def _title(result: AttackResult, settings: EvaluationSettings) -> str:
    first = result.detectors[0].rows
    seeds = ", ".join(str(row["seed"]) for row in first)
    spread = dict.fromkeys((row["n_adversarial"], row["n_clean"], row["n_calibration"]) for row in first)
    counts = "; ".join(f"{a} adversarial, {c} clean, {k} held out" for a, c, k in spread)
    attack = result.attack
    goal = "" if attack.goal == "flip" else f" ({attack.goal})"
    return (
        f"{attack.recipe}{goal} on {attack.dataset}, victim {attack.victim.name}, {settings.scenario.upper()}, "
        f"{'mean of seeds' if len(first) > 1 else 'seed'} {seeds} ({counts})"
    )


def _notes(result: AttackResult, settings: EvaluationSettings) -> list[str]:
    first, attack = result.detectors[0].rows, result.attack
    notes = []
    source = first[0]["protocol"]["calibration"]["source"]
    if source is None:
        notes.append("no held-out figures: the published split leaves no clean texts; pass --validation-fraction 0.3.")
    elif any(row["metrics"]["heldout_tpr_10"]["value"] is None for row in first):
        notes.append("no held-out figures: too few held-out clean texts for a threshold.")
    elif source != "validation rows":
        notes.append(f"held-out thresholds come from {source}: the published split has no validation rows.")
    if source is not None and not settings.draws_clean_texts:
        notes.append("clean texts of pairs are no random draw: a held-out threshold promises nothing about them.")
    limited = [detector.title for detector in result.detectors if detector.limited]
    if limited:
        who = "all detectors" if settings.same_texts else ", ".join(limited)
        notes.append(f"scored on at most the first {settings.dear_texts} texts of each class: {who}.")
    silent = [d.title for d in result.detectors if d.words is None and d.seeds[0].words is not None]
    if silent:
        notes.append(f"no text has both words that were put in and others, to score words on: {', '.join(silent)}.")
    trained = [detector.title for detector in result.detectors if detector.trains]
    if trained:
        notes.append(f"trained on adversarial texts, a class of its own: {', '.join(trained)}.")
    notes += [f"{one.title} could not be used: {one.reason}" for one in result.unavailable]
    if attack.asked_again:
        told = ", ".join(f"{key} {value}" for key, value in attack.asked_again.items() if key != "victim_hash")
        notes.append(f"every text was asked again: the attack knew another victim or precision ({told}).")
    if result.stale:
        notes.append(f"{result.stale} adversarial texts are classified right by the loaded victim (rounding).")
    return [*notes, *result.notes]


def _table(found: Mapping[str, Any]) -> ResultTable:
    """The table of one attack, from what its run keeps."""
    asked = dict.fromkeys(row["detector"] for row in found["rows"])
    means = [found["mean_over_seeds"][name] for name in asked]
    rows = [
        {
            "detector": mean["title"],
            "metrics": mean["metrics"],
            "comparisons": {compared["reference"]: compared for compared in mean["comparisons"]},
            "cost": mean["cost"],
        }
        for mean in sorted(means, key=lambda mean: bool(mean["trains_on_adversarial_texts"]))
    ]
    return ResultTable(found["title"], rows, found["notes"])
