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
    every_glanced_width,
    every_noise,
    every_noise_std,
    every_shape,
    glanced_case,
    parameters_of,
    precision_of,
    samples_of,
)
from mfa_fast import _core
from tolerances import FACTORS, LOG_DENSITY, relative_error, scaled_error


def _reduce(device, model, X, groups, dtype, *, exact=True, screening=True):
    """All outputs of reduce, on the host."""
    n, G = len(X), len(groups) - 1
    out = {
        "log_sum": device.empty((n, G), np.float64),
        "best_value": device.empty((n, G), np.float64),
        "best": device.empty((n, G), np.int64),
        "responsibilities": device.empty((n, model.n_components), dtype),
        "factors": device.empty((n, model.n_factors), np.float64),
    }
    device.call("reduce", model, device.send(X), groups, exact=exact, screening=screening, n_rows=n, **out)
    return {name: device.fetch(value) for name, value in out.items()}


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
    out = _reduce(device, device.model(p), X, groups, dtype, exact=exact)
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
    reduced = _reduce(device, model, X, np.array([0, shape[0]]), dtype, exact=False)
    assert relative_error(reduced["log_sum"][:, 0], ref.log_sum_exp(joint)) <= LOG_DENSITY[dtype]
    assert np.array_equal(reduced["best"][:, 0], joint.argmax(axis=1))


def test_rows_may_lie_apart(device):
    p = parameters_of((3, 20, 2))
    X = ref.random_samples(p, 30)
    wide = device.send(np.concatenate([X, np.full((30, 5), np.nan)], axis=1))
    out = device.empty((15, 3), np.float64)
    device.call("log_densities", device.model(p), wide[::2, :20], out, n_rows=15)
    assert relative_error(device.fetch(out), ref.weighted_log_prob(X[::2], p)) <= LOG_DENSITY[X.dtype]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("far", [1e2, 1e4, 1e6])
def test_bounds_count_the_rounding_of_tensor_cores(device, far, alike, dtype):
    # Clusters of three far from their common centre: halves move a row's coordinates by more than the components of a
    # cluster are apart, so that the first guess is often wrong, and by far more than may be left out once the other
    # factor is the distance of the cluster. All lies within the subspace, where the bound is tight. With entries that
    # are all equal, the roundings of the rows, or those of the sums, go one way.
    rng = np.random.default_rng(1)
    K, d, L, n = 36, 600, 3, 192
    axis = np.ones(d) if alike else rng.normal(size=d)
    space = rng.normal(size=(6, d)) / np.sqrt(d)
    side = np.repeat(np.linspace(-far, far, 12), 3)
    means = side[:, None] * axis / np.linalg.norm(axis) + rng.normal(size=(K, 6)) @ space
    p = ref.Parameters(np.full(K, 1 / K), means, 0.5 * rng.normal(size=(K, L, 6)) @ space, np.ones((K, d)))
    X = ref.random_samples(p, n, stray=0.0).astype(dtype)
    joint = ref.weighted_log_prob(X, p)
    model = device.model(p)
    assert model.n_directions > 0
    out = _reduce(device, model, X, np.array([0, K]), dtype)
    assert relative_error(out["log_sum"][:, 0], ref.log_sum_exp(joint)) <= LOG_DENSITY[np.dtype(np.float64)]
    assert np.array_equal(out["best"][:, 0], joint.argmax(axis=1))


