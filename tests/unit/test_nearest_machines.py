"""The nearest adversarial example of a support vector machine: exact for a linear one, between bounds for a kernel."""

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import SVC, LinearSVC

from attack_cases import SCALED, blobs
from fits import quietly
from mfa_fast.attacks import ld_grad, nearest
from mfa_fast.attacks._distance_bounds import distance_bound
from mfa_fast.attacks.svm import as_machine
from tolerances import ATTACK, NEAREST_ROUNDING


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_sums_of_large_terms_are_not_trusted_to_the_last_digit(offset):
    for seed in range(8):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(120, 2)) + np.repeat([[offset], [offset + 1.5]], 60, axis=0)
        machine = SVC(kernel="linear").fit(X, np.repeat([0, 1], 60))
        own = machine.predict(X)
        result = nearest(machine, X, own)
        assert np.all(machine.predict(result.X_adv)[result.success] != own[result.success])
        unit = (result.X_adv - X) / np.maximum(result.l2, 1e-300)[:, None]
        assert np.array_equal(machine.predict(X + unit * (result.lower_bound * (1 - 1e-7))[:, None]), own)


@pytest.mark.parametrize("scaling", SCALED)
@pytest.mark.parametrize("svm", [LinearSVC(random_state=0, max_iter=100_000), SVC(kernel="linear")])
def test_linear_machines_are_exact(svm, scaling, dtype):
    X, y = blobs()
    X = X.astype(dtype)
    model = SCALED[scaling](svm).fit(X, y)
    predicted = model.predict(X)
    normal = model.decision_function(np.eye(6)) - model.decision_function(np.zeros((1, 6)))
    result = nearest(model, X)
    assert result.certified.all()
    assert np.all(model.predict(result.X_adv) != predicted)
    distance = np.abs(model.decision_function(X.astype(np.float64))) / np.linalg.norm(normal)
    assert result.lower_bound == pytest.approx(distance, rel=1e-6)


def test_rounding_counts_for_certificates_at_the_origin_too():
    X, y = blobs()
    machine = LinearSVC(random_state=0, max_iter=100_000).fit(X, y)
    assert nearest(machine, np.zeros((1, 6), np.float32), rtol=1e-7).certified.all()


@pytest.mark.parametrize(("gamma", "C"), [(1e-4, 1e10), (1e-3, 1e9), (0.5, 1e6)])
def test_next_to_the_surface_of_a_gaussian_kernel_rounding_is_no_distance(gamma, C):
    rng, long = np.random.default_rng(0), np.longdouble
    X = rng.normal(size=(60, 3))
    y = (X[:, 0] + 0.3 * rng.normal(size=60) > 0).astype(int)
    machine = quietly(SVC(C=C, gamma=gamma, max_iter=200_000), X, y)

    def decide(x):
        terms = machine.dual_coef_[0] * np.exp(
            -long(gamma) * np.sum((x - machine.support_vectors_.astype(long)) ** 2, 1)
        )
        return terms.sum() + machine.intercept_[0], -2 * gamma * terms @ (x - machine.support_vectors_)

    for one, other in zip(X[y == 0][:20], X[y == 1][:20], strict=True):
        side = decide(one.astype(long))[0] > 0
        if (decide(other.astype(long))[0] > 0) == side:
            continue
        near, far = 0.0, 1.0
        for _ in range(50):
            at = (near + far) / 2
            near, far = (at, far) if (decide((one + at * (other - one)).astype(long))[0] > 0) == side else (near, at)
        x = one + near * (other - one)
        f, gradient = decide(x.astype(long))
        distance = abs(f) / np.linalg.norm(gradient)
        # The way is so short that the surface is a plane.
        assert distance_bound(as_machine(machine), x[None], np.array([1.0]))[0] <= 1.01 * distance


@pytest.mark.parametrize("scaling", SCALED)
@pytest.mark.parametrize("gamma", [0.003, 0.03, 0.3])
def test_no_point_within_the_bound_of_a_gaussian_kernel_flips(scaling, gamma, dtype):
    X, y = blobs()
    X = X.astype(dtype)
    model = SCALED[scaling](SVC(kernel="rbf", gamma=gamma)).fit(X, y)
    predicted = model.predict(X)
    result, attack = nearest(model, X), ld_grad(model, X, steps=50)
    found = result.success
    assert np.all(result.lower_bound <= result.l2)
    assert np.all(result.lower_bound > 0)
    loose = found & (result.l2 > 1.01 * result.lower_bound)
    assert np.any(loose)
    assert not np.any(result.certified[loose])
    assert np.all(result.l2[found] <= attack.l2[found] * (1 + ATTACK[X.dtype]))
    rng = np.random.default_rng(1)
    toward = np.where(found[:, None], result.X_adv - X, rng.normal(size=X.shape))
    for direction in (toward, *rng.normal(size=(50, *X.shape))):
        unit = direction / np.linalg.norm(direction, axis=1, keepdims=True)
        inside = X + (1 - NEAREST_ROUNDING) * np.minimum(result.lower_bound, 1e6)[:, None] * unit
        assert np.array_equal(model.predict(inside.astype(np.float64)), predicted)


