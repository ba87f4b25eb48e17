"""Scores of fitted models against the reference, around the edges of vectors and row blocks."""

from functools import cache

import numpy as np
import pytest

import reference as ref
from mfa_fast import MFA, MFAClassifier, _core
from models import classifier_of
from tolerances import FACTORS, LOG_DENSITY, PROBABILITY_SUM, relative_error

ROWS = (1, 7, 8, 9, 15, 16, 17, 33, 255, 256, 257)
NOISES = ("spherical", "tied diagonal", "diagonal")
NOISE_STDS = (1.0, 1e-3)


def _every_width():
    """(K, d, L): every d around the vector widths and 256, every K and L among them, L < d."""
    widths = [*range(1, 18), 255, 256, 257]
    shapes = [((1, 2, 3, 17)[i % 4], d, min(i % 8, d - 1)) for i, d in enumerate(widths)]
    return [*shapes, (17, 17, 7), (2, 16, 0), (3, 33, 1), (1, 300, 0), (3, 513, 2)]


SHAPES = _every_width()
FEW_SHAPES = [(1, 1, 0), (3, 5, 2), (17, 17, 7), (2, 256, 3)]


def _parameters(shape, noise, noise_std, seed=0):
    return ref.random_parameters(
        *shape,
        noise_type="spherical" if noise == "spherical" else "diag",
        tied=noise == "tied diagonal",
        noise_std=noise_std,
        seed=seed,
    )


@cache
def _case(shape, noise, noise_std, dtype):
    """Parameters, the most rows that a test needs, and their exact weighted log-densities."""
    p = _parameters(shape, noise, noise_std)
    X = ref.random_samples(p, max(ROWS)).astype(dtype)
    return p, X, ref.weighted_log_prob(X, p)


every_case = pytest.mark.parametrize(
    ("shape", "noise", "noise_std"),
    [(s, noise, std) for s in SHAPES for noise in NOISES for std in NOISE_STDS],
)
few_cases = pytest.mark.parametrize(
    ("shape", "noise", "noise_std"),
    [(s, noise, std) for s in FEW_SHAPES for noise in NOISES for std in NOISE_STDS],
)


@every_case
def test_weighted_log_prob(shape, noise, noise_std, dtype, isa):
    p, X, expected = _case(shape, noise, noise_std, dtype)
    model = MFA.from_parameters(*p)
    value = model.weighted_log_prob(X)
    assert value.dtype == dtype
    assert relative_error(value, expected) <= LOG_DENSITY[dtype]
    for n in ROWS:
        assert np.array_equal(model.weighted_log_prob(X[:n]), value[:n])


@pytest.mark.parametrize("shape", [(5, 5, 2), (5, 17, 6), (1, 8, 3)])
def test_a_product_that_is_far_off_does_not_say_how_well_an_entry_is_wanted(shape, dtype):
    # Parameters 10^5 times the noise: a product in float32 says log-densities of 10^4 where they are of 1.
    p = ref.random_parameters(*shape, noise_std=1e-3)
    p = p._replace(means=100 * p.means, loadings=100 * p.loadings)
    model = MFA.from_parameters(*p)
    X = model.sample(200, random_state=0)[0].astype(dtype)
    assert relative_error(model.weighted_log_prob(X), ref.weighted_log_prob(X, p)) <= LOG_DENSITY[dtype]


@few_cases
def test_score_samples(shape, noise, noise_std, dtype, isa):
    p, X, joint = _case(shape, noise, noise_std, dtype)
    model = MFA.from_parameters(*p)
    value = model.score_samples(X)
    expected = ref.log_sum_exp(joint)
    assert value.dtype == dtype
    assert relative_error(value, expected) <= LOG_DENSITY[dtype]
    assert relative_error(model.score(X), expected.mean()) <= LOG_DENSITY[dtype]
    for n in ROWS:
        assert np.array_equal(model.score_samples(X[:n]), value[:n])


