"""LD-Grad on mixtures and on support vector machines."""

import dataclasses
import warnings

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, StandardScaler
from sklearn.svm import SVC, LinearSVC

import reference as ref
from mfa_fast import MFA, MFAClassifier
from mfa_fast.attacks import AttackResult, ld_grad, nearest
from mfa_fast.datasets import load_digits_pair
from tolerances import ATTACK, BOUNDARY, TIE, relative_error, scaled_error

rules = pytest.mark.parametrize("rule", ["max", "sum"])
classes = pytest.mark.parametrize("n_classes", [2, 3])
noises = pytest.mark.parametrize("noise_std", [1.0, 0.1, 1e-3])


def _problem(n_classes=2, *, noise_std=0.1, noise_type="spherical", shape=(3, 12, 2), n=20):
    """Mixtures, priors, samples of every class and the class of each."""
    mixtures = [
        ref.random_parameters(*shape, noise_type=noise_type, noise_std=noise_std, seed=10 + c) for c in range(n_classes)
    ]
    priors = np.arange(1, n_classes + 1) / np.arange(1, n_classes + 1).sum()
    X = [ref.random_samples(m, n, seed=c, stray=0) for c, m in enumerate(mixtures)]
    return mixtures, priors, np.concatenate(X), np.repeat(np.arange(n_classes), n)


def _classifier(mixtures, priors, rule="max", labels=None):
    models = [MFA.from_parameters(*m) for m in mixtures]
    return MFAClassifier.from_mixtures(models, priors=priors, rule=rule, classes=labels)


def _classes(X, mixtures, priors, rule="max"):
    return np.argmax(ref.class_scores(X, mixtures, priors, rule), axis=1)


def _assert_success(result, y, mixtures, priors, rule="max"):
    """Success is what the reference says, but for scores that tie."""
    scores = ref.class_scores(result.X_adv, mixtures, priors, rule)
    best = np.sort(scores, axis=1)
    tied = best[:, -1] - best[:, -2] <= TIE * np.maximum(1, np.abs(best[:, -1]))
    flipped = np.argmax(scores, axis=1) != y
    assert np.all((result.success == flipped) | tied)


def _assert_distances(result, X):
    """The distances are those of what was returned, not of what was meant."""
    expected = np.linalg.norm(result.X_adv.astype(np.float64) - X.astype(np.float64), axis=1)
    assert scaled_error(result.l2.astype(np.float64), expected) <= ATTACK[X.dtype]


@rules
@classes
@noises
@pytest.mark.parametrize("noise_type", ["spherical", "diag"])
def test_what_is_called_a_success_flips_the_reference(rule, n_classes, noise_std, noise_type, dtype):
    mixtures, priors, X, y = _problem(n_classes, noise_std=noise_std, noise_type=noise_type)
    X = X.astype(dtype)
    result = ld_grad(_classifier(mixtures, priors, rule), X, y, steps=10)
    assert result.X_adv.dtype == result.l2.dtype == result.lower_bound.dtype == dtype
    assert result.X_adv.shape == X.shape
    _assert_success(result, y, mixtures, priors, rule)
    assert np.mean(result.success) >= 0.9
    _assert_distances(result, X)
    assert np.all((result.n_steps >= 0) & (result.n_steps <= 10))


@rules
@classes
@noises
@pytest.mark.parametrize("noise_type", ["spherical", "diag"])
def test_agrees_with_the_reference(rule, n_classes, noise_std, noise_type, isa):
    mixtures, priors, X, y = _problem(n_classes, noise_std=noise_std, noise_type=noise_type)
    result = ld_grad(_classifier(mixtures, priors, rule), X, y)
    expected, success, n_steps = ref.ld_grad(X, y, mixtures, priors, rule=rule)
    _assert_success(result, y, mixtures, priors, rule)
    assert np.mean(result.success == success) >= 0.95  # at a tie, rounding decides
    assert np.array_equal(result.n_steps, n_steps)
    assert relative_error(result.X_adv, expected) <= ATTACK[X.dtype]


