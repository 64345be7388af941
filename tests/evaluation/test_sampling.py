# The oracle draws from the global legacy generator on purpose: that is what the published code does.
# ruff: noqa: NPY002
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.errors import ConfigurationError, DataError, UnknownNameError
from harness.evaluation.sampling import Protocol, Sample, draw_sample, published_protocol

LOGS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "attack_logs"

results_vectors = st.builds(
    lambda n, weights, seed: (
        np.random.default_rng(seed)
        .choice(["success", "failure", "skipped", "maximized"], size=n, p=np.array(weights) / sum(weights))
        .tolist()
    ),
    n=st.integers(1, 400),
    weights=st.tuples(st.integers(1, 20), st.integers(0, 20), st.integers(0, 20), st.sampled_from([0, 0, 5])),
    seed=st.integers(0, 10**6),
)


def oracle(
    results: list[str],
    *,
    scenario: str,
    seed: int,
    target: int,
    validation_fraction: float,
    include_failures: bool = False,
) -> dict[str, list[int]] | None:
    """The protocol written with data frames and the global generator; None where it has no answer."""
    state = np.random.get_state()
    try:
        df = pd.DataFrame({"row": range(len(results)), "result": results})
        np.random.seed(seed)
        indices = np.random.permutation(len(df))
        split = int(len(df) * validation_fraction)
        val, test = df.iloc[indices[:split]], df.iloc[indices[split:]].reset_index(drop=True)
        adv = test[test["result"] == "success"]
        if len(adv) == 0:
            return None
        success_rate = len(adv) / len(test)
        task_accuracy = len(test[test["result"] != "skipped"]) / len(test)

        if scenario == "s1":
            max_adv = target
            ratio = max_adv * (1 / success_rate) * (1 / task_accuracy) / len(test)
            while ratio >= 0.4 and max_adv > 0:
                ratio = max_adv / len(adv)
                max_adv -= 10
            if ratio >= 0.4 or max_adv < 0:
                return None
            split = int(len(test) * ratio)
        else:
            split = min(len(test), int(target / (success_rate * task_accuracy)))

        np.random.seed(seed)
        rand = np.arange(len(test))
        np.random.shuffle(rand)
        subset = test.iloc[rand[:split]]
        keep = subset["result"].isin(["success", "failure"] if include_failures else ["success"])
        chosen = subset[keep]
        clean = test.iloc[rand[split:]].iloc[: len(chosen)] if scenario == "s1" else subset
        if len(chosen) == 0:
            return None
        parts = {"validation": val, "test": test, "subset": subset, "adversarial": chosen, "clean": clean}
        return {name: part["row"].tolist() for name, part in parts.items()}
    finally:
        np.random.set_state(state)


def parts_of(sample: Sample) -> dict[str, list[int]]:
    names = ("validation", "test", "subset", "adversarial", "clean")
    return {name: getattr(sample, name).tolist() for name in names}


@settings(max_examples=300, deadline=None)
@given(
    results=results_vectors,
    scenario=st.sampled_from(["s1", "s2"]),
    seed=st.integers(0, 2**32 - 1),
    target=st.integers(1, 300),
    fraction=st.sampled_from([0.0, 0.1, 0.3, 0.5]),
    include_failures=st.booleans(),
)
def test_equals_the_slow_oracle(
    results: list[str], *, scenario: Any, seed: int, target: int, fraction: float, include_failures: bool
) -> None:
    options: dict[str, Any] = {
        "target": target,
        "validation_fraction": fraction,
        "include_failures": include_failures,
    }
    expected = oracle(results, scenario=scenario, seed=seed, **options)
    if expected is None:
        with pytest.raises(DataError):
            draw_sample(results, scenario, seed, **options)
        return
    sample = draw_sample(results, scenario, seed, **options)
    assert parts_of(sample) == expected
    assert all(getattr(sample, name).dtype == np.int64 for name in expected)

    used = set(expected["subset"]) | set(expected["clean"])
    assert sample.unsampled.tolist() == [row for row in expected["test"] if row not in used]
    outcome = np.array(results)
    if include_failures:
        assert (outcome[sample.adversarial] != "skipped").all()
    else:
        assert (outcome[sample.adversarial] == "success").all()
    assert sorted([*sample.validation, *sample.test]) == list(range(len(results)))
    if scenario == "s1":
        assert not set(sample.adversarial.tolist()) & set(sample.clean.tolist())
        assert not set(sample.subset.tolist()) & set(sample.clean.tolist())
        assert sample.clean.size == sample.adversarial.size
    else:
        assert set(sample.adversarial.tolist()) <= set(sample.clean.tolist())


