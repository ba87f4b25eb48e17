"""The nearest adversarial example, its certificate, and the cases in which neither is a matter of course."""

import mpmath
import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

import reference as ref
from attack_cases import problem
from fits import quietly
from mfa_fast import MFA, MFAClassifier
from mfa_fast.attacks import ld_grad, nearest
from models import classifier_of, mixtures_of
from tolerances import ATTACK, NEAREST_ROUNDING, scaled_error

rules = pytest.mark.parametrize("rule", ["max", "sum"])
classes = pytest.mark.parametrize("n_classes", [2, 3])
noise_types = pytest.mark.parametrize("noise_type", ["spherical", "diag"])


def _single(mean, loadings, noise_variance, weights=(1.0,)):
    means = np.atleast_2d(np.asarray(mean, dtype=float))
    return ref.Parameters(
        np.asarray(weights),
        means,
        np.asarray(loadings, dtype=float).reshape(len(means), -1, means.shape[1]),
        np.broadcast_to(noise_variance, means.shape).astype(float),
    )


def _gap(result):
    return (result.l2 - result.lower_bound) / result.l2


@rules
@classes
@noise_types
@pytest.mark.parametrize("noise_std", [1.0, 0.1, 1e-3])
def test_every_point_flips_and_bounds_are_in_order(rule, n_classes, noise_type, noise_std, dtype):
    mixtures, priors, X, _ = problem(n_classes, noise_std=noise_std, noise_type=noise_type)
    X = X.astype(dtype)
    own = np.argmax(ref.class_scores(X, mixtures, priors, rule), axis=1)
    model = classifier_of(mixtures, priors, rule)
    result, attack = nearest(model, X), ld_grad(model, X, steps=50)
    assert result.X_adv.dtype == result.l2.dtype == result.lower_bound.dtype == dtype
    assert result.success.all()
    assert np.all(np.argmax(ref.class_scores(result.X_adv, mixtures, priors, rule), axis=1) != own)
    assert np.all(model.predict(result.X_adv) != model.predict(X))
    expected = np.linalg.norm(result.X_adv.astype(np.float64) - X.astype(np.float64), axis=1)
    assert scaled_error(result.l2.astype(np.float64), expected) <= ATTACK[X.dtype]
    assert np.all(result.lower_bound <= result.l2)
    assert np.all(result.l2 <= np.where(attack.success, attack.l2, np.inf))
    assert result.l2.mean() < 0.99 * attack.l2.mean()


@classes
@noise_types
@pytest.mark.parametrize("noise_std", [0.1, 1e-3])
def test_the_maximum_rule_is_certified(n_classes, noise_type, noise_std, isa):
    mixtures, priors, X, _ = problem(n_classes, noise_std=noise_std, noise_type=noise_type)
    result = nearest(classifier_of(mixtures, priors), X)
    assert np.all(result.certified)
    assert np.all(_gap(result) <= 1e-6)


def test_certified_means_what_it_says():
    mixtures, priors, X, _ = problem(shape=(4, 6, 2), n=60, n_classes=3)
    for rtol in (1e-8, 1e-6, 1e-1):
        result = nearest(classifier_of(mixtures, priors, "sum"), X, rtol=rtol)
        rounding = 2 * np.finfo(float).eps * np.linalg.norm(X, axis=1)
        assert np.array_equal(result.certified, result.l2 - result.lower_bound <= rtol * result.l2 + rounding)


@rules
def test_overlapping_components_have_a_gap_that_is_stated(rule):
    mixtures, priors, X, _ = problem(noise_std=1.0, shape=(4, 6, 2), n=30)
    result = nearest(classifier_of(mixtures, priors, rule), X)
    assert np.median(_gap(result)) <= (1e-6 if rule == "max" else 0.15)
    assert np.all(_gap(result)[~result.certified] > 1e-6)


@pytest.mark.parametrize("n", [1, 2, 7, 23, 24, 25, 47, 49, 97])
@noise_types
def test_rows_do_not_depend_on_each_other(n, noise_type, dtype):
    mixtures, priors, X, _ = problem(noise_type=noise_type, n=50)
    X = X.astype(dtype)
    model = classifier_of(mixtures, priors)
    whole = nearest(model.set_params(n_threads=1), X)
    part = nearest(model.set_params(n_threads=3), X[:n])
    for name in ("X_adv", "l2", "lower_bound", "certified", "n_steps"):
        assert np.array_equal(getattr(part, name), getattr(whole, name)[:n])


