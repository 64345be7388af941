"""What checking and comparing sets of adversarial rows prints."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from harness.cli.tables import console
from harness.cli.visible import visible_line
from harness.text.attack_stats import Estimate, SetComparison, SetFigures
from harness.text.row_checks import FAULTS
from harness.text.verification import Verification


def print_verification(found: Verification, examples: int) -> None:
    """Print how many rows hold, the faults by kind, and the first rows that have one."""
    out = console()
    if found.counts:
        table = Table()
        table.add_column("fault")
        table.add_column("rows", justify="right")
        table.add_column("meaning")
        for kind, count in found.counts.items():
            table.add_row(kind, str(count), FAULTS[kind])
        out.print(table)
    positions = list(dict.fromkeys(fault.position for fault in found.faults))
    for position in positions[:examples]:
        row = found.rows[position]
        told = [f"{fault.kind} ({fault.detail})" for fault in found.faults if fault.position == position]
        out.print(Text(visible_line(f"row {position}, {row.id}, index {row.index}: {'; '.join(told)}")), soft_wrap=True)
    if len(positions) > examples:
        out.print(f"... and {len(positions) - examples} more rows")
    for note in found.notes:
        out.print(Text(visible_line(f"note: {note}")), soft_wrap=True)
    out.print(
        Text(
            f"{found.holding} of {len(found.rows)} rows hold, asked of {visible_line(found.facts['victim'])} in "
            f"{found.facts['dtype']}, tolerance {found.facts['tolerance']:g}"
        ),
        soft_wrap=True,
    )


def print_set_comparison(found: SetComparison) -> None:
    """Print two sets' figures beside each other, what both did to the same texts, and the settings that differ."""
    out = console()
    out.print(Text(visible_line(f"A: {found.a.name}")), soft_wrap=True)
    out.print(Text(visible_line(f"B: {found.b.name}")), soft_wrap=True)
    table = Table(caption="intervals: 95 %, Wilson's")
    for name in ("figure", "A", "B"):
        table.add_column(name, justify="left" if name == "figure" else "right")
    for name, *cells in zip(_NAMES, _cells(found.a), _cells(found.b), strict=True):
        table.add_row(name, *cells)
    out.print(table)
    _print_paired(found)
    if not found.differences:
        out.print("no setting differs")
        return
    table = Table(title="settings that differ")
    for name in ("setting", "A", "B"):
        table.add_column(name, overflow="fold")
    for difference in found.differences:
        table.add_row(*(Text(visible_line(_value(cell))) for cell in (difference.name, difference.a, difference.b)))
    out.print(table)


_NAMES = (
    "texts",
    "successful / failed / maximized / skipped",
    "clean accuracy",
    "accuracy under attack",
    "success rate",
    "queries a text (median, attacked)",
    "words changed (median, successes)",
)


def _cells(found: SetFigures) -> tuple[str, ...]:
    return (
        str(found.texts),
        f"{found.successes} / {found.failures} / {found.maximized} / {found.skipped}",
        _percent(found.accuracy),
        _percent(found.accuracy_under_attack),
        _percent(found.success_rate),
        "-" if found.queries is None else f"{found.queries:g}",
        "-" if found.words_changed_percent is None else f"{found.words_changed_percent:.1f}%",
    )


def _print_paired(found: SetComparison) -> None:
    out, paired = console(), found.paired
    if paired is None:
        out.print("the sets have no source text in common: nothing can be compared text by text")
        return
    key = "id" if paired.by == "id" else "source text, for they share no id"
    table = Table(title=f"{paired.texts} texts in both, by {key}; {paired.attacked} attacked in both")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in (
        ("attacked in A only / in B only", f"{paired.only_a_attacked} / {paired.only_b_attacked}"),
        ("both succeed", str(paired.both)),
        ("only A / only B / none", f"{paired.only_a} / {paired.only_b} / {paired.neither}"),
        ("McNemar's exact p", "-" if paired.p_value is None else f"{paired.p_value:.3g}"),
        ("queries, B - A (mean, attacked)", _difference(paired.queries, "")),
        ("words changed, B - A (mean, both succeed)", _difference(paired.words_changed_percent, "%")),
        ("same perturbed text (attacked)", f"{paired.identical} of {paired.attacked}"),
        ("same perturbed text (both succeed)", f"{paired.identical_successes} of {paired.both}"),
    ):
        table.add_row(name, value)
    out.print(table)


def _percent(found: Estimate) -> str:
    if found.value is None or found.low is None or found.high is None:
        return "-"
    return f"{100 * found.value:.1f}% [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def _difference(found: Estimate, unit: str) -> str:
    if found.value is None:
        return "-"
    if found.low is None or found.high is None:
        return f"{found.value:+.1f}{unit}"
    return f"{found.value:+.1f}{unit} [{found.low:+.1f}, {found.high:+.1f}]"


def _value(value: Any) -> str:
    if isinstance(value, list):
        named = ", ".join(_value(one) for one in value[:3])
        return f"{named}, ... ({len(value)} values)" if len(value) > 3 else named
    return "-" if value is None else str(value)
