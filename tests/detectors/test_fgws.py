"""FGWS against the paper's formula, written out slowly."""

from __future__ import annotations

import dataclasses
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest

from harness.core.errors import ConfigurationError, DataError, MissingFileError, NotFittedError
from harness.detectors.fgws import DELTAS, FGWS
from harness.text.synonyms import SynonymTable
from harness.text.victims import VictimOutputs

CORPUS = ["A good film, a good movie.", "The film is good; the plot is bad!", "Large movie, big plot.", "big Big film"]
RARE = ["a tremendous picture", "terrible flick here", "prominent Huge film", "good film", "", "?!", "The MOVIE is big"]


class Asked:
    """A victim whose probabilities are a hash-like function of the words; it counts what it is asked."""

    def __init__(self) -> None:
        self.forwards = 0
        self.texts: list[str] = []

    def read(self, texts, layers=()):
        self.forwards += len(texts)
        self.texts += texts
        first = np.array([(sum(ord(c) * (i + 1) for i, c in enumerate(text)) % 97 + 1) / 99 for text in texts])
        probabilities = np.stack([first, 1 - first], axis=1).reshape(-1, 2)
        return VictimOutputs(probabilities, texts=tuple(texts))


def slow_candidates(word, vectors, k):
    """Lower-case synonyms, and the k nearest vectors by sorting all distances."""
    found = {name.lower() for name in SynonymTable.load().synonyms(word)}
    if vectors and word in vectors:
        distance = {other: math.dist(vectors[word], v) for other, v in vectors.items() if other != word}
        found |= set(sorted(distance, key=distance.get)[:k])
    return sorted(found - {word})


def slow_replaced(text, delta, vectors=None, k=8):
    """The text with its rare words replaced, and the words' gains."""
    counts: dict[str, int] = {}
    for line in CORPUS:
        for word in re.findall(r"\w+", line.lower()):
            counts[word] = counts.get(word, 0) + 1
    phi = {word: math.log(1 + n) for word, n in counts.items()}
    ranked = sorted(phi.values())
    place = delta / 100 * (len(ranked) - 1)
    low, share = math.floor(place), place - math.floor(place)
    limit = ranked[low] + share * (ranked[min(low + 1, len(ranked) - 1)] - ranked[low])
    gains = []

    def swap(match):
        word = match[0].lower()
        own = phi.get(word, 0.0)
        gains.append(0.0)
        if own >= limit - 1e-12:
            return match[0]
        best, most = None, own
        for candidate in slow_candidates(word, vectors, k):
            if phi.get(candidate, 0.0) > most:
                best, most = candidate, phi[candidate]
        gains[-1] = most - own
        return best or match[0]

    return re.sub(r"\w+", swap, text), gains


def slow_scores(texts, delta, **options):
    victim, scores = Asked(), []
    for text in texts:
        before, after = (victim.read([t]).probabilities[0] for t in (text, slow_replaced(text, delta, **options)[0]))
        label = 0 if before[0] >= before[1] else 1
        scores.append(max(0.0, before[label] - after[label]))
    return np.array(scores)


def fitted(victim=None, **parameters):
    detector = FGWS(**parameters).attach(victim or Asked())
    detector.fit_corpus(CORPUS)
    return detector


@pytest.fixture
def vectors(tmp_path):
    rng = np.random.default_rng(3)
    words = ["tremendous", "good", "film", "flick", "here", "movie", "bad", "qzxv", "huge", "plot", "picture"]
    matrix = rng.normal(size=(len(words), 4)).astype(np.float32)
    np.savez(tmp_path / "some.npz", words="\n".join(words), vectors=matrix)
    return str(tmp_path / "some.npz"), dict(zip(words, matrix.tolist(), strict=True))


@pytest.mark.parametrize("delta", DELTAS)
def test_scores_and_word_scores_are_the_papers_formula(delta):
    detector = fitted(delta=delta)
    outputs = Asked().read(RARE)
    np.testing.assert_allclose(detector.score(outputs), slow_scores(RARE, delta), atol=1e-12)
    for text, scores in zip(RARE, detector.word_scores(outputs), strict=True):
        np.testing.assert_allclose(scores, slow_replaced(text, delta)[1], atol=1e-12)
        assert scores.dtype == np.float64


def test_the_rare_words_of_an_attack_are_replaced():
    # "flick" does not occur in the corpus, "large" once, "big" and "film" three times, "here" has no synonym there.
    assert fitted()._changed("A LARGE flick, here.", 50) == "A big film, here."
    assert fitted()._changed("A LARGE flick, here.", 0) == "A LARGE film, here."
    gains = fitted(delta=50).word_scores(Asked().read(["A LARGE flick, here."]))[0]
    np.testing.assert_allclose(gains, [0, np.log(4 / 2), np.log(4 / 1), 0])


@pytest.mark.parametrize("k", [1, 3, 20])
@pytest.mark.parametrize("delta", [0, 50, 100])
def test_neighbours_in_word_vectors_are_candidates_too(vectors, delta, k):
    path, table = vectors
    texts = [*RARE, "qzxv here plot"]
    detector = fitted(delta=delta, vectors=path, neighbours=k)
    found = detector.score(Asked().read(texts))
    np.testing.assert_allclose(found, slow_scores(texts, delta, vectors=table, k=k), atol=1e-12)
    assert slow_replaced("qzxv", 100, table, 20)[0] != "qzxv" == slow_replaced("qzxv", 100)[0]


def test_a_text_without_replacement_costs_no_second_forward():
    victim = Asked()
    detector = fitted(victim)
    detector.score(victim.read(["good film", "a terrible flick"]))
    assert victim.forwards == 3
    assert detector.info.forwards_per_text is None


