from __future__ import annotations

import math
from collections.abc import Callable
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import ConfigurationError, UnknownNameError
from harness.core.rows import DETECTION_METRICS, finish_row
from harness.leaderboard.sheets import COLUMNS
from harness.leaderboard.table import Selection, ShownTable, select


def make_row(detector: str = "rde", seed: int = 0, auc: float | None = 0.5, **changes: Any) -> dict[str, Any]:
    metrics = {name: {"value": 0.5, "low": 0.25, "high": 0.75} for name in DETECTION_METRICS}
    metrics["auc"]["value"] = auc
    metrics["realised_fpr_10"]["value"] = changes.pop("fpr", 0.5)
    row = {
        "dataset": "imdb",
        "recipe": "pwws",
        "victim": "bert",
        "detector": detector,
        "scenario": "s1",
        "seed": seed,
        "n_clean": 100,
        "n_adversarial": 90,
        "n_calibration": 50,
        "metrics": metrics,
        "cost": {"forwards_per_text": 1, "ms_per_text": 2.5},
        "run": "run",
        "protocol": {},
    }
    return finish_row({**row, **changes})


def ssl_row(seed: int | None, top1: tuple[float, ...] = (0.25, 0.5), **changes: Any) -> dict[str, Any]:
    readings = [
        {"protocol": "knn-20", "layer": layer, "pooling": "cls", "top1": {"value": v, "low": 0, "high": 1}}
        for layer, v in enumerate(top1, start=1)
    ]
    row = {
        "board": "ssl",
        "encoder": f"run-{seed}",
        "objective": "simclr",
        "self_distill": False,
        "arch": "vit",
        "train_dataset": "cifar10",
        "eval_dataset": "digits",
        "seed": seed,
        "n_train": 1000,
        "n_test": 200,
        "readings": readings,
        "layers": [],
        "cost": {"forward_ms_per_item": 1.0, "reading_seconds": 2.0},
        "run": "read",
        "protocol": {},
    }
    return finish_row({**row, **changes})


def show(rows: list[dict[str, Any]], **asked: Any) -> ShownTable:
    return select(rows, Selection(**asked))


def column(found: ShownTable, name: str) -> list[Any]:
    return [line[name] for line in found.lines]


ROWS = [
    make_row("rde", auc=0.5, fpr=0.125),
    make_row("msp", auc=0.75, fpr=0.25),
    make_row("wdr", auc=1.0, fpr=0.0, trains_on_adversarial_texts=True),
    make_row("knn:layer=all,k=20", auc=None, fpr=0.375, goal="flip, p >= 0.9"),
]


# Means.


def test_seeds_are_averaged_and_their_intervals_are_not() -> None:
    rows = [make_row(seed=seed, auc=auc, n_clean=100 + seed, run=f"r{seed}") for seed, auc in ((10, 0.25), (2, 0.5))]
    [line] = show(rows).lines
    assert (line["seed"], line["auc"], line["n_clean"], line["n_adversarial"]) == ("2, 10", 0.375, 106, 90)
    assert (line["auc_low"], line["auc_high"], line["id"], line["run"], line["detector"]) == (
        None,
        None,
        None,
        None,
        "rde",
    )


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_the_mean_is_that_of_the_seeds(aucs: list[float]) -> None:
    [line] = show([make_row(seed=seed, auc=auc) for seed, auc in enumerate(aucs)]).lines
    assert math.isclose(line["auc"], fmean(aucs), abs_tol=1e-12)


def test_a_seed_without_a_value_leaves_no_mean() -> None:
    [line] = show([make_row(seed=0, auc=None), make_row(seed=1, auc=0.5)]).lines
    assert line["auc"] is None


def test_each_seed_has_its_interval() -> None:
    rows = [make_row(seed=seed) for seed in (1, 0)]
    found = show(rows, each_seed=True)
    assert column(found, "seed") == ["0", "1"]
    assert column(found, "auc_low") == [0.25, 0.25]
    assert column(found, "id") == [rows[1]["id"], rows[0]["id"]]


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 0, "protocol": {"k": 1}},
        {"seed": 1, "protocol": {"sampling": {"target": 50}}},
        {"seed": 1, "protocol": {"victim": {"hash": "b"}}},
        {"seed": 1, "protocol": {"attack": {"rows_hash": "b"}}},
        {"seed": 1, "goal": "flip, p >= 0.9"},
        {"seed": 1, "victim": "roberta"},
    ],
)
def test_rows_that_are_not_alike_are_not_averaged(other: dict[str, Any]) -> None:
    assert len(show([make_row(seed=0), make_row(**other)]).lines) == 2


def test_layers_are_averaged_over_encoders_of_several_seeds() -> None:
    found = show([ssl_row(0, (0.25, 0.5)), ssl_row(1, (0.75, 0.5))], board="ssl")
    assert [(line["layer"], line["top1"], line["seed"], line["encoder"]) for line in found.lines] == [
        (1, 0.5, "0, 1", None),
        (2, 0.5, "0, 1", None),
    ]
    assert len(show([ssl_row(0), ssl_row(1, n_test=100)], board="ssl").lines) == 4
    unknown = {"objective": None, "self_distill": None, "train_dataset": None}
    named = [ssl_row(None, encoder=name, **unknown) for name in ("timm:a", "timm:b")]
    assert sorted({line["encoder"] for line in show(named, board="ssl").lines}) == ["timm:a", "timm:b"]


