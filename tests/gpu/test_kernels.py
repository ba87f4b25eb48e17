"""The CUDA kernels against the reference and against the CPU's."""

import os
import signal
import sys
import threading
from itertools import pairwise
from time import process_time
from types import SimpleNamespace

import numpy as np
import pytest

import reference as ref
from device_cases import (
    KINDS,
    NOISES,
    SCREENED,
    SMALL,
    case_of,
    every_noise,
    every_noise_std,
    every_shape,
    glanced_case,
    parameters_of,
    precision_of,
    reduce_all,
    samples_of,
)
from mfa_fast import _core
from tolerances import FACTORS, LOG_DENSITY, TIE, relative_error, scaled_error


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@every_noise_std
@every_noise
@every_shape
def test_log_densities(device, shape, n, noise, noise_std, dtype):
    p, X, joint = case_of(shape, n, noise, noise_std, dtype)
    out = device.empty((n, shape[0]), dtype)
    device.call("log_densities", device.model(p), device.send(X), out, n_rows=n)
    assert relative_error(device.fetch(out), joint) <= LOG_DENSITY[X.dtype]


@pytest.mark.parametrize(("dtype", "exact"), [(np.float32, False), (np.float32, True), (np.float64, True)])
@every_noise_std
@every_noise
@every_shape
def test_reduce(device, shape, n, noise, noise_std, dtype, exact):
    p, X, joint = case_of(shape, n, noise, noise_std, dtype)
    K = shape[0]
    groups = np.unique([0, K // 2, K])
    parts = [joint[:, a:b] for a, b in pairwise(groups)]
    evidence = np.stack([ref.log_sum_exp(part) for part in parts], axis=1)
    best = np.stack([part.argmax(axis=1) for part in parts], axis=1)
    out = reduce_all(device, device.model(p), X, groups, dtype, exact=exact)
    tolerance = LOG_DENSITY[np.dtype(np.float64 if exact else dtype)]
    assert relative_error(out["log_sum"], evidence) <= tolerance
    assert np.array_equal(out["best"], best)
    assert relative_error(out["best_value"], np.stack([part.max(axis=1) for part in parts], axis=1)) <= tolerance
    expected = np.exp(joint - np.repeat(evidence, np.diff(groups), axis=1))
    allowed = max(tolerance, LOG_DENSITY[X.dtype]) * np.maximum(1, np.abs(evidence).max(axis=1))[:, None]
    assert np.all(np.abs(out["responsibilities"] - expected) <= allowed)
    if exact:
        own = best[:, 0]
        for k in np.unique(own):
            component = ref.Component(p, k)
            z = component.factors(X[own == k] - component.mean)
            assert relative_error(out["factors"][own == k], z) <= FACTORS[X.dtype]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(5, 33, 4), (20, 256, 3)])
def test_types_of_samples(device, shape, kind):
    p = parameters_of(shape)
    if kind == "uint8":
        p = p._replace(means=10 * p.means + 128, loadings=10 * p.loadings, noise_variance=100 * p.noise_variance)
    X, same = samples_of(p if kind != "uint8" else parameters_of(shape), 70, kind)
    dtype = precision_of(kind)
    model = device.model(p)
    out = device.empty((70, shape[0]), dtype)
    device.call("log_densities", model, device.send(X), out, n_rows=70)
    joint = ref.weighted_log_prob(same, p)
    assert relative_error(device.fetch(out), joint) <= LOG_DENSITY[dtype]
    reduced = reduce_all(device, model, X, np.array([0, shape[0]]), dtype, exact=False)
    assert relative_error(reduced["log_sum"][:, 0], ref.log_sum_exp(joint)) <= LOG_DENSITY[dtype]
    assert np.array_equal(reduced["best"][:, 0], joint.argmax(axis=1))


def test_rows_may_lie_apart(device):
    p = parameters_of((3, 20, 2))
    X = ref.random_samples(p, 30)
    wide = device.send(np.concatenate([X, np.full((30, 5), np.nan)], axis=1))
    out = device.empty((15, 3), np.float64)
    device.call("log_densities", device.model(p), wide[::2, :20], out, n_rows=15)
    assert relative_error(device.fetch(out), ref.weighted_log_prob(X[::2], p)) <= LOG_DENSITY[X.dtype]


