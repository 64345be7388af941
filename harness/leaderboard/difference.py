"""How two leaderboards differ: rows that only one has, and results of one experiment that moved."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.core.files import canonical_json
from harness.core.rows import BOARDS, Row, read_rows
from harness.leaderboard.board import require
from harness.leaderboard.identity import names, sample, settings

_ABSENT = "(absent)"
# What differs whenever the same work is done twice.
_NOT_COMPARED = ("cost", "run", "provenance")


@dataclass(frozen=True)
class Moved:
    """A metric that has another value in the second leaderboard.

    `beyond` says whether neither value lies within the other row's interval; null where there are none.
    """

    metric: str
    before: float | None
    after: float | None
    change: float | None
    beyond: bool | None


@dataclass(frozen=True)
class Pair:
    """Two rows of one experiment that are not the same.

    `moved` are metrics, `settings` lines that say what differs in the protocol, `parts` other keys of the row that do.
    """

    board: str
    name: str
    before: str
    after: str
    moved: tuple[Moved, ...]
    settings: tuple[str, ...]
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Lonely:
    """A row that only one of the leaderboards has."""

    board: str
    name: str
    id: str


@dataclass(frozen=True)
class Difference:
    """How two leaderboards differ; `same` counts the rows that both have."""

    same: int
    only_first: tuple[Lonely, ...]
    only_second: tuple[Lonely, ...]
    pairs: tuple[Pair, ...]

    def as_json(self) -> dict[str, Any]:
        """The same as JSON."""
        return asdict(self)


def compare(first: Path, second: Path) -> Difference:
    """Compare two leaderboards by their rows.

    Rows with one id are the same. Of the others, rows with equal names and seed are pairs, where there is one on each
    side, or one with the same sample.

    Args:
        first: A leaderboard folder.
        second: Another one, or the same at another time.

    Raises:
        MissingFileError: There is no such folder.
        DataError: It is no leaderboard, or a row is damaged.
    """
    same = 0
    alone: tuple[list[Lonely], list[Lonely]] = ([], [])
    pairs: list[Pair] = []
    for folder in (first, second):
        require(folder)
    for board in BOARDS:
        rows = [{row["id"]: row for row in read_rows(folder, board)} for folder in (first, second)]
        shared = rows[0].keys() & rows[1].keys()
        same += len(shared)
        groups: dict[bytes, tuple[list[Row], list[Row]]] = defaultdict(lambda: ([], []))
        for place, there in enumerate(rows):
            for name, row in there.items():
                if name not in shared:
                    groups[canonical_json([names(row), row["seed"]])][place].append(row)
        for before, after in groups.values():
            for old, new in _couples(before, after):
                pairs.append(
                    Pair(
                        board, _name(old), old["id"], new["id"], _moved(old, new), _changed(old, new), _parts(old, new)
                    )
                )
            for side, left in zip(alone, (before, after), strict=True):
                side += [Lonely(board, _name(row), row["id"]) for row in left]
    lonely = [tuple(sorted(side, key=lambda row: (row.board, row.name, row.id))) for side in alone]
    return Difference(
        same, lonely[0], lonely[1], tuple(sorted(pairs, key=lambda pair: (pair.board, pair.name, pair.before)))
    )


def _couples(before: list[Row], after: list[Row]) -> Iterator[tuple[Row, Row]]:
    """Takes rows out of both lists that belong together."""
    for row in list(before):
        twins = [other for other in after if sample(other) == sample(row)]
        if len(twins) == 1 and sum(sample(other) == sample(row) for other in before) == 1:
            before.remove(row)
            after.remove(twins[0])
            yield row, twins[0]
    if len(before) == len(after) == 1:
        yield before.pop(), after.pop()


def _name(row: Row) -> str:
    parts = ["unknown" if value is None else str(value) for value in names(row).values()]
    if row["board"] == "ssl":
        told = {True: "self-distilled", False: "baseline", None: "unknown"}[row["self_distill"]]
        parts[list(names(row)).index("self_distill")] = told
    return ", ".join([*parts, f"seed {row['seed']}"])


def _moved(before: Row, after: Row) -> tuple[Moved, ...]:
    old, new = _estimates(before), _estimates(after)
    nothing = {"value": None, "low": None, "high": None}
    found = []
    for name in dict.fromkeys([*old, *new]):
        one, other = old.get(name, nothing), new.get(name, nothing)
        if one["value"] == other["value"]:
            continue
        both = one["value"] is not None and other["value"] is not None
        change = other["value"] - one["value"] if both else None
        apart = [_outside(one["value"], other), _outside(other["value"], one)]
        found.append(Moved(name, one["value"], other["value"], change, None if None in apart else all(apart)))
    return tuple(found)


def _estimates(row: Row) -> dict[str, Mapping[str, Any]]:
    if row["board"] == "detection":
        return dict(row["metrics"])
    return {
        f"{reading['protocol']} {reading['pooling']} layer {reading['layer']}": reading["top1"]
        for reading in row["readings"]
    }


def _outside(value: float | None, estimate: Mapping[str, Any]) -> bool | None:
    if value is None or estimate["low"] is None or estimate["high"] is None:
        return None
    return not estimate["low"] <= value <= estimate["high"]


def _changed(before: Row, after: Row) -> tuple[str, ...]:
    old, new = dict(_leaves(settings(before))), dict(_leaves(settings(after)))
    return tuple(
        f"{path}: {_short(old.get(path, _ABSENT))} -> {_short(new.get(path, _ABSENT))}"
        for path in sorted({*old, *new})
        if old.get(path, _ABSENT) != new.get(path, _ABSENT)
    )


def _parts(before: Row, after: Row) -> tuple[str, ...]:
    told = {"id", "metrics", "protocol", *_NOT_COMPARED}
    return tuple(key for key in sorted({*before, *after} - told) if before.get(key) != after.get(key))


def _leaves(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _leaves(item, f"{path}{key}.")
        else:
            yield f"{path}{key}", item


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."
