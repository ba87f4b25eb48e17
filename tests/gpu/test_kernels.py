"""The CUDA kernels against the reference and against the CPU's."""

from functools import cache
from itertools import pairwise

import numpy as np
import pytest

import reference as ref
from mfa_fast import _core
from tolerances import (
    ATTACK,
    FACTORS,
    LOG_DENSITY,
    NEAREST_POINT,
    NEAREST_SUM_BOUND,
    relative_error,
    scaled_error,
)

NOISES = ("spherical", "tied diagonal", "diagonal")
NOISE_STDS = (1.0, 1e-3)
# (K, d, L), rows: one of each; more factors than a thread keeps sums of; edges of slices, warps, tiles and blocks; and
# more rows than a block looks through for entries.
SMALL = [((1, 1, 0), 1), ((2, 17, 1), 33), ((3, 33, 12), 65), ((5, 130, 23), 16), ((2, 2, 0), 1100)]
# Models that screening is used with, to whose components several entries go.
SCREENED = [((20, 256, 3), 65), ((33, 257, 2), 130)]
every_shape = pytest.mark.parametrize(("shape", "n"), SMALL + SCREENED)
every_noise = pytest.mark.parametrize("noise", NOISES)
every_noise_std = pytest.mark.parametrize("noise_std", NOISE_STDS)
KINDS = ("float32", "float64", "bfloat16", "uint8")


def _parameters(shape, noise="spherical", noise_std=1.0, seed=0):
    kind = "spherical" if noise == "spherical" else "diag"
    return ref.random_parameters(*shape, noise_type=kind, tied=noise == "tied diagonal", noise_std=noise_std, seed=seed)


@cache
def _case(shape, n, noise, noise_std, dtype):
    """A model, samples and their exact weighted log-densities."""
    p = _parameters(shape, noise, noise_std)
    X = ref.random_samples(p, n).astype(dtype)
    return p, X, ref.weighted_log_prob(X, p)


def _samples(parameters, n, kind):
    """Rows as the kernels get them, and the same numbers in a type that NumPy has."""
    X = ref.random_samples(parameters, n)
    if kind == "uint8":
        images = np.clip(np.rint(10 * X + 128), 0, 255).astype(np.uint8)
        return images, images
    X = X.astype(np.float64 if kind == "float64" else np.float32)
    if kind != "bfloat16":
        return X, X
    upper = (X.view(np.uint32) >> 16).astype(np.uint16)
    return upper.view("V2"), (upper.astype(np.uint32) << 16).view(np.float32)


def _precision(kind):
    return np.dtype(np.float32 if kind in ("float32", "bfloat16") else np.float64)


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
    p, X, joint = _case(shape, n, noise, noise_std, dtype)
    out = device.empty((n, shape[0]), dtype)
    device.call("log_densities", device.model(p), device.send(X), out, n_rows=n)
    assert relative_error(device.fetch(out), joint) <= LOG_DENSITY[X.dtype]


@pytest.mark.parametrize(("dtype", "exact"), [(np.float32, False), (np.float32, True), (np.float64, True)])
@every_noise_std
@every_noise
@every_shape
def test_reduce(device, shape, n, noise, noise_std, dtype, exact):
    p, X, joint = _case(shape, n, noise, noise_std, dtype)
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
    p = _parameters(shape)
    if kind == "uint8":
        p = p._replace(means=10 * p.means + 128, loadings=10 * p.loadings, noise_variance=100 * p.noise_variance)
    X, same = _samples(p if kind != "uint8" else _parameters(shape), 70, kind)
    dtype = _precision(kind)
    model = device.model(p)
    out = device.empty((70, shape[0]), dtype)
    device.call("log_densities", model, device.send(X), out, n_rows=70)
    joint = ref.weighted_log_prob(same, p)
    assert relative_error(device.fetch(out), joint) <= LOG_DENSITY[dtype]
    reduced = _reduce(device, model, X, np.array([0, shape[0]]), dtype, exact=False)
    assert relative_error(reduced["log_sum"][:, 0], ref.log_sum_exp(joint)) <= LOG_DENSITY[dtype]
    assert np.array_equal(reduced["best"][:, 0], joint.argmax(axis=1))


