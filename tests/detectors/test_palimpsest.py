"""Palimpsest against its formula written out slowly, and what its helpers promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from harness.core.errors import ConfigurationError, DataError, NotFittedError
from harness.detectors.overwriting import CorpusCounts, overwrite
from harness.detectors.palimpsest import Palimpsest, _first_half
from harness.text.edits import mask_word, token_words
from harness.text.synonyms import shipped_synonyms
from harness.text.victims import Victim
from harness.text.word_states import read_word_states, state_layers
from harness.text.word_vocabulary import new_word_classifier
from harness.text.words import find_words

WORDS = ("good", "bad", "film", "plot", "actor", "scene", "story", "dull", "bright", "slow", "quick", "warm", "cold")
STRANGE = ["", "?!", "good", "a zxqv film, the slow plot", "Bad BAD story!", " ".join(WORDS * 20)]


@pytest.fixture(scope="module")
def train():
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, size=rng.integers(3, 12))) for _ in range(80)], rng.integers(0, 2, 80)


@pytest.fixture(scope="module")
def fitted(tiny_victim, train):
    detector = Palimpsest(rows=80).attach(tiny_victim)
    detector.fit_corpus(train[0])
    return detector.fit(tiny_victim.read(train[0]), train[1])


def slow_states(victim, text):
    """The mean state of each word's tokens, from a forward of this text alone."""
    encoded = victim.tokenizer([text], truncation=True, max_length=victim.max_length, return_tensors="pt")
    with torch.no_grad():
        hidden = victim.model(**encoded, output_hidden_states=True).hidden_states
    owner = token_words(victim, [text])[0]
    found = []
    for word in range(len(find_words(text))):
        tokens = [i for i, o in enumerate(owner) if o == word]
        found.append([[hidden[n][0, i].numpy() for i in tokens] for n in state_layers(victim)])
    return found


def slow_restored(counts, text, odds, mask):
    """The text with suspects replaced by what stands more often in the training texts, or masked."""
    parts, end = [], 0
    for word, e in zip(find_words(text), odds, strict=True):
        form = word.text.lower()
        near = set(shipped_synonyms(form))
        if form not in counts.counts and len(form) > 2:
            near |= {known for known in counts.counts if one_edit_apart(form, known)}
        near = [(counts.counts[name], name) for name in near if name in counts.counts]
        best = max(near, default=(0, ""))
        if e > -1 and best[0] > counts.counts.get(form, 0):
            new = best[1]
        elif e > 0:
            new = mask
        else:
            new = word.text
        parts += [text[end : word.start], new]
        end = word.end
    return "".join([*parts, text[end:]])


def one_edit_apart(a, b):
    """Whether two words differ by one letter put in, left out or changed, or by two neighbours swapped (a-z only)."""
    long, short = sorted((a, b), key=len, reverse=True)
    if len(long) - len(short) == 1:
        return any(long[:i] + long[i + 1 :] == short for i in range(len(long)))
    different = [i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y]
    swapped = len(different) == 2 and different[1] == different[0] + 1
    return len(a) == len(b) and (
        len(different) == 1
        or (
            swapped
            and sorted(a[i] for i in different) == sorted(b[i] for i in different)
            and a[different[0]] == b[different[1]]
        )
    )


def slow_score(detector, victim, text):
    arrays, counts = detector.arrays(), detector.counts
    states = slow_states(victim, text)
    pieces = np.array([len(word[0]) for word in states], np.int64)
    statistics = counts.statistics(text, pieces)
    odds, weighted, total = [], 0.0, 0.0
    for word, stats in zip(states, statistics, strict=True):
        if not word[0]:
            odds.append(-20.0)
            continue
        x = np.concatenate([*(np.mean(layer, axis=0) for layer in word), stats]).astype(float)
        odds.append(float(arrays["probe_weights"][0] @ x + arrays["probe_bias"][0]))
        own = 1 - 1 / (1 + math.exp(-odds[-1]))
        weighted, total = weighted + own * np.mean(word[1], axis=0), total + own
    bag = weighted / max(total, 1e-3)
    r = float((arrays["reader_weights"][0] @ bag if total else 0.0) + arrays["reader_bias"][0])
    y = int(victim.read([text]).probabilities[0].argmax())
    p = min(
        max(victim.read([slow_restored(counts, text, odds, mask_word(victim))]).probabilities[0, y], 1e-4), 1 - 1e-4
    )
    read = [1 / (1 + math.exp(-e)) for e in odds if e > -20]
    signals = [math.log((1 - p) / p), -r if y == 1 else r, sum(read) / len(read) if read else 0.0]
    return sum((s - m) / d for s, m, d in zip(signals, arrays["center"], arrays["spread"], strict=True)), odds


