"""Confidence of the victim itself: the baselines every other detector must beat.

Attacks that stop as soon as the label flips leave texts beside the decision boundary, which is what these scores see.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from harness.detectors.base import DetectorInfo, Floats, ProbabilityDetector, logits_of
from harness.text.victims import VictimOutputs


class MSP(ProbabilityDetector):
    """One minus the largest class probability.

    From Hendrycks and Gimpel, *A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural
    Networks*, ICLR 2017.
    """

    info: ClassVar[DetectorInfo] = DetectorInfo(
        name="msp",
        title="MSP",
        paper="Hendrycks and Gimpel, ICLR 2017",
        year=2017,
        reads="probabilities",
        forwards_per_text=1,
    )

    def score(self, outputs: VictimOutputs) -> Floats:
        """Score n texts, from 0 (certain) to 1 - 1/classes (undecided)."""
        scores: Floats = 1.0 - outputs.probabilities.max(axis=1)
        return scores


class Entropy(ProbabilityDetector):
    """Shannon entropy of the class probabilities, in nats.

    The other softmax statistic of Hendrycks and Gimpel, ICLR 2017 (there as the divergence from the uniform
    distribution, which is log(classes) minus this). With two classes it ranks texts as `MSP` does.
    """

    info: ClassVar[DetectorInfo] = DetectorInfo(
        name="entropy",
        title="Entropy",
        paper="Hendrycks and Gimpel, ICLR 2017",
        year=2017,
        reads="probabilities",
        forwards_per_text=1,
    )

    def score(self, outputs: VictimOutputs) -> Floats:
        """Score n texts, from 0 (certain) to log(classes) (undecided)."""
        found = outputs.probabilities
        # p log p goes to 0 with p; the 1 only keeps the logarithm of 0 from being taken.
        scores: Floats = -(found * np.log(np.where(found > 0, found, 1.0))).sum(axis=1)
        return scores


class Energy(ProbabilityDetector):
    """Free energy: minus the log-sum-exp of the logits, at temperature 1.

    From Liu, Wang, Owens and Li, *Energy-based Out-of-distribution Detection*, NeurIPS 2020; their score without
    fine-tuning. It says more than the probabilities do: adding a constant to all logits changes it.
    """

    info: ClassVar[DetectorInfo] = DetectorInfo(
        name="energy",
        title="Energy",
        paper="Liu et al., NeurIPS 2020",
        year=2020,
        reads="probabilities",
        forwards_per_text=1,
    )

    def score(self, outputs: VictimOutputs) -> Floats:
        """Score n texts by their logits; any real number."""
        logits = logits_of(outputs)
        largest = logits.max(axis=1)
        scores: Floats = -(largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1)))
        return scores


class MaxLogit(ProbabilityDetector):
    """Minus the largest logit.

    From Hendrycks et al., *Scaling Out-of-Distribution Detection for Real-World Settings*, ICML 2022.
    """

    info: ClassVar[DetectorInfo] = DetectorInfo(
        name="maxlogit",
        title="MaxLogit",
        paper="Hendrycks et al., ICML 2022",
        year=2022,
        reads="probabilities",
        forwards_per_text=1,
    )

    def score(self, outputs: VictimOutputs) -> Floats:
        """Score n texts by their logits; any real number."""
        scores: Floats = -logits_of(outputs).max(axis=1)
        return scores
