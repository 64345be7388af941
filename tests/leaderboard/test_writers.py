"""Many writers of one leaderboard, each a process of its own, some of them killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.core.rows import row_files, write_row
from harness.leaderboard.board import build
from harness.leaderboard.verification import verify

WRITERS, DOOMED = 32, 8
# Writes its share of the rows, which others write too, and builds; with `forever` it does so until it is killed.
SCRIPT = """
import json, sys
from pathlib import Path
from harness.core.rows import write_row
from harness.leaderboard.board import build
folder, rows, number = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()), int(sys.argv[3])
mine = [{**row, "run": f"process {number}"} for place, row in enumerate(rows) if (place + number) % 3]
while True:
    for row in mine[number % len(mine):] + mine[:number % len(mine)]:
        write_row(folder, row)
    build(folder)
    if sys.argv[4] != "forever":
        break
"""


@pytest.fixture(scope="module")
def rows(measured_row: Callable[..., dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of four detectors, one of them with a name that a spreadsheet would run."""
    return [
        measured_row([0, 1, 2, 3], [1, 2, 3, 4], detector=detector, seed=seed, comparisons=[], run="")
        for detector in ("rde", "msp", "=1+1", "mle")
        for seed in range(6)
    ]


def start(folder: Path, given: Path, number: int, forever: bool = False) -> subprocess.Popen[bytes]:
    arguments = [str(folder), str(given), str(number), "forever" if forever else ""]
    return subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments])


def files(folder: Path) -> dict[str, bytes]:
    """What lies in a leaderboard apart from what killed processes left, without what differs between writers."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "the processes did not get that far"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> Path:
    path = tmp_path_factory.mktemp("given") / "rows.json"
    path.write_text(json.dumps(rows))
    return path


def by_one_writer(folder: Path, rows: list[dict[str, Any]], of: Path) -> dict[str, bytes]:
    """The files of one process that writes the rows under the names that they have in another leaderboard."""
    runs = {path.stem: json.loads(path.read_bytes())["run"] for path in row_files(of, "detection")}
    for row in rows:
        write_row(folder, {**row, "run": runs[row["id"]]})
    build(folder)
    return files(folder)


def test_thirty_two_writers_of_which_some_are_killed_end_in_the_bytes_of_one(
    tmp_path: Path, rows: list[dict[str, Any]], given: Path
) -> None:
    folder = tmp_path / "many"
    doomed = [start(folder, given, number, forever=True) for number in range(DOOMED)]
    writers = [start(folder, given, number) for number in range(DOOMED, WRITERS)]
    try:
        # Each is killed somewhere else in its work: at a row, in a build, between two renames.
        for number, process in enumerate(doomed):
            wait_for(lambda number=number: len(row_files(folder, "detection")) > 2 * number)
            process.kill()
        assert [process.wait(120) for process in doomed] == [-signal.SIGKILL] * DOOMED
        assert [process.wait(120) for process in writers] == [0] * len(writers)
    finally:
        for process in (*doomed, *writers):
            process.kill()
    assert len(row_files(folder, "detection")) == len(rows)
    assert files(folder) == by_one_writer(tmp_path / "one", rows, folder)
    assert verify(folder).faults == ()


def test_a_later_build_heals_what_killed_writers_left(tmp_path: Path, rows: list[dict[str, Any]], given: Path) -> None:
    folder = tmp_path / "many"
    doomed = [start(folder, given, number, forever=True) for number in range(3)]
    try:
        wait_for(lambda: len(row_files(folder, "detection")) > 3)
    finally:
        for process in doomed:
            process.kill()
        for process in doomed:
            process.wait(120)
    # As if one had died between the CSVs and the page, and one within a row.
    (folder / "detection.csv").write_bytes(b"dataset,")
    (folder / "index.html").unlink(missing_ok=True)
    (folder / "results" / "detection" / ".0123456789abcdef.json.0f.staged").write_bytes(b'{"auc')
    there = {path.stem for path in row_files(folder, "detection")}
    build(folder)
    left = by_one_writer(tmp_path / "one", [row for row in rows if row["id"] in there], folder)
    assert files(folder) == left
    found = verify(folder)
    assert found.faults == ()
    assert [one.files[0].suffix in (".staged", ".tmp") for one in found.warnings] == [True] * len(found.warnings)
    assert found.warnings
    # The work that was lost is done again.
    again = start(folder, given, 0), start(folder, given, 1)
    assert [process.wait(120) for process in again] == [0, 0]
    assert files(folder) == by_one_writer(tmp_path / "all", rows, folder)
