"""From the run folder of a fitted detector to the folder that a push sends: what loads and scores, and a model card.

Exactly what `load_detector`, `load_calibration` and `load_seen` need leaves, written anew: no configuration, log or
timing, nothing of the machine, and no path. What is written is read back by the same functions as a run folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.cards import render_card, repository
from harness.core.errors import ConfigurationError
from harness.core.files import atomic_writer, hash_file, write_json, write_text
from harness.core.loading import is_hub_id
from harness.core.runs import read_run
from harness.core.staging import empty_folder
from harness.detectors.base import Arrays, Detector
from harness.detectors.clean_texts import load_seen
from harness.detectors.decisions import CALIBRATION_FILE, CALIBRATION_SCORES, Calibration, load_calibration
from harness.detectors.fitting import DETECTOR_FILE, STATE_FILE, load_detector
from harness.detectors.joint_detector import JointDetector
from harness.detectors.other_model import OtherModelDetector
from harness.detectors.pairing import check_facts
from harness.text.seen_texts import save_seen
from harness.text.victims import VICTIMS

CARD = "README.md"
_FACTS = (
    *("format", "detector", "detector_version", "parameters", "add_on", "versions"),
    *("victim", "victim_hash", "max_length", "dtype"),
    *("dataset", "dataset_hash", "dataset_split", "dataset_id", "train_rows", "seed", "truncated"),
    *("corpus_rows", "corpus_hash"),
    *("tuned_on", "members", "tuning_texts", "other_model_hash"),
)
_CALIBRATION = (
    *("format", "fpr", "confidence", "threshold", "scores_sha256", "versions"),
    *("dataset", "split", "texts_hash", "texts", "left_out", "repeats", "truncated"),
)


@dataclass(frozen=True, eq=False)
class _Fitted:
    """What a run folder holds, checked and read."""

    detector: Detector
    facts: dict[str, Any]
    calibration: Calibration | None
    seen: np.ndarray[Any, np.dtype[np.uint64]] | None

    @property
    def source(self) -> str | None:
        """Where anybody finds the victim: a name of our own or a hub id; None for a folder of this machine."""
        source = self.facts.get("victim_source")
        return source if isinstance(source, str) and (source in VICTIMS or is_hub_id(source)) else None


def stage_detector(run: Path, staging: Path, *, repo: str | None = None) -> list[str]:
    """Write what may leave of a fitted detector into an empty folder, which `load_detector` reads.

    Args:
        run: A finished run folder of `harness detect fit` or `harness detect joint`, calibrated or not.
        staging: An empty folder, or one to be made.
        repo: `ORG/NAME`, for the commands on the card.

    Returns:
        The names of the files, sorted.

    Raises:
        ConfigurationError: It is no such run, the folder is not empty, or the detector reads a model or file of this
            machine that nobody else has.
        HarnessError: The run is damaged.
    """
    run, staging = Path(run), Path(staging)
    repo = repository(repo)
    read_run(run, "detect")
    detector, facts = load_detector(run)
    check_facts(run, facts)
    calibration = load_calibration(run)
    seen = load_seen(run, facts) if "seen_sha256" in facts else None
    for member in _members(detector):
        _refuse_local(member)
    found = _Fitted(detector, facts, calibration, seen)
    card = _card(found, repo)
    with empty_folder(staging):
        _write(found, staging)
        write_text(staging / CARD, card)
    return sorted(path.name for path in staging.iterdir())


def _write(found: _Fitted, staging: Path) -> None:
    facts = {key: found.facts[key] for key in _FACTS if key in found.facts} | {"victim_source": found.source}
    facts["versions"] = _public(facts.get("versions"))
    facts["state_sha256"] = _save(staging / STATE_FILE, found.detector.arrays())
    if found.seen is not None:
        facts["seen_sha256"] = save_seen(staging, found.seen)
    write_json(staging / DETECTOR_FILE, facts)
    if found.calibration is not None:
        told = {key: found.calibration.facts[key] for key in _CALIBRATION if key in found.calibration.facts}
        told["versions"] = _public(told.get("versions"))
        told["scores_sha256"] = _save(staging / CALIBRATION_SCORES, {"scores": found.calibration.scores})
        # A calibration is bound to the very file that describes its detector, and that is another one here.
        write_json(staging / CALIBRATION_FILE, {**told, "detector_sha256": hash_file(staging / DETECTOR_FILE)})


def _save(path: Path, arrays: Arrays) -> str:
    from safetensors.numpy import save

    with atomic_writer(path) as handle:
        handle.write(save({name: np.ascontiguousarray(values) for name, values in arrays.items()}))
    return hash_file(path)


def _public(versions: Any) -> dict[str, str]:
    """Versions without local labels such as +cpu, which are of the machine."""
    found = versions if isinstance(versions, dict) else {}
    return {str(name): re.sub(r"\+.*", "", str(version)) for name, version in found.items()}


def _members(detector: Detector) -> list[Detector]:
    return list(detector.members) if isinstance(detector, JointDetector) else [detector]


def _refuse_local(detector: Detector) -> None:
    """Refuse a detector that reads what lies on this machine alone.

    Raises:
        ConfigurationError: It does; what it reads is told by name.
    """
    name = detector.info.name
    if isinstance(detector, OtherModelDetector) and detector.spec is None:
        raise ConfigurationError(
            f"the detector {name!r} reads a {detector.kind} that was made on this machine, which nobody else has.",
            f"Publish that model, and fit the detector with {detector.parameter}= its hub id.",
        )
    for parameter, value in detector.parameters().items():
        for text in _texts(value):
            if _is_local(text):
                raise ConfigurationError(
                    f"the parameter {parameter} of the detector {name!r} names a file or folder of this machine "
                    f"({Path(text).name}), which nobody else has.",
                    "Publish what it names, and fit the detector with its hub id.",
                )


def _texts(value: Any) -> Iterator[str]:
    """All strings in a JSON-able value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.items():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _is_local(text: str) -> bool:
    if "/" not in text and "\\" not in text and not text.startswith("~"):
        return False  # a word; nothing here takes a bare name for a folder before it takes it for a name
    return not is_hub_id(text) or Path(text).exists()


