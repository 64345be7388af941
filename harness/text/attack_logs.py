"""Views of adversarial rows: TextAttack's CSV log and JSON lines, both ways."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from harness.core.errors import DataError, MissingFileError
from harness.core.files import write_text
from harness.text.adversarial import AdversarialRow, Result, compare_words, row_from_json, row_to_json
from harness.text.datasets import row_id
from harness.text.local_files import long_cells
from harness.text.words import changed_positions, find_words

_RESULTS: dict[str, Result] = {"Successful": "success", "Failed": "failure", "Skipped": "skipped"}
_NEWLINE = "<SPLIT>"  # TextAttack writes line breaks so
# The innermost pair of brackets: a word holds none, but the text before it may.
_MARKED = re.compile(r"\[\[((?:(?!\[\[|\]\]).)*)\]\]", re.DOTALL)
_COLUMNS = (
    "original_text",
    "perturbed_text",
    "original_score",
    "perturbed_score",
    "original_output",
    "perturbed_output",
    "ground_truth_output",
    "num_queries",
    "result_type",
)


def import_log(
    path: Path, *, dataset: str, split: str, recipe: str, victim: str, classes: int | None = None
) -> list[AdversarialRow]:
    """Read a TextAttack CSV log, or the JSON lines this package writes.

    A CSV log holds 1 - p(label) but not the whole distribution, so probabilities are filled in where the
    caller says that there are two classes, and left out otherwise. It holds no dataset, victim or recipe either:
    those are the caller's word. The index is the line's number in the log.

    Args:
        path: A `.csv` or `.jsonl` file.
        dataset: Name of the attacked dataset (CSV only, like the rest).
        split: Its split.
        recipe: Name of the recipe.
        victim: Name of the victim.
        classes: How many classes it has, if that is known.

    Raises:
        MissingFileError: There is no such file.
        DataError: It is empty, or not such a log.
    """
    if not path.is_file():
        raise MissingFileError(f"there is no attack log {path}.")
    try:
        text = path.read_bytes().decode("utf-8-sig")  # `read_text` would turn carriage returns into line feeds
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}).", "Save it as UTF-8.") from error
    if path.suffix == ".jsonl":
        rows = _read_jsonl(text, path)
    else:
        names = {"dataset": dataset, "split": split, "recipe": recipe, "victim": victim}
        rows = _read_csv(text, path, names, two_classes=classes == 2)
    if not rows:
        raise DataError(f"the attack log {path} is empty.")
    return rows


def _read_jsonl(text: str, path: Path) -> list[AdversarialRow]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                rows.append(row_from_json(line))
            except DataError as error:
                raise DataError(f"line {number} of {path} is {error.message}", error.hint) from error
    return rows


def _read_csv(text: str, path: Path, names: dict[str, str], *, two_classes: bool) -> list[AdversarialRow]:
    try:
        with long_cells():
            reader = csv.DictReader(io.StringIO(text, newline=""))
            columns, lines = reader.fieldnames or (), list(reader)
        absent = [name for name in _COLUMNS if name not in columns]
        if absent:
            raise DataError(
                f"{path} is not a TextAttack log: it has no column {absent[0]!r}.",
                "TextAttack writes such a log with --log-to-csv.",
            )
        return [_row(line, index, names, two_classes) for index, line in enumerate(lines)]
    except (csv.Error, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path} is not a TextAttack log: {type(error).__name__} {error}.") from error


def _row(line: dict[str, str], index: int, names: dict[str, str], two_classes: bool) -> AdversarialRow:
    original, perturbed = (_unmark(line[name]) for name in ("original_text", "perturbed_text"))
    changed, percent = compare_words(original, perturbed)
    label = _count(line["ground_truth_output"])
    scores = _finite(line["original_score"]), _finite(line["perturbed_score"])
    probabilities = [_two_classes(score, label) if two_classes else None for score in scores]
    return AdversarialRow(
        id=row_id(original, names["dataset"], index),
        dataset=names["dataset"],
        split=names["split"],
        index=index,
        label=label,
        original_text=original,
        perturbed_text=perturbed,
        changed_positions=changed,
        original_output=_count(line["original_output"]),
        perturbed_output=_count(line["perturbed_output"]),
        original_score=scores[0],
        perturbed_score=scores[1],
        original_probabilities=probabilities[0],
        perturbed_probabilities=probabilities[1],
        result=_RESULTS[line["result_type"]],
        goal="untargeted",
        min_confidence=None,
        recipe=names["recipe"],
        recipe_parameters="{}",
        victim=names["victim"],
        victim_hash=None,
        queries=_count(line["num_queries"]),
        words_changed_percent=percent,
        seed=None,
        textattack_version=None,
    )


def export_log(path: Path, rows: Sequence[AdversarialRow]) -> None:
    """Write rows as a TextAttack CSV log (`.csv`) or as JSON lines (`.jsonl`), atomically.

    Raises:
        DataError: Another file type was asked for.
    """
    writers: dict[str, Callable[[Iterable[AdversarialRow]], str]] = {".csv": _csv_text, ".jsonl": _jsonl_text}
    if path.suffix not in writers:
        raise DataError(f"cannot write a log as {path.suffix or 'a file without a type'!r}.", "Use .csv or .jsonl.")
    write_text(path, writers[path.suffix](rows))


def _jsonl_text(rows: Iterable[AdversarialRow]) -> str:
    return "".join(row_to_json(row) + "\n" for row in rows)


def _csv_text(rows: Iterable[AdversarialRow]) -> str:
    names = {result: name for name, result in _RESULTS.items()}
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in rows:
        original, perturbed = _mark(row.original_text, row.perturbed_text)
        writer.writerow(
            [
                original.replace("\n", _NEWLINE),
                perturbed.replace("\n", _NEWLINE),
                row.original_score,
                row.perturbed_score,
                row.original_output,
                row.perturbed_output,
                float(row.label),
                row.queries,
                names[row.result],
            ]
        )
    return buffer.getvalue()


def _mark(original: str, perturbed: str) -> tuple[str, str]:
    """Wrap the words that one of the texts has and the other has not in `[[ ]]`, as TextAttack's log does."""
    return _wrap(original, perturbed), _wrap(perturbed, original)


def _wrap(text: str, other: str) -> str:
    words = find_words(text)
    changed = changed_positions([w.text for w in words], [w.text for w in find_words(other)], insertions=False)
    for position in reversed(changed):
        word = words[position]
        text = f"{text[: word.start]}[[{word.text}]]{text[word.end :]}"
    return text


def _unmark(text: str) -> str:
    return _MARKED.sub(r"\1", text).replace(_NEWLINE, "\n")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"score {text}")
    return value


def _count(text: str) -> int:
    """A label or a number of queries, which TextAttack writes as floats."""
    value = float(text)
    if not value.is_integer() or not 0 <= value < 2**31:
        raise ValueError(f"{text} is no label or count")
    return int(value)


def _two_classes(score: float, label: int) -> list[float]:
    return [1 - score, score] if label == 0 else [score, 1 - score]
