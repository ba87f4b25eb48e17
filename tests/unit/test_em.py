"""Fitting by expectation maximization."""

import re
import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

import reference as ref
from fits import quietly, starting_from
from mfa_fast import MFA
from models import assert_same_parameters, parameters_of
from tolerances import EM_MONOTONE, EM_PARAMETERS, EM_PARAMETERS_FLOAT32, scaled_error

KINDS = [("spherical", False), ("spherical", True), ("diag", False), ("diag", True)]
kinds = pytest.mark.parametrize(("noise_type", "tied"), KINDS)
INIT_PARAMS = ("kmeans", "k-means++", "random_from_data", "random")


def _problem(noise_type="spherical", tied=False, *, n=400, shape=(3, 7, 2)):
    """Data of one mixture, and another one to start from."""
    options = {"noise_type": noise_type, "tied": tied, "noise_std": 0.7}
    X = ref.random_samples(ref.random_parameters(*shape, **options, seed=1), n, seed=2)
    return X, ref.random_parameters(*shape, **options, seed=3)


def _near(p):
    """Parameters not far from others, so that every component keeps its samples."""
    rng = np.random.default_rng(5)
    return p._replace(
        means=p.means + 0.3 * rng.normal(size=p.means.shape),
        loadings=p.loadings + 0.1 * rng.normal(size=p.loadings.shape),
    )


@kinds
@pytest.mark.parametrize("n_iter", [1, 2, 10])
def test_agrees_with_the_reference_step_by_step(n_iter, noise_type, tied, isa):
    X, start = _problem(noise_type, tied)
    model = quietly(starting_from(start, noise_type, tied, max_iter=n_iter), X)
    expected, bounds = ref.em(X, start, n_iter, noise_type=noise_type, tied_noise=tied)
    assert_same_parameters(model, expected, EM_PARAMETERS)
    assert model.n_iter_ == n_iter
    assert len(model.lower_bounds_) == n_iter
    assert scaled_error(model.lower_bounds_, bounds[:-1]) <= EM_PARAMETERS


@kinds
def test_agrees_with_the_reference_in_float32(noise_type, tied):
    X, start = _problem(noise_type, tied)
    X = X.astype(np.float32)
    model = quietly(starting_from(start, noise_type, tied, max_iter=5), X)
    expected, _ = ref.em(X, start, 5, noise_type=noise_type, tied_noise=tied)
    assert_same_parameters(model, expected, EM_PARAMETERS_FLOAT32)


@pytest.mark.parametrize("shape", [(1, 4, 0), (1, 1, 0), (4, 17, 7), (17, 5, 1), (2, 257, 3)])
def test_agrees_with_the_reference_for_other_shapes(shape):
    p = ref.random_parameters(*shape, noise_std=0.7, seed=1)
    X, start = ref.random_samples(p, 900), _near(p)
    model = quietly(starting_from(start, max_iter=3), X)
    assert_same_parameters(model, ref.em(X, start, 3)[0], EM_PARAMETERS)


def test_agrees_with_the_reference_at_small_noise():
    start = ref.random_parameters(3, 12, 2, noise_std=1e-3, seed=4)
    X = ref.random_samples(start, 500, stray=0)
    model = quietly(starting_from(start, max_iter=5, min_noise_variance=1e-9), X)
    assert_same_parameters(model, ref.em(X, start, 5, floor=1e-9)[0], EM_PARAMETERS)


def test_agrees_with_the_reference_far_from_the_origin():
    X, start = _problem()
    model = quietly(starting_from(start._replace(means=start.means + 1e4), max_iter=5), X + 1e4)
    expected, _ = ref.em(X, start, 5)
    assert_same_parameters(model, expected._replace(means=expected.means + 1e4), 1e-6)


@pytest.mark.parametrize("init_params", INIT_PARAMS)
@kinds
def test_objective_never_falls(noise_type, tied, init_params, dtype):
    X, _ = _problem(noise_type, tied)
    model = MFA(
        3, 2, noise_type=noise_type, tied_noise=tied, init_params=init_params,
        tol=0, max_iter=40, random_state=0,
    )  # fmt: skip
    bounds = np.asarray(quietly(model, X.astype(dtype)).lower_bounds_)
    assert len(bounds) >= 2
    assert np.all(np.diff(bounds) >= -EM_MONOTONE * np.abs(bounds[1:]))
    assert model.score(X) >= bounds[-1] - EM_MONOTONE * abs(bounds[-1])


