"""Two sets of rows side by side, against counts by hand and statistics written out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.errors import DataError
from harness.core.runs import Run
from harness.text.adversarial import ROWS_FILE, AdversarialRow, write_rows
from harness.text.attack_stats import Estimate, PairedFigures, compare_sets, paired_figures, set_figures
from harness.text.datasets import row_id

RESULTS = ("success", "failure", "maximized", "skipped")


def make_row(index: int, result: str = "success", text: str | None = None, **changes: Any) -> AdversarialRow:
    text = f"text {index}" if text is None else text
    right, right_after = result != "skipped", result in ("failure", "maximized")
    values: dict[str, Any] = {
        "id": row_id(text, "d", index),
        "dataset": "d",
        "split": "test",
        "index": index,
        "label": 1,
        "original_text": text,
        "perturbed_text": f"{text} {result}",
        "changed_positions": [0],
        "original_output": int(right),
        "perturbed_output": int(right_after),
        "original_score": 0.25,
        "perturbed_score": 0.75,
        "original_probabilities": None,
        "perturbed_probabilities": None,
        "result": result,
        "goal": "untargeted",
        "min_confidence": None,
        "recipe": "pwws",
        "recipe_parameters": '{"search": "greedy", "window": 3}',
        "victim": "v",
        "victim_hash": None,
        "queries": 10,
        "words_changed_percent": 20.0,
        "seed": 0,
        "textattack_version": "0.3.11",
    }
    return AdversarialRow(**{**values, **changes})


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson's interval as he wrote it."""
    z = 1.959963984540054
    share = hits / n
    centre, spread = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n)


def mcnemar(b: int, c: int) -> float:
    """The exact test, summed up: twice the smaller tail of a fair coin."""
    n = b + c
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(min(b, c) + 1)) / 2**n)


def test_figures_of_one_set() -> None:
    rows = [make_row(i, queries=10 + i, words_changed_percent=10.0 * i) for i in range(5)]
    rows += [make_row(i, "failure", queries=100) for i in range(5, 8)] + [make_row(8, "maximized", queries=7)]
    rows += [make_row(9, "skipped", queries=1)]
    found = set_figures("set", rows)
    assert (found.texts, found.successes, found.failures, found.maximized, found.skipped) == (10, 5, 3, 1, 1)
    assert (found.queries, found.words_changed_percent) == (13.0, 20.0)
    for estimate, hits, n in (
        (found.accuracy, 9, 10),
        (found.accuracy_under_attack, 4, 10),
        (found.success_rate, 5, 9),
    ):
        assert (estimate.value, estimate.n) == (hits / n, n)
        assert (estimate.low, estimate.high) == pytest.approx(wilson(hits, n))
    nothing = set_figures("set", [make_row(0, "skipped")])
    assert nothing.success_rate == Estimate(None, None, None, 0)
    assert (nothing.queries, nothing.words_changed_percent) == (None, None)
    with pytest.raises(DataError, match="no adversarial rows"):
        set_figures("set", [])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(RESULTS), st.sampled_from(RESULTS)), max_size=12), st.integers(0, 3))
def test_pairs_are_counted(results: list[tuple[str, str]], alone: int) -> None:
    a = [make_row(i, first) for i, (first, _) in enumerate(results)]
    b = [make_row(i, second) for i, (_, second) in enumerate(results)]
    found = paired_figures([*a, *(make_row(100 + i) for i in range(alone))], b[::-1])  # order does not count
    if not results:
        assert found is None
        return
    assert found is not None
    count = {pair: results.count(pair) for pair in product(RESULTS, RESULTS)}
    tried = [(first, second) for first, second in results if "skipped" not in (first, second)]
    assert (found.texts, found.attacked) == (len(results), len(tried))
    assert found.only_a_attacked == sum(count[first, "skipped"] for first in RESULTS[:3])
    assert found.only_b_attacked == sum(count["skipped", second] for second in RESULTS[:3])
    wins = [(first == "success", second == "success") for first, second in tried]
    assert (found.both, found.neither) == (wins.count((True, True)), wins.count((False, False)))
    assert (found.only_a, found.only_b) == (wins.count((True, False)), wins.count((False, True)))
    if found.only_a + found.only_b:
        assert found.p_value == pytest.approx(mcnemar(found.only_a, found.only_b))
    else:
        assert found.p_value is None
    assert found.identical == sum(first == second for first, second in tried)
    assert found.identical_successes == found.both
    assert (found.queries.n, found.words_changed_percent.n) == (len(tried), found.both)


def paired(a: list[AdversarialRow], b: list[AdversarialRow], seed: int = 0) -> PairedFigures:
    found = paired_figures(a, b, seed=seed)
    assert found is not None
    return found


def test_differences_and_their_intervals() -> None:
    draw = np.random.default_rng(3)
    shift = draw.normal(5, 20, size=400)
    a = [make_row(i, queries=1000) for i in range(400)]
    b = [make_row(i, queries=1000 + round(by), words_changed_percent=30.0) for i, by in enumerate(shift)]
    found = paired(a, b)
    rounded = np.round(shift)
    assert found.queries.value == pytest.approx(rounded.mean())
    assert found.queries.low is not None
    assert found.queries.high is not None
    # On so many independent texts the bootstrap and the normal interval agree.
    half = 1.96 * rounded.std(ddof=1) / 20
    assert found.queries.low == pytest.approx(rounded.mean() - half, abs=0.3)
    assert found.queries.high == pytest.approx(rounded.mean() + half, abs=0.3)
    assert found.words_changed_percent == Estimate(10.0, 10.0, 10.0, 400)
    assert paired(a, b, seed=1).queries != found.queries
    turned = paired(b, a)
    assert turned.queries.value == pytest.approx(-found.queries.value)
    assert (turned.queries.low, turned.queries.high) == pytest.approx((-found.queries.high, -found.queries.low))


