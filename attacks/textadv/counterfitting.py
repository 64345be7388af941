"""Counter-fitting (Mrksic et al., NAACL 2016, arXiv 1603.00892): word vectors moved to fit synonyms and antonyms.

Three terms over the cosine distance d of unit vectors, with tau(x) = max(0, x):

- antonym repel: tau(delta - d(u', w')) for every pair of antonyms,
- synonym attract: tau(d(u', w') - gamma) for every pair of synonyms,
- vector space preservation: tau(d(v', w') - d(v, w)) for every pair that lay within rho before.

As in the authors' program a step is a full pass in which a word moves against the mean gradient of its active pairs,
and vectors are normalised after it; a pair that is given as both synonym and antonym is an antonym. (That program
preserves the space in one direction of each pair by a slip; here, as in the paper, in both.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import DataError, MissingFileError
from harness.core.files import write_json
from harness.core.progress import Progress
from textadv.vectors import WordVectors, load_vectors, save_vectors

SYNONYM_FILES = ("ppdb_synonyms.txt",)
ANTONYM_FILES = ("ppdb_antonyms.txt", "wordnet_antonyms.txt")
VOCABULARY_FILE = "vocabulary.txt"
FACTS = "facts.json"
_BLOCK = 1000  # rows of the vocabulary compared with all others at once
# A pair is moved by as much whether it is off by much or by little; one that is off by rounding alone stays.
_TOLERANCE = 1e-9
_ANTONYM, _SYNONYM, _PRESERVE = range(3)

Pair = tuple[str, str]


@dataclass(frozen=True)
class CounterfittingSettings:
    """The paper's hyperparameters.

    Attributes:
        steps: Passes over all pairs.
        delta: Distance up to which antonyms are pushed apart.
        gamma: Distance down to which synonyms are drawn together.
        rho: Distance within which the original space is preserved.
        repel: Weight k1 of the antonyms, and so the length of their steps.
        attract: Weight k2 of the synonyms.
        preserve: Weight k3 of the original space.
    """

    steps: int = 20
    delta: float = 1.0
    gamma: float = 0.0
    rho: float = 0.2
    repel: float = 0.1
    attract: float = 0.1
    preserve: float = 0.1


@dataclass(frozen=True, eq=False)
class Constraints:
    """p pairs of words, each once.

    Attributes:
        pairs: (p, 2) int64 row numbers.
        kinds: (p,) which term a pair belongs to.
        bounds: (p,) float64: the distance up to, or down to, which a pair is moved.
    """

    pairs: NDArray[np.int64]
    kinds: NDArray[np.int64]
    bounds: NDArray[np.float64]

    def count(self, kind: int) -> int:
        """How many pairs are of a kind."""
        return int((self.kinds == kind).sum())


def counterfit(
    vectors: WordVectors,
    synonyms: Iterable[Pair],
    antonyms: Iterable[Pair],
    settings: CounterfittingSettings | None = None,
) -> WordVectors:
    """Counter-fit word vectors to pairs of synonyms and antonyms.

    Args:
        vectors: n words in d dimensions. Distances between all pairs of them are computed once.
        synonyms: Pairs of words, in either order; those with an unknown word, or one word twice, are passed over.
        antonyms: As `synonyms`.
        settings: Hyperparameters; by default the paper's.

    Returns:
        The same words with vectors of length 1; the same bytes for the same input on the same kind of machine.

    Raises:
        DataError: A vector is zero and has no direction.
    """
    settings = settings or CounterfittingSettings()
    units = _unit_vectors(vectors)
    return _fit(vectors.words, units, _constraints(units, vectors.index, synonyms, antonyms, settings), settings)


def make(target: Path, sources: Mapping[str, Path], *, dataset: str | None, limit: int | None, seed: int) -> None:
    """Counter-fit GloVe, for where the counter-fitted vectors themselves are not to be had.

    As in the paper only the words of `vocabulary.txt`, the most frequent ones, are kept: numbers, punctuation and rare
    names would otherwise be among the neighbours, and be offered as replacements.

    Args:
        target: The folder to write: `vectors.safetensors`, `words.txt`, `facts.json`.
        sources: "glove": word vectors; "counterfit-constraints": the authors' `linguistic_constraints`.
        dataset: Unused: no texts are needed.
        limit: Unused.
        seed: Unused: nothing is drawn.

    Raises:
        MissingFileError: A source lacks a file.
        DataError: A source is damaged.
    """
    folder = sources["counterfit-constraints"]
    vocabulary = frozenset(_lines(folder / VOCABULARY_FILE))
    glove = load_vectors(sources["glove"])
    kept = [row for row, word in enumerate(glove.words) if word in vocabulary]
    if not kept:
        raise DataError(f"no word of {folder / VOCABULARY_FILE} has a vector.")
    vectors = WordVectors([glove.words[row] for row in kept], glove.matrix[kept])
    synonyms = [pair for name in SYNONYM_FILES for pair in read_pairs(folder / name)]
    antonyms = [pair for name in ANTONYM_FILES for pair in read_pairs(folder / name)]
    settings = CounterfittingSettings()
    units = _unit_vectors(vectors)
    constraints = _constraints(units, vectors.index, synonyms, antonyms, settings)
    fitted = _fit(vectors.words, units, constraints, settings)
    facts: dict[str, Any] = {
        "source_hash": glove.hash,
        "words": len(fitted),
        "dimensions": fitted.matrix.shape[1],
        "settings": asdict(settings),
        "hash": fitted.hash,
    }
    for name, kind in (("antonyms", _ANTONYM), ("synonyms", _SYNONYM), ("preserved", _PRESERVE)):
        rows = constraints.pairs[constraints.kinds == kind]
        facts[name] = {
            "pairs": len(rows),
            "mean_cosine_before": float(_cosines(units, rows).mean()) if len(rows) else None,
            "mean_cosine_after": float(_cosines(fitted.matrix, rows).mean()) if len(rows) else None,
        }
    save_vectors(target, fitted)
    write_json(target / FACTS, facts)


def read_pairs(path: Path) -> list[Pair]:
    """Pairs of words, two a line, in lower case as in the authors' files.

    Raises:
        MissingFileError: There is no such file.
        DataError: A line has not two words.
    """
    pairs = []
    for number, line in enumerate(_lines(path), start=1):
        words = line.split()
        if len(words) != 2:
            raise DataError(f"line {number} of {path} has {len(words)} words, not two.")
        pairs.append((words[0], words[1]))
    return pairs


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError as error:
        raise MissingFileError(
            f"there is no file {path}.", "Get the constraints again: harness fetch counterfit-constraints."
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8.") from error


def _unit_vectors(vectors: WordVectors) -> NDArray[np.float64]:
    """(n, d) float64 vectors of length 1."""
    matrix = vectors.matrix.astype(np.float64)
    norms = np.linalg.norm(matrix, axis=1)
    if (norms == 0).any():
        raise DataError(f"the vector of {vectors.words[int(norms.argmin())]!r} is zero and has no direction.")
    return np.asarray(matrix / norms[:, None])


def _constraints(
    units: NDArray[np.float64],
    index: Mapping[str, int],
    synonyms: Iterable[Pair],
    antonyms: Iterable[Pair],
    settings: CounterfittingSettings,
) -> Constraints:
    apart = _known_pairs(antonyms, index)
    together = _known_pairs(synonyms, index) - apart
    near = _near_pairs(units, settings.rho)
    near = near[[pair not in apart for pair in map(tuple, near.tolist())]] if len(near) else near
    pairs = np.concatenate([_array(apart), _array(together), near])
    kinds = np.repeat([_ANTONYM, _SYNONYM, _PRESERVE], [len(apart), len(together), len(near)])
    bounds = np.choose(kinds, [settings.delta, settings.gamma, 1.0 - _cosines(units, pairs)])
    return Constraints(pairs, kinds, bounds)


def _known_pairs(pairs: Iterable[Pair], index: Mapping[str, int]) -> set[tuple[int, int]]:
    """The pairs of two different known words, as row numbers in ascending order."""
    rows = ((index[a], index[b]) for a, b in pairs if a in index and b in index)
    return {(min(pair), max(pair)) for pair in rows if pair[0] != pair[1]}


def _array(pairs: set[tuple[int, int]]) -> NDArray[np.int64]:
    return np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)


def _near_pairs(units: NDArray[np.float64], rho: float) -> NDArray[np.int64]:
    """(p, 2) pairs of rows within cosine distance `rho`, each once, the lower row first."""
    small = units.astype(np.float32)
    found = [np.empty((0, 2), np.int64)]
    with Progress("comparing words", total=len(units), unit="word") as bar:
        for start in range(0, len(units), _BLOCK):
            block = small[start : start + _BLOCK] @ small[start:].T
            rows, columns = np.nonzero(block >= 1.0 - rho)
            later = columns > rows
            found.append(np.stack([rows[later], columns[later]], axis=1) + start)
            bar.advance(len(block))
    return np.concatenate(found)


def _cosines(units: NDArray[Any], pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    """(p,) cosine similarities of pairs of unit vectors."""
    parts = [
        np.einsum("pd,pd->p", units[part[:, 0]], units[part[:, 1]], dtype=np.float64)
        for part in np.array_split(pairs, max(1, len(pairs) // 100_000))
    ]
    return np.concatenate(parts)


def _fit(
    words: Any, units: NDArray[np.float64], constraints: Constraints, settings: CounterfittingSettings
) -> WordVectors:
    from scipy.sparse import csr_matrix

    count = len(constraints.pairs)
    # Each pair moves both its words: once as (from, to), once as (to, from), sorted by the word that moves.
    moved = np.concatenate([constraints.pairs[:, 0], constraints.pairs[:, 1]])
    other = np.concatenate([constraints.pairs[:, 1], constraints.pairs[:, 0]])
    order = np.argsort(moved, kind="stable")
    moved, other, pair = moved[order], other[order], order % max(1, count)
    starts = np.concatenate([[0], np.cumsum(np.bincount(moved, minlength=len(units)))])
    # With a positive sign a word moves up the gradient of its distance, away from the other.
    strength = np.choose(constraints.kinds, [settings.repel, -settings.attract, -settings.preserve])
    repels = constraints.kinds == _ANTONYM
    units = units.copy()
    with Progress("counter-fitting", total=settings.steps, unit="step") as bar:
        for _ in range(settings.steps):
            cosines = _cosines(units, constraints.pairs)
            distances = 1.0 - cosines
            excess = np.where(repels, constraints.bounds - distances, distances - constraints.bounds)
            active = excess > _TOLERANCE
            weights = (strength * active)[pair]
            # Of unit vectors, the gradient of d(u, v) by u is (u . v) u - v; summed over all v by a sparse product.
            along = np.bincount(moved, weights=weights * cosines[pair], minlength=len(units))
            across = csr_matrix((weights, other, starts), shape=(len(units), len(units))) @ units
            pairs = np.bincount(moved, weights=active[pair], minlength=len(units))
            units += (along[:, None] * units - across) / np.maximum(pairs, 1)[:, None]
            units /= np.linalg.norm(units, axis=1, keepdims=True)
            bar.advance()
    return WordVectors(words, units.astype(np.float32))
