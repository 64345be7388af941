"""LID: local intrinsic dimensionality of a text among training texts."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from harness.detectors.base import DetectorInfo, Floats
from harness.detectors.neighbours import NeighbourDetector


class LID(NeighbourDetector):
    """Maximum-likelihood estimate of the local intrinsic dimensionality around a text.

    From Ma et al., *Characterizing Adversarial Subspaces Using Local Intrinsic Dimensionality*, ICLR 2018: with
    r_1 <= ... <= r_k the Euclidean distances to the k nearest training texts, -1 / mean(log(r_i / r_k)). Two things
    differ from the paper. Neighbours are looked for in one fixed reference set, not in the minibatch, so that a
    score does not depend on the other texts; and the estimate itself is the score, where the paper trains a logistic
    regression on the estimates of adversarial texts.

    As a text is not its own neighbour in the paper, copies of it are passed over: reference rows within 1e-5 of its
    norm, the most that one text's float32 features differ from batch to batch. The estimate is cut at the number of
    features, which no dimensionality exceeds and which equally distant neighbours would send it beyond without
    bound. A text with fewer than k neighbours left is judged by those, and one with less than two gets 0.

    Args:
        layer: A number (-1 = last), "last" or "all".
        k: Neighbours; at least 2.
        rows: Training rows drawn over all classes, the reference set.

    Raises:
        ConfigurationError: A parameter is out of range.
    """

    info: ClassVar[DetectorInfo] = DetectorInfo(
        name="lid",
        title="LID",
        paper="Ma et al., ICLR 2018",
        year=2018,
        reads="features",
        forwards_per_text=1,
    )
    smallest_k = 2
    copies_within = 1e-5

    def __init__(self, layer: int | str = -1, k: int = 20, rows: int = 8000) -> None:
        super().__init__(layer, k, rows)

    def _judge(self, distances: Floats, dimensions: int) -> Floats:
        known = np.isfinite(distances)
        count = known.sum(axis=1)
        farthest = np.where(known, distances, 0.0).max(axis=1, keepdims=True)
        ratios = np.divide(distances, farthest, out=np.ones_like(distances), where=known)
        spread = -np.log(ratios).sum(axis=1) / np.maximum(count, 1)
        scores: Floats = np.where(count > 1, 1.0 / np.maximum(spread, 1.0 / dimensions), 0.0)
        return scores
