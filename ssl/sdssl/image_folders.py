"""A folder of image files as a dataset.

Three layouts, with any depth of folders below a class:

    root/{train,validation,test}/CLASS/*.png    "val", "valid" and "dev" are "validation"
    root/CLASS/*.png                            no splits: serves "train" only
    root/*.jpg                                  no classes either (also root/train/*.jpg)

Classes are numbered by their sorted names in the train split. Hidden files and folders and files without the suffix
of an image are passed over; a file that has the suffix and is no image counts, and is corrupt when it is decoded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from harness.core.errors import DataError, MissingFileError
from harness.core.splits import SPLIT_NAMES
from sdssl.image_dataset import ImageDataset, make_dataset
from sdssl.image_stores import FileImages

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".avif"),
)


def folder_splits(root: Path) -> dict[str, Path]:
    """The splits of an image folder by name, with their folders; one entry under "" where it has no splits.

    A class may be called "train" as well, so folders with such names are splits only where one of them holds folders of
    images, or where there are no other folders of images.

    Raises:
        DataError: There is no image, or two folders for one split.
        MissingFileError: A folder cannot be read.
    """
    folders = [entry for entry in _visible(root) if entry.is_dir()]
    named = [entry for entry in folders if entry.name.lower() in SPLIT_NAMES]
    named = [entry for entry in named if _holds_image(Path(entry.path))]
    others = [entry for entry in folders if entry.name.lower() not in SPLIT_NAMES]
    if any(_class_folders(Path(entry.path)) for entry in named) or (
        named and not any(_holds_image(Path(entry.path)) for entry in others)
    ):
        splits: dict[str, Path] = {}
        for entry in named:
            split = SPLIT_NAMES[entry.name.lower()]
            if split in splits:
                raise DataError(
                    f"{root} has two folders for split {split!r}: {splits[split].name} and {entry.name}.",
                    "Rename or remove one of them.",
                )
            splits[split] = Path(entry.path)
        return splits
    if not _holds_image(root):
        raise DataError(
            f"{root} holds no images.",
            f"Expected image files ({' '.join(SUFFIXES)}) in folders named by class, or in a train and a test folder "
            "of those, Parquet files such as train.parquet, or a folder saved by datasets' save_to_disk.",
        )
    return {"": root}


def load_folder(root: Path, split: str) -> ImageDataset:
    """Load one split of an image folder.

    Raises:
        DataError: The split is not there, a class is none of the train split's, or images lie both beside and in class
            folders.
        MissingFileError: A folder cannot be read.
    """
    splits = folder_splits(root)
    folder = splits.get(split) or (splits.get("") if split == "train" else None)
    if folder is None and "" in splits:
        raise DataError(
            f"{root} has no splits, and its images would be both the train and the {split} split.",
            "Put the class folders into a train and a test folder.",
        )
    if folder is None:
        raise DataError(f"{root} has no split {split!r}.", f"It has: {', '.join(sorted(splits))}.")
    paths, sizes = _scan(folder)
    classes = [path.partition(b"/")[0] if b"/" in path else None for path in paths]
    train = splits.get("train", folder)
    if train != folder and any(classes):
        known: set[bytes] = {os.fsencode(name) for name in _class_folders(train)}
        reference = f"the train split of {root.name}"
    else:
        known, reference = {name for name in classes if name is not None}, ""
    labels, names = _number(classes, known, f"{folder}", reference)
    # The name only, never where it lies: rows must be the same bytes on every machine.
    name = Path(os.path.abspath(root)).name
    return make_dataset(
        name=name,
        split=split,
        store=FileImages(root, [_below(root, folder) + path for path in paths], sizes),
        labels=labels,
        label_names=names,
        source={"kind": "image folder", "name": name, "folder": "" if folder == root else folder.name},
    )


def _number(
    classes: list[bytes | None], known: set[bytes], where: str, reference: str
) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]] | None, list[str] | None]:
    if not any(classes):
        return None, None
    beside = classes.count(None)
    if beside:
        raise DataError(
            f"{where} holds {beside} images beside its class folders, which have no class.",
            "Move them into a class folder or out of the way.",
        )
    order = sorted(known)
    numbers = {name: number for number, name in enumerate(order)}
    unknown = sorted({name for name in classes if name is not None and name not in numbers})
    if unknown:
        shown = ", ".join(_text(name) for name in unknown[:5])
        raise DataError(
            f"{where} holds {len(unknown)} classes that {reference} lacks: {shown}.",
            "Use the same class folders in all splits.",
        )
    labels = np.array([numbers[name] for name in classes if name is not None], dtype=np.int64)
    return labels, [_text(name) for name in order]


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _below(root: Path, folder: Path) -> bytes:
    return b"" if folder == root else os.fsencode(folder.name) + b"/"


def _visible(folder: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".") and entry.name != "__MACOSX"]
    except OSError as error:
        raise MissingFileError(f"the folder {folder} cannot be read: {error.strerror}.") from error


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Whether an entry has the suffix of an image and may be opened: a pipe would wait for ever."""
    if os.path.splitext(entry.name)[1].lower() not in SUFFIXES:
        return False
    # A dangling link is an image that cannot be read, and is to be named as such.
    return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))


def _walk(folder: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """All images below a folder, in no order, each with its path below it; links are followed, but not in circles."""
    stack = [(str(folder), "", frozenset({os.path.realpath(folder)}))]
    while stack:
        path, below, above = stack.pop()
        for entry in _visible(path):
            name = f"{below}{entry.name}"
            if entry.is_dir():
                real = os.path.realpath(entry.path)
                if real not in above:
                    stack.append((entry.path, name + "/", above | {real}))
            elif _is_image(entry):
                yield name, entry


def _scan(folder: Path) -> tuple[list[bytes], list[int]]:
    """The paths of all images below a folder, sorted, and their sizes."""
    found = sorted((os.fsencode(name), _size(entry)) for name, entry in _walk(folder))
    return [path for path, _ in found], [size for _, size in found]


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:
        return 0


def _holds_image(folder: Path) -> bool:
    return next(_walk(folder), None) is not None


def _class_folders(folder: Path) -> list[str]:
    """The names of the folders directly in `folder` that hold an image."""
    return sorted(entry.name for entry in _visible(folder) if entry.is_dir() and _holds_image(Path(entry.path)))
