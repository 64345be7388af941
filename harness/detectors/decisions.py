"""Decisions with a promise: a fitted detector, calibrated on clean texts, flags at a promised false-positive rate.

The calibration is a second artefact beside the detector: the sorted scores of the calibration texts as safetensors,
what they are and what is promised as JSON, bound to the very detector by its hash. What is promised, and what not,
stands in docs/decisions.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.conformal import conformal_p_values, flag_rank, texts_needed, threshold_at_fpr
from harness.core.errors import ConfigurationError, DataError
from harness.core.files import atomic_writer, hash_file, read_json, write_json
from harness.core.runs import versions
from harness.core.tensors import read_arrays
from harness.detectors.base import Detector, Floats
from harness.detectors.clean_texts import CleanTexts
from harness.detectors.fitting import DETECTOR_FILE, STATE_FILE
from harness.detectors.scoring import score_with_cost
from harness.text.reading import read_texts
from harness.text.seen_texts import SEEN_FILE, text_keys
from harness.text.victims import Victim

CALIBRATION_FILE, CALIBRATION_SCORES = "calibration.json", "calibration.safetensors"
ADVERSARIAL, CLEAN = "adversarial", "clean"
_FORMAT = 1
_MOST_FACTS = 2**20  # bytes


@dataclass(frozen=True, eq=False)
class Calibration:
    """Scores of clean texts and the promise that they carry.

    Attributes:
        scores: (m,) float64, ascending.
        fpr: The false-positive rate promised.
        confidence: None for a promise in expectation over calibration and new texts; else the probability over the
            draw of calibration texts with which the rate given them is kept.
        facts: What the texts are: dataset, split, hash, how many were left out and how many were cut; JSON-able.
    """

    scores: Floats
    fpr: float
    confidence: float | None
    facts: dict[str, Any]

    @property
    def threshold(self) -> float:
        """A score above it is flagged; infinity where nothing can be flagged."""
        return threshold_at_fpr(self.scores, self.fpr, self.confidence)

    @property
    def can_flag(self) -> bool:
        """Whether there are texts enough for anything to be flagged."""
        return flag_rank(len(self.scores), self.fpr, self.confidence) is not None

    def p_values(self, scores: Floats) -> Floats:
        """(n,) split-conformal p-values of n scores."""
        return conformal_p_values(self.scores, scores)

    def flags(self, scores: Floats) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """(n,) True where a score is flagged."""
        return np.asarray(scores > self.threshold, dtype=np.bool_)

    def decide(self, scores: Floats) -> list[dict[str, Any]]:
        """For each of n scores its `p_value` and its `decision`, `adversarial` or `clean`."""
        return [
            {"p_value": float(p), "decision": ADVERSARIAL if flag else CLEAN}
            for p, flag in zip(self.p_values(scores), self.flags(scores), strict=True)
        ]

    def promise(self) -> str:
        """What is promised, in one line; where nothing can be flagged, that."""
        m = len(self.scores)
        if not self.can_flag:
            sure = "" if self.confidence is None else f" with confidence {self.confidence:g}"
            return (
                f"nothing can be flagged: a false-positive rate of {self.fpr:g}{sure} takes at least "
                f"{texts_needed(self.fpr, self.confidence)} calibration texts, there are {m}."
            )
        flagged = f"flagged are scores above {self.threshold:.6g}:"
        if self.confidence is None:
            return (
                f"{flagged} over draws of calibration and new clean texts like them, the expected false-positive rate "
                f"is at most {self.fpr:g}."
            )
        return (
            f"{flagged} with probability {self.confidence:g} over the draw of the {m} calibration texts, the "
            f"false-positive rate on new clean texts like them is at most {self.fpr:g}."
        )


def check_promise(fpr: float, confidence: float | None) -> None:
    """Refuse a rate or a confidence that nothing can keep.

    Raises:
        ConfigurationError: One of them is not above 0 and below 1.
    """
    for name, value in (("--fpr", fpr), ("--confidence", confidence)):
        if value is not None and not 0 < value < 1:
            raise ConfigurationError(f"{name} {value:g} is not above 0 and below 1.", "Give a share such as 0.05.")


def score_texts(detector: Detector, victim: Victim, texts: Sequence[str], *, what: str) -> tuple[Floats, int]:
    """Scores of n texts by a fitted detector, and how many texts were cut. What was computed once is kept.

    Args:
        detector: Fitted.
        victim: The one it was fitted on.
        texts: n texts.
        what: What the progress bar says.
    """
    attached = detector.attach(victim)
    outputs = read_texts(victim, texts, attached.layers, what=what).outputs
    return score_with_cost(attached, victim, outputs).values, outputs.truncated


def calibrate(
    detector: Detector, victim: Victim, texts: CleanTexts, *, fpr: float, confidence: float | None = None
) -> Calibration:
    """Score calibration texts.

    Args:
        detector: Fitted.
        victim: The one it was fitted on.
        texts: Clean texts that neither of them has seen.
        fpr: The false-positive rate to promise.
        confidence: None for a promise in expectation, see `Calibration`.

    Raises:
        ConfigurationError: A number is out of range.
        DataError: The detector gave a NaN.
    """
    check_promise(fpr, confidence)
    scores, truncated = score_texts(detector, victim, texts.texts, what="reading calibration texts")
    facts = {
        "dataset": texts.name,
        "split": texts.split,
        "texts_hash": texts.hash,
        "texts": len(texts.texts),
        "left_out": texts.left_out,
        "repeats": len(texts.texts) - len(np.unique(text_keys(texts.texts))),
        "truncated": truncated,
    }
    return Calibration(np.sort(scores), fpr, confidence, facts)


def save_calibration(folder: Path, calibration: Calibration) -> None:
    """Write a calibration beside its detector; the JSON comes last and makes it whole."""
    from safetensors.numpy import save

    with atomic_writer(folder / CALIBRATION_SCORES) as handle:
        handle.write(save({"scores": np.ascontiguousarray(calibration.scores)}))
    write_json(
        folder / CALIBRATION_FILE,
        {
            **calibration.facts,
            "format": _FORMAT,
            "fpr": calibration.fpr,
            "confidence": calibration.confidence,
            "threshold": calibration.threshold if math.isfinite(calibration.threshold) else None,
            "scores_sha256": hash_file(folder / CALIBRATION_SCORES),
            "detector_sha256": hash_file(folder / DETECTOR_FILE),
            "versions": versions(),
        },
    )


def load_calibration(folder: Path) -> Calibration | None:
    """Read the calibration beside a detector; None where it is not calibrated.

    Raises:
        ConfigurationError: It was written by another version, or made of another fit of the detector.
        DataError: It is damaged.
    """
    path = folder / CALIBRATION_FILE
    if not path.is_file():
        return None
    again = f"Calibrate again: harness detect calibrate {folder} --calibration DATA."
    facts = read_json(path, most=_MOST_FACTS)
    if not isinstance(facts, dict) or facts.get("format") != _FORMAT:
        found = facts.get("format") if isinstance(facts, dict) else None
        raise ConfigurationError(f"{path} is a calibration of format {found}, this reads {_FORMAT}.", again)
    state = folder / CALIBRATION_SCORES
    if not state.is_file() or hash_file(state) != facts.get("scores_sha256"):
        raise DataError(f"{state} is missing or damaged.", again)
    if hash_file(folder / DETECTOR_FILE) != facts.get("detector_sha256"):
        raise ConfigurationError(f"the calibration in {folder} is of another fit than the detector there.", again)
    try:
        check_promise(float(facts["fpr"]), facts["confidence"])
        scores = read_arrays(state)["scores"]
        if scores.dtype != np.float64 or scores.ndim != 1 or not len(scores) or (np.diff(scores) < 0).any():
            raise ValueError("its scores are no ascending numbers")
        if np.isnan(scores).any():
            raise ValueError("a score is NaN")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path} is damaged: {error}.", again) from error
    found = Calibration(scores, float(facts["fpr"]), facts["confidence"], facts)
    if facts.get("threshold") != (found.threshold if math.isfinite(found.threshold) else None):
        raise DataError(f"{path} is damaged: its threshold is not that of its scores.", again)
    return found


def new_folder(detector: Path, out: Path | None) -> Path | None:
    """Where a calibrated copy of a detector will be; None where it is calibrated in its own folder.

    Args:
        detector: The detector's folder, or `hub:ORG/NAME`, which is nobody's to write into.
        out: The folder that was asked for.

    Raises:
        ConfigurationError: One is needed, or it holds something.
    """
    if out is None and str(detector).startswith("hub:"):
        raise ConfigurationError(
            f"{detector} is not on this machine, so its calibration needs a place.", "Name a new folder with --out."
        )
    if out is not None and (out.is_file() or (out.is_dir() and any(out.iterdir()))):
        raise ConfigurationError(f"{out} is not an empty folder.", "Give a new name as --out.")
    return out


def copy_detector(folder: Path, out: Path) -> None:
    """Copy a fitted detector without its calibration; the description comes last and makes it whole."""
    for name in (STATE_FILE, SEEN_FILE, DETECTOR_FILE):
        if (folder / name).is_file():
            with atomic_writer(out / name) as handle:
                handle.write((folder / name).read_bytes())
