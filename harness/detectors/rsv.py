"""Randomized substitution and vote: what an attack has tuned word by word does not survive random synonyms.

From Wang, Xiong and He, *Detecting Textual Adversarial Examples through Randomized Substitution and Vote*, UAI 2022
(arXiv 2109.05698).
"""

from __future__ import annotations

import functools
import hashlib
from typing import Any, ClassVar

import numpy as np

from harness.core.errors import ConfigurationError
from harness.detectors.base import DetectorInfo, Floats, QueryDetector, texts_of
from harness.detectors.states import Layout
from harness.text.edits import replace_words
from harness.text.synonyms import shipped_synonyms
from harness.text.victims import VictimOutputs
from harness.text.words import find_words


class RSV(QueryDetector):
    """RS&V: the share of confidence that the prediction loses over k texts with random synonyms.

    In each of the k texts floor(p * words) places are drawn, and where the word has synonyms it is replaced by one
    of them, each as likely. The score is 1 - the mean probability, over the k texts, of the class predicted for the
    text itself. The paper flags a text where that class is no longer the most probable in the mean (so the published
    code; the paper adds up logits), which with two classes is a score above 1/2.

    Where it departs from the paper: synonyms are WordNet's alone, the paper joins the nearest counter-fitted
    vectors; scikit-learn's English stop words stay as they are and replace nothing, for the paper's 21 stop words and
    the most frequent 2 % of its vocabulary.

    A text's draws depend on the seed and the text, on nothing else.

    Args:
        k: Texts that vote.
        p: Share of the words drawn in each.
        seed: Seed of the draws.

    Raises:
        ConfigurationError: No votes, or a share outside 0 to 1.
    """

    info: ClassVar[DetectorInfo] = DetectorInfo(
        name="rsv",
        title="RS&V",
        paper="Wang et al., UAI 2022",
        year=2022,
        reads="perturbed texts",
        forwards_per_text=26,
        cost="k + 1",
    )
    layout: ClassVar[Layout | None] = {}

    def __init__(self, k: int = 25, p: float = 0.6, seed: int = 0) -> None:
        super().__init__()
        if k < 1 or not 0 < p <= 1:
            raise ConfigurationError("rsv needs at least one vote and a share of the words above 0 and at most 1.")
        self.k = k
        self.p = p
        self.seed = seed

    def score(self, outputs: VictimOutputs) -> Floats:
        """Score n texts, from 0 (the prediction stands) to 1 (nothing is left of it)."""
        texts = texts_of(outputs)
        scores = np.zeros(len(texts))
        for row, (text, label) in enumerate(zip(texts, outputs.predictions, strict=True)):
            scores[row] = 1.0 - self.victim.read(self.substituted(text)).probabilities[:, label].mean()
        return scores

    def substituted(self, text: str) -> list[str]:
        """The k texts that vote on a text."""
        digest = hashlib.sha256(f"{self.seed}\n{text}".encode(errors="surrogatepass")).digest()
        generator = np.random.default_rng(int.from_bytes(digest[:16]))
        choices = [_choices(word.text.lower()) for word in find_words(text)]
        votes = []
        for _ in range(self.k):
            places = generator.choice(len(choices), int(self.p * len(choices)), replace=False)
            votes.append(
                replace_words(
                    text,
                    {int(i): choices[i][generator.integers(len(choices[i]))] for i in places if choices[i]},
                )
            )
        return votes

    def parameters(self) -> dict[str, Any]:
        """The constructor arguments."""
        return {"k": self.k, "p": self.p, "seed": self.seed}

    def facts(self) -> dict[str, Any]:
        """The parameters, and where the synonyms come from."""
        return {**self.parameters(), "candidates": "WordNet 3.0"}


def _choices(word: str) -> tuple[str, ...]:
    """What may replace a word in lower case."""
    stop_words = _stop_words()
    if word in stop_words:
        return ()
    return tuple(synonym for synonym in shipped_synonyms(word) if synonym not in stop_words)


@functools.cache
def _stop_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset(ENGLISH_STOP_WORDS)
