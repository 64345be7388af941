from __future__ import annotations

import copy
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.core import rows
from harness.core.errors import DataError, UnknownNameError
from harness.core.rows import DETECTION_METRICS, finish_row, read_rows, with_provenance, write_row

ID = "e9ffd7fb2f58a897"


def make_row(**changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "dataset": "imdb",
        "recipe": "textfooler",
        "victim": "bert",
        "detector": "rde",
        "scenario": "s1",
        "seed": 0,
        "n_clean": 100,
        "n_adversarial": 90,
        "n_calibration": 50,
        "metrics": {name: {"value": 0.5, "low": 0.25, "high": 0.75} for name in DETECTION_METRICS},
        "cost": {"forwards_per_text": 1.0, "ms_per_text": 2.5},
        "run": "imdb-rde",
        "protocol": {"layers": [12], "weights": "abc", "fit": {"k": 8}},
    }
    return copy.deepcopy({**row, **changes})


def file_of(leaderboard: Path, row: dict[str, Any]) -> Path:
    return leaderboard / "results" / "detection" / f"{row['id']}.json"


def test_schema_and_code_name_the_same_metrics() -> None:
    schema = rows._validator("detection").schema
    rows._validator("detection").check_schema(schema)
    metrics = schema["properties"]["metrics"]
    assert tuple(metrics["properties"]) == tuple(metrics["required"]) == DETECTION_METRICS
    # Rows of earlier versions lack what was added since.
    later = {
        "goal",
        "trains_on_adversarial_texts",
        "limited",
        "comparisons",
        "failures",
        "prevalence",
        "words",
        "provenance",
    }
    assert set(schema["required"]) == set(schema["properties"]) - later


def later_keys() -> dict[str, Any]:
    """What rows hold besides since detectors are compared in one protocol."""
    estimate = {"value": 0.5, "low": None, "high": 1}
    difference = {"value": -0.25, "low": -1, "high": 1}
    return {
        "goal": "flip, p >= 0.9",
        "trains_on_adversarial_texts": False,
        "limited": True,
        "comparisons": [{"reference": "msp", "auc_difference": difference, "p": 0, "p_holm": None}],
        "failures": {"texts": 3, "auc_against_clean": 1, "flagged": {"10": 1}},
        "prevalence": {"0.01": {"precision_1": None, "precision_10": 1}},
        "words": {"metrics": {"auc": estimate}, "texts": 2, "words": 20, "substituted": 3},
    }


def test_later_keys_are_part_of_the_id_whatever_the_type_of_their_numbers(tmp_path: Path) -> None:
    row = finish_row(make_row(**later_keys()))
    assert row["id"] != ID
    floats = later_keys()
    floats["words"]["metrics"]["auc"]["high"] = floats["failures"]["flagged"]["10"] = 1.0
    floats["failures"]["auc_against_clean"] = floats["prevalence"]["0.01"]["precision_10"] = 1.0
    assert finish_row(make_row(**floats))["id"] == row["id"]
    write_row(tmp_path, row)
    assert read_rows(tmp_path, "detection") == [row]
    for key, value in later_keys().items():
        assert finish_row(make_row(**{key: value}))["id"] != ID, key


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("goal", "", "goal"),
        ("limited", 1, "limited"),
        ("comparisons", [{"reference": "rde"}], "comparisons"),
        ("failures", {"texts": 0, "auc_against_clean": 0.5, "flagged": {}}, "failures.texts"),
        ("failures", {"texts": 1, "auc_against_clean": 0.5, "flagged": {"10": 2}}, "flagged"),
        ("prevalence", {"0.01": {"precision_1": 1.5}}, "prevalence"),
        ("words", {"metrics": {"auc": 0.5}, "texts": 1, "words": 1, "substituted": 1}, "words"),
    ],
)
def test_later_keys_are_checked(key: str, value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        finish_row(make_row(**{key: value}))


def test_id_is_pinned_and_leaves_out_cost_and_run() -> None:
    # A change of this literal makes every published row unreadable.
    assert finish_row(make_row())["id"] == ID
    other = make_row(cost={"forwards_per_text": 3, "ms_per_text": 9}, run="elsewhere")
    assert finish_row(other)["id"] == ID
    backwards = dict(reversed(make_row().items()))
    assert finish_row(backwards)["id"] == ID


def test_provenance_is_checked_and_outside_the_id(tmp_path: Path) -> None:
    manifest = {
        "command_line": "harness eval detect --out runs/x",
        "versions": {"python": "3.11"},
        "git": None,
        "sources": {"dataset": "/home/somebody/texts"},
    }
    row = with_provenance(finish_row(make_row()), manifest)
    assert row["provenance"] == {
        "command": "harness eval detect --out runs/x",
        "manifest": {"versions": {"python": "3.11"}, "git": None},
    }
    assert finish_row(row)["id"] == ID
    write_row(tmp_path, row)
    assert read_rows(tmp_path, "detection") == [row]
    assert "provenance" not in with_provenance(finish_row(make_row()), {"versions": {}})
    for wrong in ({"command": "", "manifest": None}, {"command": "harness"}, "harness"):
        with pytest.raises(DataError, match="provenance"):
            finish_row(make_row(provenance=wrong))


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "ag_news"},
        {"seed": 1},
        {"scenario": "s2"},
        {"n_calibration": 51},
        {"protocol": {"layers": [11], "weights": "abc", "fit": {"k": 8}}},
        {"metrics": {**make_row()["metrics"], "auc": {"value": 0.6, "low": None, "high": None}}},
    ],
)
def test_id_follows_everything_else(change: dict[str, Any]) -> None:
    assert finish_row(make_row(**change))["id"] != ID


