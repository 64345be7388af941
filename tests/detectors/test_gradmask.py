"""GradMask against autograd on one text at a time and plain string work."""

import math
import random
import types

import numpy as np
import pytest

from harness.core.errors import ConfigurationError, DataError, NotFittedError
from harness.detectors.fitting import load_detector, save_detector
from harness.detectors.gradmask import GradMask
from harness.text.victims import Victim, VictimOutputs
from harness.text.words import find_words

VOCABULARY = ["a", "dull", "warm", "film", "plot", ",", "clever", "weak", "cast", "and", "terrible", "script"]
LONG = " ".join(random.Random(0).choices(VOCABULARY, k=180))
TEXTS = [
    "a warm and funny film, but not too long",
    "dull",
    "the plot isn't clever; qzjx acting, terrible script and a weak cast!",
    "I loved it",
    "",
    "... !",
    LONG,
]


@pytest.fixture(scope="module", params=["bert", "roberta", "wordcnn", "lstm"])
def victim(request, tiny_victim_folder, tmp_path_factory):
    if request.param not in ("wordcnn", "lstm"):
        return Victim.load(str(tiny_victim_folder(request.param)), device="cpu", batch_size=3)
    import torch

    from harness.text.word_vocabulary import new_word_classifier

    torch.manual_seed(3)
    model, tokenizer = new_word_classifier(request.param, TEXTS * 2, ["bad", "good"])
    for name, tensor in model.named_parameters():
        if not name.startswith("embeddings"):
            tensor.data.normal_(0, 0.3)
    return Victim(request.param, model, tokenizer, device="cpu", batch_size=3)


def probabilities(victim, text):
    import torch

    encoded = victim.tokenizer(text, truncation=True, max_length=victim.max_length, return_tensors="pt")
    with torch.no_grad():
        encoded["input_ids"] = encoded["input_ids"].long()
        return torch.softmax(victim.model(**encoded).logits[0].double(), dim=0).numpy()


def word_norms(victim, text):
    """The slow way: gradients through `inputs_embeds`, and the word each token shares characters with."""
    import torch

    words = find_words(text)
    encoded = victim.tokenizer(
        text,
        truncation=True,
        max_length=victim.max_length,
        return_tensors="pt",
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
    )
    special = encoded.pop("special_tokens_mask")[0].tolist()
    offsets = encoded.pop("offset_mapping")[0].tolist()
    ids = encoded.pop("input_ids").long()
    embedded = victim.model.get_input_embeddings().weight[ids].detach().requires_grad_()
    logits = victim.model(inputs_embeds=embedded, **encoded).logits[0]
    (-torch.log_softmax(logits, dim=0)[logits.argmax()]).backward()
    norms = [None] * len(words)
    for vector, (start, end), is_special in zip(embedded.grad[0], offsets, special, strict=True):
        for position, word in enumerate(words):
            if not is_special and max(start, word.start) < min(end, word.end):
                norm = math.sqrt(sum(float(value) ** 2 for value in vector))
                norms[position] = max(norm, norms[position] or 0.0)
    return norms


def one_score(victim, text, share, versions):
    norms, words = word_norms(victim, text), find_words(text)
    order = sorted((i for i, norm in enumerate(norms) if norm is not None), key=lambda i: (-norms[i], i))
    if not order:
        return 0.0
    plain = probabilities(victim, text)
    label = int(plain.argmax())
    most = max(1, math.ceil(share * len(order) - 1e-9))
    counts = sorted({math.ceil(most * i / min(versions, most)) for i in range(1, min(versions, most) + 1)})
    drops = []
    for count in counts:
        masked = text
        for position in sorted(order[:count], reverse=True):
            mask = victim.tokenizer.mask_token or victim.tokenizer.unk_token
            masked = masked[: words[position].start] + mask + masked[words[position].end :]
        drops.append(plain[label] - probabilities(victim, masked)[label])
    return max(drops)


@pytest.mark.parametrize(("share", "versions"), [(0.2, 5), (0.5, 3), (1.0, 20)])
def test_scores_are_the_slow_ones(victim, share, versions):
    detector = GradMask(share=share, versions=versions).attach(victim)
    scores = detector.score(victim.read(TEXTS))
    assert scores.dtype == np.float64
    expected = [one_score(victim, text, share, versions) for text in TEXTS]
    np.testing.assert_allclose(scores, expected, atol=2e-6)
    assert scores[4] == scores[5] == 0.0


def test_word_scores_are_gradient_norms(victim):
    found = GradMask().attach(victim).word_scores(victim.read(TEXTS))
    for text, scores in zip(TEXTS, found, strict=True):
        expected = [norm or 0.0 for norm in word_norms(victim, text)]
        np.testing.assert_allclose(scores, expected, rtol=2e-3, atol=1e-6)
        assert len(scores) == len(find_words(text))
    if victim.max_length < 180:
        assert found[6][-1] == 0.0  # cut away


def test_order_and_batches_do_not_matter(victim, monkeypatch):
    detector = GradMask().attach(victim)
    outputs = victim.read(TEXTS[:6])
    scores = detector.score(outputs)
    order = np.array([3, 0, 5, 2, 4, 1])
    np.testing.assert_allclose(detector.score(outputs.take(order)), scores[order], atol=2e-6)
    np.testing.assert_allclose([detector.score(outputs.take(np.array([i])))[0] for i in range(6)], scores, atol=2e-6)
    monkeypatch.setattr(victim, "batch_size", 1)
    np.testing.assert_allclose(detector.score(outputs), scores, atol=2e-6)


def test_what_it_asks_is_counted(victim):
    outputs = victim.read(TEXTS[:4])
    forwards, backwards = victim.forwards, victim.backwards
    GradMask(share=1.0, versions=2).attach(victim).score(outputs)
    # Of one word there is one masked version.
    assert victim.forwards - forwards == 4 + 2 + 1 + 2 + 2
    assert victim.backwards - backwards == 4


def test_versions_mask_more_and_more():
    assert GradMask(share=0.2, versions=5)._counts(100) == [4, 8, 12, 16, 20]
    assert GradMask(share=0.2, versions=5)._counts(17) == [1, 2, 3, 4]
    assert GradMask(share=0.3, versions=5)._counts(10) == [1, 2, 3]  # 0.3 * 10 is above 3 in floating point
    assert GradMask(share=0.1)._counts(3) == [1]
    assert GradMask()._counts(0) == []


def test_saved_and_restored(tiny_victim, tmp_path):
    detector = GradMask(share=0.4, versions=2).attach(tiny_victim)
    save_detector(tmp_path, detector, {})
    again, _ = load_detector(tmp_path)
    assert again.parameters() == {"share": 0.4, "versions": 2}
    outputs = tiny_victim.read(TEXTS)
    np.testing.assert_array_equal(again.attach(tiny_victim).score(outputs), detector.score(outputs))


def test_bad_input_is_named(tiny_victim):
    for wrong in ({"share": 0}, {"share": 1.1}, {"versions": 0}):
        with pytest.raises(ConfigurationError, match="gradmask"):
            GradMask(**wrong)
    with pytest.raises(NotFittedError, match="gradmask"):
        GradMask().score(tiny_victim.read(TEXTS))
    with pytest.raises(DataError, match="texts"):
        GradMask().attach(tiny_victim).score(VictimOutputs(np.ones((1, 2)) / 2))
    model = types.SimpleNamespace(config=types.SimpleNamespace(model_type="odd"), get_input_embeddings=lambda: None)
    with pytest.raises(ConfigurationError, match=r"'gradmask' reads gradients.*'some'"):
        GradMask().attach(types.SimpleNamespace(model=model, name="some"))
