"""Robust density estimation: kernel PCA, then one robust Gaussian a class.

From Yoo, Kim, Jang and Kwak, *Detection of Word Adversarial Examples in Text Classification: Benchmark and
Baseline via Robust Density Estimation*, Findings of ACL 2022 (arXiv 2203.01677).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import ConfigurationError, DataError
from harness.detectors.base import (
    Arrays,
    DetectorInfo,
    FeatureDetector,
    Floats,
    Labels,
    mahalanobis,
    rows_of_class,
)

_CHUNK = 2048  # rows of the kernel matrix computed at once, to bound memory


class RDEEmpirical(FeatureDetector):
    """RDE(-MCD): RBF kernel PCA fitted on all classes together, then the empirical Gaussian of each gold class.

    The score is the squared Mahalanobis distance to the Gaussian of the predicted class in the reduced space.
    gamma is 1/d, features are not scaled, there is no log-determinant term.

    Args:
        layer: The layer whose class representation is read; -1 is the last.
        components: Dimensions kept by kernel PCA.
        rows: Training rows drawn over all classes.
        seed: Seed of the robust estimator (unused here, kept so that both variants are built alike).
    """

    info: ClassVar[DetectorInfo] = DetectorInfo(
        name="rde-empirical",
        title="RDE(-MCD)",
        paper="Yoo et al., Findings of ACL 2022",
        year=2022,
        reads="features",
        needs_adversarial_labels=False,
        forwards_per_text=1,
    )

    def __init__(self, layer: int = -1, components: int = 100, rows: int = 8000, seed: int = 0) -> None:
        super().__init__(layer)
        if components < 1 or rows < 2:
            raise ConfigurationError("RDE needs at least one component and two training rows.")
        self.components = components
        self.rows = rows
        self.seed = seed
        self._reference: Floats | None = None

    @property
    def fit_rows(self) -> int | None:
        """The number of rows that kernel PCA is fitted on."""
        return self.rows

    def parameters(self) -> dict[str, Any]:
        """The constructor arguments."""
        return {**super().parameters(), "components": self.components, "rows": self.rows, "seed": self.seed}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> RDEEmpirical:
        """Take fitted arrays back."""
        self._reference = None
        super().restore(arrays)
        return self

    def _fit(self, features: Floats, labels: Labels, classes: int) -> Arrays:
        from sklearn.decomposition import KernelPCA

        if len(features) <= self.components:
            raise DataError(
                f"{self.info.title} needs more training rows than components: it has {len(features)} rows "
                f"and {self.components} components.",
                "Give it more training texts, or lower --components.",
            )
        class_rows = rows_of_class(labels, classes, self.components + 1, self.info.title)
        # ARPACK finds the leading components alone, to the same precision and several times faster than the full
        # decomposition; it needs far fewer components than rows.
        solver = "arpack" if len(features) > 10 * self.components else "dense"
        pca = KernelPCA(self.components, kernel="rbf", eigen_solver=solver, random_state=0).fit(features)
        positive = pca.eigenvalues_ > 0
        directions = np.zeros_like(pca.eigenvectors_)
        directions[:, positive] = pca.eigenvectors_[:, positive] / np.sqrt(pca.eigenvalues_[positive])
        kernel_means, grand_mean = pca._centerer.K_fit_rows_, pca._centerer.K_fit_all_
        self._reference = None
        # Features are float32 at the source, so nothing is lost in keeping them so.
        self._arrays = {
            "reference": features.astype(np.float32),
            "directions": directions,
            "kernel_means": kernel_means,
            "kernel_grand_mean": np.array([grand_mean]),
        }
        reduced = self._reduce(features)
        estimates = [self._estimate(reduced[rows]) for rows in class_rows]
        return {
            **self._arrays,
            "means": np.stack([mean for mean, _ in estimates]),
            "precisions": np.stack([precision for _, precision in estimates]),
        }

    def _score(self, features: Floats, predictions: Labels) -> Floats:
        reduced = self._reduce(features)
        return mahalanobis(reduced, predictions, self._arrays["means"], self._arrays["precisions"])

    def _estimate(self, reduced: Floats) -> tuple[Floats, Floats]:
        """Mean and inverse covariance of one class in the reduced space."""
        from sklearn.covariance import EmpiricalCovariance

        fit = EmpiricalCovariance().fit(reduced)
        return fit.location_, fit.precision_

    def _reduce(self, features: Floats) -> Floats:
        """Project (n, d) features on the kernel principal components, (n, components)."""
        from sklearn.metrics.pairwise import rbf_kernel

        arrays = self._arrays
        if self._reference is None:
            self._reference = arrays["reference"].astype(np.float64)
        gamma = 1.0 / self._reference.shape[1]
        parts = []
        for start in range(0, len(features), _CHUNK):
            kernel = rbf_kernel(features[start : start + _CHUNK], self._reference, gamma=gamma)
            row_means = kernel.mean(axis=1, keepdims=True)
            kernel -= arrays["kernel_means"]
            kernel -= row_means
            kernel += arrays["kernel_grand_mean"][0]
            parts.append(kernel @ arrays["directions"])
        return np.concatenate(parts) if parts else np.zeros((0, self.components))


class RDE(RDEEmpirical):
    """RDE: RBF kernel PCA, then the minimum covariance determinant (MCD) estimate of each gold class.

    MCD is scikit-learn's `MinCovDet` with its default support, about (n + p + 1) / 2n of the rows, reweighted, and
    with a fixed seed.

    Args:
        layer: The layer whose class representation is read; -1 is the last.
        components: Dimensions kept by kernel PCA.
        rows: Training rows drawn over all classes.
        seed: Seed of MCD's random subsets.
    """

    info: ClassVar[DetectorInfo] = DetectorInfo(
        name="rde",
        title="RDE",
        paper="Yoo et al., Findings of ACL 2022",
        year=2022,
        reads="features",
        needs_adversarial_labels=False,
        forwards_per_text=1,
    )

    def _estimate(self, reduced: Floats) -> tuple[Floats, Floats]:
        from sklearn.covariance import MinCovDet
        from threadpoolctl import threadpool_limits

        # MCD is thousands of products of 100 x 100 matrices: the threads of BLAS spend their time waiting for each
        # other (measured: 10 times slower with two threads than with one).
        with threadpool_limits(limits=1, user_api="blas"):
            fit = MinCovDet(random_state=self.seed).fit(reduced)
            return fit.location_, fit.get_precision()
