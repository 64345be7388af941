"""MLMD and GradMLMD against string work, one forward a text and the whole vocabulary."""

import json
import math
import shutil

import numpy as np
import pytest

from harness.core.errors import ConfigurationError, NotFittedError
from harness.detectors.fitting import load_detector, save_detector
from harness.detectors.mlmd import MLMD, GradMLMD
from harness.text.gradients import token_gradients
from harness.text.masked_lm import MaskedLanguageModel
from harness.text.refilling import Refiller
from harness.text.victims import Victim
from harness.text.words import find_words

TEXTS = ["a Good film", "the plot isn't clever; qzjx acting!", "", "... !", "dull", "I loved it , not [MASK] at all"]


@pytest.fixture(scope="module")
def victim(tiny_victim_folder):
    """A victim with four classes, so that predictions change."""
    return Victim.load(str(tiny_victim_folder("bert", 4)), device="cpu", batch_size=3)


def slow_words(folder, text, position, count):
    """The likeliest words at one place: the whole vocabulary, by the look of the tokens."""
    import torch
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    model, tokenizer = AutoModelForMaskedLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    word = find_words(text)[position]
    left, right = text[: word.start], text[word.end :]
    ids = tokenizer(left + tokenizer.mask_token + right, return_tensors="pt")
    masks = (ids["input_ids"][0] == tokenizer.mask_token_id).nonzero()[:, 0].tolist()
    place = masks[left.count(tokenizer.mask_token)]
    with torch.no_grad():
        logits = model(**ids).logits[0, place]
    found = []
    for number in logits.argsort(descending=True).tolist():
        token = tokenizer.convert_ids_to_tokens(number)
        if "roberta" in folder.name:
            token = token[1:] if token.startswith("Ġ") else "#"
        is_word = token.isascii() and token.isalnum() and number not in tokenizer.all_special_ids
        if is_word and token.lower() != word.text.lower():
            found.append(token)
    return found[:count]


def slow(victim, folder, text, positions, count):
    """The share of changed predictions, and the mean drop for each word."""
    import torch

    def ask(asked):
        encoded = victim.tokenizer(asked, return_tensors="pt", truncation=True, max_length=victim.max_length)
        with torch.no_grad():
            return torch.softmax(victim.model(**encoded).logits[0].double(), dim=0).numpy()

    plain, words = ask(text), find_words(text)
    label, changed, drops = plain.argmax(), [], [0.0] * len(words)
    for position in positions:
        start, end = words[position].start, words[position].end
        said = [ask(text[:start] + new + text[end:]) for new in slow_words(folder, text, position, count)]
        changed += [other.argmax() != label for other in said]
        drops[position] = np.mean([plain[label] - other[label] for other in said])
    return (np.mean(changed) if changed else 0.0), drops


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
def test_scores_are_the_slow_ones(model_type, tiny_masked_lm_folder, victim):
    detector = MLMD(str(tiny_masked_lm_folder(model_type))).attach(victim)
    outputs = victim.read(TEXTS)
    before = victim.forwards
    scores = detector.score(outputs)
    # "MASK" is no word to the victim, which reads "[MASK]" as one special token.
    words = [[i for i, word in enumerate(find_words(text)) if word.text != "MASK"] for text in TEXTS]
    count = sum(map(len, words))
    assert victim.forwards - before == 3 * count
    assert detector.other_forwards == count
    drops = detector.word_scores(outputs)
    assert scores.dtype == np.float64
    for text, positions, score, of_words in zip(TEXTS, words, scores, drops, strict=True):
        wanted, mean_drops = slow(victim, tiny_masked_lm_folder(model_type), text, positions, 3)
        assert score == pytest.approx(wanted, abs=1e-12), text
        np.testing.assert_allclose(of_words, mean_drops, atol=1e-5)
    assert 0 < scores.max() <= 1
    assert len(set(scores)) > 2


