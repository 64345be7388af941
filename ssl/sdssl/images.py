"""Image datasets: pinned ones by name, any of the Hub by id, local folders and files by path, all in one form.

A package of a third party adds a dataset by an entry point in the group of `IMAGE_DATASETS`, which names a function
`(split) -> ImageDataset`; an attribute `splits` of that function, a tuple of names, is optional.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from harness.core.errors import ConfigurationError, DataError, MissingFileError, UnknownNameError
from harness.core.registry import Registry, check_loaded, no_loader
from harness.core.splits import canonical_split
from sdssl.image_dataset import ImageDataset, usable
from sdssl.image_decoding import CorruptImageError
from sdssl.image_folders import folder_splits, load_folder
from sdssl.image_hub import PREFIX, HubImages, parse_hub_spec, with_columns
from sdssl.image_tables import load_table, table_splits

__all__ = [
    "IMAGE_DATASETS",
    "CorruptImageError",
    "ImageDataset",
    "ImageLoader",
    "available_splits",
    "load_images",
    "usable",
]

ImageLoader = Callable[[str], ImageDataset]

IMAGE_DATASETS: Registry[ImageLoader] = Registry("image dataset", no_loader)
IMAGE_DATASETS.add("digits", "sdssl.image_digits:digits", "handwritten digits, 8 px, offline; 10 classes")
IMAGE_DATASETS.add("cifar10", "sdssl.image_hub:CIFAR10", "photographs, 32 px; 10 classes")
IMAGE_DATASETS.add("cifar100", "sdssl.image_hub:CIFAR100", "photographs, 32 px; 100 classes")


def load_images(
    spec: str, split: str, *, image_column: str | None = None, label_column: str | None = None
) -> ImageDataset:
    """Load one split of an image dataset.

    Args:
        spec: A name in `IMAGE_DATASETS`; "hub:ORG/NAME", with "@REVISION" behind for a commit and ":CONFIG" before that
            for a configuration; or a path to an image folder, a Parquet file, a folder of Parquet files or a folder
            that `datasets` saved. A name wins over a path of the same name, unless it is written with a separator or a
            dot in front (`./digits`).
        split: "train", "validation" (also "dev", "val", "valid") or "test". What has no splits is a train split.
        image_column: The column of the images; by default "image", else "img", else the only one noted as such.
        label_column: The column of the classes; by default "label", else "labels", else "fine_label", else none.

    Raises:
        UnknownNameError: No dataset has this name.
        MissingFileError: The path does not exist or cannot be read.
        DataError: The split or a column is not there, there are no images, or a label cannot be used.
        ConfigurationError: Columns are named for what has none.
        HarnessError: The Hub cannot be reached.
    """
    split = canonical_split(split)
    columns = (image_column, label_column)
    loader = _loader(spec)
    if isinstance(loader, HubImages):
        return with_columns(loader, *columns)(split)
    tables = None if loader else table_splits(_existing_path(spec))
    if tables is None and columns != (None, None):
        raise ConfigurationError(f"{spec} has no columns to choose from.", "Leave the names of columns out.")
    if loader:
        return check_loaded(IMAGE_DATASETS, spec, loader(split), ImageDataset, split)
    return load_table(Path(spec).expanduser(), tables, split, *columns) if tables else _load_folder(spec, split)


def available_splits(spec: str) -> list[str]:
    """The splits that `spec` has, sorted; empty where a registered loader does not say.

    Raises:
        HarnessError: As `load_images`.
    """
    loader = _loader(spec)
    if isinstance(loader, HubImages):
        return loader.find_splits()
    if loader:
        return sorted(getattr(loader, "splits", ()))
    path = _existing_path(spec)
    return sorted(split or "train" for split in table_splits(path) or folder_splits(path))


def _load_folder(spec: str, split: str) -> ImageDataset:
    return load_folder(Path(spec).expanduser(), split)


def _loader(spec: str) -> ImageLoader | None:
    if spec.startswith(PREFIX):
        return parse_hub_spec(spec)
    is_path = spec.startswith(".") or "/" in spec or os.sep in spec
    return IMAGE_DATASETS.get(spec) if not is_path and spec in IMAGE_DATASETS else None


def _existing_path(spec: str) -> Path:
    path = Path(spec).expanduser()
    if spec and path.exists():
        if path.is_file() and path.suffix.lower() != ".parquet":
            raise DataError(f"{path} is a file that holds no image dataset.", "Give a folder or a Parquet file.")
        return path
    if spec.startswith((".", "~")) or "/" in spec or os.sep in spec or path.suffix.lower() == ".parquet":
        raise MissingFileError(
            f"there is no file or folder {spec}.",
            f"Give an existing path, hub:ORG/NAME or one of these names: {', '.join(IMAGE_DATASETS.names())}.",
        )
    hint = "A path to a folder or hub:ORG/NAME works too."
    raise UnknownNameError("image dataset", spec, IMAGE_DATASETS.names(), hint)