@rules
@classes
@noise_types
def test_what_is_wrong_already_is_left_alone(rule, n_classes, noise_type, dtype):
    mixtures, priors, X, _ = problem(n_classes, noise_std=1.0, noise_type=noise_type)
    X = X.astype(dtype)
    wrong = (np.argmax(ref.class_scores(X, mixtures, priors, rule), axis=1) + 1) % n_classes
    result = nearest(classifier_of(mixtures, priors, rule), X, wrong)
    assert result.success.all()
    assert result.certified.all()
    assert not result.n_steps.any()
    assert not result.l2.any()
    assert not result.lower_bound.any()
    assert np.array_equal(result.X_adv, X)
    assert result.summary()["accuracy"] == 0


# Cases that are known in closed form.


@rules
@pytest.mark.parametrize("noise", [0.25, np.array([0.1, 0.5, 0.2])], ids=["spherical", "diagonal"])
@pytest.mark.parametrize("n_factors", [0, 1])
def test_equal_covariances_make_a_plane(rule, noise, n_factors):
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(n_factors, 3))
    mixtures = [_single(mean, loadings, noise) for mean in ([0, 0, 0], [1, 2, -1])]
    X = rng.normal(size=(20, 3))
    model = classifier_of(mixtures, [0.3, 0.7], rule)
    normal = np.linalg.solve(ref.covariance(mixtures[0], 0), mixtures[1].means[0] - mixtures[0].means[0])
    distance = np.abs(ref.decision_function(X, mixtures, [0.3, 0.7])) / np.linalg.norm(normal)
    result = nearest(model, X)
    assert result.certified.all()
    assert scaled_error(result.l2, distance.astype(float)) <= 1e-8


@rules
@pytest.mark.parametrize("d", [1, 2, 3, 8])
def test_the_hard_case_of_concentric_spheres(rule, d):
    """From the common centre all directions are the same, and the gradient is zero."""
    variances = 0.01, 1.0
    mixtures = [_single(np.zeros(d), np.zeros((0, d)), v) for v in variances]
    radius = np.sqrt(d * np.log(variances[1] / variances[0]) / (1 / variances[0] - 1 / variances[1]))
    X = np.zeros((2, d))
    X[1, 0] = 0.3 * radius
    result = nearest(classifier_of(mixtures, [0.5, 0.5], rule), X)
    assert result.success.all()
    assert result.certified.all()
    assert result.l2 == pytest.approx([radius, 0.7 * radius], rel=1e-6)


@pytest.mark.parametrize(("shape", "row"), [((6, 17, 2), 3), ((2, 40, 12), 2)])
def test_next_to_the_hard_case_rounding_is_no_gap(shape, row):
    """Where 1 + lam theta all but vanishes for a pair, its set is solved without eigenvectors."""
    p, half = ref.random_parameters(*shape, noise_std=1e-3), shape[0] // 2
    parts = [ref.Parameters(*(a[rows] for a in p)) for rows in (slice(half), slice(half, None))]
    shares = np.array([part.weights.sum() for part in parts])
    mixtures = [part._replace(weights=part.weights / share) for part, share in zip(parts, shares, strict=True)]
    priors = shares * [0.3, 0.7] / np.sum(shares * [0.3, 0.7])
    X = ref.random_samples(p, 7 if row == 3 else 5)[[row]]
    result = nearest(classifier_of(mixtures, priors), X)
    assert result.certified.all() and np.all(_gap(result) <= 1e-7)


def test_the_hard_case_within_the_subspaces():
    """Concentric ellipses: the nearest points lie along an axis that the gradient has no part in."""
    mixtures = [_single(np.zeros(3), [[2.0, 0, 0]], 0.1), _single(np.zeros(3), [[0, 2.0, 0]], 0.1)]
    X = np.array([[0.5, 0.0, 0.0], [1.0, 0.0, 0.2]])
    result = nearest(classifier_of(mixtures), X)
    # The surface is |x_1| = |x_2|, and from (a, 0) nearest at (a, a) / 2, where the gradient does not point to.
    assert result.certified.all()
    assert result.l2 == pytest.approx(X[:, 0] / np.sqrt(2), rel=1e-6)


