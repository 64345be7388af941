"""Which attack runs a release is made of, and the configurations that their rows make."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import ConfigurationError, DataError
from harness.core.files import hash_file, hash_json
from harness.core.runs import CONFIG, known_config, read_run, run_finished
from harness.text.adversarial import ROWS_FILE, SETTINGS, AdversarialRow, read_rows

# The longest file name is 255 bytes almost everywhere, and caches put more into theirs.
_LONGEST_NAME = 120


@dataclass(frozen=True)
class FoundRuns:
    """The attack runs in a folder.

    Attributes:
        finished: Their folders, in order of their names.
        unfinished: Names of those that are not finished.
    """

    finished: list[Path]
    unfinished: list[str]


@dataclass(frozen=True)
class Configuration:
    """Rows of one attack on one victim: what `datasets` calls a configuration.

    Attributes:
        name: Dataset, recipe, goal and victim; safe in paths, addresses and YAML.
        rows: Its rows in the order of the run, alike in all of `SETTINGS` but the split.
        config: The run's configuration.
        label_names: The class names, where the run says them.
    """

    name: str
    rows: list[AdversarialRow]
    config: dict[str, Any]
    label_names: list[str] | None

    @property
    def head(self) -> AdversarialRow:
        """A row that stands for the settings of all."""
        return self.rows[0]

    def splits(self) -> dict[str, list[AdversarialRow]]:
        """Rows by the name of the split's file, sorted by it."""
        found: dict[str, list[AdversarialRow]] = defaultdict(list)
        for row in self.rows:
            found[split_name(row.split)].append(row)
        return dict(sorted(found.items()))


def find_runs(source: Path) -> FoundRuns:
    """The attack runs of `source`: itself, those in its `attacks/` (a suite), or those right in it.

    Raises:
        ConfigurationError: There is none, none is finished, or `source` is a run of something else.
    """
    source = Path(source)
    if (source / CONFIG).is_file():
        read_run(source, "attack")
        return FoundRuns([source], [])
    folder = source / "attacks" if (source / "attacks").is_dir() else source
    entries = sorted(entry for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
    runs = [entry for entry in entries if str(known_config(entry).get("command", "")).startswith("attack ")]
    finished = [run for run in runs if run_finished(run)]
    unfinished = [run.name for run in runs if not run_finished(run)]
    if not finished:
        more = f"; not finished: {', '.join(unfinished)}" if unfinished else ""
        raise ConfigurationError(
            f"there is no finished attack run in {source}{more}.",
            "Give a folder that `harness attack run` or `import` made, a suite's, or one that holds such folders.",
        )
    return FoundRuns(finished, unfinished)


def read_configurations(runs: list[Path]) -> list[Configuration]:
    """The configurations that the rows of some runs make, sorted by name.

    Raises:
        DataError: A run holds no rows, or not those that it wrote.
    """
    groups: list[tuple[tuple[str, str], list[AdversarialRow], dict[str, Any], list[str] | None]] = []
    for run in runs:
        config, manifest = read_run(run, "attack")
        rows = read_rows(run)
        if not rows:
            raise DataError(f"{run} holds no adversarial rows.")
        written = hash_file(run / ROWS_FILE)
        if manifest.get("outputs", {}).get(ROWS_FILE) != written:
            raise DataError(
                f"the rows in {run} are not those that the run wrote: they were changed afterwards.",
                "Make them again, or import the changed rows with `harness attack import`.",
            )
        by_settings: dict[str, list[AdversarialRow]] = defaultdict(list)
        for row in rows:
            by_settings[_settings_key(row)].append(row)
        names = manifest.get("label_names")
        groups += [((key, written), part, config, names) for key, part in by_settings.items()]
    plain = [_plain_name(rows[0]) for _, rows, _, _ in groups]
    taken = defaultdict(set)
    for number, name in enumerate(plain):
        taken[name.casefold()].add(number)  # some file systems do not tell cases apart
    found = []
    for (key, rows, config, names), name in zip(groups, plain, strict=True):
        unique = name if len(taken[name.casefold()]) == 1 else f"{name}-{hash_json(key)[:8]}"
        found.append(Configuration(unique, rows, config, names))
    if len({configuration.name.casefold() for configuration in found}) < len(found):
        raise DataError("the same rows are in two of the runs.", "Leave one of them out.")
    return sorted(found, key=lambda configuration: configuration.name)


def goal_name(row: AdversarialRow) -> str:
    """The goal of an attack in one word: `untargeted`, or what came on top of it."""
    parts = [
        row.goal,
        "" if row.target_class is None else f"to{row.target_class}",
        "" if row.min_confidence is None else f"p{row.min_confidence:g}",
        "" if row.evaded is None else f"past_{evaded_facts(row).get('detector', 'detector')}",
    ]
    return "_".join(filter(None, parts))


def evaded_facts(row: AdversarialRow) -> dict[str, Any]:
    """What a row says of the detector that its attack had to pass."""
    return _object(row.evaded)


def recipe_parameters(row: AdversarialRow) -> dict[str, Any]:
    """The parameters of a row's recipe."""
    return _object(row.recipe_parameters)


def split_name(split: str) -> str:
    """A split as the name of a file and of a split in `datasets`: ASCII letters, digits and underscores."""
    return re.sub(r"[^A-Za-z0-9]+", "_", split).strip("_") or "split"


def _object(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise DataError("a row's recipe parameters or evaded detector are not JSON.") from error
    return dict(value) if isinstance(value, Mapping) else {"value": value}


def _settings_key(row: AdversarialRow) -> str:
    return hash_json({name: getattr(row, name) for name in SETTINGS if name != "split"})


def _plain_name(row: AdversarialRow) -> str:
    parts = (row.dataset, row.recipe, goal_name(row), row.victim)
    name = "-".join(re.sub(r"[^A-Za-z0-9.]+", "_", part).strip("._") or "unknown" for part in parts)
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 9]}-{hash_json(name)[:8]}"
