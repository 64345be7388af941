"""`harness victim`: train and describe classifiers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import options

if TYPE_CHECKING:
    from harness.text.victims import Victim

app = options.verb("Train a classifier to attack, or describe one.")


@app.command()
def train(
    encoder: Annotated[
        str,
        typer.Option(help="A hub id, a folder or `embedded`, to fine-tune; `wordcnn` or `lstm`, from scratch."),
    ],
    dataset: options.Dataset,
    out: options.Out,
    limit: Annotated[int | None, typer.Option(min=1, help="Training rows; by default all.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="By default 2; from scratch 3.")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    learning_rate: Annotated[float | None, typer.Option(min=0, help="By default 5e-5; from scratch 1e-3.")] = None,
    max_length: Annotated[int, typer.Option(min=8, help="Tokens a training text may have.")] = 256,
    vectors: Annotated[
        Path | None,
        typer.Option(help="Word vectors for `wordcnn` and `lstm` to start from: an .npz file or its folder."),
    ] = None,
    adapter_rank: Annotated[
        int | None,
        typer.Option(min=1, help="Train a low-rank adapter, and keep only that; by default all weights."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="PyTorch threads: another number gives other weights; by default all cores."),
    ] = None,
    seed: options.Seed = 0,
    text_column: options.TextColumn = None,
    label_column: options.LabelColumn = None,
) -> None:
    """Train a classifier and measure it on held-out texts."""
    from dataclasses import asdict

    from harness.core.files import read_json
    from harness.core.runs import Run
    from harness.text.starting_points import encoder_hash, encoder_name
    from harness.text.training import (
        ADAPTER_FILES,
        VICTIM_FACTS,
        VICTIM_FILES,
        train_victim,
        training_data,
        training_settings,
    )
    from harness.text.word_vocabulary import read_start_vectors

    settings = training_settings(
        encoder,
        adapter=adapter_rank is not None,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        max_length=max_length,
        seed=seed,
    )
    data = training_data(dataset, limit, seed, text_column=text_column, label_column=label_column)
    start = read_start_vectors(vectors) if vectors else None
    config = {
        "encoder": encoder_name(encoder),
        "encoder_hash": encoder_hash(encoder),
        "vectors_hash": start.hash if start else None,
        "dataset": data.train.name,
        "dataset_hash": data.train.hash,
        "heldout_hash": data.heldout.hash,
        **asdict(settings),
    }
    if adapter_rank is not None:
        config["adapter_rank"] = adapter_rank
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
        config["threads"] = threads
    with Run(out, "victim train", config) as run:
        if run.finished:
            facts = read_json(run.path(VICTIM_FACTS))
        else:
            facts = train_victim(encoder, data, settings, run, vectors=start, adapter_rank=adapter_rank)
            run.finish(VICTIM_FILES if adapter_rank is None else ADAPTER_FILES)
    typer.echo(
        f"accuracy on {facts['heldout_rows']} held-out texts ({facts['heldout_split']}): "
        f"{facts['accuracy']:.1%} [{facts['accuracy_low']:.1%}, {facts['accuracy_high']:.1%}]"
    )
    typer.echo(f"victim: {out}")


@app.command()
def info(
    victim: Annotated[str, typer.Argument(metavar="VICTIM", help="A hub id, a folder, or a name (`list victims`).")],
) -> None:
    """Describe a classifier: architecture, labels, layers, hash, accuracy."""
    from harness.core.files import read_json
    from harness.text.training import VICTIM_FACTS
    from harness.text.victims import VICTIMS, Victim

    model = Victim.load(victim)
    lines = {
        "victim": model.name,
        "architecture": model.model.config.model_type,
        "labels": ", ".join(f"{index} {name}" for index, name in enumerate(model.label_names)),
        "layers": _layers(model),
        "parameters": f"{model.model.num_parameters():,}",
        "max length": f"{model.max_length} tokens",
        "hash": model.hash,
    }
    path = (VICTIMS.get(victim)() if victim in VICTIMS else Path(victim)) / VICTIM_FACTS
    if path.is_file():
        facts = read_json(path)
        lines["trained on"] = f"{facts['train_rows']} rows of {facts['dataset']}, from {facts['encoder']}"
        lines["accuracy"] = (
            f"{facts['accuracy']:.1%} [{facts['accuracy_low']:.1%}, {facts['accuracy_high']:.1%}] "
            f"on {facts['heldout_rows']} held-out texts"
        )
    for name, value in lines.items():
        typer.echo(f"{name:<13}{value}")


def _layers(victim: Victim) -> str:
    if victim.has_class_token:
        return f"{victim.num_layers} x {victim.width(-1)}"
    return f"no per-layer class token; 0 = mean of word vectors ({victim.width(0)}), 1 = pooled ({victim.width(1)})"