@kinds
def test_noise_has_the_structure_asked_for(noise_type, tied):
    X, _ = _problem(noise_type, tied)
    noise = MFA(3, 2, noise_type=noise_type, tied_noise=tied, random_state=0).fit(X).noise_variance_
    assert noise.shape == (3, 7)
    assert np.all(noise > 0)
    assert (np.ptp(noise, axis=1) == 0).all() == (noise_type == "spherical")
    assert (np.ptp(noise, axis=0) == 0).all() == tied


@pytest.mark.parametrize("init_params", INIT_PARAMS)
def test_same_random_state_same_model(init_params):
    X, _ = _problem()
    a, b, c = (quietly(MFA(3, 2, init_params=init_params, max_iter=5, random_state=seed), X) for seed in (0, 0, 1))
    assert_same_parameters(a, b, 0)
    assert not np.array_equal(a.means_, c.means_)


@pytest.mark.parametrize("init_params", [name for name in INIT_PARAMS if name != "random"])
def test_every_start_from_the_data_finds_clear_clusters(init_params):
    rng = np.random.default_rng(0)
    centers = 20 * np.eye(3, 8)
    X = np.repeat(centers, 100, axis=0) + rng.normal(size=(300, 8))
    model = MFA(3, 1, init_params=init_params, n_init=5, max_iter=300, random_state=0).fit(X)
    assert sorted(np.bincount(model.predict(X), minlength=3)) == [100, 100, 100]


@pytest.mark.parametrize("n_threads", [2, 3, 5])
@kinds
def test_bit_identical_for_any_number_of_threads(n_threads, noise_type, tied, dtype):
    X, start = _problem(noise_type, tied, n=1500)
    X = X.astype(dtype)
    one, many = (quietly(starting_from(start, noise_type, tied, max_iter=4, n_threads=n), X) for n in (1, n_threads))
    assert_same_parameters(many, one, 0)
    assert np.array_equal(one.lower_bounds_, many.lower_bounds_)


def test_initialization_is_bit_identical_for_any_number_of_threads():
    X, _ = _problem(n=1500)
    one, many = (quietly(MFA(3, 2, max_iter=2, random_state=0, n_threads=n), X) for n in (1, 3))
    assert_same_parameters(many, one, 0)


def test_starts_may_be_given_in_part():
    X, start = _problem()
    for name in ("weights_init", "means_init", "loadings_init", "noise_variance_init"):
        given = getattr(start, name.removesuffix("_init"))
        model = quietly(MFA(3, 2, max_iter=20, random_state=0, **{name: given}), X)
        assert np.all(np.isfinite(model.score_samples(X)))
        assert np.array_equal(getattr(model, name), given)


def test_means_that_are_given_make_the_clusters():
    X, start = _problem()
    order = [2, 0, 1]
    model, other = (
        quietly(MFA(3, 2, means_init=means, max_iter=1, random_state=0), X)
        for means in (start.means, start.means[order])
    )
    permuted = ref.Parameters(*(value[order] for value in parameters_of(model)))
    assert_same_parameters(other, permuted, EM_PARAMETERS)


@pytest.mark.parametrize(("init_params", "finds"), [("k-means++", True), ("random_from_data", False)])
def test_seeding_goes_for_what_is_far_away_and_random_samples_do_not(init_params, finds):
    rng = np.random.default_rng(0)
    few = np.repeat(100 * np.eye(3, 8), 2, axis=0)
    X = np.concatenate([rng.normal(size=(600, 8)), few + rng.normal(size=(6, 8))])
    model = quietly(MFA(4, 0, init_params=init_params, max_iter=1, random_state=0), X)
    assert (len(set(model.predict(few))) == 3) == finds


