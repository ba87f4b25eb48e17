"""Samples: a function of seed and position alone, with the distribution that the model says."""

import numpy as np
import pytest
from scipy import stats

import reference as ref
from mfa_fast import MFA, MFAClassifier
from tolerances import FACTORS, STANDARD_ERRORS, relative_error

P = ref.random_parameters(3, 5, 2, noise_type="diag", noise_std=0.5, seed=4)
N = 60_000
KINDS = ("mixture", "classifier")


def _model(kind="mixture", p=P):
    if kind == "mixture":
        return MFA.from_parameters(*p)
    other = p._replace(means=p.means + 3)
    return MFAClassifier.from_mixtures(
        [MFA.from_parameters(*m) for m in (p, other)], classes=["a", "b"], priors=[0.3, 0.7]
    )


def _assert_same(sample, expected):
    for value, other in zip(sample, expected, strict=True):
        assert np.array_equal(value, other)


@pytest.mark.parametrize("noise", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_longer_sample_begins_with_a_shorter_one(kind, noise):
    model = _model(kind)
    X, y = model.sample(700, noise=noise, random_state=3)
    assert X.shape == (700, 5)
    assert y.shape == (700,)
    for n in (1, 7, 30, 255, 256, 257):
        _assert_same(model.sample(n, noise=noise, random_state=3), (X[:n], y[:n]))


@pytest.mark.parametrize("noise", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_may_be_resumed_anywhere(kind, noise):
    model = _model(kind)
    X, y = model.sample(700, noise=noise, random_state=3)
    for start in (1, 30, 256, 699):
        rest = model.sample(700 - start, noise=noise, random_state=3, start=start)
        _assert_same(rest, (X[start:], y[start:]))
    far = model.sample(2, noise=noise, random_state=3, start=10**12)
    again = model.sample(1, noise=noise, random_state=3, start=10**12 + 1)
    _assert_same(again, (far[0][1:], far[1][1:]))
    last = model.sample(1, noise=noise, random_state=3, start=2**63 - 1)
    assert np.isfinite(last[0]).all()
    with pytest.raises(ValueError, match="start"):  # that many are counted, and no more
        model.sample(2, noise=noise, random_state=3, start=2**63 - 1)


@pytest.mark.parametrize(("seed", "start"), [(0, 0), (2**64 - 1, 2**63 - 9), (0x0123456789ABCDEF, 0xFEDCBA987654321)])
@pytest.mark.parametrize("shape", [(3, 5, 2), (2, 70, 35)])  # within a batch of random numbers, and beyond it
@pytest.mark.parametrize("noise", [True, False])
def test_a_sample_is_the_function_of_seed_and_place_that_is_documented(seed, start, shape, noise, isa):
    p = ref.random_parameters(*shape, noise_type="diag")
    X, labels = MFA.from_parameters(*p).sample(9, noise=noise, random_state=seed, start=start)
    expected, components = ref.sample(p, 9, seed=seed, start=start, noise=noise)
    assert np.array_equal(labels, components)
    assert relative_error(X, expected) <= FACTORS[X.dtype]


@pytest.mark.parametrize("n_threads", [2, 3, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_same_sample_for_any_number_of_threads(kind, n_threads):
    one = _model(kind).set_params(n_threads=1).sample(1100, random_state=5)
    many = _model(kind).set_params(n_threads=n_threads).sample(1100, random_state=5)
    _assert_same(many, one)


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_differ(kind):
    model = _model(kind)
    samples = [model.sample(50, random_state=seed)[0] for seed in (0, 1, 2**32 - 1)]
    for i, a in enumerate(samples):
        for b in samples[:i]:
            assert not np.any(a == b)


@pytest.mark.parametrize("kind", KINDS)
def test_random_state_none_and_generators(kind):
    model = _model(kind)
    assert not np.array_equal(model.sample(5)[0], model.sample(5)[0])
    state = np.random.RandomState(0)
    first = model.sample(5, random_state=state)[0]
    assert not np.array_equal(first, model.sample(5, random_state=state)[0])
    assert np.array_equal(first, model.sample(5, random_state=np.random.RandomState(0))[0])
    generator = np.random.default_rng(0)
    first = model.sample(5, random_state=generator)[0]
    assert not np.array_equal(first, model.sample(5, random_state=generator)[0])
    assert np.array_equal(first, model.sample(5, random_state=np.random.default_rng(0))[0])


def test_default_is_one_sample():
    X, labels = _model().sample()
    assert X.shape == (1, 5)
    assert labels.shape == (1,)


def test_sample_has_the_right_distribution(isa):
    X, labels = _model().sample(N, random_state=0)
    for k, weight in enumerate(P.weights):
        count = np.sum(labels == k)
        spread = np.sqrt(N * weight * (1 - weight))
        assert abs(count - N * weight) <= STANDARD_ERRORS * spread
        of_component = X[labels == k]
        S = ref.covariance(P, k)
        error = np.abs(of_component.mean(axis=0) - P.means[k])
        assert np.all(error <= STANDARD_ERRORS * np.sqrt(np.diag(S) / count))
        error = np.abs(np.cov(of_component.T) - S)
        spread = np.sqrt((np.outer(np.diag(S), np.diag(S)) + S**2) / count)
        assert np.all(error <= STANDARD_ERRORS * spread)


def test_components_come_in_no_order():
    _, labels = _model().sample(N, random_state=0)
    same = np.sum(labels[1:] == labels[:-1])
    p = np.sum(P.weights**2)
    assert abs(same - (N - 1) * p) <= 2 * STANDARD_ERRORS * np.sqrt(N * p * (1 - p))


def _standard_normal(n, dtype=np.float64, seed=0):
    """Noise of a model without factors, in units of its standard deviation."""
    zero = [np.ones(1), np.zeros((1, 4)), np.zeros((1, 0, 4)), np.ones((1, 4))]
    model = MFA.from_parameters(*(value.astype(dtype) for value in zero))
    return model.sample(n, random_state=seed)[0].ravel()


def test_noise_is_normal_to_its_tails(dtype):
    values = _standard_normal(N, dtype).astype(np.float64)
    assert stats.kstest(values, "norm").pvalue >= 1e-6
    kurtosis = np.mean(values**4)
    assert abs(kurtosis - 3) <= STANDARD_ERRORS * np.sqrt(96 / len(values))
    for threshold in (2, 3, 4):
        expected = 2 * stats.norm.sf(threshold) * len(values)
        error = abs(np.sum(np.abs(values) > threshold) - expected)
        assert error <= STANDARD_ERRORS * np.sqrt(expected)
    assert np.max(np.abs(values)) <= 7


def test_noise_is_independent():
    values = _standard_normal(N).reshape(-1, 4)
    error = np.abs(np.corrcoef(values.T) - np.eye(4))
    assert np.all(error <= STANDARD_ERRORS / np.sqrt(N))
    following = np.mean(values[1:] * values[:-1], axis=0)
    assert np.all(np.abs(following) <= STANDARD_ERRORS / np.sqrt(N))


def test_neighbouring_seeds_are_independent():
    a, b = (_standard_normal(N, seed=seed) for seed in (0, 1))
    assert abs(np.mean(a * b)) <= STANDARD_ERRORS / np.sqrt(len(a))


def test_without_noise_samples_lie_on_the_factors(isa):
    X, labels = _model().sample(2000, noise=False, random_state=0)
    for k in range(3):
        r = X[labels == k] - P.means[k]
        z, *_ = np.linalg.lstsq(P.loadings[k].T, r.T)
        assert np.max(np.abs(r - z.T @ P.loadings[k])) <= 1e-12
        count = z.shape[1]
        error = np.abs(z @ z.T / count - np.eye(2))
        assert np.all(error <= STANDARD_ERRORS * np.sqrt((1 + np.eye(2)) / count))


def test_noise_is_added_to_the_sample_without_it():
    noisy, labels = _model().sample(2000, random_state=0)
    clean, clean_labels = _model().sample(2000, noise=False, random_state=0)
    assert np.array_equal(labels, clean_labels)
    standard = (noisy - clean) / np.sqrt(P.noise_variance[labels])
    assert abs(np.mean(standard**2) - 1) <= STANDARD_ERRORS * np.sqrt(2 / standard.size)


def test_float32_parameters_give_float32_samples():
    p = ref.Parameters(*(value.astype(np.float32) for value in P))
    model = MFA.from_parameters(*p._replace(weights=P.weights))
    X, labels = model.sample(N // 4, random_state=0)
    assert X.dtype == np.float32
    for k in range(3):
        of_component = X[labels == k].astype(np.float64)
        S = ref.covariance(P, k)
        error = np.abs(of_component.mean(axis=0) - P.means[k])
        assert np.all(error <= STANDARD_ERRORS * np.sqrt(np.diag(S) / len(of_component)))


def test_classes_come_with_their_priors():
    X, y = _model("classifier").sample(N, random_state=0)
    assert set(y) == {"a", "b"}
    assert abs(np.sum(y == "b") - 0.7 * N) <= STANDARD_ERRORS * np.sqrt(0.21 * N)
    for label, shift in (("a", 0), ("b", 3)):
        of_class = X[y == label]
        mean = P.weights @ P.means + shift
        error = np.abs(of_class.mean(axis=0) - mean)
        assert np.all(error <= STANDARD_ERRORS * of_class.std(axis=0) / np.sqrt(len(of_class)))


def test_a_component_of_weight_zero_is_never_drawn():
    _, labels = _model(p=P._replace(weights=np.array([0.5, 0.0, 0.5]))).sample(5000, random_state=0)
    assert set(labels) == {0, 2}
