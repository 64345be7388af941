"""What a row of the SSL board cannot say if it was measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from harness.core.rows import Row
from harness.leaderboard.identity import dig
from harness.leaderboard.problems import Problem, count_problems, interval_problems, is_share_of

# What a layer's figures can be; two vectors of length 1 are at most 2 apart.
_BOUNDS = {
    "positive_alignment": (0.0, math.inf),
    "positive_alignment_l2": (0.0, 4.0),
    "negative_alignment": (0.0, math.inf),
    "negative_alignment_l2": (0.0, 4.0),
    "uniformity": (-8.0, 0.0),
    "rankme": (0.0, math.inf),
    "feature_std": (0.0, math.inf),
}
_ROUNDING = 1e-5


def check_ssl(row: Row) -> Iterator[Problem]:
    """What is impossible or odd in one row of the SSL board, beyond its schema.

    Args:
        row: A row that `harness.core.rows.read_row` takes.

    Yields:
        A problem each; what the row does not know is passed over.
    """
    absurd = count_problems(row)
    if absurd:
        yield from absurd
        return
    protocol = row["protocol"]
    for name in ("encoder", "data", "knn", "linear", "fewshot"):
        if not isinstance(protocol.get(name, {}), dict):
            yield Problem(f"protocol.{name}: it is not an object.")
    depth = dig(protocol, "encoder", "num_layers")
    for index, reading in enumerate(row["readings"]):
        yield from _reading(row, f"readings[{index}]", reading)
        yield from _depth(f"readings[{index}]", reading["layer"], depth)
    for index, entry in enumerate(row["layers"]):
        yield from _depth(f"layers[{index}]", entry["layer"], depth)
        for name, (least, most) in _BOUNDS.items():
            value = entry[name]
            if value is not None and not least - _ROUNDING <= value <= most + _ROUNDING:
                yield Problem(f"layers[{index}].{name}: {value:.6g} is not within {least:g} and {most:g}.")
    counted = sorted((entry["layer"], entry["flops"]) for entry in row["layers"] if entry["flops"] is not None)
    for (low, first), (high, second) in pairwise(counted):
        if second < first:
            yield Problem(f"layers: up to layer {high} it takes fewer operations than up to layer {low}.")
    limit = dig(protocol, "data", "train_limit")
    if isinstance(limit, int) and row["n_train"] > limit:
        yield Problem(f"n_train: it is {row['n_train']}, more than protocol.data.train_limit, which is {limit}.")


def _depth(where: str, layer: int, depth: object) -> Iterator[Problem]:
    if isinstance(depth, int) and layer > depth:
        yield Problem(f"{where}: layer {layer} of an encoder of {depth} layers.")


def _reading(row: Row, where: str, reading: Mapping[str, Any]) -> Iterator[Problem]:
    protocol = row["protocol"]
    yield from interval_problems(f"{where}.top1", reading["top1"])
    kind, _, number = reading["protocol"].partition("-")
    draws = dig(protocol, "fewshot", "draws")
    # A few-shot accuracy is the mean over draws, each of which answers every item.
    repeats = {"knn": 1, "linear": 1, "fewshot": draws if isinstance(draws, int) and draws > 0 else None}.get(kind)
    if repeats is not None and not is_share_of(reading["top1"]["value"], row["n_test"] * repeats):
        yield Problem(
            f"{where}.top1: {reading['top1']['value']} is no whole number of {row['n_test'] * repeats} answers."
        )
    for name, key in (("knn", "k"), ("fewshot", "shots")):
        known = dig(protocol, name, key)
        if kind == name and isinstance(known, list) and number not in map(str, known):
            yield Problem(f"{where}: {reading['protocol']} is not among those of protocol.{name}.")
