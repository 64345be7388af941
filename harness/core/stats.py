"""Intervals by a cluster bootstrap: whole source texts are drawn again, never single rows.

An adversarial text and the clean text it was made from, or several attacks on one text, are not independent.
A bootstrap over rows takes them for new information and reports intervals that are too narrow; here a
replicate draws clusters with replacement and each row gets the count of its cluster as its weight (Field and
Welsh, "Bootstrapping clustered data", JRSS B 2007). A statistic that takes weights then needs no resampled
copy of the data.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Entries of one chunk of weights: the statistic's float64 temporaries then stay near 2 MiB each, within reach
# of a core's cache, which matters more for speed than the number of passes through Python.
_CHUNK_ENTRIES = 1 << 18


def iter_cluster_weights(
    clusters: NDArray[np.integer], replicates: int, seed: int, *, chunk: int | None = None
) -> Iterator[NDArray[np.uint16]]:
    """Yields the row weights of a cluster bootstrap, some replicates at a time.

    The replicates are the same whatever the chunk, for one seed and one version of NumPy.

    Args:
        clusters: Cluster of each row, shape (n,), any integers; equal means the same source text.
        replicates: Number of bootstrap replicates in all, at least 1.
        seed: Seed of the generator, not negative.
        chunk: Replicates in one array; chosen from n where it is None, so that memory stays bounded.

    Yields:
        Weights of shape (chunk, n), uint16: how often each row's cluster was drawn. Over the clusters they
        add up to the number of clusters in every replicate. The last array may be shorter.

    Raises:
        ValueError: If `clusters` is empty, not one-dimensional or not of integers, or a count is below 1.
    """
    clusters = np.asarray(clusters)
    if clusters.ndim != 1 or clusters.size == 0 or clusters.dtype.kind not in "iu":
        raise ValueError(f"clusters must be a non-empty vector of integers, got {clusters.dtype}{clusters.shape}.")
    if replicates < 1 or (chunk is not None and chunk < 1):
        raise ValueError(f"replicates and chunk must be at least 1, got {replicates} and {chunk}.")
    # A generator function would check nothing before its first use; the checks above belong to the call.
    return _draw(clusters, replicates, seed, chunk or max(1, _CHUNK_ENTRIES // clusters.size))


def _draw(clusters: NDArray[np.integer], replicates: int, seed: int, chunk: int) -> Iterator[NDArray[np.uint16]]:
    codes = np.unique(clusters, return_inverse=True)[1]
    n_clusters = int(codes.max()) + 1
    rng = np.random.default_rng(seed)
    for start in range(0, replicates, chunk):
        rows = min(chunk, replicates - start)
        # Counting uniform draws is the multinomial itself, and several times faster than
        # `Generator.multinomial`, which makes one binomial draw a cluster.
        drawn = rng.integers(0, n_clusters, size=(rows, n_clusters))
        drawn += np.arange(rows)[:, None] * n_clusters
        counts = np.bincount(drawn.ravel(), minlength=rows * n_clusters)
        # A count is close to Poisson(1): 65,535 is never met.
        yield counts.astype(np.uint16).reshape(rows, n_clusters)[:, codes]


def cluster_weights(clusters: NDArray[np.integer], replicates: int, seed: int) -> NDArray[np.uint16]:
    """All row weights of a cluster bootstrap at once; see `iter_cluster_weights`.

    Args:
        clusters: Cluster of each row, shape (n,), any integers.
        replicates: Number of bootstrap replicates, at least 1.
        seed: Seed of the generator, not negative.

    Returns:
        Weights of shape (replicates, n), uint16.

    Raises:
        ValueError: As `iter_cluster_weights`.
    """
    return np.concatenate(list(iter_cluster_weights(clusters, replicates, seed)))


def percentile_interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of bootstrap replicates (Efron, 1979).

    Args:
        values: The statistic in each replicate, shape (B,); NaN where it is undefined, such as when one class
            was not drawn at all. Those are dropped.
        level: Share of the replicates inside the interval, between 0 and 1.

    Returns:
        Lower and upper bound; both NaN if more than half of the replicates are NaN, or there are none.

    Raises:
        ValueError: If `level` is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}.")
    replicates = np.asarray(values, dtype=np.float64).ravel()
    defined = replicates[~np.isnan(replicates)]
    # An interval from the few replicates that happened to be defined would describe those, not the statistic.
    if defined.size == 0 or 2 * defined.size < replicates.size:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
