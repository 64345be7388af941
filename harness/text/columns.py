"""From raw columns to texts and labels: which column is which, and every check a dataset must pass.

Bad rows are refused and never dropped: a dataset that loses rows in silence has other row numbers, and so
other ids, than the one its user thinks of.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import DataError

TEXT_COLUMNS = ("text", "sentence")
LABEL_COLUMNS = ("label", "labels")
# No task has so many classes; a label beyond it is an id or a measurement in the wrong column.
MAX_LABEL = 2**31 - 1

_NUMBER = re.compile(r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?", re.ASCII)


def choose_columns(
    names: Sequence[str], where: str, text_column: str | None = None, label_column: str | None = None
) -> tuple[str, str]:
    """The text and the label column among `names`.

    Args:
        names: The columns that are there.
        where: What is read, for messages.
        text_column: The text column asked for; None takes the first of `TEXT_COLUMNS`.
        label_column: The label column asked for; None takes the first of `LABEL_COLUMNS`.

    Raises:
        DataError: A column is not there, or both are the same.
    """
    text = _choose(names, where, "text", text_column, TEXT_COLUMNS)
    label = _choose(names, where, "label", label_column, LABEL_COLUMNS)
    if text == label:
        raise DataError(f"{where} cannot have texts and labels in the same column {text!r}.")
    return text, label


def _choose(names: Sequence[str], where: str, role: str, asked: str | None, usual: Sequence[str]) -> str:
    for name in (asked,) if asked is not None else usual:
        if name in names:
            return name
    wanted = f"column {asked!r}" if asked is not None else f"{role} column ({' or '.join(usual)})"
    # A file without a header offers its first row as names, which may be whole reviews.
    there = ", ".join(repr(name if len(name) <= 40 else name[:37] + "...") for name in names[:20])
    raise DataError(
        f"{where} has no {wanted}; its columns are {there or 'none'}.",
        f"Name the right one with --{role}-column.",
    )


def is_missing(value: Any) -> bool:
    """Whether a cell is None, NaN, or a string of nothing but white space."""
    if isinstance(value, str):
        return not value or value.isspace()
    return value is None or (isinstance(value, float) and math.isnan(value))


def check_texts(values: Sequence[Any], where: str, column: str) -> list[str]:
    """Return `values` as texts, unchanged.

    Args:
        values: (n,) cells of the text column.
        where: What is read, for messages.
        column: The column's name, for messages.

    Raises:
        DataError: There are none, or one is missing, blank, no string, or not encodable as UTF-8.
    """
    if not len(values):
        raise DataError(f"{where} is empty.", "Give a dataset with at least one text.")
    _refuse_missing(values, where, f"text column {column!r}", "missing or empty texts")
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise DataError(
                f"{where} holds {type(value).__name__}, not text, in column {column!r} "
                f"(first at row {row}, counted from 0).",
                "Name the column that holds the texts with --text-column.",
            )
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{where} has a text that is no valid Unicode (lone surrogate, row {row} from 0).",
                "Remove or repair this row.",
            ) from error
    return list(values)


def read_labels(
    values: Sequence[Any],
    where: str,
    column: str,
    class_names: Sequence[str] | None = None,
    elsewhere: Callable[[], Iterable[Any]] = tuple,
) -> tuple[NDArray[np.int64], list[str] | None]:
    """Turn label cells into class numbers.

    Numbers may come as int, as float without a fraction, or as strings of these: CSV knows no types, and the
    same rows must give the same labels in every format. Anything else (also true and false) is a class name;
    names are sorted and counted from 0.

    Args:
        values: (n,) cells of the label column.
        where: What is read, for messages.
        column: The column's name, for messages.
        class_names: The names of the classes where the source knows them (a `ClassLabel`).
        elsewhere: Gives the label cells of the dataset's other splits, so that a name has the same number in
            every split; called only when the labels are names. Missing and negative ones are left out there,
            because test splits often hide their labels.

    Returns:
        Labels, (n,) int64, and the class names or None.

    Raises:
        DataError: A label is missing, negative, not whole, too large or of no class; numbers and names mix.
    """
    _refuse_missing(values, where, f"label column {column!r}", "missing labels")
    cells = [_cell(value, where, column, row) for row, value in enumerate(values)]
    if any(isinstance(cell, str) for cell in cells):
        others = [_cell(value, where, column, None) for value in elsewhere() if not is_missing(value)]
        pool = cells + [other for other in others if isinstance(other, str) or other >= 0]
        number = next((cell for cell in pool if not isinstance(cell, str)), None)
        if number is not None:
            name = next(cell for cell in cells if isinstance(cell, str))
            raise DataError(
                f"{where} mixes numbers and names in label column {column!r}: {number:g} and {name!r}.",
                "Use one of the two in all rows and all splits.",
            )
        names = sorted({str(cell) for cell in pool})
        numbers = {name: i for i, name in enumerate(names)}
        return np.array([numbers[str(cell)] for cell in cells], dtype=np.int64), names
    for row, cell in enumerate(cells):
        problem, hint = _number_problem(float(cell), class_names)
        if problem:
            raise DataError(f"{where} has a label {problem}: {cell:g} at row {row}, counted from 0.", hint)
    return np.array(cells, dtype=np.int64), list(class_names) if class_names is not None else None


def _number_problem(number: float, class_names: Sequence[str] | None) -> tuple[str, str]:
    if not number.is_integer():
        return "that is not a whole number", "Name the column that holds the classes with --label-column."
    if number < 0:
        return "below zero", "Labels count from 0; -1 usually marks hidden labels, so take another split."
    if number > MAX_LABEL:
        return "that is too large", "Name the column that holds the classes with --label-column."
    if class_names is not None and number >= len(class_names):
        return f"beyond its {len(class_names)} class names", "Repair the labels or the names of the source."
    return "", ""


def _cell(value: Any, where: str, column: str, row: int | None) -> str | float | int:
    """One label cell as a number or a class name."""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        return float(value) if _NUMBER.fullmatch(value.strip()) else value
    if isinstance(value, int):
        # A larger int may not fit a float; clipped, it is refused all the same.
        return max(min(value, MAX_LABEL + 1), -MAX_LABEL)
    if isinstance(value, float):
        return value
    place = "another split" if row is None else f"row {row}, counted from 0"
    raise DataError(
        f"{where} holds {type(value).__name__}, not a class, in label column {column!r} ({place}).",
        "Name the column that holds the classes with --label-column.",
    )


def _refuse_missing(values: Sequence[Any], where: str, what: str, problem: str) -> None:
    rows = [row for row, value in enumerate(values) if is_missing(value)]
    if rows:
        raise DataError(
            f"{where} has {len(rows)} {problem} in {what} (first at row {rows[0]}, counted from 0).",
            "Fill or remove these rows.",
        )
