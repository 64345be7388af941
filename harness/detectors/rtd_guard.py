"""RTD-Guard: hide what looks replaced to a discriminator and watch the confidence fall."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from harness.core.errors import ConfigurationError
from harness.detectors.base import DetectorInfo, Floats, texts_of
from harness.detectors.other_model import OtherModelDetector
from harness.detectors.states import Layout
from harness.text.discriminator import ReplacedTokenDiscriminator
from harness.text.edits import mask_word, mask_words, token_words, words_at
from harness.text.victims import VictimOutputs
from harness.text.words import find_words


class RTDGuard(OtherModelDetector[ReplacedTokenDiscriminator]):
    """The drop of the confidence in the predicted label when the words that look most replaced are masked.

    From Zhu, Li, Liu and Yang, *RTD-Guard: A Black-Box Textual Adversarial Detection Framework via Replacement Token
    Detection*, arXiv 2603.12582, 2026. ELECTRA's discriminator, as it was pretrained, gives each token of a text a
    probability that it stands in another's place; a word has the largest of its tokens. Of the L words that both the
    victim and the discriminator read, the max(1, round up(share * L)) likeliest are masked at once; with y the label
    predicted of x,

        score(x) = p(y | x) - p(y | masked x)

    which is 0 for a text without words. The share of words is a choice made here, not a figure of the paper.

    Args:
        discriminator: A folder or a hub id of an `ElectraForPreTraining` in safetensors. None is a placeholder: such a
            model does not come with this package, and `attach` says so.
        share: Share of the words that are masked.
    """

    info: ClassVar[DetectorInfo] = DetectorInfo(
        name="rtd-guard",
        title="RTD-Guard",
        paper="Zhu et al., arXiv 2603.12582",
        year=2026,
        reads="language model",
        forwards_per_text=2,
        cost="2, and 1 of a discriminator",
        scores_words=True,
    )
    layout: ClassVar[Layout | None] = {}
    parameter = "discriminator"
    kind = "replaced-token discriminator"

    def __init__(self, discriminator: str | None = None, share: float = 0.2) -> None:
        super().__init__(discriminator)
        if not 0 < share <= 1:
            raise ConfigurationError("rtd-guard needs a share above 0 and up to 1.")
        self.share = share

    def score(self, outputs: VictimOutputs) -> Floats:
        """Score n texts, from -1 to 1."""
        texts = texts_of(outputs)
        mask = mask_word(self.victim)
        asked, rows = [], []
        suspicions = self._suspicions(texts)
        for row, (text, owners) in enumerate(zip(texts, token_words(self.victim, texts), strict=True)):
            # A word that the victim does not read would be masked for nothing.
            read = [word for word in sorted(set(owners) - {-1}) if not np.isnan(suspicions[row][word])]
            if not read:
                continue
            likeliest = sorted(read, key=lambda word: -suspicions[row][word])
            # The product's rounding error must not mask one word more.
            count = max(1, math.ceil(self.share * len(read) - 1e-9))
            asked.append(mask_words(text, likeliest[:count], mask))
            rows.append(row)
        scores = np.zeros(len(texts))
        labels = outputs.predictions[rows]
        masked = self.victim.read(asked).probabilities
        scores[rows] = outputs.probabilities[rows, labels] - masked[np.arange(len(rows)), labels]
        return scores

    def word_scores(self, outputs: VictimOutputs) -> list[Floats]:
        """The probability that each word of n texts is a replaced one; 0 for words that the discriminator cuts away."""
        return [np.nan_to_num(of_text, nan=0.0) for of_text in self._suspicions(texts_of(outputs))]

    def parameters(self) -> dict[str, Any]:
        """The constructor arguments."""
        return {**super().parameters(), "share": self.share}

    def _suspicions(self, texts: tuple[str, ...]) -> list[Floats]:
        """For each text the probability of each word; NaN where the discriminator does not read it."""
        found = []
        for text, told in zip(texts, self.other.replaced(texts), strict=True):
            # The last place takes what belongs to no word.
            largest = np.full(len(find_words(text)) + 1, np.nan)
            np.fmax.at(largest, words_at(text, told.offsets), told.probabilities)
            found.append(largest[:-1])
        return found

    def _load(self, device: str) -> ReplacedTokenDiscriminator:
        if self.spec is None:
            raise ConfigurationError(
                "none was given.",
                "Give one of ELECTRA's, in safetensors: rtd-guard:discriminator=FOLDER, or a hub id for FOLDER.",
            )
        return ReplacedTokenDiscriminator.load(self.spec, device=device)
