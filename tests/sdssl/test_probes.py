"""Linear probes against PyTorch's own optimiser and scikit-learn; how the rate is chosen; rates that diverge."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from harness.core.errors import ConfigurationError, DataError
from harness.core.progress import Progress
from sdssl import probes
from sdssl.probes import RATES, ProbeSettings, linear_probes

QUICK = ProbeSettings(epochs=10, batch_size=32, rates=(0.01, 0.1))


def clusters(rows, dimensions, classes, seed, spread=1.0):
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    centres = np.random.default_rng(99).standard_normal((classes, dimensions))
    return (centres[labels] + spread * rng.standard_normal((rows, dimensions))).astype(np.float32), labels


def one_probe(features, labels, rows, rate, classes, settings):
    """The weights and biases of one probe trained alone by autograd, `torch.optim.SGD` and its cosine schedule."""
    layer = torch.nn.Linear(features.shape[1], classes)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    groups = [{"params": [layer.weight], "weight_decay": settings.weight_decay}, {"params": [layer.bias]}]
    optimizer = torch.optim.SGD(groups, lr=rate, momentum=settings.momentum)
    steps = -(-len(rows) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps * settings.epochs)
    generator = torch.Generator().manual_seed(settings.seed)
    for _ in range(settings.epochs):
        order = torch.from_numpy(rows)[torch.randperm(len(rows), generator=generator)]
        for batch in np.array_split(order.numpy(), steps):
            logits = layer(torch.from_numpy(features[batch]))
            loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels[batch]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return layer.weight.detach().numpy(), layer.bias.detach().numpy()


@pytest.mark.parametrize(("batch_size", "weight_decay", "momentum"), [(1000, 0.0, 0.9), (16, 0.0, 0.9), (7, 0.05, 0.5)])
def test_every_probe_of_the_batch_is_trained_as_if_alone(batch_size, weight_decay, momentum):
    settings = ProbeSettings(epochs=5, batch_size=batch_size, weight_decay=weight_decay, momentum=momentum, seed=3)
    first, labels = clusters(60, 6, 4, 0)
    layers, rates = [first, 3 * clusters(60, 6, 4, 1)[0]], [[0.01, 0.1, 0.3], [0.02, 0.003, 0.05]]
    rows = np.arange(5, 58)
    tensors = [torch.from_numpy(layer) for layer in layers]
    with Progress("probes", total=None, unit="epoch") as bar:
        found = probes._fit(tensors, torch.from_numpy(labels), rows, torch.tensor(rates), 4, settings, bar)
    for layer in range(2):
        for column, rate in enumerate(rates[layer]):
            weights, biases = one_probe(layers[layer], labels, rows, rate, 4, settings)
            part = slice(4 * column, 4 * column + 4)
            np.testing.assert_allclose(found.weights[layer, part], weights, rtol=1e-3, atol=1e-5)
            np.testing.assert_allclose(found.biases[layer, part, 0], biases, rtol=1e-3, atol=1e-5)


def test_real_digits_come_near_logistic_regression():
    pixels, labels = load_digits(return_X_y=True)
    pixels = pixels.astype(np.float32)
    # Raw, small, and large with a mean: layers differ in scale like that.
    layers = [pixels, pixels / 30, 8 * pixels + 20]
    train, test = [layer[:1300] for layer in layers], [layer[1300:] for layer in layers]
    results = linear_probes(train, labels[:1300], test, num_classes=10, settings=ProbeSettings(epochs=60))
    peer = LogisticRegression(max_iter=2000).fit(train[0], labels[:1300])
    wanted = peer.score(test[0], labels[1300:])
    assert wanted > 0.85
    for result in results:
        assert (result.predictions == labels[1300:]).mean() == pytest.approx(wanted, abs=0.025)
        assert max(result.heldout_accuracy.values()) == result.heldout_accuracy[result.rate]
    assert results[2].rate < results[1].rate


def test_the_rate_is_chosen_on_held_out_rows_and_the_smaller_of_equals():
    train, labels = clusters(200, 8, 3, 0, spread=0.01)  # so easy that every rate is right
    test, truth = clusters(50, 8, 3, 1, spread=0.01)
    settings = dataclasses.replace(QUICK, rates=(1.0, 0.03, 0.3))
    (result,) = linear_probes([train], labels, [test], num_classes=3, settings=settings)
    assert result.heldout_accuracy == {0.03: 1.0, 0.3: 1.0, 1.0: 1.0}
    assert result.rate == 0.03
    np.testing.assert_array_equal(result.predictions, truth)
    # Test rows have no say.
    (other,) = linear_probes([train], labels, [-test], num_classes=3, settings=settings)
    assert (other.rate, other.heldout_accuracy) == (result.rate, result.heldout_accuracy)


def test_held_out_rows_are_not_trained_on_until_the_last_fit(monkeypatch):
    train, labels = clusters(90, 8, 3, 0)
    seen = []
    inner = probes._fit
    monkeypatch.setattr(probes, "_fit", lambda *given: (seen.append((given[2], given[3])), inner(*given))[1])
    (result,) = linear_probes([train], labels, [train], num_classes=3, settings=QUICK)
    (fitted, grid), (everything, chosen) = seen
    assert len(fitted) == 81
    assert grid.shape == (1, 2)
    np.testing.assert_array_equal(everything, np.arange(90))
    assert chosen.tolist() == [[pytest.approx(result.rate)]]


def test_the_rate_is_not_judged_on_rows_that_were_trained_on():
    """Labels without meaning, and enough dimensions to learn them by heart."""
    rng = np.random.default_rng(0)
    train, labels = rng.standard_normal((100, 300)).astype(np.float32), rng.permutation(np.arange(100) % 2)
    settings = dataclasses.replace(QUICK, epochs=30, heldout=0.5)
    (result,) = linear_probes([train], labels, [train], num_classes=2, settings=settings)
    assert (result.predictions == labels).all()
    assert max(result.heldout_accuracy.values()) < 0.75


def test_held_out_rows_are_drawn_class_by_class():
    labels = np.array([0] * 50 + [1] * 20 + [2] * 3 + [3])
    fitted, heldout = probes._split(labels, ProbeSettings(heldout=0.1))
    assert np.bincount(labels[heldout], minlength=4).tolist() == [5, 2, 1, 0]
    np.testing.assert_array_equal(np.sort(np.concatenate([fitted, heldout])), np.arange(len(labels)))
    _, other = probes._split(labels, ProbeSettings(seed=1))
    assert not np.array_equal(heldout, other)
    most, _ = probes._split(labels, ProbeSettings(heldout=0.999))
    assert np.unique(labels[most]).tolist() == [0, 1, 2, 3]


def test_a_layer_does_not_depend_on_its_company():
    train, labels = clusters(300, 6, 5, 0)
    test, _ = clusters(400, 6, 5, 1)
    wide_train, wide_test = np.hstack([train, train**2]), np.hstack([test, test**2])
    together = linear_probes(
        [train, wide_train, 2 * train], labels, [test, wide_test, 2 * test], num_classes=5, settings=QUICK
    )
    pairs = ((train, test), (wide_train, wide_test), (2 * train, 2 * test))
    for result, (rows, queries) in zip(together, pairs, strict=True):
        (alone,) = linear_probes([rows], labels, [queries], num_classes=5, settings=QUICK)
        assert alone.rate == result.rate
        assert (alone.predictions == result.predictions).mean() > 0.99


def test_the_same_seed_gives_the_same_result():
    train, labels = clusters(150, 6, 5, 0, spread=2)
    test, _ = clusters(400, 6, 5, 1, spread=2)
    first, again, other = (
        linear_probes([train], labels, [test], num_classes=5, settings=dataclasses.replace(QUICK, seed=seed))[0]
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.predictions, again.predictions)
    assert first.heldout_accuracy == again.heldout_accuracy
    assert first.heldout_accuracy != other.heldout_accuracy


def test_a_rate_that_diverges_scores_nothing_and_harms_no_other():
    train, labels = clusters(200, 8, 3, 0)
    test, _ = clusters(90, 8, 3, 1)
    layers, tests = [train, 2 * train], [test, 2 * test]
    settings = dataclasses.replace(QUICK, rates=(0.03,))
    alone = linear_probes(layers, labels, tests, num_classes=3, settings=settings)
    settings = dataclasses.replace(QUICK, rates=(0.03, 3e38))
    beside = linear_probes(layers, labels, tests, num_classes=3, settings=settings)
    for one, other in zip(alone, beside, strict=True):
        assert other.heldout_accuracy == {0.03: one.heldout_accuracy[0.03], 3e38: 0.0}
        assert other.rate == 0.03
        np.testing.assert_array_equal(one.predictions, other.predictions)
    with pytest.raises(DataError, match="diverge"):
        linear_probes(layers, labels, tests, num_classes=3, settings=dataclasses.replace(QUICK, rates=(3e38,)))


def test_a_held_out_accuracy_of_zero_is_no_divergence():
    """Two rows a class with opposite features: what is held out is always wrong, and still a probe comes out."""
    train = np.array([[1.0], [-1.0], [-1.0], [1.0]], dtype=np.float32)
    (result,) = linear_probes([train], np.array([0, 0, 1, 1]), [train], num_classes=2, settings=QUICK)
    assert result.predictions.shape == (4,)


def test_more_classes_than_occur_and_half_precision():
    train, labels = clusters(60, 6, 3, 0, spread=0.1)
    (result,) = linear_probes(
        [train.astype(np.float16)], labels, [train.astype(np.float16)], num_classes=10, settings=QUICK
    )
    np.testing.assert_array_equal(result.predictions, labels)


def test_the_default_grid_is_thirteen_rising_rates():
    assert len(RATES) == 13
    assert sorted(RATES) == list(RATES)
    assert ProbeSettings().epochs == 100


def test_data_that_no_probe_can_learn_from_is_refused():
    train, labels = clusters(30, 6, 3, 0)
    cases = [
        (train, np.zeros(30, dtype=int), "two classes"),
        (train[:3], labels[:3], "held out"),
        (train, labels + 1, "labels must lie in"),
        (train, labels[:-1], "as many integer labels"),
        (train * np.nan, labels, "NaN or infinity"),
    ]
    for features, truth, message in cases:
        with pytest.raises(DataError, match=message):
            linear_probes([features], truth, [train], num_classes=3, settings=QUICK)
    for layers, tests in (([], []), ([train], []), ([train], [train[:, :4]]), ([train, train], [train, train[:9]])):
        with pytest.raises(ConfigurationError):
            linear_probes(layers, labels, tests, num_classes=3, settings=QUICK)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"rates": ()},
        {"rates": (0.1, -1.0)},
        {"rates": (float("inf"),)},
        {"momentum": 1.0},
        {"weight_decay": -0.1},
        {"heldout": 0.0},
        {"heldout": 1.0},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigurationError):
        ProbeSettings(**wrong)
