"""Result rows to `detection.csv` and `index.html`: a pure, sorted merge; any order, same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.core.csv_cells import safe_cell
from harness.core.files import write_text
from harness.core.rows import DETECTION_METRICS, Row, read_rows, row_files, write_row
from harness.leaderboard.page import render

CSV, PAGE = "detection.csv", "index.html"
_NAMES = ("dataset", "recipe", "victim", "detector", "scenario")
_COUNTS = ("seed", "n_clean", "n_adversarial", "n_calibration")
_COST = ("forwards_per_text", "ms_per_text")
# The rate that is read beside every TPR has the short name in the CSV.
_CSV_METRICS = {name: "realised_fpr" if name == "realised_fpr_10" else name for name in DETECTION_METRICS}
_BOUNDS = {"value": "", "low": "_low", "high": "_high"}
COLUMNS: tuple[str, ...] = (
    *_NAMES,
    *_COUNTS,
    *(name + suffix for name in _CSV_METRICS.values() for suffix in _BOUNDS.values()),
    *_COST,
    "run",
    "id",
)


def build(leaderboard: Path) -> list[Path]:
    """Writes the CSV and the page of all rows, each atomically.

    There is no lock. A process that read the rows before another one added some may write after it; so the
    rows are listed again after writing, and the work is repeated until nothing came in between. Whoever
    writes last has then seen every row that was there, and later rows have a build of their own to come.

    Args:
        leaderboard: The folder that holds `results/`.

    Returns:
        The paths of `detection.csv` and `index.html`.

    Raises:
        DataError: A row file is damaged.
        DiskFullError: The device is full; the old files stay.
    """
    leaderboard = Path(leaderboard)
    outputs = [leaderboard / CSV, leaderboard / PAGE]
    while True:
        rows = sorted(read_rows(leaderboard, "detection"), key=_order)
        write_text(outputs[0], to_csv(rows))
        write_text(outputs[1], render(rows))
        if {path.stem for path in row_files(leaderboard, "detection")} == {row["id"] for row in rows}:
            return outputs


def to_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV with the columns of `COLUMNS`, LF line endings, in the order given.

    Null is an empty cell. Texts are escaped by `safe_cell`. Read `id` as text: some ids look like numbers.

    Args:
        rows: Finished rows.

    Returns:
        The whole CSV, header included.
    """
    lines = [COLUMNS, *(_cells(row) for row in rows)]
    return "".join(",".join(cells) + "\n" for cells in lines)


def _order(row: Row) -> tuple[Any, ...]:
    return tuple(row[key] for key in ("dataset", "recipe", "victim", "scenario", "detector", "seed", "id"))


def _cells(row: Row) -> list[str]:
    return [
        *(_text(row[key]) for key in _NAMES),
        *(str(row[key]) for key in _COUNTS),
        *(_number(row["metrics"][name][bound]) for name in _CSV_METRICS for bound in _BOUNDS),
        *(_number(row["cost"][key]) for key in _COST),
        _text(row["run"]),
        _text(row["id"]),
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _text(text: str) -> str:
    # Python's own writer leaves a lone CR unquoted before 3.13, and readers then see a new line.
    cell = safe_cell(text)
    return '"' + cell.replace('"', '""') + '"' if any(mark in cell for mark in '",\r\n') else cell


def add(leaderboard: Path, rows: Sequence[Row]) -> list[Path]:
    """Write finished rows into a leaderboard folder and build its CSV and page again.

    Args:
        leaderboard: The folder; made when it is not there.
        rows: Finished result rows; one that is there already is left as it is.

    Returns:
        The files made from the rows: CSV and page.
    """
    for row in rows:
        write_row(leaderboard, row)
    return build(leaderboard)
