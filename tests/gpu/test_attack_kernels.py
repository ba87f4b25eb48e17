"""The kernels of attacks and gradients against the reference and against the CPU's."""

from itertools import pairwise

import numpy as np
import pytest

import reference as ref
from device_cases import KINDS, every_noise, every_noise_std, parameters_of, precision_of, samples_of
from mfa_fast import _core
from tolerances import ATTACK, LOG_DENSITY, NEAREST_POINT, NEAREST_SUM_BOUND, relative_error, scaled_error


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


def _gaps(p, X):
    """By how much the second class is ahead."""
    K = len(p.weights)
    joint = ref.weighted_log_prob(X, p)
    return joint[:, K // 2 :].max(axis=1) + np.log(0.7) - joint[:, : K // 2].max(axis=1) - np.log(0.3)


def _classes(p, X):
    return (_gaps(p, X) > 0).astype(np.int64)


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
    out, expected = _attack(device, p, X, _classes(p, X), dtype, **options)
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
    out, expected = _attack(device, p, X, _classes(p, X), X.dtype, **options)
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
    # A part of what TF32 has moved a row's coordinates by comes back in every step. That is a thousand times what the
    # CPU's are off by, and must lead to the same components and as far.
    p, X = _far_clusters(far, 40)
    X = X.astype(dtype)
    assert device.model(p).n_directions > 0
    out, expected = _attack(device, p, X, _classes(p, X), dtype, **options)
    assert np.all(expected["n_steps"] >= 1) and np.any(expected["n_steps"] > 1)
    for name in ("success", "n_steps", "s", "t"):
        assert np.array_equal(out[name], expected[name]), name
    rounding = 4 * np.finfo(dtype).eps * np.linalg.norm(X, axis=1)
    assert np.all(np.abs(out["l2"] - expected["l2"]) <= ATTACK[X.dtype] * expected["l2"] + rounding)


@pytest.mark.parametrize("clip", [(0.0, None), (None, 0.0), (0.0, 0.1)])
def test_ld_grad_makes_the_coordinates_of_clipped_rows_anew(device, clip):
    p, X = _far_clusters(1e1, 12)
    assert device.model(p).n_directions > 0
    out, expected = _attack(device, p, X, _classes(p, X), X.dtype, clip=clip)
    assert np.any(expected["n_steps"] > 1)
    assert scaled_error(out["X_adv"], expected["X_adv"]) <= ATTACK[X.dtype]


@pytest.mark.parametrize("options", [{"source": 1, "target": 0}, {"source": 0, "target": 1}], ids=str)
def test_ld_grad_between_components_of_which_one_has_no_weight(device, options):
    p = parameters_of((4, 33, 3))._replace(weights=np.array([0.4, 0.0, 0.6, 0.0]))
    X = ref.random_samples(p, 20, stray=0.0)
    with np.errstate(divide="ignore"):
        out, expected = _attack(device, p, X, _classes(p, X), X.dtype, **options)
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
    labels = _classes(p, X)
    found, _ = _attack(device, p, X, labels, X.dtype)
    hit = found["success"]
    labels, inside, outside = labels[hit], X[hit], found["X_adv"][hit]
    for _ in range(35):  # to a gap of some 1e-11
        middle = (inside + outside) / 2
        leaves = (_classes(p, middle) != labels)[:, None]
        inside, outside = np.where(leaves, inside, middle), np.where(leaves, middle, outside)
    near = np.concatenate([inside, outside])
    near = near[np.abs(_gaps(p, near)) > 1e-12]  # what double can tell at all
    out, _ = _attack(device, p, near, _classes(p, near), X.dtype, steps=0)
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
    p = parameters_of(shape, noise, noise_std)
    X = ref.random_samples(p, n)
    priors, groups = np.log([0.3, 0.7]), np.array([0, shape[0] // 2, shape[0]])
    labels = _classes_of(ref.weighted_log_prob(X, p), groups, priors, sum_rule).argmax(axis=1)
    out, expected, bad = _nearest(device, p, X, X, labels, sum_rule=sum_rule)
    assert bad == n
    there = _classes_of(ref.weighted_log_prob(out["X_adv"], p), groups, priors, sum_rule)
    _check_nearest(out, expected, X, X.dtype, _leaves(there, labels))
    for name in ("s", "t"):  # within their classes, which have as many components
        assert np.all((out[name] >= 0) & (out[name] < shape[0] // 2)), name


@pytest.mark.parametrize("kind", KINDS)
def test_nearest_of_every_type_of_samples(device, kind):
    p = parameters_of((6, 33, 2), noise_std=0.1)
    X, same = samples_of(p, 10, kind)
    if kind == "uint8":
        p = p._replace(means=10 * p.means + 128, loadings=10 * p.loadings, noise_variance=100 * p.noise_variance)
    priors, groups = np.log([0.3, 0.7]), np.array([0, 3, 6])
    labels = _classes_of(ref.weighted_log_prob(same, p), groups, priors, False).argmax(axis=1)
    out, expected, bad = _nearest(device, p, X, same, labels)
    assert bad == 10
    there = _classes_of(ref.weighted_log_prob(out["X_adv"], p), groups, priors, False)
    _check_nearest(out, expected, same, precision_of(kind), _leaves(there, labels))
    # What is returned is a float's bound where the samples are floats.
    assert np.array_equal(out["lower_bound"], out["lower_bound"].astype(precision_of(kind)))


@every_noise
def test_nearest_from_more_parts_than_one_and_of_rows_that_are_apart(device, noise):
    """Every warp takes many rows, and what it finds depends on no other."""
    p = parameters_of((4, 130, 1), noise, 0.1)
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
    p = parameters_of((14, 6, 1), noise_std=1.0)
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
    p = parameters_of((4, 12, 2), noise_std=0.1)
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
    p = parameters_of((4, 12, 2), noise_std=0.1)
    X = ref.random_samples(p, 6)
    labels = _classes(p, X)
    strange, negative = labels.copy(), labels.copy()
    strange[4], negative[5] = 2, -1
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
        (X, negative, 6, 5),
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
    another = _core.Model(*p)
    for gram in (None, _core.gram(another, n_threads=1)):
        with pytest.raises(ValueError, match="gram must be that of the model"):
            device.kernels.NearestModel(packed, gram, **device.launch)


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
