"""The kernels of LD-Grad and of gradients against the reference and against the CPU's."""

from dataclasses import replace

import numpy as np
import pytest

import reference as ref
from device_cases import classes_of_two, every_noise, every_noise_std, gaps_of_two, parameters_of
from mfa_fast import _core
from tolerances import ATTACK, relative_error, scaled_error


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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sum_rule": True},
        {"source": 1, "target": 0},
        {"clip": (-0.5, 0.75), "steps": 2},
        {"clip": (0.25, None), "steps": 2},
        {"clip": (-0.5, 0.75), "steps": 2, "sum_rule": True},
        {"steps": 0},
    ],
    ids=str,
)
@every_noise_std
@pytest.mark.parametrize(("shape", "n"), [((4, 33, 12), 65), ((20, 256, 3), 21)])
def test_ld_grad(device, shape, n, noise_std, options, dtype):
    p = parameters_of(shape, "spherical", noise_std)
    X = ref.random_samples(p, n).astype(dtype)
    out, expected = _attack(device, p, X, classes_of_two(p, X), dtype, **options)
    tolerance = ATTACK[X.dtype] * max(1.0, float(np.max(expected["l2"])))
    assert np.max(np.abs(out["X_adv"] - expected["X_adv"])) <= tolerance
    assert relative_error(out["l2"], expected["l2"]) <= tolerance
    for name in ("success", "n_steps", "s", "t"):
        assert np.array_equal(out[name], expected[name]), name


@pytest.mark.parametrize("options", [{}, {"sum_rule": True}, {"source": 1, "target": 0}], ids=str)
@pytest.mark.parametrize("noise", ["tied diagonal", "diagonal"])
def test_ld_grad_where_features_differ_in_their_noise(device, noise, options):
    p = parameters_of((4, 33, 12), noise)
    X = ref.random_samples(p, 40)
    out, expected = _attack(device, p, X, classes_of_two(p, X), X.dtype, **options)
    assert scaled_error(out["X_adv"], expected["X_adv"]) <= ATTACK[X.dtype]
    assert relative_error(out["l2"], expected["l2"]) <= ATTACK[X.dtype]
    for name in ("success", "n_steps", "s", "t"):
        assert np.array_equal(out[name], expected[name]), name


@pytest.mark.parametrize("sum_rule", [False, True])
@every_noise
def test_ld_grad_leaves_the_surface_at_the_origin_too(device, noise, sum_rule):
    one = parameters_of((2, 33, 3), noise, 0.1)
    both = {name: np.concatenate([values, values]) for name, values in one._asdict().items()}
    p = one._replace(**both | {"weights": both["weights"] / 2, "means": np.concatenate([one.means, -one.means])})
    X, labels = np.zeros((1, 33)), np.zeros(1, np.int64)
    for result in _attack(device, p, X, labels, X.dtype, log_priors=np.log([0.5, 0.5]), sum_rule=sum_rule):
        assert result["success"].all()
        assert 0.0 < result["l2"][0] <= 1e-9


@pytest.mark.parametrize("noise_std", [(0.1, 0.1), (0.1, 0.3)], ids=str)
@pytest.mark.parametrize("L", [0, 3])
def test_ld_grad_stays_where_the_gradient_is_0(device, L, noise_std):
    # At the mean that both have, where all that the gradient is made of is 0.
    p = parameters_of((2, 33, L))
    p = p._replace(means=np.zeros((2, 33)), noise_variance=np.repeat(np.square(noise_std)[:, None], 33, axis=1))
    X = ref.random_samples(p, 12, stray=0.0)
    X[0] = 0.0
    labels = classes_of_two(p, X)
    out, expected = _attack(device, p, X, labels, X.dtype)
    assert out["n_steps"][0] == 0 and np.array_equal(out["X_adv"][0], X[0])
    for name in ("success", "n_steps", "s", "t"):
        assert np.array_equal(out[name], expected[name]), name


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ld_grad_of_a_row_does_not_depend_on_how_many_there_are(device, dtype):
    p, X = _far_clusters(1e1, 40)
    X = X.astype(dtype)
    labels = classes_of_two(p, X)
    together, _ = _attack(device, p, X, labels, dtype)
    for rows in (slice(1), slice(1, 8), slice(8, 40)):
        apart, _ = _attack(device, p, X[rows], labels[rows], dtype)
        for name in ("X_adv", "l2", "success", "n_steps", "s", "t"):
            assert np.array_equal(apart[name], together[name][rows]), name


