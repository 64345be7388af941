"""Nearest training texts: what the detectors that keep a reference set share."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import ConfigurationError, DataError
from harness.detectors.base import Arrays, Floats, Labels
from harness.detectors.layered import LayeredDetector, check_count
from harness.detectors.states import Array, Layout, bad_state

LEFT_OUT = 2000  # rows that are left out in turn to standardise a layer's scores
_CELLS = 2**22  # of the distance matrix computed at once (32 MB), to bound memory
_FEW_TEXTS = 8  # up to which reading every reference costs more than looking for those that can be near
_LEADING = 0.97  # of the references' variance: the directions in which they are looked through first


class NeighbourDetector(LayeredDetector):
    """A detector that compares a text with its k nearest of a fixed set of training texts.

    With "all" layers, a layer's scores are standardised by those of (at most 2,000, evenly spaced) reference rows,
    each left out in turn: it is compared with the k nearest of the others.

    Args:
        layer: A number (-1 = last), "last" or "all".
        k: Neighbours.
        rows: Training rows drawn over all classes, the reference set.

    Raises:
        ConfigurationError: A parameter is out of range.
    """

    layer_layout: ClassVar[Layout | None] = {"reference": Array("float32", ("n", "d"))}
    smallest_k = 1
    # Reference rows nearer than this times a text's norm are passed over; below 0 none are.
    copies_within = -1.0

    def __init__(self, layer: int | str, k: int, rows: int) -> None:
        super().__init__(layer)
        check_count(self.info.title, "k", k, self.smallest_k)
        check_count(self.info.title, "rows", rows, 1)
        if rows <= k:
            raise ConfigurationError(
                f"{self.info.title} compares with {k} neighbours, so rows={rows} are too few.",
                "Give it more rows, or a smaller k.",
            )
        self.k = k
        self.rows = rows

    @property
    def fit_rows(self) -> int | None:
        """The size of the reference set."""
        return self.rows

    def parameters(self) -> dict[str, Any]:
        """The constructor arguments."""
        return {**super().parameters(), "k": self.k, "rows": self.rows}

    @abstractmethod
    def _judge(self, distances: Floats, dimensions: int) -> Floats:
        """From (n, k) distances to the nearest reference rows, ascending, and the number of features to scores."""

    def _vectors(self, features: Floats) -> Floats:
        """What distances are taken of; by default the features as they are."""
        return features

    def _fit_layer(self, features: Floats, labels: Labels, classes: int) -> Arrays:
        if len(features) <= self.k:
            raise DataError(
                f"{self.info.title} needs more training rows than its {self.k} neighbours; it has {len(features)}.",
                "Give it more training texts, or a smaller k.",
            )
        # Features are float32 at the source, so nothing is lost in keeping them so.
        return {"reference": features.astype(np.float32)}

    def _check_values(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        if len(arrays["reference"]) <= self.k:
            raise bad_state(self.info.name, f"{len(arrays['reference'])} reference rows have no {self.k} neighbours")

    def _open(self, fitted: Arrays) -> Arrays:
        return prepare_references(self._vectors(fitted["reference"].astype(np.float64)))

    def _score_layer(self, features: Floats, opened: Arrays) -> Floats:
        return self._scored(self._vectors(features), opened)

    def _fit_and_score_unseen(self, features: Floats, labels: Labels, classes: int) -> tuple[Arrays, Floats]:
        fitted = self._fit_layer(features, labels, classes)
        opened = self._open(fitted)
        own = np.unique(np.linspace(0, len(features) - 1, LEFT_OUT).round().astype(np.int64))
        return fitted, self._scored(opened["rows"][opened["places"][own]], opened, own)

    def _scored(self, vectors: Floats, references: Arrays, own: NDArray[np.int64] | None = None) -> Floats:
        distances = nearest_distances(vectors, references, self.k, own=own, copies_within=self.copies_within)
        return self._judge(distances, vectors.shape[1])


def prepare_references(rows: Floats) -> Arrays:
    """What `nearest_distances` takes of (m, d) rows.

    Returns:
        `rows`, in another order, `places` (m,), where in it each stands, and `squares` (m,), their squared norms. To
        look through them quickly, `centre` (d,), the `directions` (d, r) in which they vary most, `first` (m,), where
        they lie in the first of those, ascending, `leading` (m, r + 1) float32, where in all of them, and the norm of
        what is left of them, and `moved_squares` (m,), their squared distances from the centre.
    """
    centre = rows.mean(axis=0)
    moved = rows - centre
    variances, directions = np.linalg.eigh(moved.T @ moved)  # ascending
    outside = np.cumsum(variances[:-1]) <= (1 - _LEADING) * variances.sum()
    directions = np.ascontiguousarray(directions[:, outside.sum() :][:, ::-1])
    first = moved @ directions[:, 0]
    order = np.argsort(first)
    rows, moved = rows[order], moved[order]
    leading, squares = moved @ directions, np.einsum("ij,ij->i", moved, moved)
    rest = np.sqrt(np.maximum(squares - np.einsum("ij,ij->i", leading, leading), 0))
    return {
        "rows": rows,
        "places": np.argsort(order),
        "squares": np.einsum("ij,ij->i", rows, rows),
        "centre": centre,
        "directions": directions,
        "first": first[order],
        # Half the memory that one text has to read.
        "leading": np.column_stack([leading, rest]).astype(np.float32),
        "moved_squares": squares,
    }


def nearest_distances(
    vectors: Floats,
    references: Arrays,
    k: int,
    *,
    own: NDArray[np.int64] | None = None,
    copies_within: float = -1.0,
) -> Floats:
    """Euclidean distances to the k nearest reference rows.

    Neighbours of many texts are found by matrix products, their distances computed anew by differences: products lose
    the digits of a small distance between long vectors, and round by the shape of the batch. Of a few texts each is
    compared in the leading directions first, which bounds its distances from below.

    Args:
        vectors: (n, d).
        references: What `prepare_references` made of m >= k rows.
        k: Neighbours.
        own: (n,) reference row that is the text itself and is passed over; None where none is.
        copies_within: Reference rows within this times the norm of a text are passed over too.

    Returns:
        (n, k) float64, ascending; infinite where so many were passed over that less than k are left.
    """
    found = np.zeros((len(vectors), k))
    if len(vectors) <= _FEW_TEXTS:
        for row, vector in enumerate(vectors):
            passed_over = None if own is None else int(references["places"][own[row]])
            found[row] = _nearest_to_one(vector, references, k, passed_over, copies_within)
        return found
    reference = references["rows"]
    step = max(1, _CELLS // len(reference))
    for start in range(0, len(vectors), step):
        part = vectors[start : start + step]
        squares = np.einsum("ij,ij->i", part, part)
        matrix = part @ reference.T
        matrix *= -2.0
        matrix += references["squares"]
        matrix += squares[:, None]
        if copies_within >= 0:
            matrix[matrix <= copies_within**2 * squares[:, None]] = np.inf
        if own is not None:
            matrix[np.arange(len(part)), references["places"][own[start : start + step]]] = np.inf
        chosen = np.argpartition(matrix, k - 1, axis=1)[:, :k]
        nearest = found[start : start + step]
        for column in range(k):
            delta = part - reference[chosen[:, column]]
            nearest[:, column] = np.sqrt(np.einsum("ij,ij->i", delta, delta))
        nearest[np.isinf(np.take_along_axis(matrix, chosen, axis=1))] = np.inf
        nearest.sort(axis=1)
    return found


def _nearest_to_one(vector: Floats, references: Arrays, k: int, own: int | None, copies_within: float) -> Floats:
    """The (k,) distances of one (d,) vector; arguments as in `nearest_distances`, `own` a place in `rows`.

    The distance of two vectors is at least that of their parts in the leading directions, joined with the difference
    of the norms of what is left of them. What this bound, or the first direction alone, puts farther away than k that
    were found already is not looked at.
    """
    rows, m = references["rows"], len(references["rows"])
    moved = vector - references["centre"]
    leading = moved @ references["directions"]
    length = float(moved @ moved)
    rest = math.sqrt(max(length - float(leading @ leading), 0.0))
    # Summing in float32 may put a bound above the distance, by less than this.
    rounding = float(np.finfo(np.float32).eps) * references["leading"].shape[1]
    rounding *= length + float(references["moved_squares"].max())

    def squares(places: NDArray[np.int64] | slice) -> Floats:
        """Squared distances of some rows; infinite for those that are passed over."""
        delta = rows[places] - vector
        found: Floats = np.einsum("ij,ij->i", delta, delta)
        if copies_within >= 0:
            found[found <= copies_within**2 * (vector @ vector)] = np.inf
        if own is not None:
            found[np.arange(m)[places] == own] = np.inf
        return found

    first, count, limit = references["first"], k, np.inf
    middle = int(np.searchsorted(first, leading[0]))
    while limit == np.inf and count < m:  # until k are found that are not passed over
        count = min(2 * count, m)
        begin = min(max(middle - count // 2, 0), m - count)
        found = squares(slice(begin, begin + count))
        limit = np.partition(found, k - 1)[k - 1]
    if count < m:
        reach = math.sqrt(limit + rounding)
        begin = int(np.searchsorted(first, leading[0] - reach))
        end = int(np.searchsorted(first, leading[0] + reach, side="right"))
        bounds: Floats = references["moved_squares"][begin:end] + (length - rounding)
        bounds += references["leading"][begin:end] @ np.append(-2 * leading, -2 * rest).astype(np.float32)
        # The nearest by their bounds tell more than the nearest in one direction.
        order = np.argpartition(bounds, min(count, len(bounds)) - 1)
        found = squares(begin + order[:count])
        limit = min(limit, np.partition(found, k - 1)[k - 1])
        others = order[count:]
        found = np.concatenate([found, squares(begin + others[bounds[others] <= limit])])
    return np.sqrt(np.sort(found)[:k])
