"""Safetensors that somebody else may have written: checked before anything is read, and read with one clear error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from harness.core.errors import DataError, MissingFileError
from harness.core.loading import summary

# A header has about 100 bytes a tensor; the library itself would parse one of 100 MB.
_MOST_HEADER = 16 * 2**20


def check_tensors(path: Path) -> None:
    """Refuse what cannot be a safetensors file, before a library allocates anything for it.

    Raises:
        MissingFileError: There is no such file.
        DataError: Its header is longer than the file, or than any that is written here.
    """
    if not path.is_file():
        raise MissingFileError(f"there is no file {path}.", "Weights are read from safetensors only, never unpickled.")
    size = path.stat().st_size
    with open(path, "rb") as handle:
        header = int.from_bytes(handle.read(8), "little")
    if size < 8 or header > size - 8:
        raise DataError(f"{path} is not a sound safetensors file: its header is longer than the file.")
    if header > _MOST_HEADER:
        raise DataError(f"{path} is not a sound safetensors file: its header has {header} bytes.")


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read all arrays of a safetensors file.

    Memory is bounded by the size of the file: no shape that its bytes do not fill is accepted.

    Raises:
        MissingFileError: There is no such file.
        DataError: It is no sound safetensors file, or holds numbers that NumPy does not have.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    check_tensors(path)
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path} is not a sound safetensors file: {summary(error)}.") from error
