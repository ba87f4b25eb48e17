"""Screening against a full evaluation: attacks on the certificate that lets components be left out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference as ref
from mfa_fast import MFA, MFAClassifier, _core, attacks
from tolerances import LOG_DENSITY, relative_error

# Left out is what lies this far below the best, in nats (cpp/core/screening.hpp).
NEGLIGIBLE = 40.0


@st.composite
def problems(draw):
    """Models that are nested, duplicated, far and near, and samples from inside them to 1e6 away."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    d = draw(st.integers(130, 200))
    K = draw(st.integers(20, 40))
    L = draw(st.integers(4, 6))
    noise_std = 10.0 ** draw(st.floats(-3.0, 0.5))
    rank = draw(st.sampled_from([3, 20, d]))  # of the space that means and loadings lie in
    spread = 10.0 ** draw(st.floats(-3.0, 1.0))
    space = rng.normal(size=(rank, d)) / np.sqrt(rank)
    means = spread * rng.normal(size=(K, rank)) @ space
    loadings = rng.normal(size=(K, L, rank)) @ space / np.sqrt(L)
    means[1], loadings[1] = means[0], loadings[0]  # the same component twice
    means[2], loadings[2] = means[0], 0.5 * loadings[0]  # one inside the other
    loadings[3, :, :] = 0.0
    noise = np.full((K, d), noise_std**2)
    if draw(st.booleans()):
        noise *= rng.uniform(0.5, 2.0, size=(K, 1))
    kind = draw(st.sampled_from(["spherical", "tied", "diagonal"]))
    if kind == "tied":
        noise = noise[:1] * rng.uniform(0.5, 2.0, size=d) * np.ones((K, 1))
    elif kind == "diagonal":
        noise = noise * rng.uniform(0.5, 2.0, size=(K, d))
    weights = rng.dirichlet(np.ones(K))
    p = ref.Parameters(weights, means, loadings, noise)
    X = ref.random_samples(p, 40, seed=draw(st.integers(0, 99)))
    away = 10.0 ** draw(st.floats(0.0, 6.0))
    X[::4] += away * rng.normal(size=(10, d)) / np.sqrt(d)
    return p, X


def _both(p, dtype):
    on = MFA.from_parameters(*p)
    return on, MFA.from_parameters(*p).set_params(screening=False)


@given(problems(), st.sampled_from([np.float32, np.float64]))
def test_the_same_with_and_without(problem, dtype):
    p, X = problem
    X = X.astype(dtype)
    on, off = _both(p, dtype)
    tolerance = LOG_DENSITY[np.dtype(dtype)]
    assert relative_error(on.score_samples(X), off.score_samples(X)) <= tolerance
    assert np.array_equal(on.predict(X), off.predict(X))
    assert np.max(np.abs(on.predict_proba(X) - off.predict_proba(X))) <= 1e-5


@given(problems(), st.sampled_from([np.float32, np.float64]))
def test_nothing_that_matters_is_dropped(problem, dtype):
    p, X = problem
    X = X.astype(dtype)
    on, _ = _both(p, dtype)
    joint = ref.weighted_log_prob(X.astype(np.float64), p)
    dropped = on.predict_proba(X.astype(np.float64)) == 0
    behind = joint.max(axis=1, keepdims=True) - joint
    # exp(-40) is not 0 in double: what is 0 was left out, or lies where exp underflows.
    assert np.all(behind[dropped] >= NEGLIGIBLE * (1 - 1e-9))


def _both_classifiers(p, rule="max"):
    half = len(p.weights) // 2
    parts = [
        ref.Parameters(p.weights[s] / p.weights[s].sum(), *(a[s] for a in p[1:])) for s in (np.s_[:half], np.s_[half:])
    ]
    mixtures = [MFA.from_parameters(*part) for part in parts]
    on = MFAClassifier.from_mixtures(mixtures, rule=rule)
    return on, MFAClassifier.from_mixtures(mixtures, rule=rule).set_params(screening=False)


@given(problems())
def test_attacks_are_the_same(problem):
    p, X = problem
    on, off = _both_classifiers(p)
    y = off.predict(X)
    a, b = attacks.ld_grad(on, X, y), attacks.ld_grad(off, X, y)
    assert np.array_equal(a.success, b.success)
    assert np.array_equal(a.n_steps, b.n_steps)
    assert relative_error(a.l2, b.l2) <= 1e-8