@few_cases
def test_predict(shape, noise, noise_std, dtype, isa):
    p, X, joint = _case(shape, noise, noise_std, dtype)
    model = MFA.from_parameters(*p)
    labels = model.predict(X)
    assert labels.dtype == np.int64
    assert np.array_equal(labels, np.argmax(joint, axis=1))
    assert np.array_equal(labels, model.predict(X.astype(np.float64)))
    for n in ROWS:
        assert np.array_equal(model.predict(X[:n]), labels[:n])


@few_cases
def test_predict_proba(shape, noise, noise_std, dtype, isa):
    p, X, joint = _case(shape, noise, noise_std, dtype)
    value = MFA.from_parameters(*p).predict_proba(X)
    evidence = ref.log_sum_exp(joint)
    assert value.dtype == dtype
    assert relative_error(value.sum(axis=1), np.ones(len(X))) <= PROBABILITY_SUM[dtype]
    # A responsibility moves by no more than the log-densities that it comes from may.
    allowed = LOG_DENSITY[dtype] * np.maximum(1, np.abs(evidence))[:, None]
    assert np.all(np.abs(value - np.exp(joint - evidence[:, None])) <= allowed)


@few_cases
def test_posterior_factors_and_reconstruct(shape, noise, noise_std, dtype, isa):
    p, X, _ = _case(shape, noise, noise_std, dtype)
    model = MFA.from_parameters(*p)
    labels, z = model.posterior_factors(X)
    expected_labels, expected_z = ref.posterior_factors(X, p)
    assert z.dtype == dtype
    assert np.array_equal(labels, expected_labels)
    assert relative_error(z, expected_z) <= FACTORS[dtype]
    projection = model.reconstruct(X)
    assert projection.dtype == dtype
    assert relative_error(projection, ref.reconstruct(X, p)) <= FACTORS[dtype]
    for n in ROWS:
        assert np.array_equal(model.posterior_factors(X[:n])[1], z[:n])
        assert np.array_equal(model.reconstruct(X[:n]), projection[:n])


@pytest.mark.parametrize("rule", ["max", "sum"])
@few_cases
def test_classifier_scores(shape, noise, noise_std, rule, dtype, isa):
    mixtures = [_parameters(shape, noise, noise_std, seed) for seed in (0, 1)]
    mixtures[1] = mixtures[1]._replace(means=mixtures[0].means + 0.5 * noise_std)
    X = np.concatenate([ref.random_samples(m, 40, seed=7) for m in mixtures]).astype(dtype)
    priors = [0.3, 0.7]
    model = classifier_of(mixtures, priors, rule)
    scores = ref.class_scores(X, mixtures, priors, rule)
    # A difference is as good as the two scores that it is taken of.
    allowed = LOG_DENSITY[dtype] * np.maximum(1, np.abs(scores)).sum(axis=1)
    gap = model.decision_function(X)
    assert gap.dtype == dtype
    assert np.all(np.abs(gap - (scores[:, 1] - scores[:, 0])) <= allowed)
    assert np.array_equal(model.predict(X), np.argmax(scores, axis=1))


@pytest.mark.parametrize("rule", ["max", "sum"])
@few_cases
def test_class_log_likelihood(shape, noise, noise_std, rule, dtype):
    mixtures = [_parameters(shape, noise, noise_std, seed) for seed in (0, 1)]
    X = np.concatenate([ref.random_samples(m, 20, seed=7) for m in mixtures]).astype(dtype)
    models = [MFA.from_parameters(*m) for m in mixtures]
    value = MFAClassifier.from_mixtures(models, rule=rule).class_log_likelihood(X)
    assert value.dtype == dtype
    expected = ref.class_log_likelihood(X, mixtures, rule)
    assert relative_error(value, expected) <= LOG_DENSITY[dtype]


