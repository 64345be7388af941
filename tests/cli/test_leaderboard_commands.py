"""`harness leaderboard` from the command line."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.core.rows import BOARDS, finish_row, row_files, write_row
from harness.leaderboard.board import build

COMMITTED = Path(__file__).resolve().parents[2] / "leaderboards"
HOSTILE = "=cmd\x1b[2J\x07\nnext"

pytestmark = pytest.mark.skipif(not (COMMITTED / "results").is_dir(), reason="this is no checkout")
Main = Callable[..., int]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A leaderboard of a few committed rows: PWWS on one victim of SST-2, scenario S1, and one encoder."""
    folder = tmp_path_factory.mktemp("boards") / "leaderboards"
    for path in row_files(COMMITTED, "detection"):
        # Reading all of them would take seconds.
        text = path.read_text(encoding="utf-8")
        if all(
            f'"{key}": "{value}"' in text
            for key, value in (("victim", "minilm-lora-sst2"), ("recipe", "pwws"), ("scenario", "s1"))
        ):
            row = json.loads(text)
            if row.get("goal") == "flip" and row["detector"] in ("rde", "msp", "mle", "wdr"):
                write_row(folder, row)
    write_row(folder, json.loads(row_files(COMMITTED, "ssl")[0].read_text(encoding="utf-8")))
    build(folder)
    return folder


@pytest.fixture
def board(made: Path, tmp_path: Path) -> Path:
    """A copy of it to change."""
    return Path(shutil.copytree(made, tmp_path / "leaderboards"))