def test_rows_of_one_text_are_no_independent_evidence() -> None:
    shifts = np.random.default_rng(0).normal(0, 10, size=20).round()

    def width(texts: int) -> float:
        a = [make_row(i, text=f"text {i % texts}", queries=100) for i in range(200)]
        b = [make_row(i, text=f"text {i % texts}", queries=100 + int(shifts[i % 20])) for i in range(200)]
        found = paired(a, b).queries
        assert found.low is not None
        assert found.high is not None
        return found.high - found.low

    assert width(20) > 2 * width(200)
    one = paired([make_row(i, text="same") for i in range(3)], [make_row(i, text="same") for i in range(3)])
    assert one.queries == Estimate(0.0, None, None, 3)


def test_sets_without_common_ids_are_paired_by_text() -> None:
    texts = ["x", "y", "x", "z"]
    a = [make_row(i, text=text) for i, text in enumerate(texts)]
    b = [make_row(i + 50, "failure", text=text) for i, text in enumerate(["x", "q", "x", "x"])]
    found = paired(a, b)
    assert (found.by, found.texts, found.only_a) == ("text", 2, 2)  # the third x has no partner
    assert paired(a, a).by == "id"
    assert paired_figures(a, [replace(row, label=0) for row in b]) is None  # another question
    with pytest.raises(DataError, match=f"B has row {a[0].id} twice"):
        paired_figures(a, [*a, a[0]])


def test_settings_that_differ(tmp_path: Path) -> None:
    rows = [make_row(i) for i in range(3)]
    others = [replace(row, recipe="bae", recipe_parameters='{"search": "greedy", "window": 4}') for row in rows]
    others[0] = replace(others[0], seed=5)
    for name, content, dtype in (("a", rows, "fp32"), ("b", others, "bf16")):
        with Run(tmp_path / name, "attack run", {"dtype": dtype}) as run:
            write_rows(run.path(ROWS_FILE), content)
            run.finish([ROWS_FILE])
    found = compare_sets(tmp_path / "a", tmp_path / "b")
    assert {difference.name: (difference.a, difference.b) for difference in found.differences} == {
        "recipe": ("pwws", "bae"),
        "parameter window": (3, 4),
        "seed": (0, [0, 5]),
        "dtype": ("fp32", "bf16"),
    }
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    manifest["versions"]["torch"] = "1.0"
    (tmp_path / "b" / "manifest.json").write_text(json.dumps(manifest))
    found = compare_sets(tmp_path / "a", tmp_path / "b" / ROWS_FILE)
    assert [d.b for d in found.differences if d.name == "version of torch"] == ["1.0"]
    assert compare_sets(tmp_path / "a", tmp_path / "a").differences == []


def test_the_command(main: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(tmp_path / "a.parquet", [make_row(i, RESULTS[i % 4]) for i in range(8)])
    write_rows(tmp_path / "b.parquet", [make_row(i, RESULTS[i % 2], recipe="[red]x") for i in range(8)])
    write_rows(tmp_path / "c.parquet", [make_row(i + 100) for i in range(8)])
    assert main("attack", "stats", tmp_path / "a.parquet", tmp_path / "b.parquet") == 0
    said = capsys.readouterr().out
    assert "8 texts in both, by id; 6 attacked in both" in said
    assert "[red]x" in said
    assert main("attack", "stats", tmp_path / "a.parquet", tmp_path / "c.parquet") == 0
    assert "no source text in common" in capsys.readouterr().out
    assert main("attack", "stats", tmp_path / "a.parquet", tmp_path / "b.parquet", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["a"]["successes"], found["paired"]["both"], found["paired"]["only_b_attacked"]) == (2, 2, 2)
    assert found["differences"] == [{"name": "recipe", "a": "pwws", "b": "[red]x"}]
    assert main("attack", "stats", tmp_path / "a.parquet", tmp_path / "a.parquet") == 0
    assert "no setting differs" in capsys.readouterr().out


def test_real_logs(shared_data: Path, main: Callable[..., int], tmp_path: Path, capsys: Any) -> None:
    pd = pytest.importorskip("pandas")
    frames = []
    for recipe in ("pwws", "textfooler"):
        log = shared_data / "attack_logs" / f"bert-base-uncased-sst2_{recipe}.csv"
        assert main("attack", "import", log, "--dataset", "sst2", "--recipe", recipe, "--out", tmp_path / recipe) == 0
        frames.append(pd.read_csv(log, keep_default_na=False))
    found = compare_sets(tmp_path / "pwws", tmp_path / "textfooler")
    wins = [frame["result_type"] == "Successful" for frame in frames]
    assert found.paired is not None
    # Both logs are of the same texts in the same order.
    assert (found.paired.by, found.paired.both) == ("id", int((wins[0] & wins[1]).sum()))
    assert (found.paired.only_a, found.paired.only_b) == (
        int((wins[0] & ~wins[1]).sum()),
        int((~wins[0] & wins[1]).sum()),
    )
    tried = (frames[0]["result_type"] != "Skipped") & (frames[1]["result_type"] != "Skipped")
    difference = (frames[1]["num_queries"] - frames[0]["num_queries"])[tried].mean()
    assert found.paired.queries.value == pytest.approx(difference)
    assert [difference.name for difference in found.differences] == ["recipe"]
