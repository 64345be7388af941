"""Where encoded images lie: files of a folder, or an Arrow column in memory or memory-mapped.

A store is light (1 M files cost about 100 MB, a memory-mapped column nothing) and travels to the workers of a
`DataLoader`: Arrow arrays instead of Python lists keep forked workers from copying pages by counting references, and
memory-mapped columns are pickled as paths.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from harness.core.errors import DataError, MissingFileError

# Beyond this many bytes a data set's hash covers names and sizes instead of content, which would take minutes.
HASHED_CONTENT = 4 * 1024**3


class ImageStore(Protocol):
    """Encoded images by row number."""

    def __len__(self) -> int:
        """How many rows there are."""
        ...

    def read(self, row: int) -> bytes | None:
        """The encoded image, or None where there is none."""
        ...

    def name(self, row: int) -> str:
        """What messages call the image; never an absolute path."""
        ...

    def sizes(self) -> NDArray[np.int64]:
        """(n,) bytes of each encoded image; 0 where there is none."""
        ...


def read_image_file(path: str) -> bytes | None:
    """The content of a file, or None where it is not there or not to be read."""
    try:
        with open(path, "rb") as handle:
            return handle.read()
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        return None


class FileImages:
    """Image files under one folder.

    Args:
        root: The folder.
        paths: n paths below it, as the system's bytes with "/" between the parts.
        sizes: n sizes in bytes.
    """

    def __init__(self, root: Path, paths: Sequence[bytes], sizes: Sequence[int]) -> None:
        self._root = os.path.abspath(root)
        self._paths = pa.array(paths, type=pa.large_binary())
        self._sizes = np.asarray(sizes, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, row: int) -> bytes | None:
        """The file's content, or None where it is gone or not to be read."""
        return read_image_file(os.path.join(self._root, os.fsdecode(self._paths[row].as_py())))

    def name(self, row: int) -> str:
        """The path below the folder."""
        return str(self._paths[row].as_py().decode("utf-8", "backslashreplace"))

    def sizes(self) -> NDArray[np.int64]:
        """(n,) sizes in bytes, as they were when the folder was read."""
        return self._sizes


class ArrowImages:
    """An Arrow column of encoded images: bytes, or the structs {bytes, path} of the image feature of `datasets`.

    A struct without bytes names a file, which is read instead.

    Args:
        column: The column, where it is held in memory; None where it is memory-mapped from `files`.
        parts: Names of the files or sets that the rows come from, in order, with their numbers of rows.
        files: Paths of files in Arrow's stream format.
        column_name: The column's name in `files`.
        folder: Where relative paths in structs start.

    Raises:
        DataError: The column holds no encoded images.
    """

    def __init__(
        self,
        column: pa.ChunkedArray | None,
        parts: Sequence[tuple[str, int]],
        *,
        files: Sequence[str] = (),
        column_name: str = "",
        folder: str = "",
    ) -> None:
        self._memory = column
        self._parts = tuple(parts)
        self._files = tuple(files)
        self._column_name = column_name
        self._folder = folder
        self._open()

    def _open(self) -> None:
        column = self._memory if self._memory is not None else mapped_column(self._files, self._column_name)
        self._bytes, self._paths = _bytes_and_paths(column)
        self._ends = np.cumsum([rows for _, rows in self._parts], dtype=np.int64)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        del state["_bytes"], state["_paths"]  # views of the column, which may be a map of a large file
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return len(self._bytes)

    def read(self, row: int) -> bytes | None:
        """The bytes in the row, or the content of the file it names."""
        encoded = self._bytes[row].as_py()
        if encoded is not None or self._paths is None:
            return None if encoded is None else bytes(encoded)
        path = self._paths[row].as_py()
        return read_image_file(os.path.join(self._folder, path)) if path else None

    def name(self, row: int) -> str:
        """The row's number in its file, counted from 0."""
        part = int(np.searchsorted(self._ends, row, side="right"))
        start = int(self._ends[part - 1]) if part else 0
        return f"row {row - start} of {self._parts[part][0]}"

    def sizes(self) -> NDArray[np.int64]:
        """(n,) bytes in each row; 0 where the row only names a file."""
        lengths = pc.fill_null(pc.binary_length(self._bytes), 0)
        return np.asarray(lengths.to_numpy(), dtype=np.int64)


def memory_images(encoded: Sequence[bytes], name: str) -> ArrowImages:
    """A store of encoded images that are at hand."""
    return ArrowImages(pa.chunked_array([pa.array(encoded, type=pa.large_binary())]), [(name, len(encoded))])


def open_arrow(path: str) -> pa.Table:
    """Memory-map one file in Arrow's stream format.

    Raises:
        MissingFileError: It is not there.
        DataError: It is damaged.
    """
    try:
        return pa.ipc.open_stream(pa.memory_map(path)).read_all()
    except FileNotFoundError as error:
        raise MissingFileError(f"there is no file {path}.", "Save or download the dataset again.") from error
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise DataError(f"{path} is not a readable Arrow file: {reason}.", "Save the dataset again.") from error


def mapped_column(files: Sequence[str], name: str) -> pa.ChunkedArray:
    """One column of memory-mapped files, joined."""
    return join_chunks([open_arrow(path).column(name) for path in files], name)


def join_chunks(columns: Sequence[pa.ChunkedArray], name: str) -> pa.ChunkedArray:
    """Columns behind one another.

    Raises:
        DataError: They differ in type.
    """
    types = {column.type for column in columns}
    if len(types) > 1:
        raise DataError(f"the column {name!r} has another type in another file.", "Write all files alike.")
    return pa.chunked_array([chunk for column in columns for chunk in column.chunks], type=types.pop())


def _bytes_and_paths(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, pa.ChunkedArray | None]:
    if _is_binary(column.type):
        return column, None
    if holds_images(column.type):
        names = {field.name for field in column.type}
        paths = pc.struct_field(column, "path") if "path" in names else None
        return pc.struct_field(column, "bytes"), paths
    raise DataError(
        f"an image column cannot hold {column.type}.", "It must hold encoded images: bytes, or {bytes, path}."
    )


def holds_images(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold encoded images."""
    if not pa.types.is_struct(kind):
        return _is_binary(kind)
    return any(field.name == "bytes" and _is_binary(field.type) for field in kind)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
