"""What holds for every detector, and what their `info` claims."""

import json

import numpy as np
import pytest

from harness.core.errors import ConfigurationError, DataError, MissingFileError, UnknownNameError
from harness.detectors.fitting import build_detector, fit_detectors, load_detector, save_detector, score
from harness.detectors.registry import DETECTORS
from harness.text.datasets import TextDataset
from harness.text.victims import VictimOutputs

NAMES = DETECTORS.names()
WORDS = ("good", "bad", "film", "plot", "actor", "scene", "story", "dull", "bright", "slow", "quick", "warm", "cold")


def build(victim, name, components=5):
    """A detector small enough for the tiny victim."""
    takes_components = name.startswith("rde")
    return build_detector(name, victim, {"components": components if takes_components else None})


@pytest.fixture(scope="module")
def train():
    """300 random sentences of 2 classes."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(3, 12))) for _ in range(300)]
    labels = rng.integers(0, 2, 300)
    return TextDataset("toy", "train", texts, labels, np.arange(300), None, {"kind": "test"})


@pytest.fixture(scope="module")
def fitted(tiny_victim, train):
    """Every detector, fitted together."""
    detectors = [build(tiny_victim, name) for name in NAMES]
    fit_detectors(detectors, tiny_victim, train)
    return {detector.info.name: detector for detector in detectors}


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_float64_one_a_text_and_in_the_order_given(name, fitted, tiny_victim, train):
    detector = fitted[name]
    outputs = tiny_victim.read(train.texts[:20], [tiny_victim.layer(n) for n in detector.layers])
    scores = score(detector, outputs)
    assert scores.dtype == np.float64
    assert scores.shape == (20,)
    assert np.isfinite(scores).all()
    order = np.random.default_rng(0).permutation(20)
    np.testing.assert_allclose(score(detector, outputs.take(order)), scores[order], rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_detector_scores_the_same_to_the_last_bit(name, fitted, tiny_victim, train, tmp_path):
    detector = fitted[name]
    save_detector(tmp_path, detector, {"victim_hash": tiny_victim.hash})
    again, facts = load_detector(tmp_path)
    outputs = tiny_victim.read(train.texts[:50], detector.layers)
    np.testing.assert_array_equal(again.score(outputs), detector.score(outputs))
    assert facts["victim_hash"] == tiny_victim.hash
    assert again.parameters() == detector.parameters()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["detector.json", "state.safetensors"]


@pytest.mark.parametrize("name", NAMES)
def test_info_is_what_the_detector_does(name, fitted, tiny_victim, train):
    detector = fitted[name]
    info = detector.info
    assert info.name == name
    assert bool(detector.layers) == (info.reads == "features")
    assert info.needs_adversarial_labels is False  # it was fitted without any
    before = tiny_victim.forwards
    outputs = tiny_victim.read(train.texts[:10], detector.layers)
    detector.score(outputs)
    assert (tiny_victim.forwards - before) / 10 == info.forwards_per_text
    without_features = VictimOutputs(outputs.probabilities)
    if info.reads == "features":
        with pytest.raises(DataError):
            detector.score(without_features)
    else:
        np.testing.assert_array_equal(detector.score(without_features), detector.score(outputs))


def test_msp_is_one_minus_the_largest_probability(fitted):
    probabilities = np.array([[0.5, 0.5], [0.9, 0.1], [0.0, 1.0]])
    np.testing.assert_allclose(fitted["msp"].score(VictimOutputs(probabilities)), [0.5, 0.1, 0.0])


def test_a_second_fit_comes_from_the_cache(fitted, tiny_victim, train):
    before = tiny_victim.forwards
    again = [build(tiny_victim, name) for name in NAMES]
    fit_detectors(again, tiny_victim, train)
    assert tiny_victim.forwards == before
    for detector in again:
        for key, values in fitted[detector.info.name].arrays().items():
            np.testing.assert_array_equal(values, detector.arrays()[key])


def test_a_damaged_fit_in_the_cache_is_fitted_again(tiny_victim, train, tmp_path, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_CACHE", str(tmp_path))
    first, second = build(tiny_victim, "mle"), build(tiny_victim, "mle")
    fit_detectors([first], tiny_victim, train)
    (state,) = (tmp_path / "detectors").rglob("state.safetensors")
    data = bytearray(state.read_bytes())
    data[-5] ^= 1
    state.write_bytes(data)
    fit_detectors([second], tiny_victim, train)
    np.testing.assert_array_equal(first.arrays()["precisions"], second.arrays()["precisions"])
    state.write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        load_detector(state.parent)


def test_a_seed_reaches_the_detectors_that_draw(tiny_victim):
    assert build_detector("rde", tiny_victim, {}, seed=7).parameters()["seed"] == 7
    assert "seed" not in build_detector("mle", tiny_victim, {}, seed=7).parameters()


def test_a_class_of_the_victim_without_training_texts_is_refused(tiny_victim, train):
    one = train.take(np.flatnonzero(train.labels == 0))
    with pytest.raises(DataError, match="class 1 has 0"):
        fit_detectors([build(tiny_victim, "rde-empirical")], tiny_victim, one)


def test_another_seed_or_parameter_is_another_fit(tiny_victim, train):
    first, second, third = build(tiny_victim, "rde"), build(tiny_victim, "rde", components=4), build(tiny_victim, "rde")
    fit_detectors([first, second], tiny_victim, train)
    third.rows = 200
    fit_detectors([third], tiny_victim, train, seed=1)
    assert first.arrays()["means"].shape != second.arrays()["means"].shape
    assert third.arrays()["reference"].shape[0] == 200


def test_only_the_rows_that_are_wanted_are_read(tiny_victim, train):
    detector = build(tiny_victim, "rde-empirical")
    detector.rows = 120
    before = tiny_victim.forwards
    fit_detectors([detector], tiny_victim, train, seed=7)
    assert tiny_victim.forwards - before == 120


def test_fitting_without_texts_is_refused(tiny_victim):
    with pytest.raises(DataError, match="clean training texts"):
        fit_detectors([build(tiny_victim, "mle")], tiny_victim, None)
    fit_detectors([build(tiny_victim, "msp")], tiny_victim, None)


def test_wrong_names_and_parameters_are_refused(tiny_victim):
    with pytest.raises(UnknownNameError, match="mlee"):
        build_detector("mlee", tiny_victim, {})
    with pytest.raises(ConfigurationError, match="takes no components"):
        build_detector("msp", tiny_victim, {"components": 3})
    with pytest.raises(ConfigurationError, match="no layer 99"):
        build_detector("mle", tiny_victim, {"layer": 99})


def test_a_folder_without_a_detector_is_refused(tmp_path):
    with pytest.raises(MissingFileError):
        load_detector(tmp_path)
    (tmp_path / "detector.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(ConfigurationError, match="format 99"):
        load_detector(tmp_path)


def test_nan_scores_are_refused(fitted, tiny_victim, train, monkeypatch):
    detector = fitted["msp"]
    monkeypatch.setattr(type(detector), "score", lambda self, outputs: np.full(len(outputs.probabilities), np.nan))
    with pytest.raises(DataError, match="msp"):
        score(detector, tiny_victim.read(train.texts[:2]))