def test_known_rows() -> None:
    # Ten rows by hand: RandomState(0).permutation(10) is 2 8 4 9 1 6 7 3 0 5, and RandomState(0) shuffles
    # the seven test rows (9 1 6 7 3 0 5) to positions 6 2 1 3 0 5 4.
    results = ["success"] * 9 + ["skipped"]
    sample = draw_sample(results, "s2", 0, target=3)
    assert sample.validation.tolist() == [2, 8, 4]
    assert sample.test.tolist() == [9, 1, 6, 7, 3, 0, 5]
    # int(3 / (6/7 * 6/7)) = 4 rows; row 9 comes fifth.
    assert sample.clean.tolist() == [5, 6, 1, 7]
    assert sample.adversarial.tolist() == [5, 6, 1, 7]
    assert sample.unsampled.tolist() == [9, 3, 0]


def test_scenario_1_keeps_its_share_below_four_tenths() -> None:
    # 100 successes of 100: the target of 2,000 falls to 30, the first value with a share below 0.4.
    # 39 is never tried, since the target falls in tens.
    sample = draw_sample(["success"] * 100, "s1", 1, validation_fraction=0.0)
    assert (sample.subset.size, sample.adversarial.size, sample.clean.size) == (30, 30, 30)
    assert sample.unsampled.size == 40


def test_clean_rows_may_be_misclassified() -> None:
    results = ["success"] * 60 + ["skipped"] * 40
    sample = draw_sample(results, "s1", 0, validation_fraction=0.0)
    assert "skipped" in {results[i] for i in sample.clean}


def test_global_generator_is_untouched() -> None:
    before: Any = np.random.get_state()
    draw_sample(["success"] * 100, "s1", 5)
    after: Any = np.random.get_state()
    assert before[0] == after[0]
    assert np.array_equal(before[1], after[1])
    assert before[2:] == after[2:]


def test_too_few_successes_say_how_many() -> None:
    with pytest.raises(DataError, match=r"more than 20 successful attacks \(100 test rows, 100 attacked") as e:
        draw_sample(["success"] * 20 + ["failure"] * 80, "s1", 0, validation_fraction=0.0)
    assert "Attack more texts" in e.value.hint
    # A target that is no multiple of ten falls below 0: an error too, as published.
    with pytest.raises(DataError, match="target 5"):
        draw_sample(["success"] * 5 + ["failure"], "s1", 0, target=5, validation_fraction=0.0)


@pytest.mark.parametrize("scenario", ["s1", "s2"])
@pytest.mark.parametrize("results", [[], ["failure"] * 50, ["skipped"] * 50])
def test_no_success_is_an_error(results: list[str], scenario: Any) -> None:
    for include_failures in (False, True):
        with pytest.raises(DataError, match="no attack succeeded"):
            draw_sample(results, scenario, 0, include_failures=include_failures)


def test_maximized_rows_are_attacked_and_never_adversarial() -> None:
    results = ["success"] * 20 + ["maximized"] * 60 + ["failure"] * 20
    sample = draw_sample(results, "s2", 0, target=10**6, validation_fraction=0.0, include_failures=True)
    assert sorted(sample.adversarial) == [*range(20), *range(80, 100)]
    with pytest.raises(DataError, match="no attack succeeded") as caught:
        draw_sample(["maximized"] * 50, "s2", 0)
    assert "keeps every label" in caught.value.hint


def test_bad_arguments() -> None:
    with pytest.raises(UnknownNameError, match="no scenario named 's3'"):
        draw_sample(["success"], "s3", 0)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="Successful"):
        draw_sample(["Successful", "success"], "s1", 0)
    for options in ({"target": 0}, {"validation_fraction": 1.0}, {"validation_fraction": -0.1}):
        with pytest.raises(ConfigurationError):
            draw_sample(["success"] * 9, "s1", 0, **options)
    for seed in (-1, 2**32):
        with pytest.raises(ConfigurationError):
            draw_sample(["success"] * 9, "s1", seed)


