"""Missing values given what is observed: their moments, draws of them, and imputation."""

import pickle

import numpy as np
import pytest

import reference as ref
from mfa_fast import MFA
from mfa_fast.conditional import Conditional
from missing_cases import hidden_problem, marginal_model, noises
from tolerances import CONDITIONAL, FACTORS, STANDARD_ERRORS, relative_error


@noises
@pytest.mark.parametrize("noise_std", [1.0, 1e-3])
@pytest.mark.parametrize("shape", [(1, 1, 0), (3, 7, 2), (2, 17, 5), (1, 70, 6)])
def test_conditional_moments(shape, noise_std, noise_type, tied):
    p, X = hidden_problem(shape, n=9, noise_type=noise_type, tied=tied, noise_std=noise_std)
    conditional = marginal_model(p).conditional(X)
    mean, variance = ref.conditional_moments(X, p)
    assert relative_error(conditional.mean, mean) <= CONDITIONAL[noise_std]
    assert relative_error(conditional.variance, variance) <= CONDITIONAL[noise_std]
    hidden = np.isnan(X)
    assert np.all(conditional.variance[hidden] >= p.noise_variance.min() * (1 - 1e-12))
    assert np.all(conditional.variance[~hidden] == 0)


def test_conditional_moments_in_float32():
    p, X = hidden_problem(dtype=np.float32)
    conditional = marginal_model(p).conditional(X)
    mean, variance = ref.conditional_moments(X, p)
    assert conditional.mean.dtype == conditional.variance.dtype == np.float32
    assert relative_error(conditional.mean, mean) <= FACTORS[np.dtype(np.float32)]
    assert relative_error(conditional.variance, variance) <= FACTORS[np.dtype(np.float32)]


def test_conditional_of_one_component():
    p, X = hidden_problem((3, 8, 2))
    conditional = marginal_model(p).conditional(X)
    for k in range(3):
        expected = np.array([ref.joint_given_observed(x, p, k).mean for x in X])
        assert relative_error(conditional.component_mean(k), expected[:, :8]) <= 1e-10
        assert relative_error(conditional.factors[:, k], expected[:, 8:]) <= 1e-10
    mixed = sum(conditional.responsibilities[:, [k]] * conditional.component_mean(k) for k in range(3))
    assert relative_error(conditional.mean, mixed) <= 1e-12
    with pytest.raises(ValueError, match="component"):
        conditional.component_mean(3)


def test_draws_have_the_conditional_distribution():
    p = ref.random_parameters(3, 6, 2, noise_std=0.5, seed=1)
    X = ref.hide(ref.random_samples(p, 4, seed=2))
    n = 20_000
    conditional = marginal_model(p).conditional(X)
    draws = conditional.sample(n, random_state=0)
    assert draws.shape == (n, 4, 6)
    hidden = np.isnan(X)
    assert np.array_equal(draws[:, ~hidden], np.broadcast_to(X[~hidden], (n, (~hidden).sum())))
    errors = np.abs(draws.mean(axis=0) - conditional.mean)[hidden]
    assert np.all(errors <= STANDARD_ERRORS * np.sqrt(conditional.variance[hidden] / n))
    squares = (draws - conditional.mean) ** 2
    spread = squares.std(axis=0)[hidden] / np.sqrt(n)
    assert np.all(np.abs(squares.mean(axis=0) - conditional.variance)[hidden] <= STANDARD_ERRORS * spread)
    # Features of one row are correlated, as the joint distribution says.
    one = ref.random_parameters(1, 6, 2, noise_std=0.5, seed=1)
    x = np.full((1, 6), np.nan)
    x[0, :2] = 0.3
    draws = marginal_model(one).conditional(x).sample(n, random_state=1)[:, 0]
    expected = ref.joint_given_observed(x[0], one, 0).covariance[:6, :6]
    assert np.abs(np.cov(draws.T) - expected).max() <= STANDARD_ERRORS * np.abs(expected).max() * np.sqrt(2 / n)


def test_draws_depend_on_seed_row_and_draw_alone():
    p, X = hidden_problem(n=70)
    conditional = marginal_model(p, n_threads=3).conditional(X)
    draws = conditional.sample(4, random_state=3)
    assert np.array_equal(marginal_model(p, n_threads=1).conditional(X).sample(4, random_state=3), draws)
    assert np.array_equal(conditional.sample(2, random_state=3), draws[:2])
    assert np.array_equal(marginal_model(p).conditional(X[:20]).sample(4, random_state=3), draws[:, :20])
    assert not np.array_equal(conditional.sample(4, random_state=4), draws)
    hidden = np.isnan(X)
    assert not np.any(draws[0][hidden] == draws[1][hidden])
    for wrong in (0, 2**23 + 1):  # as far as draws are counted
        with pytest.raises(ValueError, match="n_samples"):
            conditional.sample(wrong)


def test_draws_have_nothing_in_common_with_samples_of_the_same_seed():
    model = MFA.from_parameters([1.0], np.zeros((1, 40)), np.random.default_rng(0).normal(size=(1, 2, 40)), 1.0)
    X = model.sample(500, random_state=0)[0]
    hidden = X.copy()
    hidden[:, ::2] = np.nan
    guess = model.impute(hidden)
    draw = model.conditional(hidden).sample(1, random_state=0)[0]
    left, drawn = (X - guess)[:, ::2].ravel(), (draw - guess)[:, ::2].ravel()
    assert abs(np.corrcoef(left, drawn)[0, 1]) < 5 / np.sqrt(len(left))


def test_a_conditional_is_plain_data(dtype):
    p, X = hidden_problem(dtype=dtype)
    conditional = marginal_model(p).set_params(random_state=5).conditional(X)
    copy = pickle.loads(pickle.dumps(conditional))
    assert isinstance(copy, Conditional)
    assert np.array_equal(copy.sample(2), conditional.sample(2))
    assert np.array_equal(conditional.sample(2), conditional.sample(2, random_state=5))


def test_what_becomes_of_the_samples_later_does_not_show():
    p, X = hidden_problem()
    conditional = marginal_model(p).conditional(X)
    draws, mean = conditional.sample(2, random_state=0), conditional.component_mean(1)
    missing = np.isnan(X)
    X[missing] = conditional.mean[missing]
    assert np.array_equal(conditional.sample(2, random_state=0), draws)
    assert np.array_equal(conditional.component_mean(1), mean)


@pytest.mark.parametrize("missing", ["error", "marginal"])
def test_observed_entries_are_left_bit_for_bit(missing, dtype):
    p, X = hidden_problem(dtype=dtype)
    before = X.copy()
    model = MFA.from_parameters(*p).set_params(missing=missing)
    imputed = model.impute(X)
    observed = ~np.isnan(X)
    assert imputed.dtype == dtype
    assert imputed[observed].tobytes() == X[observed].tobytes()
    assert np.isfinite(imputed).all()
    assert np.array_equal(imputed, model.conditional(X).mean)
    assert np.array_equal(X, before, equal_nan=True)
    assert np.array_equal(model.impute(imputed), imputed)
    assert model.impute(imputed) is not imputed


def test_integers_have_nothing_to_impute():
    p, _ = hidden_problem()
    X = np.arange(21, dtype=np.uint8).reshape(3, 7)
    assert np.array_equal(marginal_model(p).impute(X), X)
    assert np.array_equal(marginal_model(p).score_samples(X), MFA.from_parameters(*p).score_samples(X))
