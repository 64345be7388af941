"""Pictures: every number lies in the picture, and curves are those of the data."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.report.charts import Chart, Series, histogram, line_chart

ANY = st.floats(allow_nan=True, allow_infinity=True)
SANE = st.floats(-1e12, 1e12)


def numbers(path: str) -> list[float]:
    return [float(text) for text in re.findall(r"-?[\d.]+(?:e[-+]?\d+)?", path)]


def check(chart: Chart) -> None:
    assert not re.search("nan|inf", "".join(shape.path for shape in chart.shapes))
    for shape in chart.shapes:
        if shape.kind != "mark":
            places = numbers(shape.path)
            assert all(chart.left - 0.06 <= x <= chart.right + 0.06 for x in places[::2])
            assert all(chart.top - 0.06 <= y <= chart.bottom + 0.06 for y in places[1::2])
    for ticks, low, high in ((chart.x_ticks, chart.left, chart.right), (chart.y_ticks, chart.top, chart.bottom)):
        assert all(low - 0.06 <= float(tick.at) <= high + 0.06 for tick in ticks)
        assert len(ticks) <= 14
        assert len({tick.text for tick in ticks}) == len(ticks)
    assert chart.description


@settings(deadline=None)
@given(st.lists(st.lists(st.tuples(ANY, ANY), max_size=8), min_size=1, max_size=4), st.booleans())
def test_lines_stay_in_the_picture_whatever_the_numbers(lines: list[list[tuple[float, float]]], marks: bool) -> None:
    named = [Series(str(number), sorted(points, key=str)) for number, points in enumerate(lines)]
    chart = line_chart("any", named, x_label="x", y_label="y", marks=marks)
    assert not re.search("nan|inf", "".join(shape.path for shape in chart.shapes))


@settings(deadline=None)
@given(st.lists(st.tuples(SANE, SANE), min_size=1, max_size=8))
def test_lines_of_sane_numbers_lie_between_the_axes(points: list[tuple[float, float]]) -> None:
    check(line_chart("sane", [Series("a", sorted(points))], x_label="x", y_label="y"))


@settings(deadline=None)
@given(st.lists(ANY, max_size=60), st.lists(ANY, max_size=60), st.booleans())
def test_histograms_count_every_finite_value(clean: list[float], attacked: list[float], whole: bool) -> None:
    if whole:
        clean, attacked = ([float(round(min(abs(v), 1e6))) for v in one if np.isfinite(v)] for one in (clean, attacked))
    chart = histogram("any", [("clean", clean), ("attacked", attacked)], x_label="score", whole=whole)
    check(chart)
    top = float(chart.y_ticks[-1].text.replace(",", ""))
    for values, shape in zip((clean, attacked), [s for s in chart.shapes if s.kind == "bars"], strict=True):
        places = numbers(shape.path)
        heights = [(chart.bottom - y) / (chart.bottom - chart.top) * top for y in places[1::2]]
        bins = heights[1:-1:2]  # the outline steps up and down: two corners a bin
        assert sum(bins) == pytest.approx((np.abs(values) <= 1e300).sum(), abs=0.02 * top + 0.01 * len(bins))


def test_a_wide_range_of_positive_scores_is_drawn_by_its_logarithm() -> None:
    chart = histogram("wide", [("a", [1e-3, 1, 1e5])], x_label="score")
    assert "logarithmic" in chart.x_label
    places = [float(tick.at) for tick in chart.x_ticks]
    assert np.ptp(np.diff(places)) < 0.2


def test_layers_are_whole_numbers_and_end_with_the_last() -> None:
    for last in (1, 2, 5, 12, 24, 33):
        points = [(float(layer), 1.0 / layer) for layer in range(1, last + 1)]
        chart = line_chart("layers", [Series("a", points)], x_label="layer", y_label="y", layers=True, marks=True)
        told = [int(tick.text) for tick in chart.x_ticks]
        assert told[-1] == last
        assert len({b - a for a, b in pairwise(told)}) <= 1


def test_a_staircase_loses_no_corner() -> None:
    points = [(0.0, 0.0), (0.0, 0.5), (0.25, 0.5), (0.5, 0.5), (0.5, 1.0), (1.0, 1.0)]
    range_ = (0.0, 1.0)
    chart = line_chart("steps", [Series("a", points)], x_label="x", y_label="y", x_range=range_, y_range=range_)
    (path,) = [shape.path for shape in chart.shapes if shape.kind == "line"]
    assert path.count("L") == 4  # the point in the middle of a level line is not needed


def test_series_differ_by_more_than_colour() -> None:
    many = [Series(str(i), [(0.0, float(i)), (1.0, float(i))]) for i in range(30)]
    looks = [(entry.colour, entry.stroke) for entry in line_chart("m", many, x_label="x", y_label="y").legend]
    assert len(set(looks)) == 30
    assert all(a[1] != b[1] for a, b in pairwise(looks))
