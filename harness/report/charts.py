"""Pictures as the numbers of a static SVG; the template draws them.

A series is told from the others by its colour and once more by the dash of its line; every picture has a sentence a
series for those who do not see it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Small, so that the text is still read where a phone shows the whole picture.
WIDTH, HEIGHT = 440, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 46
# The style sheet has as many colours and dashes; no number divides both, so pairs repeat late.
COLOURS, STROKES = 6, 5
_MOST_TICKS = 6
_BINS = 32
# Beyond it the distance of two numbers may be no number.
_LARGEST = 1e300

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Series:
    """A line: its name, its points in order, and the ends of their intervals where they have any.

    Attributes:
        label: Name.
        points: x and y.
        band: x, low and high.
        note: The sentence that describes it; by default its first, last and highest point.
    """

    label: str
    points: Points
    band: Sequence[tuple[float, float, float]] = ()
    note: str = ""


@dataclass(frozen=True)
class Tick:
    """A place on an axis in units of the picture, and what is written there."""

    at: str
    text: str


@dataclass(frozen=True)
class Shape:
    """Path data with its look: a kind, the number of a colour and the number of a dash."""

    kind: Literal["line", "band", "mark", "bars", "rule", "diagonal"]
    path: str
    colour: int = 0
    stroke: int = 0


@dataclass(frozen=True)
class Entry:
    """A line of the legend."""

    label: str
    kind: Literal["line", "bars", "rule"]
    colour: int = 0
    stroke: int = 0


@dataclass(frozen=True)
class Chart:
    """All that the template draws, and the description for those who do not see it."""

    title: str
    x_label: str
    y_label: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    shapes: Sequence[Shape]
    legend: Sequence[Entry]
    description: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def percent_series(label: str, found: Sequence[tuple[int, Mapping[str, float | None]]]) -> Series:
    """A line of shares by layer, in percent, with its intervals.

    Args:
        label: Its name.
        found: Layers in order, each with `value`, `low` and `high`.
    """
    points = [(float(layer), 100 * (one["value"] or 0.0)) for layer, one in found]
    band = [
        (float(layer), 100 * low, 100 * high)
        for layer, one in found
        if (low := one["low"]) is not None and (high := one["high"]) is not None
    ]
    return Series(label, points, band if len(band) == len(points) > 1 else ())


class _Axes:
    """From data to places in the picture."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], *, log: bool = False) -> None:
        self.x, self.y, self.log = x, y, log

    def place(self, x: float, y: float) -> str:
        return f"{self.across(x):.1f} {self.up(y):.1f}"

    def across(self, x: float) -> float:
        low, high, at = (math.log10(value) if self.log else value for value in (*self.x, x))
        return LEFT + (at - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def up(self, y: float) -> float:
        low, high = self.y
        return HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def path(self, points: Points) -> str:
        """Lines through points, without those that fall onto the point before or between two in one direction."""
        places = list(dict.fromkeys(self.place(x, y) for x, y in points))
        kept: list[str] = []
        for place in places:
            if len(kept) > 1 and _between(kept[-2], kept[-1], place):
                kept.pop()
            kept.append(place)
        return "M" + "L".join(kept if len(kept) > 1 else kept * 2)


def _between(a: str, b: str, c: str) -> bool:
    """Whether b lies between a and c on a level or upright line."""
    return any(p == q == r for p, q, r in zip(a.split(), b.split(), c.split(), strict=True))


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    layers: bool = False,
    marks: bool = False,
    diagonal: bool = False,
    rule: tuple[float, str] | None = None,
) -> Chart:
    """Draw lines.

    Args:
        title: What is shown.
        series: One or more, each with one or more points; points that are not finite are left out.
        x_label: Name of the level axis.
        y_label: Name of the upright axis.
        x_range: Its ends; by default those of the points.
        y_range: The same, widened to round numbers.
        layers: Whether layers stand on the level axis: whole numbers, the last one always among them.
        marks: Whether every point has a mark.
        diagonal: Whether a line from corner to corner is drawn, as chance in a ROC picture.
        rule: An upright line at x, and its name.
    """
    series = [_finite(one) for one in series]
    series = [one for one in series if one.points]
    xs = [x for one in series for x, _ in one.points] or [0.0]
    ys = [y for one in series for _, y in one.points] or [0.0]
    ys += [edge for one in series for _, low, high in one.band for edge in (low, high)]
    x = x_range or _apart(min(xs), max(xs))
    if x_range is None and marks:  # so that marks stay clear of the axis
        x = x[0] - 0.03 * (x[1] - x[0]), x[1] + 0.03 * (x[1] - x[0])
    y_ticks = _round_ticks(*(y_range or _apart(min(ys), max(ys))), widen=y_range is None)
    y = y_range or (y_ticks[0], y_ticks[-1])
    axes = _Axes(x, y)
    shapes = [Shape("diagonal", axes.path([(x[0], y[0]), (x[1], y[1])]))] if diagonal else []
    if rule is not None:
        shapes.append(Shape("rule", axes.path([(rule[0], y[0]), (rule[0], y[1])])))
    for place, one in enumerate(series):
        look = place % COLOURS, place % STROKES
        if one.band:
            edge = [(x, high) for x, _, high in one.band] + [(x, low) for x, low, _ in reversed(one.band)]
            shapes.append(Shape("band", axes.path(edge) + "Z", *look))
        shapes.append(Shape("line", axes.path(one.points), *look))
        if marks:
            shapes.append(Shape("mark", "".join(_dot(axes.across(x), axes.up(y)) for x, y in one.points), *look))
    x_values = _whole_ticks(min(xs), max(xs)) if layers else _round_ticks(*x)
    entries = [Entry(one.label, "line", place % COLOURS, place % STROKES) for place, one in enumerate(series)]
    if rule is not None:
        entries.append(Entry(rule[1], "rule"))
    return Chart(
        title,
        x_label,
        y_label,
        [Tick(f"{axes.across(value):.1f}", _label(value)) for value in x_values],
        [Tick(f"{axes.up(value):.1f}", _label(value)) for value in y_ticks],
        shapes,
        entries,
        " ".join(one.note or _sentence(one, x_label) for one in series) or "Nothing was measured.",
    )


