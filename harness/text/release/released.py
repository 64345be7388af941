"""A set that `harness attack release` made, perhaps with a card that was worked on since, to be published as it is."""

from __future__ import annotations

import shutil
from pathlib import Path

from harness.core.errors import DataError, MissingFileError
from harness.core.files import hash_file
from harness.text.release.card import CARD_FILE, DATASHEET_FILE
from harness.text.release.description import DESCRIPTION_FILE, read_description


def is_released(folder: Path) -> bool:
    """Whether a folder is a set and no run."""
    return (Path(folder) / DESCRIPTION_FILE).is_file()


def stage_released(folder: Path, staging: Path) -> list[str]:
    """Copy the files of a set, and nothing else that lies beside them.

    Args:
        folder: The set.
        staging: An empty folder, or one to be made.

    Returns:
        The files, relative to `staging`, sorted.

    Raises:
        MissingFileError: A file is not there.
        DataError: The description is none, or a data file is not the one that it describes.
    """
    described = read_description(folder)["configurations"].values()
    hashes = {part["file"]: part["sha256"] for facts in described for part in facts["splits"].values()}
    names = sorted([*hashes, CARD_FILE, DATASHEET_FILE, DESCRIPTION_FILE])
    for name in names:
        source, target = Path(folder) / name, Path(staging) / name
        if not source.is_file():
            raise MissingFileError(f"the set {folder} has no file {name}.", "Make the set again.")
        if name in hashes and hash_file(source) != hashes[name]:
            raise DataError(f"{source} is not the file that {DESCRIPTION_FILE} describes.", "Make the set again.")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return names
