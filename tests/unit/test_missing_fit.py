"""Fits with missing values, and what comes of them on images."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning

import reference as ref
from fits import quietly, starting_from
from mfa_fast import MFA, MFAClassifier, _core
from missing_cases import hidden_problem, marginal_model, noises
from models import assert_same_parameters, parameters_of
from tolerances import EM_MONOTONE, EM_PARAMETERS, EM_PARAMETERS_FLOAT32, scaled_error


@noises
@pytest.mark.parametrize("shape", [(3, 7, 2), (2, 5, 0), (1, 17, 4)])
def test_fit_agrees_with_the_reference(shape, noise_type, tied, dtype):
    _, X = hidden_problem(shape, 70, noise_type=noise_type, tied=tied, noise_std=0.7, dtype=dtype)
    start = ref.random_parameters(*shape, noise_type=noise_type, tied=tied, noise_std=0.7, seed=3)
    model = quietly(starting_from(start, noise_type, tied, max_iter=4, missing="marginal"), X)
    expected, bounds = ref.em(X, start, 4, step=ref.marginal_em_step, noise_type=noise_type, tied_noise=tied)
    tolerance = EM_PARAMETERS if dtype == np.float64 else EM_PARAMETERS_FLOAT32
    assert_same_parameters(model, expected, tolerance)
    assert scaled_error(model.lower_bounds_, bounds[:-1]) <= tolerance


def test_fit_agrees_with_the_reference_at_small_noise():
    p, X = hidden_problem((3, 12, 2), 70, noise_std=1e-3, rate=0.2)
    model = quietly(starting_from(p, max_iter=4, min_noise_variance=1e-9, missing="marginal"), X)
    expected, _ = ref.em(X, p, 4, step=ref.marginal_em_step, floor=1e-9)
    assert_same_parameters(model, expected, EM_PARAMETERS)


def test_fit_of_more_features_than_a_slab():
    p, X = hidden_problem((1, 1030, 2), 5, rate=0.3, noise_std=0.5)
    model = quietly(starting_from(p, max_iter=1, missing="marginal"), X)
    expected, _ = ref.marginal_em_step(X, p)
    assert_same_parameters(model, expected, EM_PARAMETERS)


@noises
def test_objective_never_falls(noise_type, tied, dtype):
    _, X = hidden_problem(n=300, noise_type=noise_type, tied=tied, noise_std=0.7, dtype=dtype)
    model = MFA(
        3, 2, noise_type=noise_type, tied_noise=tied, missing="marginal", tol=0, max_iter=30, random_state=0
    )  # fmt: skip
    bounds = np.asarray(quietly(model, X).lower_bounds_)
    assert np.all(np.diff(bounds) >= -EM_MONOTONE * np.abs(bounds[1:]))
    assert model.score(X) >= bounds[-1] - EM_MONOTONE * abs(bounds[-1])


@pytest.mark.parametrize("init_params", ["kmeans", "random"])
def test_fit_without_missing_values_is_the_ordinary_fit(init_params, dtype):
    X = ref.random_samples(ref.random_parameters(3, 7, 2, noise_std=0.7, seed=1), 200).astype(dtype)
    options = {"init_params": init_params, "max_iter": 5, "random_state": 0}
    one = quietly(MFA(3, 2, **options), X)
    other = quietly(MFA(3, 2, missing="marginal", **options), X)
    for a, b in zip(parameters_of(one), parameters_of(other), strict=True):
        assert np.array_equal(a, b)


def test_fit_does_not_depend_on_threads():
    _, X = hidden_problem((3, 40, 2), 300)
    one, many = (quietly(MFA(3, 2, missing="marginal", max_iter=4, random_state=0, n_threads=t), X) for t in (1, 4))
    for a, b in zip(parameters_of(one), parameters_of(many), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("weighted", [False, True])
def test_samples_without_any_feature_have_no_say(weighted):
    _, X = hidden_problem(n=100)
    w = np.random.default_rng(4).uniform(0.5, 2, 100) if weighted else None
    # They would make up most of a mean, by which EM is found to have come to rest, and of a batch.
    nothing = np.insert(X, np.repeat([0, 50, 100], 300), np.nan, axis=0)
    v = np.insert(w, np.repeat([0, 50, 100], 300), w.mean()) if weighted else None
    one, other = (
        quietly(MFA(3, 2, missing="marginal", random_state=0), samples, sample_weight=weights)
        for samples, weights in [(X, w), (nothing, v)]
    )
    assert other.n_iter_ == one.n_iter_
    assert scaled_error(other.lower_bounds_, one.lower_bounds_) <= EM_PARAMETERS
    assert_same_parameters(other, one, EM_PARAMETERS)
    assert_same_parameters(
        other.partial_fit(nothing[::-1], sample_weight=None if v is None else v[::-1]),
        one.partial_fit(X[::-1], sample_weight=None if w is None else w[::-1]),
        EM_PARAMETERS,
    )


def test_a_batch_without_any_feature_changes_nothing():
    _, X = hidden_problem(n=100)
    nothing = np.full((50, 7), np.nan)
    start = ref.random_parameters(3, 7, 2, seed=3)
    model = MFA(3, 2, missing="marginal", random_state=0).partial_fit(X)
    before = clone(model).partial_fit(X)
    assert_same_parameters(model.partial_fit(nothing), before, 0)
    assert model.lower_bound_ == before.lower_bound_
    assert model.n_steps_ == 1
    assert model.e_step(nothing).weight == 0
    with pytest.raises(ValueError, match="50 samples without any"):
        starting_from(start, missing="marginal").partial_fit(nothing)


def test_sample_weights_of_the_kernel_are_repetitions():
    p, X = hidden_problem(n=80)
    counts = np.random.default_rng(0).integers(0, 4, size=80)
    model = _core.Model(*p)

    def sums(X, **options):
        arrays = (np.zeros(3), np.zeros((3, 2)), np.zeros((3, 2, 2)), np.zeros((3, 3, 7)), np.zeros((3, 7)))
        pattern = np.empty(len(X), np.int64)
        _core.patterns(X, pattern, n_threads=1)
        rows = np.argsort(pattern, kind="stable")
        starts = np.append(np.flatnonzero(np.diff(pattern[rows], prepend=-2)), len(X))
        _core.marginal_expectation(model, X, (rows, starts), arrays, np.empty(len(X)), n_threads=2, **options)
        return arrays

    weighted = sums(X, sample_weight=counts.astype(np.float64))
    for a, b in zip(weighted, sums(np.repeat(X, counts, axis=0)), strict=True):
        assert scaled_error(a, b) <= 1e-13


def _weighted_clusters():
    """Samples of three clusters, of few patterns with several rows each, and how often each counts."""
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(100, 8)) + center for center in (0, 6, 12)])
    return np.where(rng.uniform(size=X.shape) < 0.15, np.nan, X), rng.integers(0, 4, size=300)


@pytest.mark.parametrize("init_params", ["kmeans", "k-means++"])
def test_integer_weights_are_repetitions(init_params):
    X, w = _weighted_clusters()
    options = {"init_params": init_params, "missing": "marginal", "random_state": 0, "max_iter": 3, "tol": 0}
    repeated = np.repeat(X, w, axis=0)
    one, other = quietly(MFA(3, 1, **options), X, sample_weight=w), quietly(MFA(3, 1, **options), repeated)
    assert scaled_error(one.weighted_log_prob(repeated), other.weighted_log_prob(repeated)) <= EM_PARAMETERS


@pytest.mark.parametrize("init_params", ["kmeans", "random_from_data"])
@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_samples_without_weight_leave_no_trace(init_params, scale):
    X, w = _weighted_clusters()
    w = w * scale
    options = {"init_params": init_params, "missing": "marginal", "random_state": 0, "max_iter": 3}
    one, other = quietly(MFA(3, 1, **options), X, sample_weight=w), MFA(3, 1, **options)
    quietly(other, X[w > 0], sample_weight=w[w > 0])
    for a, b in zip(parameters_of(one), parameters_of(other), strict=True):
        assert np.array_equal(a, b)


def test_samples_without_weight_have_to_be_finite():
    X, w = _weighted_clusters()
    X[np.flatnonzero((w == 0) & np.isnan(X).any(axis=1))[0], :] = np.inf, *[np.nan] * 7
    with pytest.raises(ValueError, match="infinity"):
        MFA(3, 1, missing="marginal", random_state=0).fit(X, sample_weight=w)


def test_emptied_components_are_moved_to_samples_with_missing_values():
    p, X = hidden_problem(n=100)
    start = p._replace(means=p.means + np.array([0, 0, 1e3])[:, None])
    with pytest.warns(ConvergenceWarning, match=r"component\(s\) 2"):
        model = starting_from(start, max_iter=200, tol=1e-2, missing="marginal").fit(X)
    for value in parameters_of(model):
        assert np.isfinite(value).all()


def test_statistics_of_parts_add_up():
    p, X = hidden_problem(n=100)
    model = marginal_model(p)
    whole, sum_of_parts = model.e_step(X), model.e_step(X[:37]) + model.e_step(X[37:])
    for a, b in zip(whole._sums(), sum_of_parts._sums(), strict=True):
        assert scaled_error(a, b) <= 1e-13
    assert whole.mean_log_likelihood == pytest.approx(model.score(X[~np.isnan(X).all(axis=1)]))
    before = model.score(X)
    assert model.m_step(whole).score(X) >= before


def test_parameters_are_recovered():
    p = ref.random_parameters(2, 10, 2, noise_std=0.3, seed=1)
    X = ref.random_samples(p._replace(means=3 * p.means), 2000, stray=0)
    hidden = X.copy()
    hidden[np.random.default_rng(0).uniform(size=X.shape) < 0.3] = np.nan
    full, part = (MFA(2, 2, missing="marginal", tol=1e-4, max_iter=300, random_state=0).fit(D) for D in (X, hidden))
    # What 30 per cent fewer values leave of the likelihood of all of them.
    assert full.score(X) - 0.02 <= part.score(X) <= full.score(X)


# ------------------------------------------------------------------------------------------------------------- images


def _errors(X_train, X_test, hidden, **options):
    """Root mean square error of hidden pixels by feature means, without factors, and by the mixture."""
    given = np.where(hidden, np.nan, X_test)
    means = np.broadcast_to(X_train.mean(axis=0), X_test.shape)
    guesses = [means]
    for n_factors in (0, options["n_factors"]):
        model = quietly(MFA(**{**options, "n_factors": n_factors}), X_train)
        guesses.append(model.impute(given))
    return [float(np.sqrt(np.mean((guess - X_test)[hidden] ** 2))) for guess in guesses]


def test_hidden_pixels_of_digits_are_recovered():
    X = load_digits().data / 16
    hidden = np.zeros((297, 64), bool)
    hidden[:150, 32:] = True  # the lower half
    hidden[150:] = np.random.default_rng(0).uniform(size=(147, 64)) < 0.5
    mean, no_factors, mixture = _errors(X[:1500], X[1500:], hidden, n_components=10, n_factors=5, random_state=0)
    assert mixture < 0.9 * no_factors
    assert no_factors < 0.95 * mean


def test_digits_are_learned_from_incomplete_images():
    X = load_digits().data / 16
    X_train = X[:1500].copy()
    X_train[np.random.default_rng(0).uniform(size=X_train.shape) < 0.6] = np.nan
    options = {"n_components": 10, "n_factors": 5, "max_iter": 60, "random_state": 0}
    marginal = quietly(MFA(missing="marginal", **options), X_train)
    filled = np.where(np.isnan(X_train), np.nanmean(X_train, axis=0), X_train)
    assert marginal.score(X[1500:]) > quietly(MFA(**options), filled).score(X[1500:]) + 5


def test_hidden_pixels_of_mnist_are_recovered(mnist):
    X = mnist["x_train"][:1200].reshape(-1, 784) / np.float32(255)
    hidden = np.zeros((200, 784), bool)
    hidden[:100, 392:] = True  # the lower half
    hidden[100:] = np.random.default_rng(0).uniform(size=(100, 784)) < 0.5
    mean, no_factors, mixture = _errors(
        X[:1000], X[1000:], hidden, n_components=5, n_factors=6, max_iter=20, random_state=0
    )
    assert mixture < 0.95 * no_factors
    assert no_factors < mean


def test_classifier_fits_incomplete_digits():
    X, y = load_digits(n_class=3, return_X_y=True)
    X = X / 16
    X[np.random.default_rng(0).uniform(size=X.shape) < 0.3] = np.nan
    X[:, 0] = 0.0  # a corner that is always seen
    classifier = quietly(MFAClassifier(2, 3, missing="marginal", random_state=0), X[:400], y[:400])
    assert classifier.score(X[400:], y[400:]) > 0.95