def _rows_that_halves_move_as_far_as_they_can(d=247):
    """A model, and rows whose coordinates are off by about as much as their error bound.

    Along the line of equal entries all is rounded down: entries of rows, 1 / sqrt(d), and coordinates. Rows lie halfway
    between two components, far from both, and next to the one that they seem to be moved away from.
    """
    rng = np.random.default_rng(0)
    entry = 1 + np.arange(40) / 1024 + 0.99 / 2048
    seen = np.float16(d * np.float64(np.float16(1 / np.sqrt(d))) * np.float16(entry).astype(float)) / np.sqrt(d)
    worst = np.argmin(seen / entry)
    assert seen[worst] < (1 - 2.4 * 2.0**-11) * entry[worst]
    rows = entry[worst] * np.array([[-(2.0**13)], [2.0**13], [-(2.0**14)], [2.0**14]]) * np.ones(d)
    others = 2.0**10 * rng.normal(size=(14, d))
    others -= others.mean(axis=1, keepdims=True)
    means = np.concatenate([1.3 * rows, (0.7 - 1e-6) * rows, others, -others])
    loadings = 0.1 * rng.normal(size=(36, 1, d))
    loadings -= loadings.mean(axis=2, keepdims=True)
    return ref.Parameters(np.full(36, 1 / 36), means, loadings, np.ones((36, d))), rows


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bounds_count_every_rounding_to_halves(device, dtype):
    # Without that of the basis, of the rows or of the coordinates the best component is left out.
    p, X = _rows_that_halves_move_as_far_as_they_can()
    model = device.model(p)
    assert model.n_directions > 0
    out = _reduce(device, model, X.astype(dtype), np.array([0, 36]), dtype)
    assert np.array_equal(out["best"][:, 0], np.arange(4))
    expected = ref.score_samples(X.astype(dtype), p)
    assert relative_error(out["log_sum"][:, 0], expected) <= LOG_DENSITY[np.dtype(np.float64)]


@pytest.mark.parametrize("unit", [1e-25, 1e-6, 1.0, 1e6, 1e15])
@pytest.mark.parametrize("noise", NOISES)
def test_halves_hold_rows_of_any_unit_and_far_ones(device, noise, unit):
    # Halves end at 65504, and below 6e-5 they lose digits: rows are brought to their middle. Some are much longer than
    # usual all the same, in every feature or in one, and some lie next to the centre.
    p = parameters_of((20, 256, 3), noise, 0.1)
    X = ref.random_samples(p, 90, stray=0.0)
    center = p.weights @ p.means
    X[10:20] = center + 1e3 * (X[10:20] - center)
    X[20:30] = center + 1e6 * (X[20:30] - center)
    X[30:40, 7] += 1e7
    X[40:50] = center + 1e-6 * (X[40:50] - center)
    p = ref.Parameters(p.weights, unit * p.means, unit * p.loadings, unit**2 * p.noise_variance)
    X = (unit * X).astype(np.float32)
    model = device.model(p)
    assert model.n_directions > 0
    joint = ref.weighted_log_prob(X, p)
    out = _reduce(device, model, X, np.array([0, 20]), np.float32)
    assert relative_error(out["log_sum"][:, 0], ref.log_sum_exp(joint)) <= LOG_DENSITY[np.dtype(np.float32)]
    assert np.array_equal(out["best"][:, 0], joint.argmax(axis=1))


@pytest.mark.parametrize("noise", NOISES)
def test_rows_and_their_squares_may_be_more_than_a_float(device, noise):
    p = parameters_of((20, 256, 3), noise, 0.1)
    X = ref.random_samples(p, 40, stray=0.0)
    X[7] *= 1e25
    X[20] *= 1e60
    X[30, 100] = -1e38
    model = device.model(p)
    assert model.n_directions > 0
    out = _reduce(device, model, X, np.array([0, 20]), np.float64)
    assert relative_error(out["log_sum"][:, 0], ref.score_samples(X, p)) <= LOG_DENSITY[X.dtype]


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


