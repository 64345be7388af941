"""PPL against log-softmax on one text at a time."""

import json

import numpy as np
import pytest

from harness.core.compat import prepare_torchvision
from harness.core.errors import ConfigurationError, DataError, NotFittedError
from harness.detectors.fitting import load_detector, save_detector
from harness.detectors.ppl import Perplexity
from harness.text.victims import VictimOutputs
from harness.text.words import find_words

TEXTS = ["a good film", "the plot isn't clever; the actors seem dull!", "", "... !", "not " * 90, "zyxw"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_victim_folder):
    """A tiny random GPT-2 with a byte-pair tokenizer and 64 positions."""
    prepare_torchvision()
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

    files = tiny_victim_folder("roberta")
    tokenizer = GPT2TokenizerFast(str(files / "vocab.json"), str(files / "merges.txt"), model_max_length=64)
    config = GPT2Config(len(tokenizer), n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT2LMHeadModel(config)
    made = tmp_path_factory.mktemp("causal") / "tiny-gpt2"
    model.save_pretrained(made, safe_serialization=True)
    tokenizer.save_pretrained(made)
    return made


def outputs_of(texts):
    return VictimOutputs(np.full((len(texts), 2), 0.5), texts=tuple(texts))


def slow(folder, text):
    """For each token its surprise, and for each word the sum of the tokens that share characters with it."""
    import torch
    from transformers import AutoTokenizer, GPT2LMHeadModel

    model, tokenizer = GPT2LMHeadModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer(text, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"][:63], encoded["offset_mapping"][:63]
    surprises, context = [], [tokenizer.bos_token_id]
    for number in ids:
        with torch.no_grad():
            logits = model(torch.tensor([context])).logits[0, -1].double()
        surprises.append(-float(torch.log_softmax(logits, dim=0)[number]))
        context.append(number)
    words = [
        sum(s for s, (a, b) in zip(surprises, offsets, strict=True) if max(a, word.start) < min(b, word.end))
        for word in find_words(text)
    ]
    return (sum(surprises) / len(surprises) if surprises else 0.0), words


def test_scores_and_word_scores_are_the_slow_ones(folder, tiny_victim):
    detector = Perplexity(str(folder)).attach(tiny_victim)
    before = tiny_victim.forwards
    scores, of_words = detector.score(outputs_of(TEXTS)), detector.word_scores(outputs_of(TEXTS))
    assert scores.dtype == np.float64
    for text, score, words in zip(TEXTS, scores, of_words, strict=True):
        mean, sums = slow(folder, text)
        assert score == pytest.approx(mean, rel=1e-5)
        assert words.dtype == np.float64
        np.testing.assert_allclose(words, sums, rtol=1e-5)
    # "not" is one token, and the start token takes a place: the 27 words after the 63rd are not read.
    assert (of_words[4] > 0).sum() == 63
    assert tiny_victim.forwards == before
    assert detector.other_forwards == 2 * len(TEXTS)


def test_scores_do_not_depend_on_the_other_texts(folder, tiny_victim):
    detector = Perplexity(str(folder)).attach(tiny_victim)
    scores = detector.score(outputs_of(TEXTS))
    np.testing.assert_allclose(detector.score(outputs_of(TEXTS[::-1]))[::-1], scores, rtol=1e-5)
    alone = [detector.score(outputs_of([text]))[0] for text in TEXTS]
    np.testing.assert_allclose(alone, scores, rtol=1e-5)
    detector.other.batch_tokens = 1
    np.testing.assert_allclose(detector.score(outputs_of(TEXTS)), scores, rtol=1e-5)
    assert detector.score(outputs_of([])).shape == (0,)


def test_a_saved_one_scores_the_same(folder, tiny_victim, tmp_path):
    detector = Perplexity(str(folder)).attach(tiny_victim)
    scores = detector.score(outputs_of(TEXTS))
    save_detector(tmp_path, detector, {})
    again, _ = load_detector(tmp_path)
    assert again.parameters() == {"language_model": str(folder)}
    with pytest.raises(NotFittedError, match="'ppl' has no victim"):
        again.score(outputs_of(TEXTS))
    np.testing.assert_array_equal(again.attach(tiny_victim).score(outputs_of(TEXTS)), scores)


def test_facts_hold_no_path(folder, tiny_victim):
    detector = Perplexity(str(folder))
    assert detector.facts() == {"language_model": "tiny-gpt2", "language_model_hash": None}
    detector.attach(tiny_victim)
    assert detector.facts() == {"language_model": "tiny-gpt2", "language_model_hash": detector.other.hash}
    assert str(folder) not in json.dumps(detector.facts())
    assert Perplexity().facts()["language_model"] == "smollm2"
    assert Perplexity("openai-community/gpt2").facts()["language_model"] == "openai-community/gpt2"
    assert Perplexity("/not/there/gpt2").facts()["language_model"] == "gpt2"


def test_the_model_is_loaded_once_a_device(folder, tiny_victim):
    detector = Perplexity(str(folder)).attach(tiny_victim)
    model = detector.other
    assert detector.attach(tiny_victim).other is model


def test_bad_input_is_told_by_name(tmp_path, folder, tiny_victim, tiny_victim_folder):
    with pytest.raises(ConfigurationError, match=r"the detector 'ppl' has no causal language model to ask: .*config"):
        Perplexity(str(tmp_path)).attach(tiny_victim)
    with pytest.raises(ConfigurationError, match=r"the detector 'ppl' .*no trained language-model head"):
        Perplexity(str(tiny_victim_folder("bert"))).attach(tiny_victim)
    with pytest.raises(DataError, match="texts themselves"):
        Perplexity(str(folder)).attach(tiny_victim).score(VictimOutputs(np.ones((1, 2))))
