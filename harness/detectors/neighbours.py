"""Nearest training texts: what the detectors that keep a reference set share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import DataError
from harness.detectors.base import Arrays, Floats, Labels
from harness.detectors.layered import LayeredDetector, check_count
from harness.detectors.states import Array, Layout, bad_state

LEFT_OUT = 2000  # rows that are left out in turn to standardise a layer's scores
_CELLS = 2**22  # of the distance matrix computed at once (32 MB), to bound memory


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
        check_count(self.info.title, "rows", rows, k + 1)
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
        return {"vectors": self._vectors(fitted["reference"].astype(np.float64))}

    def _score_layer(self, features: Floats, opened: Arrays) -> Floats:
        return self._scored(self._vectors(features), opened["vectors"])

    def _fit_and_score_unseen(self, features: Floats, labels: Labels, classes: int) -> tuple[Arrays, Floats]:
        fitted = self._fit_layer(features, labels, classes)
        vectors = self._open(fitted)["vectors"]
        own = np.unique(np.linspace(0, len(vectors) - 1, LEFT_OUT).round().astype(np.int64))
        return fitted, self._scored(vectors[own], vectors, own)

    def _scored(self, vectors: Floats, reference: Floats, own: NDArray[np.int64] | None = None) -> Floats:
        distances = nearest_distances(vectors, reference, self.k, own=own, copies_within=self.copies_within)
        return self._judge(distances, vectors.shape[1])


def nearest_distances(
    vectors: Floats,
    reference: Floats,
    k: int,
    *,
    own: NDArray[np.int64] | None = None,
    copies_within: float = -1.0,
) -> Floats:
    """Euclidean distances to the k nearest reference rows.

    Neighbours are found by matrix products, their distances computed anew by differences: products lose the digits
    of a small distance between long vectors, and round by the shape of the batch.

    Args:
        vectors: (n, d).
        reference: (m, d), m >= k.
        k: Neighbours.
        own: (n,) reference row that is the text itself and is passed over; None where none is.
        copies_within: Reference rows within this times the norm of a text are passed over too.

    Returns:
        (n, k) float64, ascending; infinite where so many were passed over that less than k are left.
    """
    found = np.zeros((len(vectors), k))
    lengths = np.einsum("ij,ij->i", reference, reference)
    step = max(1, _CELLS // len(reference))
    for start in range(0, len(vectors), step):
        part = vectors[start : start + step]
        squares = np.einsum("ij,ij->i", part, part)
        matrix = part @ reference.T
        matrix *= -2.0
        matrix += lengths
        matrix += squares[:, None]
        if copies_within >= 0:
            matrix[matrix <= copies_within**2 * squares[:, None]] = np.inf
        if own is not None:
            matrix[np.arange(len(part)), own[start : start + step]] = np.inf
        chosen = np.argpartition(matrix, k - 1, axis=1)[:, :k]
        nearest = found[start : start + step]
        for column in range(k):
            delta = part - reference[chosen[:, column]]
            nearest[:, column] = np.sqrt(np.einsum("ij,ij->i", delta, delta))
        nearest[np.isinf(np.take_along_axis(matrix, chosen, axis=1))] = np.inf
        nearest.sort(axis=1)
    return found
