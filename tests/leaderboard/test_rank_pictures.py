from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest
from scipy.stats import friedmanchisquare, rankdata

from harness.core.rows import DETECTION_METRICS, finish_row
from harness.leaderboard.page import render
from harness.leaderboard.rank_pictures import rank_pictures

NAMES = ("a", "b", "c", "d")


def make_row(detector: str, dataset: str, auc: float | None, **changes: Any) -> dict[str, Any]:
    none = {"value": None, "low": None, "high": None}
    row = {
        **{"dataset": dataset, "recipe": "pwws", "victim": "bert", "detector": detector, "scenario": "s1", "seed": 0},
        **{"n_clean": 10, "n_adversarial": 10, "n_calibration": 5, "run": "r", "protocol": {}},
        "metrics": {**dict.fromkeys(DETECTION_METRICS, none), "auc": {"value": auc, "low": None, "high": None}},
        "cost": {"forwards_per_text": 1, "ms_per_text": 2},
    }
    return finish_row({**row, **changes})


def table(aucs: np.ndarray, **changes: Any) -> list[dict[str, Any]]:
    return [
        make_row(name, f"data{cell}", float(auc), **changes)
        for cell, line in enumerate(aucs)
        for name, auc in zip(NAMES, line, strict=True)
    ]


AUCS = np.random.default_rng(0).uniform(0.5, 0.8, size=(9, 4)) + np.array([0.19, 0.1, 0.05, 0])


def test_ranks_are_those_of_scipy_and_the_dots_stand_there() -> None:
    rows = table(AUCS)
    [picture] = rank_pictures(rows[::-1])
    ranks = np.mean([rankdata(-line) for line in AUCS], axis=0)
    expected = sorted(zip(ranks, NAMES, strict=True))
    assert [(dot.name, dot.rank) for dot in picture.dots] == [(name, f"{rank:.1f}") for rank, name in expected]
    assert float(picture.friedman_p) == pytest.approx(friedmanchisquare(*AUCS.T).pvalue, rel=0.5)
    assert picture.difference == f"{2.569 * math.sqrt(4 * 5 / (6 * 9)):.2f}"
    at = {tick.text: float(tick.at) for tick in picture.ticks}
    width = at["4"] - at["1"]
    places = [at["1"] + (rank - 1) / 3 * width for rank, _ in expected]
    assert [float(dot.x) for dot in picture.dots] == pytest.approx(places, abs=0.1)
    assert (picture.cells, picture.left_out) == (9, 0)


def test_seeds_are_averaged_before_they_are_ranked() -> None:
    rows = table(AUCS)
    apart = [
        make_row(r["detector"], r["dataset"], r["metrics"]["auc"]["value"] + change, seed=seed)
        for r in rows
        for seed, change in ((0, -0.01), (1, 0.01))
    ]
    assert rank_pictures(apart) == rank_pictures(rows)


def test_what_trained_on_adversarial_texts_is_not_ranked_and_small_cells_are_left_out() -> None:
    rows = table(AUCS)
    more = [
        *(make_row("wdr", f"data{cell}", 0.99, trains_on_adversarial_texts=True) for cell in range(9)),
        make_row("dear", "data0", 0.99, protocol={"sampling": {"dear_texts": 5}}),
        # Of two protocols neither is the detector's figure: the cell is left out.
        make_row("a", "data1", 0.1, protocol={"k": 2}),
    ]
    [picture] = rank_pictures(rows + more)
    assert sorted(dot.name for dot in picture.dots) == list(NAMES)
    assert (picture.cells, picture.left_out) == (8, 2)


def test_a_picture_a_scenario_and_goal_and_none_of_too_little() -> None:
    assert rank_pictures([]) == []
    assert rank_pictures(table(AUCS[:1])) == []
    assert rank_pictures([row for row in table(AUCS) if row["detector"] in "ab"]) == []
    rows = [*table(AUCS), *table(AUCS, scenario="s2"), *table(AUCS, goal="flip, p >= 0.9")]
    assert [(p.scenario, p.goal) for p in rank_pictures(rows)] == [
        ("s1", "flip"),
        ("s1", "flip, p >= 0.9"),
        ("s2", "flip"),
    ]


def test_the_page_draws_it_and_says_it() -> None:
    page = render({"detection": table(AUCS)})
    [found] = (ET.fromstring(text) for text in re.findall(r'<svg class="ranks".*?</svg>', page, re.DOTALL))
    assert found.findtext("title") == "Average ranks of detectors, scenario s1, goal flip"
    [picture] = rank_pictures(table(AUCS))
    assert found.findtext("desc") == picture.description
    assert len(found.findall("circle")) == 4
    highest = float(found.get("viewBox", "").split()[3])
    assert all(0 < float(circle.get("cy", "nan")) < highest for circle in found.findall("circle"))