def test_id_does_not_depend_on_the_type_of_a_number() -> None:
    metrics = {name: {"value": 1.0, "low": 0.0, "high": 1.0} for name in DETECTION_METRICS}
    same = {name: {"value": np.float64(1), "low": -0.0, "high": 1} for name in DETECTION_METRICS}
    plain = finish_row(make_row(metrics=metrics))
    numpy = finish_row(make_row(metrics=same, seed=np.int64(0), n_clean=100.0))
    assert numpy == plain
    assert json.dumps(numpy, sort_keys=True) == json.dumps(plain, sort_keys=True)


def test_finishing_is_idempotent_and_leaves_its_argument_alone() -> None:
    row = make_row()
    before = copy.deepcopy(row)
    finished = finish_row(row)
    assert row == before
    assert finish_row(finished) == finished
    finished["metrics"]["auc"]["value"] = 0.9
    assert row == before
    with pytest.raises(DataError, match=r"\$\.id: .* is not the id of this row"):
        finish_row(finished)


def test_nan_is_null(tmp_path: Path) -> None:
    row = make_row(protocol={"threshold": math.nan, "list": (np.float32("nan"), 1)})
    row["metrics"]["heldout_tpr_1"] = {"value": math.nan, "low": np.nan, "high": None}
    path = write_row(tmp_path, row)
    assert "NaN" not in path.read_text()
    [read] = read_rows(tmp_path, "detection")
    assert read["metrics"]["heldout_tpr_1"] == {"value": None, "low": None, "high": None}
    assert read["protocol"] == {"threshold": None, "list": [None, 1]}


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in make_row().items() if name != key}


def with_metric(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    return make_row(metrics={**make_row()["metrics"], name: entry})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (without("victim"), r"\$: 'victim' is a required property"),
        (make_row(extra=1), r"\$: .*'extra' was unexpected"),
        (make_row(schema=2), r"\$\.schema: "),
        (make_row(board="sll"), r"\$\.board: 'sll' is not one of detection, ssl"),
        (make_row(board=["ssl"]), r"\$\.board: \['ssl'\] is not one of"),
        (make_row(board="ssl"), r"\$: 'arch' is a required property"),
        (make_row(dataset=""), r"\$\.dataset: "),
        (make_row(scenario="s3"), r"\$\.scenario: 's3'"),
        (make_row(seed=True), r"\$\.seed: True is not of type 'integer'"),
        (make_row(seed=0.5), r"\$\.seed: "),
        (make_row(n_clean=0), r"\$\.n_clean: "),
        (make_row(n_calibration=-1), r"\$\.n_calibration: "),
        (make_row(metrics={}), r"\$\.metrics: 'auc' is a required property \(13 more\)"),
        (with_metric("accuracy", {"value": 1, "low": 1, "high": 1}), r"\$\.metrics: .*'accuracy' was unex"),
        (with_metric("auc", {"value": 1.01, "low": 1, "high": 1}), r"\$\.metrics\.auc\.value: 1\.01"),
        (with_metric("auc", {"value": 1, "low": -0.1, "high": 1}), r"\$\.metrics\.auc\.low: -0\.1"),
        (with_metric("auc", {"value": 1, "low": 1}), r"\$\.metrics\.auc: 'high' is a required"),
        (with_metric("auc", {"value": 1, "low": 1, "high": 1, "n": 1}), r"\$\.metrics\.auc: .*'n' was unex"),
        (with_metric("auc", {"value": "1", "low": 1, "high": 1}), r"\$\.metrics\.auc\.value: '1'"),
        (
            with_metric("auc", {"value": math.inf, "low": 1, "high": 1}),
            r"\$\.metrics\.auc\.value: inf is not",
        ),
        (make_row(cost={"forwards_per_text": 1}), r"\$\.cost: 'ms_per_text'"),
        (make_row(cost={"forwards_per_text": 1, "ms_per_text": math.nan}), r"\$\.cost\.ms_per_text: None"),
        (make_row(cost={"forwards_per_text": -1, "ms_per_text": 1}), r"\$\.cost\.forwards_per_text: "),
        (make_row(run=None), r"\$\.run: "),
        (make_row(protocol=[]), r"\$\.protocol: "),
        (make_row(protocol={"a": [1, {"b": {1, 2}}]}), r"\$\.protocol\.a\[1\]\.b: JSON cannot hold a set"),
        (make_row(protocol={1: 2}), r"\$\.protocol: the key 1 is not a string"),
        (make_row(detector="\ud800"), r"\$: .*not Unicode"),
    ],
)
def test_violations_are_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        finish_row(row)
    with pytest.raises(DataError, match=message):
        write_row(tmp_path, row)
    assert not list(tmp_path.iterdir())


