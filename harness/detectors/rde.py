"""Robust density estimation: PCA with or without a kernel, then one robust Gaussian a class.

From Yoo, Kim, Jang and Kwak, *Detection of Word Adversarial Examples in Text Classification: Benchmark and
Baseline via Robust Density Estimation*, Findings of ACL 2022 (arXiv 2203.01677).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import ConfigurationError, DataError
from harness.detectors.base import (
    GAUSSIANS,
    Arrays,
    DetectorInfo,
    FeatureDetector,
    Floats,
    Labels,
    mahalanobis,
    rows_of_class,
)
from harness.detectors.kernel_pca import KernelProjection, fit_kernel_pca
from harness.detectors.mcd import RobustGaussian, empirical_gaussian, minimum_covariance_determinant
from harness.detectors.states import Array, Layout, bad_state

_KERNEL: Layout = {
    "reference": Array("float32", ("n", "d")),
    "directions": Array("float64", ("n", "p")),
    "kernel_offset": Array("float64", ("p",)),
}
_LINEAR: Layout = {"centre": Array("float64", ("d",)), "directions": Array("float64", ("d", "p"))}
_MCD: Layout = {"mcd": Array("uint8", ("bytes",))}


class RDEEmpirical(FeatureDetector):
    """RDE(-MCD): RBF kernel PCA fitted on all classes together, then the empirical Gaussian of each gold class.

    The score is the squared Mahalanobis distance to the Gaussian of the predicted class in the reduced space.
    gamma is 1/d, features are not scaled, there is no log-determinant term. Departure: where 1,024 or 2,048 of the rows
    tell the components of all nearly as well, texts are projected by those alone (`harness.detectors.kernel_pca`),
    which moves the scores of texts far from all rows most.

    Args:
        layer: The layer whose class representation is read; -1 is the last.
        components: Dimensions kept by PCA.
        rows: Training rows drawn over all classes.
        seed: Seed of the robust estimator (unused here, kept so that all variants are built alike).
    """

    info: ClassVar[DetectorInfo] = DetectorInfo(
        name="rde-empirical",
        title="RDE(-MCD)",
        paper="Yoo et al., Findings of ACL 2022",
        year=2022,
        reads="features",
        forwards_per_text=1,
    )
    layout: ClassVar[Layout | None] = {**_KERNEL, **GAUSSIANS}

    def __init__(self, layer: int = -1, components: int = 100, rows: int = 8000, seed: int = 0) -> None:
        super().__init__(layer)
        if components < 1 or rows < 2:
            raise ConfigurationError("RDE needs at least one component and two training rows.")
        self.components = components
        self.rows = rows
        self.seed = seed
        self._project: Callable[[Floats], Floats] | None = None

    @property
    def fit_rows(self) -> int | None:
        """The number of rows that PCA is fitted on."""
        return self.rows

    def parameters(self) -> dict[str, Any]:
        """The constructor arguments."""
        return {**super().parameters(), "components": self.components, "rows": self.rows, "seed": self.seed}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Take fitted arrays back."""
        self._project = None
        return super().restore(arrays)

    def _fit(self, features: Floats, labels: Labels, classes: int) -> Arrays:
        if len(features) <= self.components:
            raise DataError(
                f"{self.info.title} needs more training rows than components: it has {len(features)} rows "
                f"and {self.components} components.",
                "Give it more training texts, or lower --components.",
            )
        class_rows = rows_of_class(labels, classes, self.components + 1, self.info.title)
        for c, rows in enumerate(class_rows):
            # Features of one and the same text differ in the last bits of float32 from batch to batch.
            if np.ptp(features[rows], axis=0).max() <= 1e-6 * np.abs(features[rows]).max():
                raise DataError(
                    f"class {c}: the covariance of {len(rows)} training rows is singular: their features are all the "
                    "same.",
                    "Choose another layer, or give it more varied training texts.",
                )
        self._project = None
        arrays, reduced = self._fit_reduction(features)
        return arrays | self._fit_gaussians([reduced[rows] for rows in class_rows])

    def _score(self, features: Floats, predictions: Labels) -> Floats:
        if self._project is None:
            self._project = self._projection(self._arrays)
        return mahalanobis(self._project(features), predictions, self._arrays["means"], self._arrays["precisions"])

    def _fit_reduction(self, features: Floats) -> tuple[Arrays, Floats]:
        """From (n, d) features to what `_projection` takes, and the features' own projections (n, components)."""
        return fit_kernel_pca(features, self.components, self.info.title)

    def _projection(self, arrays: Mapping[str, NDArray[Any]]) -> Callable[[Floats], Floats]:
        """What projects (n, d) features to (n, components)."""
        return KernelProjection(arrays)

    def _fit_gaussians(self, reduced: list[Floats]) -> Arrays:
        """`means` (classes, p) and `precisions` (classes, p, p) from each class's (n, p) projections."""
        fits = []
        for c, rows in enumerate(reduced):
            with _naming(c):
                fits.append(empirical_gaussian(rows))
        return {"means": np.stack([mean for mean, _ in fits]), "precisions": np.stack([inverse for _, inverse in fits])}


