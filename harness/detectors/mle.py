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
from harness.detectors.states import Array, Layout


class MLE(FeatureDetector):
    """Squared Mahalanobis distance to the empirical Gaussian of the predicted class, on raw features.

    The maximum-likelihood baseline of Yoo et al., *Detection of Word Adversarial Examples in Text Classification*,
    Findings of ACL 2022: mean and covariance of all training rows of each gold class, no reduction, no
    log-determinant term.

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
        from sklearn.covariance import EmpiricalCovariance

        class_rows = rows_of_class(labels, classes, features.shape[1] + 1, self.info.title)
        fits = [EmpiricalCovariance().fit(features[rows]) for rows in class_rows]
        return {
            "means": np.stack([fit.location_ for fit in fits]),
            "precisions": np.stack([fit.precision_ for fit in fits]),
        }

    def _score(self, features: Floats, predictions: Labels) -> Floats:
        return mahalanobis(features, predictions, self._arrays["means"], self._arrays["precisions"])
