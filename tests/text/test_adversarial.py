"""Adversarial rows: what their files keep, and their summary."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from harness.core.errors import DataError, MissingFileError
from harness.text.adversarial import (
    COLUMNS,
    AdversarialRow,
    compare_words,
    read_rows,
    row_from_json,
    row_to_json,
    summarise,
    write_rows,
)

TEXTS = st.text(
    st.sampled_from(list(" \n\r\t\"',;[]<>\\\x00\u2028=+-@é映😀ab")) | st.characters(exclude_categories=["Cs"]),
    max_size=40,
)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
INTEGERS = st.integers(0, 2**31 - 1)
PROBABILITIES = st.none() | st.lists(NUMBERS, max_size=4)
ROWS = st.builds(
    AdversarialRow,
    id=TEXTS,
    dataset=TEXTS,
    split=TEXTS,
    index=INTEGERS,
    label=INTEGERS,
    original_text=TEXTS,
    perturbed_text=TEXTS,
    changed_positions=st.lists(INTEGERS, max_size=4),
    original_output=INTEGERS,
    perturbed_output=INTEGERS,
    original_score=NUMBERS,
    perturbed_score=NUMBERS,
    original_probabilities=PROBABILITIES,
    perturbed_probabilities=PROBABILITIES,
    result=st.sampled_from(["success", "failure", "maximized", "skipped"]),
    goal=TEXTS,
    min_confidence=st.none() | NUMBERS,
    recipe=TEXTS,
    recipe_parameters=TEXTS,
    victim=TEXTS,
    victim_hash=st.none() | TEXTS,
    queries=INTEGERS,
    words_changed_percent=NUMBERS,
    seed=st.none() | INTEGERS,
    textattack_version=st.none() | TEXTS,
    target_class=st.none() | INTEGERS,
    evaded=st.none() | TEXTS,
    query_limit=st.none() | INTEGERS,
    seconds_limit=st.none() | NUMBERS,
    stopped_by=st.sampled_from([None, "queries", "seconds"]),
)
PLAIN = AdversarialRow(
    id="0123456789abcdef",
    dataset="sst2",
    split="test",
    index=3,
    label=1,
    original_text="a good film",
    perturbed_text="a fine film",
    changed_positions=[1],
    original_output=1,
    perturbed_output=0,
    original_score=0.1,
    perturbed_score=0.75,
    original_probabilities=[0.1, 0.9],
    perturbed_probabilities=[0.75, 0.25],
    result="success",
    goal="untargeted",
    min_confidence=None,
    recipe="pwws",
    recipe_parameters="{}",
    victim="v",
    victim_hash=None,
    queries=12,
    words_changed_percent=100 / 3,
    seed=0,
    textattack_version=None,
)
LATER = {
    "target_class": 3,
    "evaded": '{"detector": "rde", "threshold": 0.5}',
    "query_limit": 500,
    "seconds_limit": 0.1 + 0.2,
    "stopped_by": "queries",
}
IN_TMP_PATH = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many small files, none of which has to survive a power cut."""
    monkeypatch.setattr("os.fsync", lambda _: None)


@settings(IN_TMP_PATH, max_examples=60)
@given(st.lists(ROWS, max_size=4))
def test_parquet_keeps_every_field(tmp_path: Path, rows: list[AdversarialRow]) -> None:
    path = tmp_path / "adversarial.parquet"
    write_rows(path, rows)
    assert read_rows(path) == rows
    assert read_rows(tmp_path) == rows
    before = path.read_bytes()
    write_rows(path, rows)
    assert path.read_bytes() == before


@settings(IN_TMP_PATH, max_examples=200)
@given(ROWS)
@example(replace(PLAIN, original_text="[[ lone [[ \u2028 \x85 \n", original_score=5e-324, perturbed_score=0.1 + 0.2))
def test_json_lines_keep_every_field(row: AdversarialRow) -> None:
    line = row_to_json(row)
    assert "\n" not in line
    assert row_from_json(line) == row
    assert list(json.loads(line)) == list(COLUMNS)


@pytest.mark.parametrize("name", LATER)
def test_a_later_field_is_kept_and_may_be_absent(tmp_path: Path, name: str) -> None:
    import pyarrow.parquet as pq

    row = replace(PLAIN, **{name: LATER[name]})
    assert getattr(row_from_json(row_to_json(row)), name) == LATER[name]
    without = {key: value for key, value in json.loads(row_to_json(row)).items() if key != name}
    assert row_from_json(json.dumps(without)) == PLAIN

    path = tmp_path / "rows.parquet"
    write_rows(path, [row, PLAIN])
    assert [getattr(kept, name) for kept in read_rows(path)] == [LATER[name], None]
    pq.write_table(pq.read_table(path).drop_columns([name]), path)
    assert read_rows(path) == [PLAIN, PLAIN]


