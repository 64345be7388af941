"""Word vectors and tables of neighbours, in the form that TextAttack's transformations and constraints ask."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import ConfigurationError, DataError
from harness.core.files import hash_strings, read_json
from textadv.vector_files import read_vectors, write_vectors

NEIGHBOURS_FILE = "counterfitted_neighbors.json"

# Neighbours of a word that are kept once one was asked for: the most that a recipe of TextAttack takes.
_KEPT = 50
# As torch.nn.CosineSimilarity, which TextAttack takes.
_SMALLEST_NORM = 1e-8


class Neighbourhood(Protocol):
    """What `embedding` wraps."""

    @property
    def words(self) -> Sequence[str]:
        """All words, each once."""

    @property
    def index(self) -> dict[str, int]:
        """Word -> its number."""

    def vector(self, index: int) -> NDArray[np.float32]:
        """The (d,) vector of a word."""

    def nearest(self, index: int, topn: int) -> list[int]:
        """The nearest words, the word itself left out."""

    def cosine(self, a: int, b: int) -> float:
        """The cosine similarity of two words."""

    def squared_distance(self, a: int, b: int) -> float:
        """The squared Euclidean distance of two words."""


@dataclass(frozen=True, eq=False)
class WordVectors:
    """Words and their vectors.

    Attributes:
        words: n different words.
        matrix: (n, d) float32, finite.

    Raises:
        DataError: There are no words, words and rows differ in number, a word stands twice, or a number is not finite.
    """

    words: Sequence[str]
    matrix: NDArray[np.float32]
    _nearest: dict[int, list[int]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.matrix.ndim != 2 or self.matrix.dtype != np.float32 or len(self.words) != len(self.matrix):
            raise DataError(
                f"{len(self.words)} words do not go with {self.matrix.dtype} vectors of shape {self.matrix.shape}."
            )
        if not len(self.words):
            raise DataError("there are no word vectors.")
        if len(self.index) != len(self.words):
            raise DataError(f"{len(self.words) - len(self.index)} of the words stand twice among the word vectors.")
        if not np.isfinite(self.matrix).all():
            raise DataError("the word vectors hold a number that is not finite.")

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def index(self) -> dict[str, int]:
        """Word -> row number."""
        return {word: row for row, word in enumerate(self.words)}

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of words and vectors, in order."""
        digest = hashlib.sha256(hash_strings(self.words).encode())
        digest.update(np.ascontiguousarray(self.matrix, "<f4").tobytes())
        return digest.hexdigest()

    @cached_property
    def _norms(self) -> NDArray[np.float32]:
        return np.asarray(np.maximum(np.linalg.norm(self.matrix, axis=1), np.float32(_SMALLEST_NORM)))

    @cached_property
    def _half_squares(self) -> NDArray[np.float32]:
        return np.asarray(np.einsum("nd,nd->n", self.matrix, self.matrix) / 2, dtype=np.float32)

    def vector(self, index: int) -> NDArray[np.float32]:
        """The (d,) vector at `index`."""
        return self.matrix[index]  # type: ignore[no-any-return]

    def cosine(self, a: int, b: int) -> float:
        """The cosine similarity of the words at two indices."""
        return float(self.matrix[a] @ self.matrix[b] / (self._norms[a] * self._norms[b]))

    def squared_distance(self, a: int, b: int) -> float:
        """The squared Euclidean distance of the words at two indices (TextAttack calls it MSE distance)."""
        difference = self.matrix[a] - self.matrix[b]
        return float(difference @ difference)

    def nearest(self, index: int, topn: int) -> list[int]:
        """The `topn` words nearest to the one at `index` by Euclidean distance, ties by index, itself left out.

        They are found when a word is first asked for and kept.
        """
        known = self._nearest.get(index)
        if known is None or len(known) < min(topn, len(self) - 1):
            known = self._nearest[index] = self._find_nearest(index, max(topn, _KEPT))
        return known[:topn]

    def _find_nearest(self, index: int, topn: int) -> list[int]:
        topn = min(topn, len(self) - 1)
        if topn < 1:
            return []
        # Half the squared distance, less a constant, from one product in float32; its rounding could swap near
        # words, so whatever may be among the nearest is measured again in float64.
        rough = self._half_squares - self.matrix @ self.matrix[index]
        rough[index] = np.inf
        largest = float(self._half_squares.max() + self._half_squares[index])
        slack = 4 * (self.matrix.shape[1] + 2) * float(np.finfo(np.float32).eps) * largest
        bound = np.partition(rough, topn - 1)[topn - 1] + slack
        near = np.flatnonzero(rough <= bound)
        difference = self.matrix[near].astype(np.float64) - self.matrix[index]
        exact = np.einsum("nd,nd->n", difference, difference)
        order = np.argsort(exact, kind="stable")[:topn]  # `near` is sorted, so equal distances keep index order
        return [int(row) for row in near[order]]


