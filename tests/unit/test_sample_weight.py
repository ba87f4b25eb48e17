"""Weights of samples: 0 is as good as removed, an integer as good as repeated."""

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

import reference as ref
from fits import quietly, starting_from
from mfa_fast import MFA, MFAClassifier, _core
from models import assert_same_parameters
from tolerances import EM_PARAMETERS, scaled_error

KINDS = [("spherical", False), ("spherical", True), ("diag", False), ("diag", True)]
kinds = pytest.mark.parametrize(("noise_type", "tied"), KINDS)
starts = pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random_from_data", "random"])


def _problem(n=300, noise_type="spherical", tied=False):
    options = {"noise_type": noise_type, "tied": tied, "noise_std": 0.7}
    X = ref.random_samples(ref.random_parameters(3, 7, 2, **options, seed=1), n, seed=2)
    return X, ref.random_parameters(3, 7, 2, **options, seed=3), np.random.default_rng(4).integers(0, 4, n)


@kinds
def test_integers_stand_for_repetition(noise_type, tied):
    X, start, w = _problem(noise_type=noise_type, tied=tied)
    model = quietly(starting_from(start, noise_type=noise_type, tied_noise=tied, max_iter=5), X, sample_weight=w)
    expected, bounds = ref.em(np.repeat(X, w, axis=0), start, 5, noise_type=noise_type, tied_noise=tied)
    assert_same_parameters(model, expected, EM_PARAMETERS)
    assert scaled_error(model.lower_bounds_, bounds[:-1]) <= EM_PARAMETERS


@pytest.mark.parametrize("init_params", ["kmeans", "k-means++"])
@kinds
def test_the_start_knows_no_difference_either(noise_type, tied, init_params):
    X, _, w = _problem(noise_type=noise_type, tied=tied)
    options = {
        "noise_type": noise_type, "tied_noise": tied, "init_params": init_params, "random_state": 0, "max_iter": 3,
    }  # fmt: skip
    weighted = quietly(MFA(3, 2, **options), X, sample_weight=w)
    repeated = quietly(MFA(3, 2, **options), np.repeat(X, w, axis=0))
    # Factors may have the other sign.
    assert scaled_error(weighted.means_, repeated.means_) <= EM_PARAMETERS
    assert scaled_error(weighted.weighted_log_prob(X), repeated.weighted_log_prob(X)) <= EM_PARAMETERS


@kinds
def test_nor_where_components_start_with_fewer_samples_than_factors(noise_type, tied):
    rng = np.random.default_rng(7)
    X, w = rng.uniform(size=(60, 8)), rng.integers(0, 3, 60)
    options = {"noise_type": noise_type, "tied_noise": tied, "random_state": 0, "tol": 0, "max_iter": 10}
    weighted = quietly(MFA(6, 5, **options), X, sample_weight=w)
    repeated = quietly(MFA(6, 5, **options), np.repeat(X, w, axis=0))
    assert scaled_error(weighted.means_, repeated.means_) <= EM_PARAMETERS
    assert scaled_error(weighted.lower_bounds_, repeated.lower_bounds_) <= EM_PARAMETERS


@kinds
@pytest.mark.parametrize("seed", range(4))
def test_nor_where_a_component_starts_with_a_single_one(seed, noise_type, tied):
    X, w = np.random.default_rng(seed).normal(size=(6, 5)), np.array([1, 2, 3, 1, 2, 3])
    X[-1] += 20.0
    options = {"noise_type": noise_type, "tied_noise": tied, "random_state": 0, "tol": 0, "max_iter": 3}
    weighted = quietly(MFA(2, 1, **options), X, sample_weight=w)
    repeated = quietly(MFA(2, 1, **options), np.repeat(X, w, axis=0))
    assert scaled_error(weighted.means_, repeated.means_) <= EM_PARAMETERS
    assert scaled_error(weighted.lower_bounds_, repeated.lower_bounds_) <= EM_PARAMETERS


