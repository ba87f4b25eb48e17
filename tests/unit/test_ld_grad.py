"""LD-Grad on mixtures."""

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

import reference as ref
from attack_cases import assert_success, problem
from fits import quietly
from mfa_fast import MFA, MFAClassifier
from mfa_fast.attacks import ld_grad, nearest
from models import classifier_of
from tolerances import ATTACK, BOUNDARY, relative_error, scaled_error

rules = pytest.mark.parametrize("rule", ["max", "sum"])
classes = pytest.mark.parametrize("n_classes", [2, 3])
noises = pytest.mark.parametrize("noise_std", [1.0, 0.1, 1e-3])


def _classes(X, mixtures, priors, rule="max"):
    return np.argmax(ref.class_scores(X, mixtures, priors, rule), axis=1)


def _assert_distances(result, X):
    """The distances are those of what was returned, not of what was meant."""
    expected = np.linalg.norm(result.X_adv.astype(np.float64) - X.astype(np.float64), axis=1)
    assert scaled_error(result.l2.astype(np.float64), expected) <= ATTACK[X.dtype]


@rules
@classes
@noises
@pytest.mark.parametrize("noise_type", ["spherical", "diag"])
def test_what_is_called_a_success_flips_the_reference(rule, n_classes, noise_std, noise_type, dtype):
    mixtures, priors, X, y = problem(n_classes, noise_std=noise_std, noise_type=noise_type)
    X = X.astype(dtype)
    result = ld_grad(classifier_of(mixtures, priors, rule), X, y, steps=10)
    assert result.X_adv.dtype == result.l2.dtype == result.lower_bound.dtype == dtype
    assert result.X_adv.shape == X.shape
    assert_success(result, y, mixtures, priors, rule)
    assert np.mean(result.success) >= 0.9
    _assert_distances(result, X)
    assert np.all((result.n_steps >= 0) & (result.n_steps <= 10))


@rules
@classes
@noises
@pytest.mark.parametrize("noise_type", ["spherical", "diag"])
def test_agrees_with_the_reference(rule, n_classes, noise_std, noise_type, isa):
    mixtures, priors, X, y = problem(n_classes, noise_std=noise_std, noise_type=noise_type)
    result = ld_grad(classifier_of(mixtures, priors, rule), X, y)
    expected, success, n_steps = ref.ld_grad(X, y, mixtures, priors, rule=rule)
    assert_success(result, y, mixtures, priors, rule)
    assert np.mean(result.success == success) >= 0.95  # at a tie, rounding decides
    assert np.array_equal(result.n_steps, n_steps)
    assert relative_error(result.X_adv, expected) <= ATTACK[X.dtype]


def test_agrees_with_the_reference_in_float32():
    mixtures, priors, X, y = problem(noise_std=1e-3)
    X = X.astype(np.float32)
    result = ld_grad(classifier_of(mixtures, priors), X, y)
    expected, success, _ = ref.ld_grad(X, y, mixtures, priors)
    assert result.success.all()
    assert np.array_equal(result.success, success)
    assert relative_error(result.X_adv, expected) <= ATTACK[X.dtype]


@pytest.mark.parametrize("n", [1, 7, 8, 9, 255, 256, 257])
def test_rows_do_not_depend_on_each_other(n, dtype):
    mixtures, priors, X, y = problem(n=130)
    X = X.astype(dtype)
    model = classifier_of(mixtures, priors)
    whole = ld_grad(model.set_params(n_threads=1), X, y)
    part = ld_grad(model.set_params(n_threads=3), X[:n], y[:n])
    assert np.array_equal(part.X_adv, whole.X_adv[:n])
    assert np.array_equal(part.l2, whole.l2[:n])
    assert np.array_equal(part.n_steps, whole.n_steps[:n])


def test_one_step_ends_at_the_boundary():
    mixtures, priors, X, y = problem(noise_std=1e-3)
    result = ld_grad(classifier_of(mixtures, priors), X, y, steps=10)
    assert result.success.all()
    before = np.abs(ref.decision_function(X, mixtures, priors))
    after = np.abs(ref.decision_function(result.X_adv, mixtures, priors))
    single = result.n_steps == 1
    assert single.any()
    assert np.all(after[single] <= BOUNDARY * before[single])


def test_one_step_may_not_be_enough_and_more_may():
    mixtures, priors, X, y = problem(noise_std=1e-3, n=100)
    rates = [ld_grad(classifier_of(mixtures, priors), X, y, steps=s).success.mean() for s in (1, 3, 10)]
    assert rates[0] < 1
    assert rates == sorted(rates)
    assert rates[-1] == 1


@rules
@classes
def test_without_labels_the_predictions_are_attacked(rule, n_classes):
    mixtures, priors, X, _ = problem(n_classes, noise_std=1.0)
    model = classifier_of(mixtures, priors, rule)
    given, own = ld_grad(model, X, model.predict(X)), ld_grad(model, X)
    assert np.array_equal(given.X_adv, own.X_adv)
    assert np.all(own.n_steps >= 1)


