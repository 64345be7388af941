"""Average ranks of detectors over cells, as the numbers of a static SVG picture; the template draws them.

A line a detector, the best first, with a dot at its average rank. A bar at the right joins detectors that Nemenyi's
test cannot tell apart. It says what the usual picture says, and its names stay readable on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from harness.core.rows import Row
from harness.leaderboard.detection_tables import detection_lines, mean, sample

if TYPE_CHECKING:
    from harness.core.ranks import CriticalDifference

WIDTH = 440
_LEFT, _RIGHT, _TOP, _BOTTOM, _STEP = 132, 14, 40, 34, 20
_BAR = 9
_MOST_TICKS = 10
_LONGEST_NAME = 20
# Fewer say nothing that the table does not.
_LEAST_DETECTORS, _LEAST_CELLS = 3, 2


@dataclass(frozen=True)
class Tick:
    """A rank on the axis."""

    at: str
    text: str


@dataclass(frozen=True)
class Dot:
    """A detector's line: its whole name, the name as it is drawn, its average rank and where both stand."""

    name: str
    short: str
    rank: str
    x: str
    y: str


@dataclass(frozen=True)
class Bar:
    """A run of detectors that are not told apart."""

    x: str
    top: str
    bottom: str


@dataclass(frozen=True)
class RankPicture:
    """All that the template draws for the cells of one scenario and goal."""

    scenario: str
    goal: str
    cells: int
    left_out: int
    friedman_p: str
    difference: str
    ticks: tuple[Tick, ...]
    dots: tuple[Dot, ...]
    bars: tuple[Bar, ...]
    # Where the critical difference is drawn to scale, above the axis.
    scale: tuple[str, str]
    height: int
    description: str
    width: int = WIDTH
    left: int = _LEFT
    right: int = 0
    top: int = _TOP
    bottom: int = 0


def rank_pictures(rows: Sequence[Row]) -> list[RankPicture]:
    """The pictures of the detection board: one a scenario and goal where there is something to rank.

    A cell is a dataset, recipe, victim and size of sample; a detector's figure in it is its mean AUC over the seeds.
    Cells of less than half the detectors of the fullest do not count: they would leave few detectors to rank. Detectors
    that train on adversarial texts are not ranked, nor those that most cells lack.

    Args:
        rows: Finished rows of the board, in any order.

    Returns:
        The pictures, in order of scenario and goal.
    """
    bundles = [b for b in detection_lines(rows) if not b[0]["trains_on_adversarial_texts"]]
    bundles.sort(key=lambda b: _kind(b[0]))
    found = [_ranked([*members]) for _, members in groupby(bundles, lambda b: _kind(b[0]))]
    return [picture for picture in found if picture]


def _kind(row: Row) -> tuple[str, str]:
    return row["scenario"], row["goal"]


def _ranked(bundles: Sequence[Sequence[Row]]) -> RankPicture | None:
    cells: dict[tuple[str, ...], dict[str, float]] = {}
    twice = set()
    for bundle in bundles:
        row = bundle[0]
        cell = (row["dataset"], row["recipe"], row["victim"], sample(row))
        value, name = mean(bundle, "auc"), row["detector"]
        # Two protocols of one detector: neither is its figure.
        twice |= {(cell, name)} & {(key, known) for key in cells for known in cells[key]}
        cells.setdefault(cell, {})[name] = math.nan if value is None else value
    for cell, name in twice:
        cells[cell][name] = math.nan
    return None if not cells else _picture(bundles[0][0], [*cells.values()])


def _picture(row: Row, cells: Sequence[Mapping[str, float]]) -> RankPicture | None:
    fullest = max(map(len, cells))
    counted = [cell for cell in cells if 2 * len(cell) >= fullest]
    names = sorted({name for cell in counted for name in cell})
    names = [name for name in names if 2 * sum(name in cell for cell in counted) > len(counted)]
    values = [[cell.get(name, math.nan) for name in names] for cell in counted]
    whole = sum(not any(map(math.isnan, line)) for line in values)
    if len(names) < _LEAST_DETECTORS or whole < _LEAST_CELLS:
        return None
    from harness.core.ranks import critical_difference

    return _drawn(row, critical_difference(names, values), len(cells))


def _drawn(row: Row, found: CriticalDifference, cells: int) -> RankPicture:
    count = len(found.names)
    bars = len(found.cliques)
    right = WIDTH - _RIGHT - _BAR * bars - 8
    bottom = _TOP + _STEP * count

    def x(rank: float) -> float:
        return _LEFT + 8 + (rank - 1) / (count - 1) * (right - _LEFT - 16)

    def y(place: float) -> str:
        return f"{_TOP + _STEP * (place + 0.5):.1f}"

    return RankPicture(
        scenario=row["scenario"],
        goal=row["goal"],
        cells=found.cells,
        left_out=cells - found.cells,
        friedman_p=f"{found.friedman.p:.1g}",
        difference=f"{found.difference:.2f}",
        ticks=tuple(Tick(f"{x(r):.1f}", str(r)) for r in range(1, count + 1, math.ceil(count / _MOST_TICKS))),
        dots=tuple(
            Dot(name, _short(name), f"{rank:.1f}", f"{x(rank):.1f}", y(place))
            for place, (name, rank) in enumerate(zip(found.names, found.ranks, strict=True))
        ),
        bars=tuple(
            Bar(f"{right + 8 + _BAR * (number + 0.5):.1f}", y(first - 0.3), y(last + 0.3))
            for number, (first, last) in enumerate(found.cliques)
        ),
        scale=(f"{x(1):.1f}", f"{min(x(1 + found.difference), x(count)):.1f}"),
        height=bottom + _BOTTOM,
        description=_described(found),
        right=right,
        bottom=bottom,
    )


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _described(found: CriticalDifference) -> str:
    ranks = ", ".join(f"{name} {rank:.1f}" for name, rank in zip(found.names, found.ranks, strict=True))
    runs = [f"{found.names[first]} to {found.names[last]}" for first, last in found.cliques]
    return f"Average ranks: {ranks}. Not told apart: {'; '.join(runs) if runs else 'none'}."