class RDE(RDEEmpirical):
    """RDE: RBF kernel PCA, then the minimum covariance determinant (MCD) estimate of each gold class.

    The estimate is scikit-learn's `MinCovDet`, seeded, in less time (`minimum_covariance_determinant`): by default
    about (n + p + 1) / 2n of the rows, reweighted.

    Args:
        layer: The layer whose class representation is read; -1 is the last.
        components: Dimensions kept by PCA.
        rows: Training rows drawn over all classes.
        seed: Seed of MCD's random subsets.
        support: Share of a class's rows that MCD rests on before reweighting, h in the paper's ablation.
    """

    info: ClassVar[DetectorInfo] = DetectorInfo(
        name="rde",
        title="RDE",
        paper="Yoo et al., Findings of ACL 2022",
        year=2022,
        reads="features",
        forwards_per_text=1,
    )
    layout: ClassVar[Layout | None] = {**_KERNEL, **GAUSSIANS, **_MCD}

    def __init__(
        self,
        layer: int = -1,
        components: int = 100,
        rows: int = 8000,
        seed: int = 0,
        support: float | None = None,
    ) -> None:
        super().__init__(layer, components, rows, seed)
        if support is not None and not 0 < support <= 1:
            raise ConfigurationError(f"a support of {support} is no share of the rows.", "Give it in (0, 1].")
        self.support = support

    def parameters(self) -> dict[str, Any]:
        """The constructor arguments."""
        return {**super().parameters(), "support": self.support}

    def facts(self) -> dict[str, Any]:
        """The parameters and, once fitted, what MCD rests on in each class and whether it had to fall back."""
        told = {"mcd": json.loads(self._arrays["mcd"].tobytes())} if "mcd" in self._arrays else {}
        return {**super().facts(), **told}

    def _check_values(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        try:
            told = json.loads(arrays["mcd"].tobytes())
        except (ValueError, RecursionError) as error:
            raise bad_state(self.info.name, "mcd is no JSON") from error
        if not isinstance(told, list) or not all(isinstance(of_class, dict) for of_class in told):
            raise bad_state(self.info.name, "mcd does not describe classes")

    def _fit_gaussians(self, reduced: list[Floats]) -> Arrays:
        from threadpoolctl import threadpool_limits

        def fit(c: int) -> RobustGaussian:
            with _naming(c):
                return minimum_covariance_determinant(reduced[c], self.support, self.seed)

        # Thousands of small products, for which threads inside BLAS wait on each other: one class a thread instead.
        with (
            threadpool_limits(limits=1, user_api="blas"),
            ThreadPoolExecutor(min(len(reduced), os.cpu_count() or 1)) as pool,
        ):
            fits = list(pool.map(fit, range(len(reduced))))
        told = json.dumps([{"class": c, **found.facts()} for c, found in enumerate(fits)])
        return {
            "means": np.stack([found.mean for found in fits]),
            "precisions": np.stack([found.precision for found in fits]),
            "mcd": np.frombuffer(told.encode(), dtype=np.uint8),
        }


class RDELinear(RDE):
    """RDE with linear PCA in the place of kernel PCA, as in the paper's ablation.

    Args:
        layer: The layer whose class representation is read; -1 is the last.
        components: Dimensions kept by PCA, at most those of the features.
        rows: Training rows drawn over all classes.
        seed: Seed of MCD's random subsets.
        support: Share of a class's rows that MCD rests on before reweighting.
    """

    info: ClassVar[DetectorInfo] = DetectorInfo(
        name="rde-linear",
        title="RDE (linear PCA)",
        paper="Yoo et al., Findings of ACL 2022",
        year=2022,
        reads="features",
        forwards_per_text=1,
    )
    layout: ClassVar[Layout | None] = {**_LINEAR, **GAUSSIANS, **_MCD}

    def _fit_reduction(self, features: Floats) -> tuple[Arrays, Floats]:
        d = features.shape[1]
        if d < self.components:
            raise DataError(
                f"{self.info.title} cannot reduce features of {d} dimensions to {self.components} components.",
                f"Give it --components {d} or fewer.",
            )
        centre = features.mean(axis=0)
        moved = features - centre
        _, vectors = np.linalg.eigh(moved.T @ moved)
        directions = np.ascontiguousarray(vectors[:, ::-1][:, : self.components])
        return {"centre": centre, "directions": directions}, moved @ directions

    def _projection(self, arrays: Mapping[str, NDArray[Any]]) -> Callable[[Floats], Floats]:
        centre, directions = arrays["centre"], arrays["directions"]

        def project(features: Floats) -> Floats:
            projected: Floats = (features - centre) @ directions
            return projected

        return project


@contextmanager
def _naming(c: int) -> Iterator[None]:
    """Have an error name the class."""
    try:
        yield
    except DataError as error:
        raise DataError(f"class {c}: {error.message}", error.hint) from error
