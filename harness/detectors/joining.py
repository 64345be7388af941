"""Join fitted detectors: tune on one half of clean texts, leave the other for the calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.errors import ConfigurationError, DataError, VictimError
from harness.core.files import hash_file
from harness.detectors.base import Detector, Floats
from harness.detectors.clean_texts import (
    VALIDATION_SHARE,
    CleanTexts,
    TuningRows,
    load_seen,
)
from harness.detectors.decisions import score_texts
from harness.detectors.fitting import DETECTOR_FILE, load_detector
from harness.detectors.joint import compare_methods
from harness.detectors.joint_detector import JointDetector
from harness.text.adversarial import read_rows
from harness.text.seen_texts import Keys, text_keys
from harness.text.victims import Victim

_READING = ("victim_hash", "max_length", "dtype")


@dataclass(frozen=True, eq=False)
class Members:
    """Fitted detectors of one victim.

    Attributes:
        detectors: D detectors.
        facts: What stands beside the first of them: its victim and training texts.
        seen: Keys of the texts that each has seen.
        hashes: Of their files.
    """

    detectors: tuple[Detector, ...]
    facts: dict[str, Any]
    seen: tuple[Keys, ...]
    hashes: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """How tables call them; where two are of one kind, with a number."""
        names = [detector.info.name for detector in self.detectors]
        return tuple(f"{name} {i + 1}" if names.count(name) > 1 else name for i, name in enumerate(names))


def load_members(folders: Sequence[Path]) -> Members:
    """Load the detectors to join.

    Raises:
        ConfigurationError: Fewer than two, or one is named twice, or is joined itself.
        VictimError: They are not of one victim, read in one way.
        HarnessError: One cannot be loaded.
    """
    if len(folders) < 2 or len({folder.resolve() for folder in folders}) < len(folders):
        raise ConfigurationError("joining takes at least two different detectors.", "Give their folders.")
    loaded = [load_detector(folder) for folder in folders]
    for folder, (detector, facts) in zip(folders, loaded, strict=True):
        if isinstance(detector, JointDetector):
            raise ConfigurationError(f"{folder} is a joint detector already.", "Give its members' folders instead.")
        for key in _READING:
            if facts.get(key) != loaded[0][1].get(key):
                raise VictimError(
                    f"the detectors in {folders[0]} and {folder} are not of the same victim (its {key} differs).",
                    "Fit both on one victim, with the same --max-length and --dtype.",
                )
    return Members(
        tuple(detector for detector, _ in loaded),
        loaded[0][1],
        tuple(load_seen(folder, facts) for folder, (_, facts) in zip(folders, loaded, strict=True)),
        tuple(hash_file(folder / DETECTOR_FILE) for folder in folders),
    )


def split_halves(texts: CleanTexts, tuning: TuningRows | None, seed: int) -> tuple[tuple[str, ...], CleanTexts]:
    """Clean texts to tune on and others to calibrate on.

    Args:
        texts: Clean texts that no member has seen.
        tuning: Validation rows of an attack; their originals never calibrate.
        seed: Draws the halves, where the texts' order is not a random one.

    Raises:
        DataError: Too few texts for two halves.
    """
    order = np.arange(len(texts.texts))
    if not texts.in_drawn_order:
        order = np.random.default_rng(seed).permutation(order)
    shuffled = [texts.texts[i] for i in order]
    middle = (len(shuffled) + 1) // 2
    # A text that occurs twice may stand in both halves: it tunes then.
    tuned = text_keys([*shuffled[:middle], *(tuning.originals if tuning else ())])
    calibrates = ~np.isin(text_keys(shuffled), tuned)
    first = tuple(text for text, other in zip(shuffled, calibrates, strict=True) if not other)
    second = tuple(text for text, other in zip(shuffled, calibrates, strict=True) if other)
    if len(first) < 2 or not second:
        raise DataError(f"{len(shuffled)} clean texts of {texts.title} are too few to tune and to calibrate on.")
    return first, CleanTexts(texts.name, texts.split, second, texts.left_out)


def member_scores(members: Members, victim: Victim, texts: Sequence[str], *, what: str) -> Floats:
    """(n, D) scores of n texts."""
    found = [score_texts(detector, victim, texts, what=what)[0] for detector in members.detectors]
    return np.stack(found, axis=1)


def join(
    members: Members, victim: Victim, clean: Sequence[str], tuning: TuningRows | None, *, method: str, fpr: float
) -> JointDetector:
    """Tune a joint detector.

    Args:
        members: Fitted detectors.
        victim: Theirs.
        clean: Clean texts that no member has seen, for tuning.
        tuning: Validation rows of an attack; None where the budget is shared equally.
        method: One of `harness.detectors.joint.METHODS`.
        fpr: The budget.

    Raises:
        ConfigurationError: There is no such method or rate.
        DataError: Scores that cannot be joined.
    """
    joint = JointDetector(members.detectors, method, fpr)
    adversarial = None
    if tuning is not None:
        adversarial = member_scores(members, victim, tuning.adversarial, what="reading validation texts")
    joint.decision.fit(member_scores(members, victim, clean, what="reading tuning texts"), adversarial)
    return joint


def compare_on_test_rows(
    members: Members,
    victim: Victim,
    folder: Path,
    clean: Sequence[str],
    calibration: CleanTexts,
    tuning: TuningRows,
    *,
    fpr: float,
    confidence: float | None,
    seed: int,
) -> list[dict[str, Any]]:
    """Every way to join, and every member alone, on the rows of an attack that are no validation rows.

    Args:
        members: Fitted detectors.
        victim: Theirs.
        folder: The attack run.
        clean: Clean texts to tune on.
        calibration: Clean texts to calibrate on.
        tuning: Validation rows of that attack.
        fpr: The rate promised.
        confidence: As in `harness.core.conformal.flag_rank`.
        seed: The protocol's sampling seed.

    Returns:
        As `harness.detectors.joint.compare_methods`. Texts that tune, calibrate or trained a member are not measured.

    Raises:
        DataError: The test rows hold no clean or no adversarial text.
    """
    rows = read_rows(folder)
    order = np.random.RandomState(seed).permutation(len(rows))[int(len(rows) * VALIDATION_SHARE) :]
    used = np.concatenate([*members.seen, text_keys([*clean, *calibration.texts, *tuning.originals])])
    test = [rows[i] for i in order]
    fresh = ~np.isin(text_keys([row.original_text for row in test]), used)
    test = [row for row, new in zip(test, fresh, strict=True) if new]
    originals = [row.original_text for row in test]
    attacked = [row.perturbed_text for row in test if row.result == "success"]
    if not attacked:
        raise DataError(f"{folder} has no adversarial text among its test rows to compare on.", "Attack more texts.")
    return compare_methods(
        member_scores(members, victim, clean, what="reading tuning texts"),
        member_scores(members, victim, calibration.texts, what="reading calibration texts"),
        member_scores(members, victim, originals, what="reading test texts"),
        member_scores(members, victim, attacked, what="reading test texts"),
        names=members.names,
        fpr=fpr,
        confidence=confidence,
        tuning_adversarial=member_scores(members, victim, tuning.adversarial, what="reading validation texts"),
    )
