"""Images in tables: Parquet files, and folders that `datasets` saved with `save_to_disk`.

    root/train.parquet, root/test-00000-of-00002.parquet, ...    also in root/data
    train.parquet                                                one file: the split in its name, or else "train"
    root/dataset_dict.json, root/train/state.json, ...           a saved DatasetDict; a saved Dataset likewise

The image column holds bytes or structs {bytes, path}; class names come from the note that `datasets` leaves in the
schema.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from harness.core.errors import DataError
from harness.core.files import atomic_writer, cache_folder, disk_errors, hash_json
from harness.core.splits import json_object, saved_splits, split_files, split_of_file
from sdssl.image_columns import choose_columns, class_names, read_labels
from sdssl.image_dataset import ImageDataset, make_dataset
from sdssl.image_stores import ArrowImages, join_chunks, open_arrow

# Above this many bytes of Parquet, images are memory-mapped from an Arrow file in the cache instead of held in memory.
IN_MEMORY = 1024**3

_BATCH_ROWS = 1024


@dataclass(frozen=True)
class TableSplit:
    """The files of one split, in order: Parquet, or (`saved`) the Arrow files of one folder that `datasets` saved."""

    files: tuple[Path, ...]
    saved: bool = False

    def schema(self) -> pa.Schema:
        """The first file's schema.

        Raises:
            DataError: The file is damaged.
        """
        if self.saved:
            return open_arrow(str(self.files[0])).schema
        with _parquet_file(self.files[0]) as file:
            return file.schema_arrow

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of all files.

        Raises:
            DataError: A file is damaged or lacks the column.
        """
        return join_chunks([self._part(file, name) for file in self.files], name)

    def _part(self, path: Path, name: str) -> pa.ChunkedArray:
        if self.saved:
            table = open_arrow(str(path))
            _check_column(path, table.schema, name)
            return table.column(name)
        schema, batches = _read_parquet(path, name)
        return pa.chunked_array(list(batches), type=schema.field(name).type)

    def store(self, column: str) -> ArrowImages:
        """The images of all files, memory-mapped where they are many.

        Raises:
            DataError: A file is damaged or lacks the column.
        """
        folder = str(self.files[0].parent.absolute())
        if self.saved:
            parts = [(path.name, open_arrow(str(path)).num_rows) for path in self.files]
            files = [str(path.absolute()) for path in self.files]
            return ArrowImages(None, parts, files=files, column_name=column, folder=folder)
        parts = []
        for path in self.files:
            with _parquet_file(path) as file:
                parts.append((path.name, file.metadata.num_rows))
        if sum(path.stat().st_size for path in self.files) <= IN_MEMORY:
            return ArrowImages(self.column(column), parts, folder=folder)
        return ArrowImages(None, parts, files=[str(_mapped(self.files, column))], column_name=column, folder=folder)


def table_splits(path: Path) -> dict[str, TableSplit] | None:
    """The splits of a Parquet file or a folder of tables by name; "" stands for one that names no split.

    Returns:
        None where the folder holds nothing of the kind.

    Raises:
        DataError: Two candidates for one split, or not all shards of one.
    """
    if path.is_file():
        return {split_of_file(path): TableSplit((path,))}
    if (saved := saved_splits(path)) is not None:
        return {split: _saved_split(folder) for split, folder in saved.items()}
    for folder in (path, path / "data"):
        if found := split_files(folder, (".parquet",)):
            return {split: TableSplit(files) for split, files in found.items()}
    return None


def load_table(
    path: Path, splits: dict[str, TableSplit], split: str, image_column: str | None, label_column: str | None
) -> ImageDataset:
    """Load one split of what `table_splits` found at `path`.

    Raises:
        DataError: The split or a column is not there, or a label cannot be used.
    """
    found = splits.get(split) or (splits.get("") if split == "train" else None)
    if found is None:
        without = splits.keys() == {""}
        raise DataError(
            f"{path} has no splits, and its images would be both the train and the {split} split."
            if without
            else f"{path} has no split {split!r}.",
            "Give a folder with one Parquet file a split, e.g. train.parquet and test.parquet."
            if without
            else f"It has: {', '.join(sorted(splits))}.",
        )
    where = f"split {split!r} of {path}" if path.is_dir() else str(path)
    named = Path(os.path.abspath(path))
    train = splits.get("train")
    return build_table_dataset(
        name=named.name if path.is_dir() else named.stem,
        split=split,
        where=where,
        schema=found.schema(),
        columns=(image_column, label_column),
        store=found.store,
        labels=found.column,
        train_labels=None if train is None or train == found else train.column,
        source={
            "kind": "datasets folder" if found.saved else "parquet",
            "name": named.name,
            "files": [file.name for file in found.files],
        },
    )