def test_a_row_that_is_not_finite_is_reported(device):
    for shape, screened in [((3, 20, 2), False), ((20, 256, 3), True)]:
        p = parameters_of(shape, noise_std=0.1)
        X = ref.random_samples(p, 70)
        X[[50, 41, 69], 7] = np.nan, np.inf, -np.inf
        model, groups = device.model(p), np.array([0, shape[0]])
        assert (model.n_directions > 0) == screened
        log_sum = device.empty((70, 1), np.float64)
        how = {"exact": True, "screening": True, "log_sum": log_sum}
        assert device.bad_row("reduce", model, device.send(X), groups, **how) == 41
        rest = np.delete(np.arange(70), [50, 41, 69])
        expected = ref.score_samples(X[rest], p)
        assert relative_error(device.fetch(log_sum)[rest, 0], expected) <= LOG_DENSITY[X.dtype]


def test_a_row_does_not_depend_on_its_neighbours(device):
    # On a device the last digits may, where matrix products are a library's; with screening they do not.
    p = parameters_of((20, 256, 3), noise_std=1e-2)
    X = ref.random_samples(p, 130).astype(np.float32)
    model, groups = device.model(p), np.array([0, 20])
    together = reduce_all(device, model, X, groups, np.float32)
    apart = [reduce_all(device, model, part, groups, np.float32) for part in np.split(X, [1, 60])]
    for name, value in together.items():
        assert scaled_error(np.concatenate([part[name] for part in apart]), value) <= 1e-12, name
    again = reduce_all(device, model, X, groups, np.float32)
    assert all(np.array_equal(again[name], value) for name, value in together.items())


def test_a_row_beside_one_that_needs_the_residual_form_stays_the_same(device):
    p = parameters_of((20, 256, 3), noise_std=0.1)
    p.weights[:2] = p.weights[:2].mean()
    for array in p:
        array[1] = array[0]  # which of the two is better cannot be told
    X = ref.random_samples(p, 60).astype(np.float32)
    far = (p.means[5] + 1e4 * p.loadings[5, 0]).astype(np.float32)
    model, groups = device.model(p), np.array([0, 20])
    alone = reduce_all(device, model, X, groups, np.float32, exact=False)
    beside = reduce_all(device, model, np.vstack([X, far]), groups, np.float32, exact=False)
    for name, value in alone.items():
        assert np.array_equal(beside[name][:60], value), name
    assert relative_error(beside["log_sum"][60], ref.score_samples(far[None], p)) <= LOG_DENSITY[X.dtype]
    assert np.any(alone["best"] == 0) and not np.any(alone["best"] == 1)  # the first of equals


def _log_sum_of_rows_without_factors(device, p, X):
    """Scores whose residual forms begin with factors of 0, as none are kept."""
    model, log_sum = device.model(p), device.empty((len(X), 1), np.float64)
    assert model.n_directions > 0
    how = {"exact": True, "screening": True, "log_sum": log_sum, "n_rows": len(X)}
    device.call("reduce", model, device.send(X), np.array([0, len(p.weights)]), **how)
    return device.fetch(log_sum)[:, 0]


def _rows_that_lie_along_factors(p):
    rng = np.random.default_rng(0)
    along = 10 * rng.normal(size=(4, p.loadings.shape[1])) @ p.loadings[3]
    return p.means[3] + along + np.sqrt(p.noise_variance[3]) * rng.normal(size=along.shape)


def test_the_residual_form_takes_as_many_passes_as_it_needs(device):
    # From factors of 0 the first pass takes off nearly all of a distance that is a million times too large.
    p = parameters_of((20, 256, 3), noise_std=1e-3)
    X = _rows_that_lie_along_factors(p)
    actual = _log_sum_of_rows_without_factors(device, p, X)
    assert relative_error(actual, ref.score_samples(X, p)) <= LOG_DENSITY[X.dtype]


def test_passes_of_the_residual_form_are_a_row_s_own(device):
    # Rows off the component settle at once, those beside them in a tile do not.
    p = parameters_of((20, 256, 3), noise_std=1e-3)
    near = _rows_that_lie_along_factors(p)
    off = p.means[3] + 0.5 * np.random.default_rng(0).normal(size=near.shape)
    together = _log_sum_of_rows_without_factors(device, p, np.concatenate([near, off]))
    apart = [_log_sum_of_rows_without_factors(device, p, part) for part in (near, off)]
    assert np.array_equal(np.concatenate(apart), together)


