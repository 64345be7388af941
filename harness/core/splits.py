"""The splits of a dataset: their names, and where they lie in a folder."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import Any

from harness.core.errors import DataError
from harness.core.files import read_json

SPLIT_NAMES = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
# "train.csv", or shards as on the Hub: "train-00000-of-00002.parquet", in older sets with a hash behind.
_STEM = re.compile(rf"({'|'.join(SPLIT_NAMES)})(?:-(\d+)-of-(\d+)(?:-[0-9a-f]+)?)?", re.IGNORECASE)


def canonical_split(split: str) -> str:
    """One name a split: "dev", "val" and "valid" are "validation"; any other name stays as it is."""
    return SPLIT_NAMES.get(split.lower(), split)


def split_of_file(path: Path) -> str:
    """The split that a file's name says; empty where it says none."""
    match = _STEM.fullmatch(path.stem)
    return canonical_split(match[1]) if match else ""


def split_files(folder: Path, suffixes: Collection[str]) -> dict[str, tuple[Path, ...]]:
    """The files of a folder by the split that their names say, shards in order.

    Args:
        folder: Where to look; it need not exist.
        suffixes: In lower case, with the dot; other files are passed over.

    Raises:
        DataError: Two candidates for one split, or not all shards of one.
    """
    found: dict[str, list[tuple[tuple[str, ...], int, Path]]] = defaultdict(list)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _STEM.fullmatch(path.stem)
        if match and path.suffix.lower() in suffixes and path.is_file():
            name, shard, of = match.groups(default="")
            found[canonical_split(name)].append(((name, of, path.suffix), int(shard or 0), path))
    return {split: _join_shards(folder, split, candidates) for split, candidates in found.items()}


def saved_splits(folder: Path) -> dict[str, Path] | None:
    """The splits of what `datasets` saved to disk, with their folders; "" for a Dataset that names no split.

    Returns:
        None where the folder holds nothing of the kind.

    Raises:
        DataError: It is a DatasetDict without splits, or its description is damaged.
    """
    if (folder / "dataset_dict.json").is_file():
        names = json_object(folder / "dataset_dict.json").get("splits")
        if not isinstance(names, list) or not names:
            raise DataError(f"{folder} is a saved DatasetDict without splits.", "Save it again.")
        return {canonical_split(str(name)): folder / str(name) for name in names}
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        split = json_object(folder / "state.json").get("_split")
        # A set put together by hand has no split, and one such as "train[:10%]+test" is no split any more.
        return {canonical_split(split) if isinstance(split, str) and split.isidentifier() else "": folder}
    return None


def json_object(path: Path) -> dict[str, Any]:
    """A JSON file of a saved dataset.

    Raises:
        DataError: It is not JSON, or no object.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError(f"{path} is not a JSON object.", "Save the dataset again.")
    return value


def _join_shards(folder: Path, split: str, candidates: list[tuple[tuple[str, ...], int, Path]]) -> tuple[Path, ...]:
    """One split from its files: those that differ in more than the shard's number are rivals."""
    form, _, first = candidates[0]
    shards: dict[int, Path] = {}
    for other, number, path in candidates:
        if other != form or number in shards:
            raise DataError(
                f"{folder} has more than one candidate for split {split!r}: {first.name} and {path.name}.",
                "Remove one or give the file itself.",
            )
        shards[number] = path
    count = int(form[1] or 1)
    missing = sorted(set(range(count)) - set(shards))
    if missing:
        raise DataError(
            f"{folder} lacks {len(missing)} of {count} shards of split {split!r} (number {missing[0]}).",
            "Download the missing shards.",
        )
    return tuple(shards[number] for number in sorted(shards))
