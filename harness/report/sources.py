"""The rows of an evaluated attack, and the names of classes, where they are still to be found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import HarnessError
from harness.core.files import hash_file, read_json
from harness.core.runs import MANIFEST
from harness.report.finished import FinishedRun
from harness.text.adversarial import ROWS_FILE, AdversarialRow, read_rows

_MORE = "Give its folder as --attacks to see examples."


@dataclass(frozen=True)
class FoundRows:
    """An attack's rows, and the folder that they lie in."""

    rows: Sequence[AdversarialRow]
    folder: Path


def find_rows(run: FinishedRun, place: int, attacks: Sequence[Path] | None) -> tuple[FoundRows | None, str]:
    """The rows of one of an evaluation's attacks.

    Args:
        run: The evaluation.
        place: Which of its attacks.
        attacks: Folders to look into instead of those that the run remembers, in any order.

    Returns:
        The rows and an empty text, or None and why there are none.
    """
    wanted = run.config["attacks"][place]["rows_hash"]
    if attacks:
        for folder in attacks:
            if (folder / ROWS_FILE).is_file() and hash_file(folder / ROWS_FILE) == wanted:
                return FoundRows(read_rows(folder), folder), ""
        named = ", ".join(map(str, attacks))
        return None, f"There are no examples: the rows that were evaluated are not in {named}. {_MORE}"
    remembered = (run.manifest.get("sources") or {}).get("attacks")
    if not remembered:
        return None, f"There are no examples: the run does not say where its attack lies. {_MORE}"
    path = Path(remembered[place], ROWS_FILE)
    if not path.is_file():
        return None, f"There are no examples: the attack is not in {path.parent} any more. {_MORE}"
    if hash_file(path) != wanted:
        return None, f"There are no examples: the rows in {path.parent} are not those that were evaluated. {_MORE}"
    return FoundRows(read_rows(path), path.parent), ""


def class_names(attack: Path) -> dict[int, str]:
    """Names of the classes as the attacked victim's folder says them; empty where it does not, or is not there."""
    manifest = _json(attack / MANIFEST)
    victim = (manifest.get("sources") or {}).get("victim")
    found = _json(Path(victim, "config.json")).get("id2label") if isinstance(victim, str) else None
    if not isinstance(found, Mapping):
        return {}
    return {int(key): str(value) for key, value in found.items() if str(key).isdecimal()}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except HarnessError:  # names are an ornament: classes have numbers as well
        return {}
    return found if isinstance(found, dict) else {}
