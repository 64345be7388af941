"""Text classification datasets: pinned ones by name, local files and folders by path, all in one form.

A package of a third party adds a dataset by an entry point in the group `palimpsest.datasets`, which names a
function `(split) -> TextDataset`; an attribute `splits` of that function, a tuple of names, is optional:

    [project.entry-points."palimpsest.datasets"]
    my_reviews = "my_package.data:my_reviews"
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.core.errors import ConfigurationError, DataError, MissingFileError, UnknownNameError
from harness.core.registry import Registry, check_loaded, no_loader
from harness.core.splits import canonical_split
from harness.text.columns import choose_columns
from harness.text.hub_datasets import HubDataset
from harness.text.local_files import READERS
from harness.text.local_folders import find_splits
from harness.text.text_dataset import TextDataset, build_dataset, row_id, source_key

__all__ = [
    "DATASETS",
    "DatasetLoader",
    "TextDataset",
    "available_splits",
    "load_dataset",
    "row_id",
    "source_key",
]

DatasetLoader = Callable[[str], TextDataset]


DATASETS: Registry[DatasetLoader] = Registry("dataset", no_loader)
DATASETS.add("imdb", "harness.text.hub_datasets:IMDB", "film reviews, long; 2 classes")
DATASETS.add("ag_news", "harness.text.hub_datasets:AG_NEWS", "news items by topic; 4 classes")
DATASETS.add("sst2", "harness.text.hub_datasets:SST2", "sentences of film reviews; 2 classes")
DATASETS.add("yelp_polarity", "harness.text.hub_datasets:YELP_POLARITY", "reviews of businesses; 2 classes")
DATASETS.add("embedded", "harness.text.embedded:embedded_texts", "Rotten Tomatoes, offline; 2 classes")


def load_dataset(
    spec: str, split: str, *, text_column: str | None = None, label_column: str | None = None
) -> TextDataset:
    """Load one split of a dataset.

    Args:
        spec: A name in `DATASETS`, or a path to a file or folder. A name wins over a path of the same name,
            unless it is written with a separator or a dot in front (`./imdb`).
        split: "train", "validation" (also "dev", "val", "valid") or "test". A single file has no splits: it
            is taken for whatever split is asked for, so see that train and test are not the same file. Give
            files with class names as labels in one folder, for only there all splits share the numbering.
        text_column: The column of the texts; by default "text", else "sentence".
        label_column: The column of the labels; by default "label", else "labels".

    Raises:
        UnknownNameError: No dataset has this name.
        MissingFileError: The path does not exist.
        DataError: The split or a column is not there, or a row cannot be used.
        ConfigurationError: Columns are named for a registered dataset that brings its own.
        HarnessError: The Hub cannot be reached, or the package of an embedded dataset is not installed.
    """
    split = canonical_split(split)
    loader = _registered(spec)
    if loader is None:
        return _load_path(_existing_path(spec), split, text_column, label_column)
    if text_column is not None or label_column is not None:
        if not isinstance(loader, HubDataset):
            raise ConfigurationError(
                f"the dataset {spec!r} brings its own columns.", "Leave out --text-column and --label-column."
            )
        columns = (text_column or loader.text_column, label_column or loader.label_column)
        loader = replace(loader, text_column=columns[0], label_column=columns[1])
    return check_loaded(DATASETS, spec, loader(split), TextDataset, split)


def available_splits(spec: str) -> list[str]:
    """The splits that `spec` has, sorted; empty where it does not say (a single file takes any name)."""
    loader = _registered(spec)
    splits = getattr(loader, "splits", ()) if loader else find_splits(_existing_path(spec))
    return sorted(split for split in splits if split)


def _registered(spec: str) -> DatasetLoader | None:
    is_path = spec.startswith(".") or "/" in spec or os.sep in spec
    return DATASETS.get(spec) if not is_path and spec in DATASETS else None


def _existing_path(spec: str) -> Path:
    path = Path(spec).expanduser()
    if spec and path.exists():
        return path
    if spec.startswith((".", "~")) or "/" in spec or os.sep in spec or path.suffix.lower() in READERS:
        raise MissingFileError(
            f"there is no file or folder {spec}.",
            f"Give an existing path or one of these names: {', '.join(DATASETS.names())}.",
        )
    raise UnknownNameError("dataset", spec, DATASETS.names(), "A path to a file or folder works too.")


def _load_path(path: Path, split: str, text_column: str | None, label_column: str | None) -> TextDataset:
    splits = find_splits(path)
    found = splits.get(split) or splits.get("")
    if found is None:
        raise DataError(f"{path} has no split {split!r}.", f"It has: {', '.join(sorted(splits))}.")
    where = f"split {split!r} of {path}" if path.is_dir() else str(path)
    chosen: list[tuple[str, str]] = []

    def choose(names: Sequence[str]) -> tuple[str, str]:
        # The first shard decides; another one without these columns is an error that names them.
        chosen.append(choose_columns(names, where, *(chosen[0] if chosen else (text_column, label_column))))
        return chosen[0]

    def other_labels() -> list[Any]:
        label = chosen[0][1]
        tables = [
            source.read(lambda names: [label] if label in names else [])
            for name, source in splits.items()
            if name not in ("", split)
        ]
        return [value for table in tables for value in table.columns.get(label, ())]

    table = found.read(choose)
    # The name only, never where it lies: the rows must be the same bytes on every machine. Links are not
    # followed, for in the Hub's cache they lead to files that are named by their hash.
    named = Path(os.path.abspath(path))
    source: dict[str, Any] = {"kind": "folder" if path.is_dir() else "file", "name": named.name}
    if path.is_dir() and not found.saved:
        source["files"] = [file.name for file in found.paths]
    return build_dataset(
        name=named.name if path.is_dir() else named.stem,
        split=split,
        where=where,
        table=table,
        columns=chosen[0],
        source=source,
        other_labels=other_labels,
    )
