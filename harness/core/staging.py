"""The folder that a push sends: empty before, whole or empty again after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.core.errors import ConfigurationError


@contextmanager
def empty_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to write into; what was written is removed again when the block fails.

    Args:
        folder: An empty folder, or one to be made.

    Raises:
        ConfigurationError: It holds something, or is a file.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ConfigurationError(f"{folder} is not an empty folder.", "Stage into an empty or a new one.")
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    except BaseException:
        for path in folder.iterdir():
            path.unlink()
        if made:
            folder.rmdir()
        raise
