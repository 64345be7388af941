"""What the tables of both boards share: the order of rows, the mean over seeds, and how numbers look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.core.rows import Row

MISSING = "\N{EN DASH}"


@dataclass(frozen=True)
class Cell:
    """A number in percent, with its interval and what else is said in small print."""

    value: str
    interval: str = ""
    note: str = ""


def sort_key(record: Mapping[str, Any], keys: Sequence[str]) -> tuple[Any, ...]:
    """What orders records by the values of some keys; null comes before everything."""
    return tuple((record[key] is not None, record[key]) for key in keys)


def by_seed(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of one method that may be averaged: all of them, or each alone where a seed comes twice.

    Two rows of one seed are not two samples but two protocols, and their mean would describe neither. The
    same holds of rows that know no seed.
    """
    seeds = {row["seed"] for row in rows}
    distinct = len(seeds) == len(rows) and None not in seeds
    return [list(rows)] if distinct else [[row] for row in rows]


def seeds_text(rows: Sequence[Row]) -> str:
    """The seeds of rows that `by_seed` put together; empty where the seed is not known."""
    seeds = ", ".join(str(row["seed"]) for row in rows if row["seed"] is not None)
    return f"mean of seeds {seeds}" if len(rows) > 1 else f"seed {seeds}" if seeds else ""


def percent(share: float) -> str:
    """A share of 1 in percent, without the sign."""
    return f"{100 * share:.1f}"


def span(low: float | None, high: float | None) -> str:
    """The ends of an interval in percent; empty where one is not known."""
    return "" if low is None or high is None else f"{percent(low)} to {percent(high)}"


def counts(rows: Sequence[Row], key: str) -> str:
    """A count that rows have in common, or its range."""
    low, high = min(row[key] for row in rows), max(row[key] for row in rows)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
