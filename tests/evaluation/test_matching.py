from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from harness.core.errors import ConfigurationError, DataError
from harness.evaluation.matching import CALIPER, Matching, draw_matched_sample, match_confidences
from harness.evaluation.sampling import draw_sample, failed_rows

LOGS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "attack_logs"


def msp_auc(clean: np.ndarray, adversarial: np.ndarray) -> float:
    labels = np.arange(clean.size + adversarial.size) >= clean.size
    return float(roc_auc_score(labels, -np.concatenate([clean, adversarial])))


def logit(p: np.ndarray) -> np.ndarray:
    return np.log(p / (1 - p))


def most_pairs(
    clean: list[float], adversarial: list[float], sources: tuple[list[int], list[int]], caliper: float
) -> int:
    """The most pairs there can be with no source twice, by trying everything."""
    options = [
        (i, j)
        for i, j in np.ndindex(len(clean), len(adversarial))
        if sources[0][i] != sources[1][j] and abs(clean[i] - adversarial[j]) <= caliper
    ]

    @cache
    def best(start: int, used: frozenset[int]) -> int:
        found = 0
        for k in range(start, len(options)):
            pair = {sources[0][options[k][0]], sources[1][options[k][1]]}
            if not pair & used:
                found = max(found, 1 + best(k + 1, used | pair))
        return found

    return best(0, frozenset())


def check(
    found: Matching, clean: np.ndarray, adversarial: np.ndarray, sources: tuple[np.ndarray, np.ndarray], caliper: float
) -> None:
    used = np.concatenate([sources[0][found.clean], sources[1][found.adversarial]])
    assert len(set(used.tolist())) == used.size == 2 * found.clean.size
    apart = logit(adversarial[found.adversarial]) - logit(clean[found.clean])
    assert found.difference == pytest.approx(apart)
    assert (np.abs(apart) <= caliper + 1e-9).all()
    if used.size:
        auc = msp_auc(clean[found.clean], adversarial[found.adversarial])
        assert abs(auc - 0.5) <= 1 / used.size + 1e-12
    facts = found.facts
    assert facts["pairs"] == found.clean.size
    assert facts["pairs"] + facts["unbalanced"] <= facts["partnered"] <= facts["adversarial_candidates"]


