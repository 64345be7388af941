"""The minimum covariance determinant against an exhaustive search, scikit-learn, and what it promises."""

import itertools

import numpy as np
import pytest
from scipy.stats import chi2
from sklearn.covariance import MinCovDet
from threadpoolctl import threadpool_limits

from harness.core.errors import DataError
from harness.detectors.mcd import empirical_gaussian, minimum_covariance_determinant


def heavy_tailed(n, p, seed=0):
    """Rows with outliers."""
    rng = np.random.default_rng(seed)
    data = rng.standard_t(4, (n, p)) * np.linspace(2, 0.2, p)
    data[: n // 8] += 4
    return data


def exhaustive(data, h):
    """The estimate by its definition: of all subsets of h rows that of least determinant, corrected and reweighted."""
    n, p = data.shape

    def factor(share):
        return share / chi2.cdf(chi2.ppf(share, p), p + 2)

    best = min(itertools.combinations(range(n), h), key=lambda rows: np.linalg.det(np.cov(data[list(rows)].T, ddof=0)))
    mean, covariance = data[list(best)].mean(axis=0), factor(h / n) * np.cov(data[list(best)].T, ddof=0)
    distances = np.array([(row - mean) @ np.linalg.solve(covariance, row - mean) for row in data])
    kept = data[distances < chi2.ppf(0.975, p)]
    return kept.mean(axis=0), factor(0.975) * np.cov(kept.T, ddof=0), len(kept)


def test_it_is_the_definition_where_all_subsets_can_be_tried():
    rng = np.random.default_rng(0)
    data = np.concatenate([rng.standard_normal((10, 2)), 5 + 3 * rng.standard_normal((5, 2))])
    mean, covariance, kept = exhaustive(data, 9)
    found = minimum_covariance_determinant(data)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-10)
    np.testing.assert_allclose(np.linalg.inv(found.precision), covariance, rtol=1e-10)
    assert found.facts() == {"rows": 15, "support": 9, "kept": kept, "fallback": None}


@pytest.mark.parametrize("support", [None, 0.75, 1.0])
# Not split; split into subsets (503 rows take one more for scikit-learn's rounding); merged after that.
@pytest.mark.parametrize(("n", "p"), [(150, 12), (503, 5), (900, 6), (1700, 8)])
def test_it_finds_what_scikit_learn_finds(n, p, support):
    data = heavy_tailed(n, p)
    with threadpool_limits(1):
        peer = MinCovDet(random_state=3, support_fraction=support).fit(data)
        found = minimum_covariance_determinant(data, support, seed=3)
    np.testing.assert_allclose(found.mean, peer.location_, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.precision, peer.get_precision(), rtol=1e-7, atol=1e-9)
    assert (found.support, found.kept) == (peer.raw_support_.sum(), peer.support_.sum())


def test_outliers_do_not_move_it():
    rng = np.random.default_rng(0)
    data = rng.standard_normal((600, 5))
    data[:150] = 30 + rng.standard_normal((150, 5))
    found = minimum_covariance_determinant(data)
    assert np.abs(found.mean).max() < 0.2
    assert np.abs(empirical_gaussian(data)[0]).max() > 5
    np.testing.assert_allclose(found.precision, np.eye(5), atol=0.25)


def test_it_is_seeded_and_moves_with_the_data():
    data = heavy_tailed(700, 5)
    one, same = (minimum_covariance_determinant(data, seed=1) for _ in range(2))
    np.testing.assert_array_equal(one.precision, same.precision)
    turn = np.random.default_rng(1).standard_normal((5, 5))
    moved = minimum_covariance_determinant(data @ turn + 3, seed=1)
    np.testing.assert_allclose(moved.mean, one.mean @ turn + 3, rtol=1e-7)
    np.testing.assert_allclose(turn @ moved.precision @ turn.T, one.precision, rtol=1e-6, atol=1e-8)


def test_supports_of_a_subset_have_more_rows_than_dimensions():
    # Subsets of 300 rows would leave 90 rows to 100 dimensions, and nothing to choose by.
    data = np.random.default_rng(0).standard_normal((1000, 100))
    found = minimum_covariance_determinant(data, support=0.3)
    assert found.fallback is None
    assert found.support == 300


def test_rows_of_singular_covariance_fall_back_and_say_so():
    data = heavy_tailed(200, 3)
    data[20:, 2] = data[20:, 1]  # most rows lie in a plane, where the determinant is nothing
    found = minimum_covariance_determinant(data)
    assert found.fallback is not None
    assert found.fallback.startswith("empirical covariance: every support of 102 rows")
    np.testing.assert_allclose(found.mean, data.mean(axis=0))
    np.testing.assert_allclose(found.precision, np.linalg.inv(np.cov(data.T, ddof=0)), rtol=1e-8)
    assert found.kept == 200


def test_a_support_smaller_than_the_dimensions_falls_back_and_says_so():
    found = minimum_covariance_determinant(heavy_tailed(40, 9), support=0.2)
    assert found.fallback == "empirical covariance: a support of 8 rows in 9 dimensions has a singular covariance"


@pytest.mark.parametrize("estimate", [minimum_covariance_determinant, empirical_gaussian])
def test_data_without_an_inverse_covariance_is_refused(estimate):
    data = heavy_tailed(100, 3)
    data[:, 2] = data[:, 0] - data[:, 1]
    with pytest.raises(DataError, match="the covariance of 100 training rows in 3 dimensions is singular"):
        estimate(data)
