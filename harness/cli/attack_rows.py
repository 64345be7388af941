"""`harness attack show`, `verify`, `stats`, `import` and `export`: what is done with rows after the attack."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli import options

if TYPE_CHECKING:
    from harness.text.adversarial import AdversarialRow


def register(app: typer.Typer) -> None:
    """Add these commands to the app of `harness attack`."""
    app.command("show")(show)
    app.command("verify")(verify)
    app.command("stats")(stats)
    app.command("import")(import_)
    app.command("export")(export)


def show(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An attack's run folder.")],
    examples: Annotated[int, typer.Option(min=0, help="Successful attacks to show, changed words in colour.")] = 0,
) -> None:
    """Print a summary of an attack, and examples."""
    from harness.cli.tables import print_attack_summary, print_example
    from harness.text.adversarial import read_rows

    rows = read_rows(folder)
    print_attack_summary(rows)
    for row in [row for row in rows if row.result in ("success", "maximized")][:examples]:
        print_example(row)


def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run folder with rows, or a file of rows.")],
    victim: Annotated[
        str | None, typer.Option(help="The victim to ask; by default the attacked one. An imported log needs it.")
    ] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="How far a probability may be off.")] = 1e-4,
    dtype: Annotated[str | None, typer.Option(help="fp32 or bf16; by default as in the attack.")] = None,
    max_length: options.MaxLength = None,
    batch_size: options.BatchSize = 32,
    examples: Annotated[int, typer.Option(min=0, help="Faulty rows to name; the report has all.")] = 5,
) -> None:
    """Run the victim again over every stored pair and flag rows that no longer hold; exit code 1 if any."""
    from harness.cli.attack_tables import print_verification
    from harness.text.verification import verify_rows, write_report

    found = verify_rows(
        folder, victim=victim, tolerance=tolerance, dtype=dtype, max_length=max_length, batch_size=batch_size
    )
    report = write_report(folder, found)
    print_verification(found, examples)
    typer.echo(f"report: {report}")
    if found.faults:
        raise typer.Exit(1)


def stats(
    first: Annotated[Path, typer.Argument(metavar="A", help="A run folder with rows, or a file of rows.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="The one to compare it with.")],
    seed: Annotated[int, typer.Option(min=0, max=options.LARGEST_SEED, help="Seed of the bootstrap.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare two sets: rates, what both did to the same texts, and which settings differ."""
    import json

    from harness.cli.attack_tables import print_set_comparison
    from harness.text.attack_stats import compare_sets

    found = compare_sets(first, second, seed=seed)
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print_set_comparison(found)


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
    goal: Annotated[
        str | None, typer.Option(help="untargeted, targeted or input-reduction; by default what the results say.")
    ] = None,
    target_class: Annotated[int | None, typer.Option(help="The label that a targeted attack wanted.")] = None,
    min_confidence: Annotated[float | None, typer.Option(help="Confidence that the wrong label had to reach.")] = None,
    marks: Annotated[
        str | None,
        typer.Option(help="How changed words are marked: file ([[ ]]), html, ansi, plain; by default what is found."),
    ] = None,
) -> None:
    """Read an attack log into adversarial rows; JSON lines say all of themselves, a CSV log needs the options."""
    from harness.cli.tables import print_attack_summary
    from harness.core.files import hash_file
    from harness.core.runs import Run
    from harness.text.adversarial import ROWS_FILE, write_rows
    from harness.text.attack_logs import import_log

    facts: dict[str, Any] = {"dataset": dataset, "split": split, "recipe": recipe, "victim": victim, "classes": classes}
    more = {"goal": goal, "target_class": target_class, "min_confidence": min_confidence, "marks": marks}
    facts |= {name: value for name, value in more.items() if value is not None}
    rows = import_log(log, **facts)
    config = {"log": log.name, "log_hash": hash_file(log), **facts}
    with Run(out, "attack import", config) as opened:
        write_rows(opened.path(ROWS_FILE), rows)
        opened.finish([ROWS_FILE], texts=len(rows))
    print_attack_summary(rows)
    if log.suffix != ".jsonl" and goal is None and rows[0].goal != "untargeted":
        typer.echo(f"goal: {rows[0].goal}, for the log holds results that are Maximized; --goal says otherwise")
    typer.echo(f"run folder: {out}")


def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An attack's run folder.")],
    out: Annotated[Path, typer.Option("--out", help="A .csv (TextAttack's log) or .jsonl file.")],
) -> None:
    """Write adversarial rows as TextAttack's CSV log or as JSON lines, and say what the format cannot hold."""
    from harness.text.adversarial import read_rows
    from harness.text.attack_logs import export_log, losses_as_text

    rows = read_rows(folder)
    losses = export_log(out, rows)
    for line in losses_as_text(losses, len(rows)):
        typer.echo(line)
    if rows and out.suffix == ".csv":
        typer.echo(f"to read it back: harness attack import {shlex.quote(str(out))} {_told(rows[0])} --out DIR")
    typer.echo(f"{len(rows)} rows: {out}")


def _told(row: AdversarialRow) -> str:
    """The options that give an exported CSV log back what its reader has to say."""
    classes = len(row.original_probabilities or ()) or None
    goal = None if row.goal == "untargeted" else row.goal
    names = ("dataset", "split", "recipe", "victim", "target_class", "min_confidence")
    options = {name: getattr(row, name) for name in names} | {"goal": goal, "classes": classes}
    return " ".join(
        f"--{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in options.items() if value is not None
    )
