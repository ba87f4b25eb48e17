"""Screening that looks at a part of the features first."""

import numpy as np
import pytest

import reference as ref
from device_cases import every_glanced_width, every_noise, glanced_case
from mfa_fast import MFA, MFAClassifier, _core
from tolerances import FACTORS, LOG_DENSITY, relative_error, scaled_error


@every_noise
@every_glanced_width
def test_scores_on_every_instruction_set(d, noise, dtype, isa):
    p, X = glanced_case(d, noise, dtype)
    assert _core.Model(*p).glances
    model = MFA.from_parameters(*p)
    joint = ref.weighted_log_prob(X, p)
    scores = model.score_samples(X)
    assert relative_error(scores, ref.log_sum_exp(joint)) <= LOG_DENSITY[dtype]
    assert np.array_equal(model.predict(X), joint.argmax(axis=1))
    own, factors = model.posterior_factors(X)
    for k in np.unique(own):
        component = ref.Component(p, k)
        z = component.factors(X[own == k] - component.mean)
        assert relative_error(factors[own == k], z) <= FACTORS[dtype]
    for n in (1, 7, 61):
        assert np.array_equal(model.score_samples(X[:n]), scores[:n])
    order = np.random.default_rng(0).permutation(len(X))
    assert np.array_equal(model.score_samples(X[order]), scores[order])


@every_noise
def test_statistics(noise, isa):
    p, X = glanced_case(600, noise, np.float64)
    model = MFA.from_parameters(*p).set_params(noise_type="spherical" if noise == "spherical" else "diag")
    found = model.e_step(X)
    expected = model.set_params(screening=False).e_step(X)
    for name in ("counts", "factor_sums", "factor_moments", "cross", "squares", "log_likelihood"):
        assert scaled_error(getattr(found, name), getattr(expected, name)) <= 1e-9, name


@pytest.mark.parametrize("features", [(70, 5), (5, 70)])
def test_the_first_row_that_is_not_finite_is_named(features, dtype):
    p, X = glanced_case(600, "spherical", dtype)
    X[[30, 50], features] = np.nan, np.inf
    with pytest.raises(ValueError, match="30"):
        MFA.from_parameters(*p).score_samples(X)


def test_features_whose_noise_is_shared_though_not_all_of_it_is():
    p, X = glanced_case(600, "tied diagonal", np.float64)
    p.noise_variance[:, np.arange(600) // 64 % 8 == 0] = 0.05**2
    assert _core.Model(*p).glances
    assert relative_error(MFA.from_parameters(*p).score_samples(X), ref.score_samples(X, p)) <= LOG_DENSITY[X.dtype]


def test_components_without_weight_change_nothing(dtype, isa):
    p, X = glanced_case(600, "spherical", dtype)
    p.weights[[3, 7]] = 0.0
    model = _core.Model(*p)
    assert model.glances
    with np.errstate(divide="ignore"):
        joint = ref.weighted_log_prob(X, p)
    scored = MFA.from_parameters(p.weights / p.weights.sum(), *p[1:])
    expected = ref.log_sum_exp(joint) - np.log(p.weights.sum())
    assert relative_error(scored.score_samples(X), expected) <= LOG_DENSITY[dtype]
    assert np.array_equal(scored.predict(X), joint.argmax(axis=1))


def test_nothing_is_looked_at_in_part_where_that_does_not_pay():
    p, _ = glanced_case(600, "spherical", np.float64)
    assert _core.Model(*p).glances
    # Of a class that a row is far from, a part of the features rules nothing out.
    assert not _core.Model(*p, groups=np.array([0, 12, 24])).glances
    assert not _core.Model(*glanced_case(600, "spherical", np.float64, noise_std=1.0)[0]).glances
    assert not _core.Model(*glanced_case(200, "spherical", np.float64)[0]).glances  # the part would be too large
    looked_at = np.arange(600) // 64 % 8 == 0
    p.means[:, looked_at] = 0.0
    assert not _core.Model(*p).glances


def test_what_a_similar_model_has_found_is_taken_up():
    p, X = glanced_case(600, "spherical", np.float64)
    expected = ref.score_samples(X, p)
    near = None
    for factor in (1.0, 1.0 + 1e-9, 1.01, 0.5):
        model = _core.Model(p.weights, factor * p.means, factor * p.loadings, factor**2 * p.noise_variance, near=near)
        assert model.glances
        out = np.empty((len(X), 1))
        assert (
            _core.reduce(model, factor * X, np.array([0, 24]), exact=True, screening=True, n_threads=1, log_sum=out)
            is None
        )
        assert relative_error(out[:, 0] + 600 * np.log(factor), expected) <= LOG_DENSITY[X.dtype]
        near = model
    # One that does not look at a part, and one like it.
    p, _ = glanced_case(600, "spherical", np.float64, noise_std=1.0)
    near = _core.Model(*p)
    assert not near.glances
    assert not _core.Model(*p, near=near).glances


def test_a_classifier_of_one_component_each_is_screened_as_before(dtype):
    p, X = glanced_case(600, "spherical", dtype)
    mixtures = [MFA.from_parameters([1.0], *(array[k : k + 1] for array in p[1:])) for k in range(24)]
    model = MFAClassifier.from_mixtures(mixtures, priors=p.weights)
    assert np.array_equal(model.predict(X), ref.weighted_log_prob(X, p).argmax(axis=1))
