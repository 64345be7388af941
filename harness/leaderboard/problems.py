"""What is wrong with a value of a row, and the checks that both boards share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

# What rounding may add to a share of `n`: absolute, and for each of them.
_SLACK, _SLACK_EACH = 1e-6, 1e-9
# Where so many make up a share, float64 no longer tells whole numbers from others.
_LARGEST_SLACK = 0.1
_ROUNDING = 1e-9
# More texts or images than anybody scores; beyond, sums over them take for ever and floats overflow.
LARGEST_COUNT = 10**8


class Problem(NamedTuple):
    """One sentence on one row; what is merely odd is not fatal."""

    message: str
    fatal: bool = True


def whole(number: float, slack: float = 0.0) -> bool:
    """Whether a number is an integer, but for rounding."""
    slack += _SLACK
    return slack > _LARGEST_SLACK or (math.isfinite(number) and abs(number - round(number)) <= slack)


def is_share_of(value: float | None, number: int) -> bool:
    """Whether a rate can be a count of `number` items; a rate that is not known can."""
    return value is None or number > LARGEST_COUNT**2 or whole(value * number, _SLACK_EACH * number)


def count_problems(row: Mapping[str, Any]) -> list[Problem]:
    """Counts so large that nothing else of the row can be checked."""
    counts = [key for key in row if key.startswith("n_") and row[key] > LARGEST_COUNT]
    return [Problem(f"{key}: nobody scored more than {LARGEST_COUNT:,}.") for key in counts]


def interval_problems(where: str, estimate: Mapping[str, float | None]) -> Iterator[Problem]:
    """What is wrong with a value and its interval.

    A percentile bootstrap of a biased figure may leave the value outside, so that is odd and no more.
    """
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    if (low is None) != (high is None):
        yield Problem(f"{where}: an interval has two ends or none.")
    elif low is not None and high is not None:
        if low > high:
            yield Problem(f"{where}: its interval ends at {high:.6g} before it begins at {low:.6g}.")
        elif value is None:
            yield Problem(f"{where}: it has an interval and no value.")
        elif not low - _ROUNDING <= value <= high + _ROUNDING:
            yield Problem(f"{where}: {value:.6g} lies outside its interval, {low:.6g} to {high:.6g}.", fatal=False)
