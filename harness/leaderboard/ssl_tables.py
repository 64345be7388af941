"""The tables and layer curves of the SSL board: how well each layer of each encoder is read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import Any

from harness.core.files import hash_json
from harness.core.rows import Row
from harness.leaderboard.curves import COLOURS, MARKS, Look, Picture, Point, Series, draw, swatch
from harness.leaderboard.lines import MISSING, Cell, by_seed, counts, percent, seeds_text, sort_key, span

# What is shown where it was measured; the CSV has everything.
_PROTOCOLS = ("knn-20", "linear")
_POOLINGS = ("cls", "avg")
_TITLES = {"linear": "Linear probe", "knn": "k-NN, k = {}", "fewshot": "Few-shot, {} a class"}
# What a row's protocol may say of its encoder's training; all of it is the same for every seed.
_TRAINING = ("preset", "epochs", "steps", "batch_size", "train_images", "norm", "arguments")
# These have their colour whatever else is in the picture.
_OBJECTIVES = ("simclr", "byol", "mocov3")
_KINDS: dict[bool | None, tuple[str, str]] = {
    None: ("", "dotted"),
    False: ("baseline", "dashed"),
    True: ("self-distilled", "solid"),
}


@dataclass(frozen=True)
class Line:
    """One line of the table; two cells a protocol: last layer, best layer.

    `points` has the layers of each protocol, `flops` what an item costs up to a layer where the rows agree on it, and
    `ids` the rows of the line.
    """

    label: str
    seeds: str
    cells: tuple[Cell, ...]
    items: tuple[str, str]
    points: tuple[tuple[Point, ...], ...]
    flops: Mapping[int, int]
    ids: tuple[str, ...]


@dataclass(frozen=True)
class Legend:
    """An entry of the legend: how its series is drawn, and path data of the mark."""

    label: str
    look: Look
    mark: str


@dataclass(frozen=True)
class Curve:
    """The layer curves of one protocol, as a picture and as a table of `layers` by `labels`."""

    title: str
    picture: Picture
    labels: tuple[str, ...]
    layers: tuple[tuple[int, tuple[Cell, ...]], ...]


@dataclass(frozen=True)
class Group:
    """The encoders of one architecture and training dataset that were read on the same dataset.

    `lines` has a line an encoder or mean of seeds, `samples` a line a row.
    """

    eval_dataset: str
    arch: str
    train_dataset: str | None
    pooling: str
    protocols: tuple[str, ...]
    lines: tuple[Line, ...]
    samples: tuple[Line, ...]
    legend: tuple[Legend, ...]
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class _Method:
    """Rows that differ in their seeds only, with the name that they have in tables and pictures."""

    label: str
    look: Look
    rows: tuple[Row, ...]


def ssl_groups(rows: Sequence[Row]) -> list[Group]:
    """The tables and pictures of the SSL board.

    Args:
        rows: Finished rows of the board, in any order.

    Returns:
        A group for each evaluation dataset, architecture and training dataset, in the order of these names.
    """
    keys = ("eval_dataset", "arch", "train_dataset")
    ordered = sorted(rows, key=lambda row: sort_key(row, (*keys, "objective", "self_distill", "seed", "id")))
    return [_group(list(members)) for _, members in groupby(ordered, lambda row: [row[key] for key in keys])]


def _group(rows: list[Row]) -> Group:
    measured = {(reading["protocol"], reading["pooling"]) for row in rows for reading in row["readings"]}
    pooling = _first({pooling for _, pooling in measured}, _POOLINGS)[0]
    names = {protocol for protocol, where in measured if where == pooling}
    protocols = tuple(name for name in _PROTOCOLS if name in names) or tuple(_first(names, ())[:2])
    methods = _methods(rows)
    curves = [_curve(methods, protocol, pooling) for protocol in protocols]
    return Group(
        eval_dataset=rows[0]["eval_dataset"],
        arch=rows[0]["arch"],
        train_dataset=rows[0]["train_dataset"],
        pooling=pooling,
        protocols=tuple(_title(protocol) for protocol in protocols),
        lines=tuple(_line(method.label, method.rows, protocols, pooling) for method in methods),
        samples=tuple(_line(m.label, (row,), protocols, pooling) for m in methods for row in m.rows),
        legend=tuple(Legend(m.label, m.look, swatch(m.look)) for m in methods),
        curves=tuple(curve for curve in curves if curve),
    )


def _first(names: set[str], wanted: Sequence[str]) -> list[str]:
    """The names with those that are wanted first, the others in natural order: knn-20 before knn-100."""

    def natural(name: str) -> list[tuple[int, int, str]]:
        return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"([0-9]+)", name)]

    return [name for name in wanted if name in names] + sorted(names - set(wanted), key=natural)


def _title(protocol: str) -> str:
    name, _, number = protocol.partition("-")
    return _TITLES[name].format(number) if name in _TITLES and (number or name == "linear") else protocol


def _name(row: Row) -> str:
    return str(row["objective"] or row["encoder"])


def _training(row: Row) -> dict[str, Any]:
    """What must be equal in rows that are averaged, beside their names and items."""
    encoder = row["protocol"].get("encoder")
    known = encoder if isinstance(encoder, dict) else {}
    return {key.replace("_", " "): known[key] for key in _TRAINING if key in known}


def _methods(rows: Sequence[Row]) -> list[_Method]:
    bundles: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        key = (_name(row), row["self_distill"], row["n_train"], row["n_test"], hash_json(_training(row)))
        bundles.setdefault(key, []).append(row)
    # Baselines stand beside what was self-distilled with the same objective: false sorts before true.
    ordered = sorted(bundles, key=lambda key: (key[0], key[1] is not None, *key[1:]))
    parts = [part for key in ordered for part in by_seed(bundles[key])]
    colours = _colours({_name(row) for row in rows})
    methods = []
    for part in parts:
        name, self_distill = _name(part[0]), part[0]["self_distill"]
        twins = [twin for twin in parts if (_name(twin[0]), twin[0]["self_distill"]) == (name, self_distill)]
        kind, stroke = _KINDS[self_distill]
        look = Look(colours[name], (colours[name] + twins.index(part)) % MARKS, stroke)
        label = ", ".join(filter(None, (name, kind, _difference(part, twins))))
        methods.append(_Method(label, look, tuple(part)))
    return methods


def _colours(names: set[str]) -> dict[str, int]:
    """The colour of each name: others than the known objectives share what those in the picture leave."""
    known = {name: colour for colour, name in enumerate(_OBJECTIVES) if name in names}
    free = [colour for colour in range(COLOURS) if colour not in known.values()]
    return known | {name: free[place % len(free)] for place, name in enumerate(sorted(names - set(known)))}


def _difference(part: list[Row], twins: list[list[Row]]) -> str:
    """What tells a method from others of the same name: its training, its number of items, or the encoder."""
    if len(twins) == 1:
        return ""
    facts = [{**_training(row), "train items": row["n_train"], "test items": row["n_test"]} for row, *_ in twins]
    mine = facts[twins.index(part)]
    texts = [f"{key} {mine[key]}" for key in sorted(mine) if any(other.get(key) != mine[key] for other in facts)]
    return ", ".join([*texts, *([part[0]["encoder"]] if facts.count(mine) > 1 else [])])


def _points(rows: Sequence[Row], protocol: str, pooling: str) -> tuple[Point, ...]:
    """The mean over rows at every layer that all of them read; the range is that of the seeds, or the interval."""
    found: dict[int, list[Mapping[str, float | None]]] = {}
    for row in rows:
        for reading in row["readings"]:
            if (reading["protocol"], reading["pooling"]) == (protocol, pooling):
                found.setdefault(reading["layer"], []).append(reading["top1"])
    return tuple(_point(layer, top1) for layer, top1 in sorted(found.items()) if len(top1) == len(rows))


def _point(layer: int, top1: Sequence[Mapping[str, float | None]]) -> Point:
    values = [entry["value"] or 0.0 for entry in top1]
    if len(values) > 1:
        return Point(layer, fmean(values), min(values), max(values))
    low, high = top1[0]["low"], top1[0]["high"]
    return Point(layer, values[0], values[0] if low is None else low, values[0] if high is None else high)


def _cell(point: Point, note: str = "") -> Cell:
    return Cell(percent(point.value), span(point.low, point.high) if point.low < point.high else "", note)


def _line(label: str, rows: tuple[Row, ...], protocols: Sequence[str], pooling: str) -> Line:
    cells = []
    read = tuple(_points(rows, protocol, pooling) for protocol in protocols)
    for points in read:
        if not points:
            cells += [Cell(MISSING), Cell(MISSING)]
            continue
        # Of equal layers the first, which is the cheapest.
        best = max(points, key=lambda point: point.value)
        cells += [_cell(point, f"layer {point.layer}") for point in (points[-1], best)]
    costs = [{entry["layer"]: entry["flops"] for entry in row["layers"]} for row in rows]
    return Line(
        label=label,
        seeds=seeds_text(rows),
        cells=tuple(cells),
        items=(counts(rows, "n_train"), counts(rows, "n_test")),
        points=read,
        flops={layer: flops for layer, flops in costs[0].items() if all(c.get(layer) == flops for c in costs)},
        ids=tuple(row["id"] for row in rows),
    )


def _curve(methods: Sequence[_Method], protocol: str, pooling: str) -> Curve | None:
    read = [(method, _points(method.rows, protocol, pooling)) for method in methods]
    series = [Series(method.label, method.look, points) for method, points in read if points]
    # One layer is no curve; the table above has it.
    if len({point.layer for line in series for point in line.points}) < 2:
        return None
    cells = [{point.layer: _cell(point) for point in line.points} for line in series]
    layers = sorted({layer for column in cells for layer in column})
    return Curve(
        title=_title(protocol),
        picture=draw(series),
        labels=tuple(line.label for line in series),
        layers=tuple((layer, tuple(column.get(layer, Cell(MISSING)) for column in cells)) for layer in layers),
    )
