"""What holds for every iteration of expectation maximization."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import reference as ref
from fits import quietly, starting_from
from tolerances import EM_MONOTONE, EM_PARAMETERS, scaled_error

N_ITER = 6


@st.composite
def problems(draw):
    """Data, a start and the options of the fit."""
    d = draw(st.integers(2, 12))
    shape = (draw(st.integers(1, 4)), d, draw(st.integers(0, min(3, d - 1))))
    kind = draw(st.sampled_from(["spherical", "diag"]))
    tied = draw(st.booleans())
    options = {"noise_type": kind, "tied": tied, "noise_std": draw(st.sampled_from([1.0, 0.1]))}
    seed = draw(st.integers(0, 2**16))
    X = ref.random_samples(ref.random_parameters(*shape, **options, seed=seed), 150, seed=seed)
    start = ref.random_parameters(*shape, **{**options, "noise_std": 1.0}, seed=seed + 1)
    return X, start, {"noise_type": kind, "tied_noise": tied}


def _fit(X, start, options, **parameters):
    return quietly(starting_from(start, **{"max_iter": N_ITER, **options, **parameters}), X)


def _assert_same(model, expected):
    assert scaled_error(model.weights_, expected.weights_) <= EM_PARAMETERS
    assert scaled_error(model.means_, expected.means_) <= EM_PARAMETERS
    assert scaled_error(model.noise_variance_, expected.noise_variance_) <= EM_PARAMETERS


@given(problems())
def test_the_objective_never_falls(problem):
    bounds = np.asarray(_fit(*problem, max_iter=15).lower_bounds_)
    assert np.all(np.diff(bounds) >= -EM_MONOTONE * np.maximum(1, np.abs(bounds[1:])))


@given(problems())
def test_objective_is_the_mean_log_density(problem):
    X, start, options = problem
    _, bounds = ref.em(X, start, 2, **options)
    model = _fit(*problem, max_iter=3)
    assert scaled_error(model.lower_bounds_, bounds) <= EM_PARAMETERS


@given(problems(), st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(problem, random):
    X, start, options = problem
    order = random.sample(range(len(X)), len(X))
    _assert_same(_fit(X[order], start, options), _fit(X, start, options))


@given(problems(), st.randoms(use_true_random=False))
def test_order_of_components_is_kept(problem, random):
    X, start, options = problem
    order = random.sample(range(len(start.weights)), len(start.weights))
    permuted = _fit(X, ref.Parameters(*(value[order] for value in start)), options)
    expected = _fit(X, start, options)
    assert scaled_error(permuted.means_, expected.means_[order]) <= EM_PARAMETERS


@given(problems())
def test_translation_of_the_data_moves_the_means_alone(problem):
    X, start, options = problem
    shift = np.linspace(-64, 64, X.shape[1])
    moved = _fit(X + shift, start._replace(means=start.means + shift), options)
    expected = _fit(X, start, options)
    assert scaled_error(moved.means_, expected.means_ + shift) <= EM_PARAMETERS
    assert scaled_error(moved.noise_variance_, expected.noise_variance_) <= EM_PARAMETERS
    assert scaled_error(moved.loadings_, expected.loadings_) <= EM_PARAMETERS


@given(problems(), st.integers(2, 5))
def test_threads_give_the_same_bits(problem, n_threads):
    one, many = _fit(*problem, n_threads=1), _fit(*problem, n_threads=n_threads)
    assert np.array_equal(one.means_, many.means_)
    assert np.array_equal(one.loadings_, many.loadings_)
    assert np.array_equal(one.noise_variance_, many.noise_variance_)