def test_gradmlmd_refills_the_words_of_largest_gradient(tiny_masked_lm_folder, victim):
    folder = tiny_masked_lm_folder("bert")
    detector = GradMLMD(str(folder), top=2, share=0.4).attach(victim)
    outputs = victim.read(TEXTS)
    before = (victim.forwards, victim.backwards)
    scores = detector.score(outputs)
    for text, score in zip(TEXTS, scores, strict=True):
        # "plot isn't clever;" is "plot", "isn", "'", "t", ... to the victim: the steepest token of a word counts.
        offsets = victim.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        norms = [float(np.linalg.norm(row)) for row in token_gradients(victim, [text])[0].gradient]
        of_words = {
            i: max(n for n, (a, b) in zip(norms, offsets, strict=True) if max(a, word.start) < min(b, word.end))
            for i, word in enumerate(find_words(text))
            if word.text != "MASK"
        }
        count = max(1, math.ceil(0.4 * len(of_words))) if of_words else 0
        steepest = sorted(of_words, key=lambda i, n=of_words: -n[i])[:count]
        wanted, drops = slow(victim, folder, text, steepest, 2)
        assert score == pytest.approx(wanted, abs=1e-12), text
        (told,) = detector.word_scores(victim.read([text]))
        np.testing.assert_allclose(told, drops, atol=1e-5)
    assert victim.backwards - before[1] == 3 * len(TEXTS)  # once for the scores, once in `slow`, once for the words
    full = GradMLMD(str(folder), share=1.0).attach(victim).score(outputs)
    np.testing.assert_array_equal(full, MLMD(str(folder)).attach(victim).score(outputs))


def test_costs_are_counted(tiny_masked_lm_folder, victim):
    detector = GradMLMD(str(tiny_masked_lm_folder())).attach(victim)
    outputs = victim.read(["a good film and a very dull plot , too"])  # 9 words, of which 3
    before = (victim.forwards, victim.backwards)
    assert detector.other_forwards == 0
    detector.score(outputs)
    assert (victim.forwards - before[0], victim.backwards - before[1]) == (1 + 9, 1)
    assert detector.other_forwards == 3


def test_scores_do_not_depend_on_the_other_texts(tiny_masked_lm_folder, victim, tiny_victim_folder, monkeypatch):
    for kind in (MLMD, GradMLMD):
        detector = kind(str(tiny_masked_lm_folder())).attach(victim)
        scores = detector.score(victim.read(TEXTS))
        np.testing.assert_array_equal(detector.score(victim.read(TEXTS[::-1]))[::-1], scores)
        alone = [detector.score(victim.read([text]))[0] for text in TEXTS]
        np.testing.assert_array_equal(alone, scores)
        other = Victim.load(str(tiny_victim_folder("bert", 4)), device="cpu", batch_size=1)
        monkeypatch.setattr("harness.detectors.mlmd._CHUNK", 2)
        np.testing.assert_array_equal(detector.attach(other).score(other.read(TEXTS)), scores)
        assert detector.score(victim.read([])).shape == (0,)


def test_a_saved_one_scores_the_same(tiny_masked_lm_folder, victim, tmp_path):
    detector = GradMLMD(str(tiny_masked_lm_folder()), top=2, share=0.5).attach(victim)
    outputs = victim.read(TEXTS)
    save_detector(tmp_path, detector, {})
    again, _ = load_detector(tmp_path)
    with pytest.raises(NotFittedError, match="'gradmlmd' has no victim"):
        again.score(outputs)
    np.testing.assert_array_equal(again.attach(victim).score(outputs), detector.score(outputs))
    facts = again.facts()
    assert facts == {
        "masked_lm": "tiny-bert-mlm",
        "masked_lm_hash": MaskedLanguageModel.load(tiny_masked_lm_folder(), device="cpu").hash,
        "top": 2,
        "share": 0.5,
    }
    assert str(tiny_masked_lm_folder().parent) not in json.dumps(facts)


@pytest.mark.parametrize("kind", [MLMD, GradMLMD])
def test_another_masked_lm_than_the_fitted_one_is_refused(kind, tiny_masked_lm_folder, tiny_victim, tmp_path):
    from safetensors.numpy import load_file, save_file

    model = shutil.copytree(tiny_masked_lm_folder(), tmp_path / "my-lm")
    save_detector(tmp_path / "saved", kind(str(model)).attach(tiny_victim), {})
    load_detector(tmp_path / "saved")[0].attach(tiny_victim)
    weights = load_file(model / "model.safetensors")
    save_file({name: values * 1.5 for name, values in weights.items()}, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigurationError, match=f"'my-lm' is not the one that the detector '{kind.info.name}' was"):
        load_detector(tmp_path / "saved")[0].attach(tiny_victim)


