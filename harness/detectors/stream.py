"""Score a stream of texts with a fitted detector, in bounded memory."""

from __future__ import annotations

import csv
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from harness.core.csv_cells import safe_cell
from harness.core.errors import DataError, MissingFileError
from harness.core.files import atomic_writer
from harness.core.progress import Progress
from harness.detectors.base import Detector
from harness.detectors.decisions import ADVERSARIAL, Calibration
from harness.detectors.scoring import score
from harness.text.columns import is_missing
from harness.text.local_files import long_cells
from harness.text.victims import Victim

CHUNK = 512
SUFFIXES = (".txt", ".jsonl", ".csv", ".tsv", ".parquet")
OUTPUT_COLUMNS = ("id", "label", "probability", "score")
DECISION_COLUMNS = ("p_value", "decision")


@dataclass(frozen=True)
class ScoreSummary:
    """What was scored: texts, how many were cut, and how many were flagged where the detector is calibrated."""

    texts: int
    truncated: int
    flagged: int | None = None


def score_stream(
    detector: Detector,
    victim: Victim,
    source: str,
    out: str,
    *,
    text_column: str = "text",
    id_column: str = "id",
    calibration: Calibration | None = None,
) -> ScoreSummary:
    """Score every text of `source` and write id, predicted label, its probability and the score.

    Args:
        detector: A fitted detector; it is attached to the victim.
        victim: The classifier it was fitted on.
        source: A .txt (one text a line), .jsonl, .csv, .tsv or .parquet file, or `-` for lines on standard input.
        out: A .csv, .jsonl or .parquet file, or `-` for CSV on standard output, written chunk by chunk. In CSV an
            id that a spreadsheet would run as a formula is marked by an apostrophe (`core.csv_cells`).
        text_column: Column of the texts, where there are columns.
        id_column: Column of the ids; where it is absent the id is the number of the text, from 0.
        calibration: Adds the columns p_value (split-conformal) and decision (`adversarial` or `clean`).

    Raises:
        DataError: An empty, missing or unreadable text; it is named by its number. No file is written then.
    """
    if "-" not in (source, out) and Path(source).resolve() == Path(out).resolve():
        raise DataError(f"the scores would replace the texts in {source}.", "Choose another --out.")
    texts = _checked(_read(source, text_column, id_column), source)
    first = list(itertools.islice(texts, CHUNK))
    if not first:
        raise DataError(f"there are no texts in {_called(source)}.")
    detector = detector.attach(victim)
    count = truncated = flagged = 0
    with (
        _writer(out, OUTPUT_COLUMNS + (DECISION_COLUMNS if calibration else ())) as write,
        Progress("scoring", total=None, unit="text") as bar,
    ):
        chunk = first
        while chunk:
            outputs = victim.read([text for _, text in chunk], detector.layers)
            scores = score(detector, outputs)
            labels = outputs.predictions
            decided = calibration.decide(scores) if calibration else [{}] * len(chunk)
            for row, (identity, _) in enumerate(chunk):
                write(
                    {
                        "id": identity,
                        "label": int(labels[row]),
                        "probability": float(outputs.probabilities[row, labels[row]]),
                        "score": float(scores[row]),
                        **decided[row],
                    }
                )
            flagged += sum(one.get("decision") == ADVERSARIAL for one in decided)
            count += len(chunk)
            truncated += outputs.truncated
            bar.advance(len(chunk))
            chunk = list(itertools.islice(texts, CHUNK))
    return ScoreSummary(count, truncated, flagged if calibration else None)


def _called(source: str) -> str:
    return "standard input" if source == "-" else source