@pytest.fixture
def run(main: Main, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`(*arguments)` -> exit code, output, errors."""

    def call(*arguments: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main("leaderboard", *arguments)
        return (code, *capsys.readouterr())

    return call


Run = Callable[..., tuple[int, str, str]]


def first(board: Path, kind: str = "detection") -> Path:
    return row_files(board, kind)[0]


def hostile_row(board: Path) -> dict[str, Any]:
    row = json.loads(first(board).read_text())
    row.pop("id")
    return finish_row({**row, "detector": HOSTILE})


# Build.


def test_build_writes_what_the_rows_give(run: Run, board: Path) -> None:
    before = {name: (board / name).read_bytes() for name in ("detection.csv", "ssl.csv", "index.html")}
    for name in before:
        (board / name).write_text("old")
    code, out, _ = run("build", board)
    assert code == 0
    counts = [len(row_files(board, name)) for name in BOARDS]
    assert out.splitlines()[-1] == f"{counts[0]} detection rows, 1 SSL row"
    assert {name: (board / name).read_bytes() for name in before} == before


def test_build_check_changes_nothing(run: Run, board: Path) -> None:
    assert run("build", board, "--check")[0] == 0
    whole = (board / "detection.csv").read_bytes()
    (board / "detection.csv").write_bytes(whole[:-3])
    (board / "ssl.csv").unlink()
    code, out, _ = run("build", board, "--check")
    assert code == 1
    assert f"detection.csv: it is not what the rows give: it is cut off after {len(whole) - 3:,} of" in out
    assert "ssl.csv: it is missing" in out
    assert (board / "detection.csv").read_bytes() == whole[:-3]
    assert not (board / "ssl.csv").exists()


def test_the_folder_is_leaderboards_by_default(run: Run, board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(board.parent)
    assert run("build", "--check")[0] == run("verify")[0] == run("show")[0] == 0


# Show.


def test_show_prints_a_table(run: Run, made: Path) -> None:
    code, out, _ = run("show", made, "--where", "detector=rde,msp,wdr")
    assert code == 0
    assert "dataset sst2, recipe pwws, goal flip, victim minilm-lora-sst2, scenario s1" in " ".join(out.split())
    # What trained on adversarial texts is last, whatever its figures, and is marked.
    names = [line.split("\u2502")[1].strip() for line in out.splitlines() if line.startswith("\u2502")]
    assert names[:3] == ["msp†", "rde†", "msp"]  # marked where only the first 50 texts of each class were scored
    assert names[-1].startswith("wdr*")
    assert "not ranked with the others" in out


def test_a_narrow_terminal_breaks_no_number(run: Run, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    import harness.cli.leaderboard_tables as printed

    monkeypatch.setattr(printed, "console", lambda: Console(width=80, file=sys.stdout))
    _, out, _ = run("show", made)
    assert max(map(len, out.splitlines())) <= 80
    _, values, _ = run("show", made, "--format", "json", "--columns", "auc,ms_per_text")
    for line in json.loads(values):
        assert f" {100 * line['auc']:.1f} " in out


def test_csv_and_json_hold_the_same_lines(run: Run, made: Path) -> None:
    asked = (
        "show",
        made,
        "--where",
        "detector=rde",
        "--each-seed",
        "--sort",
        "auc",
        "--columns",
        "seed,detector,auc,ms_per_text",
    )
    _, as_csv, _ = run(*asked, "--format", "csv")
    _, as_json, _ = run(*asked, "--format", "json")
    lines, values = list(csv.DictReader(io.StringIO(as_csv))), json.loads(as_json)
    assert list(lines[0]) == list(values[0]) == ["seed", "detector", "auc", "ms_per_text"]
    assert [float(line["auc"]) for line in lines] == pytest.approx([value["auc"] for value in values], abs=1e-6)
    aucs = [value["auc"] for value in values]
    assert aucs == sorted(aucs, reverse=True)
    assert len(aucs) == sum(json.loads(path.read_text())["detector"] == "rde" for path in row_files(made, "detection"))


def test_all_columns_where_none_are_named(run: Run, made: Path) -> None:
    _, out, _ = run("show", made, "--format", "csv", "--each-seed")
    header, *_ = csv.reader(io.StringIO(out))
    assert header == next(csv.reader(io.StringIO((made / "detection.csv").read_text())))


def test_the_board_of_encoders(run: Run, made: Path) -> None:
    code, out, _ = run(
        "show", made, "--board", "ssl", "--where", "protocol=knn-20", "--where", "pooling=cls", "--limit", "3"
    )
    assert code == 0
    assert "3 of 12 lines" in out


def test_names_cannot_steer_the_terminal_or_the_spreadsheet(run: Run, board: Path) -> None:
    write_row(board, hostile_row(board))
    for asked in (["show", board], ["verify", board], ["show", board, "--where", "detector=x"], ["diff", board, board]):
        _, out, err = run(*asked)
        assert "\x1b" not in out + err
        assert "\x07" not in out + err
    _, out, _ = run("show", board)
    # The table may break a long name, and shows a picture of each control character.
    assert all(part in out for part in ("=cmd", "\u241b", "\u2407", "\u240a"))
    _, out, _ = run("show", board, "--format", "csv", "--columns", "detector")
    cells = [line[0] for line in csv.reader(io.StringIO(out, newline=""))]
    assert f"'{HOSTILE}" in cells
    _, out, _ = run("show", board, "--format", "json", "--columns", "detector")
    assert HOSTILE in [line["detector"] for line in json.loads(out)]


# Verify.


def test_verify_says_that_all_is_well(run: Run, made: Path) -> None:
    code, out, _ = run("verify", made)
    assert code == 0
    assert out.splitlines()[-1].endswith("rows checked: 0 faults, 0 warnings")


def test_verify_tells_every_fault_with_its_file(run: Run, board: Path) -> None:
    edited, newer, *_ = row_files(board, "detection")
    row = json.loads(edited.read_text())
    row["metrics"]["auc"]["value"] = 0.999
    edited.write_text(json.dumps(row))
    newer.write_text(json.dumps({**json.loads(newer.read_text()), "schema": 2}))
    (board / "results" / "stray.json").write_text("{}")
    before = {path: path.read_bytes() for path in board.rglob("*") if path.is_file()}
    code, out, err = run("verify", board)
    assert (code, err) == (1, "")
    faults = [line for line in out.splitlines() if line.startswith("fault: ")]
    assert len(faults) == 3
    assert [line for line in faults if edited.name in line and "changed after it was written" in line]
    assert [line for line in faults if newer.name in line and "made by a newer version" in line]
    assert [line for line in faults if "stray.json" in line]
    assert {path: path.read_bytes() for path in board.rglob("*") if path.is_file()} == before


def test_verify_only_some(run: Run, board: Path) -> None:
    one, other, third, *_ = row_files(board, "detection")
    other.write_text("{")
    assert run("verify", board, "--only", one, third)[0] == 0
    code, out, _ = run("verify", board, "--only", one, other)
    assert code == 1
    assert other.name in out


# Diff.


def test_diff_of_two_folders(run: Run, made: Path, board: Path) -> None:
    assert (
        run("diff", made, board)[1]
        .splitlines()[-1]
        .endswith("0 moved (0 beyond the intervals), 0 only in the first, 0 only in the second")
    )
    gone = first(board)
    row = json.loads(gone.read_text())
    gone.unlink()
    _, out, _ = run("diff", made, board)
    cell = f"sst2, pwws, flip, minilm-lora-sst2, {row['detector']}, s1, seed {row['seed']}"
    assert f"only in the first: {cell} ({row['id']})" in out
    metric = row["metrics"]["auc"]
    row["metrics"]["auc"] = {key: value / 2 for key, value in metric.items()}
    row.pop("id")
    write_row(board, row)
    code, out, _ = run("diff", made, board)
    assert code == 0
    assert f"auc: {100 * metric['value']:.1f} -> {50 * metric['value']:.1f} (" in out
    assert "beyond the intervals" in out
    found = json.loads(run("diff", made, board, "--json")[1])
    assert [pair["before"] for pair in found["pairs"]] == [gone.stem]
    assert found["pairs"][0]["moved"][0]["beyond"] is True


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["build", "{tmp}"], "is no leaderboard: it holds no folder results/", "--leaderboard DIR"),
        (["build", "{tmp}", "--check"], "is no leaderboard", ""),
        (["show", "{tmp}"], "is no leaderboard", ""),
        (["verify", "{tmp}"], "is no leaderboard", ""),
        (["diff", "{tmp}", "{tmp}"], "is no leaderboard", ""),
        (["show", "{tmp}/none"], "there is no folder", ""),
        (["show", "{board}", "--board", "vision"], "there is no board named 'vision'", "Known: detection, ssl"),
        (
            ["show", "{board}", "--where", "detectr=rde"],
            "no column of the detection board named 'detectr'",
            "Did you mean detector",
        ),
        (["show", "{board}", "--where", "detector=rd"], "there is no detector named 'rd'", "Did you mean rde"),
        (["show", "{board}", "--where", "detector"], "the condition 'detector' cannot be read", "column=value"),
        (["show", "{board}", "--columns", "auk"], "no column of the detection board named 'auk'", "Did you mean auc"),
        (["show", "{board}", "--sort", "layer"], "no column of the detection board named 'layer'", ""),
        (["show", "{board}", "--format", "xlsx"], "there is no format named 'xlsx'", "Known: csv, json, table"),
        (["verify", "{board}", "--only", "none.json"], "there is no file none.json", ""),
        (["verify", "{board}", "--since", "nonsense"], "is in no git checkout", ""),
        (["diff", "{board}"], "there is nothing to compare with", "--against"),
        (["diff", "{board}", "{board}", "--against", "HEAD"], "there is nothing to compare with", ""),
    ],
)
def test_bad_input_is_one_sentence(
    run: Run, board: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str, hint: str
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(board.parent.parent))
    empty = board.parent / "empty"
    empty.mkdir()
    before = sorted(board.parent.rglob("*"))
    code, out, err = run(*(part.format(tmp=empty, board=board) for part in arguments))
    assert (code, out) == (2, "")
    told = err.splitlines()
    assert told[0].startswith("error: ")
    assert message in told[0]
    assert hint in err
    assert len(told) <= 2
    assert sorted(board.parent.rglob("*")) == before


@pytest.mark.parametrize("command", [["build"], ["build", "--check"], ["show"], ["diff", "{board}"]])
def test_a_row_edited_by_hand_stops_what_would_trust_it(run: Run, board: Path, command: list[str]) -> None:
    path = first(board)
    path.write_text(path.read_text().replace('"seed": ', '"seed": 1'))
    before = {name: (board / name).read_bytes() for name in ("detection.csv", "ssl.csv", "index.html")}
    verb, *rest = command
    code, _, err = run(verb, board, *(part.format(board=board) for part in rest))
    assert code == 2
    assert f"{path} is not a sound result row" in err
    assert "restore the file" in err
    assert {name: (board / name).read_bytes() for name in before} == before
