"""Local files: every format gives the same rows, and every bad row is refused in plain words."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.core.errors import DataError, HarnessError
from harness.text.datasets import load_dataset

AWKWARD = [
    "NA",
    "null",
    "nan",
    '=1+1 "quoted"',
    "two\nlines\r\nhere",
    "a,b;c\td",
    "naïve 电影 🎬",
    "'",
    "42",
    " x ",
]
ROWS = [(text, number % 2) for number, text in enumerate(AWKWARD)]

Rows = Sequence[tuple[Any, Any]]


def write_parquet(path: Path, rows: Rows, names: tuple[str, str] = ("text", "label")) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({names[0]: [text for text, _ in rows], names[1]: [label for _, label in rows]})
    pq.write_table(table, path)


def write_csv(path: Path, rows: Rows, names: tuple[str, str] = ("text", "label")) -> None:
    with open(path, "w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows([names, *rows])


def write_tsv(path: Path, rows: Rows, names: tuple[str, str] = ("text", "label")) -> None:
    lines = ["\t".join(map(str, row)) + "\n" for row in [names, *rows]]
    path.write_bytes("".join(lines).encode())


def write_jsonl(path: Path, rows: Rows, names: tuple[str, str] = ("text", "label")) -> None:
    lines = [json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n" for row in rows]
    path.write_bytes("".join(lines).encode())


WRITERS: dict[str, Callable[..., None]] = {
    ".parquet": write_parquet,
    ".csv": write_csv,
    ".jsonl": write_jsonl,
    ".json": write_jsonl,
}


def refused(spec: Path | str, split: str = "test", kind: type[HarnessError] = DataError, **options: Any) -> str:
    """The message and hint with which loading is refused."""
    with pytest.raises(kind) as caught:
        load_dataset(str(spec), split, **options)
    assert caught.value.message.endswith(".")
    return f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize("suffix", WRITERS)
def test_formats_agree(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"reviews{suffix}"
    WRITERS[suffix](path, ROWS)
    data = load_dataset(str(path), "test")
    assert (data.name, data.split, len(data)) == ("reviews", "test", len(ROWS))
    assert data.texts == AWKWARD
    assert data.labels.dtype == data.indices.dtype == np.int64
    assert data.labels.tolist() == [label for _, label in ROWS]
    assert data.indices.tolist() == list(range(len(ROWS)))
    assert data.label_names is None
    assert data.num_classes == 2
    assert data.source == {
        "kind": "file",
        "name": f"reviews{suffix}",
        "text_column": "text",
        "label_column": "label",
    }
    assert data.hash == "e4749451a81e48f6908b11b9481bad3e9437d4b7ce0a82d89eae5af6b8a1a252"


texts = st.text(
    st.characters(exclude_categories=("Cs",)) | st.sampled_from(list("\n\r\t\"',=\\\u2028\x00\ufeff")),
    min_size=1,
).filter(lambda text: not text.isspace())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(texts, st.integers(0, 5)), min_size=1, max_size=6))
def test_round_trip_of_any_text(tmp_path: Path, rows: list[tuple[str, int]]) -> None:
    loaded = {}
    for suffix, write in WRITERS.items():
        write(tmp_path / f"rows{suffix}", rows)
        loaded[suffix] = load_dataset(str(tmp_path / f"rows{suffix}"), "train")
    assert {data.hash for data in loaded.values()} == {loaded[".parquet"].hash}
    for data in loaded.values():
        assert data.texts == [text for text, _ in rows]
        assert data.labels.tolist() == [label for _, label in rows]


lines = texts.filter(lambda text: not set(text) & set("\t\n\r\ufeff"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(lines, st.integers(0, 5)), min_size=1, max_size=6))
def test_tsv_has_no_quoting(tmp_path: Path, rows: list[tuple[str, int]]) -> None:
    write_tsv(tmp_path / "rows.tsv", rows)
    assert load_dataset(str(tmp_path / "rows.tsv"), "train").texts == [text for text, _ in rows]


def test_byte_order_mark_windows_lines_and_json_array(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbftext,label\r\nfine,1\r\n\r\n")
    (tmp_path / "a.tsv").write_bytes(b"text\tlabel\r\nfine\t1\r\n")
    (tmp_path / "a.json").write_text('[\n{"text": "fine", "label": 1}\n]')
    assert len({load_dataset(str(tmp_path / f"a.{s}"), "test").hash for s in ("csv", "tsv", "json")}) == 1


def test_cell_longer_than_the_csv_modules_limit(tmp_path: Path) -> None:
    before = csv.field_size_limit(1000)  # of the whole process, so it must be found again as it was left
    try:
        write_csv(tmp_path / "long.csv", [("x" * 1001, 0)])
        assert len(load_dataset(str(tmp_path / "long.csv"), "test").texts[0]) == 1001
        assert csv.field_size_limit() == 1000
    finally:
        csv.field_size_limit(before)


def test_parquet_ignores_partitions_in_the_path(tmp_path: Path) -> None:
    folder = tmp_path / "label=7"
    folder.mkdir()
    write_parquet(folder / "a.parquet", [("fine", 1)])
    assert load_dataset(str(folder / "a.parquet"), "test").labels.tolist() == [1]


def test_default_and_explicit_columns(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [("fine", 1)], ("sentence", "labels"))
    write_csv(tmp_path / "b.csv", [("fine", 1)], ("review", "stars"))
    (tmp_path / "c.csv").write_text("sentence,labels,text,label\nold,1,new,0\n")
    assert load_dataset(str(tmp_path / "a.csv"), "test").source["text_column"] == "sentence"
    data = load_dataset(str(tmp_path / "b.csv"), "test", text_column="review", label_column="stars")
    assert data.texts == ["fine"]
    assert load_dataset(str(tmp_path / "c.csv"), "test").texts == ["new"]
    message = refused(tmp_path / "b.csv")
    assert "no text column (text or sentence)" in message
    assert "'review', 'stars'" in message
    assert "--text-column" in message
    message = refused(tmp_path / "b.csv", text_column="review", label_column="grade")
    assert "no column 'grade'" in message
    assert "--label-column" in message
    assert "same column" in refused(tmp_path / "a.csv", label_column="sentence")


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
@pytest.mark.parametrize("blank", ["", "  \n", "\u00a0"])
def test_blank_texts_are_counted(tmp_path: Path, suffix: str, blank: str) -> None:
    WRITERS[suffix](tmp_path / f"a{suffix}", [("fine", 0), (blank, 1), (blank, 1)])
    message = refused(tmp_path / f"a{suffix}")
    assert "2 missing or empty texts" in message
    assert "row 1," in message


@pytest.mark.parametrize(
    ("suffix", "rows", "expected"),
    [
        (".parquet", [("fine", 0), (None, 1)], "1 missing or empty texts"),
        (".jsonl", [("fine", 0), (None, 1)], "1 missing or empty texts"),
        (".jsonl", [("fine", 0), (float("nan"), 1)], "1 missing or empty texts"),
        (".parquet", [(3, 0)], "holds int, not text"),
        (".parquet", [(3.5, 0)], "holds float, not text"),
        (".parquet", [(b"bytes", 0)], "holds bytes, not text"),
        (".jsonl", [("fine", 0), ({"a": 1}, 0)], "holds dict, not text"),
        (".parquet", [("fine", 0), ("bad", None)], "1 missing labels"),
        (".parquet", [("fine", 0.0), ("bad", float("nan"))], "1 missing labels"),
        (".csv", [("fine", 0), ("bad", "")], "1 missing labels"),
        (".parquet", [("bad", -1)], "below zero: -1 at row 0"),
        (".csv", [("bad", -1)], "below zero: -1 at row 0"),
        (".parquet", [("fine", 0.0), ("bad", 0.5)], "not a whole number: 0.5 at row 1"),
        (".csv", [("bad", "1e999")], "not a whole number"),
        (".parquet", [("bad", 2**40)], "too large"),
        (".jsonl", [("bad", 10**400)], "too large"),
        (".jsonl", [("bad", [1])], "holds list, not a class"),
        (".csv", [("fine", "pos"), ("bad", 0)], "mixes numbers and names"),
        (".csv", [], "is empty"),
        (".parquet", [], "is empty"),
        (".jsonl", [], "is empty"),
    ],
)
def test_bad_rows(tmp_path: Path, suffix: str, rows: Rows, expected: str) -> None:
    WRITERS[suffix](tmp_path / f"a{suffix}", rows)
    message = refused(tmp_path / f"a{suffix}")
    assert expected in message
    assert f"a{suffix}" in message


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", b"", "is empty"),
        ("a.csv", b"text,label\nna\xefve,1\n", "not UTF-8 (first wrong byte at offset 13)"),
        ("a.tsv", b"text\tlabel\nna\xefve\t1\n", "not UTF-8 (first wrong byte at offset 13)"),
        ("a.jsonl", b'{"text": "\xff", "label": 1}', "not UTF-8 (first wrong byte at offset 10)"),
        ("a.csv", "text,label\nx,1\n".encode("utf-16"), "not UTF-8 (first wrong byte at offset 0)"),
        ("a.csv", b'text,label\n"never closed,1\n', "not valid CSV"),
        ("a.csv", b'text,label\n"closed" early,1\n', "not valid CSV"),
        ("a.csv", b"text,label\nfine,1\none, two,1\n", "3 cells instead of 2 in the row at line 3"),
        ("a.csv", b"text,label\nfine\n", "1 cells instead of 2"),
        ("a.csv", b"text,label,text\na,1,b\n", "two columns of the same name"),
        ("a.tsv", b"text\tlabel\na\tb\t1\n", "3 cells instead of 2"),
        ("a.jsonl", b'{"text": "x", "label": 1}\n{"text": \n', "not valid JSON: Expecting value (line 2)"),
        ("a.json", b'[{"text": "x"},\n oops]', "not valid JSON: Expecting value (line 2)"),
        ("a.jsonl", b'{"text": "x", "label": 1}\n3\n', "holds int, not an object, at row 1"),
        ("a.jsonl", b"[" * 100_000, "not valid JSON"),
        ("a.jsonl", b'{"text": "\\ud800", "label": 1}', "no valid Unicode"),
        ("a.parquet", b"PAR1 no parquet", "not a readable Parquet file"),
        ("a.parquet", b"", "not a readable Parquet file"),
        ("a.xlsx", b"", "no format that can be read"),
    ],
)
def test_malformed_files(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(content)
    message = refused(tmp_path / name)
    assert expected in message
    assert name in message


def test_parquet_with_text_that_is_not_utf8(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    broken = pa.array([b"na\xefve"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": broken, "label": [1]}), tmp_path / "a.parquet")
    assert "not UTF-8 (at byte 2" in refused(tmp_path / "a.parquet")


@pytest.mark.parametrize("labels", [[0, 1], [0.0, 1.0], ["0", "1"], ["0.0", " 1.0"]])
def test_whole_numbers_in_any_guise(tmp_path: Path, labels: list[Any]) -> None:
    for suffix, write in WRITERS.items():
        write(tmp_path / f"a{suffix}", list(zip(["x", "y"], labels, strict=True)))
        data = load_dataset(str(tmp_path / f"a{suffix}"), "test")
        assert data.labels.tolist() == [0, 1]
        assert data.label_names is None


@pytest.mark.parametrize("labels", [["pos", "neg", "pos"], [True, False, True], ["b", "a", "b"]])
def test_names_are_sorted(tmp_path: Path, labels: list[Any]) -> None:
    for suffix, write in WRITERS.items():
        write(tmp_path / f"a{suffix}", list(zip("xyz", labels, strict=True)))
        data = load_dataset(str(tmp_path / f"a{suffix}"), "test")
        assert data.labels.tolist() == [1, 0, 1]
        assert data.label_names == sorted({str(label) for label in labels})


def test_label_beyond_the_class_names(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    note = {"info": {"features": {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"}}}}
    table = pa.table({"text": ["x"], "label": [2]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(note)})
    pq.write_table(table, tmp_path / "a.parquet")
    assert "beyond its 2 class names" in refused(tmp_path / "a.parquet")
    pq.write_table(table.replace_schema_metadata({"huggingface": "[]"}), tmp_path / "b.parquet")
    assert load_dataset(str(tmp_path / "b.parquet"), "test").label_names is None