def test_first_parameters_do_not_depend_on_the_origin():
    """In more dimensions than the subspace has, which is of what varies and not of where it is."""
    X = ref.random_samples(ref.random_parameters(3, 60, 2, noise_std=0.3, seed=1), 300, stray=0)
    here, there = (quietly(MFA(3, 2, max_iter=1, random_state=0), X + offset) for offset in (0.0, 100.0))
    moved = parameters_of(here)._replace(means=here.means_ + 100)
    assert_same_parameters(there, moved, EM_PARAMETERS)


def test_warm_start_goes_on_where_it_stopped():
    X, start = _problem()
    model = starting_from(start, max_iter=3, warm_start=True)
    for _ in range(3):
        quietly(model, X)
    assert_same_parameters(model, ref.em(X, start, 9)[0], EM_PARAMETERS)


def test_without_warm_start_a_second_fit_starts_again():
    X, start = _problem()
    model = quietly(quietly(starting_from(start, max_iter=3), X), X)
    assert_same_parameters(model, ref.em(X, start, 3)[0], EM_PARAMETERS)


def test_n_init_keeps_the_best():
    X, _ = _problem(shape=(6, 7, 1))
    options = {"init_params": "random", "max_iter": 30, "random_state": 0}
    one = quietly(MFA(6, 1, **options), X).score(X)
    many = quietly(MFA(6, 1, n_init=8, **options), X)
    assert many.score(X) > one
    assert many.score(X) == pytest.approx(many.lower_bounds_[-1], rel=1e-2)


def test_convergence():
    X, start = _problem()
    model = starting_from(start, tol=1e-3, max_iter=500)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(X)
    assert model.converged_
    assert 1 < model.n_iter_ < 500
    assert abs(model.lower_bounds_[-1] - model.lower_bounds_[-2]) <= 1e-3
    tighter = starting_from(start, tol=1e-6, max_iter=5000).fit(X)
    assert tighter.n_iter_ > model.n_iter_
    assert tighter.score(X) > model.score(X)


def test_too_few_iterations_are_said_so():
    X, start = _problem()
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        model = starting_from(start, tol=1e-3, max_iter=2).fit(X)
    assert not model.converged_


@kinds
def test_an_emptied_component_is_seeded_again(noise_type, tied):
    X, start = _problem(noise_type, tied)
    start.means[1] = 1e6
    with pytest.warns(UserWarning, match=r"component"):
        model = starting_from(start, noise_type, tied, tol=1e-4, max_iter=500).fit(X)
    assert np.all(model.weights_ * len(X) >= 1)
    assert np.all(np.abs(model.means_) < 1e3)
    alone = ref.Parameters(*(value[[0, 2]] for value in start))
    alone = alone._replace(weights=alone.weights / alone.weights.sum())
    _, bounds = ref.em(X, alone, 50, noise_type=noise_type, tied_noise=tied)
    assert model.score(X) > bounds[-1]


@kinds
def test_information_criteria(noise_type, tied):
    X, _ = _problem(noise_type, tied)
    model = MFA(3, 2, noise_type=noise_type, tied_noise=tied, random_state=0).fit(X)
    count = ref.n_parameters(3, 2, 7, noise_type, tied)
    assert model.n_parameters() == count
    log_likelihood = ref.score_samples(X, parameters_of(model)).sum()
    assert model.bic(X) == pytest.approx(-2 * log_likelihood + count * np.log(len(X)), rel=1e-9)
    assert model.aic(X) == pytest.approx(-2 * log_likelihood + 2 * count, rel=1e-9)


@kinds
@pytest.mark.parametrize(("n_features", "n_factors"), [(1, 0), (2, 1), (3, 2), (5, 2), (5, 3), (5, 4), (7, 4)])
@pytest.mark.parametrize("n_components", [1, 2, 3])
def test_parameters_that_change_no_covariance_are_not_counted(n_components, n_factors, n_features, noise_type, tied):
    # Rotations of the factors never do; nor does all that many factors and diagonal noise have beyond full covariances.
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(n_components, n_factors, n_features))
    weights = np.full(n_components, 1 / n_components)
    model = MFA.from_parameters(weights, rng.normal(size=(n_components, n_features)), loadings, 1.0)
    model.set_params(noise_type=noise_type, tied_noise=tied)
    assert model.n_parameters() == ref.n_parameters(n_components, n_factors, n_features, noise_type, tied)


