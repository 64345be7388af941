from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from harness.core.comparisons import delong_test, holm
from harness.core.errors import DataError
from harness.core.stats import cluster_weights
from harness.evaluation.auc import WeightedAUC
from harness.evaluation.metrics import mean_over_seeds
from harness.evaluation.paired import auc_replicates, bootstrap_p, compare_aucs


@settings(max_examples=60, deadline=None)
@given(n=st.integers(2, 60), levels=st.sampled_from([1, 4, 10**6]), seed=st.integers(0, 10**6))
def test_auc_equals_scikit_learn(n: int, levels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    positive = rng.permutation(np.arange(n) < max(1, n // 3))
    scores = np.round((rng.normal(size=n) + positive) * levels) / levels
    weights = rng.integers(0, 4, size=(3, n))
    weights[:, [int(np.argmax(positive)), int(np.argmin(positive))]] = 1
    auc = WeightedAUC(scores, positive)
    assert auc()[0] == pytest.approx(roc_auc_score(positive, scores))
    for got, row in zip(auc(weights), weights, strict=True):
        assert got == pytest.approx(roc_auc_score(positive, scores, sample_weight=row))
    assert np.isnan(auc(weights * positive)).all()
    assert np.isnan(auc(weights * ~positive)).all()
    order = rng.permutation(n)
    assert np.array_equal(WeightedAUC(scores[order], positive[order])(weights[:, order]), auc(weights))


def problem(seed: int, noise: tuple[float, ...], n: int = 60) -> tuple[list[list[np.ndarray]], list, list]:
    """Detectors with noise of their own on two sampling seeds that share sources; clean and adversarial are paired."""
    rng = np.random.default_rng(seed)
    effects = rng.normal(size=n)
    adversarial, clusters = [], []
    scores: list[list[np.ndarray]] = [[] for _ in noise]
    own = [rng.normal(size=(n, 2)) for _ in noise]
    for _ in range(2):
        sources = rng.choice(n, size=2 * n // 3, replace=False)
        labels = np.repeat([False, True], sources.size)
        both = np.tile(sources, 2)
        adversarial.append(labels)
        clusters.append(both)
        for detector, size in enumerate(noise):
            scores[detector].append(effects[both] + 1.2 * labels + size * own[detector][both, labels.astype(int)])
    return scores, adversarial, clusters


def test_differences_join_their_pieces() -> None:
    (first, second, third), adversarial, clusters = problem(0, (0.5, 1.0, 2.0))
    scores = {"ours": first, "rde": second, "msp": third}
    got = compare_aucs(scores, adversarial, clusters, ["rde", "msp"], replicates=60, seed=3)
    assert [(g.detector, g.reference) for g in got] == [("ours", "rde"), ("msp", "rde"), ("ours", "msp")]

    # Slowly: weights of the joint bootstrap, AUCs by scikit-learn.
    weights = cluster_weights(np.concatenate(clusters), 60, seed=3)
    ends = np.cumsum([0, *(len(c) for c in clusters)])

    def mean_auc(samples: list[np.ndarray], row: np.ndarray) -> float:
        return float(
            np.mean(
                [
                    roc_auc_score(adversarial[s], samples[s], sample_weight=row[ends[s] : ends[s + 1]])
                    for s in range(len(samples))
                ]
            )
        )

    for one in got:
        pair = scores[one.detector], scores[one.reference]
        ones = np.ones(ends[-1])
        assert one.value == pytest.approx(mean_auc(pair[0], ones) - mean_auc(pair[1], ones))
        drawn = np.array([mean_auc(pair[0], row) - mean_auc(pair[1], row) for row in weights])
        assert (one.low, one.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))
        assert one.p == pytest.approx(2 * norm.sf(abs(one.value), scale=drawn.std(ddof=1)))
    assert [g.p_holm for g in got] == pytest.approx(holm([g.p for g in got]).tolist())
    assert got == compare_aucs(scores, adversarial, clusters, ["rde", "msp"], replicates=60, seed=3)


def test_replicates_are_those_of_the_metrics() -> None:
    (first, second), adversarial, clusters = problem(1, (0.5, 1.0))
    value, drawn = auc_replicates({"a": first, "b": second}, adversarial, clusters, replicates=100, seed=2)
    expected = mean_over_seeds(first, adversarial, clusters, replicates=100, seed=2)["auc"]
    assert value["a"] == pytest.approx(expected.value)
    assert tuple(np.quantile(drawn["a"], [0.025, 0.975])) == pytest.approx((expected.low, expected.high))


def test_equal_detectors_do_not_differ() -> None:
    (first,), adversarial, clusters = problem(2, (1.0,))
    scores = {"a": first, "b": [np.exp(s) for s in first]}
    (got,) = compare_aucs(scores, adversarial, clusters, ["a"], replicates=50)
    assert (got.value, got.low, got.high, got.p, got.p_holm) == (0, 0, 0, 1, 1)
    assert compare_aucs({"a": first}, adversarial, clusters, ["a"]) == []


def test_p_is_the_normal_tail_of_the_replicates_deviation() -> None:
    assert bootstrap_p(0.02, np.array([0.01, 0.02, 0.03])) == pytest.approx(2 * norm.sf(2))
    assert bootstrap_p(-0.02, np.array([0.01, 0.03, 0.02, math.nan])) == pytest.approx(2 * norm.sf(2))
    assert bootstrap_p(0.0, np.zeros(3)) == 1
    assert math.isnan(bootstrap_p(0.5, np.full(3, 0.5)))
    assert math.isnan(bootstrap_p(1.0, np.array([1.0, math.nan, math.nan])))
    assert math.isnan(bootstrap_p(1.0, np.array([])))


def test_a_clear_difference_survives_the_correction() -> None:
    near, far = problem(4, (0.1,))[0][0], [problem(4, (0.1, 8.0))[0][1]] * 20
    _, adversarial, clusters = problem(4, (0.1,))
    scores = {"ours": [a + 5 * y for a, y in zip(near, adversarial, strict=True)]}
    scores |= {f"other{number}": noise for number, noise in enumerate(far)}
    found = compare_aucs(scores, adversarial, clusters, ["other0", "other1"], replicates=100)
    assert all(one.p_holm < 0.001 for one in found if one.detector == "ours")


def test_interval_covers_and_level_holds_with_paired_texts() -> None:
    # Both detectors see each source text twice (clean and adversarial) and with two sampling seeds.
    runs, covered, found, by_row = 200, 0, 0, 0
    for run in range(runs):
        (first, second), adversarial, clusters = problem(run, (1.0, 1.0))
        scores = {"a": first, "b": second}
        (got,) = compare_aucs(scores, adversarial, clusters, ["b"], replicates=200, seed=run)
        covered += got.low <= 0 <= got.high
        found += got.p < 0.05
        # Both samples of the same texts as if they were new ones.
        joined = delong_test(np.concatenate(first), np.concatenate(second), np.concatenate(adversarial))
        by_row += joined.p < 0.05
    # Three standard errors of 0.95 in 200 runs are 0.046; percentile intervals fall a little short.
    assert 0.89 <= covered / runs <= 0.995
    assert found / runs <= 0.11
    assert by_row > found


def test_a_real_difference_is_found() -> None:
    hits = 0
    for run in range(20):
        (first, second), adversarial, clusters = problem(run, (0.2, 3.0), n=150)
        (got,) = compare_aucs({"a": first, "b": second}, adversarial, clusters, ["b"], replicates=200)
        hits += got.p < 0.05 and got.value > 0
    assert hits >= 18


def test_bad_input() -> None:
    (first, second), adversarial, clusters = problem(0, (1.0, 1.0))
    scores = {"a": first, "b": second}
    with pytest.raises(ValueError, match="'rde' has no scores"):
        compare_aucs(scores, adversarial, clusters, ["rde"])
    with pytest.raises(ValueError, match="one entry a seed"):
        compare_aucs(scores, adversarial[:1], clusters, ["a"])
    with pytest.raises(ValueError, match="do not fit"):
        compare_aucs({**scores, "c": [s[:-1] for s in first]}, adversarial, clusters, ["a"])
    with pytest.raises(DataError, match="NaN"):
        compare_aucs({**scores, "c": [s * math.nan for s in first]}, adversarial, clusters, ["a"])
    with pytest.raises(DataError, match="all 80 texts are clean"):
        compare_aucs(scores, [np.zeros_like(a) for a in adversarial], clusters, ["a"])
