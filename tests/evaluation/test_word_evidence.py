from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from harness.core.errors import DataError
from harness.core.stats import cluster_weights
from harness.evaluation.word_evidence import WORD_METRICS, substituted_positions, word_evidence


def positions(original: str, perturbed: str) -> list[int]:
    row: Any = SimpleNamespace(original_text=original, perturbed_text=perturbed)
    return substituted_positions(row)


def test_positions_are_of_the_perturbed_text() -> None:
    assert positions("a good film, really", "a fine film, truly") == [1, 3]
    assert positions("same here", "same here") == []
    # One word becomes two, and those after it move.
    assert positions("a goodfilm by him", "a good film by her") == [1, 2, 4]
    # What was put in is found; what was taken out leaves nothing to find.
    assert positions("a film by him", "a very film by him") == [1]
    assert positions("a very good film", "a good film") == []


def precision_oracle(scores: np.ndarray, substituted: set[int], k: int) -> float:
    """The mean over all orders of the words that the scores allow."""
    found = []
    for order in itertools.permutations(range(len(scores))):
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order)):
            found.append(len(substituted & set(order[:k])) / k)
    return float(np.mean(found))


@settings(max_examples=60, deadline=None)
@given(size=st.integers(2, 6), levels=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_one_text_against_all_orders_of_its_words(size: int, levels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, size).astype(float)
    substituted = set(rng.permutation(size)[: rng.integers(1, size)].tolist())
    got = word_evidence([scores], [substituted], replicates=2).metrics
    labels = [i in substituted for i in range(size)]
    assert got["auc_pooled"].value == got["auc_per_text"].value == pytest.approx(roc_auc_score(labels, scores))
    assert got["r_precision"].value == pytest.approx(precision_oracle(scores, substituted, len(substituted)))
    for k in (1, 3):
        assert got[f"precision_at_{k}"].value == pytest.approx(precision_oracle(scores, substituted, min(k, size)))


def make_texts(n: int, seed: int, shift: float = 1.5) -> tuple[list[np.ndarray], list[list[int]]]:
    rng = np.random.default_rng(seed)
    scores, changed = [], []
    for _ in range(n):
        size = int(rng.integers(3, 12))
        where = sorted(rng.permutation(size)[: rng.integers(1, 3)].tolist())
        scores.append(rng.normal(size=size) + rng.normal() + shift * np.isin(np.arange(size), where))
        changed.append(where)
    return scores, changed


def test_intervals_are_of_the_bootstrap_over_source_texts() -> None:
    scores, changed = make_texts(40, 0)
    clusters = np.array([f"source {i // 2}" for i in range(40)])
    got = word_evidence(scores, changed, clusters, replicates=150, seed=4)
    assert (got.texts, got.words) == (40, sum(map(len, scores)))
    assert (got.substituted, got.without_change, got.all_changed) == (sum(map(len, changed)), 0, 0)
    assert tuple(got.metrics) == WORD_METRICS
    codes = np.unique(clusters, return_inverse=True)[1]
    weights = cluster_weights(codes, 150, seed=4)
    single = [word_evidence([s], [c], replicates=1).metrics for s, c in zip(scores, changed, strict=True)]
    labels = [np.isin(np.arange(len(s)), c) for s, c in zip(scores, changed, strict=True)]
    for name, estimate in got.metrics.items():
        drawn = []
        for row in weights:
            if name == "auc_pooled":
                joined = [
                    np.concatenate([np.tile(v, k) for v, k in zip(of, row, strict=True)]) for of in (labels, scores)
                ]
                drawn.append(roc_auc_score(*joined))
            else:
                drawn.append(np.average([metrics[name].value for metrics in single], weights=row))
        assert (estimate.low, estimate.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))
        assert estimate.low <= estimate.value <= estimate.high
        if name != "auc_pooled":
            assert estimate.value == pytest.approx(np.mean([metrics[name].value for metrics in single]))
    assert got == word_evidence(scores, changed, clusters, replicates=150, seed=4)


def test_offsets_between_texts_hurt_the_pooled_auc_alone() -> None:
    scores, changed = make_texts(60, 1, shift=4)
    apart = [s + 50 * i for i, s in enumerate(scores)]
    before, after = (word_evidence(s, changed, replicates=5).metrics for s in (scores, apart))
    assert after["auc_pooled"].value < before["auc_pooled"].value - 0.2
    for name in WORD_METRICS[1:]:
        assert after[name].value == pytest.approx(before[name].value)


def test_random_scores_are_at_chance() -> None:
    scores, changed = make_texts(400, 2, shift=0)
    got = word_evidence(scores, changed, replicates=200).metrics
    assert got["auc_per_text"].low < 0.5 < got["auc_per_text"].high
    expected = np.mean([len(c) / len(s) for s, c in zip(scores, changed, strict=True)])
    for name in ("r_precision", "precision_at_1", "precision_at_3"):
        assert got[name].low < expected < got[name].high


def test_texts_of_one_kind_of_words_are_counted_apart() -> None:
    scores = [[1.0, 0.0], [0.5], [3.0, 2.0, 1.0], [], [math.nan, 0.0]]
    got = word_evidence(scores, [[0], [0], [], [], []], ["a", "b", "c", "d", "e"], replicates=3)
    assert (got.texts, got.words, got.substituted) == (1, 2, 1)
    assert (got.without_change, got.all_changed) == (3, 1)
    assert got.metrics["auc_pooled"] == (1.0, 1.0, 1.0)
    assert got.metrics["precision_at_3"].value == 0.5  # of two words
    with pytest.raises(DataError, match="none of 2 texts"):
        word_evidence([[1.0], [1.0, 2.0]], [[0], []])


def test_bad_input() -> None:
    for bad in ([2], [-1]):
        with pytest.raises(ValueError, match="do not fit"):
            word_evidence([[0.0, 1.0]], [bad])
    with pytest.raises(ValueError, match="1 texts with scores"):
        word_evidence([[0.0, 1.0]], [])
    with pytest.raises(ValueError, match="one source text"):
        word_evidence([[0.0, 1.0]], [[0]], ["a", "b"])
    with pytest.raises(DataError, match="NaN"):
        word_evidence([[0.0, math.nan]], [[0]])
