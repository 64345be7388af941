from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.csv_cells import unsafe_cell
from harness.core.errors import DataError
from harness.core.rows import DETECTION_METRICS, finish_row, write_row
from harness.leaderboard import board, sheets
from harness.leaderboard import page as page_module
from harness.leaderboard.board import add, build
from harness.leaderboard.detection_tables import detection_groups as groups
from harness.leaderboard.detection_tables import detection_lines

COLUMNS = sheets.COLUMNS["detection"]
NAMES = ["detection.csv", "ssl.csv", "index.html"]
HOSTILE = "<script>alert(1)</script>"


def make_row(auc: float | None = 0.9, **changes: Any) -> dict[str, Any]:
    metrics = {name: {"value": 0.5 + i / 100, "low": 0.4, "high": 0.7} for i, name in enumerate(DETECTION_METRICS)}
    metrics["auc"]["value"] = auc
    row = {
        "dataset": "imdb",
        "recipe": "textfooler",
        "victim": "bert",
        "detector": "rde",
        "scenario": "s1",
        "seed": 0,
        "n_clean": 1000,
        "n_adversarial": 900,
        "n_calibration": 500,
        "metrics": metrics,
        "cost": {"forwards_per_text": 1, "ms_per_text": 2.34567891},
        "run": "run-0",
        "protocol": {},
    }
    return finish_row({**row, **changes})


def many_rows() -> list[dict[str, Any]]:
    return [
        make_row(detector=detector, seed=seed, dataset=dataset, scenario=scenario, run=f"{detector}-{seed}")
        for detector in ("rde", "mle", HOSTILE, "=HYPERLINK(1)")
        for seed in (0, 1, 10)
        for dataset in ("imdb", "ag_news")
        for scenario in ("s1", "s2")
    ]


def built(leaderboard: Path) -> list[bytes]:
    return [path.read_bytes() for path in build(leaderboard)]


def to_csv(rows: Sequence[dict[str, Any]]) -> str:
    return sheets.to_csv("detection", rows)


def render(rows: Sequence[dict[str, Any]]) -> str:
    return page_module.render({"detection": rows})


