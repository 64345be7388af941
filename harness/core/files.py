"""Files that are whole or absent: atomic writes, hashes, and the user's cache folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from harness.core.errors import DataError, DiskFullError, MissingFileError

CACHE_VARIABLE = "PALIMPSEST_CACHE"
_FULL = {errno.ENOSPC, errno.EDQUOT}
_MOST_JSON = 2**30  # bytes; more is no JSON that anything here writes


def cache_folder(*parts: str) -> Path:
    """The folder for things that can be made again: victims, features, fitted detectors.

    It is `$PALIMPSEST_CACHE` where that is set, else the platform's own cache folder.
    """
    import platformdirs

    root = os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("palimpsest")
    return Path(root).joinpath(*parts)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn 'no space left' into a `DiskFullError` that names the path, also where a library words it itself."""
    try:
        yield
    except Exception as error:
        if getattr(error, "errno", None) in _FULL or "No space left on device" in str(error):
            raise DiskFullError(
                f"no space left on the device while writing {path}.",
                "Free some space and run the same command again; finished work is kept.",
            ) from error
        raise


def fsync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut (a no-op where folders cannot be opened)."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_writer(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` that takes its name only when the block ends well.

    Temporary file in the same folder -> flush -> fsync -> `os.replace` -> fsync of the folder: a reader
    sees the old content or the new, never a part, whatever kills the process. The price is two fsyncs
    a file, so this is for results and not for rows.

    Raises:
        DiskFullError: The device is full; nothing is left behind.
    """
    path = Path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        try:
            encoding = None if "b" in mode else "utf-8"
            newline = None if "b" in mode else ""
            with os.fdopen(descriptor, mode, encoding=encoding, newline=newline) as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
            fsync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically."""
    with atomic_writer(path, "w") as handle:
        handle.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as sorted, indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, *, most: int = _MOST_JSON) -> Any:
    """Read JSON from `path`.

    Args:
        path: A file.
        most: Bytes it may have; a file that a stranger wrote is given few.

    Raises:
        MissingFileError: There is no such file.
        DataError: It is not JSON, too long, or nested too deeply.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > most:
            raise DataError(f"{path} has {size} bytes, more than such a file ever has.")
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingFileError(f"there is no file {path}.") from error
    except RecursionError as error:
        raise DataError(f"{path} is nested too deeply to be read.") from error
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON.") from error


def canonical_json(value: Any) -> bytes:
    """The one byte string that stands for a JSON value: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def hash_json(value: Any) -> str:
    """SHA-256 (hex) of a JSON value, independent of key order."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def hash_path(path: Path) -> str:
    """What identifies the content of a file, or of a folder: the names and bytes of the files in it."""
    if path.is_file():
        return hash_file(path)
    inside = sorted(p for p in path.rglob("*") if p.is_file())
    return hash_json({p.relative_to(path).as_posix(): hash_file(p) for p in inside})


def hash_strings(values: Iterable[str]) -> str:
    """SHA-256 (hex) of a sequence of strings; each is framed by its length, so that joints count."""
    digest = hashlib.sha256()
    for value in values:
        data = value.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()
