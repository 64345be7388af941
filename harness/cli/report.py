"""`harness report`: one page a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The page; by default report.html in the run folder.")
    ] = None,
    attacks: Annotated[
        list[Path] | None,
        typer.Option(
            "--attacks", metavar="DIR", help="Where an evaluated attack lies now; may be given several times."
        ),
    ] = None,
) -> None:
    """Write one self-contained HTML page of a run: figures, pictures, examples, and how it was made."""
    from harness.report.page import write_report

    written = write_report(run, out, attacks)
    for note in written.notes:
        typer.echo(note)
    typer.echo(f"report: {written.path}")