@settings(max_examples=150, deadline=None)
@given(
    n=st.integers(0, 6),
    k=st.integers(0, 6),
    kinds=st.integers(1, 9),
    caliper=st.sampled_from([0.05, 0.3, 1.0]),
    seed=st.integers(0, 10**6),
)
def test_small_sets_against_all_matchings(n: int, k: int, kinds: int, caliper: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    clean, adversarial = rng.uniform(0.5, 0.95, n).round(2), rng.uniform(0.5, 0.8, k).round(2)
    sources = rng.integers(0, kinds, n), rng.integers(0, kinds, k)
    found = match_confidences(clean, adversarial, sources[0].tolist(), sources[1].tolist(), caliper=caliper)
    check(found, clean, adversarial, sources, caliper)
    lists = (sources[0].tolist(), sources[1].tolist())
    most = most_pairs(logit(clean).tolist(), logit(adversarial).tolist(), lists, caliper)
    assert found.facts["partnered"] <= most
    if found.facts["unbalanced"]:
        return
    # Nothing can be added without tipping the balance.
    total = found.difference.sum()
    assert abs(total) <= caliper + 1e-9
    used = {*sources[0][found.clean].tolist(), *sources[1][found.adversarial].tolist()}
    for i, j in np.ndindex(n, k):
        if sources[0][i] != sources[1][j] and not {sources[0][i], sources[1][j]} & used:
            apart = logit(adversarial)[j] - logit(clean)[i]
            assert abs(apart) > caliper - 1e-9 or abs(total + apart) > caliper - 1e-9


def test_few_pairs_are_missed() -> None:
    rng = np.random.default_rng(5)
    got = most = 0
    for _ in range(60):
        clean, adversarial = rng.uniform(0.5, 0.95, 6), rng.uniform(0.5, 0.8, 6)
        keys = list(range(6))
        found = match_confidences(clean, adversarial, keys, keys, caliper=0.3)
        got += int(found.facts["partnered"])
        most += most_pairs(logit(clean).tolist(), logit(adversarial).tolist(), (keys, keys), 0.3)
    assert 0.8 * most <= got <= most


def typical(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Clean texts mostly sure, adversarial ones next to the boundary."""
    rng = np.random.default_rng(seed)
    return 1 / (1 + np.exp(-np.abs(rng.normal(3, 2, n)))), 1 / (1 + np.exp(-np.abs(rng.normal(0.6, 0.7, n))))


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 300), ties=st.booleans(), most=st.sampled_from([None, 1, 20]), seed=st.integers(0, 10**6))
def test_msp_is_at_chance(n: int, ties: bool, most: int | None, seed: int) -> None:
    clean, adversarial = typical(n, seed)
    if ties:
        clean, adversarial = (np.clip(v.round(1), 0.5, 0.9) for v in (clean, adversarial))
    keys = np.arange(n)
    found = match_confidences(clean, adversarial, keys.tolist(), keys.tolist(), most=most, seed=seed % 99)
    check(found, clean, adversarial, (keys, keys), CALIPER)
    assert most is None or found.clean.size <= most


def test_signed_differences_leave_no_bias() -> None:
    clean, adversarial = typical(800, 3)
    assert msp_auc(clean, adversarial) > 0.9
    keys = list(range(800))
    found = match_confidences(clean, adversarial, keys, keys)
    assert found.clean.size > 100
    assert found.facts["unbalanced"] == 0
    # By construction.
    assert abs(found.difference.sum()) <= CALIPER
    # Low confidences have clean partners too: all doubtful clean texts but few are used.
    doubtful = np.flatnonzero(clean < 0.7)
    assert np.isin(doubtful, found.clean).mean() > 0.8


def test_pairs_that_msp_finds_are_given_up() -> None:
    # All pairs would lie within the caliper, and yet confidence would tell every one of them. In logits 0.0237
    # apart, four fill the caliper, and of those MSP is at chance on one alone.
    found = match_confidences(np.full(30, 0.70), np.full(30, 0.705), list(range(30)), list(range(30, 60)))
    assert (found.facts["partnered"], found.facts["pairs"], found.facts["unbalanced"]) == (4, 1, 3)
    # Where the two classes overlap, only what is too much on one side goes.
    adversarial = np.r_[np.full(30, 0.705), np.full(10, 0.695)]
    found = match_confidences(np.full(40, 0.70), adversarial, list(range(40)), list(range(40, 80)))
    assert 18 <= found.facts["pairs"] <= 22


def test_the_seed_orders_the_pairs_and_chooses_among_too_many() -> None:
    clean, adversarial = typical(200, 1)
    keys = list(range(200))
    runs = [match_confidences(clean, adversarial, keys, keys, seed=seed) for seed in (0, 0, 1)]
    pairs = [set(zip(run.clean.tolist(), run.adversarial.tolist(), strict=True)) for run in runs]
    assert pairs[0] == pairs[1] == pairs[2]
    assert runs[0].clean.tolist() == runs[1].clean.tolist() != runs[2].clean.tolist()
    fewer = [match_confidences(clean, adversarial, keys, keys, seed=seed, most=20) for seed in (0, 1)]
    assert set(fewer[0].clean.tolist()) != set(fewer[1].clean.tolist())


def test_bad_confidences() -> None:
    for bad in (math.nan, 0.0, -0.1, 1.01):
        with pytest.raises(DataError, match="1 of 2 confidences of adversarial texts"):
            match_confidences([0.5], [0.6, bad], [0], [1, 2])
    with pytest.raises(ConfigurationError, match="caliper"):
        match_confidences([0.5], [0.6], [0], [1], caliper=0.0)
    with pytest.raises(ValueError, match="one source"):
        match_confidences([0.5], [0.6], [0], [])
    # A softmax in single precision reaches 1.
    assert match_confidences([1.0], [1.0], [0], [1]).difference.tolist() == [0.0]


def rows(n: int, seed: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    results = rng.choice(["success", "failure", "skipped", "maximized"], n, p=[0.7, 0.1, 0.15, 0.05])
    clean, adversarial = typical(n, seed)
    adversarial[results != "success"] = np.nan
    return results.tolist(), clean, adversarial


@settings(max_examples=30, deadline=None)
@given(n=st.integers(40, 300), fraction=st.sampled_from([0.0, 0.3]), seed=st.integers(0, 1000))
def test_sample_is_drawn_from_the_test_rows(n: int, fraction: float, seed: int) -> None:
    results, clean, adversarial = rows(n, seed)
    sources = [f"text {i // 2}" for i in range(n)]  # every text occurs twice
    options = {"validation_fraction": fraction, "target": 1000}
    # Validation rows need no confidence.
    clean = clean.copy()
    clean[draw_sample(results, "s2", seed, **options).validation] = np.nan  # type: ignore[arg-type]
    try:
        sample = draw_matched_sample(
            results,
            seed,
            clean_confidence=clean,
            adversarial_confidence=adversarial,
            validation_fraction=fraction,
            sources=sources,
        )
    except DataError as error:
        assert "clean partner" in error.message  # noqa: PT017
        return
    published = draw_sample(results, "s2", seed, **options)  # type: ignore[arg-type]
    assert sample.scenario == "matched"
    assert sample.validation.tolist() == published.validation.tolist()
    assert sample.test.tolist() == published.test.tolist()
    test = set(sample.test.tolist())
    assert {*sample.clean.tolist(), *sample.adversarial.tolist()} <= test
    assert {results[i] for i in sample.adversarial} == {"success"}
    used = [sources[i] for i in (*sample.clean, *sample.adversarial)]
    assert len(used) == len(set(used)) == 2 * sample.clean.size
    halves = {*sample.clean.tolist(), *sample.adversarial.tolist()}
    assert sample.unsampled.tolist() == [i for i in sample.test if i not in halves]
    assert sample.matching is not None
    # A text of a validation row's source may have been tuned on.
    held = {sources[i] for i in sample.validation}
    assert not held & set(used)
    apart = [i for i in sample.test if sources[i] not in held]
    assert sample.matching["adversarial_candidates"] == sum(results[i] == "success" for i in apart)
    assert sample.matching["clean_candidates"] == len(apart)
    auc = msp_auc(clean[sample.clean], adversarial[sample.adversarial])
    assert abs(auc - 0.5) <= 1 / (2 * sample.clean.size) + 1e-12
    assert failed_rows(results, sample).tolist() == [i for i in sample.test if results[i] == "failure"]


def test_sample_takes_misclassified_texts_and_at_most_the_target() -> None:
    results, clean, adversarial = rows(600, 0)
    confidences = {"clean_confidence": clean, "adversarial_confidence": adversarial}
    sample = draw_matched_sample(results, 0, **confidences, validation_fraction=0.0)
    assert "skipped" in {results[i] for i in sample.clean}
    fewer = draw_matched_sample(results, 0, **confidences, validation_fraction=0.0, target=15)
    assert 10 <= fewer.clean.size <= 15


def test_sample_without_answer_says_so() -> None:
    results, clean, adversarial = rows(50, 0)
    confidences = {"clean_confidence": clean, "adversarial_confidence": adversarial}
    with pytest.raises(DataError, match="no attack succeeded"):
        draw_matched_sample(["failure"] * 50, 0, **confidences)
    with pytest.raises(ConfigurationError, match="target 0"):
        draw_matched_sample(results, 0, **confidences, target=0)
    with pytest.raises(ValueError, match="one confidence for each of 49 rows"):
        draw_matched_sample(results[:49], 0, **confidences)
    with pytest.raises(DataError, match="confidences of adversarial texts"):
        draw_matched_sample(["success"] * 50, 0, **confidences)
    with pytest.raises(DataError, match=r"none of \d+ adversarial texts has a clean partner"):
        draw_matched_sample(results, 0, clean_confidence=np.full(50, 0.999), adversarial_confidence=np.full(50, 0.6))
    with pytest.raises(ConfigurationError, match="needs the victim's confidences"):
        draw_sample(results, "matched", 0)


@pytest.mark.parametrize("log", ["bert-base-uncased-sst2_textfooler", "bert-base-uncased-imdb_textfooler"])
def test_real_logs(log: str) -> None:
    path = LOGS / f"{log}.csv"
    if not path.exists():
        pytest.skip(f"real attack logs are not at {LOGS}")
    names = {"Successful": "success", "Failed": "failure", "Skipped": "skipped"}
    table = pd.read_csv(path)
    results = [names[r] for r in table["result_type"]]
    # Two classes: the confidence is the larger of p and 1 - p.
    clean, adversarial = (np.maximum(table[c], 1 - table[c]).to_numpy() for c in ("original_score", "perturbed_score"))
    wins = np.array([r == "success" for r in results])
    assert msp_auc(clean, adversarial[wins]) > 0.9
    sample = draw_matched_sample(
        results, 0, clean_confidence=clean, adversarial_confidence=adversarial, validation_fraction=0.0
    )
    assert sample.clean.size > 100
    assert sample.matching is not None
    assert sample.matching["unbalanced"] == 0
    assert msp_auc(clean[sample.clean], adversarial[sample.adversarial]) == pytest.approx(0.5, abs=0.004)
