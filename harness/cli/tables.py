"""Tables and examples for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from harness.text.adversarial import AdversarialRow, summarise
from harness.text.words import changed_positions, find_words


def console() -> Console:
    """Standard output; wide enough for a table when it is no terminal."""
    found = Console(highlight=False, soft_wrap=False)
    if not found.is_terminal:
        found = Console(highlight=False, width=140)
    return found


def print_attack_summary(rows: Sequence[AdversarialRow]) -> None:
    """Print what an attack did, in TextAttack's figures."""
    found = summarise(rows)
    head = rows[0]
    table = Table(title=escape(f"{head.recipe} on {head.dataset} ({head.split}), victim {head.victim}"))
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in (
        ("texts", str(found.texts)),
        ("successful / failed / skipped", f"{found.successes} / {found.failures} / {found.skipped}"),
        ("clean accuracy", _percent(found.accuracy)),
        ("accuracy under attack", _percent(found.accuracy_under_attack)),
        ("success rate", _percent(found.success_rate)),
        ("words changed (successes)", _percent(found.words_changed_percent / 100)),
        ("queries a text (attacked)", "-" if math.isnan(found.queries) else f"{found.queries:.1f}"),
    ):
        table.add_row(name, value)
    console().print(table)


def print_example(row: AdversarialRow) -> None:
    """Print a pair of texts with the changed words in colour."""
    out = console()
    before = [word.text for word in find_words(row.original_text)]
    after = [word.text for word in find_words(row.perturbed_text)]
    out.print()
    out.print(
        Text(
            f"{row.id}  label {row.label}: predicted {row.original_output} -> {row.perturbed_output}, "
            f"{len(row.changed_positions)} words changed, {row.queries} queries",
            style="bold",
        )
    )
    out.print(_coloured(row.original_text, changed_positions(before, after), "green"))
    out.print(_coloured(row.perturbed_text, changed_positions(after, before), "red"))


def print_detectors(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a table of detectors, a line each, in percent with 95 % intervals.

    Args:
        title: The table's title.
        rows: Each with `detector`, `metrics` (name -> value, low, high) and `cost`.
    """
    table = Table(title=escape(title), caption="percent, with 95 % intervals; bootstrap over source texts")
    table.add_column("detector")
    for name in ("AUC", "TPR@10%FPR", "F1@10%FPR", "held-out TPR", "realised FPR"):
        table.add_column(name, justify="right")
    table.add_column("forwards", justify="right")
    table.add_column("ms/text", justify="right")
    for row in rows:
        metrics, cost = row["metrics"], row["cost"]
        table.add_row(
            escape(row["detector"]),
            *(
                _interval(metrics[name])
                for name in ("auc", "tpr_at_fpr_10", "f1_at_fpr_10", "heldout_tpr_10", "realised_fpr_10")
            ),
            f"{cost['forwards_per_text']:g}",
            f"{cost['ms_per_text']:.1f}",
        )
    console().print(table)


def _coloured(text: str, positions: Sequence[int], colour: str) -> Text:
    shown = Text(text)
    words = find_words(text)
    for position in positions:
        shown.stylize(f"bold {colour}", words[position].start, words[position].end)
    return shown


def _interval(metric: Mapping[str, float | None]) -> str:
    if metric["value"] is None:
        return "-"
    value = f"{100 * metric['value']:.1f}"
    if metric["low"] is None or metric["high"] is None:
        return value
    return f"{value} [{100 * metric['low']:.1f}, {100 * metric['high']:.1f}]"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1%}"
