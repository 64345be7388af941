"""Unpack an archive from elsewhere without letting it write anywhere else or fill the disk.

Only plain files and folders come out, below the target and nowhere else: no absolute paths, no "..", no links, no
devices, no two members of one name. The number of members, their size together and how far they are compressed
are bounded, by what the archive declares and again by what really comes out.
"""

from __future__ import annotations

import errno
import gzip
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, cast

from harness.core.errors import DataError
from harness.core.files import disk_errors

_CHUNK = 1 << 20
_LARGEST_READ = 1 << 24
# Below this many bytes nothing is called a bomb: small files may be all zeros.
_HARMLESS = 10_000_000


# What the readers raise on bytes that they cannot make sense of.
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,
)


@dataclass(frozen=True)
class Bounds:
    """How much may come out of an archive.

    Attributes:
        bytes: Size of all files together.
        members: Files and folders.
        ratio: Bytes that come out for each byte of the archive.
    """

    bytes: int
    members: int = 20_000
    ratio: float = 200.0


class _Refused(Exception):
    """Why an archive is not unpacked."""


def unpack(archive: Path, kind: str, target: Path, bounds: Bounds) -> None:
    """Unpack `archive` into the folder `target`, which is made where it is not there.

    Whatever is wrong, what was unpacked until then stays there: give a folder that nobody reads yet.

    Args:
        archive: The file.
        kind: "zip", "tar.gz", or "gz" (one file, which becomes `target`).
        target: Where it goes.
        bounds: How much may come out.

    Raises:
        DataError: It is no such archive, is damaged, holds what is not allowed, or is over the bounds.
    """
    reader = {"zip": _zip_members, "tar.gz": _tar_members, "gz": _gzip_member}[kind]
    root = target.parent if kind == "gz" else target
    limit = min(bounds.bytes, max(_HARMLESS, int(bounds.ratio * archive.stat().st_size)))
    left = limit
    try:
        root.mkdir(parents=True, exist_ok=True)
        for count, (name, content) in enumerate(reader(archive, limit), start=1):
            if count > bounds.members:
                raise _Refused(f"it has more than {bounds.members:,} members")
            path = target if kind == "gz" else root.joinpath(*_safe_parts(name))
            if content is None:
                path.mkdir(mode=0o755, parents=True, exist_ok=True)
                continue
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            left -= _write(content, path, left)
    except _Refused as error:
        raise DataError(
            f"the archive {archive.name} is not unpacked: {error}.",
            "It is not what it should be; do not use it, and report it to those who publish it.",
        ) from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise DataError(f"the archive {archive.name} is not unpacked: two members have one name.") from error
    except _DAMAGED as error:
        # What the disk says (full, not allowed) has a number of its own and is no fault of the archive.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL, errno.ENAMETOOLONG):
            raise
        raise DataError(
            f"the archive {archive.name} is damaged: {' '.join(str(error).split())}.", "Fetch it again."
        ) from error


def _zip_members(archive: Path, limit: int) -> Iterator[tuple[str, IO[bytes] | None]]:
    with zipfile.ZipFile(archive) as opened:
        members = opened.infolist()
        if sum(member.file_size for member in members) > limit:
            raise _Refused(f"it declares more than {limit:,} bytes")
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _Refused(f"{member.orig_filename!r} is a link or a device")
            if member.flag_bits & 0x1:
                raise _Refused(f"{member.orig_filename!r} is encrypted")
            # `orig_filename` is what the archive says; `filename` is cut at a NUL.
            if member.is_dir():
                yield member.orig_filename, None
            else:
                with opened.open(member) as content:
                    yield member.orig_filename, content


def _tar_members(archive: Path, limit: int) -> Iterator[tuple[str, IO[bytes] | None]]:
    with gzip.open(archive) as unzipped:
        # Each header takes a block of 512 bytes, and as much again to fill the last block of its file.
        bounded = cast(IO[bytes], _Bounded(cast(IO[bytes], unzipped), 2 * limit + _HARMLESS))
        with tarfile.open(fileobj=bounded, mode="r:") as opened:
            for member in opened:
                if not (member.isreg() or member.isdir()) or member.issparse():
                    raise _Refused(f"{member.name!r} is a link or a device")
                yield member.name, opened.extractfile(member) if member.isreg() else None
            # tarfile takes a broken header for the end. Reading on also checks gzip's own checksum.
            bounded.seek(opened.offset)
            while chunk := bounded.read(_CHUNK):
                if chunk.strip(b"\0"):
                    raise tarfile.ReadError("it does not end where it should")


def _gzip_member(archive: Path, limit: int) -> Iterator[tuple[str, IO[bytes] | None]]:
    with gzip.open(archive) as content:
        yield "", cast(IO[bytes], content)


class _Bounded:
    """A stream that refuses to be read beyond a position, or much at once: tarfile reads headers whole."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self._stream = stream
        self._limit = limit

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LARGEST_READ or self._stream.tell() + size > self._limit:
            raise _Refused("it is longer than it should be")
        return self._stream.read(size)

    def seek(self, position: int) -> int:
        if position > self._limit:
            raise _Refused("it is longer than it should be")
        return self._stream.seek(position)

    def tell(self) -> int:
        return self._stream.tell()


def _safe_parts(name: str) -> tuple[str, ...]:
    """The parts of a member's path, below the target.

    Raises:
        _Refused: It leads elsewhere, on this system or on another.
    """
    path = PurePosixPath(name)
    elsewhere = path.is_absolute() or ".." in path.parts or PureWindowsPath(name).drive
    if elsewhere or "\\" in name or "\0" in name:
        raise _Refused(f"the path {name!r} leads out of the folder")
    return path.parts


def _write(content: IO[bytes], path: Path, left: int) -> int:
    written = 0
    with disk_errors(path), open(path, "xb") as handle:
        while chunk := content.read(_CHUNK):
            written += len(chunk)
            if written > left:
                raise _Refused("more comes out of it than should")
            handle.write(chunk)
        handle.flush()
        os.fsync(handle.fileno())
    # Also where the umask lets others write: NLTK refuses such data.
    path.chmod(0o644)
    return written
