"""The tables of the detection board: a line a detector, where all were measured on the same texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean

from harness.core.rows import Row
from harness.leaderboard.lines import MISSING, Cell, by_seed, counts, percent, seeds_text, span
from harness.leaderboard.sheets import LATER_KEYS

# In the order of the columns in the template.
_SHOWN = ("auc", "tpr_at_fpr_10", "f1_at_fpr_10", "heldout_tpr_10", "realised_fpr_10")


@dataclass(frozen=True)
class Line:
    """What one line of a table shows; numbers are formatted."""

    detector: str
    note: str
    seeds: str
    cells: tuple[Cell, ...]
    texts: tuple[str, str, str]
    forwards: str
    ms: str


@dataclass(frozen=True)
class Group:
    """The detectors that were measured on the same dataset, recipe, goal, victim and scenario.

    `lines` has a line a detector, highest AUC first.
    """

    dataset: str
    recipe: str
    goal: str
    victim: str
    scenario: str
    lines: tuple[Line, ...]


def detection_groups(rows: Sequence[Row]) -> list[Group]:
    """The tables of the detection board.

    Args:
        rows: Finished rows of the board, in any order.

    Returns:
        A group for each dataset, recipe, goal, victim and scenario, in the order of these names.
    """
    found = []
    for key, members in groupby(detection_lines(rows), lambda bundle: _group_key(bundle[0])):
        # A stable sort: detectors of equal AUC stay in order of their names. Those that trained on adversarial texts
        # are a class of their own, and come last.
        bundles = sorted(members, key=lambda b: (b[0]["trains_on_adversarial_texts"], -(mean(b, "auc") or 0.0)))
        found.append(Group(*key, lines=tuple(_line(bundle) for bundle in bundles)))
    return found


def detection_lines(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of each line of the tables: a detector's seeds on the same sample of one group, which are averaged.

    Args:
        rows: Finished rows of the board, in any order.

    Returns:
        The lines in order of dataset, recipe, goal, victim, scenario and detector; each holds its rows in order of
        their seeds, with the keys that rows of earlier versions lack.
    """
    complete = [{**LATER_KEYS, **row} for row in rows]
    # A cell of dear detectors draws fewer texts, of the references too: another sample, not another seed.
    complete.sort(key=lambda row: (*map(str, _group_key(row)), row["detector"], sample(row), row["seed"], row["id"]))
    same = groupby(complete, lambda row: (_group_key(row), row["detector"], sample(row)))
    return [bundle for _, members in same for bundle in by_seed(list(members))]


def _group_key(row: Row) -> tuple[str, str, str, str, str]:
    return row["dataset"], row["recipe"], row["goal"], row["victim"], row["scenario"]


def sample(row: Row) -> str:
    """What decides how many texts a row is about."""
    sampling = row["protocol"].get("sampling", {})
    return str([sampling.get(key) for key in ("target", "validation_fraction", "dear_texts")])


def _line(rows: list[Row]) -> Line:
    return Line(
        detector=rows[0]["detector"],
        note=", ".join(
            text
            for key, text in (
                ("trains_on_adversarial_texts", "trained on adversarial texts, not ranked"),
                ("limited", "first texts of each sample"),
            )
            if rows[0][key]
        ),
        seeds=seeds_text(rows),
        cells=tuple(_cell(rows, name) for name in _SHOWN),
        texts=(counts(rows, "n_clean"), counts(rows, "n_adversarial"), counts(rows, "n_calibration")),
        forwards=_short(fmean(row["cost"]["forwards_per_text"] for row in rows)),
        ms=_short(fmean(row["cost"]["ms_per_text"] for row in rows)),
    )


def mean(rows: Sequence[Row], name: str) -> float | None:
    """The mean of a metric over rows; None where one of them lacks it."""
    # The mean of the seeds that have a value would pass for the mean of all.
    values = [row["metrics"][name]["value"] for row in rows]
    return None if None in values else fmean(values)


def _cell(rows: list[Row], name: str) -> Cell:
    value = mean(rows, name)
    if value is None:
        return Cell(MISSING)
    metric = rows[0]["metrics"][name]
    return Cell(percent(value), "" if len(rows) > 1 else span(metric["low"], metric["high"]))


def _short(cost: float) -> str:
    return f"{cost:,.0f}" if cost >= 100 else f"{cost:.3g}"
