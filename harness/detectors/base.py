"""The contract of a detector, and its small family by what a detector reads.

Features and probabilities are computed once, outside, and handed to every detector; scores are float64 of shape
(n,), **higher = more adversarial** everywhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import DataError, NotFittedError
from harness.text.victims import VictimOutputs

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class DetectorInfo:
    """What a detector is; tables and docs are rendered from it and a test checks it.

    Attributes:
        name: The registry name.
        title: How tables call it.
        paper: Where it was published.
        year: When.
        reads: What it needs of the victim.
        needs_adversarial_labels: Whether fitting needs adversarial texts.
        forwards_per_text: Forward passes of the victim to score one text.
    """

    name: str
    title: str
    paper: str
    year: int
    reads: Literal["probabilities", "features"]
    needs_adversarial_labels: bool
    forwards_per_text: float


class Detector(ABC):
    """A detector of adversarial texts.

    The state after `fit` is a set of arrays and a set of JSON-able parameters; a detector restored from them
    gives the same scores to the last bit.
    """

    info: ClassVar[DetectorInfo]

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers of the victim it reads (-1 is the last)."""
        return ()

    @property
    def fit_rows(self) -> int | None:
        """How many training rows it wants: 0 for none, None for all there are."""
        return None

    @abstractmethod
    def fit(self, outputs: VictimOutputs, labels: Labels) -> Self:
        """Learn from what the victim says of clean training texts.

        Args:
            outputs: Outputs on n training texts, with the features of `layers`.
            labels: (n,) gold labels.

        Raises:
            DataError: Too few rows.
        """

    @abstractmethod
    def score(self, outputs: VictimOutputs) -> Floats:
        """Score n texts.

        Returns:
            (n,) float64, higher = more adversarial.

        Raises:
            NotFittedError: `fit` was not called.
        """

    @abstractmethod
    def parameters(self) -> dict[str, Any]:
        """The JSON-able constructor arguments."""

    def arrays(self) -> Arrays:
        """The fitted arrays."""
        return {}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Take fitted arrays back."""
        return self


class ProbabilityDetector(Detector):
    """A detector that reads class probabilities and has nothing to fit."""

    @property
    def fit_rows(self) -> int | None:
        """None are wanted."""
        return 0

    def fit(self, outputs: VictimOutputs, labels: Labels) -> Self:
        """Nothing to learn."""
        return self

    def parameters(self) -> dict[str, Any]:
        """It has none."""
        return {}


class FeatureDetector(Detector):
    """A detector that reads the class representation of one layer.

    Args:
        layer: Which one; -1 is the last.
    """

    def __init__(self, layer: int = -1) -> None:
        self.layer = layer
        self._arrays: Arrays = {}

    @property
    def layers(self) -> tuple[int, ...]:
        """Its one layer."""
        return (self.layer,)

    def fit(self, outputs: VictimOutputs, labels: Labels) -> Self:
        """Learn from the layer's features and the gold labels."""
        classes = outputs.probabilities.shape[1]
        self._arrays = self._fit(self._features(outputs), np.asarray(labels, dtype=np.int64), classes)
        return self

    def score(self, outputs: VictimOutputs) -> Floats:
        """Score by the layer's features and the victim's predictions."""
        if not self._arrays:
            raise NotFittedError(f"the detector {self.info.name!r} is not fitted.", "Call fit, or load a fitted one.")
        return self._score(self._features(outputs), outputs.predictions)

    def parameters(self) -> dict[str, Any]:
        """The constructor arguments."""
        return {"layer": self.layer}

    def arrays(self) -> Arrays:
        """The fitted arrays."""
        return dict(self._arrays)

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Take fitted arrays back."""
        self._arrays = dict(arrays)
        return self

    @abstractmethod
    def _fit(self, features: Floats, labels: Labels, classes: int) -> Arrays:
        """From (n, d) float64 features, (n,) labels and the victim's number of classes to the fitted arrays."""

    @abstractmethod
    def _score(self, features: Floats, predictions: Labels) -> Floats:
        """From (n, d) float64 features and (n,) predicted labels to (n,) scores."""

    def _features(self, outputs: VictimOutputs) -> Floats:
        wanted = max(outputs.features) if self.layer == -1 and outputs.features else self.layer
        if wanted not in outputs.features:
            raise DataError(f"the features of layer {self.layer} were not read.")
        return outputs.features[wanted].astype(np.float64)


def rows_of_class(labels: Labels, classes: int, minimum: int, detector: str) -> list[NDArray[np.int64]]:
    """Positions of the rows of class 0, 1, ..., in order.

    Args:
        labels: (n,) gold labels.
        classes: Classes of the victim; it may predict each of them.
        minimum: Rows that each class must have.
        detector: Named in the error.

    Raises:
        DataError: A class has fewer, so that its covariance would be singular.
    """
    rows = [np.flatnonzero(labels == c) for c in range(classes)]
    smallest = min(range(classes), key=lambda c: len(rows[c]))
    if len(rows[smallest]) < minimum:
        raise DataError(
            f"{detector} needs at least {minimum} training rows of each class, more than it has dimensions; "
            f"class {smallest} has {len(rows[smallest])}.",
            "Give it more training texts, or use a detector with fewer dimensions (rde with --components).",
        )
    return rows


def mahalanobis(features: Floats, predictions: Labels, means: Floats, precisions: Floats) -> Floats:
    """Squared Mahalanobis distance of each row to the Gaussian of its predicted class.

    Args:
        features: (n, p).
        predictions: (n,) class of each row.
        means: (classes, p).
        precisions: (classes, p, p) inverse covariances.

    Returns:
        (n,) float64.
    """
    scores = np.zeros(len(features))
    for c in range(len(means)):
        rows = predictions == c
        delta = features[rows] - means[c]
        scores[rows] = np.einsum("ij,ij->i", delta @ precisions[c], delta)
    return scores
