"""`harness detect`: fit a detector on clean texts, score texts with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli import options

app = options.verb("Fit detectors on clean texts and score texts with them.")


@app.command()
def fit(
    victim: options.VictimSpec,
    dataset: options.Dataset,
    out: options.Out,
    detector: Annotated[str, typer.Option(help="Which detector (harness list detectors).")] = "rde",
    split: Annotated[str, typer.Option(help="The split to fit on.")] = "train",
    limit: Annotated[int | None, typer.Option(min=1, help="Training rows, drawn by seed; by default all.")] = None,
    layer: Annotated[int | None, typer.Option(help="The layer to read; by default the last.")] = None,
    components: Annotated[int | None, typer.Option(min=1, help="Dimensions RDE keeps.")] = None,
    seed: options.Seed = 0,
    max_length: options.MaxLength = None,
    dtype: options.Dtype = "fp32",
    text_column: options.TextColumn = None,
    label_column: options.LabelColumn = None,
) -> None:
    """Fit a detector on what a victim says of clean training texts."""
    from harness.core.runs import Run
    from harness.detectors.fitting import (
        DETECTOR_FILE,
        STATE_FILE,
        build_detector,
        fit_detectors,
        save_detector,
    )
    from harness.detectors.registry import DETECTORS
    from harness.text.datasets import load_dataset
    from harness.text.sources import victim_pointer
    from harness.text.victims import Victim

    DETECTORS.get(detector)  # a wrong name is told before anything is loaded
    texts = load_dataset(dataset, split, text_column=text_column, label_column=label_column).sample(limit, seed)
    model = Victim.load(victim, max_length=max_length, dtype=dtype)
    built = build_detector(detector, model, {"layer": layer, "components": components}, seed)
    facts = {
        "victim": model.name,
        "victim_hash": model.hash,
        "max_length": model.max_length,
        "dtype": model.dtype,
        "dataset": texts.name,
        "dataset_hash": texts.hash,
        "dataset_split": texts.split,
        "train_rows": len(texts),
        "seed": seed,
    }
    config = {"detector": detector, "parameters": built.parameters(), **facts}
    with Run(out, "detect fit", config) as run:
        if run.finished:
            typer.echo("this detector is fitted already.")
        else:
            truncated = fit_detectors([built], model, texts, seed)
            if truncated:
                typer.echo(model.truncation_note(truncated, len(texts)))
            save_detector(out, built, {**facts, "victim_source": victim_pointer(victim)})
            run.finish([DETECTOR_FILE, STATE_FILE], seeds=[seed], device_seconds=round(model.device_seconds, 3))
    typer.echo(f"detector {built.info.title}, fitted on {len(texts)} texts of {texts.name}: {out}")


@app.command()
def score(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A fitted detector's folder.")],
    source: Annotated[str, typer.Argument(metavar="INPUT", help="A .txt, .jsonl, .csv, .tsv or .parquet file, or -.")],
    out: Annotated[str, typer.Option("--out", help="A .csv, .jsonl or .parquet file, or - for CSV on stdout.")] = "-",
    victim: Annotated[str | None, typer.Option(help="Where the victim is now, if it moved.")] = None,
    text_column: Annotated[str, typer.Option(help="Column of the texts.")] = "text",
    id_column: Annotated[str, typer.Option(help="Column of the ids; without it texts are numbered.")] = "id",
    batch_size: options.BatchSize = 32,
) -> None:
    """Score texts: id, predicted label, its probability, score (higher = more adversarial)."""
    from harness.core.errors import VictimError
    from harness.detectors.fitting import load_detector
    from harness.detectors.stream import score_stream
    from harness.text.victims import Victim

    detector, facts = load_detector(folder)
    spec = victim or facts["victim_source"]
    model = Victim.load(spec, max_length=facts["max_length"], dtype=facts["dtype"], batch_size=batch_size)
    if model.hash != facts["victim_hash"]:
        raise VictimError(
            f"the victim {spec} is not the one that the detector in {folder} was fitted on.",
            "Give the right one with --victim, or fit a detector on this one.",
        )
    summary = score_stream(detector, model, source, out, text_column=text_column, id_column=id_column)
    typer.echo(f"{summary.texts} texts scored{'' if out == '-' else f': {out}'}", err=True)
    if summary.truncated:
        typer.echo(model.truncation_note(summary.truncated, summary.texts), err=True)
