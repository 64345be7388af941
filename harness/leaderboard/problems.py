"""What is wrong with a value of a row, and the checks that both boards share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

# What rounding may add to a share of `n`: absolute, and for each of them.
_SLACK, _SLACK_EACH = 1e-6, 1e-9
# Where so many make up a share, float64 no longer tells whole numbers from others.
_LARGEST_SLACK = 0.1
_ROUNDING = 1e-9


class Problem(NamedTuple):
    """One sentence on one row; what is merely odd is not fatal."""

    message: str
    fatal: bool = True


def whole(number: float, slack: float = 0.0) -> bool:
    """Whether a number is an integer, but for rounding."""
    slack += _SLACK
    return slack > _LARGEST_SLACK or abs(number - round(number)) <= slack


def is_share_of(value: float | None, number: int) -> bool:
    """Whether a rate can be a count of `number` items; a rate that is not known can."""
    return value is None or whole(value * number, _SLACK_EACH * number)


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
