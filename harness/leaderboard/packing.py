"""Result rows as compact JSON for the page: keys are written once a shape, equal parts once.

    {"pool": [part, ...], "shapes": [shape, ...], "rows": [packed, ...]}

A packed object is `[number of its shape, *leaves]`. A shape is the object with `0` where a leaf stands for itself and
`1` where the leaf is the number of a part in the pool; a part is a string or a packed object. `store.js` is the reader.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from harness.core.rows import Row

# The CSV has as many digits; the row's file has them all.
_DIGITS = 6
# Kept to the last digit: whoever runs an evaluation again needs them so. Their entries are parts of their own.
_EXACT = ("protocol", "provenance")
_PLAIN, _SHARED = 0, 1


def pack(rows: Sequence[Row]) -> dict[str, Any]:
    """Packs rows of any boards.

    Args:
        rows: JSON objects, whose keys may be in any order.

    Returns:
        A JSON value; it depends on nothing but the rows and their order.
    """
    packer = _Packer()
    packed = [packer.row(row) for row in rows]
    pool, shapes = ([stored for _, stored in known.values()] for known in (packer.pool, packer.shapes))
    return {"pool": pool, "shapes": shapes, "rows": packed}


class _Packer:
    """The pool and the shapes while rows come in, each by its JSON text."""

    def __init__(self) -> None:
        self.pool: dict[str, tuple[int, Any]] = {}
        self.shapes: dict[str, tuple[int, Any]] = {}

    def row(self, row: Row) -> list[Any]:
        leaves: list[Any] = []
        shape = {
            key: self._parts(row[key], leaves)
            if key in _EXACT and isinstance(row[key], Mapping)
            else self._leaf(_rounded(row[key]), leaves)
            for key in sorted(row)
        }
        return [_number(self.shapes, shape, shape), *leaves]

    def _parts(self, value: Mapping[str, Any], leaves: list[Any]) -> dict[str, Any]:
        return {key: self._leaf(value[key], leaves) for key in sorted(value)}

    def _leaf(self, value: Any, leaves: list[Any]) -> int:
        """Adds a value as one leaf: itself where it is a number, else its place in the pool."""
        if not isinstance(value, str | Mapping | list):
            leaves.append(value)
            return _PLAIN
        leaves.append(_number(self.pool, value, value if isinstance(value, str) else self._packed(value)))
        return _SHARED

    def _packed(self, value: Any) -> list[Any]:
        leaves: list[Any] = []
        shape = self._shape(value, leaves)
        return [_number(self.shapes, shape, shape), *leaves]

    def _shape(self, value: Any, leaves: list[Any]) -> Any:
        if isinstance(value, Mapping):
            return {key: self._shape(value[key], leaves) for key in sorted(value)}
        if isinstance(value, list):
            return [self._shape(item, leaves) for item in value]
        return self._leaf(value, leaves)


def _number(known: dict[str, tuple[int, Any]], value: Any, stored: Any) -> int:
    """The place of a value among those that are known, where it is added if it is new."""
    number, _ = known.setdefault(json.dumps(value, sort_keys=True), (len(known), stored))
    return number


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value