@rules
@classes
def test_what_is_wrong_already_is_left_alone(rule, n_classes, dtype):
    mixtures, priors, X, _ = problem(n_classes, noise_std=1.0)
    X = X.astype(dtype)
    wrong = (_classes(X, mixtures, priors, rule) + 1) % n_classes
    result = ld_grad(classifier_of(mixtures, priors, rule), X, wrong)
    assert result.success.all()
    assert not result.n_steps.any()
    assert not result.l2.any()
    assert np.array_equal(result.X_adv, X)


def test_labels_of_any_kind():
    mixtures, priors, X, y = problem()
    names = np.array(["ant", "bee"])
    plain = ld_grad(classifier_of(mixtures, priors), X, y)
    named = ld_grad(classifier_of(mixtures, priors, classes=names), X, names[y])
    assert np.array_equal(named.X_adv, plain.X_adv)


def test_clip_keeps_within_the_box():
    mixtures, priors, X, y = problem(noise_std=1.0, n=50)
    model, X = classifier_of(mixtures, priors), np.clip(X, -1, 1)
    assert np.abs(ld_grad(model, X, y).X_adv).max() > 1
    clipped = ld_grad(model, X, y, clip=(-1, 1))
    assert np.abs(clipped.X_adv).max() <= 1
    assert_success(clipped, y, mixtures, priors)
    _assert_distances(clipped, X)
    free = ld_grad(model, X, y)
    wide = ld_grad(model, X, y, clip=(free.X_adv.min(), free.X_adv.max()))
    assert np.array_equal(wide.X_adv, free.X_adv)


def test_overshoot_lengthens_the_step():
    mixtures, priors, X, y = problem(noise_std=1.0)
    model = classifier_of(mixtures, priors)
    a, b = (ld_grad(model, X, y, steps=1, overshoot=o) for o in (0.0, 0.5))
    moved = a.l2 > 0
    assert moved.any()
    assert scaled_error(b.l2[moved], 1.5 * a.l2[moved]) <= ATTACK[X.dtype]