@pytest.mark.parametrize(("dtype", "exact"), [(np.float32, False), (np.float32, True), (np.float64, True)])
@every_noise
@every_glanced_width
def test_looking_at_a_part_of_the_features_first(device, d, noise, dtype, exact):
    p, X = glanced_case(d, noise, dtype)
    joint = ref.weighted_log_prob(X, p)
    model, groups = device.model(p), np.array([0, 24])
    assert model.glances
    out = _reduce(device, model, X, groups, dtype, exact=exact)
    tolerance = LOG_DENSITY[np.dtype(np.float64 if exact else dtype)]
    assert relative_error(out["log_sum"][:, 0], ref.log_sum_exp(joint)) <= tolerance
    own = joint.argmax(axis=1)
    assert np.array_equal(out["best"][:, 0], own)
    if exact:
        for k in np.unique(own):
            component = ref.Component(p, k)
            z = component.factors(X[own == k] - component.mean)
            assert relative_error(out["factors"][own == k], z) <= FACTORS[X.dtype]
    for part in (slice(0, 1), slice(1, 64), slice(60, None)):
        apart = _reduce(device, model, X[part], groups, dtype, exact=exact)
        assert all(np.array_equal(apart[name], value[part]) for name, value in out.items())


@pytest.mark.parametrize("features", [(70, 5), (5, 70)])
def test_a_row_that_is_not_finite_in_a_part_is_reported(device, features):
    p, X = glanced_case(600, "spherical", np.float64)
    X[[50, 30], features] = np.nan, np.inf
    log_sum = device.empty((90, 1), np.float64)
    how = {"exact": True, "screening": True, "log_sum": log_sum}
    assert device.bad_row("reduce", device.model(p), device.send(X), np.array([0, 24]), **how) == 30


@pytest.mark.parametrize("kind", KINDS)
def test_types_of_samples_that_are_looked_at_in_part(device, kind):
    p, _ = glanced_case(600, "spherical", np.float64)
    X, same = samples_of(p, 70, kind)
    if kind == "uint8":
        p = p._replace(means=10 * p.means + 128, loadings=10 * p.loadings, noise_variance=100 * p.noise_variance)
    model = device.model(p)
    assert model.glances
    dtype = precision_of(kind)
    out = _reduce(device, model, X, np.array([0, 24]), dtype, exact=False)
    joint = ref.weighted_log_prob(same, p)
    assert relative_error(out["log_sum"][:, 0], ref.log_sum_exp(joint)) <= LOG_DENSITY[dtype]
    assert np.array_equal(out["best"][:, 0], joint.argmax(axis=1))


def test_a_row_does_not_depend_on_its_neighbours(device):
    # On a device the last digits may, where matrix products are a library's; with screening they do not.
    p = parameters_of((20, 256, 3), noise_std=1e-2)
    X = ref.random_samples(p, 130).astype(np.float32)
    model, groups = device.model(p), np.array([0, 20])
    together = _reduce(device, model, X, groups, np.float32)
    apart = [_reduce(device, model, part, groups, np.float32) for part in np.split(X, [1, 60])]
    for name, value in together.items():
        assert scaled_error(np.concatenate([part[name] for part in apart]), value) <= 1e-12, name
    again = _reduce(device, model, X, groups, np.float32)
    assert all(np.array_equal(again[name], value) for name, value in together.items())


def test_a_row_beside_one_that_needs_the_residual_form_stays_the_same(device):
    p = parameters_of((20, 256, 3), noise_std=0.1)
    p.weights[:2] = p.weights[:2].mean()
    for array in p:
        array[1] = array[0]  # which of the two is better cannot be told
    X = ref.random_samples(p, 60).astype(np.float32)
    far = (p.means[5] + 1e4 * p.loadings[5, 0]).astype(np.float32)
    model, groups = device.model(p), np.array([0, 20])
    alone = _reduce(device, model, X, groups, np.float32, exact=False)
    beside = _reduce(device, model, np.vstack([X, far]), groups, np.float32, exact=False)
    for name, value in alone.items():
        assert np.array_equal(beside[name][:60], value), name
    assert relative_error(beside["log_sum"][60], ref.score_samples(far[None], p)) <= LOG_DENSITY[X.dtype]
    assert np.any(alone["best"] == 0) and not np.any(alone["best"] == 1)  # the first of equals


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
        out = _reduce(device, device.model(p), np.empty((0, 20), dtype), np.array([0, 3]), dtype)
        assert out["log_sum"].shape == (0, 1)


