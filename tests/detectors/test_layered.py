"""One layer, or all layers joined: what the four feature-geometry detectors share."""

import math

import numpy as np
import pytest

from harness.core.errors import ConfigurationError, DataError, NotFittedError
from harness.detectors.fitting import build_detector, fit_detectors, load_detector, save_detector
from harness.detectors.knn import KNN
from harness.detectors.layered import HELD_OUT
from harness.detectors.lid import LID
from harness.detectors.mahalanobis import Mahalanobis, RelativeMahalanobis
from harness.text.datasets import TextDataset
from harness.text.victims import Victim, VictimOutputs
from harness.text.word_vocabulary import new_word_classifier

KINDS = (Mahalanobis, RelativeMahalanobis, KNN, LID)
SMALL = {Mahalanobis: {}, RelativeMahalanobis: {}, KNN: {"k": 3}, LID: {"k": 6}}
WIDTHS = {1: 5, 2: 8, 3: 8}


class StubVictim:
    """What `attach` asks of a victim."""

    num_layers = 3

    def __init__(self, has_class_token=True):
        self.has_class_token = has_class_token

    def layer(self, layer):
        """A layer's number from the front."""
        return layer % 4


@pytest.fixture(scope="module")
def data():
    """(training outputs, labels, test outputs) of three layers of other scales and widths."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 120)

    def read(labels, spread):
        features = {}
        for layer, width in WIDTHS.items():
            centres = np.outer([0, 2], np.ones(width))
            drawn = centres[labels] + spread * rng.standard_normal((len(labels), width))
            features[layer] = (10.0**layer * drawn + 3).astype(np.float32)
        return VictimOutputs(np.full((len(labels), 2), 0.5), features)

    return read(labels, 1.0), labels, read(rng.integers(0, 2, 30), 1.5)


@pytest.fixture(scope="module")
def texts(words):
    """200 random sentences of 2 classes."""
    rng = np.random.default_rng(0)
    drawn = [" ".join(rng.choice(words, size=rng.integers(3, 12))) for _ in range(200)]
    return TextDataset("toy", "train", drawn, rng.integers(0, 2, 200), np.arange(200), None, {"kind": "test"})


def one_layer(kind, layer, train, labels, test):
    """Scores of a detector of one layer."""
    return kind(layer=layer, **SMALL[kind]).fit(train, labels).score(test)


def held_out_scores(kind, layer, train, labels, test):
    """Scores of test texts and of held-out training texts by a fit on four fifths of each class."""
    seen = {0: 0, 1: 0}
    held = []
    for row, label in enumerate(labels):
        seen[label] += 1
        if seen[label] % HELD_OUT == 0:
            held.append(row)
    kept = np.array([row for row in range(len(labels)) if row not in held])
    fitted = kind(layer=layer).fit(train.take(kept), labels[kept])
    return fitted.score(test), fitted.score(train.take(np.array(held)))


def left_out_scores(kind, layer, train, labels, test):
    """Scores of test texts by all rows, and of each row by the others."""
    alone = []
    for row in range(len(labels)):
        others = np.delete(np.arange(len(labels)), row)
        alone.extend(one_layer(kind, layer, train.take(others), labels[others], train.take(np.array([row]))))
    return one_layer(kind, layer, train, labels, test), np.array(alone)


@pytest.mark.parametrize("kind", KINDS)
def test_all_layers_are_standardised_on_unseen_texts_and_averaged(kind, data):
    train, labels, test = data
    scores = kind(layer="all", **SMALL[kind]).attach(StubVictim()).fit(train, labels).score(test)
    compare = left_out_scores if kind in (KNN, LID) else held_out_scores
    expected = np.zeros(30)
    for layer in WIDTHS:
        found, unseen = compare(kind, layer, train, labels, test)
        expected += (found - unseen.mean()) / math.sqrt(((unseen - unseen.mean()) ** 2).mean()) / len(WIDTHS)
    np.testing.assert_allclose(scores, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_counts_the_same_whatever_its_scale(kind, data):
    train, labels, test = data
    detector = kind(layer="all", **SMALL[kind]).attach(StubVictim()).fit(train, labels)
    scaled = {layer: values * (100 if layer == 1 else 1) for layer, values in train.features.items()}
    moved = {layer: values * (100 if layer == 1 else 1) for layer, values in test.features.items()}
    other = kind(layer="all", **SMALL[kind]).attach(StubVictim())
    other.fit(VictimOutputs(train.probabilities, scaled), labels)
    np.testing.assert_allclose(
        other.score(VictimOutputs(test.probabilities, moved)), detector.score(test), rtol=1e-4, atol=1e-4
    )
    assert detector.score(test).mean() > 0.2  # the test texts are spread wider than the training texts


def test_only_some_rows_are_left_out_where_there_are_many(data, monkeypatch):
    train, labels, _ = data
    monkeypatch.setattr("harness.detectors.neighbours.LEFT_OUT", 4)
    standards = KNN(layer="all", k=3).attach(StubVictim()).fit(train, labels).arrays()["standards"]
    _, unseen = left_out_scores(KNN, 1, train, labels, train)
    few = unseen[[0, 40, 79, 119]]
    np.testing.assert_allclose(standards[0], [few.mean(), few.std()], rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", [2, "all"])
def test_it_works_on_a_victim_and_from_a_folder(kind, layer, tiny_victim, texts, tmp_path):
    options = {"covariance": "ledoit-wolf"} if kind in (Mahalanobis, RelativeMahalanobis) else SMALL[kind]
    detector = build_detector(kind.info.name, tiny_victim, {"layer": layer, **options})
    assert detector.layers == ((2,) if layer == 2 else (1, 2, 3))
    fit_detectors([detector], tiny_victim, texts)
    save_detector(tmp_path, detector, {})
    again, _ = load_detector(tmp_path)
    assert again.layers == detector.layers
    assert again.parameters() == detector.parameters()
    outputs = tiny_victim.read(texts.texts[:40], again.layers)
    scores = detector.score(outputs)
    assert np.isfinite(scores).all()
    np.testing.assert_array_equal(again.score(outputs), scores)
    np.testing.assert_array_equal(again.attach(tiny_victim).score(outputs), scores)
    order = np.random.default_rng(0).permutation(40)
    np.testing.assert_allclose(detector.score(outputs.take(order)), scores[order], rtol=1e-9)
    alone = [detector.score(outputs.take(np.array([i])))[0] for i in range(40)]
    np.testing.assert_allclose(alone, scores, rtol=1e-9)


def test_the_embedding_layer_is_read_where_there_is_no_class_token():
    assert KNN(layer="all").attach(StubVictim(has_class_token=False)).layers == (0, 1, 2, 3)
    assert KNN(layer="all").attach(StubVictim()).layers == (1, 2, 3)


def test_layers_count_from_the_end(data):
    train, labels, test = data
    assert KNN(layer=-2).attach(StubVictim()).layers == (2,)
    assert KNN(layer="last").parameters()["layer"] == -1
    # Without a victim the last layer is the highest there is.
    last = KNN(layer="last").fit(train, labels)
    np.testing.assert_array_equal(last.score(test), KNN(layer=3).fit(train, labels).score(test))
    assert last.layers == (3,)


def test_all_layers_are_not_known_before_a_victim_is(data):
    train, labels, _ = data
    with pytest.raises(NotFittedError, match="how many layers"):
        KNN(layer="all").fit(train, labels)


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_that_says_nothing_is_told(kind, data):
    train, labels, _ = data
    # As a victim reads one and the same vector in batches of other shapes.
    noise = (1 + 1e-7 * np.random.default_rng(0).standard_normal((120, 8))).astype(np.float32)
    constant = VictimOutputs(train.probabilities, {**train.features, 2: noise})
    for layer in (2, "all"):
        with pytest.raises(DataError, match=f"layer 2: {kind.info.title} can read nothing"):
            kind(layer=layer, **SMALL[kind]).attach(StubVictim()).fit(constant, labels)


def test_scores_that_do_not_vary_are_told(data):
    train, labels, _ = data
    corners = np.concatenate([np.eye(8, dtype=np.float32)] * 15)  # every row has 14 copies, at distance 0
    same = VictimOutputs(train.probabilities, {**train.features, 2: corners})
    with pytest.raises(DataError, match="layer 2: KNN cannot standardise the layer"):
        KNN(layer="all", k=3).attach(StubVictim()).fit(same, labels)


def test_what_was_not_read_or_fitted_is_told(data):
    train, labels, test = data
    detector = KNN(layer="all").attach(StubVictim()).fit(train, labels)
    with pytest.raises(DataError, match="layer 1 were not read"):
        detector.score(VictimOutputs(test.probabilities, {3: test.features[3]}))
    with pytest.raises(NotFittedError, match="'knn' is not fitted"):
        KNN().score(test)
    with pytest.raises(DataError, match="layer 1: KNN has no training rows"):
        KNN(layer=1).fit(train.take(np.arange(0)), labels[:0])


@pytest.mark.parametrize("layer", ["first", "3", 1.5, True, None])
def test_what_is_no_layer_is_refused(layer):
    with pytest.raises(ConfigurationError, match="is no layer"):
        KNN(layer=layer)


def test_detectors_of_one_layer_refuse_all(tiny_victim):
    for name in ("mle", "rde", "rde-empirical"):
        with pytest.raises(ConfigurationError, match=f"'{name}' reads one layer, not 'all'"):
            build_detector(name, tiny_victim, {"layer": "all"})
    assert build_detector("mle", tiny_victim, {"layer": "last"}).layers == (3,)
    with pytest.raises(ConfigurationError, match="'first' is no layer"):
        build_detector("mle", tiny_victim, {"layer": "first"})
    with pytest.raises(ConfigurationError, match="no layer 9"):
        build_detector("knn", tiny_victim, {"layer": 9})


def test_a_word_model_is_read_at_both_its_layers():
    import torch

    sentences = ["good film", "bad film", "a warm scene", "a dull plot here", "good", "bad scene", "a film"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        victim = Victim("word-cnn", *new_word_classifier("wordcnn", sentences * 2, ["bad", "good"]), device="cpu")
    detector = build_detector("knn", victim, {"layer": "all", "k": 2})
    assert detector.layers == (0, 1)
    data = TextDataset("toy", "train", sentences, np.arange(7) % 2, np.arange(7), None, {"kind": "test"})
    fit_detectors([detector], victim, data)
    assert np.isfinite(detector.score(victim.read(["a good plot", "dull"], detector.layers))).all()
