"""Sharpness against a plain NumPy ascent on one text at a time, and against finite differences."""

import random
import types

import numpy as np
import pytest

from harness.core.errors import ConfigurationError, NotFittedError
from harness.detectors.fitting import load_detector, save_detector
from harness.detectors.sharpness import Sharpness, ascended_losses
from harness.text.gradients import token_gradients
from harness.text.victims import Victim

VOCABULARY = ["a", "dull", "warm", "film", "plot", ",", "clever", "weak", "cast", "and", "terrible", "script"]
LONG = " ".join(random.Random(0).choices(VOCABULARY, k=150))
TEXTS = [
    "a warm and funny film, but not too long",
    "dull",
    "the plot isn't clever; qzjx acting, terrible script and a weak cast!",
    "I loved it",
    "",
    LONG,
]


@pytest.fixture(scope="module", params=["bert", "roberta", "wordcnn", "lstm"])
def victim(request, tiny_victim_folder):
    if request.param not in ("wordcnn", "lstm"):
        return Victim.load(str(tiny_victim_folder(request.param)), device="cpu", batch_size=3)
    import torch

    from harness.text.word_vocabulary import new_word_classifier

    torch.manual_seed(3)
    model, tokenizer = new_word_classifier(request.param, TEXTS * 2, ["bad", "fair", "good"])
    for name, tensor in model.named_parameters():
        if not name.startswith("embeddings"):
            tensor.data.normal_(0, 0.3)
    return Victim(request.param, model, tokenizer, device="cpu", batch_size=3)


class OneText:
    """Loss and gradient of one text at its moved input embeddings."""

    def __init__(self, victim, text, label):
        self.given = victim.tokenizer(text, truncation=True, max_length=victim.max_length, return_tensors="pt")
        ids = self.given.pop("input_ids").long()
        self.model, self.label = victim.model, label
        self.start = victim.model.get_input_embeddings().weight[ids].detach()

    def __call__(self, delta):
        import torch

        embedded = (self.start + torch.as_tensor(delta, dtype=torch.float32)).requires_grad_()
        loss = -torch.log_softmax(self.model(inputs_embeds=embedded, **self.given).logits[0].double(), 0)[self.label]
        loss.backward()
        return loss.item(), embedded.grad.double().numpy()


def slow_losses(victim, text, label, radius, steps):
    at = OneText(victim, text, label)
    delta = np.zeros(at.start.shape)
    losses = []
    for _ in range(steps):
        loss, gradient = at(delta)
        losses.append(loss)
        norm = np.sqrt((gradient**2).sum())
        delta = delta + (2 * radius / steps) * gradient / (norm or 1.0)
        length = np.sqrt((delta**2).sum())
        delta = delta * (radius / length if length > radius else 1.0)
    return [*losses, at(delta)[0]]


@pytest.mark.parametrize(("radius", "steps"), [(0.2, 4), (1.0, 3), (0.5, 1)])
def test_scores_are_the_slow_ones(victim, radius, steps):
    outputs = victim.read(TEXTS)
    slow = np.array(
        [
            slow_losses(victim, text, label, radius, steps)
            for text, label in zip(TEXTS, outputs.predictions, strict=True)
        ]
    )
    fast = ascended_losses(victim, TEXTS, outputs.predictions, radius, steps)
    np.testing.assert_allclose(fast, slow, rtol=1e-3, atol=1e-5)
    rise = Sharpness(radius=radius, steps=steps).attach(victim).score(outputs)
    np.testing.assert_allclose(rise, slow.max(axis=1) - slow[:, 0], rtol=1e-3, atol=1e-5)
    assert rise.dtype == np.float64
    assert (rise >= 0).all()
    assert (rise > 1e-4).any()
    loss = Sharpness(radius=radius, steps=steps, rise=False).attach(victim).score(outputs)
    np.testing.assert_allclose(loss, slow.max(axis=1), rtol=1e-3, atol=1e-5)


def test_the_loss_starts_at_the_predicted_labels(victim):
    outputs = victim.read(TEXTS)
    losses = ascended_losses(victim, TEXTS, outputs.predictions, 0.2, 2)
    np.testing.assert_allclose(losses[:, 0], -np.log(outputs.probabilities.max(axis=1)), atol=1e-5)