@starts
def test_zero_is_as_good_as_removed(init_params):
    X, _, w = _problem()
    fractions = w / 3 * np.linspace(0.5, 2, len(w))
    options = {"init_params": init_params, "random_state": 0, "max_iter": 3}
    weighted = quietly(MFA(3, 2, **options), np.where(w[:, None] > 0, X, 1e3), sample_weight=fractions)
    removed = quietly(MFA(3, 2, **options), X[w > 0], sample_weight=fractions[w > 0])
    assert_same_parameters(weighted, removed, 0)


def test_ones_are_as_good_as_none():
    X, start, _ = _problem()
    assert_same_parameters(
        quietly(starting_from(start, max_iter=5), X, sample_weight=np.ones(len(X))),
        quietly(starting_from(start, max_iter=5), X),
        0,
    )


@starts
def test_ones_and_zeros_need_no_weights(init_params):
    X, _, w = _problem()
    options = {"init_params": init_params, "random_state": 0, "max_iter": 3}
    weighted = quietly(MFA(3, 2, **options), X, sample_weight=(w > 0).astype(float))
    assert_same_parameters(weighted, quietly(MFA(3, 2, **options), X[w > 0]), 0)


@pytest.mark.parametrize("scale", [1e-310, 1e-12, 0.3, 1e9])
def test_only_ratios_matter_to_fit(scale):
    X, _, w = _problem()
    a, b = (quietly(MFA(3, 2, random_state=0, max_iter=5), X, sample_weight=w * s) for s in (1.0, scale))
    assert_same_parameters(a, b, EM_PARAMETERS)


@starts
def test_what_is_out_of_range_beside_the_largest_is_no_weight(init_params):
    X, _, w = _problem()
    options = {"init_params": init_params, "random_state": 0, "max_iter": 3}
    uneven = np.where(np.arange(len(w)) % 2, 1e300 * w, 1e-300)  # zeros among them too
    model = quietly(MFA(3, 2, **options), X, sample_weight=uneven)
    zeros = quietly(MFA(3, 2, **options), X, sample_weight=np.where(uneven > 1, uneven, 0))
    assert_same_parameters(model, zeros, 0)
    assert model.n_samples_seen_ == np.count_nonzero(uneven > 1)


def test_an_emptied_component_is_never_moved_to_a_sample_without_weight():
    X, start, w = _problem()
    start.means[1] = 1e6
    X[w == 0] += 50.0  # explained worst of all
    with pytest.warns(ConvergenceWarning, match="lost all samples"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "EM did not converge")
        model = starting_from(start, max_iter=1).fit(X, sample_weight=w)
    assert np.any(np.all(model.means_[1] == X[w > 0], axis=1))


def test_the_worst_samples_are_of_those_with_any_weight():
    X, start, w = _problem()
    start.means[1] = 1e6
    model = MFA.from_parameters(*start)
    X[w == 0] += 50.0
    counted = X[w > 0]
    worst = counted[np.argmin(model.score_samples(counted))]
    assert np.array_equal(model.e_step(X, sample_weight=0.01 * w).worst_samples, [worst])


def test_scores_and_criteria():
    X, start, w = _problem()
    model = MFA.from_parameters(*start)
    repeated = np.repeat(X, w, axis=0)
    assert model.score(X, sample_weight=w) == pytest.approx(model.score(repeated), rel=1e-12)
    assert model.bic(X, sample_weight=w) == pytest.approx(model.bic(repeated), rel=1e-12)
    assert model.aic(X, sample_weight=w) == pytest.approx(model.aic(repeated), rel=1e-12)
    assert model.score(X, sample_weight=w * 1e-9) == pytest.approx(model.score(repeated), rel=1e-12)


def test_statistics():
    X, start, w = _problem()
    model = MFA.from_parameters(*start)
    weighted, repeated = model.e_step(X, sample_weight=w), model.e_step(np.repeat(X, w, axis=0))
    for name in ("counts", "factor_sums", "factor_moments", "cross", "squares"):
        assert scaled_error(getattr(weighted, name), getattr(repeated, name)) <= 1e-12, name
    assert weighted.weight == repeated.weight == w.sum()
    assert weighted.log_likelihood == pytest.approx(repeated.log_likelihood, rel=1e-12)
    parts = model.e_step(X[:100], sample_weight=w[:100]) + model.e_step(X[100:], sample_weight=w[100:])
    assert scaled_error(parts.cross, weighted.cross) <= 1e-12