@pytest.mark.parametrize(("variance", "apart"), [(1e-8, 1e-3), (1e-12, 1e-5), (1e-15, 1e-8), (1e-16, 0)])
def test_loadings_that_are_nearly_parallel(variance, apart):
    # At the mean only determinants matter, and of two loadings e and e + apart f theirs is known without cancellation.
    d = 7
    loadings = np.zeros((1, 2, d))
    loadings[0, :, 0], loadings[0, 1, 1] = 1.0, apart
    determinant = 1 + (2 + apart**2) / variance + apart**2 / variance**2
    expected = np.array([-(d * np.log(2 * np.pi * variance) + np.log(determinant)) / 2])
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(d, d)))[0]
    for turned in (loadings, loadings @ rotation):
        model = MFA.from_parameters([1.0], np.zeros((1, d)), turned, variance)
        assert relative_error(model.score_samples(np.zeros((1, d))), expected) <= LOG_DENSITY[np.dtype(np.float64)]
        longer = np.concatenate([turned, np.ones((1, 2, 1))], axis=2)
        model = MFA.from_parameters([1.0], np.zeros((1, d + 1)), longer, variance).set_params(missing="marginal")
        observed = np.append(np.zeros((1, d)), [[np.nan]], axis=1)
        assert relative_error(model.score_samples(observed), expected) <= LOG_DENSITY[np.dtype(np.float64)]


@pytest.mark.parametrize("noise", NOISES)
def test_labels_in_float32_where_components_nearly_coincide(noise):
    p = _parameters((17, 40, 3), noise, 1.0)
    p = p._replace(means=0.1 * p.means, loadings=0.1 * p.loadings)
    X = ref.random_samples(p, 4000).astype(np.float32)
    model = MFA.from_parameters(*p)
    assert np.array_equal(model.predict(X), model.predict(X.astype(np.float64)))


@pytest.mark.parametrize("noise_std", NOISE_STDS)
@pytest.mark.parametrize("noise", NOISES)
def test_far_from_the_origin(noise, noise_std, dtype):
    p = _parameters((3, 20, 4), noise, noise_std)
    p = p._replace(means=p.means + 1000)
    X = ref.random_samples(p, 50).astype(dtype)
    value = MFA.from_parameters(*p).weighted_log_prob(X)
    assert relative_error(value, ref.weighted_log_prob(X, p)) <= LOG_DENSITY[dtype]


@pytest.mark.parametrize("noise", NOISES)
def test_far_from_every_component(noise, dtype):
    p = _parameters((3, 20, 4), noise, 1e-3)
    X = (1e6 * np.random.default_rng(0).normal(size=(50, 20))).astype(dtype)
    value = MFA.from_parameters(*p).weighted_log_prob(X)
    assert relative_error(value, ref.weighted_log_prob(X, p)) <= LOG_DENSITY[dtype]


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("distance", [1e6, 1e9, 1e16])
def test_shares_add_up_to_1_however_far(distance, hidden, dtype):
    p = ref.random_parameters(3, 7, 2)
    X = (distance * ref.random_samples(p, 30)).astype(dtype)
    if hidden:
        X = ref.hide(X, 0.3)
    alike = (np.repeat(a[:1], 3, axis=0) for a in p[1:])  # none of them leads, wherever a sample is
    model = MFA.from_parameters(p.weights, *alike).set_params(missing="marginal")
    assert np.max(np.abs(model.predict_proba(X).sum(axis=1) - 1)) <= PROBABILITY_SUM[dtype]
    statistics = model.e_step(X)
    assert abs(statistics.counts.sum() / statistics.weight - 1) <= PROBABILITY_SUM[np.dtype(np.float64)]
    shares = model.conditional(X).responsibilities.sum(axis=1)
    assert np.max(np.abs(shares - 1)) <= PROBABILITY_SUM[dtype]


