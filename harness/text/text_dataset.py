"""`TextDataset`, the one form that every text dataset takes, and the ids of its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import ConfigurationError
from harness.core.files import hash_strings
from harness.text.columns import check_texts, read_labels
from harness.text.local_files import Table


@dataclass(frozen=True, eq=False)
class TextDataset:
    """Texts with class labels from one split of one dataset. Two are the same data where `hash` is equal.

    Attributes:
        name: The registry name, or the folder's name or file's stem.
        split: "train", "validation" or "test"; of a single file, the split that was asked for.
        texts: n texts, none of them blank.
        labels: (n,) int64, class numbers from 0.
        indices: (n,) int64, row numbers in the source split, counted from 0, before any sampling.
        label_names: The class names where the source knows them.
        source: Where the rows come from, JSON-able and without absolute paths.
    """

    name: str
    split: str
    texts: list[str]
    labels: NDArray[np.int64]
    indices: NDArray[np.int64]
    label_names: list[str] | None
    source: dict[str, Any]

    def __post_init__(self) -> None:
        if not len(self.texts) == len(self.labels) == len(self.indices):
            raise ValueError("texts, labels and indices differ in length")

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of texts and labels, in order; names and row numbers do not count."""
        return hash_strings([*self.texts, *map(str, self.labels.tolist())])

    @property
    def num_classes(self) -> int:
        """The number of class names, or the highest label + 1 where there are none."""
        if self.label_names is not None:
            return len(self.label_names)
        return int(self.labels.max(initial=-1)) + 1

    def take(self, positions: Sequence[int] | NDArray[Any]) -> TextDataset:
        """The rows at `positions` (integers, or a mask of n booleans), in that order."""
        chosen = np.asarray(positions)
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)
        return replace(
            self,
            texts=[self.texts[position] for position in chosen],
            labels=self.labels[chosen],
            indices=self.indices[chosen],
        )

    def sample(self, limit: int | None, seed: int) -> TextDataset:
        """At most `limit` rows, drawn without replacement by `seed`, in their original order.

        Raises:
            ConfigurationError: The limit is below 1.
        """
        if limit is not None and limit < 1:
            raise ConfigurationError(f"a sample of {limit} texts is not possible.", "Give a limit of 1 or more.")
        if limit is None or limit >= len(self):
            return self
        drawn = np.random.default_rng(seed).choice(len(self), size=limit, replace=False)
        return self.take(np.sort(drawn))


def source_key(text: str) -> str:
    """What "grouped by source text" groups by: SHA-256 (hex) of the exact text and nothing else."""
    return hash_strings([text])


def row_id(text: str, dataset: str, index: int) -> str:
    """A stable id of 16 hexadecimal digits for the source text at row `index` of `dataset`."""
    return hash_strings([text, dataset, str(int(index))])[:16]


def build_dataset(
    *,
    name: str,
    split: str,
    where: str,
    table: Table,
    columns: tuple[str, str],
    source: dict[str, Any],
    other_labels: Callable[[], Sequence[Any]] = tuple,
) -> TextDataset:
    """Check a table's two columns and make a dataset of them.

    Args:
        name: The dataset's name.
        split: The split's name.
        where: What is read, for messages.
        table: Holds at least the two columns.
        columns: The text and the label column.
        source: As in `TextDataset`, without the columns.
        other_labels: As `elsewhere` in `read_labels`.

    Raises:
        DataError: A row cannot be used.
    """
    text, label = columns
    texts = check_texts(table.columns[text], where, text)
    labels, label_names = read_labels(table.columns[label], where, label, table.class_names.get(label), other_labels)
    source = {**source, "text_column": text, "label_column": label}
    return TextDataset(name, split, texts, labels, np.arange(len(texts), dtype=np.int64), label_names, source)
