"""The files of a staging folder that leave: an allow-list, checked; never a walk over a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import ConfigurationError, DataError, MissingFileError
from harness.hub.names import unsafe

CARD = "README.md"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class OutgoingFile:
    """A file that leaves.

    Attributes:
        name: Its name in the repository, with `/` between folders.
        path: Where it is now.
        size: In bytes.
    """

    name: str
    path: Path
    size: int


def outgoing_files(staging: Path, names: Sequence[str]) -> list[OutgoingFile]:
    """Check an allow-list against its staging folder.

    Args:
        staging: The folder.
        names: Names relative to it. What else is in the folder stays.

    Returns:
        The files, sorted by name.

    Raises:
        ConfigurationError: A name leads out of the folder, is hidden, is twice there, or there is no card.
        MissingFileError: A named file is not there.
    """
    root = Path(staging).resolve()
    found = []
    for name in sorted(names):
        if wrong := unsafe(name):
            raise ConfigurationError(f"the file {name!r} is not published: its name {wrong}.")
        path = root / name
        try:
            real = path.resolve(strict=True)
        except OSError as error:
            raise MissingFileError(f"there is no file {name} in {staging} to publish.") from error
        if not real.is_relative_to(root):
            raise ConfigurationError(f"the file {name!r} is not published: it is a link out of its folder.")
        if not real.is_file():
            raise ConfigurationError(f"{name!r} is not published: it is not a file.")
        found.append(OutgoingFile(name, real, real.stat().st_size))
    folded = [file.name.casefold() for file in found]
    if twice := [file.name for file in found if folded.count(file.name.casefold()) > 1]:
        raise ConfigurationError(f"the file {twice[0]!r} is listed twice.")
    if CARD not in (file.name for file in found):
        raise ConfigurationError(f"there is no {CARD} among the files of {staging}: a repository needs its card.")
    return found


def refuse_secret(files: Sequence[OutgoingFile], secret: str) -> None:
    """Refuse files that hold the token itself, as a log or a copied command line might.

    Raises:
        DataError: One does.
    """
    wanted = secret.encode()
    for file in files:
        tail = b""
        with open(file.path, "rb") as handle:
            while chunk := handle.read(_CHUNK):
                if wanted in tail + chunk:
                    raise DataError(
                        f"the file {file.name!r} holds your access token, so nothing is published.",
                        "Remove it from the file, and make a new token: this one may be known already.",
                    )
                tail = chunk[-len(wanted) :]


def in_units(size: int) -> str:
    """A size for people: bytes, kB, MB or GB (powers of 1000)."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} bytes"
