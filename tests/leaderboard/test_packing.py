from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from harness.leaderboard.packing import pack

SCALARS = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)
PARTS = st.dictionaries(st.sampled_from(["a", "b", "__proto__"]), VALUES, max_size=3)
ROWS = st.lists(st.fixed_dictionaries({"id": st.text(), "x": VALUES, "protocol": PARTS}), max_size=4)


def unpacked(packed: dict[str, Any]) -> list[Any]:
    """The rows again: what `store.js` does, told once more."""

    def expand(stored: Any) -> Any:
        if isinstance(stored, str):
            return stored
        leaves = iter(stored[1:])

        def build(shape: Any) -> Any:
            if isinstance(shape, dict):
                return {key: build(inner) for key, inner in shape.items()}
            if isinstance(shape, list):
                return [build(inner) for inner in shape]
            return expand(packed["pool"][next(leaves)]) if shape == 1 else next(leaves)

        return build(packed["shapes"][stored[0]])

    return [expand(row) for row in packed["rows"]]


@given(ROWS)
def test_rows_come_back_whole(rows: list[dict[str, Any]]) -> None:
    packed = json.loads(json.dumps(pack(rows)))
    assert json.dumps(unpacked(packed), sort_keys=True) == json.dumps(rows, sort_keys=True)


@given(ROWS)
def test_the_order_of_keys_does_not_show(rows: list[dict[str, Any]]) -> None:
    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: turned(value[key]) for key in reversed(value)}
        return [turned(item) for item in value] if isinstance(value, list) else value

    assert json.dumps(pack(turned(rows))) == json.dumps(pack(rows))


def test_equal_parts_are_kept_once_and_the_protocol_to_the_last_digit() -> None:
    long = 0.12345678901234567
    rows = [{"id": str(n), "x": {"value": long}, "protocol": {"rate": long, "deep": {"rate": long}}} for n in range(9)]
    packed = pack(rows)
    assert len(packed["pool"]) == 9 + 2
    assert len(packed["shapes"]) == 3
    assert unpacked(packed)[5] == {**rows[5], "x": {"value": 0.123457}}
