"""Scores of models that are screened, on every instruction set and in blocks of every size."""

import numpy as np
import pytest

import reference as ref
from mfa_fast import MFA, MFAClassifier
from models import classifier_of
from tolerances import LOG_DENSITY, relative_error


def _parameters(n_components, d, *, noise_type="spherical", seed=0):
    """Means and loadings of four factors in a space of eight dimensions, which few directions cover."""
    rng = np.random.default_rng(seed)
    space = np.random.default_rng(0).normal(size=(8, d)) / np.sqrt(8)
    noise = 0.05**2 * np.ones((n_components, d))
    if noise_type == "diagonal":
        noise *= rng.uniform(0.5, 2.0, size=noise.shape)
    weights = rng.dirichlet(np.ones(n_components))
    means, loadings = rng.normal(size=(n_components, 8)) @ space, 0.3 * rng.normal(size=(n_components, 4, 8)) @ space
    return ref.Parameters(weights, means, loadings, noise)


@pytest.mark.parametrize("noise_type", ["spherical", "diagonal"])
@pytest.mark.parametrize("d", [130, 204, 513])
def test_scores_on_every_instruction_set(d, noise_type, dtype, isa):
    p = _parameters(24, d, noise_type=noise_type)
    X = ref.random_samples(p, 60).astype(dtype)
    X[::7] *= 100
    X[::20] *= 1e12  # whose bounds may be infinite
    model = MFA.from_parameters(*p)
    joint = ref.weighted_log_prob(X, p)
    scores = model.score_samples(X)
    assert relative_error(scores, ref.log_sum_exp(joint)) <= LOG_DENSITY[dtype]
    assert np.array_equal(model.predict(X), np.argmax(joint, axis=1))
    for n in (1, 7, 33):
        assert np.array_equal(model.score_samples(X[:n]), scores[:n])
    # It was screened: other sums give other roundings.
    assert not np.array_equal(model.set_params(screening=False).score_samples(X), scores)


def test_classes_of_fewer_components_than_a_vector_has_lanes(dtype, isa):
    mixtures = [_parameters(n, 200, seed=n) for n in (1, 2, 3, 5, 13, 17)]
    priors = np.full(len(mixtures), 1 / len(mixtures))
    X = np.concatenate([ref.random_samples(m, 20) for m in mixtures]).astype(dtype)
    model = classifier_of(mixtures, priors)
    expected = ref.class_scores(X, mixtures, priors, "max")
    assert np.array_equal(model.predict(X), np.argmax(expected, axis=1))


def test_blocks_of_long_rows(dtype, isa):
    d = 8192 // dtype.itemsize + 6
    p = _parameters(24, d)
    model = MFA.from_parameters(*p)
    X = model.sample(1100, random_state=0)[0].astype(dtype)
    scores = model.score_samples(X)
    for n_threads in (1, 3, 5):
        model.set_params(n_threads=n_threads)
        assert np.array_equal(model.score_samples(X), scores)
        for cut in (1, 7, 959, 961):
            assert np.array_equal(np.concatenate([model.score_samples(X[:cut]), model.score_samples(X[cut:])]), scores)
    some = slice(None, None, 100)
    assert relative_error(scores[some], ref.log_sum_exp(ref.weighted_log_prob(X[some], p))) <= LOG_DENSITY[dtype]


@pytest.mark.parametrize("noise_type", ["spherical", "diagonal"])
@pytest.mark.parametrize("rule", ["max", "sum"])
def test_labels_are_those_of_the_highest_scores(rule, noise_type, dtype, isa):
    mixtures = [_parameters(n, 204, noise_type=noise_type, seed=n) for n in (13, 7, 17)]
    priors = np.array([0.7, 0.3 - 1e-9, 1e-9])
    X = np.concatenate([ref.random_samples(m, 60) for m in mixtures])
    others = np.roll(X, 60, axis=0)
    X[::5] = 0.5 * (X[::5] + others[::5])  # most of them near no class, some near the surface between two
    X[::11] *= 100
    X = X.astype(dtype)
    model = classifier_of(mixtures, priors, rule)
    labels = model.predict(X)
    assert np.array_equal(labels, ref.class_scores(X, mixtures, priors, rule).argmax(axis=1))
    assert np.array_equal(labels, model.decision_function(X).argmax(axis=1))
    assert np.array_equal(labels, np.concatenate([model.predict(X[:37]), model.predict(X[37:])]))
    assert np.array_equal(labels, model.set_params(screening=False).predict(X))
    model.priors_ = np.array([0.0, 0.5, 0.5])
    assert not (model.predict(X) == 0).any()