def test_rows_may_lie_apart(device):
    p = _parameters((3, 20, 2))
    X = ref.random_samples(p, 30)
    wide = device.send(np.concatenate([X, np.full((30, 5), np.nan)], axis=1))
    out = device.empty((15, 3), np.float64)
    device.call("log_densities", device.model(p), wide[::2, :20], out, n_rows=15)
    assert relative_error(device.fetch(out), ref.weighted_log_prob(X[::2], p)) <= LOG_DENSITY[X.dtype]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("far", [1e2, 1e4, 1e6])
def test_bounds_count_the_rounding_of_tensor_cores(device, far, alike, dtype):
    # Clusters of three far from their common centre: TF32 moves a row's coordinates by more than the components of a
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


def test_a_row_that_is_not_finite_is_reported(device):
    for shape in [(3, 20, 2), (20, 256, 3)]:
        p = _parameters(shape)
        X = ref.random_samples(p, 70)
        X[[50, 41, 69], 7] = np.nan, np.inf, -np.inf
        model, groups = device.model(p), np.array([0, shape[0]])
        log_sum = device.empty((70, 1), np.float64)
        how = {"exact": True, "screening": True, "log_sum": log_sum}
        assert device.bad_row("reduce", model, device.send(X), groups, **how) == 41
        rest = np.delete(np.arange(70), [50, 41, 69])
        expected = ref.score_samples(X[rest], p)
        assert relative_error(device.fetch(log_sum)[rest, 0], expected) <= LOG_DENSITY[X.dtype]


def test_a_row_does_not_depend_on_its_neighbours(device):
    # On a device the last digits may, where matrix products are a library's; with screening they do not.
    p = _parameters((20, 256, 3), noise_std=1e-2)
    X = ref.random_samples(p, 130).astype(np.float32)
    model, groups = device.model(p), np.array([0, 20])
    together = _reduce(device, model, X, groups, np.float32)
    apart = [_reduce(device, model, part, groups, np.float32) for part in np.split(X, [1, 60])]
    for name, value in together.items():
        assert scaled_error(np.concatenate([part[name] for part in apart]), value) <= 1e-12, name
    again = _reduce(device, model, X, groups, np.float32)
    assert all(np.array_equal(again[name], value) for name, value in together.items())


def test_a_row_beside_one_that_needs_the_residual_form_stays_the_same(device):
    p = _parameters((20, 256, 3), noise_std=0.1)
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


def _zeros(K, d, L):
    return [np.zeros(shape) for shape in ((K,), (K, L), (K, L, L), (K, L + 1, d), (K, d))]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@every_noise_std
@every_shape
def test_statistics(device, shape, n, noise_std, dtype, weighted):
    K, d, L = shape
    p = _parameters(shape, "diagonal", noise_std)
    X = ref.random_samples(p, n).astype(dtype)
    expected, log_likelihoods = _zeros(K, d, L), np.empty(n)
    # The same numbers in float64: responsibilities of float32 samples are right to their tolerance.
    core = _core.Model(*p)
    same, weights = X.astype(np.float64), np.arange(n) % 4 / 2
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


def test_statistics_are_the_same_every_time_and_in_parts(device):
    p = _parameters((20, 256, 3))
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


