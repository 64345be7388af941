"""RTD-Guard against one text at a time and plain string work."""

import json
import math
import shutil

import numpy as np
import pytest

from harness.core.compat import prepare_torchvision
from harness.core.errors import ConfigurationError, MissingFileError, NotFittedError
from harness.detectors.fitting import load_detector, save_detector
from harness.detectors.rtd_guard import RTDGuard
from harness.text.discriminator import ReplacedTokenDiscriminator
from harness.text.victims import Victim
from harness.text.words import find_words

LONG = "good bad film plot dull " * 40
TEXTS = ["a good film", "the plot isn't clever; qzjx acting!", "", "... !", "dull", LONG, "I loved it , not at all ."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_victim_folder):
    """A tiny random ELECTRA discriminator."""
    prepare_torchvision()
    import torch
    from transformers import AutoConfig, ElectraForPreTraining

    made = tmp_path_factory.mktemp("electra") / "tiny-discriminator"
    shutil.copytree(tiny_victim_folder("electra"), made)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = ElectraForPreTraining(AutoConfig.from_pretrained(made))
    model.save_pretrained(made, safe_serialization=True)
    return made


@pytest.fixture(scope="module", params=["bert", "roberta"])
def victim(request, tiny_victim_folder):
    return Victim.load(str(tiny_victim_folder(request.param)), device="cpu", batch_size=3)


def slow_words(folder, text):
    """The largest probability of the tokens that share characters with each word; None where none is read."""
    import torch
    from transformers import AutoTokenizer, ElectraForPreTraining

    model, tokenizer = ElectraForPreTraining.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer(text, truncation=True, max_length=128, return_offsets_mapping=True, return_tensors="pt")
    offsets = encoded.pop("offset_mapping")[0].tolist()
    with torch.no_grad():
        logits = model(**encoded).logits[0].tolist()
    return [
        max(
            (
                1 / (1 + math.exp(-z))
                for z, (a, b) in zip(logits, offsets, strict=True)
                if max(a, word.start) < min(b, word.end)
            ),
            default=None,
        )
        for word in find_words(text)
    ]


def slow(victim, folder, text, share):
    import torch

    def ask(asked):
        encoded = victim.tokenizer(asked, return_tensors="pt", truncation=True, max_length=victim.max_length)
        with torch.no_grad():
            return torch.softmax(victim.model(**encoded).logits[0].double(), dim=0).numpy()

    offsets = victim.tokenizer(text, truncation=True, max_length=128, return_offsets_mapping=True)["offset_mapping"]
    end = max(b for _, b in offsets) if text else 0
    words, suspicions = find_words(text), slow_words(folder, text)
    read = [i for i, word in enumerate(words) if word.start < end and suspicions[i] is not None]
    if not read:
        return 0.0
    count = max(1, math.ceil(share * len(read)))
    masked = text
    # From the last to the first, so that places stay.
    for i in sorted(sorted(read, key=lambda i: -suspicions[i])[:count], reverse=True):
        masked = masked[: words[i].start] + victim.tokenizer.mask_token + masked[words[i].end :]
    plain = ask(text)
    return plain[plain.argmax()] - ask(masked)[plain.argmax()]


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_scores_are_the_slow_ones(share, folder, victim):
    detector = RTDGuard(str(folder), share=share).attach(victim)
    outputs = victim.read(TEXTS)
    before = victim.forwards
    scores = detector.score(outputs)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, [slow(victim, folder, text, share) for text in TEXTS], atol=1e-5)
    assert np.abs(scores).max() > 0.01
    assert victim.forwards - before == 5  # two texts have no words
    assert detector.other_forwards == len(TEXTS)


def test_word_scores_are_probabilities(folder, victim):
    detector = RTDGuard(str(folder)).attach(victim)
    told = detector.word_scores(victim.read(TEXTS))
    for text, of_words in zip(TEXTS, told, strict=True):
        assert of_words.dtype == np.float64
        np.testing.assert_allclose(of_words, [p or 0.0 for p in slow_words(folder, text)], rtol=1e-5)
    assert (told[5][126:] == 0).all()
    assert (told[5][:126] > 0).all()


