"""Which texts a victim or a detector has seen, kept beside it as hashes.

A promise on the false-positive rate holds for texts that were used for nothing else, so calibration leaves them out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import ConfigurationError, DataError
from harness.core.files import atomic_writer, hash_file
from harness.core.tensors import read_arrays
from harness.text.text_dataset import source_key

SEEN_FILE = "seen.safetensors"
_ARRAY = "normalised_keys"

Keys = NDArray[np.uint64]


def text_keys(texts: Iterable[str]) -> Keys:
    """(n,) uint64, the first 8 bytes of each text's `source_key`: enough to tell texts apart.

    Case and white space do not count: a training text with a space more is a training text.
    """
    plain = (" ".join(text.split()).casefold() for text in texts)
    return np.array([int(source_key(text)[:16], 16) for text in plain], dtype=np.uint64)


def save_seen(folder: Path, *parts: Sequence[str] | Keys) -> str:
    """Keep which texts a detector or a victim has seen, in its folder.

    Args:
        folder: The folder.
        *parts: Texts (a whole training split, texts that tuned), and keys kept by others.

    Returns:
        The file's hash.
    """
    from safetensors.numpy import save

    known = [part if isinstance(part, np.ndarray) else text_keys(part) for part in parts]
    with atomic_writer(folder / SEEN_FILE) as handle:
        handle.write(save({_ARRAY: np.unique(np.concatenate([np.zeros(0, np.uint64), *known]))}))
    return hash_file(folder / SEEN_FILE)


def read_seen(folder: Path) -> Keys:
    """The keys that `save_seen` kept in a folder; none where it kept nothing.

    Raises:
        ConfigurationError: An earlier version kept them, which took the exact texts.
        DataError: The file is damaged.
    """
    path = folder / SEEN_FILE
    if not path.is_file():
        return np.zeros(0, dtype=np.uint64)
    arrays = read_arrays(path)
    if set(arrays) == {"keys"}:
        raise ConfigurationError(f"an earlier version wrote {path}.", "Make it again with this version.")
    keys = arrays.get(_ARRAY)
    if keys is None or keys.dtype != np.uint64 or keys.ndim != 1:
        raise DataError(f"{path} is damaged: it holds no keys of texts.", "Make it again.")
    return keys
