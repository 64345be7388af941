"""Score a stream of texts with a fitted detector, in bounded memory."""

from __future__ import annotations

import csv
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from harness.core.errors import DataError, MissingFileError
from harness.core.files import atomic_writer
from harness.core.progress import Progress
from harness.detectors.base import Detector
from harness.detectors.fitting import score
from harness.text.victims import Victim

CHUNK = 512
OUTPUT_COLUMNS = ("id", "label", "probability", "score")


@dataclass(frozen=True)
class ScoreSummary:
    """What was scored."""

    texts: int
    truncated: int


def score_stream(
    detector: Detector,
    victim: Victim,
    source: str,
    out: str,
    *,
    text_column: str = "text",
    id_column: str = "id",
) -> ScoreSummary:
    """Score every text of `source` and write id, predicted label, its probability and the score.

    Args:
        detector: A fitted detector.
        victim: The classifier it was fitted on.
        source: A .txt (one text a line), .jsonl, .csv, .tsv or .parquet file, or `-` for lines on standard input.
        out: A .csv, .jsonl or .parquet file, or `-` for CSV on standard output.
        text_column: Column of the texts, where there are columns.
        id_column: Column of the ids; where it is absent the id is the number of the text, from 0.

    Raises:
        DataError: An empty, missing or unreadable text; it is named by its number. Nothing is written then.
    """
    texts = _checked(_read(source, text_column, id_column), source)
    first = list(itertools.islice(texts, CHUNK))
    if not first:
        raise DataError(f"there are no texts in {_called(source)}.")
    count = truncated = 0
    with _writer(out) as write, Progress("scoring", total=None, unit="text") as bar:
        chunk = first
        while chunk:
            outputs = victim.read([text for _, text in chunk], detector.layers)
            scores = score(detector, outputs)
            labels = outputs.predictions
            for row, (identity, _) in enumerate(chunk):
                write(
                    {
                        "id": identity,
                        "label": int(labels[row]),
                        "probability": float(outputs.probabilities[row, labels[row]]),
                        "score": float(scores[row]),
                    }
                )
            count += len(chunk)
            truncated += outputs.truncated
            bar.advance(len(chunk))
            chunk = list(itertools.islice(texts, CHUNK))
    return ScoreSummary(count, truncated)


def _called(source: str) -> str:
    return "standard input" if source == "-" else source


def _checked(rows: Iterable[tuple[str, Any]], source: str) -> Iterator[tuple[str, str]]:
    for number, (identity, text) in enumerate(rows):
        if not isinstance(text, str) or not text.strip():
            what = "is not a text" if text is not None and not isinstance(text, str) else "is empty"
            raise DataError(f"text {number} of {_called(source)} {what}.", "Remove it, or give it a text.")
        yield identity, text


def _read(source: str, text_column: str, id_column: str) -> Iterator[tuple[str, Any]]:
    """Yield (id, text) of every input row."""
    if source == "-":
        yield from _numbered(_decoded_lines(sys.stdin.buffer, source))
        return
    path = Path(source)
    if not path.is_file():
        raise MissingFileError(f"there is no file {source}.", "Give a .txt, .jsonl, .csv or .parquet file, or -.")
    readers: dict[str, Callable[[Path], Iterator[dict[str, Any]]]] = {
        ".jsonl": _jsonl_rows,
        ".csv": lambda p: _csv_rows(p, ","),
        ".tsv": lambda p: _csv_rows(p, "\t"),
        ".parquet": lambda p: _parquet_rows(p, (text_column, id_column)),
    }
    if path.suffix == ".txt":
        with open(path, "rb") as handle:
            yield from _numbered(_decoded_lines(handle, source))
        return
    if path.suffix not in readers:
        raise DataError(f"cannot read texts from {source}.", "Give a .txt, .jsonl, .csv, .tsv or .parquet file, or -.")
    for number, row in enumerate(readers[path.suffix](path)):
        if text_column not in row:
            known = ", ".join(map(str, row)) or "none"
            raise DataError(
                f"{source} has no column {text_column!r}; it has: {known}.",
                "Name the column with --text-column.",
            )
        yield str(row.get(id_column, number)), row[text_column]


def _numbered(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines):
        yield str(number), line


def _decoded_lines(handle: IO[bytes], source: str) -> Iterator[str]:
    for number, line in enumerate(handle, start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(
                f"line {number} of {_called(source)} is not UTF-8 text.", "Save the file as UTF-8."
            ) from error


def _jsonl_rows(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, "rb") as handle:
        for number, line in enumerate(_decoded_lines(handle, str(path)), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"line {number} of {path} is not JSON.") from error
            if not isinstance(row, dict):
                raise DataError(f"line {number} of {path} is not a JSON object.")
            yield row


def _csv_rows(path: Path, delimiter: str) -> Iterator[dict[str, Any]]:
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            yield from csv.DictReader(handle, delimiter=delimiter, quoting=quoting)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text.", "Save the file as UTF-8.") from error
    except csv.Error as error:
        raise DataError(f"{path} is not readable as a table: {error}.") from error


def _parquet_rows(path: Path, wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        names = [name for name in file.schema_arrow.names if name in wanted] or None
        for batch in file.iter_batches(batch_size=CHUNK, columns=names):
            yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise DataError(f"{path} is not a readable Parquet file.") from error


@contextmanager
def _writer(out: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that writes one row; a file takes its name only when all rows are written."""
    if out == "-":
        yield _csv_writer(sys.stdout)
        return
    path = Path(out)
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        types = (pa.string(), pa.int64(), pa.float64(), pa.float64())
        schema = pa.schema(list(zip(OUTPUT_COLUMNS, types, strict=True)))
        with atomic_writer(path) as handle, pq.ParquetWriter(handle, schema) as table:
            waiting: list[dict[str, Any]] = []

            def write(row: dict[str, Any]) -> None:
                waiting.append(row)
                if len(waiting) == CHUNK:
                    table.write_table(pa.Table.from_pylist(waiting, schema=schema))
                    waiting.clear()

            yield write
            table.write_table(pa.Table.from_pylist(waiting, schema=schema))
    elif path.suffix in (".csv", ".jsonl"):
        with atomic_writer(path, "w") as handle:
            yield _csv_writer(handle) if path.suffix == ".csv" else _jsonl_writer(handle)
    else:
        raise DataError(f"cannot write scores to {out}.", "Use a .csv, .jsonl or .parquet file, or -.")


def _csv_writer(handle: IO[str]) -> Callable[[dict[str, Any]], None]:
    writer = csv.DictWriter(handle, OUTPUT_COLUMNS, lineterminator="\n")
    writer.writeheader()
    return writer.writerow


def _jsonl_writer(handle: IO[str]) -> Callable[[dict[str, Any]], None]:
    def write(row: dict[str, Any]) -> None:
        handle.write(json.dumps(row, ensure_ascii=False) + "\n")

    return write
