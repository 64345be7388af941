"""Maximum softmax probability: the confidence baseline every other detector must beat."""

from __future__ import annotations

from typing import ClassVar

from harness.detectors.base import DetectorInfo, Floats, ProbabilityDetector
from harness.text.victims import VictimOutputs


class MSP(ProbabilityDetector):
    """One minus the largest class probability.

    From Hendrycks and Gimpel, *A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural
    Networks*, ICLR 2017. Attacks that stop as soon as the label flips leave texts beside the decision boundary,
    which is what this score sees.
    """

    info: ClassVar[DetectorInfo] = DetectorInfo(
        name="msp",
        title="MSP",
        paper="Hendrycks and Gimpel, ICLR 2017",
        year=2017,
        reads="probabilities",
        needs_adversarial_labels=False,
        forwards_per_text=1,
    )

    def score(self, outputs: VictimOutputs) -> Floats:
        """Score n texts, from 0 (certain) to 1 - 1/classes (undecided)."""
        scores: Floats = 1.0 - outputs.probabilities.max(axis=1)
        return scores
