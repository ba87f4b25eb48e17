"""Screening on a device: what bounds must count, what is looked at first, and how many directions are."""

import numpy as np
import pytest

import reference as ref
from device_cases import (
    KINDS,
    NOISES,
    every_glanced_width,
    every_noise,
    glanced_case,
    parameters_of,
    precision_of,
    reduce_all,
    samples_of,
)
from mfa_fast import _core
from tolerances import FACTORS, LOG_DENSITY, relative_error


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
    out = reduce_all(device, model, X, np.array([0, K]), dtype)
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
    out = reduce_all(device, model, X.astype(dtype), np.array([0, 36]), dtype)
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
    out = reduce_all(device, model, X, np.array([0, 20]), np.float32)
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
    out = reduce_all(device, model, X, np.array([0, 20]), np.float64)
    assert relative_error(out["log_sum"][:, 0], ref.score_samples(X, p)) <= LOG_DENSITY[X.dtype]


def test_what_a_sum_can_show_is_left_standing(device):
    # Some components lie 22 nats below the best, whose score is small: what they add to it float64 is promised to show.
    rng = np.random.default_rng(0)
    K, d, L, variance = 100, 400, 3, 0.5 / np.pi
    space = np.linalg.qr(rng.normal(size=(d, 16)))[0].T
    means = 20.0 * rng.normal(size=(K, 16))
    beside = rng.normal(size=(8, 16))
    means[:8] = means[8] + np.sqrt(2 * 22.0 * variance) * beside / np.linalg.norm(beside, axis=1)[:, None]
    loadings = 1e-3 * rng.normal(size=(K, L, d))
    p = ref.Parameters(np.full(K, 1 / K), means @ space, loadings, np.full((K, d), variance))
    X = p.means[8] + 1e-2 * rng.normal(size=(8, 16)) @ space
    model = device.model(p)
    assert model.n_directions > 0
    out = reduce_all(device, model, X, np.array([0, K]), X.dtype)
    assert relative_error(out["log_sum"][:, 0], ref.score_samples(X, p)) <= LOG_DENSITY[X.dtype]


@pytest.mark.parametrize(("dtype", "exact"), [(np.float32, False), (np.float32, True), (np.float64, True)])
@every_noise
@every_glanced_width
def test_looking_at_a_part_of_the_features_first(device, d, noise, dtype, exact):
    p, X = glanced_case(d, noise, dtype)
    joint = ref.weighted_log_prob(X, p)
    model, groups = device.model(p), np.array([0, 24])
    assert model.glances
    out = reduce_all(device, model, X, groups, dtype, exact=exact)
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
        apart = reduce_all(device, model, X[part], groups, dtype, exact=exact)
        assert all(np.array_equal(apart[name], value[part]) for name, value in out.items())


@pytest.mark.parametrize("noise", NOISES)
def test_rows_that_a_part_tells_get_the_residual_form_too(device, noise):
    # Far along the factors of their component, which a part of the features tells all the same.
    p, _ = glanced_case(600, noise, np.float64, noise_std=1e-3)
    rng = np.random.default_rng(0)
    along = 100 * np.einsum("kl,kld->kd", rng.normal(size=(24, 3)), p.loadings)
    X = p.means + along + np.sqrt(p.noise_variance) * rng.normal(size=along.shape)
    model = device.model(p)
    assert model.glances
    out = reduce_all(device, model, X, np.array([0, 24]), X.dtype)
    assert relative_error(out["log_sum"][:, 0], ref.score_samples(X, p)) <= LOG_DENSITY[X.dtype]


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
    out = reduce_all(device, model, X, np.array([0, 24]), dtype, exact=False)
    joint = ref.weighted_log_prob(same, p)
    assert relative_error(out["log_sum"][:, 0], ref.log_sum_exp(joint)) <= LOG_DENSITY[dtype]
    assert np.array_equal(out["best"][:, 0], joint.argmax(axis=1))


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
    out = reduce_all(device, model, X, np.array([0, K]), X.dtype)
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


def test_directions_of_a_part_are_kept_where_fewer_of_them_do(device):
    # Thirty dimensions tell the components of the first model apart in the features that are looked at, eight of these
    # dimensions those of the second, whose directions there are kept; elsewhere its components are all the same.
    rng = np.random.default_rng(0)
    K, d, L, n_needed = 24, 1152, 3, 8
    sizes = np.array(n_needed * [3.0] + 22 * [0.3])
    space = rng.normal(size=(len(sizes), d)) / np.sqrt(n_needed)
    rows = rng.normal(size=(K, L + 1, len(sizes))) * sizes * np.array(L * [0.1] + [1.0])[:, None]
    first, second = rows @ space, rows[..., :n_needed] @ space[:n_needed]
    second[..., np.arange(d) // 64 % 8 != 0] = 0.0
    near = None
    for parameters in (first, second):
        p = ref.Parameters(np.full(K, 1 / K), parameters[:, L], parameters[:, :L], np.full((K, d), 0.25))
        near = _core.Model(*map(np.ascontiguousarray, p), near=near)
        model = device.kernels.Model(near, **device.launch)
        assert model.glances
        X = ref.random_samples(p, 60)
        joint = ref.weighted_log_prob(X, p)
        out = reduce_all(device, model, X, np.array([0, K]), X.dtype)
        assert relative_error(out["log_sum"][:, 0], ref.log_sum_exp(joint)) <= LOG_DENSITY[X.dtype]
        assert np.array_equal(out["best"][:, 0], joint.argmax(axis=1))


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
    first, second = (reduce_all(device, model, X, classes, np.float64) for model in on_device)
    assert relative_error(first["log_sum"], second["log_sum"]) <= LOG_DENSITY[X.dtype]
    assert np.array_equal(first["best"], second["best"])
