"""`harness list`: what there is by name."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.core.errors import UnknownNameError

KINDS = ("attacks", "datasets", "detectors")


def list_names(kind: Annotated[str, typer.Argument(help=f"One of: {', '.join(KINDS)}.")]) -> None:
    """List attacks, datasets or detectors with a line on each."""
    from harness.core.registry import Entry

    entries: list[Entry]
    if kind == "attacks":
        from textadv.recipes import RECIPES

        entries = list(RECIPES)
    elif kind == "datasets":
        from harness.text.datasets import DATASETS

        entries = list(DATASETS)
    elif kind == "detectors":
        from harness.detectors.registry import DETECTORS

        entries = list(DETECTORS)
    else:
        raise UnknownNameError("list", kind, KINDS)
    width = max(len(entry.name) for entry in entries)
    for entry in entries:
        typer.echo(f"{entry.name:<{width}}  {entry.summary}")
