"""The result row: what one evaluation found, in one immutable file named after its content.

    <leaderboard>/results/<board>/<id>.json

Nothing is ever appended to a shared file, so any number of processes and machines add rows without a lock,
and two leaderboards merge by copying files. The id is a hash of everything that the work decides; timings, the
name of the run and how it was made stay outside it, so the same work done twice is one row and the first file stays.
"""

from __future__ import annotations

import functools
import json
import math
import numbers
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.errors import DataError, UnknownNameError
from harness.core.files import disk_errors, fsync_folder, hash_json, write_json

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

Row = dict[str, Any]

# Each has its schema in `schemas/<board>.json`.
BOARDS = ("detection", "ssl")
SCHEMA_VERSION = 1
# The threshold is chosen on the scored texts themselves, where there is one.
ORACLE_METRICS: tuple[str, ...] = (
    "auc",
    "aupr",
    "tpr_at_fpr_1",
    "tpr_at_fpr_5",
    "tpr_at_fpr_10",
    "fpr_at_tpr_95",
    "f1_at_fpr_10",
)
# The threshold is chosen on held-out clean texts; null where there were none or too few.
HELDOUT_METRICS: tuple[str, ...] = (
    "heldout_tpr_1",
    "heldout_tpr_5",
    "heldout_tpr_10",
    "realised_fpr_1",
    "realised_fpr_5",
    "realised_fpr_10",
    "heldout_f1_10",
)
DETECTION_METRICS = ORACLE_METRICS + HELDOUT_METRICS

_ID_LENGTH = 16
_NOT_IN_ID = ("id", "cost", "run", "provenance")
_OF_MANIFEST = ("finished", "wall_seconds", "versions", "git", "hardware", "outputs")
_LONGEST_REASON = 300
# A bound and its value come from two formulas, which may round a little differently.
_ROUNDING = 1e-9


def finish_row(row: Mapping[str, Any]) -> Row:
    """Completes a row with `schema`, `board` and `id`, and checks it.

    Finishing a finished row changes nothing. The row given is left as it is.

    Args:
        row: The other keys of its board's schema; without `board` it is a row of the detection board. NaN
            becomes null, tuples lists, NumPy numbers plain.

    Returns:
        A row that can be written.

    Raises:
        DataError: The row breaks the schema, holds what JSON cannot, or has an id that is not its own; the
            message gives the JSON path.
    """
    board = row.get("board", BOARDS[0])
    if board not in BOARDS:
        raise DataError(f"$.board: {board!r} is not one of {', '.join(BOARDS)}.")
    finished = _normal({"schema": SCHEMA_VERSION, "board": board, **row}, board)
    own = _content_id(finished)
    finished.setdefault("id", own)
    _validate(finished, board)
    if finished["id"] != own:
        raise DataError(
            f"$.id: {finished['id']} is not the id of this row, which is {own}.",
            "Leave the id out; it is computed.",
        )
    return finished


def with_provenance(row: Mapping[str, Any], manifest: Mapping[str, Any]) -> Row:
    """A finished row together with the command and the manifest of the run that made it.

    Args:
        row: A finished row.
        manifest: The run's manifest; where it holds no command line, the row is left as it is.

    Returns:
        The row with `provenance`. What the manifest says of local paths, such as where a dataset lay, is left out.
    """
    if "command_line" not in manifest:
        return dict(row)
    kept = {key: manifest[key] for key in _OF_MANIFEST if key in manifest}
    return {**row, "provenance": {"command": manifest["command_line"], "manifest": kept}}


def write_row(leaderboard: Path, row: Mapping[str, Any]) -> Path:
    """Writes a row to its own file, atomically; a file that is already there is left as it is.

    Args:
        leaderboard: The folder that holds `results/`; made when it is not there.
        row: A row as `finish_row` takes or gives it.

    Returns:
        The row's file.

    Raises:
        DataError: As `finish_row`.
        DiskFullError: The device is full; nothing is left behind.
    """
    finished = finish_row(row)
    path = _folder(leaderboard, finished["board"]) / f"{finished['id']}.json"
    if path.exists():
        return path
    # A rename would replace the file of a process that came first with other timings; a hard link never does.
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex}.staged")
    try:
        write_json(staged, finished)
        with disk_errors(path):
            try:
                os.link(staged, path)
            except FileExistsError:
                pass
            except OSError:  # a file system without hard links
                os.replace(staged, path)
        fsync_folder(path.parent)
    finally:
        staged.unlink(missing_ok=True)
    return path


def read_rows(leaderboard: Path, board: str) -> list[Row]:
    """Reads and checks every row of a board.

    Args:
        leaderboard: The folder that holds `results/`; no rows are no error.
        board: Name of the board.

    Returns:
        The rows in order of their ids.

    Raises:
        DataError: A file is damaged: no JSON, against the schema, or not the content that its name promises.
        UnknownNameError: There is no such board.
    """
    return [read_row(path, board) for path in row_files(leaderboard, board)]


def row_files(leaderboard: Path, board: str) -> list[Path]:
    """The files of a board's rows, in order of their names and unread.

    Args:
        leaderboard: The folder that holds `results/`.
        board: Name of the board.

    Returns:
        The paths; files whose names begin with a dot are half-written and not among them.

    Raises:
        UnknownNameError: There is no such board.
    """
    return sorted(path for path in _folder(leaderboard, board).glob("*.json") if path.name[0] != ".")


def _folder(leaderboard: Path, board: str) -> Path:
    if board not in BOARDS:
        raise UnknownNameError("board", board, BOARDS)
    return Path(leaderboard) / "results" / board


