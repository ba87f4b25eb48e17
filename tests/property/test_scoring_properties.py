"""What holds for the scores of every mixture."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ortho_group

import reference as ref
from mfa_fast import MFA
from tolerances import LOG_DENSITY, PROBABILITY_SUM, relative_error

FLOAT64 = LOG_DENSITY[np.dtype(np.float64)]


@st.composite
def mixtures(draw, min_factors=0):
    """Parameters and data."""
    d = draw(st.integers(min_factors + 1, 20))
    p = ref.random_parameters(
        draw(st.integers(1, 6)),
        d,
        draw(st.integers(min_factors, min(5, d - 1))),
        noise_type=draw(st.sampled_from(["spherical", "diag"])),
        tied=draw(st.booleans()),
        noise_std=draw(st.sampled_from([1.0, 0.1, 1e-3])),
        seed=draw(st.integers(0, 2**16)),
    )
    X = ref.random_samples(p, draw(st.integers(1, 40)), seed=draw(st.integers(0, 2**16)))
    return p, X.astype(draw(st.sampled_from([np.float32, np.float64])))


def _model(p, **parameters):
    return MFA.from_parameters(*p).set_params(**parameters)


@given(mixtures(), st.randoms(use_true_random=False))
def test_permuting_components_permutes_columns(case, random):
    p, X = case
    order = random.sample(range(len(p.weights)), len(p.weights))
    permuted = ref.Parameters(*(value[order] for value in p))
    value = _model(permuted).weighted_log_prob(X)
    expected = _model(p).weighted_log_prob(X)[:, order]
    assert relative_error(value, expected) <= LOG_DENSITY[X.dtype]


@given(mixtures(), st.randoms(use_true_random=False))
def test_permuting_features_changes_nothing(case, random):
    p, X = case
    order = random.sample(range(X.shape[1]), X.shape[1])
    permuted = ref.Parameters(p.weights, *(value[..., order] for value in p[1:]))
    value = _model(permuted).weighted_log_prob(X[:, order])
    assert relative_error(value, _model(p).weighted_log_prob(X)) <= LOG_DENSITY[X.dtype]


@given(mixtures(min_factors=2), st.integers(0, 2**16))
def test_rotating_loadings_leaves_densities(case, seed):
    p, X = case
    rotation = ortho_group.rvs(p.loadings.shape[1], random_state=seed)
    # The rotation is orthogonal to 1e-15 only; at small noise its rounding is seen. So in float64
    # and at the size of the densities.
    rotated = p._replace(loadings=np.einsum("ml,kld->kmd", rotation, p.loadings))
    value = _model(rotated).weighted_log_prob(X)
    assert relative_error(value, ref.weighted_log_prob(X, rotated)) <= LOG_DENSITY[X.dtype]
    assert relative_error(value, _model(p).weighted_log_prob(X)) <= 2 * LOG_DENSITY[X.dtype]


@given(mixtures(), st.integers(-1024, 1024))
def test_translation_leaves_densities(case, shift):
    p, X = case
    # Values on a grid on which adding the shift is exact.
    grid = 2.0**-12
    X = (np.round(X.astype(np.float64) / grid) * grid).astype(X.dtype)
    p = p._replace(means=np.round(p.means / grid) * grid)
    moved = X + X.dtype.type(shift)
    assert np.array_equal(moved.astype(np.float64), X.astype(np.float64) + shift)
    value = _model(p._replace(means=p.means + shift)).weighted_log_prob(moved)
    assert relative_error(value, _model(p).weighted_log_prob(X)) <= LOG_DENSITY[X.dtype]


@given(mixtures(), st.floats(1e-3, 1e3))
def test_a_change_of_units_shifts_densities(case, unit):
    p, X = case
    X = X.astype(np.float64)
    scaled = ref.Parameters(p.weights, p.means * unit, p.loadings * unit, p.noise_variance * unit**2)
    value = _model(scaled).score_samples(X * unit)
    expected = _model(p).score_samples(X) - X.shape[1] * np.log(unit)
    # X * unit is rounded: 1e-16 of x, divided by the noise.
    smallest = np.sqrt(p.noise_variance.min())
    allowed = FLOAT64 + 1e-13 * np.abs(X).max() / smallest
    assert relative_error(value, expected) <= allowed


@given(mixtures(), st.data())
def test_chunks_give_the_same_bits(case, data):
    p, X = case
    model = _model(p)
    split = data.draw(st.integers(1, len(X)))
    head, tail = X[:split], X[split:]
    for method in ("weighted_log_prob", "score_samples", "predict", "reconstruct"):
        whole = getattr(model, method)(X)
        assert np.array_equal(getattr(model, method)(head), whole[:split])
        if len(tail):
            assert np.array_equal(getattr(model, method)(tail), whole[split:])


@given(mixtures(), st.integers(2, 7))
def test_threads_give_the_same_bits(case, n_threads):
    p, X = case
    X = np.tile(X, (30, 1))
    one, many = _model(p, n_threads=1), _model(p, n_threads=n_threads)
    for method in ("weighted_log_prob", "score_samples", "predict_proba"):
        assert np.array_equal(getattr(one, method)(X), getattr(many, method)(X))


@given(mixtures())
def test_score_is_the_log_sum_exp_of_the_components(case):
    p, X = case
    model = _model(p)
    expected = ref.log_sum_exp(model.weighted_log_prob(X).astype(np.longdouble))
    assert relative_error(model.score_samples(X), expected) <= 2 * LOG_DENSITY[X.dtype]


@given(mixtures())
def test_responsibilities_are_probabilities(case):
    p, X = case
    value = _model(p).predict_proba(X)
    assert np.all((value >= 0) & (value <= 1))
    assert relative_error(value.sum(axis=1), np.ones(len(X))) <= PROBABILITY_SUM[X.dtype]
    labels = _model(p).predict(X)
    assert np.all(value[np.arange(len(X)), labels] == value.max(axis=1))


@given(mixtures())
def test_a_reconstruction_is_reconstructed_as_itself_without_noise(case):
    p, X = case
    p = p._replace(noise_variance=np.full_like(p.noise_variance, 1e-10))
    model = _model(p)
    once = model.reconstruct(X.astype(np.float64))
    assert relative_error(model.reconstruct(once), once) <= 1e-6


@given(mixtures(), st.integers(1, 200), st.integers(0, 200), st.integers(0, 2**32 - 1))
def test_samples_are_a_function_of_seed_and_position(case, n_samples, start, seed):
    model = _model(case[0])
    X, labels = model.sample(start + n_samples, random_state=seed)
    rest, rest_labels = model.sample(n_samples, random_state=seed, start=start)
    assert np.array_equal(rest, X[start:])
    assert np.array_equal(rest_labels, labels[start:])