@noise_types
def test_diagonal_noise_that_is_negative_off_the_low_rank_part(noise_type):
    """One pixel of little noise in one component only: the diagonal of the dual's matrix turns negative there."""
    noise = [np.array([1e-3, 1.0, 1.0, 1.0]), np.array([1.0, 1.0, 1.0, 1.0])]
    mixtures = [_single(np.zeros(4), [[3.0, 0, 0, 0]], noise[0]), _single([0, 2.0, 0, 0], [[0, 0, 1.0, 0]], noise[1])]
    if noise_type == "spherical":
        mixtures = [m._replace(noise_variance=np.full((1, 4), v)) for m, v in zip(mixtures, (0.01, 1.0), strict=True)]
    X = ref.random_samples(mixtures[0], 10, seed=0, stray=0)
    result = nearest(classifier_of(mixtures), X)
    assert result.certified.all()


def test_the_dual_falls_short_and_the_point_is_found_along_a_ray():
    """Of the bounds' point one component is in the way, and on the line through it the other class comes much later."""
    mixtures = [
        _single([[-1.889, 0.541], [0.749, -0.812]], [[[0.562, -0.756]], [[0.49, -0.792]]], 0.01, [0.438, 0.562]),
        _single(
            [[-0.74, 0.131], [-0.685, -0.71], [-0.604, -0.964], [0.236, 0.245], [0.195, -0.686]],
            [[[1.236, 0.222]], [[0.316, 0.458]], [[-0.441, -1.199]], [[0.939, 0.13]], [[1.077, 2.225]]],
            0.01,
            [0.034, 0.204, 0.41, 0.094, 0.258],
        ),
        _single([[1.038, -0.322], [-0.753, -0.194]], [[[0.349, -0.385]], [[0.747, 0.271]]], 0.01, [0.037, 0.963]),
    ]
    result = nearest(classifier_of(mixtures), np.array([[-0.673, -0.868]]))
    assert not result.certified[0]
    assert result.lower_bound[0] <= result.l2[0] <= 0.2576  # where a point of the first class is known


@noise_types
@pytest.mark.parametrize(("variance", "apart"), [(1e-6, 1e-3), (1e-10, 1e-4), (1e-14, 1e-6)])
def test_nothing_within_the_bound_flips_where_loadings_are_nearly_parallel(variance, apart, noise_type):
    rng = np.random.default_rng(0)
    means, loadings = rng.normal(size=(2, 5)), rng.normal(size=(2, 2, 5))
    loadings[:, 1] = loadings[:, 0] + apart * loadings[:, 1]
    noise = variance * (np.exp(2 * rng.normal(size=(2, 5))) if noise_type == "diag" else np.ones((2, 5)))
    model = classifier_of([_single(m, a, v) for m, a, v in zip(means, loadings, noise, strict=True)])
    X = np.concatenate([m.sample(20, random_state=1)[0] for m in model.mixtures_])
    result = nearest(model, X, rtol=1e-5)
    assert np.all(result.certified)
    within = X + (result.X_adv - X) * (result.lower_bound / result.l2 * (1 - 1e-14))[:, None]
    assert np.array_equal(model.predict(within), model.predict(X))


@noise_types
@pytest.mark.parametrize("apart", [1e-3, 1e-6, 1e-9, 1e-12])
@pytest.mark.parametrize("n_factors", [0, 1])
def test_no_bound_is_beyond_the_plane_between_classes_that_are_nearly_the_same(n_factors, apart, noise_type):
    d, long = 6, np.longdouble
    for seed in range(5):
        p = ref.random_parameters(1, d, n_factors, noise_type=noise_type, seed=seed)
        rng = np.random.default_rng(seed)
        q = p._replace(means=p.means + apart * rng.normal(size=(1, d)))
        classifier = classifier_of([p, q], [0.5 + 10 * apart / (1 + 40 * apart), 0.5 - 10 * apart / (1 + 40 * apart)])
        x = p.means + 1e-2 * rng.normal(size=(1, d))
        own, other = (p, q) if classifier.predict(x)[0] == 0 else (q, p)
        # Of equal covariances the gap is linear.
        A, D = p.loadings[0].astype(long), p.noise_variance[0].astype(long)
        moved = other.means[0].astype(long) - own.means[0]
        weighted = moved / D
        if n_factors:
            weighted -= A[0] / D * (A[0] @ weighted) / (1 + A[0] @ (A[0] / D))
        priors = classifier.log_priors().astype(long)
        middle = (other.means[0].astype(long) + own.means[0]) / 2
        gap = (priors[0] - priors[1]) * (1 if own is p else -1) - weighted @ (x[0] - middle)
        distance = gap / np.sqrt(weighted @ weighted)
        result = nearest(classifier, x)
        assert result.lower_bound[0] <= distance * (1 + NEAREST_ROUNDING)