@pytest.mark.parametrize("gamma", [0.125, 0.25, 0.5])
@pytest.mark.parametrize("spread", [0.2, 5.0])
def test_the_bound_of_a_gaussian_kernel_halfway_between_two_support_vectors(spread, gamma):
    """There the surface is a plane, by symmetry. Nothing is known of it, and the bound comes near it from below."""
    middle, way = np.array([3.0, 1.0]), np.array([spread, spread])
    X = np.stack([middle - way, middle + way])
    model = make_pipeline(StandardScaler(), SVC(gamma=gamma, C=1e6)).fit(X, [0, 1])
    shares = np.array([-1.0, -0.7, -0.5, -0.3, -0.1, 0.1, 0.3, 0.5, 0.7, 1.0])
    bound = distance_bound(as_machine(model), middle + shares[:, None] * way, np.full(len(shares), np.inf))
    found = bound / (np.abs(shares) * np.linalg.norm(way))
    assert np.all(found <= 1)
    assert np.all(found >= 0.78)


@pytest.mark.parametrize("scaling", SCALED)
def test_where_a_gaussian_kernel_is_flat_the_way_to_a_support_vector_crosses_over(scaling, dtype):
    X, y = blobs()
    X = X.astype(dtype)
    model = SCALED[scaling](SVC(gamma=50.0 if scaling == "minmax" else 3.0)).fit(X, y)
    own = model.predict(X)
    attack, result = ld_grad(model, X, own, steps=50), nearest(model, X, own)
    assert not np.all(attack.success)
    assert np.all(result.success)
    assert np.all(model.predict(result.X_adv) != own)
    assert result.l2 == pytest.approx(np.linalg.norm(result.X_adv.astype(float) - X, axis=1), rel=1e-6)
    assert np.all(result.lower_bound <= result.l2)
    assert np.array_equal(result.X_adv[attack.success], attack.X_adv[attack.success])
    # A little before the crossing the class is still the sample's own.
    lost = ~attack.success
    before = (X + 0.99 * (result.X_adv - X))[lost]
    assert np.array_equal(model.predict(before), own[lost])


def test_where_kernels_have_vanished_nothing_is_proved():
    """Without an intercept, a class reaches as far as its kernels do in double, the heavier ones further."""
    X = np.array([[0.0, 0.0], [2.0, 0.0], [1000.0, 0.0], [1002.0, 0.0]])
    machine = SVC(gamma=10.0).fit(X, [0, 0, 1, 1], sample_weight=[1.0, 1e-3, 1.0, 1e-3])
    x = np.array([[1.0, 12.0]])
    assert machine.decision_function(x) == 0
    result = nearest(machine, x)
    assert machine.predict(result.X_adv) != machine.predict(x)
    toward = (X[0] - x) / np.linalg.norm(X[0] - x)
    nearer = x + 0.999 * result.l2 * toward
    assert machine.predict(nearer) != machine.predict(x)
    assert not result.certified[0]
    assert result.lower_bound[0] < 0.999 * result.l2[0]


def test_a_kernel_that_is_the_same_everywhere_leaves_no_other_class():
    X, y = blobs()
    result = nearest(SVC(gamma=0.0).fit(X[1:], y[1:]), X[:5])  # of a class one more than of the other
    assert not result.success.any()
    assert np.all(result.lower_bound == np.inf)
    assert result.certified.all()


