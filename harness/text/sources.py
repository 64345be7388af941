"""Where a run's data and model came from, so that a later command can find them again.

Rows and configurations name data and models by name and hash, never by path; a run's manifest keeps these
pointers beside them, and the hash decides whether what is found there is still the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.text.datasets import DATASETS, TextDataset, load_dataset


def dataset_pointer(spec: str, text_column: str | None, label_column: str | None) -> dict[str, Any]:
    """What `load_from_pointer` needs to load another split of a dataset."""
    absolute = spec if spec in DATASETS else str(Path(spec).expanduser().resolve())
    return {"spec": absolute, "text_column": text_column, "label_column": label_column}


def load_from_pointer(pointer: dict[str, Any], split: str) -> TextDataset:
    """Load a split of the dataset that a pointer names."""
    return load_dataset(
        pointer["spec"],
        split,
        text_column=pointer.get("text_column"),
        label_column=pointer.get("label_column"),
    )


def dataset_id(dataset: TextDataset) -> dict[str, str]:
    """The id of a dataset of the Hub as `dataset_id`; nothing for other data."""
    return {"dataset_id": str(dataset.source["id"])} if dataset.source.get("kind") == "hub" else {}


def victim_pointer(spec: str) -> str:
    """A victim's hub id, or its folder as an absolute path."""
    folder = Path(spec).expanduser()
    return str(folder.resolve()) if folder.is_dir() else spec
