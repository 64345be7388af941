"""Exact k-NN classification against faiss-cpu's exact search (IndexFlatIP), on the same features, in one run.

Both get raw features and normalise them; the peer only searches, palimpsest votes at four values of k as well. The
two are timed in turn, several times, because other programs may share the machine; the ratio is the median over the
pairs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from sdssl.knn import knn_predict

KS = (10, 20, 100, 200)
TEMPERATURE = 0.07
Predictions = dict[int, NDArray[np.int64]]


def clusters(rows: int, dimensions: int, classes: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Overlapping clusters with a decaying spectrum, as a layer's features have."""
    centres = np.random.default_rng(0).standard_normal((classes, dimensions), dtype=np.float32)
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    spread = np.geomspace(4, 0.2, dimensions, dtype=np.float32)
    return 0.2 * centres[labels] + spread * rng.standard_normal((rows, dimensions), dtype=np.float32), labels


def main() -> None:
    """Classify the same queries both ways and print both times, their ratio and the share of equal predictions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bank", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=5, help="how often the two are timed in turn")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    try:
        import faiss
    except ImportError:
        print("skipped: the peer faiss-cpu is not installed (pip install faiss-cpu)", file=sys.stderr)
        return
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    train, labels = clusters(options.bank, options.dimensions, options.classes, seed=1)
    test, truth = clusters(options.queries, options.dimensions, options.classes, seed=2)

    def ours() -> Predictions:
        return knn_predict(train, labels, test, ks=KS, temperature=TEMPERATURE, num_classes=options.classes)

    def search() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        bank, queries = train.copy(), test.copy()
        faiss.normalize_L2(bank)
        faiss.normalize_L2(queries)
        index = faiss.IndexFlatIP(options.dimensions)
        index.add(bank)
        similarities, found = index.search(queries, max(KS))
        return similarities, found

    def timed(call: Callable[[], object]) -> tuple[float, object]:
        started = time.perf_counter()
        result = call()
        return time.perf_counter() - started, result

    pairs = []
    for _ in range(options.pairs):
        seconds, predictions = timed(ours)
        peer_seconds, neighbours = timed(search)
        pairs.append((seconds, peer_seconds))
    assert isinstance(predictions, dict)
    assert isinstance(neighbours, tuple)
    similarities, found = neighbours
    print(f"{options.queries} queries, bank of {options.bank} x {options.dimensions}, {options.threads} threads")
    print(
        f"palimpsest, search and votes at k = {', '.join(map(str, KS))}: {statistics.median(a for a, _ in pairs):.2f} s"
    )
    print(f"faiss-cpu {faiss.__version__}, search at k = {max(KS)}: {statistics.median(b for _, b in pairs):.2f} s")
    ratios = sorted(b / a for a, b in pairs)
    print(f"faiss / palimpsest: median {statistics.median(ratios):.2f}, from {ratios[0]:.2f} to {ratios[-1]:.2f}")
    for k in KS:
        votes = np.zeros((options.queries, options.classes))
        rows = np.arange(options.queries)[:, None]
        np.add.at(votes, (rows, labels[found[:, :k]]), np.exp(similarities[:, :k].astype(np.float64) / TEMPERATURE))
        same = float((votes.argmax(axis=1) == predictions[k]).mean())
        correct = float((predictions[k] == truth).mean())
        print(f"k = {k:3}: {same:.2%} of the predictions equal, accuracy {correct:.2%}")


if __name__ == "__main__":
    main()
