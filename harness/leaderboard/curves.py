"""Layer curves as the numbers of a static SVG picture; the template draws them.

Colours are those of Okabe and Ito (2008), which people with any colour vision tell apart; the shape of the marks
and the dash of the lines say the same once more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.leaderboard.lines import percent

# Small, so that the text is still read where a phone shows the whole picture.
WIDTH, HEIGHT = 440, 290
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 12, 42
_MOST_X_TICKS, _MOST_Y_TICKS = 13, 7
_STEPS = (1, 2, 5, 10, 20, 50)
# The style sheet has as many colours.
COLOURS = 6
MARKS = 4
_RADIUS = 3.4


@dataclass(frozen=True)
class Point:
    """A layer's accuracy, a share of 1, with the ends of its range."""

    layer: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Look:
    """How a series is drawn: the numbers of its colour and mark, and `solid`, `dashed` or `dotted`."""

    colour: int
    mark: int
    stroke: str


@dataclass(frozen=True)
class Series:
    """A line of the picture; its points are in order of their layers, and there is at least one."""

    label: str
    look: Look
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Tick:
    """A place on an axis in units of the picture, and what is written there."""

    at: str
    text: str


@dataclass(frozen=True)
class Drawn:
    """A series as path data: the line, the band of its range, and the marks."""

    look: Look
    line: str
    band: str
    marks: str


@dataclass(frozen=True)
class Picture:
    """All that the template draws, and the description for those who do not see it."""

    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    drawn: tuple[Drawn, ...]
    description: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = HEIGHT - _BOTTOM


def draw(series: Sequence[Series]) -> Picture:
    """Lays curves out over their layers.

    Args:
        series: At least one.

    Returns:
        Layers from left to right, accuracy in percent upwards; the axes hold every point and range.
    """
    points = [point for line in series for point in line.points]
    first, last = min(p.layer for p in points), max(p.layer for p in points)
    bottom, top, step = _scale(100 * min(p.low for p in points), 100 * max(p.high for p in points))

    def x(layer: int) -> float:
        share = (layer - first) / (last - first) if last > first else 0.5
        # A little room at both ends, so that marks stay clear of the axis.
        return _LEFT + 8 + share * (WIDTH - _LEFT - _RIGHT - 16)

    def y(value: float) -> float:
        return HEIGHT - _BOTTOM - (100 * value - bottom) / (top - bottom) * (HEIGHT - _TOP - _BOTTOM)

    def path(places: Sequence[tuple[int, float]]) -> str:
        return "M" + "L".join(f"{x(layer):.1f} {y(value):.1f}" for layer, value in places)

    drawn = [
        Drawn(
            look=line.look,
            line=path([(p.layer, p.value) for p in line.points]),
            band=path([(p.layer, p.high) for p in line.points] + [(p.layer, p.low) for p in line.points[::-1]]) + "Z",
            marks="".join(_mark(x(p.layer), y(p.value), line.look.mark) for p in line.points),
        )
        for line in series
    ]
    # Counted down from the last layer, which everybody looks for.
    layers = range(last, first - 1, -math.ceil((last - first + 1) / _MOST_X_TICKS))
    return Picture(
        x_ticks=tuple(Tick(f"{x(layer):.1f}", str(layer)) for layer in layers),
        y_ticks=tuple(Tick(f"{y(value / 100):.1f}", str(value)) for value in range(bottom, top + 1, step)),
        drawn=tuple(drawn),
        description=" ".join(_sentence(line) for line in series),
    )


def _scale(low: float, high: float) -> tuple[int, int, int]:
    """Ends and step of the axis in percent, all of them whole."""
    for step in _STEPS:
        bottom, top = math.floor(low / step) * step, math.ceil(high / step) * step
        top = max(top, bottom + step)
        if (top - bottom) // step < _MOST_Y_TICKS:
            break
    return bottom, top, step


def _mark(x: float, y: float, kind: int) -> str:
    r = _RADIUS
    corners = (
        ((-r, -r), (r, -r), (r, r), (-r, r)),
        ((0, -1.4 * r), (1.4 * r, 0), (0, 1.4 * r), (-1.4 * r, 0)),
        ((0, -1.3 * r), (1.2 * r, r), (-1.2 * r, r)),
    )
    if kind == 0:
        return f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0Z"
    return "M" + "L".join(f"{x + dx:.1f} {y + dy:.1f}" for dx, dy in corners[kind - 1]) + "Z"


def swatch(look: Look) -> str:
    """Path data of a series' mark in the middle of a legend entry of 28 by 12."""
    return _mark(14, 6, look.mark)


def _sentence(series: Series) -> str:
    points = series.points
    if len(points) == 1:
        return f"{series.label}: {percent(points[0].value)} at layer {points[0].layer}."
    best = max(points, key=lambda point: point.value)
    ends = " and ".join(f"{percent(point.value)} at layer {point.layer}" for point in (points[0], points[-1]))
    return f"{series.label}: {ends}, highest {percent(best.value)} at layer {best.layer}."
