"""ADDMU against plain Python on one text at a time."""

import math
import statistics

import numpy as np
import pytest

from harness.core.errors import ConfigurationError, DataError, NotFittedError
from harness.detectors.addmu import ADDMU
from harness.detectors.fitting import load_detector, save_detector
from harness.text.dropout import dropout_on, dropout_places, dropout_probabilities
from harness.text.victims import Victim
from harness.text.words import find_words

TEXTS = [
    "a warm and funny film, but not too long",
    "dull",
    "the plot isn't clever; qzjx acting, terrible script and a weak cast!",
    "I loved it",
    "",
    "one dull film " * 20,
]
WORDS = ("good", "bad", "film", "plot", "actor", "scene", "story", "dull", "slow", "warm")
SMALL = {"passes": 4, "neighbours": 8, "drawn": 3, "share": 0.3, "rate": 0.25}


@pytest.fixture(scope="module", params=["bert", "distilbert", "wordcnn", "lstm"])
def victim(request, tiny_victim_folder):
    import torch

    if request.param in ("wordcnn", "lstm"):
        from harness.text.word_vocabulary import new_word_classifier

        torch.manual_seed(3)
        model, tokenizer = new_word_classifier(request.param, TEXTS * 2, ["bad", "good"])
        for name, tensor in model.named_parameters():
            if not name.startswith("embeddings"):
                tensor.data.normal_(0, 0.3)
        return Victim(request.param, model, tokenizer, device="cpu", batch_size=3)
    found = Victim.load(str(tiny_victim_folder(request.param)), device="cpu", batch_size=3)
    for module in found.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1
    return found


@pytest.fixture(scope="module")
def train():
    draw = np.random.default_rng(0)
    return [" ".join(draw.choice(WORDS, size=draw.integers(3, 9))) for _ in range(25)]


@pytest.fixture
def fitted(victim, train):
    outputs = victim.read(train)
    return ADDMU(**SMALL).attach(victim).fit(outputs, outputs.predictions)


def slow_uncertainties(victim, detector, text):
    """Both uncertainties, a forward a neighbour for the one and a pass after the other for the other."""
    import torch

    label = int(victim.read([text]).predictions[0])
    neighbours = detector.masked_neighbours(text)
    data = 1 - statistics.fmean(float(victim.read([one]).probabilities[0, label]) for one in neighbours)
    batch = victim.tokenizer(
        neighbours[: SMALL["drawn"]],
        truncation=True,
        max_length=victim.max_length,
        padding=True,
        return_tensors="pt",
    )
    batch["input_ids"] = batch["input_ids"].long()
    rates = [(m, "p", m.p) for m in victim.model.modules() if isinstance(m, torch.nn.Dropout) and m.p > 0]
    # Attention drops by a number of its own.
    rates += [(m, "dropout_prob", m.dropout_prob) for m in victim.model.modules() if getattr(m, "dropout_prob", 0) > 0]
    for module, name, _ in rates:
        setattr(module, name, SMALL["rate"])
    victim.model.train()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(detector._seed_of(text) >> 1)
        said = [torch.softmax(victim.model(**batch).logits.double(), 1).tolist() for _ in range(SMALL["passes"])]
    victim.model.eval()
    for module, name, rate in rates:
        setattr(module, name, rate)
    classes = range(len(said[0][0]))
    variances = [sum(statistics.pvariance([one[i][c] for one in said]) for c in classes) for i in range(SMALL["drawn"])]
    return data, statistics.fmean(variances)


def test_uncertainties_and_scores_are_the_slow_ones(victim, fitted, train):
    outputs = victim.read(TEXTS)
    slow = [slow_uncertainties(victim, fitted, text) for text in TEXTS]
    np.testing.assert_allclose(fitted._uncertainties(tuple(TEXTS), outputs.predictions), slow, atol=2e-6)
    assert slow[0][1] > 1e-8
    known = [slow_uncertainties(victim, fitted, text) for text in train]
    expected = []
    for pair in slow:
        score = 0.0
        for i, value in enumerate(pair):
            as_large = sum(one[i] >= value for one in known)
            score -= 2 * math.log((1 + as_large) / (1 + len(known)))
        expected.append(score)
    np.testing.assert_allclose(fitted.score(outputs), expected, rtol=1e-9)


def test_neighbours_hide_a_share_of_the_words(victim):
    detector = ADDMU(neighbours=400, drawn=1, share=0.1).attach(victim)
    mask = victim.tokenizer.mask_token or victim.tokenizer.unk_token
    neighbours = detector.masked_neighbours(TEXTS[5])
    hidden = sum(neighbour.count(mask) for neighbour in neighbours)
    assert 0.09 < hidden / (400 * len(find_words(TEXTS[5]))) < 0.11
    assert neighbours == detector.masked_neighbours(TEXTS[5])
    assert neighbours != ADDMU(neighbours=400, drawn=1, share=0.1, seed=1).attach(victim).masked_neighbours(TEXTS[5])


