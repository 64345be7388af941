"""`harness ssl`: train encoders without labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import options

if TYPE_CHECKING:
    from sdssl.training import TrainingOutcome

app = options.verb("Train encoders without labels, with or without self-distillation.")

Device = Annotated[str | None, typer.Option(help="cpu or cuda; by default cuda where there is one.")]


@app.command()
def train(
    objective: Annotated[str, typer.Option(help="simclr, byol or mocov3 (harness list objectives).")],
    data: Annotated[str, typer.Option(help="An image folder, a Parquet or `datasets` folder, a name, or hub:ID.")],
    out: options.Out,
    self_distill: Annotated[bool, typer.Option("--self-distill", help="Let lower layers learn from the last.")] = False,
    arch: Annotated[str, typer.Option(help="Any timm ViT.")] = "vit_small_patch16_224",
    preset: Annotated[str, typer.Option(help="paper, lite (narrow heads below the last layer) or tiny.")] = "lite",
    epochs: Annotated[int | None, typer.Option(min=1, help="By default the preset's.")] = None,
    seed: options.Seed = 0,
    image_size: Annotated[int | None, typer.Option(min=2, help="Pixels; by default the model's.")] = None,
    patch_size: Annotated[int | None, typer.Option(min=1, help="Pixels; by default the model's.")] = None,
    depth: Annotated[int | None, typer.Option(min=1, help="Blocks, where not the model's own.")] = None,
    width: Annotated[int | None, typer.Option(min=4, help="Width, where not the model's own.")] = None,
    heads: Annotated[int | None, typer.Option(min=1, help="Attention heads, where not the model's own.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Images an optimiser step, in all.")] = None,
    accumulate: Annotated[int, typer.Option(min=1, help="Parts a batch is computed in.")] = 1,
    learning_rate: Annotated[float | None, typer.Option(min=0, help="At a batch of 256; it scales.")] = None,
    weight_decay: Annotated[float, typer.Option(min=0)] = 0.1,
    warmup: Annotated[float, typer.Option(min=0, max=1, help="Share of the steps.")] = 40 / 300,
    clip: Annotated[float | None, typer.Option(min=0, help="Largest norm of the gradient.")] = None,
    momentum: Annotated[float | None, typer.Option(min=0, max=1, help="Of the teacher at the start.")] = None,
    temperature: Annotated[float, typer.Option(min=0.001)] = 0.2,
    layers: Annotated[str | None, typer.Option(help="Layers that learn, such as 3,6,9; by default all.")] = None,
    head_width: Annotated[int | None, typer.Option(min=1, help="Of the heads below the last layer.")] = None,
    shared_heads: Annotated[bool, typer.Option("--shared-heads", help="One set of heads below the last.")] = False,
    norm: Annotated[
        str, typer.Option(help="shared (the final norm) or own, for the layers below the last.")
    ] = "shared",
    alpha: Annotated[float | None, typer.Option(min=0, help="Final weight of the intermediate loss.")] = None,
    alpha_schedule: Annotated[str, typer.Option(help="cosine, linear or constant.")] = "cosine",
    train_patches: Annotated[
        bool, typer.Option("--train-patches", help="Learn patch embedding and positions.")
    ] = False,
    augmentation: Annotated[str | None, typer.Option(help="imagenet or small; by default by image size.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16; by default bf16 on a GPU that has it.")] = None,
    compile: Annotated[bool, typer.Option("--compile", help="Compile the backbone.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Images; by default all.")] = None,
    split: Annotated[str, typer.Option(help="The split to train on.")] = "train",
    image_column: Annotated[str | None, typer.Option(help="Column of the images, where it is not `image`.")] = None,
    label_column: options.LabelColumn = None,
    device: Device = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that read images.")] = None,
    log_every: Annotated[int, typer.Option(min=1, help="Steps between readings.")] = 10,
    checkpoint_every: Annotated[int | None, typer.Option(min=1, help="Steps; by default an epoch.")] = None,
    keep: Annotated[int, typer.Option(min=1, help="Checkpoints that stay.")] = 2,
    knn_every: Annotated[int, typer.Option(min=0, help="Epochs between online k-NN readings; 0 for none.")] = 1,
    time_limit: Annotated[str | None, typer.Option(help="Stop cleanly after this, such as 90s, 50m or 3h.")] = None,
) -> None:
    """Train an encoder; the same command again goes on where it stopped, also on more or fewer processes."""
    from harness.core.runs import known_config
    from sdssl.images import load_images
    from sdssl.settings import TrainingSettings, default_precision
    from sdssl.training import TrainingOptions
    from sdssl.training import train as train_encoder

    settings = TrainingSettings(
        objective=objective,
        self_distill=self_distill,
        arch=arch,
        preset=preset,
        image_size=image_size,
        patch_size=patch_size,
        depth=depth,
        width=width,
        heads=heads,
        layers=options.numbers("--layers", layers) if layers is not None else None,
        head_width=head_width,
        shared_heads=shared_heads,
        norm=norm,
        freeze_patch_embedding=not train_patches,
        alpha=alpha,
        alpha_schedule=alpha_schedule,
        temperature=temperature,
        epochs=epochs,
        warmup=warmup,
        batch_size=batch_size,
        accumulate=accumulate,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        clip=clip,
        momentum=momentum,
        augmentation=augmentation,
        # A run that goes on elsewhere keeps what it was begun with.
        precision=precision or known_config(out).get("precision") or default_precision(device),
        compile=compile,
        seed=seed,
    )
    training_options = TrainingOptions(
        device=device,
        workers=workers,
        log_every=log_every,
        checkpoint_every=checkpoint_every,
        keep=keep,
        knn_every=knn_every,
        time_limit=options.seconds("--time-limit", time_limit) if time_limit is not None else None,
    )
    images = load_images(data, split, image_column=image_column, label_column=label_column).sample(limit, seed)
    outcome = train_encoder(settings, images, out, training_options)
    if outcome.is_main:
        _report(outcome, out)
    if outcome.stopped_by:
        raise typer.Exit(128 + outcome.stopped_by)


def _report(outcome: TrainingOutcome, out: Path) -> None:
    for line in outcome.report():
        typer.echo(line)
    typer.echo(f"run folder: {out}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the runs.")] = Path("runs", "ssl-demo"),
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the images.")] = 30,
    seed: options.Seed = 0,
) -> None:
    """Train a tiny ViT on scans of digits, plain and self-distilled, and read every layer of both."""
    from harness.cli.layer_inputs import DataRequest, load_layer_data, open_layer_reader
    from harness.cli.tables import print_comparison, print_layers
    from harness.leaderboard.board import add
    from sdssl.compare import compare as compare_rows
    from sdssl.compare import draw_comparisons
    from sdssl.evaluate import ReadingSettings
    from sdssl.evaluation_run import run_evaluation
    from sdssl.images import load_images
    from sdssl.settings import TrainingSettings
    from sdssl.training import TrainingOptions
    from sdssl.training import train as train_encoder

    images = load_images("digits", "train")
    data = load_layer_data("digits", DataRequest(seed=seed))
    rows = []
    for self_distill in (False, True):
        name = "self-distilled" if self_distill else "baseline"
        settings = TrainingSettings(
            objective="mocov3",
            self_distill=self_distill,
            arch="vit_tiny_patch16_224",
            preset="tiny",
            image_size=16,
            patch_size=4,
            depth=6,
            width=64,
            heads=2,
            epochs=epochs,
            seed=seed,
        )
        outcome = train_encoder(settings, images, out / name, TrainingOptions(knn_every=5))
        if outcome.stopped_by:
            _report(outcome, out / name)
            raise typer.Exit(128 + outcome.stopped_by)
        reader = open_layer_reader(str(out / name), data.unit, seed=seed)
        reading = ReadingSettings(layers=tuple(range(1, reader.num_layers + 1)), seed=seed)
        found = run_evaluation(reader, [data], reading, out / f"{name}-layers", device=str(reader.device))
        print_layers(found.rows[0])
        rows += found.rows
    for path in add(out / "leaderboard", rows):
        typer.echo(f"leaderboard: {path}")
    comparisons = compare_rows(rows, "knn-20", "cls")
    print_comparison(comparisons[0])
    draw_comparisons(comparisons, out / "layers.png")
    typer.echo(f"layer curves: {out / 'layers.png'}")


@app.command()
def compare(
    leaderboard: Annotated[Path, typer.Argument(help="A leaderboard folder with rows of both kinds of run.")],
    protocol: Annotated[str, typer.Option(help="The reading: knn-10, knn-20, ..., linear, fewshot-5, ...")] = "knn-20",
    pooling: Annotated[str, typer.Option(help="cls or avg.")] = "cls",
    out: Annotated[Path | None, typer.Option("--out", help="A PNG to draw the layer curves to.")] = None,
) -> None:
    """Compare self-distilled encoders with their baselines, layer by layer, over seeds."""
    from harness.cli.tables import print_comparison
    from harness.core.rows import read_rows
    from sdssl.compare import compare as compare_rows
    from sdssl.compare import draw_comparisons

    comparisons = compare_rows(read_rows(leaderboard, "ssl"), protocol, pooling)
    for comparison in comparisons:
        print_comparison(comparison)
    if out is not None:
        draw_comparisons(comparisons, out)
        typer.echo(f"layer curves: {out}")