def test_columns_that_overflow_in_float32():
    p = ref.random_parameters(5, 64, 3, noise_std=0.1, seed=0)
    X = ref.random_samples(p, 40).astype(np.float32)
    small = p._replace(means=p.means * 1e-37, loadings=p.loadings * 1e-37, noise_variance=p.noise_variance * 1e-74)
    model = MFA.from_parameters(*small)
    for screening in (True, False):
        scores = model.set_params(screening=screening).score_samples(X * np.float32(1e-37))
        expected = model.score_samples((X * np.float32(1e-37)).astype(np.float64))
        assert relative_error(scores, expected) <= LOG_DENSITY[np.dtype(np.float32)]


@pytest.mark.parametrize("scale", [1e-36, 10**-37.6])
def test_columns_of_single_components_that_overflow_in_float32(scale):
    parts = [ref.random_parameters(1, 64, 3, noise_std=std, seed=i) for i, std in enumerate((0.1, 0.2, 0.05))]
    X = (np.concatenate([ref.random_samples(p, 20) for p in parts]) * scale).astype(np.float32)
    small = [
        p._replace(means=p.means * scale, loadings=p.loadings * scale, noise_variance=p.noise_variance * scale**2)
        for p in parts
    ]
    model = MFAClassifier.from_mixtures([MFA.from_parameters(*p) for p in small])
    expected = model.class_log_likelihood(X.astype(np.float64))
    assert relative_error(model.class_log_likelihood(X), expected) <= LOG_DENSITY[np.dtype(np.float32)]
    assert np.array_equal(model.predict(X), model.predict(X.astype(np.float64)))


def test_noise_of_very_different_sizes(dtype):
    p = ref.random_parameters(4, 30, 3, noise_type="diag")
    p = p._replace(noise_variance=10.0 ** np.random.default_rng(1).uniform(-6, 2, size=(4, 30)))
    X = ref.random_samples(p, 60).astype(dtype)
    value = MFA.from_parameters(*p).weighted_log_prob(X)
    assert relative_error(value, ref.weighted_log_prob(X, p)) <= LOG_DENSITY[dtype]


def test_a_component_of_weight_zero_has_no_share(dtype):
    p = ref.random_parameters(2, 4, 1)
    X = ref.random_samples(p, 20).astype(dtype)
    model = MFA.from_parameters([1.0, 0.0], *p[1:])
    alone = MFA.from_parameters([1.0], *(value[:1] for value in p[1:]))
    expected = alone.score_samples(X)
    assert relative_error(model.score_samples(X), expected) <= LOG_DENSITY[X.dtype]
    assert np.all(model.predict_proba(X) == [1.0, 0.0])


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize(("noise_std", "K"), [(0.1, 2), (0.1, 9), (1e-3, 9)])
def test_components_on_top_of_each_other(noise_std, K, noise, dtype, isa):
    """Float32 cannot tell them apart, so that they are scored in float64."""
    p = _parameters((1, 300, 5), noise, noise_std)
    rng = np.random.default_rng(1)
    apart = 0.01 * noise_std * rng.normal(size=(K, 300))
    p = ref.Parameters(rng.dirichlet(np.ones(K)), p.means + apart, *(np.repeat(a, K, axis=0) for a in p[2:]))
    X = ref.random_samples(p, 100)
    X[::3] += rng.normal(size=(34, 300))
    X = X.astype(dtype)
    model = MFA.from_parameters(*p)
    outputs = _outputs(model, X)
    assert relative_error(outputs["weighted_log_prob"], ref.weighted_log_prob(X, p)) <= LOG_DENSITY[dtype]
    assert relative_error(outputs["score_samples"], ref.score_samples(X, p)) <= LOG_DENSITY[dtype]
    assert relative_error(outputs["z"], ref.posterior_factors(X, p)[1]) <= FACTORS[dtype]
    order = rng.permutation(len(X))
    for name, value in _outputs(model, X[order]).items():
        assert np.array_equal(value, outputs[name][order]), name


def test_the_lowest_index_wins_a_tie(dtype):
    p = ref.random_parameters(1, 9, 2)
    twins = [np.repeat(value, 3, axis=0) for value in p[1:]]
    model = MFA.from_parameters([0.25, 0.375, 0.375], *twins)
    assert np.all(model.predict(ref.random_samples(p, 100).astype(dtype)) == 1)