def _card(found: _Fitted, repo: str) -> str:
    detector, facts, info = found.detector, found.facts, found.detector.info
    source = found.source
    built_in = source is not None and source in VICTIMS
    members = _members(detector) if isinstance(detector, JointDetector) else []
    arrays = {name.rpartition(".")[2] for name in detector.arrays()}
    calibration = found.calibration
    header = {
        "library_name": "palimpsest",
        "license": "unknown",
        "tags": ["palimpsest", "adversarial-text-detection", "text-classification", info.name],
        "datasets": [facts["dataset_id"]] if is_hub_id(facts.get("dataset_id")) else None,
        "base_model": source if source and not built_in else None,
    }
    own = {key: value for key, value in detector.parameters().items() if key != "members"}
    return render_card(
        "harness.detectors",
        "model_card.md.j2",
        header,
        title=info.title,
        repo=repo,
        detector={
            **{key: getattr(info, key) for key in ("name", "title", "paper", "reads", "cost", "adversarial_texts")},
            "per_word": re.search(r"\bL\b", info.cost) is not None,
        },
        parameters=[(name, json.dumps(value, ensure_ascii=False)) for name, value in sorted(own.items())],
        members=[
            (member.info.name, json.dumps(member.parameters(), ensure_ascii=False, sort_keys=True))
            for member in members
        ],
        cited=[member.info for member in members],
        fit={
            **{key: facts.get(key) for key in ("train_rows", "dataset", "dataset_hash", "seed", "tuning_texts")},
            "tuned_on": facts.get("tuned_on"),
            "split": facts.get("dataset_split"),
        },
        versions=", ".join(f"{name} {version}" for name, version in _public(facts.get("versions")).items()),
        victim={
            "name": facts["victim"],
            "hash": facts["victim_hash"],
            "max_length": facts["max_length"],
            "dtype": facts["dtype"],
            "source": source,
            "built_in": built_in,
            "loadable": source,
        },
        calibration=calibration
        and {
            "texts": len(calibration.scores),
            "title": " ".join(str(calibration.facts.get(key) or "") for key in ("dataset", "split")).strip(),
            "promise": calibration.promise(),
        },
        holds={
            "words": "words" in arrays,
            "features": "reference" in arrays,
            "seen": found.seen is not None,
        },
    )