def _distance_to_quadric(x, own, other, log_odds):
    """How near to x two Gaussians without factors have equal densities, to 60 digits; None if at no multiplier."""
    numbers = (x, own.means[0], other.means[0], own.noise_variance[0], other.noise_variance[0])
    x, mu, nu, D, E = (list(map(mpmath.mpf, each)) for each in numbers)
    curvature = [(1 / e - 1 / d) / 2 for d, e in zip(D, E, strict=True)]
    slope = [(a - n) / e - (a - m) / d for a, m, n, d, e in zip(x, mu, nu, D, E, strict=True)]
    offset = log_odds + sum(mpmath.log(e / d) for d, e in zip(D, E, strict=True)) / 2
    offset += sum((a - n) ** 2 / e - (a - m) ** 2 / d for a, m, n, d, e in zip(x, mu, nu, D, E, strict=True)) / 2

    def step(multiplier):
        return [-multiplier * b / (1 + multiplier * c) / 2 for b, c in zip(slope, curvature, strict=True)]

    def gap(multiplier):
        return offset + sum((b + c * y) * y for b, c, y in zip(slope, curvature, step(multiplier), strict=True))

    # Up to where the Lagrangian has a least value; its gap falls all the way.
    low, high = mpmath.mpf(0), -(1 - mpmath.mpf(10) ** -40) / min(curvature)
    if gap(high) > 0:
        return None
    for _ in range(300):
        middle = (low + high) / 2
        low, high = (middle, high) if gap(middle) > 0 else (low, middle)
    return float(mpmath.norm(step(high)))


@pytest.mark.parametrize("apart", [1e-3, 1e-6, 1e-9, 1e-12])
def test_no_bound_is_beyond_the_surface_between_noises_that_are_nearly_the_same(apart):
    found = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        means = rng.normal(size=6) + apart * rng.normal(size=(2, 6))
        noise = np.exp(rng.normal(size=6)) * (1 + apart * rng.normal(size=(2, 6)))
        mixtures = [_single(mean, [], variance) for mean, variance in zip(means, noise, strict=True)]
        classifier = classifier_of(mixtures, [0.5 + apart, 0.5 - apart])
        x = means[:1] + rng.normal(size=(1, 6))
        own = int(classifier.predict(x)[0])
        priors = classifier.log_priors()
        with mpmath.workdps(60):
            log_odds = mpmath.mpf(priors[own]) - mpmath.mpf(priors[1 - own])
            distance = _distance_to_quadric(x[0], mixtures[own], mixtures[1 - own], log_odds)
        if distance is not None:
            found += 1
            assert nearest(classifier, x).lower_bound[0] <= distance
    assert found >= 5


def test_identical_components_and_identical_classes():
    base = ref.random_parameters(3, 5, 2, seed=3)
    X = ref.random_samples(base, 10, seed=0, stray=0)
    same = nearest(classifier_of([base, base], [0.6, 0.4]), X, np.zeros(10, int))
    assert not same.success.any()  # the first class is ahead by its prior, everywhere
    assert np.all(np.isinf(same.l2))
    assert np.all(same.lower_bound > 0)  # a bound, though not the infinite one that would be right
    # A component that both classes have, at the same place, beside others that tell them apart.
    other = ref.random_parameters(3, 5, 2, seed=4)
    shared = [
        ref.Parameters(*(np.concatenate([a[:1], b[1:]]) for a, b in zip(base, m, strict=True))) for m in (base, other)
    ]
    shared = [m._replace(weights=m.weights / m.weights.sum()) for m in shared]
    model = classifier_of(shared, [0.6, 0.4])
    result = nearest(model, X)
    assert np.all(result.lower_bound <= result.l2)
    assert np.mean(result.certified) >= 0.9


def test_a_bound_beyond_float32_is_its_largest_number():
    wide, narrow = (_single(np.zeros(2), [], variance) for variance in (2.0, 1.0))
    model, X = classifier_of([wide, narrow], [0.9, 0.1]), np.ones((2, 2))
    result = nearest(model, X)
    assert not result.success.any()
    assert np.all(result.lower_bound > np.finfo(np.float32).max)
    rounded = nearest(model, X.astype(np.float32))
    assert np.array_equal(rounded.lower_bound, [np.finfo(np.float32).max] * 2)


