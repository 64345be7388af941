"""The victim that a fitted detector belongs to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.core.devices import DTYPES
from harness.core.errors import DataError, VictimError
from harness.detectors.fitting import DETECTOR_FILE
from harness.text.victims import Victim

_SHA256 = re.compile(r"[0-9a-f]{64}")
_LONGEST = 2**20  # tokens


def check_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """Refuse facts of a fitted detector that do not say which victim it reads, and how.

    Raises:
        DataError: One is missing or of another type; it is named.
    """
    source, length, rows = (facts.get(key) for key in ("victim_source", "max_length", "train_rows"))
    sound = {
        "victim": _is_name(facts.get("victim")),
        "victim_hash": isinstance(facts.get("victim_hash"), str)
        and _SHA256.fullmatch(facts["victim_hash"]) is not None,
        "victim_source": source is None or _is_name(source),
        "max_length": type(length) is int and 0 < length <= _LONGEST,
        "dtype": facts.get("dtype") in DTYPES,
        "train_rows": type(rows) is int and rows >= 0,
        **{key: isinstance(facts.get(key), str) for key in ("dataset", "dataset_hash", "dataset_split")},
    }
    if wrong := [key for key, holds in sound.items() if not holds]:
        raise DataError(
            f"{folder / DETECTOR_FILE} is damaged: it has no {wrong[0]}, or one that is none.",
            "Fit the detector again.",
        )


def load_victim(folder: Path, facts: Mapping[str, Any], moved: str | None = None, batch_size: int = 32) -> Victim:
    """The victim that the detector in a folder was fitted on.

    Args:
        folder: The detector's folder.
        facts: Its facts.
        moved: Where the victim is, if not where the facts say.
        batch_size: Texts in one forward.

    Raises:
        DataError: The facts are damaged.
        VictimError: Nothing says where it is, or another one is there.
        HarnessError: It cannot be loaded.
    """
    check_facts(folder, facts)
    spec = moved or facts["victim_source"]
    if spec is None:
        raise VictimError(
            f"the detector in {folder} does not say where its victim {facts['victim']!r} is.",
            f"Name it with --victim; its hash begins with {facts['victim_hash'][:12]} (harness victim info).",
        )
    model = Victim.load(spec, max_length=facts["max_length"], dtype=facts["dtype"], batch_size=batch_size)
    if model.hash != facts["victim_hash"]:
        raise VictimError(
            f"the victim {spec} is not the one that the detector in {folder} was fitted on.",
            "Give the right one with --victim, or fit a detector on this one.",
        )
    return model


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and "\0" not in value
