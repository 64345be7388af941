"""The texts of an attack, read by the victim once for all detectors, scenarios and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import VictimError
from harness.core.scores import Cost
from harness.evaluation.attacks import EvaluatedAttack
from harness.text.reading import read_texts
from harness.text.victims import VictimOutputs

Rows = NDArray[np.int64]

# Victim and detectors are deterministic up to rounding; more flips than this mean another victim.
_LARGEST_STALE_SHARE = 0.02


@dataclass(frozen=True)
class AttackTexts:
    """What the victim says of all original and all attacked texts.

    Attributes:
        outputs: Of the n original texts in order of the rows, then of the m attacked ones.
        originals: n.
        attacked: (m,) the rows whose attacked text was read, ascending: successes and failures.
        cost: What reading one text cost.
    """

    outputs: VictimOutputs
    originals: int
    attacked: Rows
    cost: Cost

    def original(self, rows: Rows) -> Rows:
        """Positions among the outputs of the original texts of some rows."""
        return rows

    def perturbed(self, rows: Rows) -> Rows:
        """Positions among the outputs of the attacked texts of some rows."""
        return np.asarray(self.originals + np.searchsorted(self.attacked, rows), dtype=np.int64)

    def confidence(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Largest class probability of every row's original and attacked text; NaN where none was attacked."""
        largest = self.outputs.probabilities.max(axis=1)
        attacked = np.full(self.originals, np.nan)
        attacked[self.attacked] = largest[self.originals :]
        return largest[: self.originals], attacked


def read_attack(attack: EvaluatedAttack, layers: Sequence[int]) -> AttackTexts:
    """Read every text of an attack through the feature store.

    Args:
        attack: Its rows and victim.
        layers: Layers that some detector reads.
    """
    attacked = np.flatnonzero([row.result in ("success", "failure") for row in attack.rows])
    texts = [row.original_text for row in attack.rows] + [attack.rows[i].perturbed_text for i in attacked]
    reading = read_texts(attack.victim, texts, layers, what="reading test texts")
    cost = Cost(seconds=reading.seconds / max(1, len(texts)), forwards=1.0)
    return AttackTexts(reading.outputs, len(attack.rows), attacked.astype(np.int64), cost)


def count_stale(attack: EvaluatedAttack, texts: AttackTexts) -> int:
    """Adversarial texts that the loaded victim classifies right.

    Raises:
        VictimError: They are more than rounding can explain.
    """
    rows = np.flatnonzero([row.result == "success" for row in attack.rows])
    labels = np.array([attack.rows[i].label for i in rows])
    stale = int((labels == texts.outputs.predictions[texts.perturbed(rows)]).sum())
    if stale > max(1, _LARGEST_STALE_SHARE * len(labels)):
        raise VictimError(
            f"the victim {attack.victim.name!r} classifies {stale} of {len(labels)} adversarial texts right: "
            "it is not the victim that was attacked.",
            "Evaluate on the attacked victim, with the same --max-length and --dtype.",
        )
    return stale