def test_a_small_ball_rises_by_radius_times_the_gradients_norm(victim):
    """First order, with one step cut back from 2 radii to the ball."""
    outputs = victim.read(TEXTS)
    rise = np.diff(ascended_losses(victim, TEXTS, outputs.predictions, 1e-3, 1), axis=1)[:, 0]
    norms = [np.linalg.norm(at.gradient.astype(np.float64)) for at in token_gradients(victim, TEXTS)]
    np.testing.assert_allclose(rise, 1e-3 * np.array(norms), rtol=0.05, atol=2e-6)


def test_ascended_points_are_hardly_beaten_by_random_ones(tiny_victim):
    text, radius = TEXTS[0], 0.2
    outputs = tiny_victim.read([text])
    at = OneText(tiny_victim, text, int(outputs.predictions[0]))
    draw = np.random.default_rng(0)
    tried = []
    for _ in range(100):
        delta = draw.normal(size=at.start.shape)
        tried.append(at(radius * delta / np.linalg.norm(delta))[0])
    assert Sharpness(radius=radius, rise=False).attach(tiny_victim).score(outputs)[0] > max(tried)


def test_order_batches_and_neighbours_do_not_matter(victim, monkeypatch):
    detector = Sharpness().attach(victim)
    outputs = victim.read(TEXTS)
    scores = detector.score(outputs)
    order = np.array([3, 0, 5, 2, 4, 1])
    np.testing.assert_allclose(detector.score(outputs.take(order)), scores[order], rtol=1e-3, atol=2e-6)
    alone = [detector.score(outputs.take(np.array([i])))[0] for i in range(6)]
    np.testing.assert_allclose(alone, scores, rtol=1e-3, atol=2e-6)
    monkeypatch.setattr(victim, "batch_size", 6)
    np.testing.assert_allclose(detector.score(outputs), scores, rtol=1e-3, atol=2e-6)
    assert detector.score(victim.read([])).shape == (0,)


def test_what_it_asks_is_counted_and_the_victim_is_left_as_it_was(victim):
    before = victim.read(TEXTS)
    forwards, backwards = victim.forwards, victim.backwards
    Sharpness().attach(victim).score(before)
    assert (victim.forwards - forwards) / len(TEXTS) == Sharpness.info.forwards_per_text - 1 == 5
    assert (victim.backwards - backwards) / len(TEXTS) == 4
    np.testing.assert_array_equal(victim.read(TEXTS).probabilities, before.probabilities)


def test_a_very_sure_victim_still_has_a_direction(tiny_victim_folder):
    """Gradients of 1e-25 have squares below float32."""
    sure = Victim.load(str(tiny_victim_folder("bert")), device="cpu")
    sure.model.classifier.bias.data[0] += 55
    losses = ascended_losses(sure, TEXTS[:3], np.zeros(3, dtype=np.int64), 0.2, 4)
    assert (losses[:, 0] < 1e-15).all()
    assert np.isfinite(losses).all()


def test_saved_and_restored(tiny_victim, tmp_path):
    detector = Sharpness(radius=0.3, steps=2, rise=False).attach(tiny_victim)
    save_detector(tmp_path, detector, {})
    again, _ = load_detector(tmp_path)
    assert again.parameters() == {"radius": 0.3, "steps": 2, "rise": False}
    outputs = tiny_victim.read(TEXTS)
    np.testing.assert_array_equal(again.attach(tiny_victim).score(outputs), detector.score(outputs))


def test_bad_input_is_named(tiny_victim):
    for wrong in ({"radius": 0}, {"radius": float("nan")}, {"radius": float("inf")}, {"steps": 0}):
        with pytest.raises(ConfigurationError, match="sharpness"):
            Sharpness(**wrong)
    with pytest.raises(NotFittedError, match="sharpness"):
        Sharpness().score(tiny_victim.read(TEXTS))

    def none():
        raise NotImplementedError

    model = types.SimpleNamespace(config=types.SimpleNamespace(model_type="odd"), get_input_embeddings=none)
    with pytest.raises(ConfigurationError, match=r"'sharpness' reads gradients.*'some'"):
        Sharpness().attach(types.SimpleNamespace(model=model, name="some"))
