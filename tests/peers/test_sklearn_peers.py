"""Models of scikit-learn that are special cases, or the same density written out."""

import numpy as np
import pytest
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.mixture import GaussianMixture

import reference as ref
from fits import quietly
from mfa_fast import MFA
from models import parameters_of
from tolerances import EM_PARAMETERS, PEER_DENSITY, PEER_OPTIMUM, relative_error, scaled_error

P = ref.random_parameters(1, 8, 2, noise_type="diag", noise_std=0.5, seed=2)
X = ref.random_samples(P, 500, stray=0)


def _fit(**parameters):
    return MFA(1, 2, tol=1e-9, max_iter=20_000, random_state=0, **parameters).fit(X)


def _best_probabilistic_pca(samples, n_factors, floor=0.0):
    """The largest mean log-likelihood of one component with spherical noise, and that noise (Tipping & Bishop)."""
    values = np.linalg.eigvalsh(np.cov(samples.T, bias=True))[::-1]
    noise_variance = max(values[n_factors:].mean(), floor)
    variances = np.full(len(values), noise_variance)
    variances[:n_factors] = np.maximum(values[:n_factors], noise_variance)
    return -0.5 * np.sum(np.log(2 * np.pi * variances) + values / variances), noise_variance


def test_one_component_of_diagonal_noise_is_factor_analysis():
    model = _fit(noise_type="diag")
    peer = FactorAnalysis(2, svd_method="lapack", tol=1e-10, max_iter=20_000).fit(X)
    assert abs(model.score(X) - peer.score(X)) <= PEER_OPTIMUM
    covariance = ref.covariance(parameters_of(model), 0)
    assert relative_error(covariance, peer.get_covariance()) <= 1e-2


def test_one_component_of_spherical_noise_is_probabilistic_pca():
    model = _fit(noise_type="spherical")
    peer = PCA(2, svd_solver="full").fit(X)
    optimum, noise_variance = _best_probabilistic_pca(X, 2)
    assert abs(model.score(X) - optimum) <= PEER_OPTIMUM
    # PCA divides by n - 1; the density at the maximum of the likelihood needs n.
    assert abs(model.score(X) - peer.score(X)) <= 1 / len(X)
    assert model.noise_variance_[0, 0] == pytest.approx(noise_variance, rel=1e-3)


@pytest.mark.parametrize("n_samples", [2, 3, 4, 5])
@pytest.mark.parametrize("floor", [1e-6, 1e-3])
def test_so_it_is_where_there_are_no_more_samples_than_factors(n_samples, floor):
    few = X[:n_samples]
    model = quietly(MFA(1, 5, min_noise_variance=floor, tol=1e-6, random_state=0), few)
    optimum, noise_variance = _best_probabilistic_pca(few, 5, floor)
    assert noise_variance == floor
    assert abs(model.score(few) - optimum) <= PEER_OPTIMUM
    assert scaled_error(model.means_[0], few.mean(axis=0)) <= EM_PARAMETERS


def test_factor_analysis_parameters_give_its_density():
    peer = FactorAnalysis(2).fit(X)
    model = MFA.from_parameters([1.0], peer.mean_[None], peer.components_[None], peer.noise_variance_[None])
    assert relative_error(model.score_samples(X), peer.score_samples(X)) <= PEER_DENSITY
    _, z = model.posterior_factors(X)
    assert relative_error(z, peer.transform(X)) <= PEER_DENSITY


def test_pca_parameters_give_its_density():
    peer = PCA(2, svd_solver="full").fit(X)
    scale = np.sqrt(peer.explained_variance_ - peer.noise_variance_)
    model = MFA.from_parameters(
        [1.0], peer.mean_[None], (scale[:, None] * peer.components_)[None], peer.noise_variance_
    )
    assert relative_error(model.score_samples(X), peer.score_samples(X)) <= PEER_DENSITY


@pytest.mark.parametrize("noise_type", ["spherical", "diag"])
def test_gaussian_mixture_on_assembled_covariances(noise_type):
    p = ref.random_parameters(4, 6, 2, noise_type=noise_type, seed=3)
    data = ref.random_samples(p, 200)
    covariances = np.array([ref.covariance(p, k) for k in range(4)])
    peer = GaussianMixture(4)
    peer.weights_, peer.means_, peer.covariances_ = p.weights, p.means, covariances
    peer.precisions_cholesky_ = np.array([np.linalg.inv(np.linalg.cholesky(S)).T for S in covariances])
    model = MFA.from_parameters(*p)
    assert relative_error(model.score_samples(data), peer.score_samples(data)) <= PEER_DENSITY
    assert relative_error(model.predict_proba(data), peer.predict_proba(data)) <= PEER_DENSITY
    assert np.array_equal(model.predict(data), peer.predict(data))


def test_without_factors_em_is_that_of_a_gaussian_mixture():
    p = ref.random_parameters(3, 5, 0, noise_type="diag", seed=5)
    data = ref.random_samples(p, 400)
    start = ref.random_parameters(3, 5, 0, noise_type="diag", seed=6)
    peer = GaussianMixture(
        3, covariance_type="diag", weights_init=start.weights, means_init=start.means,
        precisions_init=1 / start.noise_variance, reg_covar=0, tol=1e-8, max_iter=5000,
    ).fit(data)  # fmt: skip
    model = MFA(
        3, 0, noise_type="diag", weights_init=start.weights, means_init=start.means,
        noise_variance_init=start.noise_variance, tol=1e-8, max_iter=5000,
    ).fit(data)  # fmt: skip
    assert abs(model.score(data) - peer.score(data)) <= PEER_OPTIMUM


def test_as_many_factors_as_there_can_be_are_as_good_as_full_covariances():
    data = ref.random_samples(ref.random_parameters(1, 4, 2, noise_type="diag", seed=2), 300, stray=0)
    peer = GaussianMixture(1, reg_covar=0).fit(data)
    model = MFA(1, 3, noise_type="diag", tol=1e-9, max_iter=20_000, random_state=0).fit(data)
    assert abs(model.bic(data) - peer.bic(data)) <= 2 * len(data) * PEER_OPTIMUM
    assert abs(model.aic(data) - peer.aic(data)) <= 2 * len(data) * PEER_OPTIMUM
