"""Mahalanobis and relative Mahalanobis distance to the nearest class, with one covariance for all classes."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from harness.core.errors import ConfigurationError, DataError
from harness.detectors.base import Arrays, DetectorInfo, Floats, Labels
from harness.detectors.layered import LayeredDetector, check_count
from harness.detectors.states import Array, Layout

COVARIANCES = ("empirical", "ledoit-wolf")
_CHUNK = 2048  # texts whose distances are computed at once, to bound memory
# Features are float32; by so much of their size they differ for rounding alone.
_ROUNDING = 8 * float(np.finfo(np.float32).eps)

_NEAREST: Layout = {"means": Array("float64", ("classes", "d")), "whitening": Array("float64", ("d", "rank"))}


class Mahalanobis(LayeredDetector):
    """Squared Mahalanobis distance to the nearest class mean, with a covariance that all classes share.

    From Lee, Lee, Lee and Shin, *A Simple Unified Framework for Detecting Out-of-Distribution Samples and
    Adversarial Attacks*, NeurIPS 2018: min over classes k of (x - m_k)' S^-1 (x - m_k), m_k the mean of gold class k
    and S the covariance of all rows around the means of their classes (divided by their number). Left out of the
    paper's are its perturbation of the input, which words have none of, and its logistic regression over layers, which
    needs adversarial texts: layers are joined as `LayeredDetector` says. The paper fits on all training rows.

    What a layer norm gives out lies in a hyperplane, so that the covariance of most victims' layers is singular.
    Directions in which training texts vary by no more than float32 rounding (a standard deviation of 8 epsilons of
    the features' root mean square) are therefore left out: S^-1 is a pseudo-inverse, as in the paper's own code.
    Divided by rounding, they would make scores depend on the batch that a text was read in. Fewer rows than
    dimensions and classes together are refused.

    Args:
        layer: A number (-1 = last), "last" or "all".
        rows: Training rows drawn over all classes.
        covariance: "empirical", the paper's; or "ledoit-wolf", shrunk towards a multiple of the identity (Ledoit and
            Wolf, 2004), for few rows.

    Raises:
        ConfigurationError: A parameter is out of range.
    """

    info: ClassVar[DetectorInfo] = DetectorInfo(
        name="mahalanobis",
        title="Mahalanobis",
        paper="Lee et al., NeurIPS 2018",
        year=2018,
        reads="features",
        forwards_per_text=1,
    )
    layer_layout: ClassVar[Layout | None] = _NEAREST

    def __init__(self, layer: int | str = -1, rows: int = 8000, covariance: str = "empirical") -> None:
        super().__init__(layer)
        check_count(self.info.title, "rows", rows, 2)
        if covariance not in COVARIANCES:
            raise ConfigurationError(
                f"there is no covariance {covariance!r}.", f"{self.info.title} takes: {', '.join(COVARIANCES)}."
            )
        self.rows = rows
        self.covariance = covariance

    @property
    def fit_rows(self) -> int | None:
        """The number of rows that means and covariance are taken of."""
        return self.rows

    def parameters(self) -> dict[str, Any]:
        """The constructor arguments."""
        return {**super().parameters(), "rows": self.rows, "covariance": self.covariance}

    def _fit_layer(self, features: Floats, labels: Labels, classes: int) -> Arrays:
        rows = np.bincount(labels, minlength=classes)
        if (rows == 0).any():
            raise DataError(
                f"{self.info.title} takes the mean of each class, and class {int(rows.argmin())} has 0 training rows.",
                "Give it training texts of every class that the victim knows.",
            )
        enough = features.shape[1] + classes
        if self.covariance == "empirical" and len(features) < enough:
            raise DataError(
                f"the covariance of {self.info.title} is singular: for {features.shape[1]} dimensions and {classes} "
                f"classes it needs at least {enough} training rows; it has {len(features)}.",
                "Give it more training texts, or choose covariance=ledoit-wolf.",
            )
        means = np.stack([features[labels == c].mean(axis=0) for c in range(classes)])
        return {"means": means, "whitening": self._whitening(features, means[labels])}

    def _score_layer(self, features: Floats, opened: Arrays) -> Floats:
        return np.concatenate(
            [
                _nearest(features[start : start + _CHUNK], opened["means"], opened["whitening"])
                for start in range(0, max(1, len(features)), _CHUNK)
            ]
        )

    def _whitening(self, features: Floats, means: Floats) -> Floats:
        """A matrix W, (d, rank), with W W' the pseudo-inverse covariance of (n, d) features around their means.

        Args:
            features: (n, d).
            means: (n, d) or (1, d), what each row is taken around.

        Raises:
            DataError: The features do not vary around their means.
        """
        centred = features - means
        if self.covariance == "ledoit-wolf":
            from sklearn.covariance import ledoit_wolf

            covariance = ledoit_wolf(centred, assume_centered=True)[0]
        else:
            covariance = centred.T @ centred / len(features)
        values, vectors = varied_directions(covariance, features, self.info.title)
        whitening: Floats = vectors / np.sqrt(values)
        return whitening


class RelativeMahalanobis(Mahalanobis):
    """Mahalanobis distance to the nearest class, less the distance to one Gaussian of all texts.

    From Ren, Fort, Liu, Roy, Padhy and Lakshminarayanan, *A Simple Fix to Mahalanobis Distance for Improving
    Near-OOD Detection*, ICML 2021 workshop on uncertainty and robustness in deep learning (arXiv 2106.09022): min
    over classes k of d_k - d_0, d_k as in `Mahalanobis` and d_0 with mean and covariance of all rows. It may be
    negative.

    Args:
        layer: A number (-1 = last), "last" or "all".
        rows: Training rows drawn over all classes.
        covariance: As in `Mahalanobis`, for both covariances.

    Raises:
        ConfigurationError: A parameter is out of range.
    """

    info: ClassVar[DetectorInfo] = DetectorInfo(
        name="rmd",
        title="Relative Mahalanobis",
        paper="Ren et al., ICML 2021 workshop",
        year=2021,
        reads="features",
        forwards_per_text=1,
    )
    layer_layout: ClassVar[Layout | None] = {
        **_NEAREST,
        "background_means": Array("float64", (1, "d")),
        "background_whitening": Array("float64", ("d", "all_rank")),
    }

    def _fit_layer(self, features: Floats, labels: Labels, classes: int) -> Arrays:
        mean = features.mean(axis=0, keepdims=True)
        return {
            **super()._fit_layer(features, labels, classes),
            "background_means": mean,
            "background_whitening": self._whitening(features, mean),
        }

    def _score_layer(self, features: Floats, opened: Arrays) -> Floats:
        background = {name: opened[f"background_{name}"] for name in ("means", "whitening")}
        scores: Floats = super()._score_layer(features, opened) - super()._score_layer(features, background)
        return scores


def varied_directions(covariance: Floats, features: Floats, detector: str) -> tuple[Floats, Floats]:
    """Variances, (rank,), and directions, (d, rank), in which features vary by more than float32 rounding.

    Args:
        covariance: (d, d), of the features around their means.
        features: (n, d); their root mean square is what rounding is measured by.
        detector: Named in the error.

    Raises:
        DataError: There is no such direction.
    """
    values, vectors = np.linalg.eigh(covariance)
    kept = values > _ROUNDING**2 * np.square(features).mean()
    if not kept.any():
        raise DataError(
            f"the covariance of {detector} is singular: within a class the features do not vary.",
            "Choose another layer.",
        )
    return values[kept], vectors[:, kept]


def _nearest(features: Floats, means: Floats, whitening: Floats) -> Floats:
    """Squared distance of (n, d) rows to the nearest of (k, d) means after whitening, (n,)."""
    # Centred first: a common offset of the features would cost digits.
    centre = means.mean(axis=0)
    texts, targets = (features - centre) @ whitening, (means - centre) @ whitening
    nearest = np.full(len(features), np.inf)
    for target in targets:
        delta = texts - target
        np.minimum(nearest, np.einsum("ij,ij->i", delta, delta), out=nearest)
    return nearest