# And: more factors than a block multiplies at once, and more members than it has at hand; more features than it has.
@pytest.mark.parametrize(("shape", "n"), [((3, 130, 13), 70), ((2, 40, 37), 900), ((3, 420, 3), 50)])
@pytest.mark.parametrize("kind", KINDS)
def test_statistics_of_known_factors(device, kind, shape, n):
    K, d, L = shape
    p = _parameters(shape)
    X, same = _samples(p, n, kind)
    rng = np.random.default_rng(0)
    labels, z = rng.integers(0, K, n), rng.normal(size=(n, L))
    known = [device.send(a) for a in (p.means, labels, z)]
    for weights in (None, np.arange(n) % 4 / 2):
        expected = _zeros(K, d, L)
        _core.assigned(same, p.means, labels, z, tuple(expected), sample_weight=weights, n_threads=1)
        sums = tuple(device.send(s) for s in _zeros(K, d, L))
        given = {} if weights is None else {"sample_weight": device.send(weights)}
        device.call("assigned", device.send(X), *known, sums, **given, n_rows=n)
        for actual, wanted in zip(sums, expected, strict=True):
            assert scaled_error(device.fetch(actual), wanted) <= 1e-13
    labels[7] = K
    known[1] = device.send(labels)
    assert device.bad_row("assigned", device.send(X), *known, sums) == 7


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("noise", NOISES)
@every_shape
def test_samples_are_the_cpu_s(device, shape, n, noise, dtype):
    p = _parameters(shape, noise)
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
@every_shape
def test_reconstruct(device, shape, n, dtype):
    K, d, L = shape
    p = _parameters(shape)
    rng = np.random.default_rng(0)
    labels, z = rng.integers(0, K, n), rng.normal(size=(n, L))
    out = device.empty((n, d), dtype)
    device.kernels.reconstruct(device.model(p), device.send(labels), device.send(z), out, **device.launch)
    expected = p.means[labels] + np.einsum("nl,nld->nd", z, p.loadings[labels])
    assert scaled_error(device.fetch(out), expected) <= 4 * np.finfo(dtype).eps