def test_labels_where_several_components_outweigh_the_best(dtype, isa):
    # The first class has one of twice the weight where the second one has three.
    p = _parameters(24, 204)
    means, loadings = p.means.copy(), p.loadings.copy()
    means[1:3], loadings[1:3] = p.means[0], p.loadings[0]
    first = p._replace(weights=np.r_[2.0, np.ones(23)] / 25)
    second = ref.Parameters(np.full(24, 1 / 24), means, loadings, p.noise_variance)
    one = ref.Parameters(np.ones(1), *(array[:1] for array in first[1:]))
    X = ref.random_samples(one, 50, stray=0.0).astype(dtype)
    mixtures = [MFA.from_parameters(*m) for m in (first, second)]
    assert np.all(MFAClassifier.from_mixtures(mixtures, rule="max").predict(X) == 0)
    assert np.all(MFAClassifier.from_mixtures(mixtures, rule="sum").predict(X) == 1)


@pytest.mark.parametrize("noise_type", ["spherical", "diagonal"])
@pytest.mark.parametrize("noise_scale", [1.0, 1e-2])  # of the smaller noise all digits have to be found again
def test_the_first_of_what_is_the_same_wins(noise_scale, noise_type, dtype, isa):
    p = _parameters(16, 512, noise_type=noise_type)
    p = p._replace(means=10 * p.means, noise_variance=noise_scale**2 * p.noise_variance)
    X = ref.random_samples(p, 200).astype(dtype)
    model = MFA.from_parameters(*ref.Parameters(np.r_[p.weights, p.weights] / 2, *(np.r_[a, a] for a in p[1:])))
    assert np.all(model.predict(X) < 16)
    assert np.all(model.posterior_factors(X)[0] < 16)
    for rule in ("max", "sum"):
        model = MFAClassifier.from_mixtures([MFA.from_parameters(*p)] * 3, rule=rule)
        assert np.all(model.predict(X) == 0)


def _nearly_the_same(noise_std, apart, offset=0.0):
    """Two models, the components of one next to those of the other, apart by so much of the noise; and both in one."""
    p = _parameters(16, 204)
    noise = np.full((16, 204), noise_std**2)
    p = p._replace(means=p.means + offset, loadings=noise_std * p.loadings, noise_variance=noise)
    parts = [p, p._replace(means=p.means + apart * noise_std * _parameters(16, 204, seed=1).means)]
    both = ref.Parameters(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    return parts, both._replace(weights=both.weights / 2)


def test_bounds_count_the_rounding_of_coordinates_and_distances(dtype, isa):
    # Distances to neighbours differ by no more than rounding may have added to either: by bounds that do not count it,
    # the better one is left out.
    parts, both = _nearly_the_same(*{"float32": (1e-4, 2.0), "float64": (1e-8, 0.1)}[dtype.name])
    X = np.concatenate([ref.random_samples(part, 50, stray=0.0) for part in parts]).astype(dtype)
    model = MFA.from_parameters(*both)
    joint = ref.weighted_log_prob(X, both)
    assert relative_error(model.score_samples(X), ref.log_sum_exp(joint)) <= LOG_DENSITY[dtype]
    assert np.array_equal(model.predict(X), joint.argmax(axis=1))
    assert np.array_equal(classifier_of(parts).predict(X), ref.class_scores(X, parts, [0.5, 0.5]).argmax(axis=1))


def test_means_that_float32_does_not_hold(isa):
    # Single rows are taken about a component's mean, which float32 moves by a fiftieth of the noise in every feature.
    _, p = _nearly_the_same(1e-3, 0.1, offset=1000.0)
    X = ref.random_samples(p, 60, stray=0.0).astype(np.float32)
    assert relative_error(MFA.from_parameters(*p).score_samples(X), ref.score_samples(X, p)) <= LOG_DENSITY[X.dtype]


def test_factors_outside_the_directions_explain_what_is_there(dtype, isa):
    # The directions hold the means. In every place there are two components with a factor outside of them, and the one
    # that is tried first explains only half of what a sample of the other has there.
    rng = np.random.default_rng(1)
    space = np.linalg.qr(rng.normal(size=(204, 16)))[0].T
    means = 5 * rng.normal(size=(24, 16)) @ space
    half, other = rng.normal(size=(2, 24, 204)) / np.sqrt(4 * 204)
    loadings = np.concatenate([half, half + other])
    loadings -= loadings @ space.T @ space
    noise = np.full((48, 204), 0.05**2)
    p = ref.Parameters(np.full(48, 1 / 48), np.concatenate([means, means]), loadings[:, None], noise)
    X = ref.random_samples(p, 100, stray=0.0).astype(dtype)
    model = MFA.from_parameters(*p)
    joint = ref.weighted_log_prob(X, p)
    assert relative_error(model.score_samples(X), ref.log_sum_exp(joint)) <= LOG_DENSITY[dtype]
    assert np.array_equal(model.predict(X), joint.argmax(axis=1))


def test_a_row_that_is_not_finite_has_no_label(dtype):
    mixtures = [_parameters(n, 204, seed=n) for n in (13, 17)]
    X = ref.random_samples(mixtures[0], 50).astype(dtype)
    X[[41, 40], [0, 203]] = np.nan, np.inf
    with pytest.raises(ValueError, match="40"):
        classifier_of(mixtures).predict(X)
