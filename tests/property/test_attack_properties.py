"""What holds for every attack."""

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

import reference as ref
from attack_cases import assert_success
from mfa_fast.attacks import ld_grad
from models import classifier_of
from tolerances import ATTACK, BOUNDARY, scaled_error


@st.composite
def problems(draw, n_components=(1, 4), rules=("max", "sum")):
    """Mixtures of two classes, priors, samples and a rule."""
    d = draw(st.integers(2, 15))
    seed = draw(st.integers(0, 2**16))
    noise_type = draw(st.sampled_from(["spherical", "diag"]))
    noise_std = draw(st.sampled_from([1.0, 0.1, 1e-3]))
    mixtures = [
        ref.random_parameters(
            draw(st.integers(*n_components)),
            d,
            draw(st.integers(0, min(3, d - 1))),
            noise_type=noise_type,
            noise_std=noise_std,
            seed=seed + c,
        )
        for c in range(2)
    ]
    prior = draw(st.floats(0.05, 0.95))
    X = np.concatenate([ref.random_samples(m, 6, seed=seed, stray=0) for m in mixtures])
    return mixtures, [prior, 1 - prior], X, draw(st.sampled_from(rules))


@given(problems(n_components=(1, 1)))
def test_a_step_lands_on_the_boundary(problem):
    mixtures, priors, X, rule = problem
    result = ld_grad(classifier_of(*problem[:2], rule), X, steps=1)
    # Where the ray of the gradient meets the other class at all.
    before = np.abs(ref.decision_function(X, mixtures, priors, rule))
    after = np.abs(ref.decision_function(result.X_adv, mixtures, priors, rule))
    landed = result.success
    assume(landed.any())
    assert np.all(after[landed] <= BOUNDARY * np.maximum(1, before[landed]))


@given(problems(), st.integers(1, 6))
def test_success_is_what_predict_says_and_the_reference(problem, steps):
    mixtures, priors, X, rule = problem
    y = np.argmax(ref.class_scores(X, mixtures, priors, rule), axis=1)
    model = classifier_of(mixtures, priors, rule)
    result = ld_grad(model, X, y, steps=steps)
    assert np.array_equal(result.success, model.predict(result.X_adv) != y)
    assert_success(result, y, mixtures, priors, rule)
    assert np.all((result.n_steps >= 1) & (result.n_steps <= steps))
    assert np.all(np.isfinite(result.X_adv))


@given(problems())
def test_distance_is_that_of_the_result(problem):
    mixtures, priors, X, rule = problem
    result = ld_grad(classifier_of(mixtures, priors, rule), X)
    assert scaled_error(result.l2, np.linalg.norm(result.X_adv - X, axis=1)) <= ATTACK[X.dtype]


@given(problems())
def test_more_steps_lose_no_success(problem):
    mixtures, priors, X, rule = problem
    model = classifier_of(mixtures, priors, rule)
    few, many = (ld_grad(model, X, steps=s) for s in (2, 5))
    assert np.all(many.success[few.success])
    assert np.array_equal(many.X_adv[few.success], few.X_adv[few.success])


@given(problems(), st.integers(2, 5))
def test_threads_and_chunks_give_the_same_bits(problem, n_threads):
    mixtures, priors, X, rule = problem
    X = np.tile(X, (30, 1))
    whole = ld_grad(classifier_of(mixtures, priors, rule).set_params(n_threads=1), X)
    many = ld_grad(classifier_of(mixtures, priors, rule).set_params(n_threads=n_threads), X)
    part = ld_grad(classifier_of(mixtures, priors, rule), X[5:])
    assert np.array_equal(whole.X_adv, many.X_adv)
    assert np.array_equal(whole.X_adv[5:], part.X_adv)


@given(problems(rules=("max",)))
def test_priors_move_the_boundary_and_not_the_direction_of_the_first_step(problem):
    mixtures, _, X, rule = problem
    X, y = X[:6], np.zeros(6, dtype=int)
    directions = []
    for priors in ([0.4, 0.6], [0.6, 0.4]):
        assume(np.all(ref.decision_function(X, mixtures, priors, rule) < 0))
        step = ld_grad(classifier_of(mixtures, priors, rule), X, y, steps=1).X_adv - X
        directions.append(step / np.linalg.norm(step, axis=1, keepdims=True))
    cosine = np.sum(directions[0] * directions[1], axis=1)
    assert np.all(np.abs(cosine - 1) <= ATTACK[X.dtype])