def test_a_long_value_does_not_flood_the_message() -> None:
    with pytest.raises(DataError) as caught:
        finish_row(make_row(run=["x" * 10_000]))
    assert len(caught.value.message) < 400
    assert caught.value.message.startswith("$.run: ")


def test_round_trip(tmp_path: Path) -> None:
    made = [finish_row(make_row(seed=seed, detector="détecteur =1")) for seed in range(4)]
    paths = [write_row(tmp_path, row) for row in made]
    assert paths == [file_of(tmp_path, row) for row in made]
    assert read_rows(tmp_path, "detection") == sorted(made, key=lambda row: row["id"])
    assert {path.name for path in paths[0].parent.iterdir()} == {path.name for path in paths}


def test_rows_are_immutable(tmp_path: Path) -> None:
    path = write_row(tmp_path, make_row())
    before = path.read_bytes(), path.stat().st_ino
    again = write_row(tmp_path, make_row(cost={"forwards_per_text": 9, "ms_per_text": 9}, run="later"))
    assert again == path
    assert (path.read_bytes(), path.stat().st_ino) == before
    assert [row["run"] for row in read_rows(tmp_path, "detection")] == ["imdb-rde"]


def test_a_row_that_comes_first_between_check_and_write_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json = rows.write_json

    def late(path: Path, value: Any) -> None:
        write_json(path, value)
        write_json(file_of(tmp_path, value), {**value, "run": "first"})

    monkeypatch.setattr(rows, "write_json", late)
    path = write_row(tmp_path, make_row(run="second"))
    assert json.loads(path.read_text())["run"] == "first"
    assert list(path.parent.iterdir()) == [path]


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    path = write_row(tmp_path, make_row())
    assert list(path.parent.iterdir()) == [path]
    assert len(read_rows(tmp_path, "detection")) == 1


def test_no_rows_and_no_board(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "nowhere", "detection") == []
    with pytest.raises(UnknownNameError, match="no board named 'detektion'"):
        read_rows(tmp_path, "detektion")


def test_a_row_on_the_wrong_board_is_named(tmp_path: Path) -> None:
    path = write_row(tmp_path, make_row())
    wrong = tmp_path / "results" / "ssl" / path.name
    wrong.parent.mkdir()
    wrong.write_bytes(path.read_bytes())
    assert len(read_rows(tmp_path, "detection")) == 1
    with pytest.raises(DataError, match=f"{path.name} is not a sound result row"):
        read_rows(tmp_path, "ssl")


def test_half_written_files_are_not_rows(tmp_path: Path) -> None:
    path = write_row(tmp_path, make_row())
    (path.parent / f".{path.name}.abc.staged").write_text("{")
    (path.parent / f".{path.name}").write_text("{")
    assert len(read_rows(tmp_path, "detection")) == 1


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: text[: len(text) // 2], "JSONDecodeError"),
        (lambda text: "", "JSONDecodeError"),
        (lambda text: "[]", "not an object"),
        (lambda text: "[" * 100_000, "RecursionError"),
        (lambda text: text.replace("imdb-rde", "\udcff"), "UnicodeDecodeError"),
        (lambda text: text.replace('"imdb"', '"yelp"'), "changed after it was written"),
        (lambda text: text.replace("0.25", "0.26", 1), "changed after it was written"),
        (lambda text: text.replace("0.25", "NaN", 1), "NaN is not JSON"),
        (lambda text: text.replace("2.5", "1e999", 1), "inf is not a JSON number"),
        (lambda text: text.replace("2.5", "1" + 400 * "0", 1), "OverflowError"),
        (lambda text: text.replace('"n_clean"', '"n_klean"'), r"n_clean|n_klean"),
        (lambda text: text.replace('"scenario": "s1"', '"scenario": "s3"'), r"\$\.scenario"),
        (lambda text: text.replace(ID, "0" * 16), r"\$\.id: "),
        (lambda text: text.replace(f'"id": "{ID}",', ""), "'id' is a required property"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, damage: Any, reason: str) -> None:
    write_row(tmp_path, make_row(seed=5))
    path = write_row(tmp_path, make_row())
    damaged = damage(path.read_text())
    assert damaged != path.read_text()
    path.write_bytes(damaged.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=reason) as caught:
        read_rows(tmp_path, "detection")
    assert caught.value.message.startswith(f"{path} is not a sound result row: ")


def test_a_file_under_another_name_is_named(tmp_path: Path) -> None:
    path = write_row(tmp_path, make_row())
    copied = path.with_name("ffffffffffffffff.json")
    copied.write_bytes(path.read_bytes())
    with pytest.raises(DataError, match=f"ffffffffffffffff.json is not a sound .* {ID}.json"):
        read_rows(tmp_path, "detection")


def test_a_change_of_cost_is_no_damage(tmp_path: Path) -> None:
    path = write_row(tmp_path, make_row())
    path.write_text(path.read_text().replace("2.5", "3.5"))
    assert read_rows(tmp_path, "detection")[0]["cost"]["ms_per_text"] == 3.5
