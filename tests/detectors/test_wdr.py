"""WDR: the reactions against the paper's formula, the stored trees against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from harness.core.errors import ConfigurationError, DataError, NotFittedError
from harness.detectors import wdr
from harness.detectors.wdr import WDR
from harness.text.victims import Victim, VictimOutputs
from harness.text.words import find_words

TEXT = "a the film movie plot actor good great warm clever bad poor dull awful boring very not is was of and"
WORDS = TEXT.split(" ")
LENGTH = 12


@pytest.fixture(scope="module")
def victim(tiny_victim_folder):
    """Three classes, so that the largest of the others is not the only other."""
    return Victim.load(str(tiny_victim_folder("bert", 3)), device="cpu")


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    return [", ".join(rng.choice(WORDS, rng.integers(1, 16))) for _ in range(60)]


@pytest.fixture(scope="module")
def adversarial(texts):
    """Half of the texts, by something that the reactions may show."""
    return np.arange(len(texts)) % 2 == 0


@pytest.fixture(scope="module")
def trained(victim, texts, adversarial):
    return WDR(length=LENGTH).attach(victim).fit_adversarial(victim.read(texts), adversarial)


def slow_vector(victim, text, length):
    """Reactions of a text's words in order of impact, one forward at a time, and in the text's own order."""
    whole = victim.read([text]).logits[0]
    label = int(whole.argmax())
    table = []
    for number, word in enumerate(find_words(text)[:length]):
        logits = victim.read([text[: word.start] + "[UNK]" + text[word.end :]]).logits[0]
        other = max(logits[c] for c in range(len(logits)) if c != label)
        table.append((whole[label] - logits[label], -number, logits[label] - other))
    ordered = [reaction for _, _, reaction in sorted(table, reverse=True)]
    return np.array(ordered + [0.0] * (length - len(ordered))), [reaction for _, _, reaction in table]


def test_reactions_are_the_papers_formula_in_the_order_of_impact(victim, texts):
    detector = WDR(length=LENGTH).attach(victim)
    some = [*texts[:12], "", "?!"]
    vectors = detector._vectors(victim.read(some))
    assert vectors.shape == (14, LENGTH)
    for row, text in enumerate(some):
        np.testing.assert_allclose(vectors[row], slow_vector(victim, text, LENGTH)[0], atol=1e-4)
    assert (vectors[-2:] == 0).all()


def test_word_scores_are_minus_the_reactions_and_need_no_training(victim, texts):
    outputs = victim.read([*texts[:12], ""])
    found = WDR(length=LENGTH).attach(victim).word_scores(outputs)
    longer = 0
    for text, scores in zip(outputs.texts, found, strict=True):
        reactions = slow_vector(victim, text, LENGTH)[1]
        assert len(scores) == len(find_words(text))
        np.testing.assert_allclose(scores[:LENGTH], [-r for r in reactions], atol=1e-4)
        if len(scores) > LENGTH:
            longer += 1
            assert (scores[LENGTH:] == scores[:LENGTH].min()).all()
    assert longer


def test_the_stored_trees_say_what_scikit_learn_says(victim, texts, adversarial, trained):
    from sklearn.ensemble import GradientBoostingClassifier

    outputs = victim.read(texts)
    vectors = trained._vectors(outputs)
    model = GradientBoostingClassifier(**wdr._BOOSTING, random_state=0).fit(vectors, adversarial)
    np.testing.assert_allclose(trained.score(outputs), model.predict_proba(vectors)[:, 1], rtol=1e-6)
    others = np.random.default_rng(1).normal(size=(200, LENGTH))
    np.testing.assert_allclose(wdr._evaluate(trained.arrays(), others), model.decision_function(others), rtol=1e-5)
    assert len(set(trained.score(outputs))) > 10


def test_it_learns_what_the_reactions_show(victim):
    """Labels that are a function of the reactions are found again on other texts."""
    rng = np.random.default_rng(5)
    texts = [" ".join(rng.choice(WORDS, 8)) for _ in range(240)]
    outputs = victim.read(texts)
    detector = WDR(length=LENGTH).attach(victim)
    weakest = detector._vectors(outputs).min(axis=1)
    adversarial = weakest < np.median(weakest)
    half = np.arange(120)
    detector.fit_adversarial(outputs.take(half), adversarial[half])
    scores = detector.score(outputs.take(half + 120))
    positive, negative = scores[adversarial[120:]], scores[~adversarial[120:]]
    assert (positive[:, None] > negative[None]).mean() > 0.85


def test_it_costs_one_forward_a_word_and_the_plain_one(victim, texts, trained):
    before = victim.forwards
    trained.score(victim.read(texts))
    words = sum(min(len(find_words(text)), LENGTH) for text in texts)
    assert victim.forwards - before == len(texts) + words
    assert trained.info.forwards_per_text is None
    assert trained.info.needs_adversarial_labels


def test_scores_do_not_depend_on_order_or_the_other_texts(victim, texts, trained):
    outputs = victim.read(texts)
    whole = trained.score(outputs)
    order = np.random.default_rng(0).permutation(len(texts))
    np.testing.assert_array_equal(trained.score(outputs.take(order)), whole[order])
    np.testing.assert_array_equal(trained.score(outputs.take(order[:1])), whole[order[:1]])
    before = victim.batch_size
    victim.batch_size = 3
    try:
        np.testing.assert_allclose(trained._vectors(outputs), _vectors_at(victim, trained, outputs, 32), atol=1e-4)
    finally:
        victim.batch_size = before


def _vectors_at(victim, detector, outputs, batch_size):
    victim.batch_size, before = batch_size, victim.batch_size
    vectors = detector._vectors(outputs)
    victim.batch_size = before
    return vectors


def test_a_restored_detector_scores_the_same_to_the_last_bit(victim, texts, trained):
    again = WDR(**trained.parameters()).restore(trained.arrays()).attach(victim)
    outputs = victim.read(texts)
    np.testing.assert_array_equal(again.score(outputs), trained.score(outputs))
    assert all(values.dtype in (np.float64, np.int64) for values in trained.arrays().values())


def test_training_again_forgets_what_was_before(victim, texts, adversarial, trained):
    outputs = victim.read(texts)
    other = WDR(length=LENGTH).attach(victim).fit_adversarial(outputs, ~adversarial)
    assert (other.score(outputs) != trained.score(outputs)).any()
    other.fit_adversarial(outputs, adversarial)
    np.testing.assert_array_equal(other.score(outputs), trained.score(outputs))


def test_bad_input_is_told_by_name(victim, texts, adversarial):
    outputs = victim.read(texts)
    with pytest.raises(NotFittedError, match="'wdr' was not trained"):
        WDR().attach(victim).fit(outputs, np.zeros(len(texts), int)).score(outputs)
    with pytest.raises(NotFittedError, match="no victim"):
        WDR().fit_adversarial(outputs, adversarial)
    for labels in (np.ones(60, bool), np.zeros(60, bool), np.arange(60) < 9):
        with pytest.raises(DataError, match="wdr is trained on at least 10"):
            WDR().attach(victim).fit_adversarial(outputs, labels)
    with pytest.raises(DataError, match="texts themselves"):
        WDR().attach(victim).word_scores(VictimOutputs(outputs.probabilities))
    with pytest.raises(ConfigurationError, match="wdr"):
        WDR(length=0)