def _in_few_dimensions(n_dimensions, spread, n_factors):
    """Means in the first of some dimensions, and loadings that are next to nothing."""
    rng = np.random.default_rng(0)
    K, d = 100, 400
    dimensions = rng.normal(size=(60, d)) / np.sqrt(d)
    means = spread * rng.normal(size=(K, n_dimensions)) @ dimensions[:n_dimensions]
    loadings = 1e-3 * rng.normal(size=(K, n_factors, d))
    return ref.Parameters(np.full(K, 1 / K), means, loadings, np.full((K, d), 1e-2))


@pytest.mark.parametrize("n_factors", [0, 1, 3, 6, 7, 15])
def test_directions_that_hold_all_means_are_found(device, n_factors):
    # However many rows a component has, means among them.
    assert device.model(_in_few_dimensions(16, 3.0, n_factors)).n_directions == 16


@pytest.mark.parametrize(
    ("n_dimensions", "spread", "n_directions"),
    [(16, 3.0, 16), (32, 1.0, 32), (48, 0.5, 48), (64, 0.31, 64), (96, 0.25, 96), (96, 0.2, 128)],
)
def test_every_number_of_directions(device, n_dimensions, spread, n_directions):
    # Kernels are made for each; for more than 64, two blocks share a row.
    rng = np.random.default_rng(0)
    K, L, d = 130, 2, 2048
    dimensions = rng.normal(size=(n_dimensions, d)) / np.sqrt(d)
    means = spread * rng.normal(size=(K, n_dimensions)) @ dimensions
    p = ref.Parameters(np.full(K, 1 / K), means, 1e-3 * rng.normal(size=(K, L, d)), np.full((K, d), 1e-2))
    model = device.model(p)
    assert model.n_directions == n_directions
    X = ref.random_samples(p, 40, stray=0.0).astype(np.float32)
    joint = ref.weighted_log_prob(X, p)
    out = _reduce(device, model, X, np.array([0, K]), X.dtype)
    assert relative_error(out["log_sum"][:, 0], ref.log_sum_exp(joint)) <= LOG_DENSITY[X.dtype]
    assert np.array_equal(out["best"][:, 0], joint.argmax(axis=1))


def test_directions_are_looked_for_again_where_fewer_would_do(device):
    def chain(p, near, length):
        numbers = []
        for _ in range(length):
            near = _core.Model(*map(np.ascontiguousarray, p), near=near)
            numbers.append(device.kernels.Model(near, **device.launch).n_directions)
        return near, numbers

    # Those of the first model hold all there is of the second, and more.
    first, numbers = chain(_in_few_dimensions(60, 0.2, 3), None, 8)
    assert set(numbers) == {48}
    _, numbers = chain(_in_few_dimensions(12, 3.0, 3), first, 17)
    assert numbers[-1] == 16


def test_classes_leave_components_standing_each_of_its_own(device):
    # A sample is near one component of its own class, and as far from all of the other: to tell these apart takes more
    # directions.
    rng = np.random.default_rng(0)
    K, d, L, rank = 40, 400, 4, 80
    space = rng.normal(size=(rank, d)) / np.sqrt(d * (1.0 + np.arange(rank)[:, None]))
    means, loadings = 2 * rng.normal(size=(K, rank)) @ space, rng.normal(size=(K, L, rank)) @ space
    p = ref.Parameters(np.full(K, 1 / K), means, loadings, np.full((K, d), 1e-6))
    classes = np.array([0, K // 2, K])
    together, apart = (_core.Model(*p, groups=groups) for groups in (None, classes))
    on_device = [device.kernels.Model(core, **device.launch) for core in (together, apart)]
    assert on_device[0].n_directions < on_device[1].n_directions
    # Whatever a model was packed for, it scores any groups.
    X = ref.random_samples(p, 60)
    first, second = (_reduce(device, model, X, classes, np.float64) for model in on_device)
    assert relative_error(first["log_sum"], second["log_sum"]) <= LOG_DENSITY[X.dtype]
    assert np.array_equal(first["best"], second["best"])


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