def slow_delta(texts, adversarial):
    best = (-1.0, -1)
    for delta in range(0, 101, 10):
        scores = slow_scores(texts, delta)
        clean = [s for s, a in zip(scores, adversarial, strict=True) if not a]
        attacked = [s for s, a in zip(scores, adversarial, strict=True) if a]
        # The smallest score that at most a tenth of the clean ones exceed.
        threshold = min(t for t in clean if sum(s > t for s in clean) <= 0.1 * len(clean))
        best = max(best, (sum(s > threshold for s in attacked) / len(attacked), delta))
    return best[1]


def test_the_percentile_is_chosen_by_the_rate_at_a_tenth_of_false_alarms():
    rng = np.random.default_rng(1)
    words = [
        "a",
        "good",
        "film",
        "movie",
        "the",
        "is",
        "plot",
        "bad",
        "large",
        "big",
        "tremendous",
        "huge",
        "terrible",
        "picture",
        "flick",
        "great",
        "prominent",
    ]
    chosen = set()
    for _ in range(8):
        texts = [" ".join(rng.choice(words, 6)) for _ in range(45)]
        adversarial = rng.random(45) < 0.4
        detector = fitted(delta=35)
        detector.fit_adversarial(Asked().read(texts), adversarial)
        assert detector.chosen_delta == slow_delta(texts, adversarial)
        chosen.add(detector.chosen_delta)
        np.testing.assert_allclose(
            detector.score(Asked().read(texts)), slow_scores(texts, detector.chosen_delta), atol=1e-12
        )
        assert detector.facts()["tuned_delta"] == detector.chosen_delta
        assert detector.parameters() == {"delta": 35}
    assert len(chosen) > 1


def test_of_equal_percentiles_the_largest_is_chosen_and_a_corpus_forgets_it():
    detector = fitted(delta=20)
    outputs = Asked().read(["good film"] * 4)
    detector.fit_adversarial(outputs, np.array([True, False, True, False]))
    assert detector.chosen_delta == 100
    detector.fit_corpus(CORPUS)
    assert detector.chosen_delta == 20


def test_scores_do_not_depend_on_batches_order_or_the_other_texts(tiny_victim):
    detector = fitted(tiny_victim, delta=60)
    whole = detector.score(tiny_victim.read(RARE[:4]))
    assert whole.max() > 0
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(detector.score(tiny_victim.read(RARE[:4]).take(order)), whole[order], atol=1e-6)
    for i, text in enumerate(RARE[:4]):
        np.testing.assert_allclose(detector.score(tiny_victim.read([text])), whole[[i]], atol=1e-6)


def test_rounding_is_no_loss_of_confidence(tiny_victim, monkeypatch):
    # The changed word lies behind the cut, so that the victim reads the same; only the batch is another.
    monkeypatch.setattr(tiny_victim, "max_length", 4)
    detector = fitted(tiny_victim, delta=60)
    texts = [text for text in ("film here here " + rare for rare in RARE) if detector._changed(text, 60) != text]
    assert len(texts) > 1
    outputs = tiny_victim.read(texts)
    noisy = dataclasses.replace(outputs, probabilities=outputs.probabilities + 3e-8)
    assert detector.score(noisy).tolist() == [0.0] * len(texts)


def test_a_restored_detector_scores_the_same_to_the_last_bit(vectors):
    for parameters in ({"delta": 40}, {"delta": 40, "vectors": vectors[0], "neighbours": 3}):
        detector = fitted(**parameters)
        texts = [*RARE, "flick"] * 3
        detector.fit_adversarial(Asked().read(texts), np.arange(len(texts)) % 2 == 0)
        again = FGWS(**detector.parameters()).restore(detector.arrays()).attach(Asked())
        outputs = Asked().read(texts)
        np.testing.assert_array_equal(again.score(outputs), detector.score(outputs))
        assert again.parameters() == detector.parameters()
        assert again.facts() == detector.facts()
        assert all(isinstance(values, np.ndarray) for values in detector.arrays().values())


def test_facts_name_the_vectors_and_no_path(vectors, tmp_path):
    assert FGWS().facts() == {"delta": 50, "candidates": "WordNet 3.0 alone"}
    facts = FGWS(vectors=vectors[0]).facts()
    assert facts["vectors"]["name"] == "some.npz"
    assert re.fullmatch("[0-9a-f]{64}", facts["vectors"]["hash"])
    assert str(tmp_path) not in str(facts)


def test_bad_input_is_told_by_name(vectors, tmp_path):
    outputs = Asked().read(RARE)
    with pytest.raises(NotFittedError, match="fgws"):
        FGWS().attach(Asked()).score(outputs)
    alone = FGWS()
    alone.fit_corpus(CORPUS)
    with pytest.raises(NotFittedError, match="no victim"):
        alone.score(outputs)
    with pytest.raises(DataError, match="texts themselves"):
        fitted().score(VictimOutputs(outputs.probabilities))
    with pytest.raises(DataError, match="fgws"):
        FGWS().fit_corpus(["", "?!"])
    for kind in (True, False):
        with pytest.raises(DataError, match="only one kind"):
            fitted().fit_adversarial(outputs, np.full(len(RARE), kind))
    for wrong in ({"delta": -1}, {"delta": 100.5}, {"neighbours": 0}, {"vectors_hash": "ab"}):
        with pytest.raises(ConfigurationError, match="fgws"):
            FGWS(**wrong)
    with pytest.raises(MissingFileError, match="word vectors"):
        FGWS(vectors=str(tmp_path / "none.npz")).attach(Asked())
    kept = FGWS(vectors=vectors[0]).parameters()
    np.savez(vectors[0], words="good\nbad", vectors=np.eye(2))
    with pytest.raises(ConfigurationError, match="not those that fgws was fitted with"):
        FGWS(**kept).attach(SimpleNamespace())