def test_scores_and_word_scores_are_the_formula(fitted, tiny_victim, train):
    texts = [*STRANGE, *train[0][:10]]
    outputs = tiny_victim.read(texts)
    slow = [slow_score(fitted, tiny_victim, text) for text in texts]
    np.testing.assert_allclose(fitted.score(outputs), [score for score, _ in slow], atol=2e-3)
    for odds, (_, expected) in zip(fitted.word_scores(outputs), slow, strict=True):
        np.testing.assert_allclose(odds, expected, atol=1e-3)
        assert odds.dtype == np.float64


def test_order_and_batch_do_not_matter(fitted, tiny_victim, train):
    outputs = tiny_victim.read([*STRANGE, *train[0]])
    scores, order = fitted.score(outputs), np.random.default_rng(1).permutation(len(outputs.texts))
    np.testing.assert_allclose(fitted.score(outputs.take(order)), scores[order], atol=1e-4)
    alone = np.concatenate([fitted.score(outputs.take(np.array([i]))) for i in range(8)])
    np.testing.assert_allclose(alone, scores[:8], atol=1e-4)


def test_a_restored_one_scores_the_same_to_the_last_bit(fitted, tiny_victim, train):
    again = Palimpsest(**fitted.parameters()).restore(fitted.arrays()).attach(tiny_victim)
    outputs = tiny_victim.read([*STRANGE, *train[0]])
    np.testing.assert_array_equal(again.score(outputs), fitted.score(outputs))


def test_two_fits_are_the_same_and_every_forward_is_counted(fitted, tiny_victim, train):
    outputs = tiny_victim.read(train[0])
    again = Palimpsest(rows=80).attach(tiny_victim)
    again.fit_corpus(train[0])
    before = tiny_victim.forwards
    again.fit(outputs, train[1])
    assert tiny_victim.forwards - before == 40 * 3 + 40 * 2
    for name, values in fitted.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], values)
    before = tiny_victim.forwards
    again.score(outputs)
    assert tiny_victim.forwards - before == 80 * (again.info.forwards_per_text - 1)


@pytest.mark.parametrize(("model_type", "classes"), [("roberta", 3), ("distilbert", 4)])
def test_other_victims_and_more_classes(tiny_victim_folder, train, model_type, classes):
    victim = Victim.load(str(tiny_victim_folder(model_type, classes)))
    detector = Palimpsest(rows=80).attach(victim)
    detector.fit_corpus(train[0])
    detector.fit(victim.read(train[0]), np.arange(80) % classes)
    assert np.isfinite(detector.score(victim.read(STRANGE))).all()
    assert detector.score(victim.read([])).shape == (0,)


def test_a_text_without_a_token_scores_alone_and_beside_others(train):
    victim = Victim("cnn", *new_word_classifier("wordcnn", train[0], ["bad", "good"]), device="cpu")
    detector = Palimpsest(rows=80).attach(victim)
    detector.fit_corpus(train[0])
    detector.fit(victim.read(train[0]), train[1])
    alone = detector.score(victim.read(["\u200b"]))
    together = detector.score(victim.read(["a good film", "\u200b", "dull plot"]))
    assert np.isfinite(together).all()
    np.testing.assert_allclose(alone[0], together[1], rtol=1e-5)


def test_words_beyond_the_cut_give_no_evidence(fitted, tiny_victim):
    odds = fitted.word_scores(tiny_victim.read(STRANGE))[-1]
    (cut,) = [s.pieces for s in read_word_states(tiny_victim, STRANGE[-1:], (0,))]
    assert (cut == 0).any()
    np.testing.assert_array_equal(odds == -20, cut == 0)