def histogram(
    title: str,
    groups: Sequence[tuple[str, ArrayLike]],
    *,
    x_label: str,
    y_label: str = "texts",
    rule: tuple[float, str] | None = None,
    whole: bool = False,
) -> Chart:
    """Draw how values are spread, a shape a group in the same bins.

    The level axis is logarithmic where all values are positive and the largest is more than 50 times the smallest.

    Args:
        title: What is shown.
        groups: Names and values; those that are not finite are left out, and counted in the description.
        x_label: Name of the level axis.
        y_label: What is counted.
        rule: An upright line at x, and its name.
        whole: Whether the values are whole numbers, so that a bin holds as many of them as the next.
    """
    named = [(name, np.asarray(values, dtype=np.float64)) for name, values in groups]
    kept = [(name, values[np.abs(values) <= _LARGEST]) for name, values in named]
    everything = np.concatenate([values for _, values in kept]) if kept else np.zeros(0)
    if not everything.size:
        everything = np.zeros(1)
    low, high = _apart(float(everything.min()), float(everything.max()))
    log = bool(everything.min() > 0 and everything.max() / 50 > everything.min())
    edges: NDArray[Any]
    if log:
        edges = np.geomspace(low, high, _BINS + 1)
    elif whole:
        step = max(1, math.ceil((high - low + 1) / _BINS))
        edges = np.arange(math.floor(low), math.floor(high) + step + 1, step) - 0.5
    else:
        edges = np.linspace(low, high, _BINS + 1)
    # Rounding of the first and last edge must not lose the values that they are made of.
    edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)
    counts = [np.histogram(values, edges)[0] for _, values in kept]
    top = max((int(count.max()) for count in counts), default=1)
    y_ticks = _whole_ticks(0, max(1, top), widen=True)
    axes = _Axes((float(edges[0]), float(edges[-1])), (0, y_ticks[-1]), log=log)
    shapes = [
        Shape("bars", _bars(axes, edges, count), place % COLOURS, place % STROKES) for place, count in enumerate(counts)
    ]
    entries = [Entry(name, "bars", place % COLOURS, place % STROKES) for place, (name, _) in enumerate(kept)]
    if rule is not None and edges[0] <= rule[0] <= edges[-1]:
        shapes.append(Shape("rule", axes.path([(rule[0], 0), (rule[0], y_ticks[-1])])))
        entries.append(Entry(rule[1], "rule"))
    ticks = _powers(axes.x) if log else _whole_ticks(low, high) if whole else _round_ticks(*axes.x)
    told = [_spread(name, values, len(of) - len(values)) for (name, values), (_, of) in zip(kept, named, strict=True)]
    if rule is not None:
        told.append(f"{rule[1]}: {_label(rule[0])}.")
    return Chart(
        title,
        x_label + (" (logarithmic)" if log else ""),
        y_label,
        [Tick(f"{axes.across(value):.1f}", _label(value)) for value in ticks],
        [Tick(f"{axes.up(value):.1f}", _label(value)) for value in y_ticks],
        shapes,
        entries,
        " ".join(told),
    )


