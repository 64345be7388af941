from __future__ import annotations

import math

import numpy as np
import pytest

from harness.core import stats
from harness.core.stats import cluster_weights, iter_cluster_weights, percentile_interval


def test_weights_are_cluster_counts() -> None:
    clusters = np.array([7, -3, 7, 10**12, -3, 7])
    weights = cluster_weights(clusters, 500, seed=0)
    assert weights.shape == (500, 6)
    assert weights.dtype == np.uint16
    # Rows of one cluster share its count; over the three clusters the counts add up to three.
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 0] == weights[:, 5]).all()
    assert (weights[:, 1] == weights[:, 4]).all()
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()


def test_counts_are_multinomial() -> None:
    # A count of n multinomial draws over n cells has mean 1 and variance 1 - 1/n, and two counts a covariance
    # of -1/n. With 20,000 replicates the standard errors are below 0.013.
    weights = cluster_weights(np.arange(5), 20_000, seed=1).astype(float)
    assert weights.mean(axis=0) == pytest.approx(np.ones(5), abs=0.04)
    expected = np.eye(5) - 1 / 5
    assert np.cov(weights.T) == pytest.approx(expected, abs=0.06)


def test_seed_decides_and_chunks_do_not() -> None:
    clusters = np.arange(40) // 3
    whole = cluster_weights(clusters, 50, seed=3)
    assert np.array_equal(whole, cluster_weights(clusters, 50, seed=3))
    assert not np.array_equal(whole, cluster_weights(clusters, 50, seed=4))
    for chunk in (1, 7, 50, 1000):
        parts = list(iter_cluster_weights(clusters, 50, 3, chunk=chunk))
        assert [len(p) for p in parts[:-1]] == [chunk] * (len(parts) - 1)
        assert np.array_equal(np.concatenate(parts), whole)


def test_chunks_bound_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "_CHUNK_ENTRIES", 100)
    assert max(w.size for w in iter_cluster_weights(np.arange(30), 20, 0)) <= 100
    # A single replicate is the least there can be.
    assert {w.shape for w in iter_cluster_weights(np.arange(300), 4, 0)} == {(1, 300)}


def test_one_cluster_gets_weight_one() -> None:
    assert (cluster_weights(np.zeros(4, dtype=int), 10, seed=0) == 1).all()


def test_bad_clusters_fail_at_the_call() -> None:
    for clusters in (np.array([], dtype=int), np.zeros((2, 2), dtype=int), np.array([0.5, 1.0])):
        with pytest.raises(ValueError, match="vector of integers"):
            iter_cluster_weights(clusters, 10, 0)
    with pytest.raises(ValueError, match="at least 1"):
        iter_cluster_weights(np.arange(3), 0, 0)
    with pytest.raises(ValueError, match="at least 1"):
        iter_cluster_weights(np.arange(3), 5, 0, chunk=0)


def test_percentile_interval() -> None:
    values = np.arange(1001.0)
    assert percentile_interval(values) == pytest.approx((25, 975))
    assert percentile_interval(values[::-1], level=0.5) == pytest.approx((250, 750))
    assert percentile_interval([3.0]) == (3.0, 3.0)
    for level in (0, 1, 95):
        with pytest.raises(ValueError, match="level"):
            percentile_interval(values, level=level)


def test_percentile_interval_drops_undefined_replicates() -> None:
    nan = math.nan
    assert percentile_interval([1.0, nan, 3.0, 2.0], level=0.5) == percentile_interval([1.0, 2.0, 3.0], level=0.5)
    assert percentile_interval([1.0, 1.0, nan, nan]) == (1.0, 1.0)
    for values in ([1.0, 1.0, nan, nan, nan], [nan], []):
        assert all(math.isnan(bound) for bound in percentile_interval(values))


def mean_interval(values: np.ndarray, clusters: np.ndarray, seed: int) -> tuple[float, float]:
    weights = cluster_weights(clusters, 200, seed).astype(float)
    return percentile_interval(weights @ values / weights.sum(axis=1))


def test_interval_covers_the_mean_of_clustered_rows() -> None:
    # Sixty clusters of four rows that share most of their noise: the interval over clusters covers the true
    # mean about as often as promised (percentile intervals fall a little short), the one over rows far too
    # seldom.
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(60), 4)
    by_cluster = by_row = 0
    runs = 300
    for run in range(runs):
        values = rng.normal(size=60)[clusters] + 0.3 * rng.normal(size=clusters.size)
        low, high = mean_interval(values, clusters, seed=run)
        by_cluster += low <= 0 <= high
        low, high = mean_interval(values, np.arange(clusters.size), seed=run)
        by_row += low <= 0 <= high
    # Three standard errors of a rate of 0.95 in 300 runs are 0.038.
    assert 0.90 <= by_cluster / runs <= 0.985
    assert by_row / runs < 0.8


def test_interval_shrinks_with_n() -> None:
    rng = np.random.default_rng(1)
    widths = []
    for n in (50, 500, 5000):
        low, high = mean_interval(rng.normal(size=n), np.arange(n), seed=0)
        widths.append(high - low)
    # By the square root of ten each time.
    assert widths[0] / widths[1] == pytest.approx(10**0.5, rel=0.3)
    assert widths[1] / widths[2] == pytest.approx(10**0.5, rel=0.3)
