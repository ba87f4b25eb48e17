"""The reference against formulas that are independent of it."""

import mpmath
import numpy as np
import pytest
from scipy.stats import multivariate_normal

import reference as ref
from tolerances import FINITE_DIFFERENCES, REFERENCE, relative_error

SHAPES = [(1, 1, 0), (2, 5, 2), (3, 17, 7)]  # K, d, L


@pytest.mark.parametrize("noise_std", [1.0, 1e-3])
@pytest.mark.parametrize("noise_type", ["spherical", "diag"])
@pytest.mark.parametrize(("K", "d", "L"), SHAPES)
def test_residual_form_agrees_with_assembled_covariances(K, d, L, noise_type, noise_std):
    p = ref.random_parameters(K, d, L, noise_type=noise_type, noise_std=noise_std)
    X = ref.random_samples(p, 40)
    value = ref.weighted_log_prob_dense(X, p)
    assert relative_error(value, ref.weighted_log_prob(X, p)) <= REFERENCE[noise_std]


@pytest.mark.parametrize("precision", [np.float64, np.longdouble])
def test_residual_form_at_small_noise_agrees_with_fifty_digits(precision):
    p = ref.random_parameters(1, 8, 3, noise_type="diag", noise_std=1e-3)
    x = ref.random_samples(p, 1, stray=0)[0]
    with mpmath.workdps(50):
        A, D = mpmath.matrix(p.loadings[0].T.tolist()), mpmath.diag(p.noise_variance[0].tolist())
        S = A * A.T + D
        r = mpmath.matrix(x.tolist()) - mpmath.matrix(p.means[0].tolist())
        mahalanobis = (r.T * mpmath.lu_solve(S, r))[0]
        expected = -(8 * mpmath.log(2 * mpmath.pi) + mpmath.log(mpmath.det(S)) + mahalanobis) / 2
    value = ref.score_samples(x[None], p, precision)
    assert relative_error(value.astype(float), [float(expected)]) <= REFERENCE[1.0]


def test_long_double_and_float64_agree_at_small_noise():
    p = ref.random_parameters(3, 257, 7, noise_std=1e-3)
    X = ref.random_samples(p, 20)
    value = ref.weighted_log_prob(X, p, np.float64)
    assert relative_error(value, ref.weighted_log_prob(X, p)) <= REFERENCE[1.0]


def test_mixture_density_agrees_with_scipy():
    p = ref.random_parameters(3, 4, 2)
    X = ref.random_samples(p, 30)
    density = sum(w * multivariate_normal(p.means[k], ref.covariance(p, k)).pdf(X) for k, w in enumerate(p.weights))
    assert relative_error(ref.score_samples(X, p), np.log(density)) <= REFERENCE[1.0]


def test_posterior_factors_are_the_regression_of_z_on_x():
    p = ref.random_parameters(1, 6, 3, noise_type="diag")
    X = ref.random_samples(p, 10)
    gain = p.loadings[0] @ np.linalg.inv(ref.covariance(p, 0))
    _, z = ref.posterior_factors(X, p)
    assert relative_error((X - p.means[0]) @ gain.T, z) <= REFERENCE[1.0]


def test_gap_gradient_is_the_derivative():
    p = ref.random_parameters(2, 5, 2, noise_type="diag")
    source, target = (ref.Component(p, k) for k in (0, 1))
    x = ref.random_samples(p, 1)
    h = 1e-6
    numeric = [
        np.diff([(source.log_density(x + s * h * e) - target.log_density(x + s * h * e))[0] for s in (-1, 1)])[0]
        / (2 * h)
        for e in np.eye(5)
    ]
    assert relative_error(numeric, ref.gap_gradient(x, source, target)[0]) <= FINITE_DIFFERENCES


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("noise_type", ["spherical", "diag"])
def test_em_rises_to_a_stationary_point(noise_type, tied):
    p = ref.random_parameters(2, 6, 2, noise_type=noise_type, tied=tied, noise_std=0.5, seed=1)
    X = ref.random_samples(p, 200, seed=2)
    start = ref.random_parameters(2, 6, 2, noise_type=noise_type, tied=tied, seed=3)
    fitted, bounds = ref.em(X, start, 300, noise_type=noise_type, tied_noise=tied)
    assert np.all(np.diff(bounds) >= -1e-12 * np.abs(bounds[1:]))
    assert bounds[-1] - bounds[0] >= 0.1
    assert bounds[-1] - bounds[-2] <= 1e-4
    assert fitted.weights.sum() == pytest.approx(1)


def test_em_floors_the_noise():
    X = np.random.default_rng(0).normal(size=(50, 4))
    X[:, 2] = 1.0
    start = ref.random_parameters(1, 4, 1, noise_type="diag")
    fitted, _ = ref.em(X, start, 30, noise_type="diag", floor=1e-2)
    assert fitted.noise_variance.min() == 1e-2


def test_ld_grad_in_one_step_to_the_plane_between_equal_covariances():
    mean = np.array([[2.0, 0.0]])
    mixtures = [ref.Parameters(np.ones(1), sign * mean, np.zeros((1, 0, 2)), np.ones((1, 2))) for sign in (-1, 1)]
    X = np.array([[-1.0, 5.0], [-3.0, 0.5]])
    X_adv, success, n_steps = ref.ld_grad(X, [0, 0], mixtures, [0.5, 0.5])
    assert success.all()
    assert np.all(n_steps == 1)
    assert relative_error(X_adv[:, 0], np.zeros(2)) <= 1e-5
    assert np.array_equal(X_adv[:, 1], X[:, 1])


def test_ld_grad_leaves_alone_what_is_already_on_the_other_side():
    mixtures = [ref.random_parameters(2, 3, 1, seed=s) for s in (0, 1)]
    X = ref.random_samples(mixtures[0], 20)
    wrong = 1 - np.argmax(ref.class_scores(X, mixtures, [0.5, 0.5]), axis=1)
    X_adv, success, n_steps = ref.ld_grad(X, wrong, mixtures, [0.5, 0.5])
    assert success.all()
    assert not n_steps.any()
    assert np.array_equal(X_adv, X)


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_random_words_are_the_known_answers_of_philox(counter, key, words):
    """Those that its authors publish beside it, as kat_vectors."""
    given = [[int(word, 16) for word in text.split()] for text in (counter, key)]
    assert ref.philox(*given) == tuple(int(word, 16) for word in words.split())
