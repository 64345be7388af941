"""Fitting and scoring RDE against its exact composition from scikit-learn, in one run.

The peer is `KernelPCA` by full decomposition and `MinCovDet` with one BLAS thread (with two it is several times
slower). Features are synthetic: two classes, a decaying spectrum, heavy tails. Test texts are clean, or lie part of the
way towards the other class, which is then the predicted one, as texts of an attack do.

    python benchmarks/rde_fit.py [--rows 8000] [--width 768] [--components 100]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.covariance import MinCovDet
from sklearn.decomposition import KernelPCA
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from harness.detectors.rde import RDE
from harness.text.victims import VictimOutputs

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


class Composition:
    """RDE put together from scikit-learn's own classes, timed part by part."""

    def __init__(self, components: int) -> None:
        self.pca = KernelPCA(components, kernel="rbf", eigen_solver="dense")
        self.seconds: dict[str, float] = {}

    def fit(self, features: Floats, labels: Labels) -> None:
        """Fit on (n, d) features."""
        started = time.perf_counter()
        reduced = self.pca.fit_transform(features)
        self.seconds["kernel PCA"] = time.perf_counter() - started
        started = time.perf_counter()
        with threadpool_limits(1, user_api="blas"):
            self.fits = [MinCovDet(random_state=0).fit(reduced[labels == c]) for c in (0, 1)]
        self.seconds["MCD"] = time.perf_counter() - started

    def score(self, features: Floats, predictions: Labels) -> Floats:
        """Score (n, d) features, (n,)."""
        reduced = self.pca.transform(features)
        return np.array([self.fits[c].mahalanobis(row[None])[0] for row, c in zip(reduced, predictions, strict=True)])


class TimedRDE(RDE):
    """RDE that remembers what its two parts took."""

    def _fit_reduction(self, features):  # type: ignore[no-untyped-def]
        started = time.perf_counter()
        found = super()._fit_reduction(features)
        self.seconds = {"kernel PCA": time.perf_counter() - started}
        return found

    def _fit_gaussians(self, reduced):  # type: ignore[no-untyped-def]
        started = time.perf_counter()
        found = super()._fit_gaussians(reduced)
        self.seconds["MCD"] = time.perf_counter() - started
        return found


def draw(rng: np.random.Generator, labels: Labels, width: int, shift: float = 0.0) -> NDArray[np.float32]:
    """(n, width) features of labels, moved by a share of the way to the other class."""
    # As large as those of BERT and RoBERTa: ||x||^2 is about d / 2, half of it the distance of the classes.
    spread = 1 / np.sqrt(np.arange(1, width + 1))
    spread *= np.sqrt(width / 4 / 1.5 / (spread**2).sum())
    features = rng.standard_t(6, (len(labels), width)) * spread
    features[:, :4] += np.sqrt(width / 16) * np.where(labels, 1, -1)[:, None] * (1 - 2 * shift)
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((width, width)))[0]
    return np.asarray(features @ turn, dtype=np.float32)


def outputs(features: NDArray[np.float32], predictions: Labels) -> VictimOutputs:
    """Victim outputs of these features and predictions."""
    return VictimOutputs(np.eye(2)[predictions], {1: features})


def milliseconds(score: Callable[[int], object], texts: int = 100) -> float:
    """Median time to score one text."""
    taken = []
    for i in range(texts):
        started = time.perf_counter()
        score(i)
        taken.append(time.perf_counter() - started)
    return 1e3 * statistics.median(taken)


def main() -> None:
    """Fit and score both ways and print times, their ratios and the agreement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--components", type=int, default=100)
    options = parser.parse_args()
    rng = np.random.default_rng(1)
    labels, gold = rng.integers(0, 2, options.rows), rng.integers(0, 2, 2000)
    adversarial = np.arange(2000) % 2 == 1
    train = draw(rng, labels, options.width)
    test = np.where(adversarial[:, None], draw(rng, gold, options.width, 0.7), draw(rng, gold, options.width))
    predictions = np.where(adversarial, 1 - gold, gold)

    ours = TimedRDE(components=options.components).fit(outputs(train, labels), labels)
    peer = Composition(options.components)
    peer.fit(train.astype(np.float64), labels)
    scores, exact = ours.score(outputs(test, predictions)), peer.score(test.astype(np.float64), predictions)

    few = [outputs(test[i : i + 1], predictions[i : i + 1]) for i in range(100)]
    wide = test.astype(np.float64)
    print(f"RDE of {options.rows} x {options.width}, {options.components} components, 2 classes")
    print(f"{'':24}{'palimpsest':>12}{'scikit-learn':>14}{'ratio':>8}")
    rows = [(f"{part}, s", ours.seconds[part], peer.seconds[part]) for part in peer.seconds]
    rows.append(("fit, s", sum(ours.seconds.values()), sum(peer.seconds.values())))
    rows.append(
        (
            "score of one text, ms",
            milliseconds(lambda i: ours.score(few[i])),
            milliseconds(lambda i: peer.score(wide[i : i + 1], predictions[i : i + 1])),
        )
    )
    for name, mine, theirs in rows:
        print(f"{name:24}{mine:12.2f}{theirs:14.2f}{theirs / mine:8.1f}")
    singly = np.concatenate([ours.score(one) for one in few])
    auc, exact_auc = (100 * roc_auc_score(adversarial, values) for values in (scores, exact))
    print(f"AUC {auc:.3f} and {exact_auc:.3f}, difference {auc - exact_auc:+.4f} points (target: within 0.1)")
    print(f"rank correlation of scores {spearmanr(scores, exact).statistic:.7f} (target: above 0.999)")
    print(f"largest relative difference {np.abs(scores / exact - 1).max():.1e}")
    print(f"scored singly and in a batch: largest relative difference {np.abs(singly / scores[:100] - 1).max():.1e}")


if __name__ == "__main__":
    main()
