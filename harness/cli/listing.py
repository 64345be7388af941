"""`harness list`: what there is by name."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Annotated

import typer

from harness.core.errors import UnknownNameError

# The registries, loaded when they are asked for.
_REGISTRIES = {
    "attacks": ("textadv.recipes", "RECIPES"),
    "datasets": ("harness.text.datasets", "DATASETS"),
    "detectors": ("harness.detectors.registry", "DETECTORS"),
    "images": ("sdssl.images", "IMAGE_DATASETS"),
    "objectives": ("sdssl.objectives.base", "OBJECTIVES"),
}
KINDS = tuple(_REGISTRIES)


def list_names(kind: Annotated[str, typer.Argument(help=f"One of: {', '.join(KINDS)}.")]) -> None:
    """List what goes by a name, with a line on each."""
    from harness.core.registry import Entry

    if kind not in _REGISTRIES:
        raise UnknownNameError("list", kind, KINDS)
    module, name = _REGISTRIES[kind]
    registry: Iterable[Entry] = getattr(importlib.import_module(module), name)
    entries = list(registry)
    width = max(len(entry.name) for entry in entries)
    for entry in entries:
        typer.echo(f"{entry.name:<{width}}  {entry.summary}")