@kinds
def test_noise_is_kept_above_its_floor(noise_type, tied):
    X, start = _problem(noise_type, tied)
    model = quietly(starting_from(start, noise_type, tied, max_iter=5, min_noise_variance=1.0), X)
    expected, _ = ref.em(X, start, 5, noise_type=noise_type, tied_noise=tied, floor=1.0)
    assert model.noise_variance_.min() >= 1.0
    assert expected.noise_variance.min() == 1.0
    assert_same_parameters(model, expected, EM_PARAMETERS)


@kinds
@pytest.mark.parametrize("value", [0.0, 1.0, -1e5])
def test_constant_features(value, noise_type, tied):
    X, _ = _problem(noise_type, tied)
    X[:, [2, 5]] = value
    model = quietly(MFA(2, 1, noise_type=noise_type, tied_noise=tied, random_state=0), X)
    assert np.all(model.noise_variance_ >= 1e-6)
    assert scaled_error(model.means_[:, [2, 5]], np.full((2, 2), value)) <= 1e-6
    assert np.all(np.isfinite(model.score_samples(X)))


@kinds
def test_duplicated_rows(noise_type, tied):
    X, start = _problem(noise_type, tied, n=100)
    once, thrice = (
        quietly(starting_from(start, noise_type, tied, max_iter=5), np.repeat(X, times, axis=0)) for times in (1, 3)
    )
    assert_same_parameters(thrice, once, EM_PARAMETERS)


@pytest.mark.filterwarnings("ignore::UserWarning")
@kinds
def test_all_rows_alike(noise_type, tied):
    model = quietly(MFA(2, 1, noise_type=noise_type, tied_noise=tied, random_state=0), np.ones((30, 4)))
    assert np.all(model.noise_variance_ >= 1e-6)
    for value in parameters_of(model):
        assert np.all(np.isfinite(value))
    assert scaled_error(model.weights_ @ model.means_, np.ones(4)) <= 1e-6


def test_more_features_than_rows():
    p = ref.random_parameters(2, 50, 3, noise_std=0.7, seed=1)
    X, start = ref.random_samples(p, 24, stray=0), _near(p)
    model = quietly(starting_from(start, max_iter=2), X)
    assert_same_parameters(model, ref.em(X, start, 2)[0], EM_PARAMETERS)


def test_verbose_reports_progress(capsys):
    X, start = _problem()
    quietly(starting_from(start, max_iter=5, verbose=0), X)
    assert capsys.readouterr().out == ""
    model = quietly(starting_from(start, max_iter=5, verbose=True, verbose_interval=2), X)
    lines = [f"  Iteration {i}\t mean log-likelihood {model.lower_bounds_[i - 1]:.6f}" for i in (2, 4)]
    assert capsys.readouterr().out.splitlines() == ["Initialization 0", *lines]
    quietly(starting_from(start, max_iter=5, verbose=2, verbose_interval=2), X)
    assert re.fullmatch(rf"{re.escape(lines[1])}\t \d+\.\d\d s", capsys.readouterr().out.splitlines()[-1])


def test_digits_of_mnist_end_no_lower_than_the_reference(mnist):
    X = mnist["x_train"][mnist["y_train"] == 3][:1000].reshape(1000, -1) / np.float32(255)
    rng = np.random.default_rng(0)
    start = ref.Parameters(
        np.full(4, 0.25),
        X[rng.choice(1000, 4, replace=False)].astype(np.float64),
        0.1 * rng.normal(size=(4, 3, 784)),
        np.full((4, 784), 0.1),
    )
    _, expected = ref.em(X, start, 6)
    model = quietly(starting_from(start, max_iter=6), X)
    bounds = np.asarray(model.lower_bounds_)
    assert np.all(np.diff(bounds) >= -EM_MONOTONE * np.abs(bounds[1:]))
    assert model.score(X) >= expected[-1] - EM_MONOTONE * abs(expected[-1])
