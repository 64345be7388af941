"""What a suite's cells say together: a table of AUCs, average ranks, and the cells that could not be filled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.comparisons import holm
from harness.core.files import write_json, write_text
from harness.core.ranks import CriticalDifference, critical_difference, signed_rank_p
from harness.detectors.registry import DETECTORS
from harness.evaluation.critical_difference import draw_critical_difference
from harness.evaluation.result_rows import REFERENCES
from harness.evaluation.runs import read_results
from harness.evaluation.suites import Step

SUMMARY_FILE, TABLES_FILE = "summary.json", "tables.md"
_LEVEL = 0.05


@dataclass(frozen=True)
class FilledCell:
    """A finished cell: what it is, its rows, and what each detector's mean over seeds says."""

    step: Step
    rows: list[dict[str, Any]]
    means: Mapping[str, Mapping[str, Any]]
    unavailable: Mapping[str, str]


@dataclass(frozen=True)
class SuiteReport:
    """What became of a suite.

    Attributes:
        cells: The finished ones.
        missing: Name of a step -> why it is not finished.
        files: What was written: summary, tables, pictures.
    """

    cells: list[FilledCell]
    missing: dict[str, str]
    files: list[Path]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All result rows."""
        return [row for cell in self.cells for row in cell.rows]


def read_cell(step: Step) -> FilledCell:
    """A finished cell from its run folder."""
    (found,) = read_results(step.folder)
    return FilledCell(step, found["rows"], found["mean_over_seeds"], found["unavailable"])


def write_report(out: Path, cells: Sequence[FilledCell], missing: Mapping[str, str]) -> SuiteReport:
    """Write the tables of all finished cells, and a critical-difference picture for each kind of cell.

    Args:
        out: The suite's folder.
        cells: Finished cells.
        missing: Steps that are not finished, and why.
    """
    kinds: dict[tuple[str, str, str], list[FilledCell]] = {}
    for cell in cells:
        about = cell.step.cell
        kinds.setdefault((about["scenario"], about["goal"], about["group"]), []).append(cell)
    files, parts = [], []
    summary: dict[str, Any] = {"missing": dict(missing), "kinds": []}
    for (scenario, goal, group), members in kinds.items():
        ranks = _ranks(members)
        title = f"{scenario}, {goal}" + (", dear detectors" if group == "dear" else "")
        parts += [_table(title, members, ranks), _families(members)]
        summary["kinds"].append(
            {
                "scenario": scenario,
                "goal": goal,
                "group": group,
                "cells": {cell.step.name: _aucs(cell) for cell in members},
                "average_ranks": None
                if ranks is None
                else dict(zip(ranks.names, map(float, ranks.ranks), strict=True)),
            }
        )
        if ranks is not None:
            picture = out / f"critical-difference-{scenario}-{goal}{'-dear' if group == 'dear' else ''}.png"
            draw_critical_difference(picture, ranks, title=title)
            files.append(picture)
    if missing:
        parts.append("## Not finished\n\n" + "".join(f"- {name}: {why}\n" for name, why in missing.items()))
    write_json(out / SUMMARY_FILE, summary)
    write_text(out / TABLES_FILE, "\n".join(parts))
    return SuiteReport(list(cells), dict(missing), [out / SUMMARY_FILE, out / TABLES_FILE, *files])


def _aucs(cell: FilledCell) -> dict[str, float]:
    return {name: found["metrics"]["auc"]["value"] for name, found in cell.means.items()}


def _ranked(cells: Sequence[FilledCell]) -> list[str]:
    """The detectors that every cell has and that train on no adversarial texts."""
    return [
        name
        for name, found in cells[0].means.items()
        if not found["trains_on_adversarial_texts"] and all(name in cell.means for cell in cells)
    ]


def _ranks(cells: Sequence[FilledCell]) -> CriticalDifference | None:
    """Average ranks; None for too few detectors or cells."""
    names = _ranked(cells)
    if len(names) < 3 or len(cells) < 2:
        return None
    # Means of equal figures may differ in the last bit, which is no rank.
    aucs = np.array([[round(_aucs(cell)[name], 6) for name in names] for cell in cells])
    return critical_difference(names, aucs)


def _table(title: str, cells: Sequence[FilledCell], ranks: CriticalDifference | None) -> str:
    """Mean AUC over seeds in percent: a line a detector, a column a cell, best mean first."""
    names = list(dict.fromkeys(name for cell in cells for name in (*cell.means, *cell.unavailable)))
    lines = []
    for name in names:
        aucs = [_aucs(cell).get(name) for cell in cells]
        known = [value for value in aucs if value is not None]
        mean = float(np.mean(known)) if known else float("nan")
        trains = any(cell.means[name]["trains_on_adversarial_texts"] for cell in cells if name in cell.means)
        costs = [cell.means[name]["cost"] for cell in cells if name in cell.means]
        rank = "" if ranks is None or name not in ranks.names else f"{ranks.ranks[ranks.names.index(name)]:.1f}"
        told = [
            f"`{name}`" + _mark(name),
            *("n/a" if value is None else f"{100 * value:.1f}" for value in aucs),
            f"{100 * mean:.1f}" if len(known) == len(cells) else "",
            rank,
            *(_against(name, reference, cells) for reference in REFERENCES),
            f"{np.mean([cost['forwards_per_text'] for cost in costs]):.1f}" if costs else "",
            f"{np.mean([cost['ms_per_text'] for cost in costs]):.1f}" if costs else "",
        ]
        lines.append((trains, len(known) < len(cells), -mean if known else 0.0, told))
    lines.sort(key=lambda line: line[:3])
    columns = [f"{cell.step.cell['dataset']} {cell.step.cell['family']}" for cell in cells]
    header = ["detector", *columns, "mean", "rank", *(f"over {r}" for r in REFERENCES), "forwards", "ms"]
    table = [header, ["---", *("---:" for _ in header[1:])], *(told for *_, told in lines)]
    counts = [
        f"{cell.step.cell['dataset']} {cell.step.cell['family']}: "
        + " / ".join(f"{row['n_adversarial']} + {row['n_clean']}" for row in _first(cell.rows))
        for cell in cells
    ]
    body = "".join(f"| {' | '.join(row)} |\n" for row in table)
    reasons = {name: why for cell in cells for name, why in cell.unavailable.items()}
    notes = "".join(f"- `{name}` could not be used: {why}\n" for name, why in reasons.items())
    return (
        f"## {title}\n\nAUC in percent, mean over seeds. `over rde`: in how many cells the AUC is above RDE's, then in "
        f"how many significantly above and below (5 % after Holm's correction in the cell).\n\n{body}\n{notes}"
        f"Adversarial + clean texts a seed: {'; '.join(counts)}.\n"
    )


def _families(cells: Sequence[FilledCell]) -> str:
    """Mean AUC by attack family, and over all cells the signed-rank test against each reference.

    A mean over families hides that a detector may see the kind of word that it was built for, and no other.
    """
    names = _ranked(cells)
    kinds = list(dict.fromkeys(cell.step.cell["family"] for cell in cells))
    aucs = {name: np.array([_aucs(cell)[name] for cell in cells]) for name in names}
    families = np.array([cell.step.cell["family"] for cell in cells])
    references = [name for name in REFERENCES if name in names]
    pairs = {frozenset((name, r)): aucs[name] - aucs[r] for name in names for r in references if name != r}
    # Rounded: a difference in the last bits is none.
    tests = holm([signed_rank_p(np.round(apart, 6)) for apart in pairs.values()])
    p_values = dict(zip(pairs, tests, strict=True))
    header = ["detector", *kinds, *(f"p against {reference}" for reference in references)]
    lines = [header, ["---", *("---:" for _ in header[1:])]]
    for name in sorted(names, key=lambda name: -float(aucs[name].mean())):
        lines.append(
            [
                f"`{name}`" + _mark(name),
                *(f"{100 * aucs[name][families == kind].mean():.1f}" for kind in kinds),
                *("" if name == r else f"{p_values[frozenset((name, r))]:.2g}" for r in references),
            ]
        )
    body = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return (
        "By attack, the mean over its cells in percent, and Wilcoxon's signed-rank test over all cells (exact, "
        f"two-sided, after Holm's correction):\n\n{body}"
    )


def _mark(name: str) -> str:
    """What a detector saw of attacks; nothing for one that was fitted before, whose folder names it."""
    kind = name.partition(":")[0]
    seen = DETECTORS.get(kind).info.adversarial_texts if kind in DETECTORS.names() else "none"
    return {"none": "", "tunes": " (tuned on attacks)", "trains": " (trains on attacks)"}[seen]


def _against(name: str, reference: str, cells: Sequence[FilledCell]) -> str:
    """Cells in which a detector is above the reference, significantly above and significantly below."""
    found = [
        compared
        for cell in cells
        if name in cell.means
        for compared in cell.means[name]["comparisons"]
        if compared["reference"] == reference
    ]
    if not found:
        return ""
    apart = [compared["auc_difference"]["value"] for compared in found]
    sure = [compared["p_holm"] is not None and compared["p_holm"] < _LEVEL for compared in found]
    above = sum(value > 0 for value in apart)
    better, worse = (sum(one and sign * value > 0 for one, value in zip(sure, apart, strict=True)) for sign in (1, -1))
    return f"{above} of {len(found)}, +{better} -{worse}"


def _first(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows of the first detector, one a seed."""
    return [row for row in rows if row["detector"] == rows[0]["detector"]]
