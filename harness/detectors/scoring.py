"""Score texts with a fitted detector and say what it cost; costly scores are kept."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import DataError
from harness.core.files import cache_folder, hash_json, hash_strings
from harness.core.runs import versions
from harness.core.scores import Cost, Scores, stored_scores
from harness.detectors.base import Arrays, Detector, texts_of
from harness.detectors.registry import DETECTORS
from harness.text.victims import Victim, VictimOutputs

_CHEAP = ("probabilities", "features")


def score(detector: Detector, outputs: VictimOutputs) -> NDArray[np.float64]:
    """Scores of a detector, checked for shape and NaN.

    Raises:
        DataError: The detector gave a NaN; it is named.
    """
    if not len(outputs.probabilities):
        return np.zeros(0)
    scores = np.asarray(detector.score(outputs), dtype=np.float64)
    if scores.shape != (len(outputs.probabilities),) or np.isnan(scores).any():
        raise DataError(f"the detector {detector.info.name!r} gave NaN, or not one score a text.")
    return scores


def score_with_cost(detector: Detector, victim: Victim, outputs: VictimOutputs) -> Scores:
    """Scores of n texts, and what a text cost beyond the reading that gave `outputs`.

    Scores of detectors that ask more than `outputs` are kept in the user's cache folder, text by text.

    Args:
        detector: Fitted, and attached to `victim`.
        victim: Whose forwards are counted.
        outputs: What it says of the texts.
    """
    if detector.info.reads in _CHEAP:
        return _measured(detector, victim, outputs)
    key = {
        "detector": detector.info.name,
        "parameters": detector.facts(),
        "state": arrays_hash(detector.arrays()),
        "victim": victim.hash,
        "max_length": victim.max_length,
        "dtype": victim.dtype,
        "version": versions().get("palimpsest"),
    }
    if detector.info.version > 1:
        key["detector_version"] = detector.info.version
    parts = [detector, *getattr(detector, "members", ())]  # of a joint detector
    if added := [code for part in parts if (code := DETECTORS.add_on(part.info.name))]:
        key["add_ons"] = added
    return stored_scores(
        cache_folder("scores"),
        key,
        texts_of(outputs),
        lambda places: _measured(detector, victim, outputs.take(np.array(places))),
        what=f"scoring with {detector.info.name}",
    )


def _measured(detector: Detector, victim: Victim, outputs: VictimOutputs) -> Scores:
    before = (time.perf_counter(), victim.forwards, victim.backwards, detector.other_forwards)
    values = score(detector, outputs)
    after = (time.perf_counter(), victim.forwards, victim.backwards, detector.other_forwards)
    spent = Cost(*(float(b - a) for a, b in zip(before, after, strict=True)))
    return Scores(values, spent * (1 / max(1, len(values))))


def arrays_hash(arrays: Mapping[str, NDArray[np.generic]] | Arrays) -> str:
    """What identifies a fitted state: names, shapes, types and bytes of its arrays."""
    return hash_json(
        {
            name: [str(values.dtype), list(values.shape), hash_strings([np.ascontiguousarray(values).tobytes().hex()])]
            for name, values in sorted(arrays.items())
        }
    )
