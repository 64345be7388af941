"""The page of a run that trains a victim or fits a detector: what it says of itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.core.files import read_json
from harness.detectors.fitting import DETECTOR_FILE
from harness.report.document import Cell, Page, Section, Table, TableRow, percent, span
from harness.report.finished import FinishedRun
from harness.text.training import VICTIM_FACTS

# Where things lie is the business of this machine alone, and versions stand in a table of their own.
_LEFT_OUT = ("victim_source", "versions", "format", "parameters")


def build(run: FinishedRun, attacks: Sequence[Path] | None = None) -> Page:
    """The page of a run of `victim train` or `detect fit`."""
    trains = run.command == "victim train"
    facts = dict(read_json(run.output(VICTIM_FACTS if trains else DETECTOR_FILE)))
    lines: list[TableRow] = []
    if trains and isinstance(facts.get("accuracy"), float):
        low, high = facts.get("accuracy_low"), facts.get("accuracy_high")
        lines.append(["Accuracy on held-out texts, %", Cell(percent(facts["accuracy"]), span(low, high))])
    told = {name: value for name, value in facts.items() if name not in _LEFT_OUT and not name.startswith("accuracy")}
    lines += _lines(told)
    if isinstance(facts.get("parameters"), Mapping):
        lines += _lines(facts["parameters"], "parameter ")
    kind = "A victim" if trains else f"The detector {facts.get('detector')}, fitted"
    table = Table("What the run keeps beside the weights.", ["Fact", "Value"], lines, words=True)
    return Page(f"{kind}: {run.name}", f"Run of harness {run.command}", [Section("facts", "Facts", [table])])


def _lines(facts: Mapping[str, Any], prefix: str = "") -> list[TableRow]:
    return [[f"{prefix}{name}".replace("_", " "), _told(value)] for name, value in sorted(facts.items())]


def _told(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
