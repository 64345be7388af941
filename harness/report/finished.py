"""A finished run as the rooms of the report read it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import ConfigurationError, DataError, MissingFileError
from harness.core.files import hash_file
from harness.core.runs import CONFIG, MANIFEST, read_run


@dataclass(frozen=True)
class FinishedRun:
    """A run to report on.

    Attributes:
        folder: Its folder.
        config: Its configuration.
        manifest: Its manifest.
    """

    folder: Path
    config: dict[str, Any]
    manifest: dict[str, Any]

    @property
    def command(self) -> str:
        """The command that made it."""
        return str(self.config["command"])

    @property
    def name(self) -> str:
        """What the run is called: its folder's name."""
        return self.folder.resolve().name

    def output(self, name: str) -> Path:
        """A file that the run made and that is still as it left it.

        Raises:
            DataError: It is gone or was changed.
        """
        path = self.folder / name
        if not path.is_file():
            raise DataError(
                f"{path} is not there, though the run is finished.", "Run the command again in a new folder."
            )
        if hash_file(path) != self.manifest.get("outputs", {}).get(name):
            raise DataError(
                f"{path} is not as the run left it.", "Restore it, or run the command again in a new folder."
            )
        return path


def open_run(folder: Path) -> FinishedRun:
    """Open a finished run, whatever made it.

    Raises:
        MissingFileError: There is no such folder.
        ConfigurationError: It is no run, or not finished.
        DataError: Its manifest is damaged.
    """
    folder = Path(folder)
    if not folder.exists():
        raise MissingFileError(f"there is no folder {folder}.", "Give the folder of a run.")
    if not (folder / CONFIG).is_file():
        raise ConfigurationError(
            f"{folder} is not a run folder: it has no {CONFIG}.",
            "Give a folder that a command such as `harness eval detect` made; of a suite, that of one cell.",
        )
    config, manifest = read_run(folder, "")
    if not isinstance(manifest.get("outputs"), dict) or not isinstance(manifest.get("versions"), dict):
        raise DataError(
            f"{folder / MANIFEST} is not a manifest of this program.", "Restore it, or run the command again."
        )
    return FinishedRun(folder, config, manifest)
