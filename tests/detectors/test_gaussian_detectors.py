"""RDE, RDE(-MCD) and MLE against independent compositions of scikit-learn and NumPy."""

import numpy as np
import pytest
from sklearn.covariance import EmpiricalCovariance, MinCovDet
from sklearn.decomposition import KernelPCA
from threadpoolctl import threadpool_limits

from harness.core.errors import ConfigurationError, DataError, NotFittedError
from harness.detectors.mle import MLE
from harness.detectors.rde import RDE, RDEEmpirical
from harness.text.victims import VictimOutputs


def outputs(features, predictions, classes, layer=3):
    """Victim outputs with the given features and predicted labels."""
    probabilities = np.full((len(features), classes), 0.1 / (classes - 1))
    probabilities[np.arange(len(features)), predictions] = 0.9
    return VictimOutputs(probabilities, {layer: features.astype(np.float32)})


@pytest.fixture(scope="module")
def data():
    """Clustered features with a decaying spectrum: (train, labels, test, predictions)."""
    rng = np.random.default_rng(0)
    spectrum = 2.0 / np.sqrt(np.arange(1, 25))
    centres = 1.5 * rng.standard_normal((3, 24))
    labels = rng.integers(0, 3, 700)
    train = centres[labels] + rng.standard_normal((700, 24)) * spectrum
    train[:20] += 6  # outliers, so that the robust estimate differs from the empirical one
    predictions = rng.integers(0, 3, 150)
    test = centres[predictions] + 1.5 * rng.standard_normal((150, 24)) * spectrum
    return train.astype(np.float32), labels, test.astype(np.float32), predictions


def composed(estimator, data, components=10):
    """The paper's score put together from scikit-learn's own classes, with its own projection and distance."""
    train, labels, test, predictions = data
    train, test = train.astype(np.float64), test.astype(np.float64)
    pca = KernelPCA(components, kernel="rbf", gamma=1 / train.shape[1], eigen_solver="dense").fit(train)
    reduced, projected = pca.transform(train), pca.transform(test)
    scores = np.zeros(len(test))
    with threadpool_limits(1):
        for label in range(3):
            fit = estimator().fit(reduced[labels == label])
            chosen = predictions == label
            scores[chosen] = fit.mahalanobis(projected[chosen])
    return scores


@pytest.mark.parametrize(
    ("detector", "estimator"),
    [
        (RDE(components=10), lambda: MinCovDet(random_state=0)),
        (RDEEmpirical(components=10), EmpiricalCovariance),
    ],
    ids=["rde", "rde-empirical"],
)
def test_agrees_with_scikit_learns_own_composition(detector, estimator, data):
    train, labels, test, predictions = data
    scores = detector.fit(outputs(train, labels, 3), labels).score(outputs(test, predictions, 3))
    np.testing.assert_allclose(scores, composed(estimator, data), rtol=1e-6)


def test_a_reduction_too_large_to_decompose_in_full_agrees_with_the_full_one():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 1000)
    train = (rng.standard_normal((1000, 32)) * np.linspace(2, 0.2, 32) + labels[:, None]).astype(np.float32)
    test = (rng.standard_normal((40, 32)) * 1.2).astype(np.float32)
    predictions = rng.integers(0, 2, 40)
    scores = RDE(components=30).fit(outputs(train, labels, 2), labels).score(outputs(test, predictions, 2))
    pca = KernelPCA(30, kernel="rbf", eigen_solver="dense").fit(train.astype(np.float64))
    reduced, projected = pca.transform(train.astype(np.float64)), pca.transform(test.astype(np.float64))
    expected = np.zeros(40)
    for label in (0, 1):
        with threadpool_limits(1):
            fit = MinCovDet(random_state=0).fit(reduced[labels == label])
        expected[predictions == label] = fit.mahalanobis(projected[predictions == label])
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_robust_and_empirical_estimates_differ_under_outliers(data):
    assert np.abs(composed(lambda: MinCovDet(random_state=0), data) - composed(EmpiricalCovariance, data)).max() > 1