@dataclass(frozen=True, eq=False)
class NeighbourTable:
    """Words and their neighbours, nearest first, without vectors.

    Attributes:
        words: n different words; neighbours that have no entry of their own stand last.
        neighbours: For each the indices of its neighbours.
    """

    words: Sequence[str]
    neighbours: Sequence[Sequence[int]]

    @classmethod
    def load(cls, folder: Path) -> NeighbourTable:
        """Read `counterfitted_neighbors.json` (Jia et al., EMNLP 2019): an object of word -> list of words.

        Raises:
            MissingFileError: The folder does not hold it.
            DataError: It is something else.
        """
        path = Path(folder) / NEIGHBOURS_FILE
        table = read_json(path)
        if not isinstance(table, dict) or not all(
            isinstance(found, list) and all(isinstance(word, str) for word in found) for found in table.values()
        ):
            raise DataError(f"{path} is not an object of lists of words.")
        words = list(dict.fromkeys([*table, *(word for found in table.values() for word in found)]))
        index = {word: number for number, word in enumerate(words)}
        return cls(words, [[index[near] for near in table.get(word, ()) if near != word] for word in words])

    @cached_property
    def index(self) -> dict[str, int]:
        """Word -> its number."""
        return {word: number for number, word in enumerate(self.words)}

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of words and neighbours, in order."""
        return hash_strings([*self.words, json.dumps([list(found) for found in self.neighbours])])

    def nearest(self, index: int, topn: int) -> list[int]:
        """At most `topn` neighbours of the word at `index`, in the order of the file."""
        return list(self.neighbours[index][:topn])

    def vector(self, index: int) -> NDArray[np.float32]:
        """Refused: there are no vectors.

        Raises:
            ConfigurationError: Always.
        """
        raise _no_vectors()

    def cosine(self, a: int, b: int) -> float:
        """Refused, as `vector` is."""
        raise _no_vectors()

    def squared_distance(self, a: int, b: int) -> float:
        """Refused, as `vector` is."""
        raise _no_vectors()


def _no_vectors() -> ConfigurationError:
    return ConfigurationError(
        "a table of neighbours has no vectors, so words in it have no distance.",
        "Use a recipe on word vectors: counter-fitted-vectors, or counterfitted-glove, its stand-in.",
    )


def load_vectors(folder: Path) -> WordVectors:
    """Read word vectors from a folder, in whichever of the forms of `textadv.vector_files` it holds them.

    Raises:
        MissingFileError: The folder holds none of them.
        DataError: What it holds is damaged.
    """
    words, matrix = read_vectors(folder)
    try:
        return WordVectors(words, matrix)
    except DataError as error:
        raise DataError(f"{folder}: {error.message}", "Get the word vectors again: harness fetch.") from error


def save_vectors(folder: Path, vectors: WordVectors) -> None:
    """Write `vectors.safetensors` and `words.txt` (UTF-8, a word a line) into `folder`.

    Raises:
        DataError: A word holds a newline.
        DiskFullError: The device is full.
    """
    write_vectors(folder, vectors.words, vectors.matrix)


def embedding(source: Neighbourhood) -> Any:
    """`WordVectors` or a `NeighbourTable` as a `textattack.shared.AbstractWordEmbedding`.

    Its methods take words or indices, as TextAttack's own `WordEmbedding` does, and raise the same `KeyError` for an
    unknown word. Unlike that one's, its memory of neighbours heeds how many were asked for.
    """
    return _embedding_class()(source)


@lru_cache(maxsize=1)
def _embedding_class() -> Any:
    from textadv.runtime import load_textattack

    load_textattack()
    from textattack.shared import AbstractWordEmbedding

    class Embedding(AbstractWordEmbedding):  # type: ignore[misc]
        """Word vectors, or a table of neighbours, as TextAttack asks for them."""

        def __init__(self, source: Neighbourhood) -> None:
            self.source = source

        def __getitem__(self, index: str | int) -> NDArray[np.float32] | None:
            """The vector of a word; None for an unknown one."""
            number = self.source.index.get(index, -1) if isinstance(index, str) else index
            return self.source.vector(number) if 0 <= number < len(self.source.words) else None

        def word2index(self, word: str) -> int:
            """The index of a word; KeyError for an unknown one."""
            return self.source.index[word]

        def index2word(self, index: int) -> str:
            """The word at an index."""
            return self.source.words[index]

        def get_cos_sim(self, a: str | int, b: str | int) -> float:
            """The cosine similarity of two words."""
            return self.source.cosine(self._number(a), self._number(b))

        def get_mse_dist(self, a: str | int, b: str | int) -> float:
            """The squared Euclidean distance of two words."""
            return self.source.squared_distance(self._number(a), self._number(b))

        def nearest_neighbours(self, index: str | int, topn: int) -> list[int]:
            """The indices of the nearest words, the word itself left out."""
            return self.source.nearest(self._number(index), topn)

        def _number(self, index: str | int) -> int:
            return self.source.index[index] if isinstance(index, str) else index

    return Embedding
