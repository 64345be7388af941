"""Views of adversarial rows: TextAttack's CSV log and JSON lines, both ways.

JSON lines keep every field to the last digit. A CSV log has no room for most of them, and its signs are ambiguous
where a text holds them itself; what a set of rows loses there is found by reading the written log back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from harness.core.errors import DataError, MissingFileError, UnknownNameError
from harness.core.files import write_text
from harness.text.adversarial import COLUMNS, GOALS, AdversarialRow, row_from_json, row_to_json
from harness.text.textattack_csv import LogFacts, Marks, read_csv_log, write_csv_log

# What the reader of a CSV log says of it, for all of its rows.
_TOLD = ("dataset", "split", "recipe", "victim", "goal", "target_class", "min_confidence")
# Two classes: one probability follows from the other but for the last digits.
_ROUNDING = 1e-9


def import_log(
    path: Path,
    *,
    dataset: str,
    split: str,
    recipe: str,
    victim: str,
    classes: int | None = None,
    goal: str | None = None,
    target_class: int | None = None,
    min_confidence: float | None = None,
    marks: Marks | None = None,
) -> list[AdversarialRow]:
    """Read a TextAttack CSV log, or the JSON lines this package writes.

    JSON lines hold whole rows, and none of the other arguments counts. A CSV log holds the texts, labels, results,
    numbers of queries and one score a text; the arguments say the rest. Its score is 1 - p(label) where the attack
    was untargeted: with two classes the probabilities follow, otherwise they stay unknown. The index is the line's
    number in the log. `[[ ]]` are taken for marks of changed words, except around a word that both texts
    have, and `<SPLIT>` for a line break.

    Args:
        path: A `.csv` or `.jsonl` file, UTF-8 with or without a byte order mark, any line ends, columns in any
            order; columns that are not TextAttack's are left out.
        dataset: Name of the attacked dataset.
        split: Its split.
        recipe: Name of the recipe.
        victim: Name of the victim.
        classes: How many classes it has, if that is known.
        goal: The attack's goal; by default `untargeted`, or `input-reduction` where results are `Maximized`.
        target_class: The label that a targeted attack wanted.
        min_confidence: The confidence that the wrong label had to reach.
        marks: TextAttack's colouring style: `file` (`[[ ]]`), `html`, `ansi` or `plain`; by default what is found.

    Raises:
        MissingFileError: There is no such file.
        DataError: It is empty, or not such a log.
        UnknownNameError: There is no such goal, or style of marks.
    """
    if goal is not None and goal not in GOALS:
        raise UnknownNameError("goal", goal, GOALS)
    if marks is not None and marks not in get_args(Marks):
        raise UnknownNameError("style of marks", marks, get_args(Marks))
    if not path.is_file():
        raise MissingFileError(f"there is no attack log {path}.")
    try:
        text = path.read_bytes().decode("utf-8-sig")  # `read_text` would turn carriage returns into line feeds
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}).", "Save it as UTF-8.") from error
    if path.suffix == ".jsonl":
        rows = _read_jsonl(text, path)
    else:
        facts = LogFacts(dataset, split, recipe, victim, classes, goal, target_class, min_confidence, marks)
        rows = read_csv_log(text, facts, path)
    if not rows:
        raise DataError(f"the attack log {path} is empty.")
    return rows


@dataclass(frozen=True)
class Loss:
    """What a log does not keep of one column.

    Attributes:
        column: The column.
        ids: The rows, by id, whose value is not what comes back.
    """

    column: str
    ids: list[str]


def export_log(path: Path, rows: Sequence[AdversarialRow]) -> list[Loss]:
    """Write rows as a TextAttack CSV log (`.csv`) or as JSON lines (`.jsonl`), atomically.

    JSON lines lose nothing. A CSV log has no column for `index` (it comes back where it is the row's number in the
    set, and with it the id), more than two probabilities, `recipe_parameters`, `victim_hash`, `seed`,
    `textattack_version`, `evaded`, the limits and `stopped_by`; the reader has to say dataset, split, recipe, victim,
    goal, target class and confidence. A text loses a literal `<SPLIT>`, which comes back as a line break, and `[[ ]]`
    of its own where they look like marks of changed words.

    Returns:
        What the file does not keep, found by reading it back; empty for JSON lines.

    Raises:
        DataError: Another file type was asked for, or a row that no log can hold.
    """
    if path.suffix == ".jsonl":
        text, losses = "".join(row_to_json(row) + "\n" for row in rows), []
    elif path.suffix == ".csv":
        text = write_csv_log(rows)
        losses = _losses(rows, text, path)
    else:
        raise DataError(f"cannot write a log as {path.suffix or 'a file without a type'!r}.", "Use .csv or .jsonl.")
    write_text(path, text)
    return losses


def _read_jsonl(text: str, path: Path) -> list[AdversarialRow]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                rows.append(row_from_json(line))
            except DataError as error:
                raise DataError(f"line {number} of {path} is {error.message}", error.hint) from error
    return rows


def _losses(rows: Sequence[AdversarialRow], text: str, path: Path) -> list[Loss]:
    """Compare rows with what an import makes of their log when it is told what is true of the first."""
    if not rows:
        return []
    told = {name: getattr(rows[0], name) for name in _TOLD}
    classes = len(rows[0].original_probabilities or ()) or None
    back = read_csv_log(text, LogFacts(**told, classes=classes), path)
    pairs = list(zip(rows, back, strict=True))
    lost = [
        Loss(name, [row.id for row, other in pairs if not _same(getattr(row, name), getattr(other, name))])
        for name in COLUMNS
    ]
    return [loss for loss in lost if loss.ids]


def _same(value: Any, other: Any) -> bool:
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(_same, value, other))
    if isinstance(value, float) and isinstance(other, float):
        return math.isclose(value, other, rel_tol=_ROUNDING, abs_tol=_ROUNDING)
    return bool(value == other)


def losses_as_text(losses: Iterable[Loss], rows: int) -> list[str]:
    """Lines that say what a log does not keep: columns lost in all rows together, others one by one.

    Args:
        losses: What `export_log` returned.
        rows: How many rows there are.
    """
    found = list(losses)
    whole = [loss.column for loss in found if len(loss.ids) == rows]
    lines = [f"not in this format: {', '.join(whole)}"] if whole else []
    for loss in found:
        if len(loss.ids) < rows:
            named = ", ".join(loss.ids[:3]) + (", ..." if len(loss.ids) > 3 else "")
            lines.append(f"{loss.column} changed in {len(loss.ids)} of {rows} rows: {named}")
    return lines
