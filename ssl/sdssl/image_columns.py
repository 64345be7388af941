"""Which column of a table holds the images and which the classes, and the classes as numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harness.core.errors import DataError
from sdssl.image_stores import holds_images

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")
# No task has so many classes; a label beyond it is an id or a measurement in the wrong column.
MAX_LABEL = 2**31 - 1


def choose_columns(
    schema: pa.Schema, where: str, image_column: str | None = None, label_column: str | None = None
) -> tuple[str, str | None]:
    """The image and the label column of a table.

    Args:
        schema: The table's schema.
        where: What is read, for messages.
        image_column: The one that is asked for; by default "image", else "img", else the only one that `datasets`
            noted as images.
        label_column: The one that is asked for; by default "label", else "labels", else "fine_label", else none.

    Raises:
        DataError: There is no such column, or the image column cannot hold images.
    """
    features = _features(schema)
    noted = [name for name in schema.names if isinstance(f := features.get(name), dict) and f.get("_type") == "Image"]
    usual = (*IMAGE_COLUMNS, *(noted if len(noted) == 1 else ()))
    image = next((name for name in ([image_column] if image_column else usual) if name in schema.names), None)
    if image is None:
        raise _missing(schema, where, image_column, "image", IMAGE_COLUMNS)
    if not holds_images(schema.field(image).type):
        raise DataError(
            f"{where} holds {schema.field(image).type} in column {image!r}, not encoded images.",
            "It must hold bytes of image files, or structs {bytes, path}; name the right one with --image-column.",
        )
    label = next((name for name in ([label_column] if label_column else LABEL_COLUMNS) if name in schema.names), None)
    if label is None and label_column is not None:
        raise _missing(schema, where, label_column, "label", LABEL_COLUMNS)
    return image, label


def _missing(schema: pa.Schema, where: str, asked: str | None, role: str, usual: Sequence[str]) -> DataError:
    wanted = f"column {asked!r}" if asked else f"{role} column ({' or '.join(usual)})"
    there = ", ".join(repr(name[:40]) for name in schema.names[:20]) or "none"
    return DataError(f"{where} has no {wanted}; its columns are {there}.", f"Name the right one with --{role}-column.")


def _features(schema: pa.Schema) -> dict[str, Any]:
    """The note that `datasets` leaves in a schema: what each column means."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}  # another tool's note under the same key
    return features if isinstance(features, dict) else {}


def class_names(schema: pa.Schema, column: str) -> list[str] | None:
    """The class names of a label column that `datasets` noted, or None."""
    feature = _features(schema).get(column)
    if not isinstance(feature, dict) or feature.get("_type") != "ClassLabel":
        return None
    names = feature.get("names")
    return [str(name) for name in names] if isinstance(names, list) else None


def read_labels(
    column: pa.ChunkedArray,
    names: Sequence[str] | None,
    where: str,
    name: str,
    train: Callable[[], pa.ChunkedArray] | None = None,
) -> tuple[NDArray[np.int64] | None, list[str] | None]:
    """Turn label cells into class numbers.

    Strings (also true and false) are class names, numbered in sorted order as in the train split.

    Args:
        column: (n,) label cells.
        names: The class names where the source knows them.
        where: What is read, for messages.
        name: The column's name, for messages.
        train: Gives the train split's cells, where this is another split; called only when cells are names.

    Returns:
        Labels, (n,) int64, and the class names or None. No labels at all where every cell is missing or -1, which is
        how unlabelled splits are written.

    Raises:
        DataError: Some labels are missing, negative, not whole, too large or of no class.
    """
    cells = column.to_pylist()
    if all(_is_missing(cell) or cell == -1 for cell in cells):
        return None, None
    if missing := [row for row, cell in enumerate(cells) if _is_missing(cell)]:
        raise DataError(
            f"{where} has {len(missing)} missing labels in column {name!r} "
            f"(first at row {missing[0]}, counted from 0).",
            "Fill or remove these rows.",
        )
    if isinstance(cells[0], str | bool):
        return _number_names(cells, where, name, train)
    for row, cell in enumerate(cells):
        problem = _problem(cell, names)
        if problem:
            raise DataError(
                f"{where} has a label {problem} in column {name!r}: {str(cell)[:40]} at row {row}, counted from 0.",
                "Labels count from 0; name the column that holds the classes with --label-column.",
            )
    return np.array(cells, dtype=np.int64), None if names is None else list(names)


def _is_missing(cell: Any) -> bool:
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def _problem(cell: Any, names: Sequence[str] | None) -> str:
    if not isinstance(cell, int | float) or not float(cell).is_integer():
        return "that is not a whole number"
    if cell < 0:
        return "below zero"
    if cell > MAX_LABEL:
        return "that is too large"
    return f"beyond its {len(names)} class names" if names is not None and cell >= len(names) else ""


def _number_names(
    cells: list[Any], where: str, name: str, train: Callable[[], pa.ChunkedArray] | None
) -> tuple[NDArray[np.int64], list[str]]:
    known = cells if train is None else [cell for cell in train().to_pylist() if cell is not None]
    order = sorted({str(cell) for cell in known})
    numbers = {label: number for number, label in enumerate(order)}
    unknown = sorted({str(cell) for cell in cells} - numbers.keys())
    if unknown:
        raise DataError(
            f"{where} has {len(unknown)} classes in column {name!r} that the train split lacks: "
            f"{', '.join(label[:40] for label in unknown[:5])}.",
            "Use the same class names in all splits.",
        )
    return np.array([numbers[str(cell)] for cell in cells], dtype=np.int64), order
