"""`harness leaderboard`: build, show, verify and compare the boards that rows make."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli import options

app = options.verb("Build the leaderboards from their rows, print them, check them, compare two.")

Folder = Annotated[Path, typer.Argument(metavar="[DIR]", help="The folder that holds results/; before the options.")]
DEFAULT = Path("leaderboards")


@app.command()
def build(
    folder: Folder = DEFAULT,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit code 1 where a file is not what the rows give.")
    ] = False,
) -> None:
    """Write detection.csv, ssl.csv and index.html anew from the rows."""
    from harness.cli.leaderboard_tables import print_counts
    from harness.cli.visible import visible_line
    from harness.core.rows import BOARDS, read_rows, row_files
    from harness.leaderboard import board

    board.require(folder)
    if not check:
        for path in board.build(folder):
            typer.echo(f"written: {visible_line(str(path))}")
        print_counts({name: len(row_files(folder, name)) for name in BOARDS})
        return
    rows = {name: read_rows(folder, name) for name in BOARDS}
    found = board.stale(folder, rows)
    for path, why in found:
        typer.echo(f"{visible_line(str(path))}: {why}.")
    print_counts({name: len(read) for name, read in rows.items()})
    if found:
        typer.echo("`harness leaderboard build` writes them anew.")
        raise typer.Exit(1)


@app.command()
def show(
    folder: Folder = DEFAULT,
    board: Annotated[str, typer.Option(help="detection or ssl.")] = "detection",
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN=VALUE", help="Only such lines: dataset=sst2, detector=rde,msp, goal!=flip, auc>=0.8."
        ),
    ] = None,
    columns: Annotated[str, typer.Option(help="Columns, separated by commas; by default a choice of them.")] = "",
    sort: Annotated[
        str,
        typer.Option(help="Columns to sort by, separated by commas: the best rate, and the lowest of all else, first."),
    ] = "",
    reverse: Annotated[bool, typer.Option("--reverse", help="Sort the other way round.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Lines at most.")] = None,
    each_seed: Annotated[bool, typer.Option("--each-seed", help="A line a seed, not means over seeds.")] = False,
    form: Annotated[
        str, typer.Option("--format", help="table, csv or json (with all columns, unless some are named).")
    ] = "table",
) -> None:
    """Print a board: chosen lines, sorted, as a table, CSV or JSON."""
    from harness.cli.leaderboard_tables import print_lines
    from harness.core.errors import UnknownNameError
    from harness.core.rows import read_rows
    from harness.leaderboard.board import require
    from harness.leaderboard.table import Selection, select

    if form not in ("table", "csv", "json"):
        raise UnknownNameError("format", form, ("table", "csv", "json"))
    rows = read_rows(require(folder), board)
    asked = Selection(
        board=board,
        where=tuple(where or ()),
        columns=options.names(columns),
        sort=options.names(sort),
        reverse=reverse,
        each_seed=each_seed,
        limit=limit,
    )
    print_lines(select(rows, asked), board, form)


@app.command()
def verify(
    folder: Folder = DEFAULT,
    only: Annotated[
        list[Path] | None, typer.Option(metavar="FILE...", help="Tell only what concerns these rows.")
    ] = None,
    new: Annotated[bool, typer.Option("--new", help="Only rows that git has not committed yet: --since HEAD.")] = False,
    since: Annotated[
        str | None,
        typer.Option(metavar="REVISION", help="Only rows that came since this git revision; a changed one is a fault."),
    ] = None,
) -> None:
    """Check every row, the rows against each other, and the files made from them; exit code 1 if any is at fault."""
    from harness.cli.leaderboard_tables import print_findings
    from harness.leaderboard.verification import verify as check

    found = check(folder, only, since=since or ("HEAD" if new else None))
    print_findings(found)
    if found.faults:
        raise typer.Exit(1)


@app.command()
def diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="A leaderboard folder.")],
    second: Annotated[Path | None, typer.Argument(metavar="[B]", help="The one to compare it with.")] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="REVISION", help="Instead of B: A as it was at this git revision, and as it is."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare two leaderboards: rows that only one has, and metrics of one experiment that moved."""
    import json

    from harness.cli.leaderboard_tables import print_difference
    from harness.core.errors import ConfigurationError
    from harness.leaderboard.difference import compare
    from harness.leaderboard.revisions import leaderboard_at

    if (second is None) == (against is None):
        raise ConfigurationError("there is nothing to compare with.", "Give a second folder, or --against REVISION.")
    if second is not None:
        found = compare(first, second)
    else:
        assert against is not None
        with leaderboard_at(first, against) as before:
            found = compare(before, first)
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print_difference(found)
