"""ADDMU: uncertainty over masked neighbours and under dropout, joined as p-values."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import ConfigurationError, DataError, NotFittedError
from harness.detectors.base import DetectorInfo, Floats, Labels, QueryDetector, texts_of
from harness.detectors.states import Array, Layout, bad_state
from harness.text.batches import padded_batches
from harness.text.dropout import dropout_places, dropout_probabilities
from harness.text.edits import mask_word, mask_words
from harness.text.victims import Victim, VictimOutputs
from harness.text.words import find_words

# Texts in a forward without dropout. Not the victim's `batch_size`: p-values jump, so not even rounding may vary.
_BATCH = 50
_FEWEST_ROWS = 20


class ADDMU(QueryDetector):
    """Data uncertainty and model uncertainty, each as a p-value among clean training texts, by Fisher's method.

    From Yin, Li, Hsieh and Chang, *ADDMU: Detection of Far-Boundary Adversarial Examples with Data and Model
    Uncertainty Estimation*, EMNLP 2022. A neighbour of a text has each of its words masked with probability `share`;
    y is the label predicted of the text itself. Of `neighbours` many x_i, and p_j the probabilities of pass j with
    dropout on,

        data(x)  = 1 - mean over i of p(y | x_i)
        model(x) = mean over the first `drawn` i of sum over classes c of variance over j of p_j(c | x_i)

    and with u(t) of the n training texts t, P = (1 + number of t with u(t) >= u(x)) / (n + 1) for each of the two,

        score(x) = -2 (ln P of data + ln P of model)

    The numbers of neighbours and passes and the dropout rate are those of the paper's code. That code takes norms in
    place of the variance, draws other neighbours for the model than for the data, masks more words of training texts
    than of the texts scored, and has count / n for P, but 1e-16 where the count is 0: there one uncertainty beyond all
    training texts outweighs two that are high, and here it weighs ln(n + 1) at most. What is drawn depends on the seed
    and the text alone, and every forward is of one text's neighbours alone, so that scores depend on nothing else.
    Equal neighbours are asked about once.

    Args:
        passes: Passes with dropout on.
        neighbours: Masked neighbours.
        drawn: How many of them are read with dropout on.
        share: Share of the words that a neighbour hides, on average.
        rate: Dropout rate of the passes, wherever the victim was trained with dropout.
        rows: Training texts; each costs as much as a text scored.
        seed: Seed of the draws.
    """

    info: ClassVar[DetectorInfo] = DetectorInfo(
        name="addmu",
        title="ADDMU",
        paper="Yin et al., EMNLP 2022",
        year=2022,
        reads="perturbed texts",
        forwards_per_text=None,
        at_most=201,
        cost="201 at most",
    )
    layout: ClassVar[Layout | None] = {"data": Array("float64", ("n",)), "model": Array("float64", ("n",))}

    def __init__(
        self,
        passes: int = 10,
        neighbours: int = 100,
        drawn: int = 10,
        share: float = 0.1,
        rate: float = 0.2,
        rows: int = 200,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if passes < 2 or not 1 <= drawn <= neighbours or not 0 < share < 1 or not 0 < rate < 1:
            raise ConfigurationError(
                "addmu needs 2 passes or more, from 1 neighbour to `neighbours` of them drawn, "
                "and a share and a rate between 0 and 1."
            )
        self.passes = passes
        self.neighbours = neighbours
        self.drawn = drawn
        self.share = share
        self.rate = rate
        self.rows = rows
        self.seed = seed

    def attach(self, victim: Victim) -> Self:
        """Give it the victim to ask.

        Raises:
            ConfigurationError: It has no dropout to switch on.
        """
        if not dropout_places(victim.model):
            raise ConfigurationError(
                f"the detector 'addmu' switches dropout on, and the victim {victim.name!r} was trained without any.",
                "Use another detector for this victim.",
            )
        return super().attach(victim)

    @property
    def fit_rows(self) -> int | None:
        """A few, for each is as dear as a text scored."""
        return self.rows

    def fit(self, outputs: VictimOutputs, labels: Labels) -> Self:
        """Keep both uncertainties of clean training texts.

        Raises:
            DataError: Fewer than 20 texts.
        """
        texts = texts_of(outputs)
        if len(texts) < _FEWEST_ROWS:
            raise DataError(
                f"addmu needs at least {_FEWEST_ROWS} training texts to tell p-values from; there are {len(texts)}.",
                "Give it more training texts.",
            )
        data, model = np.sort(self._uncertainties(texts, outputs.predictions), axis=0).T
        self._arrays = {"data": data.copy(), "model": model.copy()}
        return self

    def score(self, outputs: VictimOutputs) -> Floats:
        """Score n texts, from about 0 to -4 ln(1 / (rows + 1))."""
        if not self._arrays:
            raise NotFittedError("the detector 'addmu' is not fitted.", "Call fit, or load a fitted one.")
        scores = np.zeros(len(outputs.predictions))
        found = self._uncertainties(texts_of(outputs), outputs.predictions)
        for name, values in zip(("data", "model"), found.T, strict=True):
            known = self._arrays[name]
            as_large = len(known) - np.searchsorted(known, values, side="left")
            scores -= 2 * np.log((1 + as_large) / (1 + len(known)))
        return scores

    def parameters(self) -> dict[str, Any]:
        """The constructor arguments."""
        names = ("passes", "neighbours", "drawn", "share", "rate", "rows", "seed")
        return {name: getattr(self, name) for name in names}

    def _check_values(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        if any((np.diff(values) < 0).any() for values in arrays.values()):
            raise bad_state(self.info.name, "uncertainties are not in ascending order")

    def masked_neighbours(self, text: str) -> list[str]:
        """The neighbours of a text; the seed and the text decide them."""
        hidden = (
            np.random.default_rng(self._seed_of(text)).random((self.neighbours, len(find_words(text)))) < self.share
        )
        mask = mask_word(self.victim)
        return [mask_words(text, (int(word) for word in np.flatnonzero(row)), mask) for row in hidden]

    def _uncertainties(self, texts: tuple[str, ...], predictions: Labels) -> Floats:
        """(n, 2) uncertainties of n texts: data, model."""
        found = np.zeros((len(texts), 2))
        for row, (text, label) in enumerate(zip(texts, predictions, strict=True)):
            neighbours = self.masked_neighbours(text)
            distinct = list(dict.fromkeys(neighbours))
            sure = dict(zip(distinct, self._read(distinct)[:, label], strict=True))
            found[row, 0] = 1 - np.mean([sure[neighbour] for neighbour in neighbours])
            seed = self._seed_of(text) >> 1  # PyTorch's seeds are signed
            said = dropout_probabilities(self.victim, neighbours[: self.drawn], self.passes, self.rate, seed)
            found[row, 1] = said.var(axis=0).sum(axis=1).mean()
        return found

    def _read(self, texts: list[str]) -> Floats:
        """(n, classes) probabilities without dropout, in batches of a fixed size."""
        import torch

        encodings = self.victim.encode(texts)
        said = np.zeros((len(texts), self.victim.num_labels))
        with torch.inference_mode():
            for rows, padded in padded_batches(self.victim.tokenizer, encodings, _BATCH):
                logits = self.victim.model(**padded.to(self.victim.device)).logits.double()
                said[rows] = torch.softmax(logits, dim=-1).cpu().numpy()
        self.victim.forwards += len(texts)
        return said

    def _seed_of(self, text: str) -> int:
        """64 bits."""
        digest = hashlib.sha256(f"{self.seed} {text}".encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big")
