"""The leaderboard's page: one static file with no script and nothing to fetch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from statistics import fmean

from harness.core.rows import Row

_MISSING = "\N{EN DASH}"
# In the order of the columns in the template.
_SHOWN = ("auc", "tpr_at_fpr_10", "f1_at_fpr_10", "heldout_tpr_10", "realised_fpr_10")


@dataclass(frozen=True)
class Cell:
    """A metric in percent, with its interval where it is that of a single sample."""

    value: str
    interval: str = ""


@dataclass(frozen=True)
class Line:
    """What one line of a table shows; numbers are formatted."""

    detector: str
    seeds: str
    cells: tuple[Cell, ...]
    texts: tuple[str, str, str]
    forwards: str
    ms: str
    run: str
    id: str


@dataclass(frozen=True)
class Group:
    """The detectors that were measured on the same dataset, recipe, victim and scenario.

    `lines` has a line a detector, highest AUC first. `samples` has a line a row, where some line is a mean.
    """

    dataset: str
    recipe: str
    victim: str
    scenario: str
    lines: tuple[Line, ...]
    samples: tuple[Line, ...]


def render(rows: Sequence[Row]) -> str:
    """The page of some finished rows.

    Args:
        rows: Rows sorted by dataset, recipe, victim, scenario, detector, seed and id.

    Returns:
        A self-contained HTML document; it depends on nothing but the rows.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    source = resources.files("harness.leaderboard").joinpath("page.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source).render(groups=groups(rows), n_rows=len(rows))


def groups(rows: Sequence[Row]) -> list[Group]:
    """The tables of the page.

    Args:
        rows: Rows sorted as for `render`.

    Returns:
        A group for each dataset, recipe, victim and scenario, in the order of the rows.
    """
    found = []
    for key, members in groupby(rows, _group_key):
        inside = list(members)
        bundles = [
            bundle for _, same in groupby(inside, lambda row: row["detector"]) for bundle in _bundles(list(same))
        ]
        # A stable sort: detectors of equal AUC stay in order of their names.
        bundles.sort(key=lambda bundle: -(_mean(bundle, "auc") or 0.0))
        averaged = any(len(bundle) > 1 for bundle in bundles)
        found.append(
            Group(
                *key,
                lines=tuple(_line(bundle) for bundle in bundles),
                samples=tuple(_line([row]) for bundle in bundles for row in bundle) if averaged else (),
            )
        )
    return found


def _group_key(row: Row) -> tuple[str, str, str, str]:
    return row["dataset"], row["recipe"], row["victim"], row["scenario"]


def _bundles(rows: list[Row]) -> list[list[Row]]:
    """The rows of one detector that may be averaged: all of them, or each alone where a seed comes twice.

    Two rows of one seed are not two samples but two protocols, and their mean would describe neither.
    """
    distinct = len({row["seed"] for row in rows}) == len(rows)
    return [rows] if distinct else [[row] for row in rows]


def _line(rows: list[Row]) -> Line:
    one = rows[0] if len(rows) == 1 else None
    seeds = ", ".join(str(row["seed"]) for row in rows)
    return Line(
        detector=rows[0]["detector"],
        seeds=f"seed {seeds}" if one else f"mean of seeds {seeds}",
        cells=tuple(_cell(rows, name) for name in _SHOWN),
        texts=(_counts(rows, "n_clean"), _counts(rows, "n_adversarial"), _counts(rows, "n_calibration")),
        forwards=_short(fmean(row["cost"]["forwards_per_text"] for row in rows)),
        ms=_short(fmean(row["cost"]["ms_per_text"] for row in rows)),
        run=one["run"] if one else f"{len(rows)} rows, below",
        id=one["id"] if one else "",
    )


def _mean(rows: list[Row], name: str) -> float | None:
    # The mean of the seeds that have a value would pass for the mean of all.
    values = [row["metrics"][name]["value"] for row in rows]
    return None if None in values else fmean(values)


def _cell(rows: list[Row], name: str) -> Cell:
    value = _mean(rows, name)
    if value is None:
        return Cell(_MISSING)
    low, high = rows[0]["metrics"][name]["low"], rows[0]["metrics"][name]["high"]
    if len(rows) > 1 or low is None or high is None:
        return Cell(_percent(value))
    return Cell(_percent(value), f"{_percent(low)} to {_percent(high)}")


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _short(cost: float) -> str:
    return f"{cost:,.0f}" if cost >= 100 else f"{cost:.3g}"


def _counts(rows: list[Row], key: str) -> str:
    low, high = min(row[key] for row in rows), max(row[key] for row in rows)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
