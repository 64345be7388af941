"""Detectors that read one layer, or all layers of the victim joined into one score."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import ConfigurationError, DataError, NotFittedError
from harness.detectors.base import Arrays, Detector, Floats, Labels
from harness.detectors.states import Array, Layout, bad_state, check_arrays, check_sizes
from harness.text.victims import Victim, VictimOutputs

HELD_OUT = 5  # of each class, every fifth training row standardises a layer's scores


class LayeredDetector(Detector):
    """A detector that reads the class representation of one layer, or of all layers.

    One layer's score is the paper's. With "all", each layer is fitted and scored by itself, its score is
    standardised, and the average over the layers is the score. Layers differ in scale and width, so they can be
    joined only by how unusual a score is for a clean text. Mean and standard deviation (population) are therefore
    those of scores on clean training texts that the layer's fit did not see: a fit lies closer to its own rows than
    to any other text. Which texts these are, `_fit_and_score_unseen` decides:

    - by default every fifth row of each class is held out, and the layer is fitted on the others alone, so that what
      is standardised is the very fit that scores;
    - a detector whose fit is a set of reference rows leaves out each row in turn instead, and keeps them all.

    "All" is layers 1 to the last; the embedding layer (0) is left out where the class representation is one token's,
    for there it is the same vector in every text, or a decoder's last word alone. The word CNN and LSTM pool over the
    words, and their layer 0 is read too.

    Args:
        layer: A number (0 = embeddings, -1 = last), "last" or "all". The number of layers, and what "all" stands
            for, is learnt in `attach`.

    Raises:
        ConfigurationError: It is something else.
    """

    # The arrays of each layer; None where a class does not say it.
    layer_layout: ClassVar[Layout | None] = None

    def __init__(self, layer: int | str = -1) -> None:
        self.layer = checked_layer(layer)
        self._layers: tuple[int, ...] = () if isinstance(self.layer, str) else (self.layer,)
        self._arrays: Arrays = {}
        self._opened: dict[int, Arrays] = {}

    def attach(self, victim: Victim) -> Self:
        """Learn which layers there are; a fitted detector keeps those that it was fitted on."""
        if not self._arrays:
            first = 1 if victim.has_class_token else 0
            everything = tuple(range(first, victim.num_layers + 1))
            self._layers = everything if isinstance(self.layer, str) else (victim.layer(self.layer),)
        return self

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers of the victim it reads.

        Raises:
            NotFittedError: It reads all, and neither a victim nor a fit has said how many there are.
        """
        if not self._layers:
            raise NotFittedError(
                f"the detector {self.info.name!r} does not know how many layers there are.", "Call attach(victim)."
            )
        return self._layers

    def parameters(self) -> dict[str, Any]:
        """The constructor arguments."""
        return {"layer": self.layer}

    def fit(self, outputs: VictimOutputs, labels: Labels) -> Self:
        """Learn from each layer's features and the gold labels.

        Raises:
            DataError: Too few rows, a layer that cannot be told apart from text to text, or what the subclass
                cannot fit; the layer is named.
        """
        classes = outputs.probabilities.shape[1]
        labels = np.asarray(labels, dtype=np.int64)
        numbers = [_number(outputs, layer) for layer in self.layers]
        arrays: Arrays = {"layers": np.array(numbers, dtype=np.int64)}
        standards = []
        for number in numbers:
            features = _features(outputs, number)
            try:
                check_varied(features, self.info.title)
                if self.layer == "all":
                    fitted, unseen = self._fit_and_score_unseen(features, labels, classes)
                    standards.append(self._standard(unseen))
                else:
                    fitted = self._fit_layer(features, labels, classes)
            except DataError as error:
                raise DataError(f"layer {number}: {error.message}", error.hint) from error
            # In the order in which they are restored: products round by it.
            arrays |= {f"layer{number}.{name}": np.ascontiguousarray(values) for name, values in fitted.items()}
        if self.layer == "all":
            arrays["standards"] = np.array(standards)
        return self.restore(arrays)

    def score(self, outputs: VictimOutputs) -> Floats:
        """Score by the features of its layers."""
        if not self._arrays:
            raise NotFittedError(f"the detector {self.info.name!r} is not fitted.", "Call fit, or load a fitted one.")
        found = []
        for number in self._layers:
            features, mine = _features(outputs, number), _of_layer(self._arrays, number)
            sizes = {"classes": outputs.probabilities.shape[1], "d": features.shape[1]}
            check_sizes(self.info.name, self.layer_layout, mine, sizes)
            if number not in self._opened:
                self._opened[number] = self._open(mine)
            found.append(self._score_layer(features, self._opened[number]))
        if self.layer != "all":
            return found[0]
        means, deviations = self._arrays["standards"].T
        joined: Floats = ((np.stack(found, axis=1) - means) / deviations).mean(axis=1)
        return joined

    def arrays(self) -> Arrays:
        """The fitted arrays: `layers` (L,), those of each layer, and with "all" `standards` (L, 2)."""
        return dict(self._arrays)

    def check(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Refuse arrays that no fit of it leaves."""
        name = self.info.name
        if not arrays:
            return
        own = {key: values for key, values in arrays.items() if "." not in key}
        joined = {"standards": Array("float64", ("layers", 2))} if self.layer == "all" else {}
        if not own:
            raise bad_state(name, "the array layers is missing")
        check_arrays(name, {"layers": Array("int64", ("layers",)), **joined}, own)
        numbers = own["layers"].tolist()
        if min(numbers) < 0 or len(set(numbers)) < len(numbers) or (self.layer != "all" and len(numbers) > 1):
            raise bad_state(name, f"its layers are {numbers[:5]}")
        if joined and (own["standards"][:, 1] <= 0).any():
            raise bad_state(name, "the deviation of a layer's scores is not above 0")
        parts = {number: _of_layer(arrays, number) for number in numbers}
        known = {f"layer{number}.{key}" for number, mine in parts.items() for key in mine} | own.keys()
        if unknown := sorted(arrays.keys() - known):
            raise bad_state(name, f"it has no array {unknown[0]!r}")
        for mine in parts.values():
            if not mine:
                raise bad_state(name, "the arrays of a layer are missing")
            check_arrays(name, self.layer_layout, mine)
            self._check_values(mine)

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Take fitted arrays back."""
        self._arrays = dict(arrays)
        self._layers = tuple(int(number) for number in arrays["layers"])
        self._opened = {}
        return self

    @abstractmethod
    def _fit_layer(self, features: Floats, labels: Labels, classes: int) -> Arrays:
        """From (n, d) float64 features, (n,) labels and the victim's number of classes to a layer's fitted arrays."""

    @abstractmethod
    def _score_layer(self, features: Floats, opened: Arrays) -> Floats:
        """From (n, d) float64 features and what `_open` made of a layer's fitted arrays to (n,) scores."""

    def _open(self, fitted: Arrays) -> Arrays:
        """What is worth computing once from a layer's fitted arrays, before it scores; by default they themselves."""
        return fitted

    def _fit_and_score_unseen(self, features: Floats, labels: Labels, classes: int) -> tuple[Arrays, Floats]:
        """A layer's fitted arrays, and scores of training texts that the fit did not see."""
        held = np.zeros(len(features), dtype=bool)
        # By class, so that a regular order of the classes does not hold out one of them whole.
        for c in range(classes):
            held[np.flatnonzero(labels == c)[HELD_OUT - 1 :: HELD_OUT]] = True
        fitted = self._fit_layer(features[~held], labels[~held], classes)
        return fitted, self._score_layer(features[held], self._open(fitted))

    def _standard(self, unseen: Floats) -> tuple[float, float]:
        if len(unseen) < 2 or not unseen.std() > 0:
            raise DataError(
                f"{self.info.title} cannot standardise the layer: its scores on the {len(unseen)} training texts "
                "held out from its fit do not vary.",
                "Give it more training texts, or read one layer.",
            )
        return float(unseen.mean()), float(unseen.std())


def checked_layer(layer: int | str) -> int | str:
    """A layer's number, with "last" as -1, or "all".

    Raises:
        ConfigurationError: It is something else.
    """
    if layer == "last":
        return -1
    if layer == "all" or (isinstance(layer, int) and not isinstance(layer, bool)):
        return layer
    raise ConfigurationError(f"{layer!r} is no layer.", "Give its number, such as 6 or -1, or `last`, or `all`.")


def check_varied(features: Floats, detector: str) -> None:
    """Refuse (n, d) training features that cannot be told apart from text to text.

    Raises:
        DataError: There are none, or they are all the same; the detector is named.
    """
    if not len(features):
        raise DataError(f"{detector} has no training rows.")
    # Features of one and the same vector differ in the last bits of float32 from batch to batch.
    if np.ptp(features, axis=0).max() <= 1e-6 * np.abs(features).max():
        raise DataError(
            f"{detector} can read nothing from features that are the same for every training text.",
            "Choose another layer: a class token's embedding (layer 0) is the same in all texts.",
        )


def check_count(detector: str, name: str, value: object, least: int) -> None:
    """Refuse a parameter that is not a whole number of at least `least`.

    Raises:
        ConfigurationError: It is not; detector and parameter are named.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigurationError(f"{detector} takes a whole number of at least {least} for {name}, not {value!r}.")


def _of_layer(arrays: Mapping[str, NDArray[Any]], number: int) -> Arrays:
    prefix = f"layer{number}."
    return {key.removeprefix(prefix): values for key, values in arrays.items() if key.startswith(prefix)}


def _number(outputs: VictimOutputs, layer: int) -> int:
    """The last layer's number, where a detector that was attached to no victim says -1."""
    return max(outputs.features) if layer == -1 and outputs.features else layer


def _features(outputs: VictimOutputs, number: int) -> Floats:
    if number not in outputs.features:
        raise DataError(f"the features of layer {number} were not read.")
    return outputs.features[number].astype(np.float64)