def test_ld_grad_takes_no_more_memory_for_inner_products_than_for_rows(device):
    # So many parameters of one feature have few flops' worth of inner products, but gigabytes of them.
    K, L, allocate_there = 240, 99, device.launch["allocate"]

    def allocate(n_bytes):
        assert n_bytes <= 3 << 30
        return allocate_there(n_bytes)

    device = replace(device, launch=device.launch | {"allocate": allocate})
    p = ref.Parameters(np.full(K, 1 / K), np.linspace(-1, 1, K)[:, None], np.zeros((K, L, 1)), np.ones((K, 1)))
    X = np.array([[-0.5]])
    out, expected = _attack(device, p, X, np.zeros(1, np.int64), X.dtype, steps=1)
    assert np.array_equal(out["success"], expected["success"])
    assert relative_error(out["l2"], expected["l2"]) <= ATTACK[X.dtype]


def test_ld_grad_from_a_component_that_only_the_rows_own_class_has(device):
    p = parameters_of((4, 33, 3), "spherical", 1.0)
    X = ref.random_samples(p, 50)
    options = {"groups": np.array([0, 1, 4]), "source": 2, "target": 0, "steps": 1}
    out, expected = _attack(device, p, X, np.ones(len(X), np.int64), np.float64, **options)
    assert (expected["s"] == 2).any()
    for name in ("success", "n_steps", "s", "t"):
        assert np.array_equal(out[name], expected[name]), name
    assert relative_error(out["l2"], expected["l2"]) <= ATTACK[X.dtype]


