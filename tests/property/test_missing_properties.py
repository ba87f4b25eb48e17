"""What holds for every pattern of missing values."""

import warnings

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.exceptions import ConvergenceWarning

import reference as ref
from mfa_fast import MFA
from tolerances import CONDITIONAL, EM_MONOTONE, LOG_DENSITY, relative_error

ROWS = 12


@st.composite
def problems(draw, noise_stds=(1.0, 1e-3)):
    """A model, samples with missing values, and the noise."""
    d = draw(st.integers(1, 11))
    shape = (draw(st.integers(1, 4)), d, draw(st.integers(0, min(3, d - 1))))
    noise_std = draw(st.sampled_from(noise_stds))
    options = {"noise_type": draw(st.sampled_from(["spherical", "diag"])), "noise_std": noise_std}
    seed = draw(st.integers(0, 2**16))
    p = ref.random_parameters(*shape, **options, seed=seed)
    X = ref.random_samples(p, ROWS, seed=seed)
    X[draw(arrays(bool, X.shape))] = np.nan
    return p, X, noise_std


def _model(p):
    return MFA.from_parameters(*p).set_params(missing="marginal")


@given(problems())
def test_densities_are_those_of_what_is_observed(problem):
    p, X, _ = problem
    expected = ref.marginal_weighted_log_prob(X, p)
    assert relative_error(_model(p).weighted_log_prob(X), expected) <= LOG_DENSITY[np.dtype(np.float64)]
    assert relative_error(_model(p).score_samples(X), ref.log_sum_exp(expected)) <= LOG_DENSITY[np.dtype(np.float64)]


@given(problems())
def test_hiding_features_is_leaving_them_out(problem):
    p, X, _ = problem
    observed = ~np.isnan(X[0])
    X[:, ~observed] = np.nan
    assume(observed.sum() > p.loadings.shape[1])
    fewer = MFA.from_parameters(*ref.observed_part(p, observed)).set_params(missing="marginal")
    difference = relative_error(_model(p).weighted_log_prob(X), fewer.weighted_log_prob(X[:, observed]))
    assert difference <= LOG_DENSITY[np.dtype(np.float64)]


@given(problems())
def test_conditional_moments(problem):
    p, X, noise_std = problem
    conditional = _model(p).conditional(X)
    mean, variance = ref.conditional_moments(X, p)
    assert relative_error(conditional.mean, mean) <= CONDITIONAL[noise_std]
    assert relative_error(conditional.variance, variance) <= CONDITIONAL[noise_std]


@given(problems(), st.integers(0, 2**32))
def test_what_is_observed_stays(problem, seed):
    p, X, _ = problem
    observed = ~np.isnan(X)
    model = _model(p)
    imputed, draws = model.impute(X), model.conditional(X).sample(2, random_state=seed)
    assert imputed[observed].tobytes() == X[observed].tobytes()
    assert np.array_equal(draws[:, observed], np.broadcast_to(X[observed], (2, observed.sum())))
    assert np.isfinite(imputed).all()
    assert np.isfinite(draws).all()


@given(problems(), st.integers(1, 5), st.randoms(use_true_random=False))
def test_rows_do_not_influence_each_other(problem, size, random):
    p, X, _ = problem
    order = random.sample(range(len(X)), len(X))
    for name in ("weighted_log_prob", "score_samples", "predict_proba", "impute"):
        method = getattr(_model(p).set_params(n_threads=2), name)
        expected = getattr(_model(p).set_params(n_threads=1), name)(X)
        assert np.array_equal(np.concatenate([method(X[i : i + size]) for i in range(0, len(X), size)]), expected)
        assert np.array_equal(method(X[order]), expected[order])


@given(problems())
def test_the_chain_rule(problem):
    """p(x) = p(x_o) p(x_m | x_o), for one component."""
    p, X, noise_std = problem
    one = ref.observed_part(p, slice(None))._replace(weights=np.ones(1), means=p.means[:1])
    one = one._replace(loadings=p.loadings[:1], noise_variance=p.noise_variance[:1])
    full = np.where(np.isnan(X), p.means[0], X)
    model = _model(one)
    for x, whole in zip(X, full, strict=True):
        m = np.flatnonzero(np.isnan(x))
        given_observed = ref.joint_given_observed(x, one, 0)
        factor = np.linalg.cholesky(given_observed.covariance[np.ix_(m, m)])
        whitened = np.linalg.solve(factor, whole[m] - given_observed.mean[m])
        rest = -len(m) / 2 * np.log(2 * np.pi) - np.log(np.diag(factor)).sum() - whitened @ whitened / 2
        expected = model.score_samples(x[None])[0] + rest
        assert (
            abs(model.score_samples(whole[None])[0] - expected) <= CONDITIONAL[noise_std] * max(1, abs(expected)) * 10
        )


@given(problems(noise_stds=(1.0, 0.1)))
def test_the_observed_likelihood_never_falls(problem):
    p, X, _ = problem
    X = np.vstack([X, ref.random_samples(p, 20)])  # so that every feature is observed
    model = MFA(
        len(p.weights),
        p.loadings.shape[1],
        missing="marginal",
        weights_init=p.weights,
        means_init=p.means + 0.1,
        loadings_init=p.loadings,
        noise_variance_init=2 * p.noise_variance,
        tol=0,
        max_iter=12,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        bounds = np.asarray(model.fit(X).lower_bounds_)
    if not any("lost all samples" in str(w.message) for w in caught):
        assert np.all(np.diff(bounds) >= -EM_MONOTONE * np.maximum(1, np.abs(bounds[1:])))