def read_row(path: Path, board: str) -> Row:
    """Reads and checks one row.

    Args:
        path: Its file, which is named after its content.
        board: Name of the board that it must belong to.

    Returns:
        The row.

    Raises:
        DataError: The file is damaged, was edited, or was made by a newer version.
        UnknownNameError: There is no such board.
    """
    if board not in BOARDS:
        raise UnknownNameError("board", board, BOARDS)
    try:
        # Python's parser takes NaN and Infinity, which are not JSON and are never written.
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        if not isinstance(value, dict):
            raise DataError("$: it is not an object.")
        version = value.get("schema")
        if type(version) is int and version > SCHEMA_VERSION:
            # What else is in it may be right, and this version could not tell.
            raise _NewerError(
                f"{path} was made by a newer version: its schema is {version}, and this one knows {SCHEMA_VERSION}.",
                "Update palimpsest.",
            )
        row = _normal(value, board)
        _validate(row, board)
        own = _content_id(row)
        if row["id"] != own:
            raise DataError(f"$.id: the content belongs to {own}, so it was changed after it was written.")
        if path.stem != own:
            raise DataError(f"the content belongs to {own}.json.")
    except _NewerError as error:
        raise DataError(error.message, error.hint) from None
    except (DataError, ValueError, OSError, RecursionError, OverflowError) as error:
        reason = error.message if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
        raise DataError(
            f"{path} is not a sound result row: {reason}",
            "Rows are never edited; restore the file, or delete it and run the evaluation again.",
        ) from error
    return row


class _NewerError(DataError):
    """The row's schema is one of a later version."""


def _refuse_constant(name: str) -> None:
    raise DataError(f"{name} is not JSON.")


def _content_id(row: Row) -> str:
    try:
        return hash_json({key: value for key, value in row.items() if key not in _NOT_IN_ID})[:_ID_LENGTH]
    except UnicodeEncodeError as error:
        raise DataError(f"$: a text in it is not Unicode ({error.reason}).") from error


def _normal(row: Mapping[str, Any], board: str) -> Row:
    """The row in the one form that is hashed and written: 1 and 1.0 must not give two ids."""
    schema = _schema(board)
    normal: Row = _typed(_plain(row, "$"), schema, schema)
    return normal


def _typed(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    """The value with each number of the type that the schema names for its place; others stay as they are."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    if isinstance(value, dict):
        places, others = schema.get("properties", {}), schema.get("additionalProperties", {})
        others = others if isinstance(others, dict) else {}
        return {key: _typed(item, places.get(key, others), root) for key, item in value.items()}
    if isinstance(value, list):
        return [_typed(item, schema.get("items", {}), root) for item in value]
    types = schema.get("type", ())
    if type(value) is int and "number" in types:
        return float(value)
    if isinstance(value, float) and value.is_integer() and "integer" in types:
        return int(value)
    return value


def _plain(value: Any, path: str) -> Any:
    """A JSON value of plain Python types; NaN becomes None and minus zero becomes zero."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        number = float(value)
        if math.isinf(number):
            raise DataError(f"{path}: {number} is not a JSON number.")
        return None if math.isnan(number) else number + 0.0
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise DataError(f"{path}: the key {key!r} is not a string.")
        return {str(key): _plain(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{path}[{index}]") for index, item in enumerate(value)]
    raise DataError(f"{path}: JSON cannot hold a {type(value).__name__}.")


@functools.cache
def _schema(board: str) -> dict[str, Any]:
    from importlib import resources

    text = resources.files("harness.core").joinpath("schemas", f"{board}.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


@functools.cache
def _validator(board: str) -> Draft202012Validator:
    from jsonschema import Draft202012Validator

    # Most of the time would go into following the same few references again and again.
    schema: dict[str, Any] = _inlined(_schema(board), _schema(board))
    return Draft202012Validator(schema)


def _inlined(value: Any, root: Mapping[str, Any]) -> Any:
    """The schema with each reference replaced by what it refers to."""
    if isinstance(value, list):
        return [_inlined(item, root) for item in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        value = {**root["$defs"][value["$ref"].removeprefix("#/$defs/")], **value}
        del value["$ref"]
    return {key: _inlined(item, root) for key, item in value.items()}


def _validate(row: Row, board: str) -> None:
    errors = sorted(_validator(board).iter_errors(row), key=lambda error: (error.json_path, error.message))
    if errors:
        message = errors[0].message
        # The library quotes the offending value in full, which may be the whole row.
        if len(message) > _LONGEST_REASON:
            message = f"... {message[-_LONGEST_REASON:]}"
        more = f" ({len(errors) - 1} more)" if len(errors) > 1 else ""
        raise DataError(f"{errors[0].json_path}: {message}{more}.")
    if board == "ssl":
        _check_readings(row)


def _check_readings(row: Row) -> None:
    """What the schema of the SSL board cannot say: nothing is read twice, and intervals hold their values."""
    for name, keys in (("readings", ("protocol", "layer", "pooling")), ("layers", ("layer",))):
        first: dict[tuple[Any, ...], int] = {}
        for index, entry in enumerate(row[name]):
            same = first.setdefault(tuple(entry[key] for key in keys), index)
            if same != index:
                raise DataError(f"$.{name}[{index}]: it has the same {', '.join(keys)} as $.{name}[{same}].")
    for index, reading in enumerate(row["readings"]):
        low, value, high = (reading["top1"][key] for key in ("low", "value", "high"))
        if (low is not None and low > value + _ROUNDING) or (high is not None and high < value - _ROUNDING):
            raise DataError(f"$.readings[{index}].top1: {value} is not within {low} and {high}.")