def test_fit_predict_takes_them():
    X, _, w = _problem()
    model = MFA(3, 2, random_state=0, tol=0.1)
    labels = model.fit_predict(X, sample_weight=w)
    assert np.array_equal(labels, quietly(MFA(3, 2, random_state=0, tol=0.1), X, sample_weight=w).predict(X))


@kinds
@pytest.mark.parametrize("n_threads", [2, 3])
def test_bit_identical_for_any_number_of_threads(noise_type, tied, n_threads, isa):
    X, start, w = _problem(1500, noise_type, tied)
    one, many = (quietly(starting_from(start, n_threads=n, max_iter=5), X, sample_weight=w) for n in (1, n_threads))
    assert_same_parameters(one, many, 0)


def test_classifier_weighs_samples_and_classes():
    X, _, w = _problem()
    y = (X[:, 0] > 0).astype(int)
    options = {"n_components": 2, "n_factors": 1, "random_state": 0, "max_iter": 5}
    weighted = quietly(MFAClassifier(**options), X, y, sample_weight=w)
    repeated = quietly(MFAClassifier(**options), np.repeat(X, w, axis=0), np.repeat(y, w))
    assert weighted.priors_ == pytest.approx(repeated.priors_, rel=1e-12)
    assert scaled_error(weighted.decision_function(X), repeated.decision_function(X)) <= EM_PARAMETERS


WRONG = [
    (-np.ones(300), ValueError, "negative"),
    (np.full(300, np.nan), ValueError, "NaN"),
    ([None] * 300, ValueError, "NaN"),
    (np.full(300, np.inf), ValueError, "infinity"),
    (np.zeros(300), ValueError, "zero"),
    (0.0, ValueError, "zero"),
    (np.full(300, 1e307), ValueError, "finite sum"),
    (np.ones(299), ValueError, r"\(300,\)"),
    (np.ones((300, 1)), ValueError, "1 dimension"),
    (["a"] * 300, ValueError, "sample_weight"),
    (np.full(300, 1j), ValueError, "sample_weight"),
]


@pytest.mark.parametrize(("wrong", "error", "words"), WRONG)
@pytest.mark.parametrize("method", ["fit", "fit_predict", "partial_fit", "score", "bic", "aic", "e_step"])
def test_wrong_ones_are_refused(method, wrong, error, words):
    if (method, words) == ("e_step", "zero"):
        pytest.skip("a part of the samples may weigh nothing")
    X, start, _ = _problem()
    model = MFA.from_parameters(*start)
    with pytest.raises(error, match=words) as caught:
        getattr(model, method)(X, sample_weight=wrong)
    assert "sample_weight" in str(caught.value)


def test_too_few_samples_of_positive_weight():
    X, _, _ = _problem()
    with pytest.raises(ValueError, match="n_samples=2 of positive weight"):
        MFA(3).fit(X, sample_weight=np.eye(1, len(X))[0] + np.eye(1, len(X), 7)[0])


def test_samples_have_to_be_finite_without_weight_too():
    X, _, w = _problem()
    X[np.argmin(w)] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        MFA(3, 2, random_state=0).fit(X, sample_weight=w)


def test_the_core_refuses_weights_of_another_shape_or_type():
    X, start, _ = _problem()
    packed = _core.Model(*(np.ascontiguousarray(a) for a in start))
    sums = MFA.from_parameters(*start).e_step(X)._sums()
    outputs = tuple(a.copy() for a in sums)
    for wrong, error in [(np.ones(299), ValueError), (np.ones(300, np.float32), TypeError), (1.0, TypeError)]:
        with pytest.raises(error, match="sample_weight"):
            _core.expectation(
                packed, X, outputs, np.zeros(300), sample_weight=wrong, screening=False, n_threads=1
            )  # fmt: skip