def test_mle_is_the_mahalanobis_distance_to_the_predicted_class(data):
    train, labels, test, predictions = data
    scores = MLE().fit(outputs(train, labels, 3), labels).score(outputs(test, predictions, 3))
    expected = []
    for row, label in zip(test.astype(np.float64), predictions, strict=True):
        rows = train[labels == label].astype(np.float64)
        delta = row - rows.mean(axis=0)
        covariance = np.cov(rows.T, bias=True)
        expected.append(delta @ np.linalg.solve(covariance, delta))
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_mle_refuses_features_that_cannot_be_told_apart(data):
    _, labels, _, _ = data
    rng = np.random.default_rng(0)
    # One vector in every text, but for the last bits that batches of other shapes round otherwise.
    same = rng.standard_normal(24) * (1 + 6e-8 * rng.standard_normal((700, 24)))
    with pytest.raises(DataError, match="MLE can read nothing from features that are the same for every training text"):
        MLE().fit(outputs(same, labels, 3), labels)
    with pytest.raises(DataError, match="covariance of MLE is singular: within a class the features do not vary"):
        MLE().fit(outputs(np.eye(3, 24)[labels], labels, 3), labels)


def test_mle_leaves_out_directions_that_vary_for_rounding_alone(data):
    train, labels, test, predictions = data

    def normalised(values, seed):
        """As a layer norm leaves them: each row sums to 0, but for float32 rounding."""
        centred = values - values.mean(axis=1, keepdims=True)
        exact = centred / centred.std(axis=1, keepdims=True)
        return exact * (1 + 6e-8 * np.random.default_rng(seed).standard_normal(exact.shape))

    detector = MLE().fit(outputs(normalised(train, 0), labels, 3), labels)
    for precision in detector.arrays()["precisions"]:
        assert np.linalg.matrix_rank(precision, hermitian=True) == 23
    # Read again in a batch of another shape.
    once, again = (detector.score(outputs(normalised(test, seed), predictions, 3)) for seed in (1, 2))
    np.testing.assert_allclose(once, again, rtol=1e-4)


@pytest.mark.parametrize("kind", [RDE, RDEEmpirical, MLE])
def test_the_gold_label_fits_and_the_predicted_label_scores(kind, data):
    train, labels, test, predictions = data
    options = {"components": 10} if kind is not MLE else {}
    # Predictions on the training texts are all wrong: they must not matter.
    wrong = (labels + 1) % 3
    right = kind(**options).fit(outputs(train, labels, 3), labels).score(outputs(test, predictions, 3))
    same = kind(**options).fit(outputs(train, wrong, 3), labels).score(outputs(test, predictions, 3))
    np.testing.assert_array_equal(right, same)
    other = kind(**options).fit(outputs(train, labels, 3), labels).score(outputs(test, (predictions + 1) % 3, 3))
    assert not np.allclose(right, other)


@pytest.mark.parametrize("kind", [RDE, RDEEmpirical, MLE])
def test_far_texts_score_higher(kind, data):
    train, labels, _, _ = data
    options = {"components": 10} if kind is not MLE else {}
    detector = kind(**options).fit(outputs(train, labels, 3), labels)
    near = detector.score(outputs(train[50:], labels[50:], 3))
    far = detector.score(outputs(train[50:], (labels[50:] + 1) % 3, 3))
    assert np.median(far) > np.median(near)


def test_a_score_does_not_depend_on_the_other_texts(data):
    train, labels, test, predictions = data
    detector = RDE(components=10).fit(outputs(train, labels, 3), labels)
    together = detector.score(outputs(test, predictions, 3))
    alone = np.concatenate(
        [detector.score(outputs(test[i : i + 1], predictions[i : i + 1], 3)) for i in range(len(test))]
    )
    np.testing.assert_allclose(together, alone, rtol=1e-9)
    assert detector.score(outputs(test[:0], predictions[:0], 3)).shape == (0,)


@pytest.mark.parametrize(
    "detector", [RDE(components=30), RDEEmpirical(components=30), MLE()], ids=lambda d: d.info.name
)
def test_fewer_rows_than_dimensions_are_refused(detector):
    rng = np.random.default_rng(0)
    train = rng.standard_normal((40, 24)).astype(np.float32)
    labels = np.arange(40) % 2
    with pytest.raises(DataError, match=r"at least|more training rows"):
        detector.fit(outputs(train, labels, 2), labels)


def test_a_class_without_training_rows_is_refused(data):
    train, labels, _, _ = data
    labels = np.where(labels == 1, 0, labels)
    with pytest.raises(DataError, match="class 1 has 0"):
        MLE().fit(outputs(train, labels, 3), labels)


def test_scores_before_fitting_are_refused(data):
    _, _, test, predictions = data
    with pytest.raises(NotFittedError):
        RDE().score(outputs(test, predictions, 3))


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigurationError):
        RDE(components=0)
