"""What RDE, RDE(-MCD) and RDE with linear PCA add to their parts; the composition is in test_gaussian_detectors."""

import json

import numpy as np
import pytest
from sklearn.covariance import MinCovDet
from sklearn.decomposition import PCA

from harness.core.errors import ConfigurationError, DataError
from harness.detectors.fitting import load_detector, save_detector
from harness.detectors.rde import RDE, RDEEmpirical, RDELinear
from harness.text.victims import VictimOutputs

KINDS = [RDE, RDEEmpirical, RDELinear]


def outputs(features, predictions, classes=2):
    """Victim outputs with the given features and predicted labels."""
    probabilities = np.full((len(features), classes), 0.1 / (classes - 1))
    probabilities[np.arange(len(features)), predictions] = 0.9
    return VictimOutputs(probabilities, {3: features.astype(np.float32)})


@pytest.fixture(scope="module")
def data():
    """(train, labels, test, predictions) with outliers in the training rows."""
    rng = np.random.default_rng(0)
    spectrum = 2.0 / np.sqrt(np.arange(1, 17))
    labels, predictions = rng.integers(0, 2, 400), rng.integers(0, 2, 60)
    train = 3 * labels[:, None] + rng.standard_normal((400, 16)) * spectrum
    train[:30] += 5
    test = 3 * predictions[:, None] + 1.3 * rng.standard_normal((60, 16)) * spectrum
    return train.astype(np.float32), labels, test.astype(np.float32), predictions


@pytest.mark.parametrize("support", [None, 0.8])
def test_linear_pca_agrees_with_scikit_learns_own_composition(support, data):
    train, labels, test, predictions = data
    detector = RDELinear(components=6, seed=2, support=support).fit(outputs(train, labels), labels)
    pca = PCA(6, svd_solver="full").fit(train.astype(np.float64))
    expected = np.zeros(len(test))
    for c in (0, 1):
        fit = MinCovDet(random_state=2, support_fraction=support).fit(pca.transform(train[labels == c]))
        expected[predictions == c] = fit.mahalanobis(pca.transform(test[predictions == c]))
    np.testing.assert_allclose(detector.score(outputs(test, predictions)), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_texts_score_as_in_a_batch(kind, data):
    train, labels, test, predictions = data
    detector = kind(components=8).fit(outputs(train, labels), labels)
    together = detector.score(outputs(test, predictions))
    for size in (1, 4, 7):
        parts = [slice(start, start + size) for start in range(0, len(test), size)]
        alone = np.concatenate([detector.score(outputs(test[part], predictions[part])) for part in parts])
        np.testing.assert_allclose(alone, together, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_restored_scores_are_the_same_to_the_last_bit(kind, data, tmp_path):
    train, labels, test, predictions = data
    detector = kind(components=8).fit(outputs(train, labels), labels)
    save_detector(tmp_path, detector, {})
    again, _ = load_detector(tmp_path)
    for rows in (slice(0, 1), slice(None)):
        some = outputs(test[rows], predictions[rows])
        np.testing.assert_array_equal(again.score(some), detector.score(some))
    assert again.facts() == detector.facts()


@pytest.mark.parametrize("kind", [RDE, RDELinear])
def test_facts_say_what_mcd_rests_on(kind, data):
    train, labels, _, _ = data
    detector = kind(components=8)
    assert detector.facts() == detector.parameters()
    detector.fit(outputs(train, labels), labels)
    facts = json.loads(json.dumps(detector.facts()))
    for c, told in enumerate(facts["mcd"]):
        rows = int((labels == c).sum())
        assert {k: told[k] for k in ("class", "rows", "fallback")} == {"class": c, "rows": rows, "fallback": None}
        assert told["support"] == int(np.ceil((rows + 9) / 2))
        assert told["support"] <= told["kept"] < rows
    fallen = kind(components=8, support=0.03).fit(outputs(train, labels), labels).facts()["mcd"]
    assert all(told["fallback"].startswith("empirical covariance: a support of") for told in fallen)


def test_the_fallback_scores_as_the_empirical_gaussian(data):
    train, labels, test, predictions = data
    fallen = RDE(components=8, support=0.03).fit(outputs(train, labels), labels)
    empirical = RDEEmpirical(components=8).fit(outputs(train, labels), labels)
    some = outputs(test, predictions)
    np.testing.assert_allclose(fallen.score(some), empirical.score(some), rtol=1e-9)


@pytest.mark.parametrize("different", [1, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_a_class_of_singular_covariance_is_named(kind, different, data):
    train, labels, _, _ = data
    train = np.where(labels[:, None] == 1, train[np.arange(len(train)) % different], train)
    with pytest.raises(DataError, match=r"class 1: the covariance of .* is singular"):
        kind(components=8).fit(outputs(train, labels), labels)


def test_features_narrower_than_the_components_are_refused(data):
    train, labels, _, _ = data
    with pytest.raises(DataError, match="features of 16 dimensions to 17 components"):
        RDELinear(components=17).fit(outputs(train, labels), labels)


@pytest.mark.parametrize("support", [0, -0.5, 1.5])
def test_impossible_supports_are_refused(support):
    with pytest.raises(ConfigurationError, match="no share of the rows"):
        RDE(support=support)