def test_float32_rounds_points_around_the_origin_too(dtype):
    """There |x| says nothing of what rounding does to a point."""
    X = np.zeros((1, 1), dtype)
    mixtures = [
        _single([[-1.66], [-1.64], [0.4]], [[], [], []], np.square([[0.07], [0.02], [0.04]]), [1 / 3] * 3),
        _single([[-1.17], [0.24], [1.48]], [[], [], []], np.square([[0.06], [0.03], [0.1]]), [1 / 3] * 3),
    ]
    assert nearest(classifier_of(mixtures), X).l2 == pytest.approx(0.310720625, rel=1e-6)
    plane = classifier_of([_single([-1.0], [], 0.01), _single([0.7], [], 0.01)])
    result = nearest(plane, X, rtol=1e-9)
    assert result.l2 == pytest.approx(0.15)
    assert result.certified.all()


def test_components_without_weight_do_not_take_part():
    mixtures, priors, X, _ = problem()
    near = [
        ref.Parameters(
            np.append(m.weights, 0.0),
            np.vstack([m.means, X[:1] + 0.01]),
            np.concatenate([m.loadings, m.loadings[:1]]),
            np.vstack([m.noise_variance, m.noise_variance[:1]]),
        )
        for m in mixtures
    ]
    plain, result = nearest(classifier_of(mixtures, priors), X), nearest(classifier_of(near, priors), X)
    assert result.certified.all()
    assert result.l2 == pytest.approx(plain.l2, rel=1e-6)


@rules
def test_a_class_that_is_never_reached(rule):
    mixtures, _, X, _ = problem()
    result = nearest(classifier_of(mixtures, [1.0, 0.0], rule), X)
    assert not result.success.any()
    assert np.all(np.isinf(result.lower_bound))
    assert np.all(np.isinf(result.l2))
    assert result.certified.all()
    assert np.array_equal(result.X_adv, X)
    assert result.summary()["success_rate"] == 0
    assert np.all(result.certified_curve([0.0, 1e9]) == 1)


@noise_types
def test_without_factors(noise_type):
    mixtures, priors, X, _ = problem(shape=(3, 4, 0), noise_type=noise_type)
    assert np.all(nearest(classifier_of(mixtures, priors), X).certified)


def test_outliers_of_wide_noise():
    """The asymmetric classifier: components of noise 0.01 and 0.5 side by side."""
    mixtures, priors, X, _ = problem(noise_std=0.01, shape=(3, 60, 2), n=30)
    model = classifier_of(mixtures, priors).asymmetric(X, component=5, base_noise_std=0.01)
    X, y = model.sample(100, random_state=0)
    result, attack = nearest(model, X, y), ld_grad(model, X, y, steps=50)
    assert np.mean(result.certified) >= 0.99
    assert np.all(result.l2 <= np.where(attack.success, attack.l2, np.inf))


def test_other_dtypes_and_layouts():
    mixtures, priors, X, _ = problem(noise_std=1.0)
    model = classifier_of(mixtures, priors)
    X = np.round(X * 10)
    expected = nearest(model, X)
    assert np.array_equal(nearest(model, np.asfortranarray(X)).X_adv, expected.X_adv)
    assert np.array_equal(nearest(model, X.astype(np.int16)).X_adv, expected.X_adv)


def test_source_and_target_meet_at_the_point():
    mixtures, priors, X, _ = problem(n_classes=2)
    result = nearest(classifier_of(mixtures, priors), X)
    joint = [ref.weighted_log_prob(result.X_adv, m) + np.log(p) for m, p in zip(mixtures, priors, strict=True)]
    own = np.argmax(ref.class_scores(X, mixtures, priors), axis=1)
    for i in range(len(X)):
        source, target = joint[own[i]][i, result.source[i]], joint[1 - own[i]][i, result.target[i]]
        assert abs(source - target) <= 1e-4 * abs(source)
        assert target == joint[1 - own[i]][i].max()


def test_labels_of_any_kind():
    mixtures, priors, X, _ = problem()
    names = np.array(["ant", "bee"])
    model = classifier_of(mixtures, priors, classes=names)
    assert np.array_equal(nearest(model, X).X_adv, nearest(classifier_of(mixtures, priors), X).X_adv)


