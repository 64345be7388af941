"""PPL against log-softmax on one text at a time."""

import json
import shutil

import numpy as np
import pytest

from harness.core.compat import prepare_torchvision
from harness.core.errors import ConfigurationError, DataError, NotFittedError
from harness.detectors.fitting import load_detector, save_detector
from harness.detectors.joint_detector import JointDetector
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


def replace_weights(model):
    """Other weights of the same shapes, in the same place."""
    from safetensors.numpy import load_file, save_file

    weights = load_file(model / "model.safetensors")
    save_file({name: values * 1.5 for name, values in weights.items()}, model / "model.safetensors", {"format": "pt"})


def respell(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_another_model_than_the_fitted_one_is_refused(folder, tiny_victim, tmp_path):
    model, saved, again = shutil.copytree(folder, tmp_path / "my-lm"), tmp_path / "saved", tmp_path / "again"
    detector = Perplexity(str(model)).attach(tiny_victim)
    save_detector(saved, detector, {})
    known = json.loads((saved / "detector.json").read_text())
    assert known["other_model_hash"] == detector.other.hash
    assert known["parameters"] == {"language_model": str(model)}
    # A fitted one that was loaded and asked nobody still says which model it needs.
    save_detector(again, load_detector(saved)[0], {})
    scores = load_detector(again)[0].attach(tiny_victim).score(outputs_of(TEXTS))
    replace_weights(model)
    for place in (saved, again):
        other, _ = load_detector(place)
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="'my-lm' is not the one that the detector 'ppl' was fitted"):
                other.attach(tiny_victim)
        with pytest.raises(ConfigurationError, match="'my-lm' is not the one"):
            other.score(outputs_of(TEXTS))
    # A file of before says nothing of the other model.
    (saved / "detector.json").write_text(json.dumps({k: v for k, v in known.items() if k != "other_model_hash"}))
    assert not np.allclose(load_detector(saved)[0].attach(tiny_victim).score(outputs_of(TEXTS)), scores)
    for wrong in (7, "", "../x", ["0" * 64]):
        respell(saved / "detector.json", other_model_hash=wrong)
        with pytest.raises(DataError, match=r"is damaged: other_model_hash is no SHA-256\."):
            load_detector(saved)


def test_another_model_than_the_fitted_one_is_refused_in_a_joint_detector(folder, tiny_victim, tmp_path):
    model = shutil.copytree(folder, tmp_path / "my-lm")
    joint = JointDetector([("msp", {}), ("ppl", {"language_model": str(model)})]).attach(tiny_victim)
    facts = json.dumps(joint.facts())
    joint.fit(tiny_victim.read([text for text in TEXTS if text]), np.zeros(5))
    save_detector(tmp_path / "joint", joint, {})
    replace_weights(model)
    again, known = load_detector(tmp_path / "joint")
    with pytest.raises(ConfigurationError, match="'my-lm' is not the one that the detector 'ppl' was fitted"):
        again.attach(tiny_victim)
    # Scores are stored by facts, which are what they were.
    told = {"other_model_hash": joint.members[1].other.hash}
    ppl = {"language_model": "my-lm", "language_model_hash": joint.members[1].other.hash}
    assert json.loads(facts)["members"] == [["msp", {}], ["ppl", ppl]]
    assert known["parameters"]["members"] == [["msp", {}], ["ppl", {"language_model": str(model)}, told]]
    known["parameters"]["members"][1].pop()
    respell(tmp_path / "joint" / "detector.json", parameters=known["parameters"])
    load_detector(tmp_path / "joint")[0].attach(tiny_victim)


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