def test_noise_may_be_broadcast():
    p = ref.random_parameters(3, 5, 2)
    X = ref.random_samples(p, 10)
    for noise in (0.25, np.full((3, 1), 0.25), np.full((1, 5), 0.25)):
        model = MFA.from_parameters(*p[:3], noise)
        assert model.noise_variance_.shape == (3, 5)
        expected = ref.score_samples(X, p._replace(noise_variance=np.full((3, 5), 0.25)))
        assert relative_error(model.score_samples(X), expected) <= LOG_DENSITY[X.dtype]


def _outputs(model, X):
    labels, z = model.posterior_factors(X)
    return {
        "weighted_log_prob": model.weighted_log_prob(X),
        "score_samples": model.score_samples(X),
        "predict": model.predict(X),
        "predict_proba": model.predict_proba(X),
        "labels": labels,
        "z": z,
        "reconstruct": model.reconstruct(X),
    }


@pytest.mark.parametrize("noise_std", NOISE_STDS)
@pytest.mark.parametrize("noise", NOISES)
def test_bit_identical_for_any_number_of_threads_and_chunks(noise, noise_std, dtype, isa):
    p = _parameters((5, 33, 3), noise, noise_std)
    X = ref.random_samples(p, 1100).astype(dtype)
    model = MFA.from_parameters(*p).set_params(n_threads=1)
    expected = _outputs(model, X)
    for n_threads in (2, 3, 5):
        for name, value in _outputs(model.set_params(n_threads=n_threads), X).items():
            assert np.array_equal(value, expected[name]), (name, n_threads)
    for split in (1, 7, 255, 256, 257, 700):
        head, tail = _outputs(model, X[:split]), _outputs(model, X[split:])
        for name, value in expected.items():
            assert np.array_equal(np.concatenate([head[name], tail[name]]), value), (name, split)


def _close_together(apart, K=12, d=300, L=3):
    """Components that are `apart` by so much of their noise, and one that lies elsewhere."""
    rng = np.random.default_rng(0)
    means = apart * rng.normal(size=(K, d))
    means[0] = 1.0
    loadings = np.repeat(rng.normal(size=(1, L, d)), K, axis=0)
    return ref.Parameters(np.full(K, 1 / K), means, loadings, np.ones((K, d)))


def _log_sums(p, X):
    """Logarithms of densities without screening, as they are before they are rounded to the samples' type."""
    out = np.empty((len(X), 1))
    groups = np.array([0, len(p.weights)])
    bad = _core.reduce(_core.Model(*p), X, groups, exact=False, screening=False, n_threads=1, log_sum=out)
    assert bad is None
    return out[:, 0]


@pytest.mark.parametrize(("apart", "in_double"), [(1e-7, True), (1.0, False)])
def test_rows_in_float32_are_scored_in_float64_where_float32_cannot_tell_components_apart(apart, in_double, isa):
    p = _close_together(apart)
    X = ref.random_samples(p, 100, stray=0.0).astype(np.float32)
    joint = ref.weighted_log_prob(X, p)
    error = relative_error(_log_sums(p, X), ref.log_sum_exp(joint))
    assert error <= LOG_DENSITY[X.dtype]
    # For those that lie elsewhere float32 would do.
    elsewhere = joint.argmax(axis=1) == 0
    error = relative_error(_log_sums(p, X)[elsewhere], ref.log_sum_exp(joint)[elsewhere])
    assert (error <= LOG_DENSITY[np.dtype(np.float64)]) == in_double


def test_a_row_that_is_not_finite_is_named_in_float64_too():
    p = _close_together(1e-7)
    X = ref.random_samples(p, 100, stray=0.0).astype(np.float32)
    X[[71, 70], 5] = np.nan, np.inf
    with pytest.raises(ValueError, match="70"):
        MFA.from_parameters(*p).set_params(screening=False).score_samples(X)
