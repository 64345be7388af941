"""KNN: distance to the k-th nearest training text."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from harness.detectors.base import DetectorInfo, Floats
from harness.detectors.neighbours import NeighbourDetector


class KNN(NeighbourDetector):
    """Euclidean distance to the k-th nearest training text, after scaling every vector to length 1; from 0 to 2.

    From Sun, Ming, Zhu and Li, *Out-of-Distribution Detection with Deep Nearest Neighbors*, ICML 2022. The paper
    takes k = 1,000 of ImageNet's 1.3 million training pictures and less of fewer; 10 of 8,000 is about that share.
    A training text that is the same as the scored one counts as a neighbour.

    Args:
        layer: A number (-1 = last), "last" or "all".
        k: Which neighbour's distance.
        rows: Training rows drawn over all classes, the reference set.

    Raises:
        ConfigurationError: A parameter is out of range.
    """

    info: ClassVar[DetectorInfo] = DetectorInfo(
        name="knn",
        title="KNN",
        paper="Sun et al., ICML 2022",
        year=2022,
        reads="features",
        forwards_per_text=1,
    )

    def __init__(self, layer: int | str = -1, k: int = 10, rows: int = 8000) -> None:
        super().__init__(layer, k, rows)

    def _vectors(self, features: Floats) -> Floats:
        lengths = np.linalg.norm(features, axis=1, keepdims=True)
        # A vector of zeros has no direction and stays where it is.
        vectors: Floats = features / np.where(lengths > 0, lengths, 1.0)
        return vectors

    def _judge(self, distances: Floats, dimensions: int) -> Floats:
        return distances[:, -1].copy()
