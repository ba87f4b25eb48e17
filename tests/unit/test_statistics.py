"""The two steps of expectation maximization on their own, and statistics that are added, kept and sent."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning, NotFittedError

import reference as ref
from fits import quietly, starting_from
from mfa_fast import MFA, Statistics
from models import assert_same_parameters
from tolerances import EM_PARAMETERS, EM_PARAMETERS_FLOAT32, scaled_error

kinds = pytest.mark.parametrize(
    ("noise_type", "tied"), [("spherical", False), ("spherical", True), ("diag", False), ("diag", True)]
)
NAMES = ("weights_", "means_", "loadings_", "noise_variance_")
SUMS = ("counts", "factor_sums", "factor_moments", "cross", "squares")


def _problem(n=500, shape=(3, 9, 2), **options):
    """Data of one mixture, and another one to start from."""
    options = {"noise_std": 0.7, **options}
    X = ref.random_samples(ref.random_parameters(*shape, **options, seed=1), n, seed=2)
    return X, ref.random_parameters(*shape, **options, seed=3)


def _model(start, noise_type="spherical", tied=False, **parameters):
    return MFA.from_parameters(*start).set_params(noise_type=noise_type, tied_noise=tied, **parameters)


def _parts(model, X, size):
    return [model.e_step(X[i : i + size]) for i in range(0, len(X), size)]


def _assert_same_statistics(a, b, tolerance):
    for name in (*SUMS, "log_likelihood", "worst_log_likelihoods"):
        assert scaled_error(getattr(a, name), getattr(b, name)) <= tolerance, name
    assert a.weight == b.weight
    assert a.fingerprint == b.fingerprint
    assert np.array_equal(a.worst_samples, b.worst_samples)


def test_statistics_have_what_their_docstring_tells_and_no_more():
    assert {name for name in dir(Statistics) if not name.startswith("_")} == {"mean_log_likelihood", "merge", "nbytes"}


@kinds
def test_the_two_steps_make_an_iteration_of_fit(noise_type, tied):
    X, start = _problem(noise_type=noise_type, tied=tied)
    model = _model(start, noise_type, tied, screening=False)
    for n_iter in range(1, 5):
        statistics = model.e_step(X)
        assert model.m_step(statistics) is model
        expected = quietly(starting_from(start, noise_type, tied, max_iter=n_iter, screening=False), X)
        assert statistics.mean_log_likelihood == expected.lower_bound_
        for name in NAMES:
            assert np.array_equal(getattr(model, name), getattr(expected, name)), name


@kinds
def test_the_two_steps_agree_with_the_reference(noise_type, tied):
    X, start = _problem(noise_type=noise_type, tied=tied)
    model = _model(start, noise_type, tied)
    for _ in range(3):
        model.m_step(Statistics.merge(_parts(model, X, 77)))
    expected, _ = ref.em(X, start, 3, noise_type=noise_type, tied_noise=tied)
    assert_same_parameters(model, expected, EM_PARAMETERS)


@pytest.mark.parametrize("dtype", [np.float64, ">f8", np.longdouble])
@pytest.mark.parametrize("order", ["C", "F"])
def test_sums_may_lie_in_memory_as_they_like(order, dtype):
    X, start = _problem()
    model, other = _model(start), _model(start)
    statistics = other.e_step(X)
    model.m_step(model.e_step(X))
    other.m_step(replace(statistics, cross=np.array(statistics.cross, dtype=dtype, order=order)))
    for name in NAMES:
        assert np.array_equal(getattr(other, name), getattr(model, name)), name


def test_float32_models_stay_float32():
    X, start = _problem()
    model = MFA.from_parameters(*(value.astype(np.float32) for value in start))
    for _ in range(3):
        model.m_step(model.e_step(X.astype(np.float32)))
    expected, _ = ref.em(X, start, 3)
    for name, value in expected._asdict().items():
        assert getattr(model, f"{name}_").dtype == np.float32
        assert scaled_error(getattr(model, f"{name}_"), value) <= EM_PARAMETERS_FLOAT32, name


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_statistics_hold_the_sums(dtype):
    X, start = _problem(n=40)
    X = np.clip(20 * X + 100, 0, 255).astype(dtype)
    model = _model(start._replace(means=20 * start.means + 100, noise_variance=400 * start.noise_variance))
    statistics = model.e_step(X)
    g = model.predict_proba(X.astype(np.float64))
    assert scaled_error(statistics.counts, g.sum(axis=0)) <= EM_PARAMETERS_FLOAT32
    offsets = X[:, None] - model.means_
    assert scaled_error(statistics.cross[:, -1], np.einsum("nk,nkd->kd", g, offsets)) <= EM_PARAMETERS_FLOAT32
    assert scaled_error(statistics.squares, np.einsum("nk,nkd->kd", g, offsets**2)) <= EM_PARAMETERS_FLOAT32
    assert statistics.mean_log_likelihood == pytest.approx(model.score(X), rel=1e-5)
    assert statistics.weight == 40
    assert all(getattr(statistics, name).dtype == np.float64 for name in SUMS)
    assert statistics.nbytes == 8 * 3 * (1 + 2 + 2 * 2 + (2 + 2) * 9)


def test_parts_add_up_to_the_whole():
    X, start = _problem()
    model = _model(start)
    a, b, c = _parts(model, X, 170)
    _assert_same_statistics((a + b) + c, model.e_step(X), 1e-13)
    _assert_same_statistics((a + b) + c, a + (b + c), 1e-14)
    _assert_same_statistics(a + b, b + a, 0)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13])
def test_merging_depends_on_the_parts_and_their_order_alone(count):
    X, start = _problem(n=count * 20)
    model = _model(start)
    parts = _parts(model, X, 20)
    whole = Statistics.merge(parts)
    _assert_same_statistics(whole, model.e_step(X), 1e-13)
    _assert_same_statistics(Statistics.merge(iter(parts)), whole, 0)
    for run in (2, 4, 8):  # merged by several, and then those merged
        runs = [Statistics.merge(parts[i : i + run]) for i in range(0, count, run)]
        _assert_same_statistics(Statistics.merge(runs), whole, 0)


def _with_lost_components(n=60):
    X, start = _problem(n=n, shape=(4, 5, 1))
    start.means[1] = 1e5
    start.means[3] = -1e5
    return X, start


@pytest.mark.parametrize("size", [1, 7, 16, 60])
def test_lost_components_are_placed_as_if_all_samples_were_here(size):
    X, start = _with_lost_components()
    X[20] = X[40]  # equally bad ones: the first comes first
    model, expected = _model(start), _model(start)
    parts = Statistics.merge(_parts(model, X, size))
    whole = expected.e_step(X)
    assert len(parts.worst_samples) == 2
    assert np.array_equal(parts.worst_samples, X[np.argsort(model.score_samples(X), kind="stable")[:2]])
    _assert_same_statistics(parts, whole, 1e-13)
    for one, statistics in ((model, parts), (expected, whole)):
        with pytest.warns(ConvergenceWarning, match="1, 3 had lost all samples"):
            one.m_step(statistics)
    for name in NAMES:
        assert scaled_error(getattr(model, name), getattr(expected, name)) <= 1e-12
    assert np.array_equal(model.means_[[1, 3]], whole.worst_samples)
    # Each with the weight of a sample, and the shape of the heaviest component.
    assert model.weights_[[1, 3]] == pytest.approx([1 / 60, 1 / 60])
    assert model.weights_.sum() == pytest.approx(1)
    heaviest = np.argmax(model.weights_)
    for lost in (1, 3):
        assert np.array_equal(model.loadings_[lost], model.loadings_[heaviest])
        assert np.array_equal(model.noise_variance_[lost], model.noise_variance_[heaviest])


@pytest.mark.parametrize("missing", ["error", "marginal"])
def test_a_part_without_weight_adds_nothing(missing):
    X, start = _problem()
    if missing == "marginal":
        X.ravel()[::7] = np.nan
    model = _model(start, missing=missing)
    whole, nothing = model.e_step(X), model.e_step(X[:50], sample_weight=np.zeros(50))
    assert nothing.weight == nothing.log_likelihood == 0
    assert not any(getattr(nothing, name).any() for name in SUMS)
    assert np.isnan(nothing.mean_log_likelihood)
    _assert_same_statistics(whole + nothing, whole, 0)
    _assert_same_statistics(nothing + whole, whole, 0)
    with pytest.raises(ValueError, match="of enough samples"):
        model.m_step(nothing)


def test_the_sum_of_the_language_adds_them():
    X, start = _problem()
    a, b, c, d, e = parts = _parts(_model(start), X, 100)
    _assert_same_statistics(sum(parts), a + b + c + d + e, 0)
    with pytest.raises(TypeError):
        1 + a


def test_no_samples_are_carried_without_need():
    X, start = _problem()
    assert _model(start).e_step(X).worst_samples.shape == (0, 9)
    X, start = _with_lost_components()
    assert _model(start).e_step(X.astype(np.float32)).worst_samples.dtype == np.float32


def test_too_few_samples_to_place_lost_components():
    X, start = _with_lost_components()
    model = _model(start)
    with pytest.raises(ValueError, match="add statistics of more samples"):
        model.m_step(model.e_step(X[:1]))


def test_pickled_statistics_are_the_same():
    X, start = _with_lost_components()
    model = _model(start)
    statistics = model.e_step(X)
    copy = pickle.loads(pickle.dumps(statistics))
    _assert_same_statistics(copy, statistics, 0)
    assert "weight=60" in repr(copy)
    with pytest.raises(ValueError, match="read-only"):
        copy.counts[0] = 1
    with pytest.raises(AttributeError):
        copy.weight = 1.0


def test_models_whose_arrays_lie_in_a_buffer_anyhow():
    X, start = _problem()
    model = _model(start)
    buffers = []
    there = pickle.dumps(model, protocol=5, buffer_callback=buffers.append)
    shifted = [memoryview(b"?" + bytes(buffer)).toreadonly()[1:] for buffer in buffers]
    there = pickle.loads(there, buffers=shifted)
    assert not any(getattr(there, name).flags.aligned for name in NAMES)
    assert np.array_equal(there.score_samples(X), model.score_samples(X))
    assert np.array_equal(there.sample(5, random_state=0)[0], model.sample(5, random_state=0)[0])
    _assert_same_statistics(there.e_step(X), model.e_step(X), 0)


def test_models_that_were_sent_take_statistics_of_one_another():
    X, start = _problem()
    model = _model(start)
    there = pickle.loads(pickle.dumps(model))
    model.m_step(there.e_step(X[:200]) + model.e_step(X[200:]))
    assert model.score(X) > there.score(X)


def test_statistics_of_other_parameters_are_refused():
    X, start = _problem()
    model = _model(start)
    old = model.e_step(X)
    model.m_step(old)
    with pytest.raises(ValueError, match="present parameters"):
        model.m_step(old)
    with pytest.raises(ValueError, match="the same parameters"):
        old + model.e_step(X)
    with pytest.raises(ValueError, match="the same parameters"):
        Statistics.merge([old, model.e_step(X)])


def test_wrong_arguments():
    X, start = _problem()
    model = _model(start)
    with pytest.raises(NotFittedError):
        MFA().e_step(X)
    with pytest.raises(NotFittedError):
        MFA().m_step(model.e_step(X))
    with pytest.raises(TypeError, match="statistics must be what e_step returns"):
        model.m_step(X)
    with pytest.raises(TypeError):
        model.e_step(X) + X[0, 0]
    with pytest.raises(TypeError, match="an element of type ndarray"):
        Statistics.merge([X])
    with pytest.raises(ValueError, match="at least one"):
        Statistics.merge([])
    with pytest.raises(ValueError, match="9 features"):
        model.e_step(X[:, :3])
    X[3, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        model.e_step(X)
    with pytest.raises(ValueError, match="min_noise_variance"):
        model.set_params(min_noise_variance=-1.0).m_step(model.e_step(X[:3]))
