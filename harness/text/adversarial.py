"""The adversarial row: one attacked text, a superset of TextAttack's log line and of TCAB's row.

Parquet is canonical. The same work on the same kind of machine gives the same bytes, so timings live in a file of
their own.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from harness.core.errors import DataError, MissingFileError
from harness.core.files import atomic_writer
from harness.text.words import changed_positions, find_words

ROWS_FILE = "adversarial.parquet"
TIMINGS_FILE = "timings.parquet"

Result = Literal["success", "failure", "maximized", "skipped"]
GOALS = ("untargeted", "targeted", "input-reduction")


@dataclass(frozen=True)
class AdversarialRow:
    """One attacked text.

    Attributes:
        id: Hash of source text, dataset and index.
        dataset: Name of the dataset.
        split: Its split.
        index: Row number in the source split.
        label: Gold label.
        original_text: The source text, without markers.
        perturbed_text: The attacked text; equal to the original when skipped, the best attempt when failed.
        changed_positions: Positions of the changed words in the original (words as in `harness.text.words`).
        original_output: Predicted label of the original.
        perturbed_output: Predicted label of the attacked text.
        original_score: 1 - p(label) of the original, the goal score of an untargeted attack. Of an imported log of
            another goal, that goal's score: a log holds no other.
        perturbed_score: The same of the attacked text.
        original_probabilities: Class probabilities; None where a log does not hold them.
        perturbed_probabilities: The same of the attacked text.
        result: `success`, `failure`, `maximized` (the goal is a best, not a flip: input reduction), or `skipped`
            (nothing to attack: the victim was wrong to begin with, or the text is of the target class).
        goal: What counts as success: `untargeted`, `targeted`, `input-reduction`.
        min_confidence: Confidence the wrong label had to reach; None for a plain flip.
        recipe: Name of the attack recipe.
        recipe_parameters: JSON object of the recipe's parameters.
        victim: Name of the victim.
        victim_hash: SHA-256 of its weights and tokenizer; None when unknown.
        queries: Texts the attack asked the victim about, as TextAttack counts them.
        words_changed_percent: Changed words in percent of the original's words.
        seed: Seed of the run.
        textattack_version: Version of TextAttack; None when unknown.
        target_class: The label that a targeted attack wanted; None for others.
        evaded: JSON object of the detector that an evasive attack also had to pass, with its threshold.
        query_limit: Queries the attack was allowed on a text; None for no limit.
        seconds_limit: Seconds it was allowed on a text; None for no limit.
        stopped_by: The limit that ended the search, if one did.
    """

    id: str
    dataset: str
    split: str
    index: int
    label: int
    original_text: str
    perturbed_text: str
    changed_positions: list[int]
    original_output: int
    perturbed_output: int
    original_score: float
    perturbed_score: float
    original_probabilities: list[float] | None
    perturbed_probabilities: list[float] | None
    result: Result
    goal: str
    min_confidence: float | None
    recipe: str
    recipe_parameters: str
    victim: str
    victim_hash: str | None
    queries: int
    words_changed_percent: float
    seed: int | None
    textattack_version: str | None
    target_class: int | None = None
    evaded: str | None = None
    query_limit: int | None = None
    seconds_limit: float | None = None
    stopped_by: Literal["queries", "seconds"] | None = None


COLUMNS = tuple(field.name for field in fields(AdversarialRow))
# Columns that say how a set was made: alike in all rows of a run.
SETTINGS = (
    "dataset",
    "split",
    "recipe",
    "recipe_parameters",
    "victim",
    "victim_hash",
    "goal",
    "target_class",
    "min_confidence",
    "evaded",
    "query_limit",
    "seconds_limit",
    "seed",
    "textattack_version",
)
# Columns that files of earlier versions lack.
_OPTIONAL = tuple(field.name for field in fields(AdversarialRow) if field.default is not MISSING)


def compare_words(original: str, perturbed: str) -> tuple[list[int], float]:
    """Changed word positions of a pair of texts, and their share of the original's words in percent."""
    before = [word.text for word in find_words(original)]
    after = [word.text for word in find_words(perturbed)]
    changed = changed_positions(before, after)
    return changed, 100.0 * len(changed) / max(1, len(before))


def write_rows(path: Path, rows: Iterable[AdversarialRow]) -> None:
    """Write rows to `path` as Parquet, atomically and reproducibly.

    Raises:
        DataError: A value that no row may have, such as a number beyond 64 bits.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pa.Table.from_pylist([asdict(row) for row in rows], schema=_schema())
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        raise DataError(f"these are not adversarial rows: {str(error).splitlines()[0]}") from error
    with atomic_writer(path) as handle:
        pq.write_table(table, handle, compression="zstd")


def read_rows(path: Path) -> list[AdversarialRow]:
    """Read rows from a Parquet file, or from a run folder that holds one.

    Raises:
        MissingFileError: There is no such file.
        DataError: It is not a file of adversarial rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    if path.is_dir():
        path = path / ROWS_FILE
    if not path.is_file():
        raise MissingFileError(
            f"there are no adversarial rows at {path}.",
            "Make them with `harness attack run` or `harness attack import`.",
        )
    try:
        table = pq.read_table(path)
        for name in _OPTIONAL:
            if name not in table.column_names:
                table = table.append_column(name, pa.nulls(len(table)))
        table = table.select(list(COLUMNS)).cast(_schema())
        _check_columns(table)
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise DataError(f"{path} is not a file of adversarial rows: {str(error).splitlines()[0]}") from error
    return [AdversarialRow(**values) for values in table.to_pylist()]