@given(seed=st.integers(0, 50), scenario=st.sampled_from(["s1", "s2"]), times=st.integers(1, 4))
def test_rows_of_one_source_are_kept_apart(seed: int, scenario: Any, times: int) -> None:
    results = np.random.default_rng(seed).choice(["success", "failure", "skipped"], 240, p=[0.5, 0.3, 0.2]).tolist()
    sources = [f"text {i // times}" for i in range(240)]
    plain = draw_sample(results, scenario, seed, target=30)
    apart = draw_sample(results, scenario, seed, target=30, sources=sources)
    of = np.array(sources)
    held = set(of[plain.validation])
    wins = [i for i in plain.adversarial if sources[i] not in held]
    assert apart.adversarial.tolist() == wins
    if scenario == "s2":
        assert apart.clean.tolist() == [i for i in plain.clean if sources[i] not in held]
    else:
        taken = held | set(of[wins])
        assert not taken & set(of[apart.clean])
        assert set(apart.clean) <= set(plain.test) - set(plain.subset)
        free = sum(sources[i] not in taken for i in set(plain.test) - set(plain.subset))
        assert len(apart.clean) == min(len(wins), free)
        # Those that the published rule draws come first, in its order.
        known = [i for i in plain.clean if sources[i] not in taken][: len(wins)]
        assert apart.clean.tolist()[: len(known)] == known
    for name in ("validation", "test", "subset"):
        assert getattr(apart, name).tolist() == getattr(plain, name).tolist()
    if times == 1:
        assert apart.clean.tolist() == plain.clean.tolist()
    with pytest.raises(ValueError, match="one source for each of 240 rows"):
        draw_sample(results, scenario, seed, target=30, sources=sources[1:])


def test_published_protocol() -> None:
    for name in ("sst2", "sst-2", "SST-2", "SST_2", "stanfordnlp/sst2"):
        assert published_protocol(name) == Protocol(target=1000, validation_fraction=0.0)
    for name in ("imdb", "ag-news", "yelp-polarity", "fancyzhx/ag_news", "sst5"):
        assert published_protocol(name) == Protocol(target=2000, validation_fraction=0.3)


# For seeds 0, 1, 2: subset and adversarial rows of scenario 1 (as many clean ones), adversarial rows of
# scenario 2, whose subset is the whole test split on logs this small.
PINNED = {
    "bert-base-uncased-ag-news_pwws": (700, [(262, 132), (264, 127), (266, 136)], [373, 371, 368]),
    "bert-base-uncased-imdb_textfooler": (700, [(275, 247), (276, 243), (278, 248)], [635, 633, 628]),
    "bert-base-uncased-imdb_tfadj": (700, [(262, 25), (247, 22), (272, 36)], [80, 85, 77]),
    "bert-base-uncased-sst2_pwws": (872, [(337, 265), (337, 268), (337, 269)], [698, 698, 698]),
    "bert-base-uncased-sst2_textfooler": (872, [(341, 294), (341, 300), (341, 306)], [767, 767, 767]),
    "bert-base-uncased-yelp_textfooler": (700, [(271, 248), (269, 250), (279, 260)], [645, 649, 651]),
    "roberta-ag_news_bert-attack": (921, [(365, 142), (365, 137), (349, 133)], [353, 353, 343]),
    "roberta-ag_news_textfooler": (707, [(275, 130), (272, 135), (265, 136)], [359, 363, 346]),
    "roberta-imdb_bert-attack": (397, [(149, 132), (147, 133), (149, 134)], [346, 350, 345]),
    "roberta-imdb_textfooler": (407, [(153, 138), (159, 144), (152, 131)], [344, 358, 348]),
}


@pytest.mark.parametrize("log", sorted(PINNED))
def test_counts_on_real_logs(log: str) -> None:
    path = LOGS / f"{log}.csv"
    if not path.exists():
        pytest.skip(f"real attack logs are not at {LOGS}")
    names = {"Successful": "success", "Failed": "failure", "Skipped": "skipped"}
    results = [names[r] for r in pd.read_csv(path, usecols=["result_type"])["result_type"]]
    protocol = published_protocol("sst2" if "sst2" in log else "other")
    options: dict[str, Any] = {
        "target": protocol.target,
        "validation_fraction": protocol.validation_fraction,
    }
    n_test, first, second = PINNED[log]
    for seed in (0, 1, 2):
        s1, s2 = (draw_sample(results, scenario, seed, **options) for scenario in ("s1", "s2"))
        assert s1.test.size == n_test
        assert (s1.subset.size, s1.adversarial.size) == first[seed]
        assert s1.clean.size == s1.adversarial.size
        assert (s2.clean.size, s2.adversarial.size, s2.unsampled.size) == (n_test, second[seed], 0)
        for sample in (s1, s2):
            assert parts_of(sample) == oracle(results, scenario=sample.scenario, seed=seed, **options)