def _attack(device, p, X, labels, dtype, **options):
    """LD-Grad on both devices, on two classes of components."""
    n, d = X.shape
    K = len(p.weights)
    how = {
        "groups": np.array([0, K // 2, K]),
        "log_priors": np.log([0.3, 0.7]),
        "sum_rule": False,
        "screening": True,
        "steps": 3,
        "overshoot": 1e-6,
        "clip": (None, None),
        "source": None,
        "target": None,
    } | options
    types = {"X_adv": dtype, "l2": np.float64, "success": bool, "n_steps": np.int64, "s": np.int64, "t": np.int64}
    shapes = {"X_adv": (n, d)}
    host = {name: np.empty(shapes.get(name, (n,)), t) for name, t in types.items()}
    out = {name: device.empty(shapes.get(name, (n,)), t) for name, t in types.items()}
    names = ("X_adv", "l2", "success", "n_steps")

    def outputs(of):
        return {"out": tuple(of[name] for name in names), "sources": of["s"], "targets": of["t"]}

    _core.ld_grad(_core.Model(*p), X, labels=labels, **how, **outputs(host), n_threads=1)
    rows = {"labels": device.send(labels), "n_rows": n}
    device.call("ld_grad", device.model(p), device.send(X), **rows, **how, **outputs(out))
    return {name: device.fetch(value) for name, value in out.items()}, host


def _classes(p, X):
    K = len(p.weights)
    joint = ref.weighted_log_prob(X, p)
    scores = np.stack([joint[:, : K // 2].max(axis=1), joint[:, K // 2 :].max(axis=1)], axis=1)
    return np.argmax(scores + np.log([0.3, 0.7]), axis=1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "options",
    [{}, {"sum_rule": True}, {"source": 1, "target": 0}, {"clip": (-0.5, 0.75), "steps": 2}, {"steps": 0}],
    ids=str,
)
@every_noise_std
@pytest.mark.parametrize(("shape", "n"), [((4, 33, 12), 65), ((20, 256, 3), 21)])
def test_ld_grad(device, shape, n, noise_std, options, dtype):
    p = _parameters(shape, "spherical", noise_std)
    X = ref.random_samples(p, n).astype(dtype)
    out, expected = _attack(device, p, X, _classes(p, X), dtype, **options)
    tolerance = ATTACK[X.dtype] * max(1.0, float(np.max(expected["l2"])))
    assert np.max(np.abs(out["X_adv"] - expected["X_adv"])) <= tolerance
    assert relative_error(out["l2"], expected["l2"]) <= tolerance
    for name in ("success", "n_steps", "s", "t"):
        assert np.array_equal(out[name], expected[name]), name


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", [{}, {"sum_rule": True}, {"source": 1, "target": 0}], ids=str)
@pytest.mark.parametrize("far", [1e1, 1e3])
def test_ld_grad_counts_what_coordinates_that_moved_along_are_off_by(device, far, options, dtype):
    # Clusters far from their common centre, each with components of both classes, and of different noise, so that a
    # part of what TF32 has moved a row's coordinates by comes back in every step. That is a thousand times what the
    # CPU's are off by, and must lead to the same components and as far.
    rng = np.random.default_rng(2)
    K, d, L, n = 36, 300, 3, 40
    space = rng.normal(size=(6, d)) / np.sqrt(d)
    axis = rng.normal(size=d)
    side = np.tile(np.linspace(-far, far, 6), 6)
    means = side[:, None] * axis / np.linalg.norm(axis) + rng.normal(size=(K, 6)) @ space
    noise = np.repeat(rng.uniform(0.03, 0.3, (K, 1)) ** 2, d, axis=1)
    p = ref.Parameters(np.full(K, 1 / K), means, 0.5 * rng.normal(size=(K, L, 6)) @ space, noise)
    X = ref.random_samples(p, n, stray=0.0).astype(dtype)
    assert device.model(p).n_directions > 0
    out, expected = _attack(device, p, X, _classes(p, X), dtype, **options)
    assert np.all(expected["n_steps"] >= 1) and np.any(expected["n_steps"] > 1)
    for name in ("success", "n_steps", "s", "t"):
        assert np.array_equal(out[name], expected[name]), name
    rounding = 4 * np.finfo(dtype).eps * np.linalg.norm(X, axis=1)
    assert np.all(np.abs(out["l2"] - expected["l2"]) <= ATTACK[X.dtype] * expected["l2"] + rounding)


def test_ld_grad_knows_the_class_of_what_is_next_to_the_surface(device):
    # Classes in one subspace, apart by no more than the noise. A score of some tens is the difference of numbers of 1e6
    # there, and right to some 1e-10 before it is refined.
    p = _parameters((4, 33, 4), noise_std=1e-3)
    means = p.means[0] + 1e-3 * np.random.default_rng(0).normal(size=p.means.shape)
    p = p._replace(means=means, loadings=np.repeat(p.loadings[:1], 4, axis=0))
    X = ref.random_samples(p, 40, stray=0.0)
    labels = _classes(p, X)
    found, _ = _attack(device, p, X, labels, X.dtype)
    hit = found["success"]
    labels, inside, outside = labels[hit], X[hit], found["X_adv"][hit]
    for _ in range(35):  # to a gap of some 1e-11
        middle = (inside + outside) / 2
        leaves = (_classes(p, middle) != labels)[:, None]
        inside, outside = np.where(leaves, inside, middle), np.where(leaves, middle, outside)
    near = np.concatenate([inside, outside])
    out, _ = _attack(device, p, near, np.concatenate([labels, _classes(p, outside)]), X.dtype, steps=0)
    assert len(near) > 40
    assert not out["success"].any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sum_rule", [False, True])
@pytest.mark.parametrize(("shape", "noise_std"), [((4, 64, 3), 0.1), ((8, 784, 6), 1e-3)])
def test_ld_grad_stays_where_the_nearest_rival_is_the_component_itself(device, shape, noise_std, sum_rule, dtype):
    p = _parameters(shape, noise_std=noise_std)
    half = shape[0] // 2
    for array in p[1:]:
        array[half:] = array[:half]
    p.weights[:] = np.repeat([0.7 / half, 0.3 / half], half)
    X = ref.random_samples(p, 30, stray=0.0).astype(dtype)
    labels = np.zeros(30, np.int64)
    # The prior of the other class is larger, but not by as much as its weights are smaller.
    out, expected = _attack(device, p, X, labels, dtype, sum_rule=sum_rule, log_priors=np.log([0.45, 0.55]))
    for found in (out, expected):
        assert not found["success"].any()
        assert not found["n_steps"].any()
        assert not found["l2"].any()
        assert np.array_equal(found["X_adv"], X)


def test_ld_grad_reports_a_label_of_no_class(device):
    p = _parameters((4, 10, 1))
    X, labels = ref.random_samples(p, 5), np.array([0, 1, 0, 2, -1])
    out = tuple(
        device.empty(shape, t) for shape, t in [((5, 10), np.float64), (5, np.float64), (5, bool), (5, np.int64)]
    )
    pairs = {"sources": device.empty(5, np.int64), "targets": device.empty(5, np.int64)}
    how = {"sum_rule": False, "screening": True, "steps": 3, "overshoot": 1e-6, "clip": (None, None)}
    groups = {"groups": np.array([0, 2, 4]), "log_priors": np.zeros(2), "source": None, "target": None}
    known = {"labels": device.send(labels), "out": out}
    assert device.bad_row("ld_grad", device.model(p), device.send(X), **known, **pairs, **how, **groups) == 3


def _classes_of(scores, groups, priors, sum_rule):
    parts = [scores[:, a:b] for a, b in pairwise(groups)]
    best = [ref.log_sum_exp(part) if sum_rule else part.max(axis=1) for part in parts]
    return np.stack(best, axis=1) + priors


def _leaves(scores, labels):
    """Whether rows are in another class, or so near to the surface that it cannot be told."""
    rows = np.arange(len(labels))
    own, others = scores[rows, labels], scores.copy()
    others[rows, labels] = -np.inf
    return others.max(axis=1) - own >= -LOG_DENSITY[np.dtype(np.float64)] * np.abs(own)


def _nearest(device, p, X, same, labels, *, groups=None, priors=(0.3, 0.7), sum_rule=False, steps=50):
    """LD-Grad and the search from where it comes to, on both devices; `same` are the samples as the CPU takes them."""
    n, d = X.shape
    K = len(p.weights)
    dtype = np.dtype(np.float32 if X.dtype.itemsize in (2, 4) else np.float64)
    how = {
        "groups": np.array([0, K // 2, K]) if groups is None else np.asarray(groups),
        "log_priors": np.log(priors),
        "sum_rule": sum_rule,
        "screening": True,
    }
    attack = {"steps": steps, "overshoot": 1e-6, "clip": (None, None), "source": None, "target": None}
    types = {"X_adv": dtype, "l2": np.float64, "success": bool, "n_steps": np.int64, "s": np.int64, "t": np.int64}
    types |= {"lower_bound": np.float64, "certified": bool}
    shapes = {"X_adv": (n, d)}
    host = {name: np.empty(shapes.get(name, (n,)), t) for name, t in types.items()}
    out = {name: device.empty(shapes.get(name, (n,)), t) for name, t in types.items()}

    def outputs(of):
        return {
            "out": tuple(of[name] for name in ("X_adv", "l2", "success", "n_steps")),
            "sources": of["s"],
            "targets": of["t"],
        }

    def bounds(of):
        return {name: of[name] for name in ("lower_bound", "certified")}

    packed = _core.Model(*map(np.ascontiguousarray, p))
    gram = _core.gram(packed, n_threads=1)
    _core.ld_grad(packed, same, labels=labels, **how, **attack, **outputs(host), n_threads=1)
    _core.nearest(packed, gram, same, labels=labels, **how, **outputs(host), **bounds(host), rtol=1e-6, n_threads=1)
    model = device.kernels.Model(packed, **device.launch)
    parts = device.kernels.NearestModel(packed, gram, **device.launch)
    rows, sent, bad = {"labels": device.send(labels)}, device.send(X), device.empty(1, np.int64)
    device.kernels.ld_grad(model, sent, **rows, **how, **attack, **outputs(out), bad_row=bad, **device.launch)
    device.kernels.nearest(
        model, parts, sent, **rows, **how, **outputs(out), **bounds(out), rtol=1e-6, bad_row=bad, **device.launch
    )
    return {name: device.fetch(value) for name, value in out.items()}, host, int(device.fetch(bad)[0])


def _check_nearest(out, expected, same, dtype, flips):
    """Points are on the other side and as far away as the CPU's, bounds are below and hardly worse."""
    assert np.all(flips)
    assert np.all(out["success"]) and np.all(expected["success"])
    moved = np.linalg.norm(out["X_adv"].astype(np.float64) - same.astype(np.float64), axis=1)
    assert relative_error(out["l2"], moved) <= ATTACK[dtype]
    assert relative_error(out["l2"], expected["l2"]) <= NEAREST_POINT[dtype]
    allowed = 1e-6 * out["l2"] + 2 * np.finfo(dtype).eps * np.linalg.norm(same.astype(np.float64), axis=1)
    gap = out["l2"] - out["lower_bound"]
    assert np.all(gap >= 0)
    assert np.all(gap <= np.maximum(2 * (expected["l2"] - expected["lower_bound"]), allowed))
    # Of floats the bound is rounded when it has been compared.
    assert np.all((gap <= allowed) == out["certified"]) or dtype == np.float32
    assert np.all(out["n_steps"] >= 1)


@every_noise_std
@every_noise
@pytest.mark.parametrize(
    ("shape", "n", "sum_rule"),
    [((6, 17, 2), 7, False), ((4, 33, 0), 9, False), ((2, 40, 12), 5, False), ((4, 9, 2), 4, True)],
)
def test_nearest(device, shape, n, sum_rule, noise, noise_std):
    p = _parameters(shape, noise, noise_std)
    X = ref.random_samples(p, n)
    priors, groups = np.log([0.3, 0.7]), np.array([0, shape[0] // 2, shape[0]])
    labels = _classes_of(ref.weighted_log_prob(X, p), groups, priors, sum_rule).argmax(axis=1)
    out, expected, bad = _nearest(device, p, X, X, labels, sum_rule=sum_rule)
    assert bad == n
    there = _classes_of(ref.weighted_log_prob(out["X_adv"], p), groups, priors, sum_rule)
    _check_nearest(out, expected, X, X.dtype, _leaves(there, labels))


@pytest.mark.parametrize("kind", KINDS)
def test_nearest_of_every_type_of_samples(device, kind):
    p = _parameters((6, 33, 2), noise_std=0.1)
    X, same = _samples(p, 10, kind)
    if kind == "uint8":
        p = p._replace(means=10 * p.means + 128, loadings=10 * p.loadings, noise_variance=100 * p.noise_variance)
    priors, groups = np.log([0.3, 0.7]), np.array([0, 3, 6])
    labels = _classes_of(ref.weighted_log_prob(same, p), groups, priors, False).argmax(axis=1)
    out, expected, bad = _nearest(device, p, X, same, labels)
    assert bad == 10
    there = _classes_of(ref.weighted_log_prob(out["X_adv"], p), groups, priors, False)
    _check_nearest(out, expected, same, _precision(kind), _leaves(there, labels))
    # What is returned is a float's bound where the samples are floats.
    assert np.array_equal(out["lower_bound"], out["lower_bound"].astype(_precision(kind)))


@every_noise
def test_nearest_from_more_parts_than_one_and_of_rows_that_are_apart(device, noise):
    """Every warp takes many rows, and what it finds depends on no other."""
    p = _parameters((4, 130, 1), noise, 0.1)
    n = 70 if noise == "spherical" else 20
    X = ref.random_samples(p, n)
    labels = _classes(p, X)
    out, expected, _ = _nearest(device, p, X, X, labels, steps=3)
    assert relative_error(out["l2"], expected["l2"]) <= NEAREST_POINT[X.dtype]
    wide = np.concatenate([X, np.full((n, 3), np.nan)], axis=1)
    part, _, _ = _nearest(device, p, wide[5:9, :130], X[5:9], labels[5:9], steps=3)
    for name in ("l2", "lower_bound", "certified", "n_steps"):
        same = np.array_equal(part[name], out[name][5:9])
        assert same or (device.name == "cuda" and relative_error(part[name], out[name][5:9]) <= NEAREST_POINT[X.dtype])


@pytest.mark.parametrize("noise", ["spherical", "diagonal"])
def test_nearest_where_all_directions_are_the_same(device, noise):
    """The hard case: from the common centre of two spheres, and of two ellipsoids, the gradient is zero."""
    variances = {"spherical": np.ones(5), "diagonal": np.array([1.0, 2.0, 3.0, 4.0, 5.0])}[noise]
    p = ref.Parameters(
        np.array([0.5, 0.5]), np.zeros((2, 5)), np.zeros((2, 0, 5)), np.stack([0.01 * variances, variances])
    )
    X = np.zeros((3, 5))
    X[1, 2], X[2, 4] = 1e-3, 0.05
    labels = np.zeros(3, np.int64)
    out, expected, _ = _nearest(device, p, X, X, labels, priors=(0.5, 0.5))
    there = ref.weighted_log_prob(out["X_adv"], p)
    _check_nearest(out, expected, X, X.dtype, _leaves(there, labels))
    assert np.all(out["certified"])


def test_nearest_takes_the_most_probable_of_many_components(device):
    """Of a class of twelve alike no more than eight enter a bound, which then is a little lower, and true."""
    p = _parameters((14, 6, 1), noise_std=1.0)
    X = ref.random_samples(p, 4)
    groups, priors = np.array([0, 12, 14]), np.log([0.5, 0.5])
    labels = np.zeros(4, np.int64)
    right = _classes_of(ref.weighted_log_prob(X, p), groups, priors, True).argmax(axis=1) == 0
    assert np.sum(right) >= 2
    out, expected, _ = _nearest(device, p, X, X, labels, groups=groups, priors=(0.5, 0.5), sum_rule=True)
    there = _classes_of(ref.weighted_log_prob(out["X_adv"], p), groups, priors, True)
    assert np.all(_leaves(there, labels)[right])
    assert relative_error(out["l2"], expected["l2"]) <= NEAREST_POINT[X.dtype]
    assert np.all(out["lower_bound"] <= expected["lower_bound"] * (1 + NEAREST_SUM_BOUND))
    assert np.all(out["lower_bound"][right] > 0)


def test_nearest_leaves_alone_what_is_wrong_and_says_what_is_never_reached(device):
    p = _parameters((4, 12, 2), noise_std=0.1)
    X = ref.random_samples(p, 6)
    labels = _classes(p, X)
    wrong, _, _ = _nearest(device, p, X, X, 1 - labels)
    assert np.array_equal(wrong["X_adv"], X) and wrong["success"].all() and wrong["certified"].all()
    assert not wrong["l2"].any() and not wrong["lower_bound"].any() and not wrong["n_steps"].any()
    alone = p._replace(weights=np.array([0.5, 0.5, 0.0, 0.0]))
    with np.errstate(divide="ignore"):
        never, expected, _ = _nearest(device, alone, X, X, np.zeros(6, np.int64))
    for name in ("l2", "lower_bound", "success", "certified"):
        assert np.array_equal(never[name], expected[name])
    assert np.all(np.isinf(never["lower_bound"])) and not never["success"].any() and never["certified"].all()


def test_nearest_adds_to_the_rows_that_the_attack_reports(device):
    p = _parameters((4, 12, 2), noise_std=0.1)
    X = ref.random_samples(p, 6)
    labels = _classes(p, X)
    strange = labels.copy()
    strange[4] = 2
    infinite = X.copy()
    infinite[3, 1] = np.inf
    outside = np.full((6, 12), np.nan), np.zeros(6), np.zeros(6, bool), np.zeros(6, np.int64)
    more = {"lower_bound": np.zeros(6), "certified": np.zeros(6, bool), "sources": labels, "targets": labels}
    packed = _core.Model(*p)
    model = device.kernels.Model(packed, **device.launch)
    parts = device.kernels.NearestModel(packed, _core.gram(packed, n_threads=1), **device.launch)
    how = {"groups": np.array([0, 2, 4]), "log_priors": np.log([0.3, 0.7]), "sum_rule": False, "screening": True}
    for rows, own, before, after in (
        (X, strange, 6, 4),
        (infinite, labels, 6, 3),
        (X, strange, 1, 1),
        (X, labels, 6, 6),
    ):
        bad = device.send(np.array([before]))
        device.kernels.nearest(
            model,
            parts,
            device.send(rows),
            labels=device.send(own),
            rtol=1e-6,
            out=tuple(map(device.send, outside)),
            bad_row=bad,
            **{name: device.send(value) for name, value in more.items()},
            **how,
            **device.launch,
        )
        assert int(device.fetch(bad)[0]) == after
    with pytest.raises(ValueError, match="gram must be that of the model"):
        device.kernels.NearestModel(packed, None, **device.launch)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sum_rule", [False, True])
@every_noise_std
@pytest.mark.parametrize(("shape", "n"), [((4, 33, 12), 65), ((20, 256, 3), 65)])
def test_gradient(device, shape, n, noise_std, sum_rule, dtype):
    K, d, _ = shape
    p = _parameters(shape, "diagonal", noise_std)
    X = ref.random_samples(p, n).astype(dtype)
    groups = np.array([0, K // 2, K])
    vectors = np.random.default_rng(0).normal(size=(n, 2))
    vectors[0] = 0.0
    expected = np.empty((n, d), dtype)
    core = _core.Model(*p)
    _core.gradient(core, X, groups, vectors, sum_rule=sum_rule, screening=False, out=expected, n_threads=1)
    out = device.empty((n, d), dtype)
    how = {"sum_rule": sum_rule, "screening": True, "out": out, "n_rows": n}
    device.call("gradient", device.model(p), device.send(X), groups, device.send(vectors), **how)
    assert scaled_error(device.fetch(out), expected) <= 100 * np.finfo(dtype).eps / noise_std


def test_gradient_of_more_components_than_are_told_apart_at_once(device):
    # On the CPU that is three of them, so that a test need not have hundreds.
    K = 300 if device.name == "cuda" else 8
    p = _parameters((K, 3, 1))
    p = p._replace(means=0.1 * p.means)
    X, groups, vectors = ref.random_samples(p, 5), np.array([0, K]), np.ones((5, 1))
    shares = ref.responsibilities(X, p)
    assert np.all(np.sum(shares > 1e-12, axis=1) > (255 if device.name == "cuda" else 3))
    out = device.empty((5, 3), np.float64)
    how = {"sum_rule": True, "screening": True, "out": out, "n_rows": 5}
    device.call("gradient", device.model(p), device.send(X), groups, device.send(vectors), **how)
    components = [ref.Component(p, k) for k in range(K)]
    expected = -sum(shares[:, k, None] * c.precision_product(X - c.mean) for k, c in enumerate(components))
    assert scaled_error(device.fetch(out), expected) <= 1e-10


def test_arguments_that_do_not_fit_are_named(device):
    p = _parameters((3, 20, 2))
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


def test_no_rows(device):
    p = _parameters((3, 20, 2))
    for dtype in (np.float32, np.float64):
        out = _reduce(device, device.model(p), np.empty((0, 20), dtype), np.array([0, 3]), dtype)
        assert out["log_sum"].shape == (0, 1)
