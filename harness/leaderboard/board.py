"""Result rows to one CSV a board and `index.html`: a pure, sorted merge; any order, same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from harness.core.errors import DataError, MissingFileError
from harness.core.files import write_text
from harness.core.rows import BOARDS, Row, read_rows, row_files, write_row
from harness.leaderboard.page import render
from harness.leaderboard.sheets import to_csv

CSVS = {board: f"{board}.csv" for board in BOARDS}
PAGE = "index.html"


class Stale(NamedTuple):
    """A generated file that is not what the rows give."""

    path: Path
    why: str


def require(leaderboard: Path) -> Path:
    """The folder, if it is a leaderboard.

    Raises:
        MissingFileError: There is no such folder.
        DataError: It is none: it holds no `results/`.
    """
    leaderboard = Path(leaderboard)
    if not leaderboard.exists():
        raise MissingFileError(f"there is no folder {leaderboard}.", "`harness eval ... --leaderboard DIR` makes one.")
    if not (leaderboard / "results").is_dir():
        raise DataError(
            f"{leaderboard} is no leaderboard: it holds no folder results/.",
            "Give the folder that `harness eval ... --leaderboard DIR` wrote to.",
        )
    return leaderboard


def contents(rows: Mapping[str, Sequence[Row]]) -> dict[str, str]:
    """What the generated files hold, by name: a CSV a board, then the page."""
    return {**{name: to_csv(board, rows[board]) for board, name in CSVS.items()}, PAGE: render(rows)}


def stale(leaderboard: Path, rows: Mapping[str, Sequence[Row]]) -> list[Stale]:
    """The generated files that are missing, cut off or changed; nothing is written.

    Args:
        leaderboard: The folder that holds `results/`.
        rows: Board -> all rows that are there.

    Returns:
        What `build` would write anew, each with a reason.
    """
    found = []
    for name, text in contents(rows).items():
        path = Path(leaderboard) / name
        if not path.is_file():
            found.append(Stale(path, "it is missing"))
            continue
        here, expected = path.read_bytes(), text.encode()
        if here != expected:
            lines, same = expected.split(b"\n"), 0
            for line, other in zip(here.split(b"\n"), lines, strict=False):
                if line != other:
                    break
                same += 1
            cut = expected.startswith(here)
            why = f"it is cut off after {len(here):,} of {len(expected):,} bytes" if cut else f"line {same + 1} differs"
            found.append(Stale(path, f"it is not what the rows give: {why}"))
    return found


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
        for name, text in contents(rows).items():
            write_text(leaderboard / name, text)
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
