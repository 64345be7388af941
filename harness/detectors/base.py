"""The contract of a detector, and its small family by what a detector reads.

What a victim says of the texts themselves (probabilities, logits, features) is read once, outside, and handed to every
detector; a detector that asks more (perturbed texts, gradients, another model) is attached to the victim and asks
itself. Scores are float64 of shape (n,), **higher = more adversarial** everywhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import ConfigurationError, DataError, NotFittedError
from harness.detectors.states import Array, Layout, check_arrays, check_sizes
from harness.text.victims import Victim, VictimOutputs

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Bools = NDArray[np.bool_]
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class DetectorInfo:
    """What a detector is; tables and docs are rendered from it and a test checks it.

    Attributes:
        name: The registry name.
        title: How tables call it.
        paper: Where it was published.
        year: When.
        reads: What it needs: class probabilities (or logits), features of layers, perturbed texts, gradients at
            tokens, a language model.
        adversarial_texts: Whether it needs any: "none", or validation rows of an attack on which it "tunes" a
            parameter (and has a default without), or on which it "trains". Those that train are in a class of their
            own and never ranked with the others.
        forwards_per_text: Forward passes of the victim to score one text, the plain one included; None where it
            depends on the text.
        at_most: Forwards that no text needs more of, where the number depends on the text and is bounded.
        cost: All that scoring one text costs, such as "L + 1" for a text of L words.
        scores_words: Whether it can say which words look substituted (`word_scores`).
        version: Raised where it scores otherwise than before, with the same parameters on the same data: fits and rows
            of one version are not those of another.
    """

    name: str
    title: str
    paper: str
    year: int
    reads: Literal["probabilities", "features", "perturbed texts", "gradients", "language model"]
    forwards_per_text: float | None
    cost: str = "1"
    at_most: float | None = None
    adversarial_texts: Literal["none", "tunes", "trains"] = "none"
    scores_words: bool = False
    version: int = 1

    @property
    def needs_adversarial_labels(self) -> bool:
        """Whether it cannot be used without adversarial texts to train on."""
        return self.adversarial_texts == "trains"


class Detector(ABC):
    """A detector of adversarial texts.

    The state after `fit` is a set of arrays and a set of JSON-able parameters; a detector restored from them
    gives the same scores to the last bit.
    """

    info: ClassVar[DetectorInfo]
    # The arrays that a fitted one has, so that those of a file can be checked; None where a class does not say it.
    layout: ClassVar[Layout | None] = None
    # Whether `fit_corpus` has to be called, with all clean training texts there are.
    reads_corpus: ClassVar[bool] = False

    def attach(self, victim: Victim) -> Self:
        """Give it the victim to ask; called before `fit` and before `score`. Most detectors ask nothing.

        Raises:
            ConfigurationError: The victim, or another model it needs, cannot be asked what it asks.
        """
        return self

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers of the victim it reads (-1 is the last)."""
        return ()

    @property
    def fit_rows(self) -> int | None:
        """How many training rows it wants: 0 for none, None for all there are."""
        return None

    def fit_corpus(self, texts: Sequence[str]) -> None:
        """Learn from clean training texts that the victim does not read, such as word counts; before `fit`."""
        return None

    @property
    def other_forwards(self) -> int:
        """Texts run through another model than the victim so far."""
        return 0

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

    def fit_adversarial(self, outputs: VictimOutputs, adversarial: Bools) -> Self:
        """Tune or train on validation rows of an attack; after `fit`. Only where `info.adversarial_texts` says so.

        Args:
            outputs: Outputs on n clean and adversarial texts.
            adversarial: (n,), True for an adversarial text.

        Returns:
            Itself. Calling it again forgets what was tuned or trained before.
        """
        raise ConfigurationError(f"the detector {self.info.name!r} takes no adversarial texts.")

    def word_scores(self, outputs: VictimOutputs) -> list[Floats]:
        """How substituted each word of n texts looks; only where `info.scores_words` says so.

        Returns:
            For each text one float64 a word of `harness.text.words.find_words`, higher = more likely substituted.

        Raises:
            ConfigurationError: This detector says nothing of words.
        """
        raise ConfigurationError(f"the detector {self.info.name!r} says nothing of single words.")

    @abstractmethod
    def parameters(self) -> dict[str, Any]:
        """The JSON-able constructor arguments."""

    def facts(self) -> dict[str, Any]:
        """What rows say of it, JSON-able: its parameters, with models by name and hash and never by path."""
        return self.parameters()

    def arrays(self) -> Arrays:
        """The fitted arrays."""
        return {}

    def check(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Refuse arrays that no fit of it leaves; before `restore`, for a file may hold anything.

        Raises:
            DataError: An array is missing, unknown, of another type or shape, or holds what it cannot.
        """
        check_arrays(self.info.name, self.layout, arrays)
        if arrays:
            self._check_values(arrays)

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Take fitted arrays back."""
        return self

    def _check_values(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Refuse values, in arrays of the right types and shapes, that scoring would stumble over; by default none."""
        return None


class ProbabilityDetector(Detector):
    """A detector that reads class probabilities and has nothing to fit."""

    layout: ClassVar[Layout | None] = {}

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


class QueryDetector(Detector):
    """A detector that asks the victim about texts of its own making, or for gradients.

    A subclass asks `self.victim` and takes the texts from `texts_of(outputs)`.
    """

    def __init__(self) -> None:
        self._victim: Victim | None = None
        self._arrays: Arrays = {}

    def attach(self, victim: Victim) -> Self:
        """Give it the victim to ask."""
        self._victim = victim
        return self

    @property
    def victim(self) -> Victim:
        """The victim it asks.

        Raises:
            NotFittedError: It was not attached to one.
        """
        if self._victim is None:
            raise NotFittedError(f"the detector {self.info.name!r} has no victim to ask.", "Call attach(victim) first.")
        return self._victim

    @property
    def fit_rows(self) -> int | None:
        """None are wanted, unless a subclass says otherwise."""
        return 0

    def fit(self, outputs: VictimOutputs, labels: Labels) -> Self:
        """Nothing to learn, unless a subclass says otherwise."""
        return self

    def parameters(self) -> dict[str, Any]:
        """It has none, unless a subclass says otherwise."""
        return {}

    def arrays(self) -> Arrays:
        """The fitted arrays."""
        return dict(self._arrays)

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Take fitted arrays back."""
        self._arrays = dict(arrays)
        return self


class FeatureDetector(Detector):
    """A detector that reads the class representation of one layer.

    Args:
        layer: Which one; -1 is the last.

    Raises:
        ConfigurationError: It is no number; such a detector cannot join layers.
    """

    def __init__(self, layer: int = -1) -> None:
        if not isinstance(layer, int) or isinstance(layer, bool):
            raise ConfigurationError(
                f"the detector {self.info.name!r} reads one layer, not {layer!r}.", "Give a layer's number."
            )
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
        features = self._features(outputs)
        sizes = {"classes": outputs.probabilities.shape[1], "d": features.shape[1]}
        check_sizes(self.info.name, self.layout, self._arrays, sizes)
        return self._score(features, outputs.predictions)

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


# A Gaussian a class in p dimensions.
GAUSSIANS: Layout = {
    "means": Array("float64", ("classes", "p")),
    "precisions": Array("float64", ("classes", "p", "p")),
}


def texts_of(outputs: VictimOutputs) -> tuple[str, ...]:
    """The texts that outputs are of.

    Raises:
        DataError: They are not at hand.
    """
    if outputs.texts is None:
        raise DataError("the texts themselves are not at hand, and this detector reads them.")
    return outputs.texts


def logits_of(outputs: VictimOutputs) -> Floats:
    """The logits of n texts, (n, classes).

    Raises:
        DataError: They are not at hand.
    """
    if outputs.logits is None:
        raise DataError("the logits are not at hand, only probabilities.")
    return outputs.logits


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
