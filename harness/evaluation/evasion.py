"""What an evasive attack has to know of a fitted detector: a scoring function, and the score it must not exceed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.core.conformal import threshold_at_fpr
from harness.core.errors import ConfigurationError, VictimError
from harness.detectors.clean_texts import load_seen
from harness.detectors.fitting import load_detector
from harness.detectors.scoring import score
from harness.text.datasets import TextDataset
from harness.text.seen_texts import text_keys
from harness.text.victims import Victim

# Clean texts that place the threshold, at most: more hardly move it.
CALIBRATION_TEXTS = 2000


def scoring_function(folder: Path, victim: Victim) -> Callable[[Sequence[str]], NDArray[np.float64]]:
    """A fitted detector as a function from n texts to (n,) scores, higher = more adversarial.

    Raises:
        VictimError: It was fitted on another victim, or on one that reads texts otherwise.
    """
    detector, facts = load_detector(folder)
    for key, now in (("victim_hash", victim.hash), ("max_length", victim.max_length), ("dtype", victim.dtype)):
        if facts[key] != now:
            raise VictimError(
                f"the detector in {folder} was fitted on another victim than {victim.name!r} (its {key} differs).",
                "Fit one on this victim: harness detect fit.",
            )
    detector.attach(victim)
    return lambda texts: score(detector, victim.read(texts, detector.layers))


def evasion_threshold(
    folder: Path, victim: Victim, split: TextDataset, attacked: TextDataset, *, fpr: float, seed: int
) -> tuple[float, str]:
    """The score that a given share of clean texts exceeds, from texts that are not attacked and that it has not seen.

    Args:
        folder: A fitted detector's folder.
        victim: The victim it was fitted on.
        split: The split the attacked texts come from; its other texts place the threshold.
        attacked: The texts to attack.
        fpr: Expected share of clean texts above the threshold.
        seed: Draws the texts, where there are more than `CALIBRATION_TEXTS`.

    Returns:
        The threshold, and what rows say of the detector as a JSON object.

    Raises:
        ConfigurationError: Too few texts are left for this rate, or the detector does not say which it has seen.
    """
    _, facts = load_detector(folder)
    taken = np.concatenate([text_keys(attacked.texts), load_seen(folder, facts)])
    free = np.flatnonzero(~np.isin(text_keys(split.texts), taken))
    rest = split.take(free) if len(free) else None
    clean = rest.sample(min(len(rest), CALIBRATION_TEXTS), seed) if rest else None
    scores = scoring_function(folder, victim)(clean.texts) if clean else np.zeros(0)
    threshold = threshold_at_fpr(scores, fpr) if len(scores) else np.inf
    if not np.isfinite(threshold):
        raise ConfigurationError(
            f"{len(scores)} clean texts are too few to place a threshold at a false-positive rate of {fpr}: "
            f"it takes texts of {split.name!r} ({split.split}) that are not attacked and that it has not seen.",
            "Attack fewer texts with --limit, or give the threshold with --evade-threshold.",
        )
    return float(threshold), evasion_facts(folder, float(threshold), fpr=fpr, texts=len(scores))


def evasion_facts(folder: Path, threshold: float, *, fpr: float | None = None, texts: int = 0) -> str:
    """What rows say of an evaded detector, as a JSON object."""
    detector, facts = load_detector(folder)
    return json.dumps(
        {
            "detector": detector.info.name,
            "parameters": detector.parameters(),
            "fitted_on": facts["dataset"],
            "train_rows": facts["train_rows"],
            "threshold": threshold,
            "fpr": fpr,
            "calibration_texts": texts,
        },
        sort_keys=True,
    )