def test_agrees_with_the_reference_in_float32():
    mixtures, priors, X, y = _problem(noise_std=1e-3)
    X = X.astype(np.float32)
    result = ld_grad(_classifier(mixtures, priors), X, y)
    expected, success, _ = ref.ld_grad(X, y, mixtures, priors)
    assert result.success.all()
    assert np.array_equal(result.success, success)
    assert relative_error(result.X_adv, expected) <= ATTACK[X.dtype]


@pytest.mark.parametrize("n", [1, 7, 8, 9, 255, 256, 257])
def test_rows_do_not_depend_on_each_other(n, dtype):
    mixtures, priors, X, y = _problem(n=130)
    X = X.astype(dtype)
    model = _classifier(mixtures, priors)
    whole = ld_grad(model.set_params(n_threads=1), X, y)
    part = ld_grad(model.set_params(n_threads=3), X[:n], y[:n])
    assert np.array_equal(part.X_adv, whole.X_adv[:n])
    assert np.array_equal(part.l2, whole.l2[:n])
    assert np.array_equal(part.n_steps, whole.n_steps[:n])


@rules
def test_ends_at_the_boundary(rule):
    mixtures, priors, X, y = _problem(noise_std=1e-3)
    result = ld_grad(_classifier(mixtures, priors, rule), X, y, steps=10)
    assert result.success.all()
    before = np.abs(ref.decision_function(X, mixtures, priors, rule))
    after = np.abs(ref.decision_function(result.X_adv, mixtures, priors, rule))
    single = result.n_steps == 1
    assert single.any()
    if rule == "max":
        assert np.all(after[single] <= BOUNDARY * before[single])


def test_one_step_may_not_be_enough_and_more_may():
    mixtures, priors, X, y = _problem(noise_std=1e-3, n=100)
    rates = [ld_grad(_classifier(mixtures, priors), X, y, steps=s).success.mean() for s in (1, 3, 10)]
    assert rates[0] < 1
    assert rates == sorted(rates)
    assert rates[-1] == 1


@rules
@classes
def test_without_labels_the_predictions_are_attacked(rule, n_classes):
    mixtures, priors, X, _ = _problem(n_classes, noise_std=1.0)
    model = _classifier(mixtures, priors, rule)
    given, own = ld_grad(model, X, model.predict(X)), ld_grad(model, X)
    assert np.array_equal(given.X_adv, own.X_adv)
    assert np.all(own.n_steps >= 1)


@rules
@classes
def test_what_is_wrong_already_is_left_alone(rule, n_classes, dtype):
    mixtures, priors, X, _ = _problem(n_classes, noise_std=1.0)
    X = X.astype(dtype)
    wrong = (_classes(X, mixtures, priors, rule) + 1) % n_classes
    result = ld_grad(_classifier(mixtures, priors, rule), X, wrong)
    assert result.success.all()
    assert not result.n_steps.any()
    assert not result.l2.any()
    assert np.array_equal(result.X_adv, X)


def test_labels_of_any_kind():
    mixtures, priors, X, y = _problem()
    names = np.array(["ant", "bee"])
    plain = ld_grad(_classifier(mixtures, priors), X, y)
    named = ld_grad(_classifier(mixtures, priors, labels=names), X, names[y])
    assert np.array_equal(named.X_adv, plain.X_adv)


def test_clip_keeps_within_the_box():
    mixtures, priors, X, y = _problem(noise_std=1.0, n=50)
    low, high = X.min(), X.max()
    model = _classifier(mixtures, priors)
    free, clipped = ld_grad(model, X, y), ld_grad(model, X, y, clip=(low, high))
    assert free.X_adv.min() < low or free.X_adv.max() > high or np.array_equal(free.l2, clipped.l2)
    tight = ld_grad(model, np.clip(X, -1, 1), y, clip=(-1, 1))
    for result, bound in ((clipped, (low, high)), (tight, (-1, 1))):
        assert result.X_adv.min() >= bound[0]
        assert result.X_adv.max() <= bound[1]
        _assert_success(result, y, mixtures, priors)
    _assert_distances(tight, np.clip(X, -1, 1))