def records(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


# The CSV.


def test_columns_are_pinned() -> None:
    assert COLUMNS[:15] == (
        *("dataset", "recipe", "goal", "victim", "detector", "scenario"),
        *("seed", "n_clean", "n_adversarial", "n_calibration"),
        *("trains_on_adversarial_texts", "limited"),
        *("auc", "auc_low", "auc_high"),
    )
    assert COLUMNS[-9:] == (
        *("heldout_f1_10", "heldout_f1_10_low", "heldout_f1_10_high"),
        *("forwards_per_text", "backwards_per_text", "other_forwards_per_text", "ms_per_text", "run", "id"),
    )
    assert COLUMNS[45:51] == (
        *("realised_fpr_5", "realised_fpr_5_low", "realised_fpr_5_high"),
        *("realised_fpr", "realised_fpr_low", "realised_fpr_high"),
    )
    assert len(COLUMNS) == len(set(COLUMNS)) == 12 + 3 * 14 + 6


def test_opens_with_pandas(tmp_path: Path) -> None:
    for row in many_rows():
        write_row(tmp_path, row)
    path, *_ = build(tmp_path)
    table = pd.read_csv(path, dtype={"id": str})
    assert tuple(table.columns) == COLUMNS
    assert len(table) == len(many_rows())
    assert pd.api.types.is_float_dtype(table["auc"])
    assert pd.api.types.is_integer_dtype(table["seed"])
    assert set(table["detector"].map(unsafe_cell)) == {"rde", "mle", HOSTILE, "=HYPERLINK(1)"}
    keys = ["dataset", "recipe", "victim", "scenario", "detector", "seed", "id"]
    expected = sorted(many_rows(), key=lambda row: tuple(row[key] for key in keys))
    assert list(table["id"]) == [row["id"] for row in expected]


def test_numbers_and_nulls() -> None:
    row = make_row(auc=None, seed=12345678, cost={"forwards_per_text": 1, "ms_per_text": 1234567.8})
    row["metrics"]["aupr"] = {"value": 1 / 3, "low": 1e-7, "high": 1.0}
    [record] = records(to_csv([row]))
    assert record["auc"] == ""
    assert record["auc_low"] == "0.4"
    assert [record[key] for key in ("aupr", "aupr_low", "aupr_high")] == ["0.333333", "1e-07", "1"]
    assert record["seed"] == "12345678"
    assert record["forwards_per_text"] == "1"
    assert record["ms_per_text"] == "1.23457e+06"


def test_realised_fpr_is_the_one_at_ten_percent() -> None:
    row = make_row()
    row["metrics"]["realised_fpr_10"] = {"value": 0.11, "low": 0.09, "high": 0.13}
    [record] = records(to_csv([row]))
    assert [record[f"realised_fpr{end}"] for end in ("", "_low", "_high")] == ["0.11", "0.09", "0.13"]
    assert "realised_fpr_10" not in record


def test_line_endings_and_encoding(tmp_path: Path) -> None:
    write_row(tmp_path, make_row(detector="détecteur"))
    text = built(tmp_path)[0]
    assert b"\r" not in text
    assert text.count(b"\n") == 2
    assert "détecteur" in text.decode()
    assert not text.startswith(b"\xef\xbb\xbf")


@given(st.text("'=+-@\t\r\n,;\"\\ aé", min_size=1))
def test_texts_survive_the_csv(text: str) -> None:
    [record] = records(to_csv([make_row(detector=text, run=text)]))
    assert unsafe_cell(record["detector"]) == unsafe_cell(record["run"]) == text


# The merge.


def test_any_order_gives_the_same_bytes(tmp_path: Path) -> None:
    found = set()
    for attempt in range(3):
        rows = many_rows()
        random.Random(attempt).shuffle(rows)
        leaderboard = tmp_path / str(attempt)
        for age, row in enumerate(rows):
            os.utime(write_row(leaderboard, row), (age * 1000, age * 1000))
        found.add(tuple(built(leaderboard)))
        assert tuple(built(leaderboard)) in found
    assert len(found) == 1


def test_no_rows(tmp_path: Path) -> None:
    *tables, page = built(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(NAMES)
    assert [table.decode() for table in tables] == [",".join(columns) + "\n" for columns in sheets.COLUMNS.values()]
    assert page.decode().count("There are no results yet.") == 2


def test_adding_names_the_files_of_the_rows(tmp_path: Path) -> None:
    assert [path.name for path in add(tmp_path, [make_row()])] == ["detection.csv", "index.html"]
    assert [path.name for path in build(tmp_path)] == NAMES


def test_a_damaged_row_stops_the_build_and_keeps_the_old_files(tmp_path: Path) -> None:
    path = write_row(tmp_path, make_row())
    before = built(tmp_path)
    path.write_text("{")
    with pytest.raises(DataError, match=path.name):
        build(tmp_path)
    assert [(tmp_path / name).read_bytes() for name in NAMES] == before


def test_a_row_that_arrives_during_a_build_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late = [make_row(seed=1), make_row(seed=2)]
    write_row(tmp_path, make_row(seed=0))
    write_text = board.write_text

    def slow(path: Path, text: str) -> None:
        if late:
            write_row(tmp_path, late.pop())
        write_text(path, text)

    monkeypatch.setattr(board, "write_text", slow)
    path, _, page = build(tmp_path)
    assert len(pd.read_csv(path)) == 3
    assert "Made from 3 result rows." in page.read_text()


def test_processes_at_once_end_in_the_same_bytes(tmp_path: Path, write_at_once: Callable[..., Any]) -> None:
    codes = write_at_once(tmp_path, many_rows(), processes=8, every_nth_row=3, build_every=4)
    assert codes == [0] * 8
    ended = [(tmp_path / name).read_bytes() for name in NAMES]
    assert ended == built(tmp_path)
    assert len(records(ended[0].decode())) == len(many_rows())
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"results", *NAMES}
    assert all(path.suffix == ".json" for path in (tmp_path / "results" / "detection").iterdir())


def test_importing_is_light() -> None:
    heavy = {"jsonschema", "jinja2", "numpy", "torch"}
    code = f"import sys, harness.leaderboard.board; sys.exit(bool({heavy!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# The page.


@pytest.mark.parametrize("key", ["dataset", "recipe", "victim", "detector", "run"])
@pytest.mark.parametrize("text", [HOSTILE, '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}", "</table>'&amp;"])
def test_hostile_names_are_text(read_page: Callable[[str], Any], key: str, text: str) -> None:
    outline = read_page(render([make_row(**{key: text}, seed=seed) for seed in (0, 1)]))
    assert not {"img", "link", "iframe"} & {tag for tag, _ in outline.tags}
    assert [attrs for tag, attrs in outline.tags if tag == "script"] == [{"type": "application/json", "id": "data"}, {}]
    assert not [name for _, attrs in outline.tags for name in attrs if name.startswith("on")]
    assert text in outline.data["pool"]
    assert key == "run" or text in outline.texts


def test_the_page_fetches_nothing(read_page: Callable[[str], Any]) -> None:
    page = render(many_rows())
    outline = read_page(page)
    assert not [attrs for _, attrs in outline.tags if {"src", "action", "style"} & set(attrs)]
    assert [attrs["href"] for _, attrs in outline.tags if "href" in attrs] == ["#main", "#detection", "#ssl"]
    assert "url(" not in page
    # The one address is a name, that of a kind of elements.
    assert set(re.findall(r"https?://[^\s\"]*", page)) == {"http://www.w3.org/2000/svg"}


def test_the_policy_lets_in_what_the_page_holds_and_nothing_else(read_page: Callable[[str], Any]) -> None:
    page = render(many_rows())
    [policy] = [a["content"] for _, a in read_page(page).tags if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules.pop("default-src") == rules.pop("base-uri") == rules.pop("form-action") == "'none'"
    for kind, element in (("style-src", "style"), ("script-src", "script")):
        [held] = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(held.encode()).digest()).decode()
        assert rules.pop(kind) == f"'sha256-{digest}'"
    assert not rules


def test_the_page_is_semantic(read_page: Callable[[str], Any]) -> None:
    outline = read_page(render(many_rows()))
    tables = [tag for tag, _ in outline.tags].count("table")
    # Four groups, for whoever has no scripts.
    assert tables == [tag for tag, _ in outline.tags].count("caption") == 4
    assert all(attrs.get("scope") for tag, attrs in outline.tags if tag == "th")
    html = dict(outline.tags)["html"]
    assert html["lang"] == "en"


def test_a_single_seed_has_intervals() -> None:
    [group] = groups([make_row()])
    [line] = group.lines
    assert line.seeds == "seed 0"
    assert [(cell.value, cell.interval) for cell in line.cells] == [
        ("90.0", "40.0 to 70.0"),
        ("54.0", "40.0 to 70.0"),
        ("56.0", "40.0 to 70.0"),
        ("59.0", "40.0 to 70.0"),
        ("62.0", "40.0 to 70.0"),
    ]
    assert line.texts == ("1,000", "900", "500")
    assert (line.forwards, line.ms) == ("1", "2.35")
    [group] = groups([make_row(cost={"forwards_per_text": 12345.6, "ms_per_text": 0.01234})])
    assert (group.lines[0].forwards, group.lines[0].ms) == ("12,346", "0.0123")


def test_seeds_are_averaged() -> None:
    rows = [make_row(auc=0.8, seed=0), make_row(auc=0.9, seed=1, n_clean=998), make_row(auc=1.0, seed=2)]
    [group] = groups(rows)
    [line] = group.lines
    assert line.seeds == "mean of seeds 0, 1, 2"
    assert (line.cells[0].value, line.cells[0].interval) == ("90.0", "")
    assert line.texts[0] == "998 to 1,000"
    [bundle] = detection_lines(rows[::-1])
    assert [row["id"] for row in bundle] == [row["id"] for row in rows]


def test_a_seed_without_a_value_leaves_no_mean() -> None:
    [group] = groups([make_row(auc=None, seed=0), make_row(auc=0.9, seed=1)])
    assert group.lines[0].cells[0].value == "\N{EN DASH}"
    assert group.lines[0].cells[1].value == "54.0"


def test_one_seed_twice_is_not_averaged() -> None:
    rows = [make_row(auc=0.8, protocol={"k": 1}), make_row(auc=0.9, protocol={"k": 2})]
    [group] = groups(rows)
    assert [line.cells[0].value for line in group.lines] == ["90.0", "80.0"]
    assert [line.seeds for line in group.lines] == ["seed 0", "seed 0"]


def test_rows_of_earlier_versions_are_flips_of_detectors_that_train_on_none() -> None:
    [record] = records(to_csv([make_row()]))
    assert [record[key] for key in ("goal", "trains_on_adversarial_texts", "limited")] == ["flip", "false", "false"]
    assert record["backwards_per_text"] == record["other_forwards_per_text"] == ""
    said = make_row(goal="flip, p >= 0.9", trains_on_adversarial_texts=True, limited=True)
    [record] = records(to_csv([said]))
    told = [record[key] for key in ("goal", "trains_on_adversarial_texts", "limited")]
    assert told == ["flip, p >= 0.9", "true", "true"]


def test_another_goal_is_another_table() -> None:
    rows = [make_row(), make_row(goal="flip"), make_row(goal="flip, p >= 0.9", detector="far")]
    first, second = groups(rows)
    assert (first.goal, second.goal) == ("flip", "flip, p >= 0.9")
    assert [line.detector for line in second.lines] == ["far"]
    assert "goal flip, p &gt;= 0.9," in render(rows)


def test_what_trained_on_adversarial_texts_comes_last_and_says_so() -> None:
    rows = [
        make_row(0.99, detector="wdr", trains_on_adversarial_texts=True, limited=True),
        make_row(0.5, detector="rde"),
        make_row(0.7, detector="rsv", limited=True),
    ]
    [group] = groups(rows)
    assert [line.detector for line in group.lines] == ["rsv", "rde", "wdr"]
    assert [line.note for line in group.lines] == [
        "first texts of each sample",
        "",
        "trained on adversarial texts, not ranked, first texts of each sample",
    ]
    assert "trained on adversarial texts, not ranked" in render(rows)


def test_a_smaller_sample_of_a_seed_is_a_line_of_its_own() -> None:
    small = {"sampling": {"target": 50}}
    rows = [
        *(make_row(0.8 + seed / 100, seed=seed, protocol={"sampling": {"target": 500}}) for seed in (0, 1, 2)),
        make_row(0.6, seed=0, n_clean=50, protocol=small),
        make_row(0.7, seed=0, n_clean=50, detector="rsv", protocol=small),
    ]
    [group] = groups(rows)
    assert [(line.detector, line.seeds, line.texts[0], line.cells[0].value) for line in group.lines] == [
        ("rde", "mean of seeds 0, 1, 2", "1,000", "81.0"),
        ("rsv", "seed 0", "50", "70.0"),
        ("rde", "seed 0", "50", "60.0"),
    ]


def test_highest_auc_first() -> None:
    rows = [make_row(auc, detector=name) for name, auc in [("a", None), ("b", 0.5), ("c", 0.9), ("d", 0.9)]]
    [group] = groups(rows)
    assert [line.detector for line in group.lines] == ["c", "d", "b", "a"]
