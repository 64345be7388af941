"""`harness detect`: fit a detector on clean texts, score texts with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli import options
from harness.cli.hub_folders import detector_folder

if TYPE_CHECKING:
    from harness.detectors.clean_texts import CleanTexts
    from harness.detectors.decisions import Calibration
    from harness.text.victims import Victim

app = options.verb("Fit detectors on clean texts, calibrate them, and score texts with them.")

_FPR = 0.05
CalibrationData = Annotated[
    str | None,
    typer.Option(
        "--calibration",
        metavar="DATA",
        help="Clean texts for decisions: a dataset, a file, or an attack run (originals of its validation rows).",
    ),
]
CalibrationSplit = Annotated[str | None, typer.Option(help="The split of a calibration dataset; by default test.")]
CalibrationLimit = Annotated[int | None, typer.Option(min=1, help="Calibration texts at most, drawn by seed.")]
Fpr = Annotated[float | None, typer.Option(help=f"False-positive rate to promise; by default {_FPR}.")]
Confidence = Annotated[
    float | None, typer.Option(help="Keep the rate for this calibration set with such a probability, not on average.")
]
AttackRun = Annotated[
    Path | None, typer.Option("--attacks", metavar="RUN", help="An attack run whose validation rows tune or train it.")
]
Detector = Annotated[Path, typer.Argument(metavar="DIR", help="A fitted detector's folder, or hub:ORG/NAME.")]
MovedVictim = Annotated[str | None, typer.Option("--victim", help="Where the victim is now, if it moved.")]


@app.command()
def fit(
    victim: options.VictimSpec,
    dataset: options.Dataset,
    out: options.Out,
    detector: Annotated[
        str, typer.Option(help="A name (harness list detectors), with parameters such as knn:layer=all,k=20.")
    ] = "rde",
    split: Annotated[str, typer.Option(help="The split to fit on.")] = "train",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Training rows to read, drawn by seed; by default all.")
    ] = None,
    layer: options.Layer = None,
    components: Annotated[int | None, typer.Option(min=1, help="Dimensions RDE keeps.")] = None,
    seed: options.Seed = 0,
    max_length: options.MaxLength = None,
    dtype: options.Dtype = "fp32",
    text_column: options.TextColumn = None,
    label_column: options.LabelColumn = None,
    attacks: AttackRun = None,
    calibration: CalibrationData = None,
    calibration_split: CalibrationSplit = None,
    calibration_limit: CalibrationLimit = None,
    fpr: Fpr = None,
    confidence: Confidence = None,
) -> None:
    """Fit a detector on what a victim says of clean training texts, and calibrate it on clean texts it has not seen."""
    import numpy as np

    from harness.core.errors import ConfigurationError
    from harness.core.runs import Run
    from harness.detectors.clean_texts import (
        check_needs_no_attacks,
        check_takes_attacks,
        load_clean_texts,
        tune_detector,
        tuning_rows,
    )
    from harness.detectors.decisions import check_promise
    from harness.detectors.fitting import (
        DETECTOR_FILE,
        STATE_FILE,
        add_on_facts,
        build_detector,
        corpus_facts,
        fit_detectors,
        save_detector,
    )
    from harness.detectors.specs import canonical_spec, parse_spec
    from harness.text.datasets import load_dataset
    from harness.text.seen_texts import SEEN_FILE, save_seen, text_keys
    from harness.text.sources import dataset_id, victim_pointer
    from harness.text.victims import Victim

    name, own = parse_spec(detector)  # a wrong name is told before anything is loaded
    if calibration is None and any(x is not None for x in (calibration_split, calibration_limit, fpr, confidence)):
        raise ConfigurationError("a false-positive rate is promised on clean texts.", "Name them with --calibration.")
    check_promise(_FPR if fpr is None else fpr, confidence)
    columns = {"text_column": text_column, "label_column": label_column}
    whole = load_dataset(dataset, split, **columns)
    model = Victim.load(victim, max_length=max_length, dtype=dtype)
    whole = model.with_own_labels(whole)
    texts = whole.sample(limit, seed)
    clean = None
    if calibration is not None:
        clean = load_clean_texts(calibration, split=calibration_split, seed=seed, **columns)
        # Training data is told before the fit.
        clean.unseen(np.concatenate([text_keys(whole.texts), model.seen]), calibration_limit, seed)
    built = build_detector(name, model, {"layer": options.layer(layer), "components": components, **own}, seed)
    if attacks is None:
        check_needs_no_attacks(built)
    else:
        check_takes_attacks(built)
    tuning = None if attacks is None else tuning_rows(attacks, model, seed)
    facts = {
        "victim": model.name,
        "victim_hash": model.hash,
        "max_length": model.max_length,
        "dtype": model.dtype,
        "dataset": texts.name,
        "dataset_hash": texts.hash,
        "dataset_split": texts.split,
        "train_rows": len(texts),
        **corpus_facts(built, whole),
        "seed": seed,
        **({"tuned_on": tuning.facts} if tuning else {}),
    }
    config = {
        "detector": canonical_spec(detector),
        # Runs from before there were versions have none, and are of the first.
        **({"detector_version": built.info.version} if built.info.version > 1 else {}),
        "parameters": built.parameters(),
        **facts,
        **add_on_facts(built),
    }
    with Run(out, "detect fit", config) as run:
        if run.finished:
            typer.echo("this detector is fitted already.")
        else:
            truncated = fit_detectors([built], model, texts, seed, corpus=whole)
            if truncated:
                typer.echo(model.truncation_note(truncated, len(texts)))
            if tuning is not None:
                tune_detector(built, model, tuning)
            tuned = (*tuning.originals, *tuning.adversarial) if tuning else ()
            seen = save_seen(out, whole.texts, tuned, model.seen)
            pointers = {"victim_source": victim_pointer(victim), "seen_sha256": seen, **dataset_id(texts)}
            save_detector(out, built, {**facts, **pointers})
            run.finish(
                [DETECTOR_FILE, STATE_FILE, SEEN_FILE],
                seeds=[seed],
                device_seconds=round(model.device_seconds, 3),
            )
    typer.echo(f"detector {built.info.title}, fitted on {len(texts)} texts of {texts.name}: {out}")
    if clean is not None:
        _calibrate(out, model, clean, calibration_limit, seed, fpr, confidence)


@app.command()
def calibrate(
    folder: Detector,
    calibration: Annotated[
        str, typer.Option("--calibration", metavar="DATA", help="Clean texts: a dataset, a file, or an attack run.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="A new folder for the calibrated detector; by default its own.")
    ] = None,
    calibration_split: CalibrationSplit = None,
    calibration_limit: CalibrationLimit = None,
    fpr: Fpr = None,
    confidence: Confidence = None,
    seed: options.Seed = 0,
    victim: MovedVictim = None,
    text_column: options.TextColumn = None,
    label_column: options.LabelColumn = None,
) -> None:
    """Calibrate a fitted detector on clean texts it has not seen, so that it decides at a promised rate."""
    from harness.detectors.clean_texts import load_clean_texts
    from harness.detectors.decisions import check_promise, new_folder
    from harness.detectors.fitting import load_detector

    check_promise(_FPR if fpr is None else fpr, confidence)
    keep = new_folder(folder, out)
    folder = detector_folder(folder)
    columns = {"text_column": text_column, "label_column": label_column}
    texts = load_clean_texts(calibration, split=calibration_split, seed=seed, **columns)
    _, facts = load_detector(folder)
    model = _victim_of(folder, facts, victim)
    _calibrate(folder, model, texts, calibration_limit, seed, fpr, confidence, keep)
    if keep is not None:
        typer.echo(f"detector: {keep}")


@app.command()
def joint(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Fitted detectors of one victim.")],
    calibration: Annotated[
        str, typer.Option("--calibration", metavar="DATA", help="Clean texts: one half tunes, the other calibrates.")
    ],
    out: options.Out,
    method: Annotated[
        str, typer.Option(help="thresholds, bonferroni, simes, fisher, cauchy or harmonic (docs/decisions.md).")
    ] = "thresholds",
    attacks: Annotated[
        Path | None,
        typer.Option("--attacks", metavar="RUN", help="An attack run whose validation rows say what shares flag most."),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Measure every method and detector on the test rows of --attacks.")
    ] = False,
    calibration_split: CalibrationSplit = None,
    calibration_limit: CalibrationLimit = None,
    fpr: Fpr = None,
    confidence: Confidence = None,
    seed: options.Seed = 0,
    victim: MovedVictim = None,
    text_column: options.TextColumn = None,
    label_column: options.LabelColumn = None,
) -> None:
    """Join several detectors under one false-positive budget."""
    import numpy as np

    from harness.core.errors import ConfigurationError
    from harness.core.runs import Run
    from harness.detectors import joining
    from harness.detectors.clean_texts import load_clean_texts, tuning_rows
    from harness.detectors.decisions import calibrate as calibrated
    from harness.detectors.decisions import check_promise, save_calibration
    from harness.detectors.fitting import DETECTOR_FILE, STATE_FILE, save_detector
    from harness.detectors.pairing import check_facts
    from harness.text.seen_texts import SEEN_FILE, save_seen

    rate = _FPR if fpr is None else fpr
    check_promise(rate, confidence)
    folders = [detector_folder(folder) for folder in folders]
    if compare and attacks is None:
        raise ConfigurationError("methods are compared on an attack.", "Name one with --attacks.")
    members = joining.load_members(folders)
    check_facts(folders[0], members.facts)
    columns = {"text_column": text_column, "label_column": label_column}
    found = load_clean_texts(calibration, split=calibration_split, seed=seed, **columns)
    seen_by_members = np.concatenate(members.seen)
    texts = found.unseen(seen_by_members, calibration_limit, seed)
    model = _victim_of(folders[0], members.facts, victim)
    tuning = None if attacks is None else tuning_rows(attacks, model, seed).unseen(seen_by_members)
    first, second = joining.split_halves(texts, tuning, seed)
    facts = {
        **{key: members.facts[key] for key in ("victim", "victim_hash", "max_length", "dtype", "train_rows")},
        **{key: members.facts[key] for key in ("dataset", "dataset_hash", "dataset_split")},
        "members": list(members.hashes),
        "tuning_texts": len(first),
        "seed": seed,
        **({"tuned_on": tuning.facts} if tuning else {}),
    }
    config = {"method": method, "fpr": rate, "texts_hash": texts.hash, **facts}
    with Run(out, "detect joint", config) as run:
        detector = joining.join(members, model, first, tuning, method=method, fpr=rate)
        tuned = (*tuning.originals, *tuning.adversarial) if tuning else ()
        seen = save_seen(out, first, tuned, *members.seen)
        pointers = {"victim_source": members.facts["victim_source"], "seen_sha256": seen}
        pointers |= {key: members.facts[key] for key in ("dataset_id",) if key in members.facts}
        save_detector(out, detector, {**facts, **pointers})
        run.finish([DETECTOR_FILE, STATE_FILE, SEEN_FILE], seeds=[seed])
    decisions = calibrated(detector, model, second, fpr=rate, confidence=confidence)
    save_calibration(out, decisions)
    typer.echo(f"{', '.join(members.names)} joined by {method}, tuned on {len(first)} texts of {texts.title}: {out}")
    _say(decisions, second.title)
    if decisions.can_flag and method in ("thresholds", "bonferroni"):
        own = detector.decision.thresholds(decisions.threshold)
        told = ", ".join(f"{name} > {value:.6g}" for name, value in zip(members.names, own, strict=True))
        typer.echo(f"a text is flagged when any of these holds: {told}.")
    if compare and attacks is not None and tuning is not None:
        rows = joining.compare_on_test_rows(
            members, model, attacks, first, second, tuning, fpr=rate, confidence=confidence, seed=seed
        )
        typer.echo(f"on the test rows of {attacks}, each calibrated on the same {len(second.texts)} texts:")
        for row in rows:
            typer.echo(f"  {row['method']:<20} TPR {100 * row['tpr']:5.1f}%  realised FPR {100 * row['fpr']:5.2f}%")


@app.command()
def score(
    folder: Detector,
    source: Annotated[str, typer.Argument(metavar="INPUT", help="A .txt, .jsonl, .csv, .tsv or .parquet file, or -.")],
    out: Annotated[str, typer.Option("--out", help="A .csv, .jsonl or .parquet file, or - for CSV on stdout.")] = "-",
    victim: MovedVictim = None,
    text_column: Annotated[str, typer.Option(help="Column of the texts.")] = "text",
    id_column: Annotated[str, typer.Option(help="Column of the ids; without it texts are numbered.")] = "id",
    batch_size: options.BatchSize = 32,
) -> None:
    """Score texts: id, predicted label, its probability, score (higher = more adversarial).

    A calibrated detector adds p_value (split-conformal) and decision (adversarial or clean).
    """
    from harness.detectors.decisions import load_calibration
    from harness.detectors.fitting import load_detector
    from harness.detectors.stream import score_stream

    folder = detector_folder(folder)
    detector, facts = load_detector(folder)
    calibration = load_calibration(folder)
    model = _victim_of(folder, facts, victim, batch_size)
    columns = {"text_column": text_column, "id_column": id_column}
    summary = score_stream(detector, model, source, out, calibration=calibration, **columns)
    typer.echo(f"{summary.texts} texts scored{'' if out == '-' else f': {out}'}", err=True)
    if calibration is not None:
        typer.echo(f"{summary.flagged} flagged; {calibration.promise()}", err=True)
    if summary.truncated:
        typer.echo(model.truncation_note(summary.truncated, summary.texts), err=True)


def _victim_of(folder: Path, facts: dict[str, Any], moved: str | None, batch_size: int = 32) -> Victim:
    """The victim that the detector in a folder was fitted on."""
    from harness.detectors.pairing import load_victim

    return load_victim(folder, facts, moved, batch_size)


def _calibrate(
    folder: Path,
    model: Victim,
    texts: CleanTexts,
    limit: int | None,
    seed: int,
    fpr: float | None,
    confidence: Any,
    keep: Path | None = None,
) -> None:
    """Calibrate the detector in a folder, or a copy of it in another, and say what it promises now."""
    from harness.detectors.clean_texts import load_seen
    from harness.detectors.decisions import calibrate as calibrated
    from harness.detectors.decisions import copy_detector, save_calibration
    from harness.detectors.fitting import load_detector

    detector, facts = load_detector(folder)
    unseen = texts.unseen(load_seen(folder, facts), limit, seed)
    decisions = calibrated(detector, model, unseen, fpr=_FPR if fpr is None else fpr, confidence=confidence)
    if keep is not None:
        copy_detector(folder, keep)
    save_calibration(keep or folder, decisions)
    _say(decisions, unseen.title)
    if decisions.facts["truncated"]:
        typer.echo(model.truncation_note(decisions.facts["truncated"], len(unseen.texts)))


def _say(calibration: Calibration, title: str) -> None:
    left_out = calibration.facts["left_out"]
    also = f" ({left_out} more left out: seen in training)" if left_out else ""
    typer.echo(f"calibrated on {len(calibration.scores)} clean texts of {title}{also}.")
    if repeats := calibration.facts.get("repeats"):
        typer.echo(f"note: {repeats} of them are repeats; the promise takes all for independent draws.")
    typer.echo(("" if calibration.can_flag else "note: ") + calibration.promise())