def test_scores_depend_on_the_text_and_the_seed_alone(victim, fitted, train, monkeypatch):
    import torch

    outputs = victim.read(TEXTS)
    scores = fitted.score(outputs)
    order = np.array([3, 0, 5, 2, 4, 1])
    torch.manual_seed(99)
    state = torch.get_rng_state()
    np.testing.assert_array_equal(fitted.score(outputs.take(order)), scores[order])
    assert torch.equal(torch.get_rng_state(), state)
    alone = [fitted.score(outputs.take(np.array([i])))[0] for i in range(len(TEXTS))]
    np.testing.assert_array_equal(alone, scores)
    monkeypatch.setattr(victim, "batch_size", 64)
    np.testing.assert_array_equal(fitted.score(outputs), scores)
    other = ADDMU(**SMALL, seed=1).attach(victim)._uncertainties(tuple(TEXTS), outputs.predictions)
    assert (other[:3] != fitted._uncertainties(tuple(TEXTS), outputs.predictions)[:3]).any()


def test_clean_texts_of_the_fit_have_the_ranks_of_a_p_value(victim, fitted, train):
    """Each training text scored again finds itself in its own distribution."""
    values = fitted._uncertainties(tuple(train), victim.read(train).predictions)
    np.testing.assert_array_equal(np.sort(values[:, 0]), fitted.arrays()["data"])
    np.testing.assert_array_equal(np.sort(values[:, 1]), fitted.arrays()["model"])
    scores = fitted.score(victim.read(train))
    assert (scores >= 0).all()
    assert scores.max() <= -4 * math.log(2 / 26) + 1e-9


def test_what_it_asks_is_counted(victim, fitted):
    outputs = victim.read(TEXTS)
    before = victim.forwards
    fitted.score(outputs)
    distinct = sum(len(set(fitted.masked_neighbours(text))) for text in TEXTS)
    assert victim.forwards - before == distinct + len(TEXTS) * SMALL["passes"] * SMALL["drawn"]
    usual = ADDMU().parameters()
    assert ADDMU.info.cost == f"{1 + usual['neighbours'] + usual['passes'] * usual['drawn']} at most"


def test_dropout_is_off_again(victim):
    before = victim.read(TEXTS).probabilities
    rates = [(module, name, getattr(module, name)) for module, name in dropout_places(victim.model)]
    assert rates
    with dropout_on(victim, 0.5):
        assert all(getattr(module, name) == 0.5 for module, name, _ in rates)
        assert victim.model.training
    assert all(getattr(module, name) == rate for module, name, rate in rates)
    assert not any(module.training for module in victim.model.modules())
    np.testing.assert_array_equal(victim.read(TEXTS).probabilities, before)


def test_passes_differ_and_repeat(victim):
    first = dropout_probabilities(victim, TEXTS[:2], 3, 0.2, 5)
    assert first.shape == (3, 2, 2)
    np.testing.assert_allclose(first.sum(axis=2), 1)
    assert (first[0] != first[1]).any()
    np.testing.assert_array_equal(dropout_probabilities(victim, TEXTS[:2], 3, 0.2, 5), first)
    assert (dropout_probabilities(victim, TEXTS[:2], 3, 0.2, 6) != first).any()


def test_saved_and_restored(victim, fitted, tmp_path):
    save_detector(tmp_path, fitted, {})
    again, _ = load_detector(tmp_path)
    assert again.parameters() == fitted.parameters() == {**SMALL, "rows": 200, "seed": 0}
    outputs = victim.read(TEXTS)
    np.testing.assert_array_equal(again.attach(victim).score(outputs), fitted.score(outputs))


def test_bad_input_is_named(victim, tiny_victim, train):
    for wrong in ({"passes": 1}, {"drawn": 0}, {"drawn": 101}, {"share": 0}, {"share": 1}, {"rate": 0}, {"rate": 1}):
        with pytest.raises(ConfigurationError, match="addmu"):
            ADDMU(**wrong)
    with pytest.raises(ConfigurationError, match=r"'addmu' switches dropout on.*without any"):
        ADDMU().attach(tiny_victim)
    outputs = victim.read(train[:19])
    with pytest.raises(DataError, match=r"addmu needs at least 20 training texts.*19"):
        ADDMU(**SMALL).attach(victim).fit(outputs, outputs.predictions)
    with pytest.raises(NotFittedError, match="addmu"):
        ADDMU(**SMALL).attach(victim).score(outputs)
    assert ADDMU(rows=77).fit_rows == 77
