"""RS&V: what its substitutions keep and change, and the vote over them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from harness.core.errors import ConfigurationError, DataError, NotFittedError
from harness.detectors.rsv import RSV
from harness.text.synonyms import SynonymTable
from harness.text.victims import VictimOutputs
from harness.text.words import find_words

TEXTS = [
    "A great film with a clever plot, and the actor is brilliant!",
    "terrible, boring and tedious: the worst movie in years",
    "Good.",
    "",
    "?! ...",
    "the of and in",
    "qzxv Film-maker's café 1990s",
]


def slow_choices(word):
    """What may stand for a word."""
    if word.lower() in ENGLISH_STOP_WORDS:
        return set()
    names = {name.lower() for name in SynonymTable.load().synonyms(word.lower())}
    return names - {word.lower()} - set(ENGLISH_STOP_WORDS)


@pytest.mark.parametrize("p", [0.2, 0.6, 1.0])
def test_substitutions_are_synonyms_at_no_more_than_their_share_of_places(p):
    for text in TEXTS:
        words = [word.text for word in find_words(text)]
        votes = RSV(k=9, p=p).substituted(text)
        assert len(votes) == 9
        for vote in votes:
            new = [word.text for word in find_words(vote)]
            assert len(new) == len(words)
            changed = [i for i in range(len(words)) if new[i] != words[i]]
            assert len(changed) <= int(p * len(words))
            assert all(new[i] in slow_choices(words[i]) for i in changed)
            if p == 1.0:
                assert set(changed) == {i for i in range(len(words)) if slow_choices(words[i])}
            # What is between the words stays.
            for i in changed:
                assert words[i] in text
            rest = vote
            for word in new:
                rest = rest.replace(word, "", 1)
            kept = text
            for word in words:
                kept = kept.replace(word, "", 1)
            assert rest == kept


def test_places_and_synonyms_are_drawn_evenly():
    text = "great film clever plot terrible"
    k = 4000
    votes = [[word.text for word in find_words(vote)] for vote in RSV(k=k, p=0.6).substituted(text)]
    for i, word in enumerate(text.split()):
        found = [vote[i] for vote in votes if vote[i] != word]
        assert len(found) / k == pytest.approx(0.6, abs=0.05)
        choices = slow_choices(word)
        assert set(found) == choices
        for synonym in choices:
            share = 1 / len(choices)
            assert found.count(synonym) / len(found) == pytest.approx(share, abs=5 * np.sqrt(share / len(found)))
    replaced = {tuple(np.array(vote) != np.array(text.split())) for vote in votes}
    assert len(replaced) == 10  # 5 choose 3 places


def test_the_score_is_one_minus_the_mean_probability_of_the_prediction(tiny_victim):
    detector = RSV(k=7).attach(tiny_victim)
    outputs = tiny_victim.read(TEXTS)
    scores = detector.score(outputs)
    for row, text in enumerate(TEXTS):
        label = int(outputs.probabilities[row, 1] > outputs.probabilities[row, 0])
        total = sum(tiny_victim.read([vote]).probabilities[0, label] for vote in detector.substituted(text))
        assert scores[row] == pytest.approx(1 - total / 7, abs=1e-6)
    assert scores.dtype == np.float64


def test_it_costs_what_it_says(tiny_victim):
    detector = RSV().attach(tiny_victim)
    before = tiny_victim.forwards
    detector.score(tiny_victim.read(TEXTS))
    assert (tiny_victim.forwards - before) / len(TEXTS) == detector.info.forwards_per_text == 26


def test_scores_depend_on_the_seed_and_the_text_alone(tiny_victim):
    detector = RSV(k=5).attach(tiny_victim)
    outputs = tiny_victim.read(TEXTS)
    whole = detector.score(outputs)
    np.testing.assert_array_equal(detector.score(outputs), whole)
    order = np.random.default_rng(0).permutation(len(TEXTS))
    np.testing.assert_array_equal(detector.score(outputs.take(order)), whole[order])
    np.testing.assert_array_equal(detector.score(outputs.take(order[:1])), whole[order[:1]])
    assert (RSV(k=5, seed=1).attach(tiny_victim).score(outputs) != whole).any()
    again = RSV(**detector.parameters()).restore(detector.arrays()).attach(tiny_victim)
    np.testing.assert_array_equal(again.score(outputs), whole)
    assert detector.facts()["candidates"] == "WordNet 3.0"


def test_bad_input_is_told_by_name(tiny_victim):
    outputs = tiny_victim.read(TEXTS)
    with pytest.raises(NotFittedError, match="rsv"):
        RSV().score(outputs)
    with pytest.raises(DataError, match="texts themselves"):
        RSV().attach(tiny_victim).score(VictimOutputs(outputs.probabilities))
    for wrong in ({"k": 0}, {"p": 0}, {"p": 1.1}):
        with pytest.raises(ConfigurationError, match="rsv"):
            RSV(**wrong)
    with pytest.raises(ConfigurationError, match="rsv"):
        RSV().word_scores(outputs)
    with pytest.raises(ConfigurationError, match="rsv"):
        RSV().fit_adversarial(outputs, np.ones(len(TEXTS), bool))
