"""The kernel of the nearest adversarial example against the reference and against the CPU's."""

from itertools import pairwise

import numpy as np
import pytest

import reference as ref
from device_cases import KINDS, classes_of_two, every_noise, every_noise_std, parameters_of, precision_of, samples_of
from mfa_fast import _core
from tolerances import ATTACK, LOG_DENSITY, NEAREST_POINT, NEAREST_SUM_BOUND, relative_error


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
    labels = classes_of_two(p, X)
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
    labels = classes_of_two(p, X)
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
    labels = classes_of_two(p, X)
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