def test_the_best_of_components_that_are_nearly_the_same(device):
    # Far along their factors, scores that are right to the tolerance of their sum do not say which of two is better.
    p = parameters_of((20, 256, 3), noise_std=0.1)
    rng = np.random.default_rng(0)
    for array in p:
        array[1::2] = array[::2]
    p.means[1::2] += 3e-6 * rng.normal(size=(10, 256))
    own = rng.integers(0, 20, 200)
    X = (p.means[own] + 1e6 * rng.normal(size=(200, 1)) * p.loadings[own, 0]).astype(np.float32)
    second, first = np.sort(ref.weighted_log_prob(X, p), axis=1)[:, -2:].T
    told = first - second > TIE * np.abs(first)
    assert told.any()
    out = reduce_all(device, device.model(p), X, np.array([0, 20]), np.float32, exact=False)
    assert np.array_equal(out["best"][told, 0], ref.predict(X, p)[told])


def test_a_component_whose_first_score_is_far_off_may_be_the_best(device):
    # Matrix products put it thousands of nats below the others, which are wide; by its error bound it may be above.
    p = parameters_of((4, 16, 3), noise_std=0.1)
    p.loadings[0] *= 1e9
    p.noise_variance[1:] = 1e14
    rng = np.random.default_rng(0)
    X = p.means[0] + rng.normal(size=(30, 3)) @ p.loadings[0] + 0.1 * rng.normal(size=(30, 16))
    out = reduce_all(device, device.model(p), X, np.array([0, 4]), X.dtype)
    assert not np.any(out["best"])


def _zeros(K, d, L):
    return [np.zeros(shape) for shape in ((K,), (K, L), (K, L, L), (K, L + 1, d), (K, d))]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@every_noise_std
@pytest.mark.parametrize(("shape", "n"), [*SMALL, *SCREENED, ((2, 40, 37), 33)])
def test_statistics(device, shape, n, noise_std, dtype, weighted):
    K, d, L = shape
    p = parameters_of(shape, "diagonal", noise_std)
    X = ref.random_samples(p, n).astype(dtype)
    expected, log_likelihoods = _zeros(K, d, L), np.empty(n)
    # The same numbers in float64: responsibilities of float32 samples are right to their tolerance.
    core = _core.Model(*p)
    same, weights = X.astype(np.float64), np.arange(n) % 3 / 2
    given = {"sample_weight": device.send(weights)} if weighted else {}
    weights = weights if weighted else None
    _core.expectation(core, same, tuple(expected), log_likelihoods, sample_weight=weights, screening=False, n_threads=1)
    sums, values = tuple(device.send(s) for s in _zeros(K, d, L)), device.empty(n, np.float64)
    device.call("expectation", device.model(p), device.send(X), sums, values, **given, screening=True, n_rows=n)
    tolerance = LOG_DENSITY[X.dtype]
    assert relative_error(device.fetch(values), log_likelihoods) <= tolerance
    scale = np.maximum(1, np.abs(log_likelihoods).max())
    for actual, wanted in zip(sums, expected, strict=True):
        assert scaled_error(device.fetch(actual), wanted) <= 10 * tolerance * scale


@every_noise
def test_statistics_of_rows_that_are_looked_at_in_part(device, noise):
    p, X = glanced_case(600, noise, np.float64)
    core, expected, log_likelihoods = _core.Model(*p), _zeros(24, 600, 3), np.empty(len(X))
    _core.expectation(core, X, tuple(expected), log_likelihoods, screening=False, n_threads=1)
    sums, values = tuple(device.send(s) for s in _zeros(24, 600, 3)), device.empty(len(X), np.float64)
    model = device.model(p)
    assert model.glances
    device.call("expectation", model, device.send(X), sums, values, screening=True, n_rows=len(X))
    tolerance = LOG_DENSITY[X.dtype]
    assert relative_error(device.fetch(values), log_likelihoods) <= tolerance
    scale = np.maximum(1, np.abs(log_likelihoods).max())
    for actual, wanted in zip(sums, expected, strict=True):
        assert scaled_error(device.fetch(actual), wanted) <= 10 * tolerance * scale


