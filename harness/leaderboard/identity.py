"""What makes two rows comparable: what they are named after, and the sample and encoder they are about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.core.files import canonical_json
from harness.core.rows import Row
from harness.leaderboard.sheets import LATER_KEYS

_NAMES = {
    "detection": ("dataset", "recipe", "goal", "victim", "detector", "scenario"),
    "ssl": ("objective", "self_distill", "arch", "train_dataset", "eval_dataset"),
}
# Beside the names, what must be equal before a mean over seeds says anything.
_SAMPLE: dict[str, tuple[tuple[str, ...], ...]] = {
    "detection": (
        *(("sampling", key) for key in ("rule", "target", "validation_fraction", "dear_texts")),
        ("attack", "rows_hash"),
        ("victim", "hash"),
    ),
    "ssl": (
        *(("encoder", key) for key in ("preset", "epochs", "steps", "batch_size", "train_images", "norm", "arguments")),
        ("data", "hashes"),
    ),
}
# Found by the work, not decided before it: another machine may round them otherwise.
_OUTCOMES = (("calibration", "thresholds"), ("detector", "parameters"), ("linear", "chosen"), ("cka",), ("corrupt",))


def names(row: Row) -> dict[str, Any]:
    """What a row's work is called, without its seed; an encoder of unknown training has its own name."""
    found = {key: row.get(key, LATER_KEYS.get(key)) for key in _NAMES[row["board"]]}
    if row["board"] == "ssl" and row["objective"] is None:
        found["encoder"] = row["encoder"]
    return found


def sample(row: Row) -> str:
    """What else must be equal in rows that are averaged over seeds or compared: texts or images, and encoder."""
    facts = [dig(row["protocol"], *path) for path in _SAMPLE[row["board"]]]
    if row["board"] == "ssl":
        facts += [row["n_train"], row["n_test"]]
    return canonical_json(facts).decode()


def settings(row: Row) -> dict[str, Any]:
    """The row's protocol without what the work itself found."""
    found = dict(row["protocol"])
    for first, *rest in _OUTCOMES:
        if not rest:
            found.pop(first, None)
        elif isinstance(found.get(first), dict):
            found[first] = {key: value for key, value in found[first].items() if key not in rest}
    return found


def dig(value: Any, *path: str) -> Any:
    """What lies at a path of keys; None where something on the way is missing or no object."""
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
