"""Find the splits of a local path: one file, a folder of files, or what `datasets` saved to disk."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import DataError
from harness.core.files import read_json
from harness.text.local_files import READERS, Choose, Table, read_file, table_of

_SPLITS = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
# "train.csv", or shards as on the Hub: "train-00000-of-00002.parquet", in older sets with a hash behind.
_STEM = re.compile(rf"({'|'.join(_SPLITS)})(?:-(\d+)-of-(\d+)(?:-[0-9a-f]+)?)?", re.IGNORECASE)


def canonical_split(split: str) -> str:
    """One name a split: "dev", "val" and "valid" are "validation"; any other name stays as it is."""
    return _SPLITS.get(split.lower(), split)


@dataclass(frozen=True)
class SplitSource:
    """Where the rows of one split lie: files in order, or one folder that `datasets` saved."""

    paths: tuple[Path, ...]
    saved: bool = False

    def read(self, choose: Choose) -> Table:
        """Read the columns that `choose` picks.

        Raises:
            DataError: A file is malformed, or the shards differ in their columns.
        """
        if self.saved:
            return _read_saved(self.paths[0], choose)
        table = read_file(self.paths[0], choose)
        for path in self.paths[1:]:
            part = read_file(path, choose)
            if part.columns.keys() != table.columns.keys():
                raise DataError(f"{path} has other columns than {self.paths[0].name}.", "Write all shards alike.")
            table.extend(part)
        return table


def find_splits(path: Path) -> dict[str, SplitSource]:
    """The splits of a folder by name; of a file or a saved set that names no split, one entry under "".

    Raises:
        DataError: The folder holds no split, two candidates for one, or not all shards of one.
    """
    if path.is_file():
        return {"": SplitSource((path,))}
    if (path / "dataset_dict.json").is_file():
        names = _saved_json(path / "dataset_dict.json").get("splits")
        if not isinstance(names, list) or not names:
            raise DataError(f"{path} is a saved DatasetDict without splits.", "Save it again.")
        return {canonical_split(str(n)): SplitSource((path / str(n),), saved=True) for n in names}
    if (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        split = _saved_json(path / "state.json").get("_split")
        # A set put together by hand has no split, and one such as "train[:10%]+test" is no split any more.
        known = canonical_split(split) if isinstance(split, str) and split.isidentifier() else ""
        return {known: SplitSource((path,), saved=True)}
    for folder in (path, path / "data"):
        if found := _files_by_split(folder):
            return found
    raise DataError(
        f"{path} holds no split that can be read.",
        f"Expected files such as train.csv and test.csv ({', '.join(READERS)}), a data folder with such "
        "files, or a folder saved by datasets' save_to_disk.",
    )


def _files_by_split(folder: Path) -> dict[str, SplitSource]:
    found: dict[str, list[tuple[tuple[str, ...], int, Path]]] = defaultdict(list)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _STEM.fullmatch(path.stem)
        if match and path.suffix.lower() in READERS and path.is_file():
            name, shard, of = match.groups(default="")
            found[_SPLITS[name.lower()]].append(((name, of, path.suffix), int(shard or 0), path))
    return {split: _join_shards(folder, split, candidates) for split, candidates in found.items()}


def _join_shards(folder: Path, split: str, candidates: list[tuple[tuple[str, ...], int, Path]]) -> SplitSource:
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
    return SplitSource(tuple(shards[number] for number in sorted(shards)))


def _saved_json(path: Path) -> dict[str, object]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError(f"{path} is not a JSON object.", "Save the dataset again.")
    return value


def _read_saved(folder: Path, choose: Choose) -> Table:
    import datasets
    import pyarrow as pa

    try:
        return table_of(datasets.load_from_disk(str(folder)), choose)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise DataError(
            f"{folder} cannot be read as a saved dataset: {reason}.", "Save it again with save_to_disk."
        ) from error