# Order.


def test_the_best_comes_first_and_what_trained_on_adversarial_texts_last() -> None:
    assert column(show(ROWS), "detector") == ["msp", "rde", "wdr", "knn:layer=all,k=20"]
    rows = [*ROWS, make_row("mle", dataset="ag_news", auc=0.125)]
    assert column(show(rows), "detector")[0] == "mle"


def test_rates_fall_and_false_alarms_rise() -> None:
    assert column(show(ROWS, sort=("auc",)), "auc") == [0.75, 0.5, None, 1.0]
    assert column(show(ROWS, sort=("auc",), reverse=True), "auc") == [0.5, 0.75, None, 1.0]
    assert column(show(ROWS, sort=("realised_fpr",)), "realised_fpr") == [0.125, 0.25, 0.375, 0.0]
    assert column(show(ROWS, sort=("detector",)), "detector") == ["knn:layer=all,k=20", "msp", "rde", "wdr"]
    assert column(show(ROWS, sort=("dataset", "realised_fpr"), reverse=True), "realised_fpr") == [
        0.375,
        0.25,
        0.125,
        0.0,
    ]


def test_costs_and_counts_rise_as_numbers() -> None:
    rows = [make_row(name, n_clean=n) for name, n in (("a", 100), ("b", 9), ("c", 20))]
    assert column(show(rows, sort=("n_clean",)), "n_clean") == [9, 20, 100]
    layers = show([ssl_row(0, tuple(0.25 for _ in range(11)))], board="ssl", sort=("layer",), reverse=True)
    assert column(layers, "layer") == list(range(11, 0, -1))


@given(st.permutations(ROWS))
def test_the_order_of_the_rows_never_shows(rows: list[dict[str, Any]]) -> None:
    for sort in ((), ("dataset",), ("auc",)):
        assert show(rows, sort=sort) == show(ROWS, sort=sort)


def test_a_limit_comes_after_the_order() -> None:
    found = show(ROWS, sort=("detector",), limit=2)
    assert (column(found, "detector"), found.total) == (["knn:layer=all,k=20", "msp"], 4)


# Conditions.


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (["detector=rde"], {"rde"}),
        (["detector=rde, msp"], {"rde", "msp"}),
        (["detector!=rde,msp"], {"wdr", "knn:layer=all,k=20"}),
        (["detector=knn:layer=all,k=20"], {"knn:layer=all,k=20"}),
        (["detector=rde,knn:layer=all,k=20,msp"], {"rde", "msp", "knn:layer=all,k=20"}),
        (["goal=flip, p >= 0.9"], {"knn:layer=all,k=20"}),
        (["goal!=flip, p >= 0.9", "auc>=0.75"], {"msp", "wdr"}),
        (["auc<0.75"], {"rde"}),
        (["auc = 0.750"], {"msp"}),
        (["seed=0", "trains_on_adversarial_texts=true"], {"wdr"}),
        (["auc="], {"knn:layer=all,k=20"}),
    ],
)
def test_conditions(where: list[str], expected: set[str]) -> None:
    assert set(column(show(ROWS, where=tuple(where)), "detector")) == expected


@pytest.mark.parametrize(
    ("asked", "message", "hint"),
    [
        ({"where": ("detectr=rde",)}, "no column of the detection board named 'detectr'", "Did you mean detector"),
        ({"where": ("detector=rdee",)}, "there is no detector named 'rdee'", "Did you mean rde"),
        ({"sort": ("aucc",)}, "no column of the detection board named 'aucc'", "Did you mean auc"),
        ({"columns": ("top1",)}, "no column of the detection board named 'top1'", "Known: aupr"),
    ],
)
def test_wrong_names_are_offered_the_nearest(asked: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        show(ROWS, **asked)
    assert message in caught.value.message
    assert hint.split(":")[0] in caught.value.hint


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("detector", "cannot be read"),
        ("=rde", "cannot be read"),
        ("auc>high", "'high' .* is no number"),
        ("detector>0.5", "the column detector holds no numbers"),
    ],
)
def test_conditions_that_say_nothing(condition: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        show(ROWS, where=(condition,))


def test_every_column_can_be_shown_and_sorted_by() -> None:
    for board, rows in (("detection", ROWS), ("ssl", [ssl_row(0), ssl_row(1)])):
        for name in COLUMNS[board]:
            found = show(rows, board=board, columns=(name,), sort=(name,))
            assert found.columns == (name,)
            assert len(found.lines) == found.total > 0


def test_no_rows_are_no_lines() -> None:
    assert (show([]).lines, show([], board="ssl").total) == ((), 0)


def test_the_default_columns_exist() -> None:
    makers: dict[str, Callable[[], dict[str, Any]]] = {"detection": make_row, "ssl": lambda: ssl_row(0)}
    for board, make in makers.items():
        assert set(show([make()], board=board).columns) <= set(COLUMNS[board])