def test_scores_do_not_depend_on_the_other_texts(folder, victim):
    detector = RTDGuard(str(folder)).attach(victim)
    scores = detector.score(victim.read(TEXTS))
    np.testing.assert_allclose(detector.score(victim.read(TEXTS[::-1]))[::-1], scores, atol=1e-6)
    alone = [detector.score(victim.read([text]))[0] for text in TEXTS]
    np.testing.assert_allclose(alone, scores, atol=1e-6)
    detector.other.batch_size = 1
    np.testing.assert_allclose(detector.score(victim.read(TEXTS)), scores, atol=1e-6)
    assert detector.score(victim.read([])).shape == (0,)


def test_a_saved_one_scores_the_same(folder, victim, tmp_path):
    detector = RTDGuard(str(folder), share=0.4).attach(victim)
    outputs = victim.read(TEXTS)
    save_detector(tmp_path, detector, {})
    again, _ = load_detector(tmp_path)
    with pytest.raises(NotFittedError, match="'rtd-guard' has no victim"):
        again.score(outputs)
    np.testing.assert_array_equal(again.attach(victim).score(outputs), detector.score(outputs))
    assert again.facts() == {
        "discriminator": "tiny-discriminator",
        "discriminator_hash": ReplacedTokenDiscriminator.load(folder, device="cpu").hash,
        "share": 0.4,
    }
    assert str(folder.parent) not in json.dumps(again.facts())


def test_another_discriminator_than_the_fitted_one_is_refused(folder, tiny_victim, tmp_path):
    from safetensors.numpy import load_file, save_file

    model = shutil.copytree(folder, tmp_path / "my-electra")
    save_detector(tmp_path / "saved", RTDGuard(str(model)).attach(tiny_victim), {})
    load_detector(tmp_path / "saved")[0].attach(tiny_victim)
    weights = load_file(model / "model.safetensors")
    save_file({name: values * 1.5 for name, values in weights.items()}, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigurationError, match="'my-electra' is not the one that the detector 'rtd-guard' was"):
        load_detector(tmp_path / "saved")[0].attach(tiny_victim)


def test_without_a_discriminator_it_says_so(victim):
    detector = RTDGuard()
    assert detector.facts() == {"discriminator": None, "discriminator_hash": None, "share": 0.2}
    with pytest.raises(ConfigurationError, match="'rtd-guard' has no replaced-token discriminator to ask") as caught:
        detector.attach(victim)
    assert "rtd-guard:discriminator=FOLDER" in caught.value.hint
    # The suite goes on and asks it all the same: it says it again.
    with pytest.raises(ConfigurationError, match="rtd-guard"):
        detector.score(victim.read(TEXTS))


def test_bad_input_is_told_by_name(folder, victim, tmp_path, tiny_victim_folder):
    for share in (0.0, 1.5):
        with pytest.raises(ConfigurationError, match="rtd-guard needs a share"):
            RTDGuard(share=share)
    with pytest.raises(ConfigurationError, match=r"'rtd-guard' .*config\.json is missing"):
        RTDGuard(str(tmp_path)).attach(victim)
    for other in ("electra", "bert"):  # a classifier would get a random head and answer noise
        with pytest.raises(ConfigurationError, match=r"'rtd-guard' .*no trained replaced-token head"):
            RTDGuard(str(tiny_victim_folder(other))).attach(victim)
    with pytest.raises(MissingFileError):
        ReplacedTokenDiscriminator.load(tmp_path / "nowhere")
    pickled = tmp_path / "pickled"
    shutil.copytree(folder, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(ConfigurationError, match=r"'rtd-guard' .*safetensors"):
        RTDGuard(str(pickled)).attach(victim)
    model = ReplacedTokenDiscriminator.load(folder, device="cpu")
    model.tokenizer.pad_token = None
    with pytest.raises(ConfigurationError, match="padding token"):
        ReplacedTokenDiscriminator("tiny", model.model, model.tokenizer, device="cpu")
