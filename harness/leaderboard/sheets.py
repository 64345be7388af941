"""Result rows as CSV: one line a row of the detection board, one line a reading of the SSL board."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.core.csv_cells import safe_cell
from harness.core.rows import DETECTION_METRICS, Row
from harness.leaderboard.lines import sort_key

_NAMES = ("dataset", "recipe", "goal", "victim", "detector", "scenario")
_COUNTS = ("seed", "n_clean", "n_adversarial", "n_calibration")
_CLASS = ("trains_on_adversarial_texts", "limited")
_COST = ("forwards_per_text", "backwards_per_text", "other_forwards_per_text", "ms_per_text")
# The rate that is read beside every TPR has the short name in the CSV.
_CSV_METRICS = {name: "realised_fpr" if name == "realised_fpr_10" else name for name in DETECTION_METRICS}
_BOUNDS = {"value": "", "low": "_low", "high": "_high"}
# What rows of earlier versions lack, and what it is for them.
LATER_KEYS: dict[str, Any] = {"goal": "flip", "trains_on_adversarial_texts": False, "limited": False}
COLUMNS: dict[str, tuple[str, ...]] = {
    "detection": (
        *_NAMES,
        *_COUNTS,
        *_CLASS,
        *(name + suffix for name in _CSV_METRICS.values() for suffix in _BOUNDS.values()),
        *_COST,
        "run",
        "id",
    ),
    "ssl": (
        *("objective", "self_distill", "arch", "train_dataset", "eval_dataset", "protocol", "layer", "pooling"),
        *("seed", "n_train", "n_test"),
        *(f"top1{suffix}" for suffix in _BOUNDS.values()),
        *("flops", "forward_ms_per_item", "encoder", "run", "id"),
    ),
}
# Each ends with what makes a line unique, so that the order of the files never shows.
SORTED_BY: dict[str, tuple[str, ...]] = {
    "detection": ("dataset", "recipe", "goal", "victim", "scenario", "detector", "seed", "id"),
    "ssl": (
        *("eval_dataset", "train_dataset", "arch", "objective", "self_distill"),
        *("protocol", "pooling", "layer", "seed", "id"),
    ),
}


def to_csv(board: str, rows: Sequence[Row]) -> str:
    """The rows as CSV with the board's `COLUMNS`, LF line endings, the same for every order of the rows.

    Null is an empty cell, truth is `true` or `false`. Texts are escaped by `safe_cell`. Read `id` as text:
    some ids look like numbers.

    Args:
        board: Name of the board.
        rows: Its finished rows.

    Returns:
        The whole CSV, header included.
    """
    lines = sorted((record for row in rows for record in records(row)), key=lambda r: sort_key(r, SORTED_BY[board]))
    return as_csv(COLUMNS[board], lines)


def as_csv(columns: Sequence[str], lines: Sequence[Mapping[str, Any]]) -> str:
    """A header and a line for each mapping, in the order given; cells as `to_csv` has them."""
    cells = [columns, *([_cell(line[key]) for key in columns] for line in lines)]
    return "".join(",".join(line) + "\n" for line in cells)


def records(row: Row) -> Iterator[dict[str, Any]]:
    """What the CSV says of a row, by column and unformatted: one record, or of the SSL board one a reading.

    Args:
        row: A finished row of any board.

    Yields:
        A value for each of the board's `COLUMNS`; other keys of the row may be among them.
    """
    yield from {"detection": _detection_records, "ssl": _ssl_records}[row["board"]](row)


def _detection_records(row: Row) -> Iterator[dict[str, Any]]:
    metrics = {
        column + suffix: row["metrics"][name][bound]
        for name, column in _CSV_METRICS.items()
        for bound, suffix in _BOUNDS.items()
    }
    yield {**LATER_KEYS, **dict.fromkeys(_COST), **row, **metrics, **row["cost"]}


def _ssl_records(row: Row) -> Iterator[dict[str, Any]]:
    flops = {entry["layer"]: entry["flops"] for entry in row["layers"]}
    for reading in row["readings"]:
        top1 = {f"top1{suffix}": reading["top1"][bound] for bound, suffix in _BOUNDS.items()}
        # What the reading calls its protocol takes the column; the row's own protocol has none.
        yield {**row, **reading, **top1, **row["cost"], "flops": flops.get(reading["layer"])}


def _cell(value: str | float | bool | None) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    return f"{value:.6g}" if isinstance(value, float) else _text(value)


def _text(text: str) -> str:
    # Python's own writer leaves a lone CR unquoted before 3.13, and readers then see a new line.
    cell = safe_cell(text)
    return '"' + cell.replace('"', '""') + '"' if any(mark in cell for mark in '",\r\n') else cell
