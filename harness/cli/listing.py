"""`harness list`: what there is by name."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli import options
from harness.core.errors import UnknownNameError

if TYPE_CHECKING:
    from harness.core.registry import Entry, Registry
    from textadv.recipes import Recipe

# The registries, loaded when they are asked for.
_REGISTRIES = {
    "attacks": ("textadv.recipes", "RECIPES"),
    "datasets": ("harness.text.datasets", "DATASETS"),
    "detectors": ("harness.detectors.registry", "DETECTORS"),
    "images": ("sdssl.images", "IMAGE_DATASETS"),
    "objectives": ("sdssl.objectives.base", "OBJECTIVES"),
    "victims": ("harness.text.victims", "VICTIMS"),
}
KINDS = tuple(_REGISTRIES)


def list_names(
    kind: Annotated[str, typer.Argument(help=f"One of: {', '.join(KINDS)}.")], artifacts: options.Artifacts = None
) -> None:
    """List what goes by a name, with a line on each; of attacks and detectors also what they do and need."""
    if kind not in _REGISTRIES:
        raise UnknownNameError("list", kind, KINDS)
    module, name = _REGISTRIES[kind]
    registry: Registry[Any] = getattr(importlib.import_module(module), name)
    problems = registry.problems()
    entries = registry.sound()
    if kind == "detectors":
        _detectors(registry, entries)
    else:
        width = max(len(entry.name) for entry in entries)
        for entry in entries:
            typer.echo(f"{entry.name:<{width}}  {entry.summary}")
            if kind == "attacks":
                _describe(registry.get(entry.name), artifacts)
    for problem in problems:
        typer.echo(f"not listed: {problem}", err=True)


def add_on_problems() -> list[str]:
    """What is wrong with what other packages add, a sentence each."""
    registries = [getattr(importlib.import_module(module), name) for module, name in _REGISTRIES.values()]
    return [problem for registry in registries for problem in registry.problems()]


def _detectors(registry: Registry[Any], entries: list[Entry]) -> None:
    """A table of the detectors, from what their classes say of themselves."""
    from rich.table import Table

    from harness.cli.tables import console

    table = Table(caption="forwards of the victim a text, the plain one included; L: words of the text")
    for name in ("detector", "what it does", "reads", "cost", "adversarial texts", "words", "from"):
        table.add_column(name)
    for entry in entries:
        info = registry.get(entry.name).info
        words = "yes" if info.scores_words else ""
        table.add_row(entry.name, entry.summary, info.reads, info.cost, info.adversarial_texts, words, info.paper)
    console().print(table)


def _describe(recipe: Recipe, artifacts: Path | None) -> None:
    from textadv.artifacts import is_here

    needs = [f"{name} ({'here' if is_here(name, artifacts) else 'missing'})" for name in recipe.artifacts]
    lines = {
        "swaps": recipe.swaps,
        "holds": "; ".join(recipe.constraints) or "nothing",
        "needs": ", ".join(needs) or "nothing more",
        "cannot run": recipe.blocked,
    }
    for name, told in lines.items():
        if told:
            typer.echo(f"    {name}: {told}")
