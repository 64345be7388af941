"""Palimpsest: find the words that look written over, and read the text as it may have been before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import ConfigurationError, DataError, NotFittedError
from harness.detectors.base import DetectorInfo, Floats, Labels, QueryDetector, rows_of_class, texts_of
from harness.detectors.overwriting import (
    COUNTS,
    KINDS,
    STATISTICS,
    CorpusCounts,
    lower_words,
    overwrite,
    text_rng,
)
from harness.detectors.states import Array, Layout, bad_state, check_sizes, read_words
from harness.text.edits import mask_word, replace_words
from harness.text.victims import VictimOutputs
from harness.text.word_states import read_word_states, state_layers

_PROBE_WORDS = 60_000
_SUSPECT = -1.0  # log-odds from which a word gives way to a likelier candidate
_OVERWRITTEN = 0.0  # log-odds from which a word without one is masked
_UNREAD = -20.0  # log-odds of a word beyond the victim's cut: no evidence
_SURE = 1e-4
_SIGNALS = 3
_UNEVEN = 0.1  # share of a class that may be missing from the first half of the rows


class _Reading(NamedTuple):
    evidence: list[Floats]  # a text's words' log-odds of being written over
    own: NDArray[np.float32]  # (n, d) mean state of the words, each weighted by how little it looks written over


class Palimpsest(QueryDetector):
    """The sum of three standardised signs that words were written over; no attack and no adversarial text is used.

    A logistic probe learns, on clean training texts with random words replaced (WordNet synonyms, words of the corpus,
    typing errors), which words are no longer a text's own; it reads the victim's states of the word in four layers and
    statistics of word counts. With e_i its log-odds at word i, y the victim's prediction on x:

        restored(x) = logit of 1 - p(y | x with the words with e_i > -1 replaced by their most frequent candidate,
                      where one is more frequent, and the others with e_i > 0 masked)
        reader(x) = max over c != y of r_c - r_y, with r a linear reader of the class from the mean state, in the
                    layer at a third of the depth, of the words weighted by 1 - sigmoid(e_i)
        evidence(x) = mean over i of sigmoid(e_i)
        score(x) = sum of (signal - its mean) / its deviation, on clean training texts that trained neither

    Candidates of a word are its WordNet synonyms and, where it was never counted, the words one typing error away.
    p(y|x) is no signal of its own, so that a sure victim does not veto what was restored; of a text in which no word
    gives way, restored(x) is its logit all the same. The victim is asked twice more: for the states of the words, and
    about the restored text. When the scales are set, a text's own words are taken off the counts for the probe, but not
    for what restores, so none of its words is then restored as a misspelt one.

    Args:
        rows: Clean training texts: half train probe and reader, half set means and deviations.
        seed: Of the random words.
    """

    info: ClassVar[DetectorInfo] = DetectorInfo(
        name="palimpsest",
        title="Palimpsest",
        paper="this project",
        year=2026,
        reads="perturbed texts",
        forwards_per_text=3,
        cost="3",
        scores_words=True,
        version=2,
    )
    reads_corpus: ClassVar[bool] = True
    layout: ClassVar[Layout | None] = {
        **COUNTS,
        "probe_weights": Array("float64", (1, "inputs")),
        "probe_bias": Array("float64", (1,)),
        "reader_weights": Array("float64", ("readers", "d")),
        "reader_bias": Array("float64", ("readers",)),
        "center": Array("float64", (_SIGNALS,)),
        "spread": Array("float64", (_SIGNALS,)),
    }

    def __init__(self, rows: int = 3000, seed: int = 0) -> None:
        super().__init__()
        if rows < 20 or seed < 0:
            raise ConfigurationError("palimpsest needs at least 20 rows, and a seed of 0 or more.")
        self.rows = rows
        self.seed = seed
        self._counts: CorpusCounts | None = None

    @property
    def fit_rows(self) -> int | None:
        """Training rows it wants."""
        return self.rows

    def fit_corpus(self, texts: Sequence[str]) -> None:
        """Count the words of clean training texts.

        Raises:
            DataError: They hold no word.
        """
        self.restore(CorpusCounts.count(texts))

    def fit(self, outputs: VictimOutputs, labels: Labels) -> Self:
        """Train probe and reader on the first half of the texts, and the scales of the signals on the others.

        Raises:
            DataError: Too few rows of a class, or no word to write over.
        """
        texts, gold = texts_of(outputs), np.asarray(labels, dtype=np.int64)
        classes = outputs.probabilities.shape[1]
        rows_of_class(gold, classes, 2, self.info.name)
        first = _first_half(gold)
        own, others = np.flatnonzero(first), np.flatnonzero(~first)
        self._fit_probe([texts[i] for i in own], gold[own])
        signals = self._signals(outputs.take(others), [texts[i] for i in others])
        self._arrays["center"] = signals.mean(axis=0)
        self._arrays["spread"] = np.maximum(signals.std(axis=0), 1e-6)
        return self

    def score(self, outputs: VictimOutputs) -> Floats:
        """Score n texts, about 0 for clean ones that are like the training texts."""
        if "spread" not in self._arrays:
            raise NotFittedError("the detector 'palimpsest' is not fitted.", "Call fit, or load a fitted one.")
        signals = (self._signals(outputs) - self._arrays["center"]) / self._arrays["spread"]
        total: Floats = signals.sum(axis=1)
        return total

    def word_scores(self, outputs: VictimOutputs) -> list[Floats]:
        """The log-odds of each word being written over; -20 for a word that the victim does not read."""
        return self._read(texts_of(outputs)).evidence

    def parameters(self) -> dict[str, Any]:
        """The constructor arguments."""
        return {"rows": self.rows, "seed": self.seed}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Take fitted arrays back."""
        self._counts = CorpusCounts(arrays) if arrays else None
        return super().restore(arrays)

    def _check_values(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        read_words(self.info.name, arrays)
        if (arrays["spread"] <= 0).any():
            raise bad_state(self.info.name, "the deviation of a signal is not above 0")

    @property
    def counts(self) -> CorpusCounts:
        """The word counts.

        Raises:
            NotFittedError: There are none yet.
        """
        if self._counts is None:
            raise NotFittedError("the detector 'palimpsest' has counted no words.", "Call fit_corpus first.")
        return self._counts

    def _fit_probe(self, texts: Sequence[str], labels: Labels) -> None:
        made, owns = list(texts), list(texts)
        places: list[list[int]] = [[] for _ in texts]
        for text in texts:
            for draw, (low, high) in enumerate(((0.1, 0.3), (0.2, 0.6))):
                rng = text_rng(self.seed, text, draw)
                changed, over = overwrite(text, rng.uniform(low, high), self.counts, rng, KINDS)
                made.append(changed)
                owns.append(text)
                places.append(over)
        layers = state_layers(self.victim)
        most = -(-_PROBE_WORDS // len(made))
        inputs: dict[int, NDArray[np.float32]] = {}
        targets: dict[int, NDArray[np.bool_]] = {}
        means = np.zeros((len(texts), 0), np.float32)
        for row, states, pieces in read_word_states(self.victim, made, layers):
            if row < len(texts):
                means = means if means.size else np.zeros((len(texts), states.shape[2]), np.float32)
                means[row] = _mean(states[:, _reader(layers)], (pieces > 0).astype(np.float32))
            words = np.flatnonzero(pieces > 0)
            if len(words) > most:
                words = text_rng(self.seed, made[row], 2).choice(words, most, replace=False)
            statistics = self.counts.statistics(made[row], pieces, owns[row])
            inputs[row] = np.concatenate([_flat(states), statistics], axis=1)[words]
            targets[row] = np.isin(words, places[row])
        # The texts' own order, not that of the batches, decides the sums.
        y = np.concatenate([targets[row] for row in range(len(made))])
        if not y.any() or y.all():
            raise DataError("palimpsest found no word in the training texts that it could write over.")
        self._keep("probe", np.concatenate([inputs[row] for row in range(len(made))]), y, 0.002)
        self._keep("reader", means, labels, 0.01)

    def _keep(self, name: str, x: NDArray[np.float32], y: NDArray[Any], strength: float) -> None:
        from sklearn.linear_model import LogisticRegression

        mean, scale = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
        scale[scale < 1e-6] = 1.0
        fitted = LogisticRegression(C=strength, max_iter=100).fit(((x - mean) / scale).astype(np.float32), y)
        weights = fitted.coef_.astype(np.float64) / scale
        self._arrays[f"{name}_weights"] = weights
        self._arrays[f"{name}_bias"] = fitted.intercept_.astype(np.float64) - weights @ mean

    def _read(self, texts: Sequence[str], owns: Sequence[str] | None = None) -> _Reading:
        if "probe_weights" not in self._arrays:
            raise NotFittedError("the detector 'palimpsest' is not fitted.", "Call fit, or load a fitted one.")
        layers = state_layers(self.victim)
        weights, bias = self._arrays["probe_weights"][0], self._arrays["probe_bias"][0]
        evidence: list[Floats] = [np.zeros(0)] * len(texts)
        means = np.zeros((len(texts), self._arrays["reader_weights"].shape[1]), np.float32)
        for row, states, pieces in read_word_states(self.victim, texts, layers):
            self._check_victim(*states.shape[1:])
            statistics = self.counts.statistics(texts[row], pieces, None if owns is None else owns[row])
            inputs = np.concatenate([_flat(states), statistics], axis=1).astype(np.float64)
            evidence[row] = np.where(pieces > 0, inputs @ weights + bias, _UNREAD)
            means[row] = _mean(states[:, _reader(layers)], (1 - _sigmoid(evidence[row])) * (pieces > 0))
        return _Reading(evidence, means)

    def _check_victim(self, layers: int, width: int) -> None:
        """Refuse a victim of other sizes than the one that was fitted on."""
        classes = self.victim.num_labels
        sizes = {"inputs": layers * width + STATISTICS, "d": width, "readers": 1 if classes == 2 else classes}
        check_sizes(self.info.name, self.layout, self._arrays, sizes)

    def _signals(self, outputs: VictimOutputs, owns: Sequence[str] | None = None) -> Floats:
        """(n, 3) restored, reader and evidence; `owns` where the texts are among those counted."""
        texts, labels = texts_of(outputs), outputs.predictions
        signals = np.zeros((len(texts), _SIGNALS))
        if not texts:
            return signals
        reading, mask, rows = self._read(texts, owns), mask_word(self.victim), np.arange(len(texts))
        restored = [self._restored(*of_text, mask) for of_text in zip(texts, reading.evidence, strict=True)]
        left = np.clip(self.victim.read(restored).probabilities[rows, labels], _SURE, 1 - _SURE)
        signals[:, 0] = np.log(1 - left) - np.log(left)
        said = reading.own @ self._arrays["reader_weights"].T + self._arrays["reader_bias"]
        if said.shape[1] == 1:
            said = np.concatenate([np.zeros_like(said), said], axis=1)
        predicted = said[rows, labels].copy()
        said[rows, labels] = -np.inf
        signals[:, 1] = said.max(axis=1) - predicted
        for row, odds in enumerate(reading.evidence):
            read = odds[odds > _UNREAD]
            signals[row, 2] = _sigmoid(read).mean() if len(read) else 0.0
        return signals

    def _restored(self, text: str, odds: Floats, mask: str) -> str:
        words, instead = lower_words(text), {}
        for place in np.flatnonzero(odds > _SUSPECT).tolist():
            likelier = self.counts.likelier(words[place])
            if likelier is not None or odds[place] > _OVERWRITTEN:
                instead[place] = mask if likelier is None else likelier
        return replace_words(text, instead)


def _first_half(labels: Labels) -> NDArray[np.bool_]:
    """The first half of the rows; of a file whose order tells the classes apart, the first half of each class."""
    first = np.arange(len(labels)) < len(labels) // 2
    classes = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    if max(abs(first[rows].mean() - 0.5) for rows in classes) > _UNEVEN:
        first[:] = False
        for rows in classes:
            first[rows[: len(rows) // 2]] = True
    return first


def _reader(layers: Sequence[int]) -> int:
    """The place of the layer at a third of the depth."""
    return min(1, len(layers) - 1)


def _flat(states: NDArray[np.float32]) -> NDArray[np.float32]:
    """(words, layers, d) as (words, layers * d), for no words too."""
    return states.reshape(len(states), states.shape[1] * states.shape[2])


def _mean(states: NDArray[np.float32], weights: NDArray[Any]) -> NDArray[np.float32]:
    mean: NDArray[np.float32] = (weights @ states / max(float(weights.sum()), 1e-3)).astype(np.float32)
    return mean


def _sigmoid(odds: Floats) -> Floats:
    return 0.5 * (1 + np.tanh(odds / 2))