def test_statistics_are_the_same_every_time_and_in_parts(device):
    p = parameters_of((20, 256, 3))
    X = ref.random_samples(p, 130)
    model = device.model(p)
    results = []
    for parts in ([X], [X], np.split(X, [40])):
        sums = tuple(device.send(s) for s in _zeros(20, 256, 3))
        for part in parts:
            values = device.empty(len(part), np.float64)
            device.call("expectation", model, device.send(part), sums, values, screening=True, n_rows=len(part))
        results.append([device.fetch(s) for s in sums])
    assert all(np.array_equal(a, b) for a, b in zip(results[0], results[1], strict=True))
    assert all(scaled_error(a, b) <= 1e-12 for a, b in zip(results[0], results[2], strict=True))


# And: more factors than a block multiplies at once, and more members than it has at hand; more features than it has;
# and several parts of the work.
@pytest.mark.parametrize(
    ("shape", "n"), [((3, 130, 13), 70), ((2, 40, 37), 900), ((3, 420, 3), 50), ((2, 130, 37), 150)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_statistics_of_known_factors(device, kind, shape, n):
    K, d, L = shape
    p = parameters_of(shape)
    X, same = samples_of(p, n, kind)
    rng = np.random.default_rng(0)
    labels, z = rng.integers(0, K, n), rng.normal(size=(n, L))
    known = [device.send(a) for a in (p.means, labels, z)]
    for weights in (None, np.arange(n) % 3 / 2):
        expected = _zeros(K, d, L)
        _core.assigned(same, p.means, labels, z, tuple(expected), sample_weight=weights, n_threads=1)
        sums = tuple(device.send(s) for s in _zeros(K, d, L))
        given = {} if weights is None else {"sample_weight": device.send(weights)}
        device.call("assigned", device.send(X), *known, sums, **given, n_rows=n)
        for actual, wanted in zip(sums, expected, strict=True):
            assert scaled_error(device.fetch(actual), wanted) <= 1e-13
    for row, stray in ((n - 3, -1), (7, K)):
        labels[row] = stray
        known[1] = device.send(labels)
        assert device.bad_row("assigned", device.send(X), *known, sums) == row


# And: more samples than a part of the work has, and than a block looks through for those of a component; more
# components than a block has threads, and than go to the device at once.
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize(("shape", "n"), [*SMALL, *SCREENED, ((2, 3, 1), 3000), ((2, 1, 0), 9000), ((300, 2, 0), 900)])
def test_samples_are_the_cpu_s(device, shape, n, noise, dtype):
    p = parameters_of(shape, noise)
    core, model = _core.Model(*p), device.model(p)
    for with_noise in (True, False):
        X, labels = np.empty((n, shape[1]), dtype), np.empty(n, np.int64)
        how = {"weights": p.weights, "seed": 2**63 + 5, "start": 2**32 - 3, "noise": with_noise}
        _core.sample(core, **how, out=X, labels=labels, n_threads=1)
        out, chosen = device.empty(X.shape, dtype), device.empty(n, np.int64)
        device.kernels.sample(model, **how, out=out, labels=chosen, **device.launch)
        assert np.array_equal(device.fetch(chosen), labels)
        # A number's own last digits, and its terms': Box and Muller's tails reach 8.6.
        assert scaled_error(device.fetch(out), X) <= 8 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "n"), [*SMALL, *SCREENED, ((2, 3, 1), 3000)])
def test_reconstruct(device, shape, n, dtype):
    K, d, L = shape
    p = parameters_of(shape)
    rng = np.random.default_rng(0)
    labels, z = rng.integers(0, K, n), rng.normal(size=(n, L))
    out = device.empty((n, d), dtype)
    device.kernels.reconstruct(device.model(p), device.send(labels), device.send(z), out, **device.launch)
    expected = p.means[labels] + np.einsum("nl,nld->nd", z, p.loadings[labels])
    assert scaled_error(device.fetch(out), expected) <= 4 * np.finfo(dtype).eps


