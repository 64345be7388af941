"""`harness attack`: make adversarial rows, show them, read and write logs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli import options

app = options.verb("Make adversarial datasets, show them, import and export logs.")


@app.command()
def run(
    dataset: options.Dataset,
    victim: options.VictimSpec,
    out: options.Out,
    recipe: Annotated[str, typer.Option(help="The attack recipe (harness list attacks).")] = "pwws",
    split: Annotated[str, typer.Option(help="The split to attack.")] = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="Texts to attack, drawn by seed; by default all.")] = None,
    seed: options.Seed = 0,
    max_length: options.MaxLength = None,
    dtype: options.Dtype = "fp32",
    text_column: options.TextColumn = None,
    label_column: options.LabelColumn = None,
) -> None:
    """Attack a classifier and write adversarial rows; kill it at any moment, the same command resumes."""
    from harness.core.runs import Run
    from harness.text.adversarial import ROWS_FILE, TIMINGS_FILE, read_rows
    from harness.text.datasets import load_dataset
    from harness.text.sources import dataset_pointer, victim_pointer
    from harness.text.victims import Victim
    from textadv.engine import attack_config, check_texts, run_attack
    from textadv.recipes import RECIPES

    chosen = RECIPES.get(recipe)
    whole = load_dataset(dataset, split, text_column=text_column, label_column=label_column)
    model = Victim.load(victim, max_length=max_length, dtype=dtype)
    model.check_labels(whole.labels, whole.name)
    texts = whole.sample(limit, seed)
    check_texts(texts)
    with Run(out, "attack run", attack_config(texts, model, chosen, seed)) as opened:
        if opened.finished:
            typer.echo("this run is complete already.")
            rows = read_rows(out)
        else:
            rows, truncated = run_attack(texts, model, chosen, opened, seed=seed)
            opened.finish(
                [ROWS_FILE, TIMINGS_FILE],
                sources={
                    "dataset": dataset_pointer(dataset, text_column, label_column),
                    "victim": victim_pointer(victim),
                },
                seeds=[seed],
                texts=len(rows),
                truncated=truncated,
                device_seconds=round(model.device_seconds, 3),
            )
            if truncated:
                typer.echo(model.truncation_note(truncated, len(rows)))
    _print_summary(rows)
    typer.echo(f"run folder: {out}")


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An attack's run folder.")],
    examples: Annotated[int, typer.Option(min=0, help="Successful attacks to show, changed words in colour.")] = 0,
) -> None:
    """Print a summary of an attack, and examples."""
    from harness.cli.tables import print_example
    from harness.text.adversarial import read_rows

    rows = read_rows(folder)
    _print_summary(rows)
    for row in [row for row in rows if row.result == "success"][:examples]:
        print_example(row)


@app.command("import")
def import_(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="TextAttack's .csv log, or our .jsonl.")],
    out: options.Out,
    dataset: Annotated[str, typer.Option(help="Name of the attacked dataset; the log does not hold it.")] = "unknown",
    split: Annotated[str, typer.Option(help="Its split.")] = "test",
    recipe: Annotated[str, typer.Option(help="Name of the recipe.")] = "unknown",
    victim: Annotated[str, typer.Option(help="Name of the victim.")] = "unknown",
    classes: Annotated[
        int | None, typer.Option(min=2, help="Classes of the victim; with 2, a CSV log gives all probabilities.")
    ] = None,
) -> None:
    """Read an attack log into adversarial rows."""
    from harness.core.files import hash_file
    from harness.core.runs import Run
    from harness.text.adversarial import ROWS_FILE, write_rows
    from harness.text.attack_logs import import_log

    facts = {"dataset": dataset, "split": split, "recipe": recipe, "victim": victim}
    rows = import_log(log, classes=classes, **facts)
    config = {"log": log.name, "log_hash": hash_file(log), "classes": classes, **facts}
    with Run(out, "attack import", config) as opened:
        write_rows(opened.path(ROWS_FILE), rows)
        opened.finish([ROWS_FILE], texts=len(rows))
    _print_summary(rows)
    typer.echo(f"run folder: {out}")


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An attack's run folder.")],
    out: Annotated[Path, typer.Option("--out", help="A .csv (TextAttack's log) or .jsonl file.")],
) -> None:
    """Write adversarial rows as TextAttack's CSV log or as JSON lines."""
    from harness.text.adversarial import read_rows
    from harness.text.attack_logs import export_log

    rows = read_rows(folder)
    export_log(out, rows)
    typer.echo(f"{len(rows)} rows: {out}")


def _print_summary(rows: list) -> None:  # type: ignore[type-arg]
    from harness.cli.tables import print_attack_summary

    print_attack_summary(rows)