def test_curves_of_bound_and_distance():
    mixtures, priors, X, _ = problem(n_classes=3, noise_std=1.0)
    y = np.zeros(len(X), int)
    result = nearest(classifier_of(mixtures, priors, "sum"), X, y)
    radii = np.linspace(0, 3, 50)
    certain, left = result.certified_curve(radii), result.security_curve(radii)
    assert np.all(certain <= left)
    right = result.n_steps > 0
    assert not right.all()
    assert certain == pytest.approx([np.mean(right & (result.lower_bound > r)) for r in radii])
    summary = result.summary()
    assert summary["mean_lower_bound"] == pytest.approx(result.lower_bound[right].mean())
    assert summary["certified_rate"] == pytest.approx(result.certified[right].mean())
    unknown = ld_grad(classifier_of(mixtures, priors), X)
    assert not unknown.certified_curve(radii).any()
    assert np.isnan(unknown.summary()["mean_lower_bound"])


# What is refused.


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"rtol": -1.0}, "rtol"),
        ({"rtol": np.nan}, "rtol"),
        ({"rtol": "small"}, "rtol"),
        ({"steps": -1}, "steps"),
        ({"steps": True}, "steps"),
        ({"n_threads": 0}, "n_threads"),
        ({"y": np.full(30, 5)}, "y"),
        ({"X": np.full((30, 12), np.nan)}, "X"),
        ({"X": np.ones((30, 11))}, "X"),
        ({"model": LogisticRegression()}, "model"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_bad_arguments(arguments, name):
    mixtures, priors, X, _ = problem()
    given = {"model": classifier_of(mixtures, priors), "X": X, **arguments}
    with pytest.raises((ValueError, TypeError), match=rf"\b{name}\b"):
        nearest(given.pop("model"), given.pop("X"), given.pop("y", None), **given)


@rules
@pytest.mark.parametrize("difference", [3.5e-8, 1e-7, 1e-6])
def test_where_rounding_leaves_no_bound_rows_do_not_depend_on_those_before(difference, rule):
    """Loadings that all but depend on each other: lengths are not known in what they span."""
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(1, 2, 6))
    mixtures = [
        MFA.from_parameters([1.0], mean, loadings + difference * rng.normal(size=(1, 2, 6)) * c, 1e-2)
        for c, mean in enumerate(rng.normal(size=(2, 1, 6)))
    ]
    model = MFAClassifier.from_mixtures(mixtures, rule=rule)
    X, y = model.sample(40, random_state=0)
    together = nearest(model, X, y)
    assert np.all(together.lower_bound <= together.l2)
    order = rng.permutation(40)
    shuffled = nearest(model, X[order], y[order])
    np.testing.assert_array_equal(shuffled.lower_bound, together.lower_bound[order])
    np.testing.assert_array_equal(shuffled.X_adv, together.X_adv[order])


@pytest.mark.parametrize("model", [MFAClassifier(), SVC(), make_pipeline(StandardScaler(), LinearSVC())])
def test_unfitted_models(model):
    with pytest.raises(NotFittedError):
        nearest(model, np.ones((2, 3)))


# Real images.


@pytest.fixture(scope="module", params=[(0, 6), (2, 7), (4, 5)], ids=["0-6", "2-7", "4-5"])
def symmetric(request, mnist):
    """The symmetric classifier of two digits, at the paper's size."""
    X = mnist["x_train"].reshape(-1, 784) / np.float32(255)
    chosen = [X[mnist["y_train"] == digit] for digit in request.param]
    model = MFAClassifier(25, 6, random_state=0, max_iter=10)
    quietly(model, np.concatenate(chosen), np.repeat(request.param, [len(part) for part in chosen]))
    return model.symmetric(1e-3)


@rules
def test_digits_of_mnist_are_certified(symmetric, rule, dtype):
    model = symmetric.set_params(rule=rule)
    X, y = model.sample(300, random_state=1)
    X = X.astype(dtype)
    result, attack = nearest(model, X, y), ld_grad(model, X, y, steps=50)
    assert result.success.all()
    assert np.mean(result.certified) >= 0.99
    assert result.l2.mean() == pytest.approx(result.lower_bound.mean(), rel=1e-4)
    assert np.all(result.lower_bound <= result.l2)
    assert np.all(result.l2 <= attack.l2)
    assert 1.03 <= attack.l2.mean() / result.l2.mean() <= 1.08
    # Long double takes its time: some of them.
    few = slice(0, 8)
    scores = ref.class_scores(result.X_adv[few], mixtures_of(model), model.priors_, rule)
    assert np.all(model.classes_[np.argmax(scores, axis=1)] != y[few])