def _checked(rows: Iterable[tuple[str, Any]], source: str) -> Iterator[tuple[str, str]]:
    for number, (identity, text) in enumerate(rows):
        if is_missing(text):
            problem = "is empty"
        elif not isinstance(text, str):
            problem = f"is no text but {type(text).__name__}"
        elif not _encodable(text):
            problem = "is no valid Unicode (a lone surrogate)"
        else:
            yield identity, text
            continue
        raise DataError(
            f"text {number} of {_called(source)}, counted from 0, {problem}.", "Remove it, or give it a text."
        )


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read(source: str, text_column: str, id_column: str) -> Iterator[tuple[str, Any]]:
    """Yield (id, text) of every input row."""
    if source == "-":
        yield from _numbered(_decoded_lines(sys.stdin.buffer, source))
        return
    path, offer = Path(source), f"Give a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file, or -."
    if not path.is_file():
        raise MissingFileError(f"there is no file {source}.", offer)
    suffix = path.suffix.lower()
    if suffix == ".txt":
        with open(path, "rb") as handle:
            yield from _numbered(_decoded_lines(handle, source))
        return
    if suffix not in SUFFIXES:
        raise DataError(f"cannot read texts from {source}.", offer)
    readers: dict[str, Callable[[Path], Iterator[dict[str, Any]]]] = {
        ".jsonl": _jsonl_rows,
        ".csv": _csv_rows,
        ".tsv": _tsv_rows,
        ".parquet": lambda p: _parquet_rows(p, text_column, id_column),
    }
    for number, row in enumerate(readers[suffix](path)):
        if text_column not in row:
            known = ", ".join(map(str, row)) or "none"
            raise DataError(
                f"{source} has no column {text_column!r}; it has: {known}.",
                "Name the column with --text-column.",
            )
        identity = row.get(id_column)
        yield str(number if identity is None else identity), row[text_column]


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
            except (ValueError, RecursionError) as error:
                raise DataError(f"line {number} of {path} is not JSON.") from error
            if not isinstance(row, dict):
                raise DataError(f"line {number} of {path} is not a JSON object.")
            yield row


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    # A stray quote or comma would cut a text in silence: strict, and every row as long as the header.
    try:
        with long_cells(), open(path, encoding="utf-8-sig", newline="") as handle:
            lines = csv.reader(handle, strict=True)
            yield from _table_rows(path, ((lines.line_num, row) for row in lines))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text.", "Save the file as UTF-8.") from error
    except csv.Error as error:
        raise DataError(f"{path} is not valid CSV: {error} (near line {lines.line_num}).") from error


def _tsv_rows(path: Path) -> Iterator[dict[str, Any]]:
    # No quoting, and only a line feed ends a line, as in `harness.text.local_files`.
    with open(path, "rb") as handle:
        lines = enumerate(_decoded_lines(handle, str(path)), start=1)
        yield from _table_rows(path, ((number, line.split("\t") if line else []) for number, line in lines))


def _table_rows(path: Path, lines: Iterator[tuple[int, list[str]]]) -> Iterator[dict[str, Any]]:
    header: list[str] = []
    for number, cells in lines:
        if not cells:
            continue
        if not header:
            header = cells
            if len(set(header)) < len(header):
                raise DataError(f"{path} has two columns of the same name.", "Rename one of them.")
        elif len(cells) != len(header):
            raise DataError(
                f"{path} has {len(cells)} cells instead of {len(header)} in the row at line {number}.",
                "Quote texts that hold commas or line breaks; a .tsv file has no quoting.",
            )
        else:
            yield dict(zip(header, cells, strict=True))


def _parquet_rows(path: Path, text_column: str, id_column: str) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            # Without the text column all are read, for the message that names them.
            wanted = [name for name in names if name in (text_column, id_column)] if text_column in names else None
            for batch in file.iter_batches(batch_size=CHUNK, columns=wanted):
                yield from batch.to_pylist()
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise DataError(f"{path} is not a readable Parquet file: {reason}.", "Write it again.") from error


@contextmanager
def _writer(out: str, columns: tuple[str, ...] = OUTPUT_COLUMNS) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that writes one row; a file takes its name only when all rows are written."""
    if out == "-":
        yield _csv_writer(sys.stdout, columns)
        return
    path = Path(out)
    suffix = path.suffix.lower()
    if path.is_dir():
        raise DataError(f"cannot write scores to {out}: it is a folder.", "Give a file.")
    if suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        types = {"id": pa.string(), "label": pa.int64(), "decision": pa.string()}
        schema = pa.schema([(name, types.get(name, pa.float64())) for name in columns])
        with atomic_writer(path) as handle, pq.ParquetWriter(handle, schema) as table:
            waiting: list[dict[str, Any]] = []

            def write(row: dict[str, Any]) -> None:
                waiting.append(row)
                if len(waiting) == CHUNK:
                    table.write_table(pa.Table.from_pylist(waiting, schema=schema))
                    waiting.clear()

            yield write
            table.write_table(pa.Table.from_pylist(waiting, schema=schema))
    elif suffix in (".csv", ".jsonl"):
        with atomic_writer(path, "w") as handle:
            yield _csv_writer(handle, columns) if suffix == ".csv" else _jsonl_writer(handle)
    else:
        raise DataError(f"cannot write scores to {out}.", "Use a .csv, .jsonl or .parquet file, or -.")


def _csv_writer(handle: IO[str], columns: tuple[str, ...]) -> Callable[[dict[str, Any]], None]:
    plain = csv.DictWriter(handle, columns, lineterminator="\n")
    # Python 3.11 leaves a carriage return bare, which ends a line for every reader.
    quoted = csv.DictWriter(handle, columns, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    plain.writeheader()
    return lambda row: (quoted if "\r" in row["id"] else plain).writerow({**row, "id": safe_cell(row["id"])})


def _jsonl_writer(handle: IO[str]) -> Callable[[dict[str, Any]], None]:
    def write(row: dict[str, Any]) -> None:
        handle.write(json.dumps(row, ensure_ascii=False) + "\n")

    return write
