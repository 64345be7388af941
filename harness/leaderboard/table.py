"""The lines that `harness leaderboard show` prints: rows chosen, averaged over seeds, sorted and cut."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from harness.core.errors import ConfigurationError, UnknownNameError
from harness.core.rows import BOARDS, DETECTION_METRICS, Row
from harness.leaderboard.identity import names, sample
from harness.leaderboard.lines import by_seed, sort_key
from harness.leaderboard.sheets import COLUMNS, SORTED_BY, records

Line = dict[str, Any]

_METRICS = {"detection": tuple(n.removesuffix("_10") if n == "realised_fpr_10" else n for n in DETECTION_METRICS)}
_METRICS["ssl"] = ("top1",)
# Rates that are better when lower; other metrics are better when higher; all else begins with the lowest.
_LOWER_IS_BETTER = re.compile(r"^(fpr_|realised_fpr)")
_SHOWN = {
    "detection": (
        *("dataset", "recipe", "goal", "victim", "scenario", "detector", "seed"),
        *("n_adversarial", "auc", "tpr_at_fpr_10", "f1_at_fpr_10", "heldout_tpr_10", "realised_fpr"),
        *("forwards_per_text", "ms_per_text"),
    ),
    "ssl": (
        *("eval_dataset", "train_dataset", "arch", "objective", "self_distill", "protocol", "pooling", "layer", "seed"),
        *("top1", "flops", "forward_ms_per_item", "encoder"),
    ),
}
# One experiment's table; within it the best comes first.
_TABLE = {
    "detection": ("dataset", "recipe", "goal", "victim", "scenario"),
    "ssl": ("eval_dataset", "train_dataset", "arch", "objective", "self_distill", "protocol", "pooling", "layer"),
}
_BEST = {"detection": "auc", "ssl": "top1"}
_CONDITION = re.compile(r"\s*([A-Za-z0-9_]+)\s*(!=|>=|<=|=|>|<)(.*)", re.DOTALL)
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}
_TRUTHS = {True: "true", False: "false", None: ""}


@dataclass(frozen=True)
class Selection:
    """What is to be shown.

    Attributes:
        board: Name of the board.
        where: Conditions such as "dataset=sst2", "detector=rde,msp", "detector!=mle" or "auc>=0.8"; all must hold.
        columns: Columns in order; empty for the usual ones.
        sort: Columns to sort by, the first one first; empty for the board's own order.
        reverse: The other way round.
        each_seed: A line a seed instead of means over seeds.
        limit: Lines at most.
    """

    board: str = BOARDS[0]
    where: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    sort: tuple[str, ...] = ()
    reverse: bool = False
    each_seed: bool = False
    limit: int | None = None


@dataclass(frozen=True)
class ShownTable:
    """Lines by column, and what they have in common.

    Attributes:
        columns: Names of the columns asked for, or the board's usual ones.
        lines: A value for each of the board's `COLUMNS`; `seed` is a text that names all seeds of a mean.
        total: Lines before the limit.
        measured: Columns that hold a rate with an interval beside it.
        named: Whether the columns were asked for by name.
    """

    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    total: int
    measured: tuple[str, ...]
    named: bool


def select(rows: Sequence[Row], selection: Selection) -> ShownTable:
    """The lines of a board that were asked for.

    Args:
        rows: All rows of the board.
        selection: What is asked.

    Returns:
        The lines. Detectors that trained on adversarial texts come last in their table, or with `sort` last of all.

    Raises:
        UnknownNameError: There is no such column or value; the nearest ones are offered.
        ConfigurationError: A condition cannot be read.
    """
    board = selection.board
    for name in (*selection.columns, *selection.sort):
        _column(board, name)
    pairs = [(row, record) for row in rows for record in records(row)]
    for condition in selection.where:
        keep = _condition(board, condition, [record for _, record in pairs])
        pairs = [pair for pair in pairs if keep(pair[1])]
    found = [_line(board, [record]) for _, record in pairs] if selection.each_seed else _means(board, pairs)
    _sort(found, board, selection.sort, selection.reverse)
    shown = found if selection.limit is None else found[: selection.limit]
    columns = selection.columns or _SHOWN[board]
    return ShownTable(columns, tuple(shown), len(found), _METRICS[board], bool(selection.columns))


def _column(board: str, name: str) -> str:
    if name not in COLUMNS[board]:
        raise UnknownNameError(f"column of the {board} board", name, COLUMNS[board])
    return name


def _condition(board: str, text: str, lines: Sequence[Line]) -> Callable[[Line], bool]:
    parsed = _CONDITION.fullmatch(text)
    if parsed is None:
        raise ConfigurationError(
            f"the condition {text!r} cannot be read.", "Give column=value, such as dataset=sst2 or detector=rde,msp."
        )
    name, sign, wanted = parsed.groups()
    _column(board, name)
    if sign in _ORDERS:
        try:
            bound = float(wanted)
        except ValueError as error:
            raise ConfigurationError(f"{wanted!r} in the condition {text!r} is no number.") from error
        numbers = {type(line[name]) for line in lines} - {type(None)}
        if not numbers <= {int, float}:
            raise ConfigurationError(f"the column {name} holds no numbers, so {sign} says nothing of it.")
        return lambda line: line[name] is not None and _ORDERS[sign](line[name], bound)
    values = {_text(line[name]) for line in lines}
    chosen = {_value(name, part, values) for part in _parts(wanted, values)}
    return lambda line: (_text(line[name]) in chosen) == (sign == "=")


def _parts(text: str, values: set[str]) -> list[str]:
    """The values that a list holds; a value that has a comma itself is one, where the board knows it."""
    pieces, found = text.split(","), []
    while pieces:
        # The longest run of pieces that is a value, or the first piece.
        length = next((n for n in range(len(pieces), 1, -1) if ",".join(pieces[:n]).strip() in values), 1)
        found.append(",".join(pieces[:length]).strip())
        del pieces[:length]
    return found


def _value(name: str, text: str, values: set[str]) -> str:
    if text in values:
        return text
    for value in values:
        if _same_number(value, text):
            return value
    raise UnknownNameError(name, text, sorted(value for value in values if value))


def _same_number(value: str, text: str) -> bool:
    try:
        return float(value) == float(text)
    except ValueError:
        return False


def _text(value: Any) -> str:
    return _TRUTHS[value] if value is None or isinstance(value, bool) else str(value)


def _means(board: str, pairs: Sequence[tuple[Row, Line]]) -> list[Line]:
    """One line for the seeds of one experiment, or one each where a seed comes twice."""
    groups: dict[tuple[Any, ...], list[Line]] = {}
    for row, record in pairs:
        reading = tuple(record[key] for key in ("protocol", "layer", "pooling")) if board == "ssl" else ()
        groups.setdefault((*names(row).items(), sample(row), *reading), []).append(record)
    return [_line(board, part) for group in groups.values() for part in by_seed(group)]


def _line(board: str, group: Sequence[Line]) -> Line:
    """What the lines of several seeds say together: equal values stay, numbers are averaged."""
    group = sorted(group, key=lambda record: sort_key(record, ("seed", "id")))
    line: Line = {}
    for key in COLUMNS[board]:
        values = [record[key] for record in group]
        if key == "seed":
            line[key] = ", ".join(str(value) for value in values if value is not None) or None
        elif len(group) > 1 and key.endswith(("_low", "_high")):
            line[key] = None  # the mean of intervals is not the interval of the mean
        elif all(value == values[0] for value in values):
            line[key] = values[0]
        elif all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            line[key] = fmean(values)
        else:
            line[key] = None
    return line


def _sort(lines: list[Line], board: str, columns: Sequence[str], reverse: bool) -> None:
    """Sorts in place: stable, so that ties keep the board's own order; what is not known comes last either way."""
    lines.sort(key=lambda line: sort_key({**line, "seed": _seeds(line["seed"])}, SORTED_BY[board]))
    for name in reversed(columns or [_BEST[board]]):
        rate = name.removesuffix("_low").removesuffix("_high") in _METRICS[board]
        falls = rate and not _LOWER_IS_BETTER.match(name)
        known = [line for line in lines if line[name] is not None]
        known.sort(key=_key(name, known), reverse=falls != reverse)
        lines[:] = [*known, *(line for line in lines if line[name] is None)]
    if board == "detection":
        lines.sort(key=lambda line: line["trains_on_adversarial_texts"])
    if not columns:
        lines.sort(key=lambda line: sort_key(line, _TABLE[board]), reverse=reverse)


def _seeds(text: str | None) -> list[int]:
    return [int(part) for part in text.split(",")] if text else []


def _key(name: str, lines: Sequence[Line]) -> Callable[[Line], Any]:
    if name == "seed":
        return lambda line: _seeds(line[name])
    if all(isinstance(line[name], int | float) for line in lines):
        return lambda line: line[name]
    return lambda line: _text(line[name])
