"""The CSVs in a spreadsheet: no text cell is run, numbers are numbers, and everything comes back."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.csv_cells import unsafe_cell
from harness.core.rows import DETECTION_METRICS, finish_row
from harness.leaderboard.sheets import COLUMNS, to_csv

# What a formula begins with, what a spreadsheet skips before one, what splits cells, and plain characters.
HOSTILE = st.text("'=+-@\t\r\n\0\uff1d\uff0b\uff0d\uff20,;\"| ()1aé\u202e", min_size=1, max_size=12)
RATES = st.floats(0, 1)
COSTS = st.floats(0, 1e9)
SEEDS = st.integers(-(2**40), 2**40)
TEXTS = {
    "detection": ("dataset", "recipe", "goal", "victim", "detector", "run"),
    "ssl": ("objective", "arch", "train_dataset", "eval_dataset", "encoder", "run"),
}


@st.composite
def detection_rows(draw: Callable[[Any], Any]) -> dict[str, Any]:
    def estimate() -> dict[str, Any]:
        return {key: draw(RATES | st.none()) for key in ("value", "low", "high")}

    return finish_row(
        {
            **{name: draw(HOSTILE) for name in TEXTS["detection"]},
            "scenario": "s1",
            "seed": draw(SEEDS),
            "n_clean": draw(st.integers(1, 10**9)),
            "n_adversarial": 5,
            "n_calibration": 0,
            "metrics": {name: estimate() for name in DETECTION_METRICS},
            "cost": {"forwards_per_text": draw(COSTS), "ms_per_text": draw(COSTS)},
            "protocol": {},
        }
    )


@st.composite
def ssl_rows(draw: Callable[[Any], Any]) -> dict[str, Any]:
    value = draw(RATES)
    facts = ("positive_alignment", "positive_alignment_l2", "negative_alignment", "negative_alignment_l2")
    unknown = dict.fromkeys((*facts, "uniformity", "rankme", "feature_std"))
    return finish_row(
        {
            "board": "ssl",
            **{name: draw(HOSTILE) for name in TEXTS["ssl"]},
            "self_distill": draw(st.booleans() | st.none()),
            "seed": draw(SEEDS | st.none()),
            "n_train": 10,
            "n_test": 10,
            "readings": [
                {"protocol": "knn-20", "layer": 1, "pooling": "cls", "top1": {"value": value, "low": None, "high": 1.0}}
            ],
            "layers": [{"layer": 1, "flops": draw(st.integers(0, 2**60)), **unknown}],
            "cost": {"forward_ms_per_item": draw(COSTS), "reading_seconds": None},
            "protocol": {},
        }
    )


def spoken(row: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a row by column, from the row itself."""
    if row["board"] == "ssl":
        [reading], [layer] = row["readings"], row["layers"]
        top1 = {f"top1{end}": reading["top1"][key] for end, key in (("", "value"), ("_low", "low"), ("_high", "high"))}
        return {**top1, "seed": row["seed"], "flops": layer["flops"], **row["cost"], "n_test": row["n_test"]}
    found = {key: row[key] for key in ("seed", "n_clean", "n_adversarial")} | dict(row["cost"])
    for name, estimate in row["metrics"].items():
        column = "realised_fpr" if name == "realised_fpr_10" else name
        found |= {column: estimate["value"], f"{column}_low": estimate["low"], f"{column}_high": estimate["high"]}
    return found


@settings(deadline=None)
@given(detection_rows() | ssl_rows())
def test_every_text_is_harmless_and_every_number_a_number(row: dict[str, Any]) -> None:
    board = row["board"]
    text = to_csv(board, [row])
    header, cells = csv.reader(io.StringIO(text, newline=""), strict=True)
    assert tuple(header) == COLUMNS[board]
    record = dict(zip(header, cells, strict=True))
    numbers = spoken(row)
    for column, cell in record.items():
        if column in numbers:
            value = numbers[column]
            if isinstance(value, int):
                assert int(cell) == value
            elif value is not None:
                assert math.isclose(float(cell), value, rel_tol=1e-5, abs_tol=1e-300)
            else:
                assert cell == ""
        else:
            # Whatever is no number is harmless, columns that no text of others reaches too.
            assert not cell.startswith(
                ("=", "+", "-", "@", "\t", "\r", "\n", "\0", "\uff1d", "\uff0b", "\uff0d", "\uff20")
            )
    assert {name: unsafe_cell(record[name]) for name in TEXTS[board]} == {name: row[name] for name in TEXTS[board]}