def test_a_bound_of_kernels_that_are_all_but_gone_is_true():
    """Half way between two support vectors, where the gradient is 0 and products with the decision underflow."""
    X = np.array([[-8.3, 0.0], [8.3, 0.0], [0.0, -8.9], [0.0, 8.9]])
    machine = SVC(gamma=10.0).fit(X, [1, 1, 0, 0])
    x = np.zeros((1, 2))
    assert 0 < machine.decision_function(x) < 1e-250
    assert machine.predict([[0.0, 0.6]]) != machine.predict(x)
    assert distance_bound(as_machine(machine), x, np.array([np.inf]))[0] <= 0.6


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("scaler", [StandardScaler(), MinMaxScaler()], ids=["standard", "minmax"])
@pytest.mark.parametrize("svm", [SVC(gamma=2e3), SVC(), LinearSVC(random_state=0)], ids=["narrow", "wide", "linear"])
def test_no_success_is_one_that_scalers_in_float32_take_back(svm, scaler, offset):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        y = np.arange(160) % 2
        X = (rng.normal(size=(160, 3)) + np.where(y[:, None] == 1, 2.0, 0.0) + offset).astype(np.float32)
        model = make_pipeline(scaler, svm).fit(X, y)
        own = model.predict(X)
        attack, result = ld_grad(model, X, own, steps=50), nearest(model, X, own)
        assert np.array_equal(attack.success, model.predict(attack.X_adv) != own)
        assert result.success.all()
        assert np.all(model.predict(result.X_adv) != own)
        for found in (attack, result):
            moved = np.linalg.norm(found.X_adv.astype(np.float64) - X, axis=1)
            assert found.l2 == pytest.approx(moved, rel=1e-6)


def test_what_goes_beyond_rounding_stays_within_the_box():
    rng = np.random.default_rng(0)
    X = rng.uniform(size=(200, 3)).astype(np.float32)
    y = (X[:, 0] > 0.5).astype(int)
    model = make_pipeline(StandardScaler(), SVC(gamma=2e3)).fit(X, y)
    result = ld_grad(model, X, y, steps=50, clip=(0.1, 0.9))
    assert result.X_adv.min() >= np.float32(0.1)
    assert result.X_adv.max() <= np.float32(0.9)
    assert np.array_equal(result.success, model.predict(result.X_adv) != y)


def test_what_is_found_where_a_gradient_vanishes_was_not_misclassified_from_the_start():
    X, y = (a[:60] for a in blobs())
    few = (y == 0) | (np.arange(60) % 4 == 1)  # so that one class wins where there is nothing
    model = SVC(gamma=2e3).fit(X[few], y[few])
    X = X + 1.0  # off the support vectors, where all kernels are 0
    attack, result = ld_grad(model, X, steps=50), nearest(model, X)
    assert np.any(~attack.success & (attack.n_steps == 0))
    assert np.all(model.predict(result.X_adv)[result.success] != model.predict(X)[result.success])
    assert np.any(result.success & ~attack.success)
    assert result.summary()["accuracy"] == 1


@pytest.mark.parametrize("svm", [LinearSVC(), SVC()], ids=["LinearSVC", "SVC"])
@pytest.mark.parametrize("dtype", [np.longdouble, np.float16, np.uint8, np.bool_])
def test_machines_take_any_real_dtype(svm, dtype):
    X, y = blobs()
    rows = np.abs(X[:10]).astype(dtype)
    svm.fit(X, y)
    result, plain = nearest(svm, rows), nearest(svm, rows.astype(np.float64))
    assert np.array_equal(result.l2, plain.l2)
    assert np.array_equal(result.lower_bound, plain.lower_bound)


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("svm", [LinearSVC(), SVC(kernel="linear"), SVC()], ids=["LinearSVC", "linear", "rbf"])
def test_rows_whose_length_is_no_number_are_refused(svm, steps):
    X, y = blobs()
    svm.fit(X, y)
    X[3] *= 1e155
    for attack in (ld_grad, nearest):
        with pytest.raises(ValueError, match=r"row 3 of X .* so far from the model"):
            attack(svm, X, steps=steps)


def test_distances_beyond_float32():
    X, y = blobs()
    machine = SVC(kernel="linear").fit(X, y)
    normal = np.float32(0.9 * np.finfo(np.float32).max) * np.sign(machine.coef_).astype(np.float32)
    result = nearest(machine, np.concatenate([X[:2].astype(np.float32), normal]))
    assert np.all(result.success)
    assert np.all(result.certified)
    assert np.isinf(result.l2).tolist() == [False, False, True]
    assert result.lower_bound[2] == np.finfo(np.float32).max


def test_what_is_found_beyond_float32_on_the_way_to_a_support_vector():
    X = np.random.default_rng(0).normal(size=(30, 2))
    machine = SVC().fit(X, X[:, 0] > 0)
    far = np.array([[-1, 1]]) * np.finfo(np.float32).max
    result = nearest(machine, far.astype(np.float32))
    assert result.success[0] == (machine.predict(result.X_adv)[0] != machine.predict(far)[0])
    assert np.isinf(result.l2[0])
    assert not result.certified[0]


def test_what_a_machine_gets_wrong_is_left_alone():
    X, y = blobs()
    for model in (SVC(kernel="linear").fit(X, y), SVC(kernel="rbf", gamma=0.1).fit(X, y)):
        result = nearest(model, X, 1 - model.predict(X))
        assert result.certified.all()
        assert not result.lower_bound.any()
        assert not result.l2.any()