def _far_clusters(far, n):
    """Clusters far from their common centre, each with components of both classes, and of different noise; and rows."""
    rng = np.random.default_rng(2)
    K, d, L = 36, 300, 3
    space = rng.normal(size=(6, d)) / np.sqrt(d)
    axis = rng.normal(size=d)
    side = np.tile(np.linspace(-far, far, 6), 6)
    means = side[:, None] * axis / np.linalg.norm(axis) + rng.normal(size=(K, 6)) @ space
    noise = np.repeat(rng.uniform(0.03, 0.3, (K, 1)) ** 2, d, axis=1)
    p = ref.Parameters(np.full(K, 1 / K), means, 0.5 * rng.normal(size=(K, L, 6)) @ space, noise)
    return p, ref.random_samples(p, n, stray=0.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", [{}, {"sum_rule": True}, {"source": 1, "target": 0}], ids=str)
@pytest.mark.parametrize("far", [1e1, 1e3])
def test_ld_grad_counts_what_coordinates_that_moved_along_are_off_by(device, far, options, dtype):
    # A part of what halves have moved a row's coordinates by comes back in every step. That is ten thousand times what
    # the CPU's are off by, and must lead to the same components and as far.
    p, X = _far_clusters(far, 40)
    X = X.astype(dtype)
    assert device.model(p).n_directions > 0
    out, expected = _attack(device, p, X, classes_of_two(p, X), dtype, **options)
    assert np.all(expected["n_steps"] >= 1) and np.any(expected["n_steps"] > 1)
    for name in ("success", "n_steps", "s", "t"):
        assert np.array_equal(out[name], expected[name]), name
    rounding = 4 * np.finfo(dtype).eps * np.linalg.norm(X, axis=1)
    assert np.all(np.abs(out["l2"] - expected["l2"]) <= ATTACK[X.dtype] * expected["l2"] + rounding)


@pytest.mark.parametrize("clip", [(None, None), (-1e70, 1e70)])
def test_ld_grad_from_rows_that_are_longer_than_a_float(device, clip):
    p, X = _far_clusters(1e1, 12)
    X[3] *= 1e40
    X[5, 7] = -1e60
    assert device.model(p).n_directions > 0
    out, expected = _attack(device, p, X, classes_of_two(p, X), X.dtype, clip=clip)
    for name in ("success", "n_steps", "s", "t"):
        assert np.array_equal(out[name], expected[name]), name
    assert relative_error(out["l2"], expected["l2"]) <= ATTACK[X.dtype]


@pytest.mark.parametrize("clip", [(0.0, None), (None, 0.0), (0.0, 0.1)])
def test_ld_grad_makes_the_coordinates_of_clipped_rows_anew(device, clip):
    p, X = _far_clusters(1e1, 12)
    assert device.model(p).n_directions > 0
    out, expected = _attack(device, p, X, classes_of_two(p, X), X.dtype, clip=clip)
    assert np.any(expected["n_steps"] > 1)
    assert scaled_error(out["X_adv"], expected["X_adv"]) <= ATTACK[X.dtype]


@pytest.mark.parametrize("options", [{"source": 1, "target": 0}, {"source": 0, "target": 1}], ids=str)
def test_ld_grad_between_components_of_which_one_has_no_weight(device, options):
    p = parameters_of((4, 33, 3))._replace(weights=np.array([0.4, 0.0, 0.6, 0.0]))
    X = ref.random_samples(p, 20, stray=0.0)
    with np.errstate(divide="ignore"):
        out, expected = _attack(device, p, X, classes_of_two(p, X), X.dtype, **options)
    for name in ("success", "n_steps", "s", "t"):
        assert np.array_equal(out[name], expected[name]), name
    assert scaled_error(out["X_adv"], expected["X_adv"]) <= ATTACK[X.dtype]


def test_ld_grad_knows_the_class_of_what_is_next_to_the_surface(device):
    # Classes in one subspace, apart by no more than the noise. A score of some tens is the difference of numbers of 1e6
    # there, and right to some 1e-10 before it is refined.
    p = parameters_of((4, 33, 4), noise_std=1e-3)
    means = p.means[0] + 1e-3 * np.random.default_rng(0).normal(size=p.means.shape)
    p = p._replace(means=means, loadings=np.repeat(p.loadings[:1], 4, axis=0))
    X = ref.random_samples(p, 40, stray=0.0)
    labels = classes_of_two(p, X)
    found, _ = _attack(device, p, X, labels, X.dtype)
    hit = found["success"]
    labels, inside, outside = labels[hit], X[hit], found["X_adv"][hit]
    for _ in range(35):  # to a gap of some 1e-11
        middle = (inside + outside) / 2
        leaves = (classes_of_two(p, middle) != labels)[:, None]
        inside, outside = np.where(leaves, inside, middle), np.where(leaves, middle, outside)
    near = np.concatenate([inside, outside])
    # What double can tell at all, of scores that add up some tens of terms.
    near = near[np.abs(gaps_of_two(p, near)) > 64 * np.finfo(float).eps * np.abs(ref.score_samples(near, p))]
    out, _ = _attack(device, p, near, classes_of_two(p, near), X.dtype, steps=0)
    assert len(near) > 40
    assert not out["success"].any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sum_rule", [False, True])
@pytest.mark.parametrize(("shape", "noise_std"), [((4, 64, 3), 0.1), ((8, 784, 6), 1e-3)])
def test_ld_grad_stays_where_the_nearest_rival_is_the_component_itself(device, shape, noise_std, sum_rule, dtype):
    p = parameters_of(shape, noise_std=noise_std)
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


@pytest.mark.parametrize("apart", [1.0, 1e-3, 1e-7])
@pytest.mark.parametrize("noise_std", [(0.1, 0.1), (0.1, 0.3)], ids=str)
def test_ld_grad_between_components_that_are_nearly_the_same(device, noise_std, apart):
    # So many rows are moved by lengths made of inner products, which lose as many digits as the components share, and
    # where these are too many by the features.
    p = parameters_of((4, 64, 3))
    other = parameters_of((4, 64, 3), seed=1)
    means, loadings = (a[[0, 1, 0, 1]] + apart * b for a, b in ((p.means, other.means), (p.loadings, other.loadings)))
    noise = np.repeat(np.square(noise_std), 2 * 64).reshape(4, 64)
    p = ref.Parameters(p.weights, means, loadings, noise)
    X = ref.random_samples(p, 300, stray=0.0)
    out, expected = _attack(device, p, X, classes_of_two(p, X), X.dtype, steps=1)
    assert np.array_equal(out["n_steps"], expected["n_steps"])
    # The gap between what is the same in seven digits is known to four (docs/theory.md, section 3).
    assert relative_error(out["l2"], expected["l2"]) <= (1e-4 if apart == 1e-7 else ATTACK[X.dtype])


def _bad_row_of_attack(device, p, X, labels):
    n, d = X.shape
    shapes = [((n, d), np.float64), (n, np.float64), (n, bool), (n, np.int64)]
    known = {"labels": device.send(labels), "out": tuple(device.empty(*of) for of in shapes)}
    pairs = {"sources": device.empty(n, np.int64), "targets": device.empty(n, np.int64)}
    how = {"sum_rule": False, "screening": True, "steps": 3, "overshoot": 1e-6, "clip": (None, None)}
    K = len(p.weights)
    groups = {"groups": np.array([0, K // 2, K]), "log_priors": np.zeros(2), "source": None, "target": None}
    return device.bad_row("ld_grad", device.model(p), device.send(X), **known, **pairs, **how, **groups)


@pytest.mark.parametrize("stray", [2, -1])
def test_ld_grad_reports_a_label_of_no_class(device, stray):
    p = parameters_of((4, 10, 1))
    X, labels = ref.random_samples(p, 5), np.array([0, 1, 0, stray, stray])
    assert _bad_row_of_attack(device, p, X, labels) == 3


@pytest.mark.parametrize(("noise_std", "screened"), [(1.0, False), (0.1, True)])
def test_ld_grad_reports_rows_of_later_parts(device, noise_std, screened):
    p = parameters_of((20, 256, 3), noise_std=noise_std)
    assert (device.model(p).n_directions > 0) == screened
    X, labels = ref.random_samples(p, 140), np.zeros(140, np.int64)
    labels[135] = 2
    assert _bad_row_of_attack(device, p, X, labels) == 135
    X[131, 7] = np.inf  # of which no score is made that would be reported
    assert _bad_row_of_attack(device, p, X, labels) == 131


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sum_rule", [False, True])
@every_noise_std
@pytest.mark.parametrize(("shape", "n"), [((4, 33, 12), 65), ((20, 256, 3), 65)])
def test_gradient(device, shape, n, noise_std, sum_rule, dtype):
    K, d, _ = shape
    p = parameters_of(shape, "diagonal", noise_std)
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
    p = parameters_of((K, 3, 1))
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


def test_a_gradient_out_of_range_is_reported(device):
    p = parameters_of((4, 33, 2), noise_std=1e-2)
    X = ref.random_samples(p, 200).astype(np.float32)
    vectors = np.ones((200, 2))
    vectors[3, 0], vectors[[187, 189]] = np.inf, 1e38  # of the first one nothing else was asked
    how = {"sum_rule": False, "screening": True, "out": device.empty(X.shape, np.float32)}
    rows = (device.send(X), np.array([0, 2, 4]), device.send(vectors))
    assert device.bad_row("gradient", device.model(p), *rows, **how) == 187
