"""Read one table from one local file: Parquet, CSV, TSV or JSON lines, all to the same plain columns.

CSV is read by the rules of RFC 4180 and strictly: a stray quote or a row of the wrong length is an error, no
cell is taken for a missing value ("NA" is a text), and no cell changes its type. TSV has no quoting, for
in GLUE's files quotes are part of the text and often unbalanced; one line is one row.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.core.errors import DataError, MissingFileError

Choose = Callable[[Sequence[str]], Sequence[str]]


@dataclass
class Table:
    """Columns of equal length, and the class names of those whose source knows them."""

    columns: dict[str, list[Any]]
    class_names: dict[str, list[str]] = field(default_factory=dict)

    def extend(self, other: Table) -> None:
        """Append the rows of `other`, which has the same columns."""
        for name, values in self.columns.items():
            values.extend(other.columns[name])


def read_file(path: Path, choose: Choose) -> Table:
    """Read the columns of a file that `choose` picks among its column names.

    Args:
        path: A file with one of the suffixes in `READERS`.
        choose: Gets the names of all columns and returns those to keep; may raise.

    Raises:
        MissingFileError: The file is not there or not readable.
        DataError: The format is unknown, or the file is malformed or not UTF-8.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path} has no format that can be read.", f"Give a folder or a file of {', '.join(READERS)}.")
    return reader(path, choose)


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 (first wrong byte at offset {error.start}).",
            "Convert it, e.g. iconv -f LATIN1 -t UTF-8.",
        ) from error
    except OSError as error:
        raise MissingFileError(f"{path} cannot be read: {error.strerror}.") from error


@contextmanager
def long_cells() -> Iterator[None]:
    """Lift the `csv` module's limit of 128 KiB a cell, which reviews exceed, and put it back: it is global."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _read_csv(path: Path, choose: Choose) -> Table:
    text = _read_text(path)
    try:
        # The limit guards against runaway quotes; strict reading reports those by itself.
        with long_cells():
            lines = csv.reader(io.StringIO(text, newline=""), strict=True)
            rows = [(lines.line_num, row) for row in lines if row]
    except csv.Error as error:
        raise DataError(
            f"{path} is not valid CSV: {error} (near line {lines.line_num}).",
            'Put texts with quotes, commas or line breaks in quotes and double the quotes inside ("").',
        ) from error
    return _from_rows(path, rows, choose)


def _read_tsv(path: Path, choose: Choose) -> Table:
    # Only "\n" ends a line: `splitlines` would also cut texts at form feeds and Unicode separators.
    lines = (line.removesuffix("\r") for line in _read_text(path).split("\n"))
    rows = [(number, line.split("\t")) for number, line in enumerate(lines, 1) if line]
    return _from_rows(path, rows, choose)


def _from_rows(path: Path, rows: list[tuple[int, list[str]]], choose: Choose) -> Table:
    if not rows:
        raise DataError(f"{path} is empty.", "Give a file with a header and at least one row.")
    header = rows.pop(0)[1]
    if len(set(header)) < len(header):
        raise DataError(f"{path} has two columns of the same name.", "Rename one of them.")
    keep = [(name, header.index(name)) for name in choose(header)]
    for line, row in rows:
        if len(row) != len(header):
            raise DataError(
                f"{path} has {len(row)} cells instead of {len(header)} in the row at line {line}.",
                "Quote texts that hold commas or line breaks; a .tsv file has no quoting.",
            )
    return Table({name: [row[at] for _, row in rows] for name, at in keep})


def _read_json(path: Path, choose: Choose) -> Table:
    """JSON lines, or one array of objects."""
    text = _read_text(path)
    if text.lstrip().startswith("["):
        rows = _parse_json(path, text, 1)
    else:
        lines = enumerate(text.split("\n"), 1)
        rows = [_parse_json(path, line, number) for number, line in lines if line and not line.isspace()]
    wrong = next((number for number, row in enumerate(rows) if not isinstance(row, dict)), None)
    if wrong is not None:
        raise DataError(
            f"{path} holds {type(rows[wrong]).__name__}, not an object, at row {wrong}, counted from 0.",
            "Write one JSON object a line.",
        )
    if not rows:
        raise DataError(f"{path} is empty.", "Give a file with at least one row.")
    names = list(dict.fromkeys(name for row in rows for name in row))
    return Table({name: [row.get(name) for row in rows] for name in choose(names)})


def _parse_json(path: Path, text: str, line: int) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        message = error.msg if isinstance(error, json.JSONDecodeError) else "it is nested too deeply"
        line += error.lineno - 1 if isinstance(error, json.JSONDecodeError) else 0
        raise DataError(
            f"{path} is not valid JSON: {message} (line {line}).", "Write one JSON object a line."
        ) from error


def _read_parquet(path: Path, choose: Choose) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Not `read_table`: that one would add columns for parts of the path such as "label=1".
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            keep = list(choose(schema.names))
            table = file.read(columns=keep)
            columns = {name: table.column(name).to_pylist() for name in keep}
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} has a text that is not UTF-8 (at byte {error.start} of the text).", "Repair the file."
        ) from error
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise DataError(f"{path} is not a readable Parquet file: {reason}.", "Write it again.") from error
    return Table(columns, _class_names((schema.metadata or {}).get(b"huggingface")))


def _class_names(metadata: bytes | None) -> dict[str, list[str]]:
    """The class names that Hugging Face's datasets leaves in a Parquet file's metadata."""
    try:
        features = json.loads(metadata or b"{}")["info"]["features"]
        return {
            name: [str(label) for label in feature["names"]]
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # another tool's note under the same key says nothing about classes


def table_of(dataset: Any, choose: Choose) -> Table:
    """The columns of a `datasets.Dataset` that `choose` picks among its column names."""
    keep = list(choose(dataset.column_names))
    columns = dataset.with_format(None).select_columns(keep).to_dict() if keep else {}
    features = {name: dataset.features[name] for name in keep}
    names = {name: list(f.names) for name, f in features.items() if type(f).__name__ == "ClassLabel"}
    return Table(columns, names)


READERS: dict[str, Callable[[Path, Choose], Table]] = {
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_json,
    ".json": _read_json,
}