@given(
    problems(),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from(["max", "sum"]),
    st.integers(1, 6),
    st.sampled_from([0.0, 1.0, 1e3]),
)
def test_rows_that_were_moved_are_scored_as_well(problem, dtype, rule, steps, offset):
    p, X = problem
    on, off = _both_classifiers(p._replace(means=p.means + offset), rule)
    X = (X + offset).astype(dtype)
    y = off.predict(X)
    result = attacks.ld_grad(on, X, y, steps=steps)
    assert np.array_equal(result.success, off.predict(result.X_adv) != y)


@given(problems(), st.sampled_from([np.float32, np.float64]))
def test_bits_do_not_depend_on_threads_or_blocks(problem, dtype):
    p, X = problem
    X = np.tile(X.astype(dtype), (4, 1))
    on, _ = _both(p, dtype)
    whole = on.set_params(n_threads=1).score_samples(X)
    assert np.array_equal(on.set_params(n_threads=3).score_samples(X), whole)
    assert np.array_equal(np.concatenate([on.score_samples(X[:7]), on.score_samples(X[7:])]), whole)


def _packed(p, **how):
    return _core.Model(*(np.ascontiguousarray(a) for a in p), **how)


def _log_sums(model, X, groups=None):
    groups = np.array([0, model.n_components]) if groups is None else groups
    out = np.empty((len(X), len(groups) - 1))
    _core.reduce(model, X, groups, exact=False, screening=True, n_threads=1, log_sum=out)
    return out


@given(problems(), st.data())
def test_whatever_groups_a_model_is_packed_for_all_can_be_scored(problem, data):
    p, X = problem
    K = len(p.weights)
    one, other = (np.array([0, data.draw(st.integers(1, K - 1)), K]) for _ in range(2))
    expected = _log_sums(_packed(p), X, one)
    for groups in (one, other):
        assert relative_error(_log_sums(_packed(p, groups=groups), X, one), expected) <= LOG_DENSITY[X.dtype]


@pytest.mark.parametrize("groups", [[0], [0, 3], [1, 20], [0, 5, 4, 20], [0, 5, 5, 20]])
def test_groups_that_are_none(groups):
    p = ref.random_parameters(20, 40, 2)
    with pytest.raises(ValueError, match="groups must"):
        _packed(p, groups=np.array(groups))


@given(problems(), st.sampled_from(["itself", "a step away", "another"]))
def test_what_a_similar_model_found_is_as_good(problem, near):
    p, X = problem
    rng = np.random.default_rng(len(p.weights))
    far = {"itself": 0.0, "a step away": 0.05, "another": 10.0}[near]
    size = np.abs(p.loadings).max()
    other = p._replace(
        means=p.means + far * size * rng.normal(size=p.means.shape),
        loadings=p.loadings + far * size * rng.normal(size=p.loadings.shape),
    )
    expected = _log_sums(_packed(p), X)
    similar = _packed(other)
    _log_sums(similar, X)  # finds what is to be taken up
    model = _packed(p, near=similar)
    assert relative_error(_log_sums(model, X), expected) <= LOG_DENSITY[X.dtype]
    # And handed on from one to the next.
    assert relative_error(_log_sums(_packed(p, near=model), X), expected) <= LOG_DENSITY[X.dtype]


@pytest.mark.parametrize("noise_type", ["spherical", "diag"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_packed_model_is_the_same_for_any_number_of_threads(noise_type, dtype):
    # Of a size at which several have something to do in every part.
    p = ref.random_parameters(40, 2200, 16, noise_type=noise_type)
    X = ref.random_samples(p, 60).astype(dtype)
    one, three = (_packed(p, n_threads=n) for n in (1, 3))
    assert np.array_equal(_log_sums(one, X), _log_sums(three, X))
    dense = [np.empty((len(X), 40), dtype) for _ in range(2)]
    for model, out in zip((one, three), dense, strict=True):
        _core.log_densities(model, X, out, n_threads=1)
    assert np.array_equal(*dense)