def _bars(axes: _Axes, edges: NDArray[Any], counts: NDArray[np.int64]) -> str:
    outline = [(float(edges[0]), 0.0)]
    for left, right, count in zip(edges, edges[1:], counts.tolist(), strict=False):
        outline += [(float(left), count), (float(right), count)]
    places = [axes.place(x, y) for x, y in [*outline, (float(edges[-1]), 0.0)]]
    return "M" + "L".join(places) + "Z"


def _finite(one: Series) -> Series:
    points = [(x, y) for x, y in one.points if abs(x) <= _LARGEST and abs(y) <= _LARGEST]
    band = [(x, low, high) for x, low, high in one.band if abs(low) <= _LARGEST and abs(high) <= _LARGEST]
    return Series(one.label, points, band, one.note)


def _apart(low: float, high: float) -> tuple[float, float]:
    """Two ends that differ, so that there is something to draw between them."""
    if high - low > 1e-12 * max(1.0, abs(low), abs(high)):
        return low, high
    room = abs(low) / 10 or 1.0
    return low - room, high + room


def _round_ticks(low: float, high: float, *, widen: bool = False) -> list[float]:
    """Round numbers between two others; `widen` adds those just outside."""
    rough = (high - low) / _MOST_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = (low / step, high / step)
    ends = (
        (math.floor(first + 1e-9), math.ceil(last - 1e-9))
        if widen
        else (math.ceil(first - 1e-9), math.floor(last + 1e-9))
    )
    # Multiplied with whole numbers and rounded: 3 * 0.1 is not 0.3.
    return [float(f"{n * step:.12g}") for n in range(ends[0], ends[1] + 1)]


def _whole_ticks(low: float, high: float, *, widen: bool = False) -> list[float]:
    first, last = math.ceil(low), math.floor(high)
    rough = max(1, math.ceil((last - first) / (_MOST_TICKS if widen or last - first >= 100 else 2 * _MOST_TICKS)))
    power = 10 ** (len(str(rough)) - 1)
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    if widen:
        return [float(n) for n in range(0, last + step, step)]
    # Counted down from the last one, which everybody looks for in layers.
    return (
        [float(n) for n in range(last, first - 1, -step)][::-1]
        if step == 1 or last < 100
        else [float(n) for n in range(math.ceil(first / step) * step, last + 1, step)]
    )


def _powers(ends: tuple[float, float]) -> list[float]:
    first, last = (math.log10(end) for end in ends)
    step = max(1, math.ceil((last - first) / _MOST_TICKS))
    return [10.0**n for n in range(math.ceil(first - 1e-9), math.floor(last + 1e-9) + 1, step)]


def _label(value: float) -> str:
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 and value == int(value) else f"{value + 0.0:.4g}"


def _dot(x: float, y: float, r: float = 3.2) -> str:
    return f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0Z"


def _sentence(one: Series, x_label: str) -> str:
    points = one.points
    if len(points) == 1:
        return f"{one.label}: {_label(points[0][1])} at {x_label} {_label(points[0][0])}."
    ends = " and ".join(f"{_label(y)} at {x_label} {_label(x)}" for x, y in (points[0], points[-1]))
    x, y = max(points, key=lambda point: point[1])
    return f"{one.label}: {ends}, highest {_label(y)} at {_label(x)}."


def _spread(name: str, values: NDArray[np.float64], lost: int) -> str:
    left_out = f", {lost} not finite" if lost else ""
    if not values.size:
        return f"{name}: no values{left_out}."
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    return (
        f"{name}: {len(values)} values, median {_label(float(middle))}, "
        f"nine in ten between {_label(float(low))} and {_label(float(high))}{left_out}."
    )
