"""The tables of `harness doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from harness.cli.tables import console

if TYPE_CHECKING:
    from textadv.diagnosis import ArtifactState, PackageState


def print_artifacts(states: Sequence[ArtifactState]) -> None:
    """Print a line for each artifact; below the table what is wrong, how to mend it, and what it disables."""
    table = Table(title="artifacts")
    table.add_column("artifact", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("stands in for")
    table.add_column("needed by", overflow="fold")
    for state in states:
        cells = (state.name, state.state, state.stand_in_for or "-", ", ".join(state.needed_by) or "-")
        table.add_row(*map(escape, cells))
    out = console()
    out.print(table)
    # One line each, never wrapped: they are commands and paths to copy.
    for title, chosen in (
        ("here:", [(state.name, state.place) for state in states if state.state == "here"]),
        ("damaged:", [(state.name, state.note) for state in states if state.state == "damaged"]),
        ("to get what is missing:", [(state.name, state.way_to_get) for state in states if state.way_to_get]),
    ):
        if chosen:
            out.print(title)
        for name, text in chosen:
            out.print(escape(f"  {name}: {text}"), soft_wrap=True)
    if disabled := sorted({user for state in states if state.state != "here" for user in state.needed_by}):
        out.print(escape(f"disabled: {', '.join(disabled)}"), soft_wrap=True)


def print_packages(states: Sequence[PackageState], java: str | None) -> None:
    """Print the Python packages of each extra, and Java."""
    out = console()
    for extra, group in groupby(states, key=lambda state: state.extra):
        found = list(group)
        wrong = [state for state in found if not state.fits]
        name = f"packages of the extra [{extra}]" if extra else "packages always needed"
        out.print(escape(f"{name}: {len(found) - len(wrong)} of {len(found)} here"), soft_wrap=True)
        for state in wrong:
            has = f"{state.version} is installed" if state.version else "not installed"
            command = f'pip install "palimpsest[{extra}]"' if extra else "pip install palimpsest"
            out.print(escape(f"  {state.requirement}: {has}. Run: {command}"), soft_wrap=True)
    out.print(escape(f"java (for languagetool): {java or 'not found. Install Java 17 or newer.'}"), soft_wrap=True)
