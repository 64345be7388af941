"""The Parquet files of a set: typed columns that `datasets` opens as they are, the same bytes for the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.core.errors import DataError
from harness.core.files import atomic_writer
from harness.text.adversarial import COLUMNS, AdversarialRow
from harness.text.release.replacements import find_edits, reveals, text_hash

TEXT_COLUMNS = ("original_text", "perturbed_text")
HASH_COLUMNS = ("original_sha256", "perturbed_sha256")
EDITS_COLUMN = "edits"
_CLASSES = ("label", "original_output", "perturbed_output")
_INTEGERS = ("index", "queries", "seed", "target_class", "query_limit")
_FLOATS = ("original_score", "perturbed_score", "min_confidence", "words_changed_percent", "seconds_limit")
# What a file of a stranger may take in memory.
_MOST_BYTES = 4 * 2**30


def set_columns(with_texts: bool) -> list[str]:
    """The columns of a set's files, in order: those of a row, with hashes, and edits in place of withheld texts."""
    kept = [name for name in COLUMNS if with_texts or name not in TEXT_COLUMNS]
    return [*kept, *HASH_COLUMNS, *([] if with_texts else [EDITS_COLUMN])]


def set_features(with_texts: bool, label_names: Sequence[str] | None) -> Any:
    """The `datasets.Features` of a set's files.

    Args:
        with_texts: Whether the texts are in it.
        label_names: The class names; None where they are not known, and classes are plain numbers.
    """
    import datasets

    label = datasets.Value("int64") if label_names is None else datasets.ClassLabel(names=list(label_names))
    probabilities = datasets.List(datasets.Value("float64"))
    edit = {"start": datasets.Value("int32"), "end": datasets.Value("int32"), "text": datasets.Value("string")}
    types: dict[str, Any] = {
        **dict.fromkeys(_CLASSES, label),
        **dict.fromkeys(_INTEGERS, datasets.Value("int64")),
        **dict.fromkeys(_FLOATS, datasets.Value("float64")),
        "changed_positions": datasets.List(datasets.Value("int32")),
        "original_probabilities": probabilities,
        "perturbed_probabilities": probabilities,
        EDITS_COLUMN: datasets.List(edit),
    }
    return datasets.Features({name: types.get(name, datasets.Value("string")) for name in set_columns(with_texts)})


def fitting_names(label_names: Sequence[str] | None, rows: Sequence[AdversarialRow]) -> list[str] | None:
    """The class names where they cover every label and output of the rows, and none is there twice."""
    if label_names is None or len(set(label_names)) < len(label_names):
        return None
    numbers = {getattr(row, name) for row in rows for name in _CLASSES}
    return list(label_names) if all(0 <= number < len(label_names) for number in numbers) else None


def set_values(row: AdversarialRow, with_texts: bool) -> dict[str, Any]:
    """A row as a set holds it; `edits` is None where they would tell too much of the original (see `reveals`)."""
    values = asdict(row)
    for text, hashed in zip(TEXT_COLUMNS, HASH_COLUMNS, strict=True):
        values[hashed] = text_hash(values[text])
    if not with_texts:
        original, perturbed = (values.pop(name) for name in TEXT_COLUMNS)
        edits = find_edits(original, perturbed)
        values[EDITS_COLUMN] = None if reveals(original, edits) else [edit._asdict() for edit in edits]
    return values


def write_table(path: Path, values: Sequence[dict[str, Any]], features: Any) -> None:
    """Write rows as `set_values` makes them, atomically; `datasets` finds its features in the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist(list(values), schema=features.arrow_schema)
    with atomic_writer(path) as handle:
        pq.write_table(table, handle, compression="zstd")


def read_table(path: Path, with_texts: bool, rows: int) -> list[dict[str, Any]]:
    """Read what `write_table` wrote, of whoever wrote it.

    Args:
        path: The file.
        with_texts: Whether it has to hold texts.
        rows: How many rows it has to hold.

    Raises:
        DataError: It is no Parquet file, too large, or has other columns, types or rows than it should.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    features = set_features(with_texts, None)
    try:
        with pq.ParquetFile(path) as file:
            facts = file.metadata
            size = sum(facts.row_group(number).total_byte_size for number in range(facts.num_row_groups))
            names = list(file.schema_arrow.names)
            _check_shape(path, names, list(features), facts.num_rows, rows, size)
            table = file.read().select(list(features)).cast(features.arrow_schema)
            values: list[dict[str, Any]] = table.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")[:200]
        raise DataError(f"{path} is not a Parquet file of this set: {reason}.") from error
    return values


def _check_shape(path: Path, names: list[str], wanted: list[str], rows: int, promised: int, size: int) -> None:
    if size > _MOST_BYTES:
        raise DataError(f"{path} would take {size / 2**30:.1f} GiB in memory; no set's file may take more than 4.")
    unknown = [name for name in names if name not in wanted]
    if unknown:
        raise DataError(f"{path} has a column {unknown[0][:40]!r} that no set has.")
    missing = [name for name in wanted if name not in names]
    if missing:
        raise DataError(f"{path} has no column {missing[0]!r}.")
    if len(names) > len(wanted):
        raise DataError(f"{path} has a column twice.")
    if rows != promised:
        raise DataError(f"{path} holds {rows} rows; the set says {promised}.")
