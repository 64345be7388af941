"""GradMask: hide the words at which the loss is steepest and watch the confidence fall."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Self

import numpy as np

from harness.core.errors import ConfigurationError
from harness.detectors.base import DetectorInfo, Floats, QueryDetector, texts_of
from harness.detectors.states import Layout
from harness.text.edits import mask_word, mask_words, token_words
from harness.text.gradients import require_gradients, token_gradients
from harness.text.victims import Victim, VictimOutputs
from harness.text.words import find_words


class GradMask(QueryDetector):
    """The largest drop of the confidence in the predicted label when words of large gradient are masked.

    From Moon, Joty and Chi, *GradMask: Gradient-Guided Token Masking for Textual Adversarial Example Detection*,
    KDD 2022. Each token gets the L2 norm of the gradient of -log p(predicted label) at its input embedding, each word
    the largest of its tokens. Of a text of L words the k = max(1, round up(share * L)) first ones are masked in at most
    `versions` steps, each with more of them than the one before, the last with all k. With x_1, x_2, ... these texts
    and y the label predicted of x,

        score(x) = max over i of p(y | x) - p(y | x_i)

    which is 0 for a text without words and negative where masking only makes the victim surer. The paper's code masks
    single tokens rather than words, 5 or 10 of them one at a time, and squares the drop.

    Args:
        share: Share of the words that are masked in the last version.
        versions: Masked texts that the victim is asked about, at most.
    """

    info: ClassVar[DetectorInfo] = DetectorInfo(
        name="gradmask",
        title="GradMask",
        paper="Moon, Joty and Chi, KDD 2022",
        year=2022,
        reads="gradients",
        forwards_per_text=None,
        at_most=7,
        cost="2 + 5 at most, and 1 backward",
        scores_words=True,
    )
    layout: ClassVar[Layout | None] = {}

    def __init__(self, share: float = 0.2, versions: int = 5) -> None:
        super().__init__()
        if not 0 < share <= 1 or versions < 1:
            raise ConfigurationError("gradmask needs a share above 0 and up to 1, and 1 version or more.")
        self.share = share
        self.versions = versions

    def attach(self, victim: Victim) -> Self:
        """Give it the victim to ask.

        Raises:
            ConfigurationError: It gives no gradients.
        """
        require_gradients(victim, self.info.name)
        return super().attach(victim)

    def score(self, outputs: VictimOutputs) -> Floats:
        """Score n texts, from -1 to 1."""
        texts, predictions = texts_of(outputs), outputs.predictions
        mask = mask_word(self.victim)
        asked: list[str] = []
        owners: list[int] = []
        for row, (text, norms) in enumerate(zip(texts, self._norms(texts), strict=True)):
            # A word that was cut away has no gradient, and masking it would change nothing.
            steepest = [int(word) for word in np.argsort(-norms, kind="stable") if not np.isnan(norms[word])]
            for count in self._counts(len(steepest)):
                asked.append(mask_words(text, steepest[:count], mask))
                owners.append(row)
        rows = np.array(owners, dtype=np.int64)
        drops = outputs.probabilities[rows, predictions[rows]]
        drops = drops - self.victim.read(asked).probabilities[np.arange(len(rows)), predictions[rows]]
        scores = np.full(len(texts), -np.inf)
        np.maximum.at(scores, rows, drops)
        return np.where(np.isinf(scores), 0.0, scores)

    def word_scores(self, outputs: VictimOutputs) -> list[Floats]:
        """The gradient norm of each word of n texts; 0 for words beyond the victim's `max_length`."""
        return [np.nan_to_num(norms, nan=0.0) for norms in self._norms(texts_of(outputs))]

    def parameters(self) -> dict[str, Any]:
        """The constructor arguments."""
        return {"share": self.share, "versions": self.versions}

    def _norms(self, texts: tuple[str, ...]) -> list[Floats]:
        """For each text the gradient norm of each word; NaN where the victim does not read the word."""
        found = []
        gradients = token_gradients(self.victim, texts)
        for text, owners, at in zip(texts, token_words(self.victim, texts), gradients, strict=True):
            norms = np.full(len(find_words(text)), np.nan)
            of_tokens = np.linalg.norm(at.gradient.astype(np.float64), axis=1)
            for owner, norm in zip(owners, of_tokens, strict=True):
                if owner >= 0:
                    norms[owner] = np.fmax(norms[owner], norm)
            found.append(norms)
        return found

    def _counts(self, words: int) -> list[int]:
        """How many words each version masks, for a text of so many."""
        if not words:
            return []
        # The product's rounding error must not mask one word more.
        last = max(1, math.ceil(self.share * words - 1e-9))
        steps = min(self.versions, last)
        return [math.ceil(last * step / steps) for step in range(1, steps + 1)]