def test_overshoot_lengthens_the_step():
    mixtures, priors, X, y = _problem(noise_std=1.0)
    model = _classifier(mixtures, priors)
    a, b = (ld_grad(model, X, y, steps=1, overshoot=o) for o in (0.0, 0.5))
    moved = a.l2 > 0
    assert moved.any()
    assert scaled_error(b.l2[moved], 1.5 * a.l2[moved]) <= ATTACK[X.dtype]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@rules
@noises
@pytest.mark.parametrize("noise_type", ["spherical", "diag"])
@pytest.mark.parametrize("away", [0.0, 1e-12])
def test_a_sample_on_the_surface_leaves_it_at_the_origin_too(away, noise_type, noise_std, rule, dtype):
    one = ref.random_parameters(3, 12, 2, noise_type=noise_type, noise_std=noise_std, seed=0)
    mixtures = [one, one._replace(means=-one.means)]
    model = _classifier(mixtures, [0.5, 0.5], rule)
    X = np.full((1, 12), away * noise_std, dtype)
    for attack in (ld_grad, nearest):
        result = attack(model, X)
        assert result.success.all(), attack
        assert (model.predict(result.X_adv) != model.predict(X)).all(), attack
        assert 0.0 < result.l2[0] <= 1e-9 * noise_std, attack


def test_source_and_target_are_the_best_components():
    mixtures, priors, X, y = _problem(noise_std=1.0)
    result = ld_grad(_classifier(mixtures, priors), X, y, steps=1)
    moved = result.n_steps == 1
    own = [ref.predict(X, m) for m in mixtures]
    assert np.array_equal(result.source[moved], np.where(y == 0, own[0], own[1])[moved])
    assert np.array_equal(result.target[moved], np.where(y == 0, own[1], own[0])[moved])


def test_other_layouts_and_kinds_of_x():
    mixtures, priors, X, y = _problem()
    model = _classifier(mixtures, priors)
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


# The result.


def _result():
    mixtures, priors, X, y = _problem(noise_std=1.0)
    return ld_grad(_classifier(mixtures, priors), X, y)


def test_a_result_is_frozen():
    result = _result()
    assert isinstance(result, AttackResult)
    names = {field.name for field in dataclasses.fields(result)}
    wanted = "X_adv l2 success n_steps source target lower_bound certified"
    assert names >= set(wanted.split())
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.l2 = None
    assert result.success.dtype == bool
    assert result.l2.shape == result.success.shape == result.n_steps.shape == (40,)


def test_a_result_is_shown_by_what_it_comes_to():
    result = _result()
    summary = result.summary()
    assert repr(result) == (
        f"AttackResult(n_samples=40, accuracy={summary['accuracy']:.4g}, success_rate={summary['success_rate']:.4g}, "
        f"mean_l2={summary['mean_l2']:.4g}, certified_rate={summary['certified_rate']:.4g})"
    )


def test_security_curve():
    result = _result()
    assert np.any(result.l2 == 0)  # some are wrong from the start
    radii = np.array([0.0, 0.5, 1.0, 2.0, 1e9])
    curve = np.asarray(result.security_curve(radii))
    l2 = np.where(result.success, result.l2, np.inf)
    assert curve == pytest.approx([np.mean(l2 > r) for r in radii])


def test_no_radius_is_large_enough_for_an_attack_that_failed():
    mixtures, priors, X, y = _problem(noise_std=1.0)
    result = ld_grad(_classifier(mixtures, priors), X, y, steps=0)
    assert result.security_curve([np.inf]) == result.summary()["adversarial_accuracy"]


@pytest.mark.parametrize("radii", [None, "wide", [np.nan], [[1.0, 2.0]]])
def test_radii_that_are_none(radii):
    result = _result()
    for curve in (result.security_curve, result.certified_curve):
        with pytest.raises(ValueError, match="radii"):
            curve(radii)


