"""MLE: one empirical Gaussian a class on the raw features."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from harness.detectors.base import (
    Arrays,
    DetectorInfo,
    FeatureDetector,
    Floats,
    Labels,
    mahalanobis,
    rows_of_class,
)
from harness.detectors.layered import check_varied
from harness.detectors.mahalanobis import varied_directions
from harness.detectors.states import Array, Layout


class MLE(FeatureDetector):
    """Squared Mahalanobis distance to the empirical Gaussian of the predicted class, on raw features.

    The maximum-likelihood baseline of Yoo et al., *Detection of Word Adversarial Examples in Text Classification*,
    Findings of ACL 2022: mean and covariance of all training rows of each gold class, no reduction, no
    log-determinant term. Directions in which a class varies by no more than float32 rounding are left out of its
    precision, as in `Mahalanobis`: divided by rounding, they would make scores depend on the batch that a text was
    read in.

    Args:
        layer: The layer whose class representation is read; -1 is the last.
    """

    info: ClassVar[DetectorInfo] = DetectorInfo(
        name="mle",
        title="MLE",
        paper="Yoo et al., Findings of ACL 2022",
        year=2022,
        reads="features",
        forwards_per_text=1,
    )
    layout: ClassVar[Layout | None] = {
        "means": Array("float64", ("classes", "d")),
        "precisions": Array("float64", ("classes", "d", "d")),
    }

    def _fit(self, features: Floats, labels: Labels, classes: int) -> Arrays:
        check_varied(features, self.info.title)
        means, precisions = [], []
        for rows in rows_of_class(labels, classes, features.shape[1] + 1, self.info.title):
            of_class = features[rows]
            means.append(of_class.mean(axis=0))
            centred = of_class - means[-1]
            values, vectors = varied_directions(centred.T @ centred / len(rows), of_class, self.info.title)
            precisions.append(vectors / values @ vectors.T)
        return {"means": np.stack(means), "precisions": np.stack(precisions)}

    def _score(self, features: Floats, predictions: Labels) -> Floats:
        return mahalanobis(features, predictions, self._arrays["means"], self._arrays["precisions"])