def test_a_way_that_is_longer_than_float32_can_say():
    narrow, wide = (
        ref.Parameters(np.ones(1), np.zeros((1, 2)), np.zeros((1, 0, 2)), np.full((1, 2), v)) for v in (1, 4)
    )
    X = np.array([[3e38, 0.0]], np.float32)
    result = ld_grad(classifier_of([narrow, wide]), X, [1], steps=1, overshoot=1.0)
    assert not result.success
    assert result.X_adv[0, 0] == pytest.approx(-3e38)
    assert np.isinf(result.l2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@rules
@noises
@pytest.mark.parametrize("noise_type", ["spherical", "diag"])
@pytest.mark.parametrize("away", [0.0, 1e-12])
def test_a_sample_on_the_surface_leaves_it_at_the_origin_too(away, noise_type, noise_std, rule, dtype):
    one = ref.random_parameters(3, 12, 2, noise_type=noise_type, noise_std=noise_std, seed=0)
    mixtures = [one, one._replace(means=-one.means)]
    model = classifier_of(mixtures, [0.5, 0.5], rule)
    X = np.full((1, 12), away * noise_std, dtype)
    for attack in (ld_grad, nearest):
        result = attack(model, X)
        assert result.success.all(), attack
        assert (model.predict(result.X_adv) != model.predict(X)).all(), attack
        assert 0.0 < result.l2[0] <= 1e-9 * noise_std, attack


def test_rounding_does_not_take_back_a_step_from_the_origin():
    """There |x| says nothing of how far the rounded point is from where the step ends."""
    for seed in range(20):
        means = np.random.default_rng(seed).normal(size=(2, 1, 3))
        model = classifier_of(
            [ref.Parameters(np.ones(1), m, np.zeros((1, 0, 3)), np.full((1, 3), 0.01)) for m in means]
        )
        assert ld_grad(model, np.zeros((1, 3), np.float32), steps=1, overshoot=0.0).success.all()


def test_steps_are_the_same_at_any_scale():
    mixtures, priors, X, y = problem(noise_std=1e-4)
    plain = ld_grad(classifier_of(mixtures, priors), X, y)
    small = 2.0**-230  # where the fourth power of a gradient is out of range
    tiny = [
        ref.Parameters(m.weights, small * m.means, small * m.loadings, small**2 * m.noise_variance) for m in mixtures
    ]
    result = ld_grad(classifier_of(tiny, priors), small * X, y)
    assert result.success.all()
    assert scaled_error(result.X_adv / small, plain.X_adv) <= ATTACK[X.dtype]


def test_source_and_target_are_the_best_components():
    mixtures, priors, X, y = problem(noise_std=1.0)
    result = ld_grad(classifier_of(mixtures, priors), X, y, steps=1)
    moved = result.n_steps == 1
    own = [ref.predict(X, m) for m in mixtures]
    assert np.array_equal(result.source[moved], np.where(y == 0, own[0], own[1])[moved])
    assert np.array_equal(result.target[moved], np.where(y == 0, own[1], own[0])[moved])


def test_other_layouts_and_kinds_of_x():
    mixtures, priors, X, y = problem()
    model = classifier_of(mixtures, priors)
    expected = ld_grad(model, X, y).X_adv
    wide = np.repeat(X, 2, axis=1)
    assert np.array_equal(ld_grad(model, wide[:, ::2], y).X_adv, expected)
    assert np.array_equal(ld_grad(model, np.asfortranarray(X), y).X_adv, expected)
    X.setflags(write=False)
    assert np.array_equal(ld_grad(model, X, y).X_adv, expected)
    pixels = np.abs(10 * X).astype(np.uint8)
    a, b = ld_grad(model, pixels, y), ld_grad(model, pixels.astype(np.float64), y)
    assert a.X_adv.dtype == np.float64
    assert np.array_equal(a.X_adv, b.X_adv)


# What is refused.


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"steps": -1}, "steps"),
        ({"steps": 2**70}, "steps"),
        ({"steps": 1.5}, "steps"),
        ({"overshoot": -1.0}, "overshoot"),
        ({"overshoot": np.nan}, "overshoot"),
        ({"clip": (1, 0)}, "clip"),
        ({"clip": (1, 1)}, "clip"),
        ({"clip": 1.0}, "clip"),
        ({"n_threads": 0}, "n_threads"),
        ({"y": np.full(40, 5)}, "y"),
        ({"y": np.zeros(3)}, "y"),
        ({"X": np.full((40, 12), np.nan)}, "X"),
        ({"X": np.ones((40, 11))}, "X"),
        ({"X": np.ones(12)}, "X"),
        ({"X": np.empty((0, 12))}, "X"),
        ({"model": "model"}, "model"),
        ({"model": LogisticRegression()}, "model"),
        ({"model": MFA.from_parameters(*ref.random_parameters(1, 12, 1))}, "model"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_bad_arguments(arguments, name):
    mixtures, priors, X, y = problem()
    given = {"model": classifier_of(mixtures, priors), "X": X, "y": y, **arguments}
    with pytest.raises((ValueError, TypeError), match=rf"\b{name}\b"):
        ld_grad(given.pop("model"), given.pop("X"), given.pop("y"), **given)


@pytest.mark.parametrize(("name", "label"), [("source", "ant"), ("target", "bee")])
def test_a_component_that_one_class_has_not(name, label):
    mixtures = [ref.random_parameters(k, 12, 2, seed=k) for k in (2, 5)]
    classifier = classifier_of(mixtures, classes=["ant", "bee"])
    X, y = classifier.sample(60, random_state=0)
    with pytest.raises(ValueError, match=f"{name} must be .* got 3: class ant has 2"):
        ld_grad(classifier, X, y, **{name: 3})
    with pytest.raises(ValueError, match=f"{name} must be"):
        ld_grad(classifier, X, y, **{name: 5})
    # Where it is the other class's, which has as many.
    other = y != label
    result = ld_grad(classifier, X[other], y[other], steps=1, **{name: 3})
    moved = result.n_steps == 1
    assert moved.any()
    assert (getattr(result, name)[moved] == 3).all()


@pytest.mark.parametrize(
    "model",
    [MFAClassifier(), SVC(), LinearSVC(), make_pipeline(StandardScaler(), SVC())],
    ids=["MFAClassifier", "SVC", "LinearSVC", "Pipeline"],
)
def test_unfitted_models(model):
    with pytest.raises(NotFittedError):
        ld_grad(model, np.ones((2, 3)))


# Real images.


@pytest.fixture(scope="module")
def digits(mnist):
    """A symmetric classifier of the digits 0 and 6."""
    X = mnist["x_train"].reshape(-1, 784) / np.float32(255)
    keep = [np.flatnonzero(mnist["y_train"] == c)[:1500] for c in (0, 6)]
    model = MFAClassifier(8, 4, tol=1e-1, random_state=0, max_iter=15)
    quietly(model, np.concatenate([X[i] for i in keep]), np.repeat([0, 6], 1500))
    return model.symmetric(1e-3)


def test_digits_of_mnist_all_flip(digits, dtype):
    X, y = digits.sample(200, random_state=0)
    X = X.astype(dtype)
    assert digits.score(X, y) == 1.0
    result = ld_grad(digits, X, y, steps=3)
    assert result.success.all()
    assert np.all(digits.predict(result.X_adv) != y)
    assert 1.5 <= result.l2.mean() <= 4.0