def test_files_of_the_first_version_are_read(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    assert {name for name in COLUMNS if name in LATER} == set(LATER) == set(COLUMNS[-len(LATER) :])
    path = tmp_path / "rows.parquet"
    rows = [replace(PLAIN, **LATER), PLAIN]
    write_rows(path, rows)
    pq.write_table(pq.read_table(path).drop_columns(list(LATER)), path)
    assert read_rows(path) == [PLAIN, PLAIN]
    line = json.dumps({name: value for name, value in asdict(rows[0]).items() if name not in LATER})
    assert row_from_json(line) == PLAIN


def test_any_parquet_reader_reads_the_file(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    write_rows(tmp_path / "rows.parquet", [PLAIN, replace(PLAIN, original_probabilities=None, seed=None)])
    frame = pd.read_parquet(tmp_path / "rows.parquet")
    assert list(frame.columns) == list(COLUMNS)
    assert frame["perturbed_text"].tolist() == ["a fine film"] * 2
    assert frame["original_score"].tolist() == [0.1, 0.1]
    assert [None if value is None else list(value) for value in frame["original_probabilities"]] == [[0.1, 0.9], None]


def test_files_that_hold_no_rows(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pytest.raises(MissingFileError, match="no adversarial rows at"):
        read_rows(tmp_path)
    columns: dict[str, list[Any]] = {name: [value] for name, value in asdict(PLAIN).items()}
    tables = {
        "missing": {k: v for k, v in columns.items() if k != "queries"},
        "type": columns | {"index": ["three"]},
        "null": columns | {"label": [None]},
        "gap": columns | {"original_probabilities": [[0.5, None]]},
        "result": columns | {"result": ["won"]},
        "limit": columns | {"stopped_by": ["boredom"]},
    }
    for name, table in tables.items():
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    (tmp_path / "empty.parquet").touch()
    for name in (*tables, "text", "empty"):
        with pytest.raises(DataError, match="is not a file of adversarial rows"):
            read_rows(tmp_path / f"{name}.parquet")


@pytest.mark.parametrize(
    "change",
    [
        {"result": "won"},
        {"index": "3"},
        {"index": True},
        {"index": 3.5},
        {"label": None},
        {"queries": 2**63},
        {"original_text": None},
        {"original_text": "\ud800"},
        {"original_score": float("nan")},
        {"original_score": "0.5"},
        {"changed_positions": [0.5]},
        {"changed_positions": None},
        {"original_probabilities": [None]},
        {"original_probabilities": 0.5},
        {"unknown": 1},
        {"original_score": 10**400},
        {"stopped_by": "boredom"},
        {"stopped_by": []},
        {"target_class": 0.5},
        {"seconds_limit": "3s"},
    ],
    ids=str,
)
def test_json_lines_that_are_no_rows(change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="not an adversarial row"):
        row_from_json(json.dumps({**asdict(PLAIN), **change}))


@pytest.mark.parametrize(
    "change", [{"index": 2**63}, {"changed_positions": [2**31]}, {"original_text": "\ud800"}], ids=str
)
def test_rows_that_no_file_can_hold(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="not adversarial rows"):
        write_rows(tmp_path / "rows.parquet", [replace(PLAIN, **change)])
    assert not list(tmp_path.iterdir())


def test_numbers_that_json_does_not_have() -> None:
    with pytest.raises(DataError, match="row 0123456789abcdef holds a number that is not finite"):
        row_to_json(replace(PLAIN, perturbed_score=math.nan))


@pytest.mark.parametrize("line", ["", "{", "[]", "3", "null", "{}", '"text"', "[" * 100_000])
def test_json_that_is_no_row(line: str) -> None:
    with pytest.raises(DataError, match="not an adversarial row"):
        row_from_json(line)


@pytest.mark.parametrize(
    ("before", "after", "positions", "percent"),
    [
        ("a good, film", "a fine, film", [1], 100 / 3),
        ("a good film", "a good film", [], 0.0),
        ("a good film", "a film", [1], 100 / 3),
        ("good", "very good", [0], 100.0),
        ("", "new", [], 0.0),
        ("...", "!!!", [], 0.0),
    ],
)
def test_compare_words(before: str, after: str, positions: list[int], percent: float) -> None:
    assert compare_words(before, after) == (positions, pytest.approx(percent))


def test_summary_counts() -> None:
    rows = [
        replace(PLAIN, words_changed_percent=10.0, queries=10),
        replace(PLAIN, words_changed_percent=30.0, queries=20),
        replace(PLAIN, result="failure", perturbed_output=1, words_changed_percent=99.0, queries=60),
        replace(PLAIN, result="skipped", original_output=0, words_changed_percent=0.0, queries=1),
    ]
    found = summarise(rows)
    assert (found.texts, found.successes, found.failures, found.skipped) == (4, 2, 1, 1)
    assert (found.accuracy, found.accuracy_under_attack) == (0.75, 0.25)
    assert found.success_rate == pytest.approx(2 / 3)
    assert (found.words_changed_percent, found.queries) == (20.0, 30.0)


def test_summary_counts_maximized_rows_as_attacked_and_not_as_successes() -> None:
    kept = replace(PLAIN, result="maximized", perturbed_output=1, words_changed_percent=80.0, queries=40)
    found = summarise([replace(PLAIN, words_changed_percent=20.0, queries=20), kept])
    assert (found.successes, found.maximized, found.failures, found.skipped) == (1, 1, 0, 0)
    assert (found.accuracy, found.accuracy_under_attack, found.success_rate) == (1.0, 0.5, 0.5)
    assert (found.words_changed_percent, found.queries) == (20.0, 30.0)


def test_summary_of_nothing() -> None:
    with pytest.raises(DataError, match="no adversarial rows"):
        summarise([])
    found = summarise([replace(PLAIN, result="skipped", original_output=0)])
    assert all(math.isnan(value) for value in (found.success_rate, found.words_changed_percent, found.queries))
    assert found.accuracy == found.accuracy_under_attack == 0