def test_results_compare_by_identity():
    result = _result()
    assert result == result
    assert result != _result()


def test_summary():
    result = _result()
    right = result.n_steps > 0  # what was wrong from the start needs no attack and says nothing of it
    assert not right.all()
    l2 = np.where(result.success, result.l2, np.inf)[right]
    summary = result.summary()
    assert summary["accuracy"] == pytest.approx(right.mean())
    assert summary["success_rate"] == pytest.approx(np.isfinite(l2).mean())
    assert summary["mean_l2"] == pytest.approx(l2[np.isfinite(l2)].mean())
    assert summary["median_l2"] == pytest.approx(np.median(l2))


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
        ({"clip": 1.0}, "clip"),
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
    mixtures, priors, X, y = _problem()
    given = {"model": _classifier(mixtures, priors), "X": X, "y": y, **arguments}
    with pytest.raises((ValueError, TypeError), match=rf"\b{name}\b"):
        ld_grad(given.pop("model"), given.pop("X"), given.pop("y"), **given)


@pytest.mark.parametrize(("name", "label"), [("source", "ant"), ("target", "bee")])
def test_a_component_that_one_class_has_not(name, label):
    mixtures = [ref.random_parameters(k, 12, 2, seed=k) for k in (2, 5)]
    classifier = MFAClassifier.from_mixtures([MFA.from_parameters(*m) for m in mixtures], classes=["ant", "bee"])
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


# Support vector machines.


def _blobs(n=80, d=6):
    rng = np.random.default_rng(0)
    y = np.arange(n) % 2
    X = rng.normal(size=(n, d)) * np.linspace(0.5, 3, d) + 2.0 * y[:, None] * np.linspace(1, 2, d)
    return X, y


def _scaled(svm):
    return [svm, make_pipeline(StandardScaler(), svm), make_pipeline(MinMaxScaler(), svm)]


SVMS = {
    "LinearSVC": LinearSVC(random_state=0, max_iter=100_000),
    "linear": SVC(kernel="linear"),
    "rbf": SVC(kernel="rbf", gamma=0.01),
}


@pytest.mark.parametrize("scaling", [0, 1, 2], ids=["plain", "standard", "minmax"])
@pytest.mark.parametrize("svm", SVMS)
def test_svms_are_flipped_at_their_boundary(svm, scaling, dtype):
    X, y = _blobs()
    X = X.astype(dtype)
    model = _scaled(SVMS[svm])[scaling].fit(X, y)
    predicted = model.predict(X)
    result = ld_grad(model, X, predicted, steps=20)
    assert result.X_adv.dtype == dtype
    assert result.success.all()
    assert np.array_equal(model.predict(result.X_adv) != predicted, result.success)
    _assert_distances(result, X)
    gap = np.abs(model.decision_function(result.X_adv.astype(np.float64)))
    assert np.max(gap) <= BOUNDARY * np.max(np.abs(model.decision_function(X)))


@pytest.mark.parametrize("scaling", [0, 1, 2], ids=["plain", "standard", "minmax"])
@pytest.mark.parametrize("svm", ["LinearSVC", "linear"])
def test_linear_distance_is_exact(svm, scaling):
    X, y = _blobs()
    model = _scaled(SVMS[svm])[scaling].fit(X, y)
    gap = model.decision_function(X)
    # The model is affine in X, so differences along the axes are its normal.
    normal = model.decision_function(np.eye(6)) - model.decision_function(np.zeros((1, 6)))
    result = ld_grad(model, X, model.predict(X))
    assert np.all(result.n_steps == 1)
    assert result.l2 == pytest.approx(np.abs(gap) / np.linalg.norm(normal), rel=1e-5)


def test_rbf_step_is_no_longer_than_a_line_search_finds():
    X, y = _blobs()
    model = SVMS["rbf"].fit(X, y)
    result = ld_grad(model, X, model.predict(X), steps=20)
    inside = X + (1 - 1e-3) * (result.X_adv - X)
    assert np.mean(model.predict(inside) == model.predict(X)) >= 0.9


