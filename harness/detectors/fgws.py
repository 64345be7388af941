"""Frequency-guided word substitution: attacks put rare words where frequent ones stood.

From Mozes, Stenetorp, Kleinberg and Griffin, *Frequency-Guided Word Substitutions for Detecting Textual Adversarial
Examples*, EACL 2021 (arXiv 2004.05887).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import ConfigurationError, DataError, NotFittedError
from harness.detectors.base import Bools, DetectorInfo, Floats, QueryDetector, texts_of
from harness.detectors.states import Array, Layout, bad_state, read_words
from harness.text.edits import replace_words
from harness.text.synonyms import shipped_synonyms
from harness.text.victims import Victim, VictimOutputs
from harness.text.word_vocabulary import StartVectors, read_start_vectors
from harness.text.words import find_words

DELTAS = tuple(range(0, 101, 10))  # what the paper tunes over
_ROUNDING = 1e-6  # what a probability in float32 may lose to the batch it was read in
_FALSE_ALARMS = 10  # one clean text in so many may be flagged while tuning


class _Swap(NamedTuple):
    """What replaces a word, and by how much it is the more frequent: a difference of log(1 + count)."""

    word: str
    gain: float


class FGWS(QueryDetector):
    """FGWS: swap the rare words for frequent ones and watch the confidence.

    A word w of frequency phi(w) = log(1 + its count in the training texts) is rare where phi(w) lies below the
    `delta`-percentile of phi over the vocabulary. It is replaced by the most frequent of its candidates, where that is
    strictly more frequent: its WordNet synonyms and, with `vectors`, its nearest neighbours there. The score is
    max(0, p(y|x) - p(y|x')), with y the prediction on x and x' the text with all replacements; a text without any
    scores 0 and costs no second forward. Many texts tie at 0, as in the paper; a loss of up to 1e-6 is one of these:
    a word behind the victim's cut may be replaced, and what rounding leaves would order the ties.

    `fit_adversarial` chooses the percentile among 0, 10, ..., 100 by the true-positive rate at a threshold that at
    most a tenth of the clean validation texts exceed; of equal ones the largest, as the published code does.

    Words are those of `find_words`, in lower case (the paper: spaCy's tokens).

    Args:
        delta: Percentile of the vocabulary's log frequencies below which a word is rare, 0 to 100. The paper has no
            default, as it tunes; 50 is ours.
        vectors: Word vectors for the neighbours, an .npz file or its folder (see `read_start_vectors`; the paper:
            GloVe). Without them WordNet alone gives candidates.
        neighbours: How many nearest vectors, by Euclidean distance, are candidates.
        vectors_hash: SHA-256 that the vectors must have; filled in by `parameters`, so that a restored detector
            never reads others.

    Raises:
        ConfigurationError: `delta` is no percentile, there are no neighbours, or a hash comes without vectors.
    """

    info: ClassVar[DetectorInfo] = DetectorInfo(
        name="fgws",
        title="FGWS",
        paper="Mozes et al., EACL 2021",
        year=2021,
        reads="perturbed texts",
        forwards_per_text=None,
        at_most=2,
        cost="1 to 2",
        adversarial_texts="tunes",
        scores_words=True,
        version=2,
    )
    reads_corpus: ClassVar[bool] = True
    layout: ClassVar[Layout | None] = {
        "words": Array("uint8", ("bytes",)),
        "counts": Array("int64", ("words",)),
        "delta": Array("float64", (1,), optional=True),
    }

    def __init__(
        self, delta: float = 50, vectors: str | None = None, neighbours: int = 8, vectors_hash: str | None = None
    ) -> None:
        super().__init__()
        if not 0 <= delta <= 100:
            raise ConfigurationError(f"fgws takes a percentile from 0 to 100 as delta, not {delta}.")
        if neighbours < 1 or (vectors is None and vectors_hash is not None):
            raise ConfigurationError("fgws needs at least one neighbour, and vectors where it is given their hash.")
        self.delta = delta
        self.vectors = vectors
        self.neighbours = neighbours
        self._vectors_hash = vectors_hash
        self._table: StartVectors | None = None
        self._rows: dict[str, int] = {}
        self._squares: NDArray[np.float32] = np.zeros(0, np.float32)
        self._phi: dict[str, float] = {}
        self._limits: dict[float, float] = {}
        self._best: dict[str, _Swap | None] = {}

    def attach(self, victim: Victim) -> Self:
        """Give it the victim to ask, and read the vectors.

        Raises:
            MissingFileError: There are no vectors where they should be.
            DataError: They cannot be read.
            ConfigurationError: They are not those that the detector was fitted with.
        """
        if self.vectors is not None:
            self._read_vectors(self.vectors)
        return super().attach(victim)

    def fit_corpus(self, texts: Sequence[str]) -> None:
        """Count the words of clean training texts.

        Raises:
            DataError: They hold no word.
        """
        counts = Counter(word.text.lower() for text in texts for word in find_words(text))
        if not counts:
            raise DataError("fgws counts the words of the training texts, and they hold none.")
        words = sorted(counts)
        self.restore(
            {
                "words": np.frombuffer("\n".join(words).encode(), np.uint8),
                "counts": np.array([counts[word] for word in words], np.int64),
            }
        )

    def fit_adversarial(self, outputs: VictimOutputs, adversarial: Bools) -> Self:
        """Choose the percentile on validation rows of an attack.

        Raises:
            DataError: The rows are all clean or all adversarial.
        """
        chosen = np.asarray(adversarial, dtype=bool)
        clean = int((~chosen).sum())
        if not 0 < clean < len(chosen):
            raise DataError("fgws chooses its percentile on clean and adversarial texts, and was given only one kind.")
        rates = []
        for scores in self._scores(outputs, DELTAS):
            threshold = np.sort(scores[~chosen])[clean - 1 - clean // _FALSE_ALARMS]
            rates.append(int((scores[chosen] > threshold).sum()))
        best = max(range(len(DELTAS)), key=lambda i: (rates[i], DELTAS[i]))
        self._arrays["delta"] = np.array([DELTAS[best]], np.float64)
        return self

    def score(self, outputs: VictimOutputs) -> Floats:
        """Score n texts, from 0 (no change) to 1 (all confidence lost)."""
        scores: Floats = self._scores(outputs, (self.chosen_delta,))[0]
        return scores

    def word_scores(self, outputs: VictimOutputs) -> list[Floats]:
        """By how much log(1 + count) rises where a word is replaced; 0 where it stays."""
        found = []
        for text in texts_of(outputs):
            swaps = self._swaps(text, self.chosen_delta)
            found.append(
                np.array([swaps[i].gain if i in swaps else 0.0 for i in range(len(find_words(text)))], np.float64)
            )
        return found

    @property
    def chosen_delta(self) -> float:
        """The percentile in use: the tuned one, else the constructor's."""
        return float(self._arrays["delta"][0]) if "delta" in self._arrays else self.delta

    def parameters(self) -> dict[str, Any]:
        """The constructor arguments, with the hash of the vectors."""
        if self.vectors is None:
            return {"delta": self.delta}
        return {
            "delta": self.delta,
            "vectors": self.vectors,
            "neighbours": self.neighbours,
            "vectors_hash": self._vectors_hash or self._read_vectors(self.vectors).hash,
        }

    def facts(self) -> dict[str, Any]:
        """The parameters, with the vectors by name and hash, and where the candidates come from."""
        facts: dict[str, Any] = {"delta": self.delta, "candidates": "WordNet 3.0 alone"}
        if "delta" in self._arrays:
            facts["tuned_delta"] = self.chosen_delta
        if self.vectors is not None:
            facts["candidates"] = f"WordNet 3.0 and {self.neighbours} neighbours in word vectors"
            facts["vectors"] = {"name": Path(self.vectors).name, "hash": self.parameters()["vectors_hash"]}
        return facts

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Take the word counts back."""
        self._phi, self._limits, self._best = {}, {}, {}
        if arrays:
            words = read_words(self.info.name, arrays)
            self._phi = dict(zip(words, np.log1p(arrays["counts"]).tolist(), strict=True))
        return super().restore(arrays)

    def _check_values(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        read_words(self.info.name, arrays)
        if "delta" in arrays and not 0 <= arrays["delta"][0] <= 100:
            raise bad_state(self.info.name, "delta is no percentile")

    def _scores(self, outputs: VictimOutputs, deltas: Sequence[float]) -> Floats:
        """(deltas, n) scores; a changed text is asked about once, however often it comes up."""
        texts = texts_of(outputs)
        changed = [[self._changed(text, delta) for text in texts] for delta in deltas]
        asked = list(dict.fromkeys(new for row in changed for new, old in zip(row, texts, strict=True) if new != old))
        said = dict(zip(asked, self.victim.read(asked).probabilities, strict=True))
        scores = np.zeros((len(deltas), len(texts)))
        for column, (text, label) in enumerate(zip(texts, outputs.predictions, strict=True)):
            before = outputs.probabilities[column, label]
            for row, news in enumerate(changed):
                if news[column] != text and (lost := before - said[news[column]][label]) > _ROUNDING:
                    scores[row, column] = lost
        return scores

    def _changed(self, text: str, delta: float) -> str:
        return replace_words(text, {place: swap.word for place, swap in self._swaps(text, delta).items()})

    def _swaps(self, text: str, delta: float) -> dict[int, _Swap]:
        if not self._arrays:
            raise NotFittedError("the detector 'fgws' has counted no words.", "Call fit_corpus, or load a fitted one.")
        if delta not in self._limits:
            self._limits[delta] = float(np.percentile(list(self._phi.values()), delta))
        swaps = {}
        for place, word in enumerate(find_words(text)):
            form = word.text.lower()
            if self._phi.get(form, 0.0) < self._limits[delta] and (swap := self._swap(form)):
                swaps[place] = swap
        return swaps

    def _swap(self, word: str) -> _Swap | None:
        """The most frequent candidate of a word in lower case, of equal ones the first in the alphabet."""
        if word not in self._best:
            candidates = sorted({*shipped_synonyms(word), *self._neighbours(word)})
            best = max(candidates, key=lambda candidate: self._phi.get(candidate, 0.0), default=word)
            gain = self._phi.get(best, 0.0) - self._phi.get(word, 0.0)
            self._best[word] = _Swap(best, gain) if gain > 0 else None
        return self._best[word]

    def _neighbours(self, word: str) -> list[str]:
        if self.vectors is None:
            return []
        table = self._read_vectors(self.vectors)
        row = self._rows.get(word)
        wanted = min(self.neighbours, len(table.words) - 1)
        if row is None or not wanted:
            return []
        distances = self._squares - 2 * (table.matrix @ table.matrix[row])  # |v - w|^2 less the constant |w|^2
        distances[row] = np.inf
        near = np.flatnonzero(distances <= np.partition(distances, wanted - 1)[wanted - 1])
        return [table.words[int(i)] for i in near[np.argsort(distances[near], kind="stable")][:wanted]]

    def _read_vectors(self, path: str) -> StartVectors:
        if self._table is not None:
            return self._table
        table = read_start_vectors(Path(path))
        if self._vectors_hash not in (None, table.hash):
            raise ConfigurationError(
                f"the word vectors in {path} are not those that fgws was fitted with.",
                "Put those back, or fit it again.",
            )
        self._table, self._vectors_hash = table, table.hash
        self._rows = {word: row for row, word in reversed(list(enumerate(table.words)))}
        self._squares = np.einsum("ij,ij->i", table.matrix, table.matrix)
        return table
