"""MLMD and GradMLMD: let a masked language model refill words and watch the prediction."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Self

import numpy as np

from harness.core.errors import ConfigurationError
from harness.core.files import cache_folder
from harness.detectors.base import DetectorInfo, Floats, texts_of
from harness.detectors.other_model import OtherModelDetector
from harness.detectors.states import Layout
from harness.text.edits import replace_words, token_words
from harness.text.gradients import require_gradients, token_gradients
from harness.text.masked_lm import MaskedLanguageModel
from harness.text.refilling import Refiller
from harness.text.victims import Victim, VictimOutputs
from harness.text.words import find_words

# Words that are refilled at a time, which bounds the logits kept.
_CHUNK = 256
_FETCHED = "minilm-masked-lm"


class MLMD(OtherModelDetector[MaskedLanguageModel]):
    """The share of refilled texts of which the victim predicts another label.

    From Zhang et al., *Masked Language Model Based Textual Adversarial Example Detection*, ASIA CCS 2023. Each word
    that the victim reads is masked in turn and a masked language model proposes k words for it; with these texts
    x_ij and y the label predicted of x,

        score(x) = mean over i and j of [label of x_ij differs from y]

    which the paper compares with a threshold; 0 for a text without words. Departures: the paper's code masks what
    stands between spaces, keeps the word itself among the k and puts a blank where a proposal is no whole word; here
    words are masked without the punctuation beside them, and only other whole words are proposed, so every text that
    is asked about is another one (`harness.text.refilling`). A text longer than the masked LM takes is cut around each
    mask.

    Args:
        masked_lm: A folder or a hub id; None for the `minilm-masked-lm` that `harness fetch` made.
        top: How many words the masked LM proposes for each.
    """

    info: ClassVar[DetectorInfo] = DetectorInfo(
        name="mlmd",
        title="MLMD",
        paper="Zhang et al., ASIA CCS 2023",
        year=2023,
        reads="language model",
        forwards_per_text=None,
        cost="1 + 3 L, and L of a masked LM",
        scores_words=True,
    )
    layout: ClassVar[Layout | None] = {}
    parameter = "masked_lm"
    kind = "masked language model"

    def __init__(self, masked_lm: str | None = None, top: int = 3) -> None:
        super().__init__(masked_lm)
        if top < 1:
            raise ConfigurationError(f"{self.info.name} needs a top of 1 or more.")
        self.top = top
        self._refiller: Refiller | None = None

    def score(self, outputs: VictimOutputs) -> Floats:
        """Score n texts, from 0 to 1."""
        asked, changed, _ = self._ask(outputs)
        return np.array(
            [of_text.sum() / max(1, count.sum()) for of_text, count in zip(changed, asked, strict=True)],
            dtype=np.float64,
        )

    def word_scores(self, outputs: VictimOutputs) -> list[Floats]:
        """The mean drop of the confidence in the predicted label when each word is refilled; 0 where none was."""
        asked, _, drops = self._ask(outputs)
        return [of_text / np.maximum(1, count) for of_text, count in zip(drops, asked, strict=True)]

    def parameters(self) -> dict[str, Any]:
        """The constructor arguments."""
        return {**super().parameters(), "top": self.top}

    def _positions(self, texts: tuple[str, ...]) -> list[list[int]]:
        """Which words of each text are refilled: those that the victim reads."""
        return [sorted(set(owners) - {-1}) for owners in token_words(self.victim, texts)]

    def _ask(self, outputs: VictimOutputs) -> tuple[list[Floats], list[Floats], list[Floats]]:
        """For each word of each text: refilled texts, changed predictions among them, and summed drops."""
        texts, predictions = texts_of(outputs), outputs.predictions
        sizes = [len(find_words(text)) for text in texts]
        asked, changed, drops = ([np.zeros(size) for size in sizes] for _ in range(3))
        jobs = [(row, word) for row, words in enumerate(self._positions(texts)) for word in words]
        for start in range(0, len(jobs), _CHUNK):
            chunk = jobs[start : start + _CHUNK]
            proposed = self._words([texts[row] for row, _ in chunk], [word for _, word in chunk])
            owners = [job for job, words in zip(chunk, proposed, strict=True) for _ in words]
            refilled = [
                replace_words(texts[row], {word: new})
                for (row, word), words in zip(chunk, proposed, strict=True)
                for new in words
            ]
            said = self.victim.read(refilled)
            for (row, word), label, of_classes in zip(owners, said.predictions, said.probabilities, strict=True):
                y = predictions[row]
                asked[row][word] += 1
                changed[row][word] += label != y
                drops[row][word] += outputs.probabilities[row, y] - of_classes[y]
        return asked, changed, drops

    def _words(self, texts: list[str], positions: list[int]) -> list[list[str]]:
        if self._refiller is None or self._refiller.lm is not self.other:
            self._refiller = Refiller(self.other)
        return self._refiller.words(texts, positions, self.top)

    def _load(self, device: str) -> MaskedLanguageModel:
        if self.spec is not None:
            return MaskedLanguageModel.load(self.spec, device=device)
        folder = cache_folder("artifacts", _FETCHED)
        if not folder.is_dir():
            raise ConfigurationError(
                "none was given and none was fetched.",
                f"Run: harness fetch {_FETCHED}; or give {self.info.name}:masked_lm=FOLDER.",
            )
        return MaskedLanguageModel.load(folder, device=device)


class GradMLMD(MLMD):
    """MLMD on the words at which the gradient is largest.

    From Zhang et al., *Exploring Gradient-Guided Masked Language Model to Detect Textual Adversarial Attacks*,
    arXiv 2504.08798, 2025. Each word has the largest L2 norm, over its tokens, of the gradient of -log p(predicted
    label) at their input embeddings; of the L words that the victim reads, the max(1, round up(share * L)) first are
    refilled as in `MLMD`. The paper goes through about 30 % of the words.

    Args:
        masked_lm: A folder or a hub id; None for the `minilm-masked-lm` that `harness fetch` made.
        top: How many words the masked LM proposes for each.
        share: Share of the words that are refilled.
    """

    info: ClassVar[DetectorInfo] = DetectorInfo(
        name="gradmlmd",
        title="GradMLMD",
        paper="Zhang et al., arXiv 2504.08798",
        year=2025,
        reads="language model",
        forwards_per_text=None,
        cost="2 + 0.9 L and 1 backward, and 0.3 L of a masked LM",
        scores_words=True,
    )

    def __init__(self, masked_lm: str | None = None, top: int = 3, share: float = 0.3) -> None:
        super().__init__(masked_lm, top)
        if not 0 < share <= 1:
            raise ConfigurationError("gradmlmd needs a share above 0 and up to 1.")
        self.share = share

    def attach(self, victim: Victim) -> Self:
        """Give it the victim to ask, and load the masked LM.

        Raises:
            ConfigurationError: The victim gives no gradients, or there is no masked LM.
        """
        require_gradients(victim, self.info.name)
        return super().attach(victim)

    def parameters(self) -> dict[str, Any]:
        """The constructor arguments."""
        return {**super().parameters(), "share": self.share}

    def _positions(self, texts: tuple[str, ...]) -> list[list[int]]:
        found = []
        told = token_gradients(self.victim, texts)
        for owners, at in zip(token_words(self.victim, texts), told, strict=True):
            largest: dict[int, float] = {}
            for word, norm in zip(owners, np.linalg.norm(at.gradient.astype(np.float64), axis=1), strict=True):
                if word >= 0:
                    largest[word] = max(largest.get(word, 0.0), float(norm))
            # The product's rounding error must not refill one word more.
            count = max(1, math.ceil(self.share * len(largest) - 1e-9)) if largest else 0
            found.append(sorted(sorted(largest, key=lambda word: (-largest[word], word))[:count]))
        return found