@pytest.mark.parametrize("steps", [10, 20, 50])
def test_success_on_a_kernel_is_what_predict_says(steps, dtype):
    pair = load_digits_pair(3, 8)
    model = make_pipeline(MinMaxScaler(), SVC()).fit(pair.X_train, pair.y_train)
    result = ld_grad(model, pair.X_train.astype(dtype), pair.y_train, steps=steps)
    assert result.success.mean() >= 0.8
    assert np.array_equal(result.success, model.predict(result.X_adv) != pair.y_train)


def test_svm_labels_and_wrong_samples():
    X, y = _blobs()
    names = np.array(["yes", "no"])[y]
    model = SVMS["linear"].fit(X, names)
    flipped = np.where(model.predict(X) == "yes", "no", "yes")
    result = ld_grad(model, X, flipped)
    assert result.success.all()
    assert not result.l2.any()
    assert ld_grad(model, X).success.all()


def test_pipelines_of_several_scalings():
    X, y = _blobs()
    model = make_pipeline(MaxAbsScaler(), StandardScaler(with_mean=False), SVC(kernel="linear"))
    model.fit(X, y)
    result = ld_grad(model, X)
    assert np.all(model.predict(result.X_adv) != model.predict(X))


@pytest.mark.parametrize("svm", SVMS)
def test_svms_name_the_row_of_nan(svm):
    X, y = _blobs()
    model = clone(SVMS[svm]).fit(X, y)
    X[7, 1] = np.nan
    with pytest.raises(ValueError, match=r"Input X contains NaN, in row 7\..* attacks take none"):
        ld_grad(model, X, y)


@pytest.mark.parametrize("svm", ["linear", "rbf"])
def test_svms_of_sparse_samples(svm):
    X, y = _blobs()
    dense, sparse = clone(SVMS[svm]).fit(X, y), clone(SVMS[svm]).fit(csr_array(X), y)
    assert ld_grad(sparse, X, y).X_adv == pytest.approx(ld_grad(dense, X, y).X_adv)


@pytest.mark.parametrize(
    ("model", "word"),
    [
        (SVC(kernel="poly"), "kernel"),
        (SVC(kernel=lambda a, b: a @ b.T), "kernel"),
        (make_pipeline(PCA(2), LinearSVC()), "PCA"),
        (make_pipeline(StandardScaler(), LogisticRegression()), "LogisticRegression"),
    ],
    ids=["poly", "callable", "PCA", "LogisticRegression"],
)
def test_models_without_a_closed_form(model, word):
    X, y = _blobs()
    with pytest.raises((ValueError, TypeError), match=word):
        ld_grad(model.fit(X, y), X, y)


@pytest.mark.parametrize("model", [SVC(), SVC(kernel="linear"), LinearSVC(max_iter=100_000)])
def test_svms_of_three_classes(model):
    X, _ = _blobs()
    y = np.arange(len(X)) % 3
    with pytest.raises(ValueError, match="class"):
        ld_grad(model.fit(X, y), X, y)


# Real images.


@pytest.fixture(scope="module")
def digits(mnist):
    """A symmetric classifier of the digits 0 and 6."""
    X = mnist["x_train"].reshape(-1, 784) / np.float32(255)
    keep = [np.flatnonzero(mnist["y_train"] == c)[:1500] for c in (0, 6)]
    model = MFAClassifier(8, 4, tol=1e-1, random_state=0, max_iter=15)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(np.concatenate([X[i] for i in keep]), np.repeat([0, 6], 1500))
    return model.symmetric(1e-3)


def test_digits_of_mnist_all_flip(digits, dtype):
    X, y = digits.sample(200, random_state=0)
    X = X.astype(dtype)
    assert digits.score(X, y) == 1.0
    result = ld_grad(digits, X, y, steps=3)
    assert result.success.all()
    assert np.all(digits.predict(result.X_adv) != y)
    assert 1.5 <= result.l2.mean() <= 4.0