def test_counts_leave_a_texts_own_words_out():
    counts = CorpusCounts(CorpusCounts.count(["a good film", "good plot"]))
    ones = np.ones(3, np.int64)
    phi = counts.statistics("a good film", ones)[:, 0]
    np.testing.assert_allclose(phi, np.log1p([1, 2, 1]), rtol=1e-6)
    np.testing.assert_allclose(
        counts.statistics("a good film", ones, "a good film")[:, 0], np.log1p([0, 1, 0]), rtol=1e-6
    )
    assert counts.statistics("", np.zeros(0, np.int64)).shape == (0, 14)


def test_candidates_are_what_a_word_may_have_been():
    counts = CorpusCounts(CorpusCounts.count(["movie movie movie flick film film", "brilliant brillant"]))
    assert counts.candidates("film", unseen=False) == ("flick", "movie")
    assert counts.likelier("film") == "movie"
    assert counts.likelier("movie") is None
    # Letters swapped, left out, changed and put in; a counted word is not taken for misspelt.
    for typo in ("flim", "fim", "fillm", "filk"):
        assert counts.likelier(typo) == "film", typo
    assert counts.likelier("brillant") is None
    assert counts.candidates("fi", unseen=True) == ()


def test_gains_are_those_of_the_likeliest_candidate():
    corpus = ["a fine movie", "a fine movie", "a fine film", "the movie", "a dull film"]
    counts = CorpusCounts(CorpusCounts.count(corpus))
    gains = counts.statistics("fine film", np.ones(2, np.int64))[:, -4:]
    # 2 films, 3 movies; "fine movie" twice and "movie" at the end three times, "fine film" once and "film" twice.
    of_film = [np.log(4 / 3), np.log(3) + np.log(4) - np.log(2) - np.log(3), np.log(2), np.log(4 / 3)]
    np.testing.assert_allclose(gains[1], of_film, rtol=1e-6)
    # Of a training text, its own words and pairs are not counted.
    gains = counts.statistics("a fine film", np.ones(3, np.int64), "a fine movie")[:, -4:]
    of_film = [0, np.log(2) + np.log(3) - np.log(2) - np.log(3), np.log(2), 0]
    np.testing.assert_allclose(gains[2], of_film, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ["synonym", "word", "typo"])
def test_only_the_places_named_are_written_over(kind):
    counts = CorpusCounts(CorpusCounts.count([" ".join(WORDS)]))
    text = "The good film, and the quick plot is bad!"
    for seed in range(30):
        changed, places = overwrite(text, 0.5, counts, np.random.default_rng(seed), [kind])
        pairs = list(zip(find_words(text), find_words(changed), strict=True))
        assert places == [i for i, (a, b) in enumerate(pairs) if a.text != b.text]
        assert not {0, 3, 4, 7} & set(places)


def test_bad_input_is_refused_by_name(tiny_victim, train):
    with pytest.raises(ConfigurationError, match="palimpsest"):
        Palimpsest(rows=3)
    with pytest.raises(DataError, match="palimpsest"):
        Palimpsest().fit_corpus(["", "?"])
    with pytest.raises(NotFittedError, match="palimpsest"):
        Palimpsest().attach(tiny_victim).score(tiny_victim.read(["good"]))
    detector = Palimpsest().attach(tiny_victim)
    detector.fit_corpus(train[0])
    with pytest.raises(DataError, match="palimpsest"):
        detector.fit(tiny_victim.read(train[0]), np.zeros(80, np.int64))


def test_a_file_sorted_by_class_is_halved_class_by_class():
    mixed = np.random.default_rng(0).integers(0, 3, 600)
    assert _first_half(mixed).tolist() == [True] * 300 + [False] * 300
    for ordered in (np.sort(mixed), np.repeat([1, 0], [590, 610]), np.repeat([0, 1, 0], [200, 300, 100])):
        first = _first_half(ordered)
        for label in np.unique(ordered):
            rows = np.flatnonzero(ordered == label)
            assert first[rows].sum() == len(rows) // 2
            assert first[rows[: len(rows) // 2]].all()
