"""What `harness leaderboard` prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from harness.cli.tables import console
from harness.cli.visible import visible, visible_line
from harness.leaderboard.difference import Difference, Lonely
from harness.leaderboard.lines import percent
from harness.leaderboard.sheets import COLUMNS, as_csv
from harness.leaderboard.table import ShownTable
from harness.leaderboard.verification import Verification

_BOARDS = {"detection": "detection", "ssl": "SSL"}
# A terminal that has room for lines between columns, and for intervals.
_WIDE = 115
# Where there is little, these are for those who name them.
_LEFT_OUT = ("n_adversarial", "f1_at_fpr_10", "encoder", "forward_ms_per_item")
_FILES_NAMED = 3
_SETTINGS_NAMED = 6


def print_counts(rows: Mapping[str, int]) -> None:
    """Print how many rows each board has."""
    typer.echo(", ".join(f"{count:,} {_BOARDS[board]} row{'s' * (count != 1)}" for board, count in rows.items()))


def print_lines(found: ShownTable, board: str, form: str) -> None:
    """Print lines of a board as a table, as CSV whose cells no spreadsheet runs, or as JSON."""
    if form == "table":
        _print_table(found, board)
        return
    columns = found.columns if found.named else COLUMNS[board]
    if form == "csv":
        _emit(as_csv(columns, found.lines))
    else:
        lines = [{key: line[key] for key in columns} for line in found.lines]
        _emit(json.dumps(lines, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _emit(text: str) -> None:
    """Data as it is, which `typer.echo` would strip of what looks like colour; for eyes only where they can bear it."""
    sys.stdout.write(visible(text) if sys.stdout.isatty() else text)


def _print_table(found: ShownTable, board: str) -> None:
    columns, title = list(found.columns), ""
    if not found.named and len(found.lines) > 1:
        # What all lines share is said once; there is little room in a line.
        shared = [name for name in columns if _is_shared(name, found)]
        title = ", ".join(f"{name} {_cell(name, found.lines[0], found)}" for name in shared)
        columns = [name for name in columns if name not in shared]
    marks = {
        "trains_on_adversarial_texts": ("*", "* trained on adversarial texts, not ranked with the others"),
        "limited": ("\u2020", "\u2020 first texts of each sample only"),
    }
    marks = {key: told for key, told in marks.items() if any(line.get(key) for line in found.lines)}
    caption = [f"{len(found.lines):,} of {found.total:,} lines", "rates in percent"]
    caption += [told for _, told in marks.values()]
    out = console()
    narrow = out.width < _WIDE
    table = Table(title=Text(title) if title else None, caption="; ".join(filter(None, caption)))
    if narrow:
        columns = [name for name in columns if found.named or name not in _LEFT_OUT]
        table.box, table.collapse_padding = SIMPLE_HEAD, True
    lines = []
    for line in found.lines:
        cells = {name: _cell(name, line, found, narrow) for name in columns}
        if "detector" in cells:
            cells["detector"] += "".join(mark for key, (mark, _) in marks.items() if line[key])
        lines.append(cells)
    for name in columns:
        # A name may wrap between its words, which leaves room for others; a number that breaks is none.
        words = name.split("_")
        number = all(_is_number(line[name]) for line in found.lines)
        unbroken = [*words, *([cells[name] for cells in lines] if number else [])]
        justify: Literal["left", "right"] = "right" if number else "left"
        table.add_column(" ".join(words), justify=justify, overflow="fold", min_width=max(map(len, unbroken)))
    for cells in lines:
        table.add_row(*(Text(cells[name]) for name in columns))
    out.print(table)


def _is_shared(name: str, found: ShownTable) -> bool:
    values = [line[name] for line in found.lines]
    return not _is_number(values[0]) and values[0] is not None and all(value == values[0] for value in values)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _cell(name: str, line: Mapping[str, Any], found: ShownTable, narrow: bool = False) -> str:
    value = line[name]
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.removesuffix("_low").removesuffix("_high") in found.measured:
        if not found.named and (narrow or name != found.measured[0]):
            return percent(value)
        low, high = (line.get(f"{name}_{end}") for end in ("low", "high"))
        return percent(value) + ("" if low is None or high is None else f" [{percent(low)}, {percent(high)}]")
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 100 else f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else visible_line(value)


def print_findings(found: Verification) -> None:
    """Print a line for each finding, faults first, and a last one that counts them."""
    for one in found.findings:
        named = ", ".join(str(path) for path in one.files[:_FILES_NAMED])
        more = len(one.files) - _FILES_NAMED
        named += f" and {more} more" if more > 0 else ""
        typer.echo(visible_line(f"{'fault' if one.fatal else 'warning'}: {named}: {one.message}"))
    faults, warnings = len(found.faults), len(found.warnings)
    typer.echo(
        f"{found.rows:,} row{'s' * (found.rows != 1)} checked: {faults} fault{'s' * (faults != 1)}, "
        f"{warnings} warning{'s' * (warnings != 1)}"
    )


def print_difference(found: Difference) -> None:
    """Print how two leaderboards differ: what moved, then what only one has."""
    for pair in found.pairs:
        typer.echo(visible_line(f"{pair.name}: {pair.before} -> {pair.after}"))
        for moved in pair.moved:
            told = {True: ", beyond the intervals", False: ", within the intervals", None: ""}[moved.beyond]
            change = "" if moved.change is None else f" ({100 * moved.change:+.1f}{told})"
            typer.echo(visible_line(f"    {moved.metric}: {_percent(moved.before)} -> {_percent(moved.after)}{change}"))
        for line in pair.settings[:_SETTINGS_NAMED]:
            typer.echo(visible_line(f"    protocol.{line}"))
        if len(pair.settings) > _SETTINGS_NAMED:
            typer.echo(f"    and {len(pair.settings) - _SETTINGS_NAMED} more settings differ")
        if not pair.moved:
            typer.echo("    no metric moved" + (f"; others: {', '.join(pair.parts)}" if pair.parts else ""))
    _print_lonely("only in the first", found.only_first)
    _print_lonely("only in the second", found.only_second)
    beyond = sum(any(moved.beyond for moved in pair.moved) for pair in found.pairs)
    typer.echo(
        f"{found.same:,} rows the same, {len(found.pairs):,} moved ({beyond:,} beyond the intervals), "
        f"{len(found.only_first):,} only in the first, {len(found.only_second):,} only in the second"
    )


def _print_lonely(title: str, rows: Sequence[Lonely]) -> None:
    for row in rows:
        typer.echo(visible_line(f"{title}: {row.name} ({row.id})"))


def _percent(value: float | None) -> str:
    return "-" if value is None else percent(value)