def build_table_dataset(
    *,
    name: str,
    split: str,
    where: str,
    schema: pa.Schema,
    columns: tuple[str | None, str | None],
    store: Any,
    labels: Any,
    train_labels: Any,
    source: dict[str, Any],
) -> ImageDataset:
    """Choose and check a table's columns and make a dataset of them.

    Args:
        name: The dataset's name.
        split: The split's name.
        where: What is read, for messages.
        schema: The table's Arrow schema, with the note of `datasets` where there is one.
        columns: The image and the label column that the user asked for.
        store: Column name -> `ImageStore`.
        labels: Column name -> the split's label cells.
        train_labels: Column name -> the train split's label cells; None where this is the train split or there is none.
        source: As in `ImageDataset`, without the columns.

    Raises:
        DataError: A column is not there or cannot be used.
    """
    image, label = choose_columns(schema, where, *columns)
    images = store(image)
    if not len(images):
        raise DataError(f"{where} is empty.", "Give a dataset with at least one image.")
    numbers, names = None, None
    if label is not None:
        elsewhere = (lambda: train_labels(label)) if train_labels else None
        numbers, names = read_labels(labels(label), class_names(schema, label), where, label, elsewhere)
    source = {**source, "image_column": image, "label_column": label}
    return make_dataset(name=name, split=split, store=images, labels=numbers, label_names=names, source=source)


def _saved_split(folder: Path) -> TableSplit:
    entries = json_object(folder / "state.json").get("_data_files")
    names = [str(entry.get("filename", "")) for entry in entries or () if isinstance(entry, dict)]
    if not names:
        raise DataError(f"{folder} is a saved dataset without data files.", "Save it again with save_to_disk.")
    return TableSplit(tuple(folder / Path(name).name for name in names), saved=True)


def _parquet_file(path: Path) -> Any:
    import pyarrow.parquet as pq

    try:
        # Not `read_table`: that one would add columns for parts of the path such as "label=1".
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split())[:200].rstrip(".")
    return DataError(f"{path} is not a readable Parquet file: {reason}.", "Write it again.")


def _check_column(path: Path, schema: pa.Schema, name: str) -> None:
    if name not in schema.names:
        raise DataError(f"{path} has no column {name!r}, which another file has.", "Write all files alike.")


def _read_parquet(path: Path, name: str) -> tuple[pa.Schema, Iterator[pa.Array]]:
    with _parquet_file(path) as file:
        schema = file.schema_arrow
    _check_column(path, schema, name)

    def batches() -> Iterator[pa.Array]:
        # In batches, for nested columns of more than 2 GB cannot be read in one piece.
        with _parquet_file(path) as file:
            try:
                for batch in file.iter_batches(_BATCH_ROWS, columns=[name]):
                    yield batch.column(0)
            except (pa.ArrowException, OSError) as error:
                raise _unreadable(path, error) from error

    return schema, batches()


def _mapped(files: tuple[Path, ...], column: str) -> Path:
    """The image column of Parquet files as one file in Arrow's stream format, made once and kept in the cache."""
    import filelock

    facts = [[str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    target = cache_folder("images", f"{hash_json([facts, column])[:24]}.arrow")
    target.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(target.with_suffix(".lock")), disk_errors(target):
        if not target.exists():
            kind = _read_parquet(files[0], column)[0].field(column).type
            schema = pa.schema([pa.field(column, kind)])
            with atomic_writer(target) as handle, pa.ipc.new_stream(handle, schema) as writer:
                for file in files:
                    for batch in _read_parquet(file, column)[1]:
                        writer.write_batch(pa.record_batch([batch], schema=schema))
    return target