def test_arguments_that_do_not_fit_are_named(device):
    p = parameters_of((3, 20, 2))
    model, X = device.model(p), ref.random_samples(p, 5)
    for rows, message in [
        (X[:, :19], r"X must have shape \(n_samples, 20\), got \(5, 19\)"),
        (X.astype(np.int64), "X on a device must be float32, float64, uint8 or bfloat16"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            device.call("log_densities", model, device.send(rows), device.empty((5, 3), np.float64), n_rows=5)
    with pytest.raises(ValueError, match=r"out must have shape \(5, 3\), got \(5, 2\)"):
        device.call("log_densities", model, device.send(X), device.empty((5, 2), np.float64), n_rows=5)
    with pytest.raises(TypeError, match="out must hold numbers of type <f8, got <f4"):
        device.call("log_densities", model, device.send(X), device.empty((5, 3), np.float32), n_rows=5)
    with pytest.raises(TypeError, match="X must be an array with"):
        device.call("log_densities", model, X.tolist(), device.empty((5, 3), np.float64), n_rows=5)


def _described(array, *, bytes_on=0, read_only=False, **changes):
    names = ("__array_interface__", "__cuda_array_interface__")
    described = {name: getattr(array, name) for name in names if hasattr(array, name)}
    return SimpleNamespace(
        **{name: {**of, "data": (of["data"][0] + bytes_on, read_only)} | changes for name, of in described.items()}
    )


def test_arrays_that_are_not_aligned_are_named(device):
    # On a device a single number that lies across two places ends the process's work there.
    p = parameters_of((3, 20, 2))
    model, X, out = device.model(p), device.send(ref.random_samples(p, 5)), device.empty((5, 3), np.float64)
    for rows in (_described(X, bytes_on=1), _described(X, strides=(20 * 8 + 4, 8))):
        with pytest.raises(ValueError, match="X on a device must be aligned"):
            device.call("log_densities", model, rows, out, n_rows=5)
    with pytest.raises(ValueError, match="out must be aligned"):
        device.call("log_densities", model, X, _described(out, bytes_on=1), n_rows=5)


def test_arrays_that_are_not_laid_out_as_kernels_take_them_are_named(device):
    p = parameters_of((3, 20, 2))
    model, X, out = device.model(p), device.send(ref.random_samples(p, 5)), device.empty((5, 3), np.float64)
    with pytest.raises(ValueError, match="X on a device must have rows whose entries lie in a line"):
        device.call("log_densities", model, device.empty((5, 40), np.float64)[:, ::2], out, n_rows=5)
    with pytest.raises(ValueError, match="out must be C-contiguous"):
        device.call("log_densities", model, X, device.empty((5, 6), np.float64)[:, ::2], n_rows=5)
    with pytest.raises(ValueError, match="out must be writeable"):
        device.call("log_densities", model, X, _described(out, read_only=True), n_rows=5)
    values, sums = device.empty(5, np.float64), tuple(device.send(s) for s in _zeros(3, 20, 2))
    with pytest.raises(ValueError, match="statistics must be a tuple of 5 arrays"):
        device.call("expectation", model, X, (*sums, values), values, screening=True, n_rows=5)
    known = [device.send(a) for a in (p.means[0], np.zeros(5, np.int64), np.zeros((5, 2)))]
    with pytest.raises(ValueError, match="means must have 2 dimensions"):
        device.call("assigned", X, *known, sums, n_rows=5)


def test_no_rows(device):
    p = parameters_of((3, 20, 2))
    for dtype in (np.float32, np.float64):
        out = reduce_all(device, device.model(p), np.empty((0, 20), dtype), np.array([0, 3]), dtype)
        assert out["log_sum"].shape == (0, 1)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT that a process could send itself")
def test_ctrl_c_is_heard_while_a_model_is_packed(device):
    p = parameters_of((60, 16000, 8))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        model, started = _core.Model(*map(np.ascontiguousarray, p)), process_time()
        device.kernels.Model(model, **device.launch)
        whole = process_time() - started
        model, started = _core.Model(*map(np.ascontiguousarray, p)), process_time()
        threading.Timer(0.1 * whole, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            device.kernels.Model(model, **device.launch)
        assert process_time() - started < 0.5 * whole
    finally:
        signal.signal(signal.SIGINT, before)
    device.kernels.Model(model, **device.launch)
