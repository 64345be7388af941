from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score, roc_curve

from harness.core.errors import DataError
from harness.core.rows import ORACLE_METRICS
from harness.core.stats import cluster_weights
from harness.evaluation import metrics
from harness.evaluation.metrics import (
    bootstrap_metrics,
    detection_metrics,
    mean_over_seeds,
    metrics_at_threshold,
    roc_points,
    threshold_at_fpr,
)


def make_problem(
    n: int, levels: int, share: float, weighting: str, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores with few levels (heavy ties) or many, both classes, and weights in which both have some."""
    rng = np.random.default_rng(seed)
    adversarial = rng.random(n) < share
    adversarial[:2] = [True, False]
    scores = np.round((rng.normal(size=n) + adversarial) * levels) / levels
    if weighting == "counts":
        weights = rng.integers(0, 4, size=n).astype(float)
    elif weighting == "reals":
        weights = rng.exponential(size=n) * (rng.random(n) < 0.8)
    else:
        weights = np.ones(n)
    weights[:2] = np.maximum(weights[:2], 0.5)
    return scores, adversarial, weights


problems = st.builds(
    make_problem,
    n=st.integers(2, 120),
    levels=st.sampled_from([1, 2, 5, 10**6]),
    share=st.floats(0.05, 0.95),
    weighting=st.sampled_from(["ones", "counts", "reals"]),
    seed=st.integers(0, 10**6),
)


def oracle(scores: np.ndarray, adversarial: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """The definitions through scikit-learn and a loop over its thresholds."""
    fpr, tpr, thresholds = roc_curve(adversarial, scores, sample_weight=weights, drop_intermediate=False)
    slack = 1e-9
    result = {
        "auc": roc_auc_score(adversarial, scores, sample_weight=weights),
        "aupr": average_precision_score(adversarial, scores, sample_weight=weights),
        "fpr_at_tpr_95": min(f for f, t in zip(fpr, tpr, strict=True) if t >= 0.95 - slack),
    }
    for percent in (1, 5, 10):
        result[f"tpr_at_fpr_{percent}"] = max(t for f, t in zip(fpr, tpr, strict=True) if f <= percent / 100 + slack)
    allowed = [(-t, f, c) for f, t, c in zip(fpr, tpr, thresholds, strict=True) if f <= 0.1 + slack]
    # The strictest of the thresholds with the largest TPR has the smallest FPR.
    cut = max(c for t, _, c in allowed if t <= min(allowed)[0] + slack)
    result["f1_at_fpr_10"] = f1_score(adversarial, scores >= cut, sample_weight=weights, zero_division=0)
    return result


@settings(max_examples=300, deadline=None)
@given(problem=problems)
def test_equals_scikit_learn(problem: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    scores, adversarial, weights = problem
    got = detection_metrics(scores, adversarial, weights[None])
    expected = oracle(scores, adversarial, weights)
    assert set(got) == set(ORACLE_METRICS)
    for name in ORACLE_METRICS:
        assert got[name].shape == (1,)
        assert got[name][0] == pytest.approx(expected[name], abs=1e-9), name


@settings(max_examples=60, deadline=None)
@given(problem=problems)
def test_weights_are_repeated_rows(problem: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    scores, adversarial, weights = problem
    counts = np.ceil(weights).astype(np.uint16)
    repeated = detection_metrics(np.repeat(scores, counts), np.repeat(adversarial, counts))
    weighted = detection_metrics(scores, adversarial, counts[None])
    for name in ORACLE_METRICS:
        assert isinstance(repeated[name], float)
        assert weighted[name][0] == pytest.approx(repeated[name], abs=1e-12), name


@settings(max_examples=60, deadline=None)
@given(problem=problems)
def test_only_the_order_of_scores_matters(problem: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    scores, adversarial, weights = problem
    expected = detection_metrics(scores, adversarial, weights[None])
    ranks = np.unique(scores, return_inverse=True)[1].astype(float)
    # Ranks to infinities at both ends, and to an exponential: both keep order and ties.
    stretched = np.where(ranks == ranks.max(), math.inf, np.where(ranks == 0, -math.inf, ranks))
    if ranks.max() == 0:
        stretched = ranks
    for transformed in (np.exp(ranks / 20), 3 * ranks - 1e6, stretched):
        got = detection_metrics(transformed, adversarial, weights[None])
        for name in ORACLE_METRICS:
            assert got[name][0] == expected[name][0], name


@settings(max_examples=100, deadline=None)
@given(half=st.integers(1, 80), levels=st.sampled_from([1, 3, 10**6]), seed=st.integers(0, 10**6))
def test_f1_on_balanced_data_is_a_function_of_tpr_and_fpr(half: int, levels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    adversarial = np.arange(2 * half) < half
    scores = np.round((rng.normal(size=2 * half) + 2 * adversarial) * levels) / levels
    got = detection_metrics(scores, adversarial)
    tpr = got["tpr_at_fpr_10"]
    fprs, tprs = roc_points(scores, adversarial)
    realised = fprs[np.flatnonzero(tprs == tpr)[0]]
    assert realised <= 0.1 + 1e-9
    assert got["f1_at_fpr_10"] == pytest.approx(2 * tpr / (1 + tpr + realised), abs=1e-12)
    # A value above the curve shows a realised rate below 10 %; none is ever below it.
    assert got["f1_at_fpr_10"] >= 2 * tpr / (1.1 + tpr) - 1e-12


def test_f1_is_on_the_curve_at_exactly_ten_percent() -> None:
    # 30 clean texts, three of them above 27 of 30 adversarial ones; the next clean text is below all others.
    clean = np.r_[np.full(3, 9.0), np.full(27, 0.0)]
    scores = np.r_[clean, np.full(27, 5.0), np.full(3, -1.0)]
    adversarial = np.arange(60) >= 30
    got = detection_metrics(scores, adversarial)
    # 3 of 30 is 10 %, also where a sum of rounded weights comes out a little above.
    assert got["tpr_at_fpr_10"] == 0.9
    assert got["f1_at_fpr_10"] == pytest.approx(2 * 0.9 / (1.1 + 0.9))
    assert got["tpr_at_fpr_5"] == got["tpr_at_fpr_1"] == 0


@pytest.mark.parametrize("percent", [1, 5, 10])
@pytest.mark.parametrize("unit", [1.0, 0.1, 1 / 3, 1e-7, 1e7])
def test_a_rate_equal_to_its_limit_is_allowed(percent: int, unit: float) -> None:
    for hundreds in range(1, 6):
        n, allowed = 100 * hundreds, percent * hundreds
        clean = np.r_[np.full(allowed, 3.0), np.full(n - allowed, 1.0)]
        scores, adversarial = np.r_[clean, 2.0], np.arange(n + 1) == n
        got = detection_metrics(scores, adversarial, np.full((1, n + 1), unit))
        assert got[f"tpr_at_fpr_{percent}"][0] == 1
        # One clean text more, and the limit is passed.
        scores[allowed] = 3.0
        got = detection_metrics(scores, adversarial, np.full((1, n + 1), unit))
        assert got[f"tpr_at_fpr_{percent}"][0] == 0


def test_a_threshold_inside_a_tie_is_not_available() -> None:
    # Half of the adversarial texts tie with every clean text: no interpolation into the tie.
    got = detection_metrics([2, 2, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0])
    assert got["tpr_at_fpr_10"] == 0.5
    assert got["fpr_at_tpr_95"] == 1
    assert got["auc"] == 0.75
    # All tied: nothing can be flagged below an FPR of 1.
    got = detection_metrics(np.zeros(6), [1, 1, 1, 0, 0, 0])
    assert (got["auc"], got["aupr"], got["tpr_at_fpr_10"], got["f1_at_fpr_10"]) == (0.5, 0.5, 0, 0)


def test_perfect_and_reversed() -> None:
    adversarial = np.arange(40) >= 20
    best = detection_metrics(np.arange(40), adversarial)
    # Of the thresholds with TPR 1, F1 takes the one without false positives.
    assert best == dict.fromkeys(ORACLE_METRICS, 1.0) | {"fpr_at_tpr_95": 0.0}
    worst = detection_metrics(-np.arange(40), adversarial)
    assert (worst["auc"], worst["tpr_at_fpr_10"], worst["fpr_at_tpr_95"]) == (0, 0, 1)


def test_a_class_without_weight_is_nan() -> None:
    scores, adversarial = np.array([1.0, 2.0, 3.0]), np.array([False, True, True])
    weights = np.array([[1, 1, 1], [0, 1, 2], [3, 0, 0], [0, 0, 0]])
    for got in (
        detection_metrics(scores, adversarial, weights),
        metrics_at_threshold(scores, adversarial, 1.5, weights),
    ):
        for values in got.values():
            assert np.isnan(values).tolist() == [False, True, True, True]


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, adversarial, _ = make_problem(50, 2, 0.5, "ones", 0)
    weights = cluster_weights(np.arange(50), 33, seed=0)
    whole = detection_metrics(scores, adversarial, weights)
    decided = metrics_at_threshold(scores, adversarial, 0.5, weights)
    monkeypatch.setattr(metrics, "_CHUNK_ENTRIES", 200)
    for name, values in detection_metrics(scores, adversarial, weights).items():
        assert values.shape == (33,)
        assert np.array_equal(values, whole[name])
    for name, values in metrics_at_threshold(scores, adversarial, 0.5, weights).items():
        assert np.allclose(values, decided[name], rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    "call",
    [
        detection_metrics,
        roc_points,
        lambda s, a: metrics_at_threshold(s, a, 0.0),
        lambda s, a: bootstrap_metrics(s, a, np.arange(len(s))),
    ],
)
def test_bad_input(call: Any) -> None:
    with pytest.raises(DataError, match="1 of 3 scores are NaN"):
        call([1.0, math.nan, 2.0], [True, False, True])
    with pytest.raises(DataError, match="all 2 scored texts are clean"):
        call([1.0, 2.0], [False, False])
    with pytest.raises(DataError, match="all 2 scored texts are adversarial"):
        call([1.0, 2.0], [True, True])
    with pytest.raises(DataError, match="no scores"):
        call([], [])
    with pytest.raises(ValueError, match="do not fit"):
        call([1.0, 2.0], [True, False, True])
    with pytest.raises(ValueError, match="vector"):
        call([[1.0, 2.0]], [[True, False]])
    with pytest.raises(ValueError, match="true or false"):
        call([1.0, 2.0], [1, 2])


def test_bad_weights() -> None:
    for weights in (np.ones(2), np.ones((1, 3)), np.ones((0, 2))):
        with pytest.raises(ValueError, match="shape"):
            detection_metrics([0, 1], [0, 1], weights)
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="finite and not negative"):
            metrics_at_threshold([0, 1], [0, 1], 0.5, np.array([[1.0, bad]]))


@settings(max_examples=60, deadline=None)
@given(problem=problems)
def test_roc_points_keep_every_step(problem: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    scores, adversarial, _ = problem
    fpr, tpr = roc_points(scores, adversarial)
    expected = roc_curve(adversarial, scores, drop_intermediate=False)
    assert np.allclose(fpr, expected[0], rtol=0, atol=1e-12)
    assert np.allclose(tpr, expected[1], rtol=0, atol=1e-12)
    assert fpr.size == np.unique(scores).size + 1


@settings(max_examples=100, deadline=None)
@given(problem=problems, cut=st.integers(0, 200))
def test_metrics_at_threshold(problem: tuple[np.ndarray, np.ndarray, np.ndarray], cut: int) -> None:
    scores, adversarial, weights = problem
    threshold = math.inf if cut == 200 else scores[cut % scores.size]
    flagged = scores > threshold
    got = metrics_at_threshold(scores, adversarial, threshold, weights[None])
    assert got["tpr"][0] == pytest.approx(np.average(flagged[adversarial], weights=weights[adversarial]))
    assert got["fpr"][0] == pytest.approx(np.average(flagged[~adversarial], weights=weights[~adversarial]))
    assert got["f1"][0] == pytest.approx(f1_score(adversarial, flagged, sample_weight=weights, zero_division=0))
    plain = metrics_at_threshold(scores, adversarial, threshold)
    assert plain["tpr"] == pytest.approx(flagged[adversarial].mean())


def test_nothing_flagged_has_f1_zero() -> None:
    assert metrics_at_threshold([0.0, 1.0], [0, 1], math.inf) == {"tpr": 0.0, "fpr": 0.0, "f1": 0.0}
    with pytest.raises(ValueError, match="NaN"):
        metrics_at_threshold([0.0, 1.0], [0, 1], math.nan)


def test_threshold_is_the_conformal_order_statistic() -> None:
    scores = np.random.default_rng(0).permutation(np.arange(1.0, 20.0))
    # m = 19: k = ceil(20 * 0.9) = 18, ceil(20 * 0.95) = 19, and ceil(20 * 0.99) = 20 > m.
    assert threshold_at_fpr(scores, 0.1) == 18
    assert threshold_at_fpr(scores, 0.05) == 19
    assert threshold_at_fpr(scores, 0.01) == math.inf
    assert threshold_at_fpr(scores, 0) == math.inf
    assert threshold_at_fpr(scores, 0.999) == 1
    # Where (m + 1)(1 - fpr) is whole, rounding must not add one to k.
    for percent in range(1, 100):
        for hundreds in (1, 2, 3, 7):
            values = np.arange(1, 100 * hundreds)
            assert threshold_at_fpr(values, percent / 100) == hundreds * (100 - percent)
    assert threshold_at_fpr([math.inf, 1.0, 2.0], 0.25) == math.inf
    with pytest.raises(DataError, match="NaN"):
        threshold_at_fpr([1.0, math.nan], 0.1)
    with pytest.raises(DataError, match="no scores"):
        threshold_at_fpr([], 0.1)
    for fpr in (-0.1, 1.0, 10, math.nan):
        with pytest.raises(ValueError, match="fpr"):
            threshold_at_fpr(scores, fpr)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("m", "fpr"), [(9, 0.1), (57, 0.1), (57, 0.05), (150, 0.01)])
def test_threshold_keeps_its_promise(m: int, fpr: float, tied: bool) -> None:
    rng = np.random.default_rng(m)
    realised = []
    for _ in range(3000):
        scores = rng.gamma(1.0, size=m + 100)
        scores = np.round(2 * scores) if tied else scores
        realised.append(np.mean(scores[m:] > threshold_at_fpr(scores[:m], fpr)))
    error = 4 * np.std(realised) / len(realised) ** 0.5
    assert np.mean(realised) <= fpr + error
    if not tied:
        # Exactly 1 - k / (m + 1) without ties: the promise is not kept by flagging too little either.
        k = math.ceil((m + 1) * (1 - fpr) - 1e-9)
        assert np.mean(realised) == pytest.approx(1 - k / (m + 1), abs=error)


def gaussian(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    adversarial = np.arange(n) % 2 == 0
    return rng.normal(size=n) + 1.2 * adversarial, adversarial


def test_bootstrap_joins_its_pieces() -> None:
    scores, adversarial = gaussian(200, 0)
    clusters = np.arange(200) // 2
    got = bootstrap_metrics(scores, adversarial, clusters, replicates=150, seed=3, thresholds={"10": 1.0})
    weights = cluster_weights(clusters, 150, seed=3)
    replicates = detection_metrics(scores, adversarial, weights)
    at_cut = metrics_at_threshold(scores, adversarial, 1.0, weights)
    values = detection_metrics(scores, adversarial) | {
        f"{k}_heldout_10": v for k, v in metrics_at_threshold(scores, adversarial, 1.0).items()
    }
    replicates |= {f"{k}_heldout_10": v for k, v in at_cut.items()}
    assert set(got) == {*ORACLE_METRICS, "tpr_heldout_10", "fpr_heldout_10", "f1_heldout_10"}
    for name, (value, low, high) in got.items():
        assert value == pytest.approx(values[name])
        assert (low, high) == pytest.approx(tuple(np.quantile(replicates[name], [0.025, 0.975])))
        assert low <= value <= high
    again = bootstrap_metrics(scores, adversarial, clusters, replicates=150, seed=3, thresholds={"10": 1.0})
    assert again == got
    other = bootstrap_metrics(scores, adversarial, clusters, replicates=150, seed=4)
    assert other["auc"].low != got["auc"].low


def test_duplicated_rows_are_no_new_information() -> None:
    scores, adversarial = gaussian(120, 1)
    clusters = np.arange(120)
    once = bootstrap_metrics(scores, adversarial, clusters, replicates=300)
    repeated = [np.repeat(a, 4) for a in (scores, adversarial, clusters)]
    four_times = bootstrap_metrics(*repeated, replicates=300)
    for name in ORACLE_METRICS:
        assert tuple(four_times[name]) == pytest.approx(tuple(once[name]), abs=1e-12), name
    by_row = bootstrap_metrics(repeated[0], repeated[1], np.arange(480), replicates=300)
    width, narrow = (r["auc"].high - r["auc"].low for r in (once, by_row))
    # Half as wide: four times the rows.
    assert narrow / width == pytest.approx(0.5, abs=0.1)


def test_bootstrap_interval_shrinks_with_n() -> None:
    widths = []
    for n in (60, 600, 6000):
        result = bootstrap_metrics(*gaussian(n, 2), np.arange(n), replicates=200)
        widths.append(result["auc"].high - result["auc"].low)
    assert widths[0] / 2 > widths[1] > 2 * widths[2]


def test_bootstrap_covers_the_true_auc() -> None:
    # For unit normals a distance of 1.2 apart, AUC is the normal distribution function at 1.2 / sqrt(2).
    true = 0.5 * (1 + math.erf(1.2 / 2))
    hits = 0
    for run in range(200):
        estimate = bootstrap_metrics(*gaussian(150, 100 + run), np.arange(150), replicates=200, seed=run)["auc"]
        hits += estimate.low <= true <= estimate.high
    # Three standard errors of a rate of 0.95 in 200 runs are 0.046.
    assert 0.90 <= hits / 200 <= 0.996


def test_undefined_replicates_are_dropped_or_reported() -> None:
    # One adversarial text is missing from about a third of the replicates.
    one = bootstrap_metrics([3.0, 1.0, 2.0, 0.0], [1, 0, 0, 0], np.arange(4), replicates=200)
    assert all(np.isfinite(estimate).all() for estimate in one.values())
    # With two texts half of the replicates hold both; over several seeds most hold a sample without a class.
    pairs = [np.arange(2 * i, 2 * i + 2) for i in range(4)]
    many = mean_over_seeds([[1.0, 0.0]] * 4, [[1, 0]] * 4, pairs, replicates=200)
    assert many["auc"].value == 1
    assert math.isnan(many["auc"].low)
    assert math.isnan(many["auc"].high)


def test_mean_over_seeds_is_one_joint_bootstrap() -> None:
    samples = [gaussian(n, n) for n in (100, 140)]
    scores, adversarial = [s for s, _ in samples], [a for _, a in samples]
    # The second sample shares sixty source texts with the first.
    clusters = [np.arange(100), np.arange(40, 180)]
    cuts = [{"5": 1.5}, {"5": 1.4}]
    got = mean_over_seeds(scores, adversarial, clusters, replicates=80, seed=9, thresholds=cuts)

    weights = cluster_weights(np.arange(180), 80, seed=9)
    slow: dict[str, list[float]] = {name: [] for name in got}
    for replicate in weights:
        parts = []
        for s, a, c, cut in zip(scores, adversarial, clusters, cuts, strict=True):
            w = replicate[c][None]
            held = metrics_at_threshold(s, a, cut["5"], w)
            parts.append(detection_metrics(s, a, w) | {f"{k}_heldout_5": v for k, v in held.items()})
        for name in got:
            slow[name].append(np.mean([part[name][0] for part in parts]))
    for name, estimate in got.items():
        assert (estimate.low, estimate.high) == pytest.approx(tuple(np.quantile(slow[name], [0.025, 0.975])))
    plain = [detection_metrics(s, a) for s, a in samples]
    assert got["auc"].value == pytest.approx((plain[0]["auc"] + plain[1]["auc"]) / 2)


def test_a_rate_of_none_or_all_has_the_exact_interval() -> None:
    scores, adversarial = np.arange(60.0), np.arange(60) >= 25
    names = np.arange(60)
    got = bootstrap_metrics(scores, adversarial, names, replicates=50, thresholds={"5": 24.0, "1": 40.0, "10": -1.0})
    # None of 25 flagged: every rate p with (1 - p)^25 >= 2.5 % is in the interval, and no other.
    none_of_25, all_of_35 = 1 - 0.025 ** (1 / 25), 0.025 ** (1 / 35)
    assert tuple(got["fpr_heldout_5"]) == pytest.approx((0, 0, none_of_25))
    assert tuple(got["tpr_heldout_5"]) == pytest.approx((1, all_of_35, 1))
    assert tuple(got["fpr_heldout_10"]) == pytest.approx((1, 0.025 ** (1 / 25), 1))
    assert 0 < got["tpr_heldout_1"].low < got["tpr_heldout_1"].value < got["tpr_heldout_1"].high < 1
    # The same texts twice tell no more than once.
    twice = mean_over_seeds([scores] * 2, [adversarial] * 2, [names] * 2, replicates=50, thresholds=[{"5": 24.0}] * 2)
    assert tuple(twice["fpr_heldout_5"]) == pytest.approx((0, 0, none_of_25))


def test_mean_over_equal_samples_is_one_sample() -> None:
    scores, adversarial = gaussian(100, 5)
    names = np.array([f"text {i}" for i in range(100)])
    one = bootstrap_metrics(scores, adversarial, names, replicates=100)
    three = mean_over_seeds([scores] * 3, [adversarial] * 3, [names, names.astype(object), names], replicates=100)
    for name in ORACLE_METRICS:
        # Three times the same texts tell no more than once; independent bootstraps would say they do.
        assert tuple(three[name]) == pytest.approx(tuple(one[name]), abs=1e-12)
    # Other source texts do tell more.
    fresh = mean_over_seeds(
        [scores] * 3, [adversarial] * 3, [[f"{s} {n}" for n in names] for s in range(3)], replicates=100
    )
    assert fresh["auc"].high - fresh["auc"].low < 0.75 * (one["auc"].high - one["auc"].low)


def test_mean_over_seeds_checks_its_input() -> None:
    s, a, c = [0.0, 1.0], [0, 1], [0, 1]
    with pytest.raises(ValueError, match="one entry a seed"):
        mean_over_seeds([s, s], [a], [c])
    with pytest.raises(ValueError, match="one entry a seed"):
        mean_over_seeds([], [], [])
    with pytest.raises(ValueError, match="same names"):
        mean_over_seeds([s, s], [a, a], [c, c], thresholds=[{"5": 0.0}, {"10": 0.0}])
    with pytest.raises(ValueError, match="one source text for each score"):
        mean_over_seeds([s], [a], [[0, 1, 2]])
    with pytest.raises(ValueError, match="integers in all seeds"):
        mean_over_seeds([s, s], [a, a], [c, ["0", "1"]])
    with pytest.raises(ValueError, match="integers in all seeds"):
        mean_over_seeds([s], [a], [[0.5, 1.0]])
