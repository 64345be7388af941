"""The score store: what a costly detector said of single texts, kept as it goes.

A detector that asks the victim hundreds of times a text is not run again because another sample shares its texts, or
because a run was killed: every text's score is kept under what decides it (the key) and the text's hash, with what it
cost. One SQLite file a key; chunks are committed one by one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.files import hash_json, hash_strings
from harness.core.progress import Progress

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS scores (text TEXT PRIMARY KEY, score REAL NOT NULL, seconds REAL NOT NULL, "
    "forwards REAL NOT NULL, backwards REAL NOT NULL, other_forwards REAL NOT NULL) WITHOUT ROWID"
)


@dataclass(frozen=True)
class Cost:
    """What scoring cost, a text: seconds, texts run forward and backward through the victim, and through others."""

    seconds: float = 0.0
    forwards: float = 0.0
    backwards: float = 0.0
    other_forwards: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __mul__(self, factor: float) -> Cost:
        return Cost(*(getattr(self, f.name) * factor for f in fields(self)))


@dataclass(frozen=True)
class Scores:
    """Scores of n texts, (n,) float64, and what one text cost on average, whenever that was."""

    values: NDArray[np.float64]
    cost: Cost


def stored_scores(
    folder: Path,
    key: Mapping[str, Any],
    texts: Sequence[str],
    compute: Callable[[list[int]], Scores],
    *,
    chunk: int = 32,
    what: str = "scoring",
) -> Scores:
    """The scores of texts, computing those that are not there.

    Args:
        folder: Where the store lies.
        key: JSON-able facts that decide a text's score: detector and state, victim, precision, length.
        texts: n texts; one that occurs twice is computed once.
        compute: From positions among `texts` to their scores. A score must not depend on the others.
        chunk: Texts computed at a time: what a killed run loses.
        what: What the progress bar says.
    """
    if not len(texts):
        return Scores(np.zeros(0), Cost())
    names = [hash_strings([text]) for text in texts]
    folder.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(folder / f"{hash_json(dict(key))[:24]}.sqlite", timeout=60)) as store:
        store.execute(_SCHEMA)
        first = {name: place for place, name in reversed(list(enumerate(names)))}
        known = _read(store, list(first))
        missing = sorted(place for name, place in first.items() if name not in known)
        if missing:
            with Progress(what, total=len(missing), unit="text") as bar:
                for start in range(0, len(missing), chunk):
                    places = missing[start : start + chunk]
                    found = compute(places)
                    cost = found.cost
                    rows = [
                        (names[p], float(v), cost.seconds, cost.forwards, cost.backwards, cost.other_forwards)
                        for p, v in zip(places, found.values, strict=True)
                    ]
                    with store:
                        # Another process may have been quicker; both found the same.
                        store.executemany("INSERT OR IGNORE INTO scores VALUES (?, ?, ?, ?, ?, ?)", rows)
                    known.update({row[0]: row[1:] for row in rows})
                    bar.advance(len(places))
    table = np.array([known[name] for name in names])
    return Scores(table[:, 0].copy(), Cost(*map(float, table[:, 1:].mean(axis=0))))


def _read(store: sqlite3.Connection, names: list[str]) -> dict[str, tuple[float, ...]]:
    found: dict[str, tuple[float, ...]] = {}
    for start in range(0, len(names), 500):
        part = names[start : start + 500]
        marks = ",".join("?" * len(part))
        for name, *values in store.execute(f"SELECT * FROM scores WHERE text IN ({marks})", part):  # noqa: S608
            found[name] = tuple(values)
    return found
