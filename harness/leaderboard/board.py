"""Result rows to one CSV a board and `index.html`: a pure, sorted merge; any order, same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.core.files import write_text
from harness.core.rows import BOARDS, Row, read_rows, row_files, write_row
from harness.leaderboard.page import render
from harness.leaderboard.sheets import to_csv

CSVS = {board: f"{board}.csv" for board in BOARDS}
PAGE = "index.html"


def build(leaderboard: Path) -> list[Path]:
    """Writes the CSVs and the page of all rows, each atomically; a board without rows has a header only.

    There is no lock. A process that read the rows before another one added some may write after it; so the
    rows are listed again after writing, and the work is repeated until nothing came in between. Whoever
    writes last has then seen every row that was there, and later rows have a build of their own to come.

    Args:
        leaderboard: The folder that holds `results/`.

    Returns:
        The paths of `detection.csv`, `ssl.csv` and `index.html`.

    Raises:
        DataError: A row file is damaged.
        DiskFullError: The device is full; the old files stay.
    """
    leaderboard = Path(leaderboard)
    while True:
        rows = {board: read_rows(leaderboard, board) for board in BOARDS}
        for board, name in CSVS.items():
            write_text(leaderboard / name, to_csv(board, rows[board]))
        write_text(leaderboard / PAGE, render(rows))
        if all({path.stem for path in row_files(leaderboard, b)} == {row["id"] for row in rows[b]} for b in BOARDS):
            return [leaderboard / name for name in (*CSVS.values(), PAGE)]


def add(leaderboard: Path, rows: Sequence[Row]) -> list[Path]:
    """Write finished rows into a leaderboard folder and build its CSVs and page again.

    Args:
        leaderboard: The folder; made when it is not there.
        rows: Finished result rows of one board or several; one that is there already is left as it is.

    Returns:
        The files that show these rows: the CSV of each board that has one of them, and the page.
    """
    for row in rows:
        write_row(leaderboard, row)
    *tables, page = build(leaderboard)
    boards = {row["board"] for row in rows}
    return [*(table for table in tables if table.stem in boards), page]
