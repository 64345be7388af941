"""Pairs of runs that differ in self-distillation alone."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import DataError
from sdssl.compare import compare, draw_comparisons


def row(seed: int | None, *, distils: bool, values: list[float], **changes: Any) -> dict[str, Any]:
    settings = {"learning_rate": 0.1, "seed": seed, "self_distill": distils, "alpha": 1.0 if distils else None}
    settings |= changes.pop("settings", {})
    readings = [
        {"protocol": "knn-20", "layer": layer, "pooling": "cls", "top1": {"value": value, "low": 0.0, "high": 1.0}}
        for layer, value in enumerate(values, 1)
    ]
    return {
        **{"eval_dataset": "d", "train_dataset": "t", "arch": "vit", "objective": "byol", "seed": seed},
        **{"self_distill": distils, "n_train": 10, "n_test": 10, "readings": readings},
        "protocol": {"encoder": {"dataset_hash": "x", "steps": 5, "settings": settings}},
        **changes,
    }


def test_differences_over_seeds() -> None:
    rows = [
        row(1, distils=False, values=[0.2, 0.5]),
        row(2, distils=True, values=[0.5, 0.6]),
        row(0, distils=False, values=[0.1, 0.3]),
        row(1, distils=True, values=[0.4, 0.6]),
        row(2, distils=False, values=[0.3, 0.7]),
        row(0, distils=True, values=[0.2, 0.4]),
        row(7, distils=True, values=[0.9, 0.9]),  # has no baseline
    ]
    (found,) = compare(rows, "knn-20", "cls")
    assert found.seeds == (0, 1, 2)
    assert found.layers == (1, 2)
    assert found.difference == pytest.approx([(0.1 + 0.2 + 0.2) / 3, (0.1 + 0.1 - 0.1) / 3])
    margin = found.margin()
    assert margin is not None
    t = 4.302652729696142  # Student's t, 2 degrees of freedom, 97.5 %
    assert margin[0] == pytest.approx(t * statistics.stdev([0.1, 0.2, 0.2]) / math.sqrt(3))


@pytest.mark.parametrize(
    ("depth", "low", "between"),
    [(1, [1], []), (2, [1], []), (3, [1], [2]), (6, [1, 2], [3, 4, 5]), (12, [1, 2, 3, 4], [5, 6, 7, 8, 9, 10, 11])],
)
def test_parts_of_the_depth(depth: int, low: list[int], between: list[int]) -> None:
    (found,) = compare([row(0, distils=way, values=[0.1] * depth) for way in (False, True)], "knn-20", "cls")
    assert list(found.layers[found.low]) == low
    assert list(found.layers[found.between]) == between


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    found = compare([row(0, distils=way, values=[0.1, 0.2]) for way in (False, True)], "knn-20", "cls")
    assert found[0].margin() is None
    draw_comparisons(found * 3, tmp_path / "layers.png")
    assert (tmp_path / "layers.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "simclr"},
        {"eval_dataset": "e"},
        {"n_test": 11},
        {"settings": {"learning_rate": 0.2}},
        {"protocol": {"encoder": {"dataset_hash": "y", "steps": 5, "settings": {"learning_rate": 0.1}}}},
        {"objective": None},
    ],
    ids=str,
)
def test_what_is_no_pair(changes: dict[str, Any]) -> None:
    rows = [row(0, distils=False, values=[0.1]), row(0, distils=True, values=[0.2])]
    assert len(compare(rows, "knn-20", "cls")) == 1
    for others in ([rows[0], row(0, distils=True, values=[0.2], **changes)], [row(None, distils=True, values=[0.1])]):
        with pytest.raises(DataError, match="differ in self-distillation alone"):
            compare(others, "knn-20", "cls")


def test_a_reading_that_nobody_has() -> None:
    rows = [row(0, distils=way, values=[0.1]) for way in (False, True)]
    with pytest.raises(DataError, match="'linear'"):
        compare(rows, "linear", "cls")