def rows_from_values(values: Iterable[Mapping[str, Any]]) -> list[AdversarialRow]:
    """Rows of plain values by column, checked like those of a file.

    Raises:
        DataError: A value is missing, or none that a row may have.
    """
    import pyarrow as pa

    try:
        table = pa.Table.from_pylist([dict(row) for row in values], schema=_schema())
        _check_columns(table)
    except (pa.ArrowException, OverflowError, ValueError) as error:
        raise DataError(f"these are not adversarial rows: {str(error).splitlines()[0]}") from error
    return [AdversarialRow(**row) for row in table.to_pylist()]


def _check_columns(table: Any) -> None:
    """See that columns of the right type hold no value that a row cannot have."""
    import pyarrow.types as kinds

    for name, hint in get_type_hints(AdversarialRow).items():
        column = table[name].combine_chunks()
        options = {value for part in (hint, *get_args(hint)) if get_origin(part) is Literal for value in get_args(part)}
        unknown = set(column.unique().to_pylist()) - options - {None} if options else set()
        if unknown:
            raise ValueError(f"{name} {sorted(unknown)[0]!r}")
        if column.null_count and NoneType not in get_args(hint):
            raise ValueError(f"a row has no {name}")
        if kinds.is_list(column.type) and column.flatten().null_count:
            raise ValueError(f"{name} has a gap")


def row_to_json(row: AdversarialRow) -> str:
    """One row as a JSON line (without the newline); floats survive exactly.

    Raises:
        DataError: A number is not finite: JSON has no such numbers.
    """
    try:
        return json.dumps(asdict(row), ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise DataError(f"row {row.id} holds a number that is not finite.") from error


def row_from_json(line: str) -> AdversarialRow:
    """The row of a JSON line.

    Raises:
        DataError: The line is not such a row.
    """
    try:
        values = json.loads(line)
        row = AdversarialRow(**values)
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"not an adversarial row: {error}") from error
    for name, hint in get_type_hints(AdversarialRow).items():
        if not _fits(getattr(row, name), hint):
            raise DataError(f"not an adversarial row: {name} {str(getattr(row, name))[:40]!r}")
    return row


_SCALARS: dict[Any, Callable[[Any], bool]] = {
    NoneType: lambda value: value is None,
    int: lambda value: type(value) is int and abs(value) < 2**63,
    # Whole numbers that a float keeps.
    float: lambda value: math.isfinite(value) if type(value) is float else type(value) is int and abs(value) <= 2**53,
    # A lone surrogate is no text: no file could keep it.
    str: lambda value: isinstance(value, str) and value.encode("utf-8", "ignore").decode() == value,
}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value is of one of the types that the fields of a row have."""
    origin, options = get_origin(hint), get_args(hint)
    if origin is Literal:
        return isinstance(value, str) and value in options
    if origin in (UnionType, Union):
        return any(_fits(value, one) for one in options)
    if origin is list:
        return isinstance(value, list) and all(_fits(one, options[0]) for one in value)
    return _SCALARS[hint](value)


@dataclass(frozen=True)
class AttackSummary:
    """What an attack did to a victim, in the figures TextAttack reports."""

    texts: int
    successes: int
    failures: int
    maximized: int
    skipped: int
    accuracy: float
    accuracy_under_attack: float
    success_rate: float
    words_changed_percent: float
    queries: float


def summarise(rows: Sequence[AdversarialRow]) -> AttackSummary:
    """Counts and rates of a set of rows.

    Words changed are averaged over successes, queries over attacked (not skipped) texts; a mean over nothing
    is NaN.

    Raises:
        DataError: There are no rows.
    """
    if not rows:
        raise DataError("there are no adversarial rows to summarise.")
    successes = [row for row in rows if row.result == "success"]
    count = Counter(row.result for row in rows)
    attacked = len(rows) - count["skipped"]
    return AttackSummary(
        texts=len(rows),
        successes=count["success"],
        failures=count["failure"],
        maximized=count["maximized"],
        skipped=count["skipped"],
        accuracy=sum(row.original_output == row.label for row in rows) / len(rows),
        accuracy_under_attack=sum(row.perturbed_output == row.label for row in rows) / len(rows),
        success_rate=count["success"] / attacked if attacked else float("nan"),
        words_changed_percent=_mean([row.words_changed_percent for row in successes]),
        queries=_mean([row.queries for row in rows if row.result != "skipped"]),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def _schema() -> Any:
    import pyarrow as pa

    probabilities = pa.list_(pa.float64())
    types = {
        "index": pa.int64(),
        "label": pa.int64(),
        "changed_positions": pa.list_(pa.int32()),
        "original_output": pa.int64(),
        "perturbed_output": pa.int64(),
        "original_score": pa.float64(),
        "perturbed_score": pa.float64(),
        "original_probabilities": probabilities,
        "perturbed_probabilities": probabilities,
        "min_confidence": pa.float64(),
        "queries": pa.int64(),
        "words_changed_percent": pa.float64(),
        "seed": pa.int64(),
        "target_class": pa.int64(),
        "query_limit": pa.int64(),
        "seconds_limit": pa.float64(),
    }
    return pa.schema([(name, types.get(name, pa.string())) for name in COLUMNS])
