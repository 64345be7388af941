from __future__ import annotations

import json
import multiprocessing
import os
import random
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from harness.core.rows import write_row
from harness.leaderboard.board import build

WriteAtOnce = Callable[..., "list[int | None]"]

_VOID = {"meta", "br", "link", "img", "input", "hr"}


class Outline(HTMLParser):
    """Tags, text and packed rows of a page; fails where a tag is not closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.data: dict[str, Any] = {}
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if (
            self.tags
            and self.tags[-1] == ("script", {"type": "application/json", "id": "data"})
            and self.open[-1] == "script"
        ):
            self.data = json.loads(data)
        else:
            self.texts.append(data)


@pytest.fixture(scope="session")
def read_page() -> Callable[[str], Outline]:
    """`(page)` -> its tags, each with its attributes, and its texts."""
    return Outline


def _work(leaderboard: Path, index: int, rows: Sequence[dict[str, Any]], every_nth_row: int, build_every: int) -> None:
    """One process: its share of the rows, which others write too, under a name of its own, and builds in between."""
    named = [{**row, "run": f"process {index}"} for row in rows]
    mine = [row for place, row in enumerate(named) if place % every_nth_row == index % every_nth_row]
    random.Random(index).shuffle(mine)
    for place, row in enumerate(mine):
        write_row(leaderboard, row)
        if place % build_every == 0:
            build(leaderboard)
    build(leaderboard)


@pytest.fixture(scope="session")
def write_at_once() -> WriteAtOnce:
    """`(leaderboard, rows, processes, every_nth_row, build_every)` -> the exit codes of processes that all write."""

    def run(
        leaderboard: Path, rows: Sequence[dict[str, Any]], *, processes: int, every_nth_row: int, build_every: int
    ) -> list[int | None]:
        context = multiprocessing.get_context("fork" if os.name == "posix" else "spawn")
        given = [(leaderboard, index, rows, every_nth_row, build_every) for index in range(processes)]
        workers = [context.Process(target=_work, args=arguments) for arguments in given]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(120)
        return [worker.exitcode for worker in workers]

    return run


MeasuredRow = Callable[..., "dict[str, Any]"]


@pytest.fixture(scope="session")
def measured_row() -> MeasuredRow:
    """`(clean, adversarial, calibration=(), failures=(), **changes)` -> a finished row of a detector with these scores.

    Everything in it is measured by `harness.evaluation` from the scores, so that it holds together.
    """
    import numpy as np

    from harness.core.conformal import threshold_at_fpr
    from harness.core.prevalence import precision_at_prevalence
    from harness.core.rows import finish_row
    from harness.evaluation.metrics import detection_metrics, metrics_at_threshold

    def known(value: float) -> float | None:
        return float(value) if np.isfinite(value) else None

    def make(
        clean: Sequence[float],
        adversarial: Sequence[float],
        calibration: Sequence[float] = (),
        failures: Sequence[float] = (),
        **changes: Any,
    ) -> dict[str, Any]:
        scores = np.array([*clean, *adversarial], dtype=float)
        labels = np.arange(len(scores)) >= len(clean)
        values: dict[str, float | None] = dict(detection_metrics(scores, labels))
        rates = {"1": 0.01, "5": 0.05, "10": 0.10}
        found = {name: threshold_at_fpr(calibration, rate) for name, rate in rates.items() if len(calibration)}
        thresholds = {name: value for name, value in found.items() if np.isfinite(value)}
        prevalence: dict[str, Any] = {"0.01": {}}
        for name in rates:
            told = metrics_at_threshold(scores, labels, thresholds[name]) if name in thresholds else {}
            values[f"heldout_tpr_{name}"], values[f"realised_fpr_{name}"] = told.get("tpr"), told.get("fpr")
            if name == "10":
                values["heldout_f1_10"] = told.get("f1")
            precision = precision_at_prevalence(told["tpr"], told["fpr"], 0.01) if told else np.nan
            prevalence["0.01"][f"precision_{name}"] = known(float(precision))
        failed = None
        if len(failures):
            both = np.array([*clean, *failures], dtype=float)
            flagged = {name: float((np.array(failures) > value).mean()) for name, value in thresholds.items()}
            auc = detection_metrics(both, np.arange(len(both)) >= len(clean))["auc"]
            failed = {"texts": len(failures), "auc_against_clean": auc, "flagged": flagged}
        rows = len(clean) + len(adversarial)
        row = {
            "dataset": "imdb",
            "recipe": "textfooler",
            "victim": "bert",
            "detector": "rde",
            "scenario": "s2",
            "seed": 0,
            "n_clean": len(clean),
            "n_adversarial": len(adversarial),
            "n_calibration": len(calibration),
            "trains_on_adversarial_texts": False,
            "limited": False,
            "metrics": {name: {"value": value, "low": value, "high": value} for name, value in values.items()},
            "comparisons": [
                {
                    "reference": "msp",
                    "auc_difference": {"value": 0.0, "low": -0.25, "high": 0.25},
                    "p": 0.03,
                    "p_holm": 0.06,
                }
            ],
            "failures": failed,
            "prevalence": prevalence,
            "cost": {"forwards_per_text": 1, "ms_per_text": 2.5},
            "run": "run-0",
            "protocol": {
                "attack": {
                    "rows_hash": "a",
                    "texts": rows + len(failures),
                    "success": len(adversarial),
                    "failure": len(failures),
                    "skipped": len(clean),
                },
                "calibration": {"texts": len(calibration), "thresholds": thresholds},
                "detector": {"needs_adversarial_labels": False},
                "sampling": {"subset_rows": rows, "test_rows": rows, "dear_texts": None, "target": 1000},
                "versions": {"palimpsest": "0.1.0", "torch": "2.13.0+cpu"},
                "victim": {"hash": "v"},
            },
        }
        return finish_row({**row, **changes})

    return make
