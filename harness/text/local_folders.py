"""Find the splits of a local path: one file, a folder of files, or what `datasets` saved to disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import DataError
from harness.core.splits import saved_splits, split_files
from harness.text.local_files import READERS, Choose, Table, read_file, table_of


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
    if (saved := saved_splits(path)) is not None:
        return {split: SplitSource((folder,), saved=True) for split, folder in saved.items()}
    for folder in (path, path / "data"):
        if found := split_files(folder, READERS):
            return {split: SplitSource(files) for split, files in found.items()}
    raise DataError(
        f"{path} holds no split that can be read.",
        f"Expected files such as train.csv and test.csv ({', '.join(READERS)}), a data folder with such "
        "files, or a folder saved by datasets' save_to_disk.",
    )


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