def test_words_beyond_what_the_victim_reads_are_left(tiny_masked_lm_folder, tiny_victim_folder):
    short = Victim.load(str(tiny_victim_folder("bert", 4)), device="cpu", max_length=6)
    detector = MLMD(str(tiny_masked_lm_folder())).attach(short)
    outputs = short.read(["a good film and a dull plot"])
    before = short.forwards
    detector.score(outputs)
    assert short.forwards - before == 3 * 4
    assert (detector.word_scores(outputs)[0][4:] == 0).all()


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
def test_the_likeliest_words_are_those_of_the_right_mask(model_type, tiny_masked_lm_folder):
    folder = tiny_masked_lm_folder(model_type)
    lm = MaskedLanguageModel.load(folder, device="cpu")
    text = f"no {lm.tokenizer.mask_token} Film is not as {lm.tokenizer.mask_token} dull"
    places = [i for i, word in enumerate(find_words(text)) if word.text.lower() != "mask"]
    found = Refiller(lm).words([text] * len(places), places, 20)
    assert found == [slow_words(folder, text, place, 20) for place in places]
    assert len({tuple(words) for words in found}) == len(places)


@pytest.mark.parametrize("position", [0, 40, 120, 260, 299])
def test_what_is_longer_than_the_masked_lm_takes_is_cut_around_the_mask(position, tiny_masked_lm_folder):
    import torch

    lm = MaskedLanguageModel.load(tiny_masked_lm_folder(), device="cpu")
    pool = ["good", "bad", "film", "plot", "dull", "warm", "cast"]
    words = [pool[i % 7] for i in range(300)]
    (found,) = Refiller(lm).words([" ".join(words)], [position], 5)
    # One word is one token here; the model takes 128, of which the first and the last are special.
    start = min(max(0, position - 63), 300 - 126)
    part = [*words[:position], "[MASK]", *words[position + 1 :]][start : start + 126]
    ids = lm.tokenizer(" ".join(part), return_tensors="pt")
    assert ids["input_ids"].shape == (1, 128)
    with torch.no_grad():
        logits = lm.model(**ids).logits[0, 1 + position - start]
    tokens = lm.tokenizer.convert_ids_to_tokens(logits.argsort(descending=True).tolist())
    assert found == [t for t in tokens if t.isalnum() and t.isascii() and t != words[position]][:5]


def test_more_words_than_there_are_tokens(tiny_masked_lm_folder, words):
    lm = MaskedLanguageModel.load(tiny_masked_lm_folder(), device="cpu")
    (found,) = Refiller(lm).words(["a Film"], [1], 10_000)
    assert sorted(found) == sorted({*words, *"abcdefghijklmnopqrstuvwxyz0123456789"} - {"film"})
    assert Refiller(lm).words([], [], 3) == []


def test_the_default_is_what_harness_fetch_made(tiny_masked_lm_folder, victim, tmp_path, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_CACHE", str(tmp_path))
    for kind in (MLMD, GradMLMD):
        name = kind.info.name
        with pytest.raises(ConfigurationError, match=f"the detector '{name}' has no masked language model") as caught:
            kind().attach(victim)
        assert "harness fetch minilm-masked-lm" in caught.value.hint
        assert f"{name}:masked_lm=FOLDER" in caught.value.hint
    shutil.copytree(tiny_masked_lm_folder(), tmp_path / "artifacts" / "minilm-masked-lm")
    outputs = victim.read(TEXTS)
    detector = MLMD().attach(victim)
    np.testing.assert_array_equal(
        detector.score(outputs), MLMD(str(tiny_masked_lm_folder())).attach(victim).score(outputs)
    )
    assert detector.parameters() == {"masked_lm": None, "top": 3}
    assert detector.facts()["masked_lm"] == "minilm-masked-lm"


def test_bad_input_is_told_by_name(tiny_masked_lm_folder, victim, tmp_path, tiny_victim_folder):
    with pytest.raises(ConfigurationError, match=r"the detector 'mlmd' .*config\.json is missing"):
        MLMD(str(tmp_path)).attach(victim)
    with pytest.raises(ConfigurationError, match=r"the detector 'mlmd' .*no trained masked-LM head"):
        MLMD(str(tiny_victim_folder("bert"))).attach(victim)
    with pytest.raises(ConfigurationError, match="mlmd needs a top of 1"):
        MLMD(top=0)
    with pytest.raises(ConfigurationError, match="gradmlmd needs a share"):
        GradMLMD(share=0.0)
    with pytest.raises(ConfigurationError, match="gradmlmd needs a share"):
        GradMLMD(share=1.1)
