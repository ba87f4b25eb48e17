"""Estimators and attacks on arrays in device memory, and on arrays that are streamed through it."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.svm import LinearSVC

import emulated_arrays
import reference as ref
from mfa_fast import (
    MFA,
    CudaUnavailableError,
    MFAClassifier,
    _device_rows,
    _devices,
    _late_errors,
    attacks,
    synchronize,
)
from mfa_fast._samples import Samples
from tolerances import (
    ATTACK,
    EM_PARAMETERS,
    EM_PARAMETERS_FLOAT32,
    FACTORS,
    LOG_DENSITY,
    NEAREST_POINT,
    NEAREST_SUM_BOUND,
    PROBABILITY_SUM,
    relative_error,
    scaled_error,
)

SHAPE = (6, 24, 3)
P = ref.random_parameters(*SHAPE, noise_std=0.1)
Q = ref.random_parameters(*SHAPE, noise_std=0.1, seed=1)
PRIORS = np.array([0.25, 0.75])
rules = pytest.mark.parametrize("rule", ["max", "sum"])


def _data(dtype=np.float64, n=75):
    return ref.random_samples(P, n).astype(dtype)


def _model(parameters=P):
    return MFA.from_parameters(*parameters)


def _classifier(rule="max", classes=(3, 7)):
    return MFAClassifier.from_mixtures([_model(P), _model(Q)], classes=classes, priors=PRIORS, rule=rule)


def _back(library, array, dtype=None):
    """A result as NumPy's, once it is sure that it is on the device and of the right type."""
    assert _devices.arrays_of(array).key == library.key
    host = library.to_host(array)
    assert dtype is None or host.dtype == dtype
    return host


def _assert_same(library, actual, expected):
    """To the bit as compiled for the CPU; a card's cuBLAS chooses its kernels by the number of rows."""
    if library.key[0] == "emulated_arrays" or actual.dtype.kind != "f":
        assert np.array_equal(actual, expected)
    else:
        assert scaled_error(actual, expected) <= 10 * LOG_DENSITY[actual.dtype]


# What comes out is right, and lies where the samples do.


@pytest.mark.parametrize("shape", [(3, 131, 50), (2, 67, 9)])
def test_numbers_of_factors_that_blocks_take_differently(library, shape):
    """Of many factors the loadings are read where they lie, and more than eight are taken in parts."""
    p, q = (ref.random_parameters(*shape, noise_std=0.1, seed=seed) for seed in range(2))
    classifier = MFAClassifier.from_mixtures([_model(p), _model(q)], classes=(0, 1))
    X = ref.random_samples(p, 20)
    y, on_device = classifier.predict(X), library.from_host(X)
    scores = _back(library, _model(p).score_samples(on_device), np.float64)
    assert relative_error(scores, ref.score_samples(X, p)) <= LOG_DENSITY[np.dtype(np.float64)]
    result, expected = (attacks.ld_grad(classifier, *both) for both in ((on_device, library.from_host(y)), (X, y)))
    assert np.array_equal(_back(library, result.success), expected.success)
    assert scaled_error(_back(library, result.X_adv), expected.X_adv) <= ATTACK[np.dtype(np.float64)]


def test_densities(library, dtype):
    X, model = _data(dtype), _model()
    on_device = library.from_host(X)
    scores = _back(library, model.score_samples(on_device), dtype)
    assert relative_error(scores, ref.score_samples(X, P)) <= LOG_DENSITY[dtype]
    joint = _back(library, model.weighted_log_prob(on_device), dtype)
    assert relative_error(joint, ref.weighted_log_prob(X, P)) <= LOG_DENSITY[dtype]
    assert relative_error(model.score(on_device), ref.score_samples(X, P).mean()) <= LOG_DENSITY[dtype]
    assert relative_error(model.bic(on_device), model.bic(X)) <= LOG_DENSITY[dtype]
    weights = np.arange(75) % 4
    for given in (weights, library.from_host(weights)):
        assert relative_error(model.score(on_device, None, given), model.score(X, None, weights)) <= LOG_DENSITY[dtype]


def test_shares_add_up_to_1_however_far(library, dtype):
    alike = (np.repeat(a[:1], len(P.weights), axis=0) for a in P[1:])  # none of them leads, wherever a sample is
    model = MFA.from_parameters(P.weights, *alike)
    X = library.from_host((1e9 * _data(dtype)).astype(dtype))
    shares = _back(library, model.predict_proba(X), dtype)
    assert np.max(np.abs(shares.sum(axis=1) - 1)) <= PROBABILITY_SUM[np.dtype(dtype)]
    statistics = model.e_step(X)
    assert abs(statistics.counts.sum() / statistics.weight - 1) <= PROBABILITY_SUM[np.dtype(np.float64)]


def test_components_and_factors(library, dtype):
    X, model = _data(dtype), _model()
    on_device = library.from_host(X)
    assert np.array_equal(_back(library, model.predict(on_device), np.int64), ref.predict(X, P))
    shares = _back(library, model.predict_proba(on_device), dtype)
    assert np.max(np.abs(shares - ref.responsibilities(X, P))) <= 100 * LOG_DENSITY[dtype]
    labels, factors = model.posterior_factors(on_device)
    expected_labels, expected = ref.posterior_factors(X, P)
    assert np.array_equal(_back(library, labels, np.int64), expected_labels)
    assert relative_error(_back(library, factors, dtype), expected) <= FACTORS[dtype]
    projected = _back(library, model.reconstruct(on_device), dtype)
    assert relative_error(projected, ref.reconstruct(X, P)) <= FACTORS[dtype]


@rules
def test_classes(library, dtype, rule):
    X, classifier = _data(dtype), _classifier(rule)
    on_device = library.from_host(X)
    expected = ref.class_scores(X, [P, Q], PRIORS, rule)
    assert np.array_equal(_back(library, classifier.predict(on_device)), np.array([3, 7])[expected.argmax(axis=1)])
    y = np.repeat([3, 7], [40, 35])
    accuracy = np.mean(np.array([3, 7])[expected.argmax(axis=1)] == y)
    assert classifier.score(on_device, library.from_host(y)) == classifier.score(on_device, y) == accuracy
    weighted = classifier.score(on_device, y, library.from_host(np.arange(75.0)))
    assert weighted == pytest.approx(classifier.score(X, y, np.arange(75.0)), abs=1e-12)
    likelihoods = _back(library, classifier.class_log_likelihood(on_device), dtype)
    assert relative_error(likelihoods, ref.class_log_likelihood(X, [P, Q], rule)) <= LOG_DENSITY[dtype]
    gap = _back(library, classifier.decision_function(on_device), dtype)
    assert scaled_error(gap, ref.decision_function(X, [P, Q], PRIORS, rule)) <= LOG_DENSITY[dtype]
    shares = _back(library, classifier.predict_proba(on_device), dtype)
    assert np.max(np.abs(shares - ref.class_proba(X, [P, Q], PRIORS, rule))) <= LOG_DENSITY[dtype]
    logs = _back(library, classifier.predict_log_proba(on_device), dtype)
    assert np.allclose(np.exp(logs), shares, rtol=0, atol=LOG_DENSITY[dtype])


def test_labels_that_are_no_numbers_come_as_numpy(library):
    X, classifier = _data(), _classifier(classes=["left", "right"])
    assert np.array_equal(classifier.predict(library.from_host(X)), classifier.predict(X))


@pytest.mark.parametrize("kind", ["?", "i1", "u1", "u2", "u4", "u8", "f4"])
def test_labels_of_every_type_of_numbers(library, kind):
    X, classifier = _data(), _classifier(classes=np.array([0, 1], kind))
    predicted = _back(library, classifier.predict(library.from_host(X)), np.dtype(kind))
    assert np.array_equal(predicted, classifier.predict(X))
    out = library.empty((20, SHAPE[1]), np.float64)
    _, labels = classifier.sample(20, random_state=0, out=out)
    assert np.array_equal(_back(library, labels, np.dtype(kind)), classifier.sample(20, random_state=0)[1])


def test_images_of_bytes(library):
    X = np.random.default_rng(0).integers(0, 256, (40, SHAPE[1]), dtype=np.uint8)
    scores = _back(library, _model().score_samples(library.from_host(X)), np.float64)
    assert relative_error(scores, ref.score_samples(X, P)) <= LOG_DENSITY[np.dtype(np.float64)]


def test_rows_that_are_apart(library):
    wide = np.full((75, 2 * SHAPE[1]), np.nan)
    wide[:, : SHAPE[1]] = wide[:, SHAPE[1] :] = _data()
    on_device, model = library.from_host(wide), _model()
    expected = library.to_host(model.score_samples(library.from_host(_data())))
    for view in (on_device[:, : SHAPE[1]], on_device[:, SHAPE[1] :]):
        _assert_same(library, library.to_host(model.score_samples(view)), expected)
    mixed = np.ascontiguousarray(_data()[:, ::-1])
    reverse = library.from_host(np.repeat(mixed, 2, axis=1))[:, ::2]  # no row in one piece
    straight = library.to_host(model.score_samples(library.from_host(mixed)))
    _assert_same(library, library.to_host(model.score_samples(reverse)), straight)


@pytest.mark.parametrize("noise_type", ["spherical", "diag"])
def test_em(library, dtype, noise_type):
    parameters = ref.random_parameters(*SHAPE, noise_type=noise_type, noise_std=0.5)
    X = ref.random_samples(parameters, 300).astype(dtype)
    start = {f"{name}_init": value for name, value in parameters._asdict().items()}
    estimator = MFA(SHAPE[0], SHAPE[2], noise_type=noise_type, max_iter=3, tol=0.0, **start)
    with pytest.warns(match="did not converge"):
        estimator.fit(library.from_host(X))
    expected, _ = ref.em(X, parameters, 3, noise_type=noise_type)
    allowed = EM_PARAMETERS if dtype == np.float64 else EM_PARAMETERS_FLOAT32
    for name, value in expected._asdict().items():
        actual = getattr(estimator, f"{name}_")
        assert isinstance(actual, np.ndarray) and actual.dtype == dtype
        assert scaled_error(actual, value) <= allowed


def test_a_fit_starts_and_ends_as_on_the_host(library, dtype):
    X = ref.random_samples(P, 400).astype(dtype)
    a, b = (MFA(4, 2, random_state=0, tol=1e-2).fit(data) for data in (X, library.from_host(X)))
    assert scaled_error(b.means_, a.means_) <= EM_PARAMETERS_FLOAT32
    assert scaled_error(b.noise_variance_, a.noise_variance_) <= EM_PARAMETERS_FLOAT32


def test_weights_stand_for_repetition(library):
    X = ref.random_samples(P, 200)
    weights = np.arange(200) % 3
    start = {f"{name}_init": value for name, value in P._asdict().items()}
    estimator = MFA(SHAPE[0], SHAPE[2], max_iter=2, tol=1e9, **start)
    a = clone(estimator).fit(library.from_host(X), sample_weight=weights)
    b = clone(estimator).fit(library.from_host(np.repeat(X, weights, axis=0)))
    for name in ("weights_", "means_", "loadings_", "noise_variance_"):
        assert scaled_error(getattr(a, name), getattr(b, name)) <= EM_PARAMETERS
    chosen = MFA(3, 2, random_state=0, tol=1e-2).fit(library.from_host(X), sample_weight=weights)
    on_host = MFA(3, 2, random_state=0, tol=1e-2).fit(X, sample_weight=weights)
    assert scaled_error(chosen.means_, on_host.means_) <= EM_PARAMETERS_FLOAT32


def test_statistics_and_steps(library, dtype):
    X, weights = _data(dtype, 150), np.arange(150) % 3
    on_device, model = library.from_host(X), _model()
    expected, actual = (model.e_step(data, sample_weight=weights) for data in (X, on_device))
    assert expected.weight == actual.weight == weights.sum()
    allowed = EM_PARAMETERS if dtype == np.float64 else EM_PARAMETERS_FLOAT32
    for a, b in zip(actual._sums(), expected._sums(), strict=True):
        assert scaled_error(a, b) <= allowed
    whole = model.e_step(on_device)
    halves = model.e_step(on_device[:70]) + model.e_step(on_device[70:])
    assert scaled_error(halves.cross, whole.cross) <= allowed
    a, b = _model(), _model()
    for rows in (slice(0, 80), slice(80, 150)):
        a.partial_fit(X[rows])
        b.partial_fit(on_device[rows])
    assert scaled_error(b.means_, a.means_) <= allowed
    assert scaled_error(b.loadings_, a.loadings_) <= allowed


@pytest.mark.filterwarnings("ignore:EM did not converge")
def test_a_component_without_samples_is_seeded_anew(library):
    X = _data(n=200)
    start = {f"{name}_init": np.array(value) for name, value in P._asdict().items()}
    start["means_init"][2] = 1e3
    with pytest.warns(match=r"component\(s\) 2 had lost all samples"):
        fitted = MFA(SHAPE[0], SHAPE[2], max_iter=3, **start).fit(library.from_host(X))
    assert np.all(fitted.weights_ > 0)


@pytest.mark.parametrize("labels_on_device", [False, True])
def test_fit_classes(library, labels_on_device):
    X = np.concatenate([ref.random_samples(P, 200), ref.random_samples(Q, 200)])
    y = np.repeat([3, 7], 200)
    on_host = MFAClassifier(3, 2, random_state=0, tol=1e-2).fit(X, y)
    on_device = MFAClassifier(3, 2, random_state=0, tol=1e-2).fit(
        library.from_host(X), library.from_host(y) if labels_on_device else y
    )
    assert isinstance(on_device.classes_, np.ndarray)
    for a, b in zip(on_device.mixtures_, on_host.mixtures_, strict=True):
        assert scaled_error(a.means_, b.means_) <= EM_PARAMETERS_FLOAT32


def test_samples_are_those_of_the_host(library, dtype):
    model, classifier = _model(), _classifier()
    for drawn in (model.sample, classifier.sample):
        out = library.empty((50, SHAPE[1]), dtype)
        X, labels = drawn(50, random_state=5, start=7, out=out)
        assert X is out
        expected, expected_labels = drawn(50, random_state=5, start=7, out=np.empty((50, SHAPE[1]), dtype))
        assert np.array_equal(_back(library, labels), expected_labels)
        assert relative_error(_back(library, X), expected) <= FACTORS[dtype]


@rules
@pytest.mark.parametrize("given", ["none", "host", "device"])
def test_ld_grad(library, dtype, rule, given):
    X, classifier = _data(dtype, 30), _classifier(rule)
    y = classifier.predict(X)
    labels = {"none": None, "host": y, "device": library.from_host(y)}[given]
    result = attacks.ld_grad(classifier, library.from_host(X), labels)
    X_adv, success, n_steps = ref.ld_grad(X, (y == 7).astype(int), [P, Q], PRIORS, rule=rule)
    lengths = np.linalg.norm(X_adv - X, axis=1)
    assert np.array_equal(_back(library, result.success), success)
    assert np.array_equal(_back(library, result.n_steps), n_steps)
    for actual, expected, length in zip(_back(library, result.X_adv, dtype), X_adv, lengths, strict=True):
        assert np.linalg.norm(actual - expected) <= ATTACK[dtype] * max(length, np.linalg.norm(expected))
    assert relative_error(_back(library, result.l2, dtype), lengths) <= ATTACK[dtype]
    on_host = attacks.ld_grad(classifier, X, y)
    assert result.summary() == pytest.approx(on_host.summary(), rel=1e-4, nan_ok=True)
    assert np.allclose(result.security_curve([0.1, 1.0]), on_host.security_curve([0.1, 1.0]))


@pytest.mark.parametrize("given", ["none", "host", "device"])
def test_ld_grad_between_components_that_are_held(library, given):
    X, classifier = _data(n=30), _classifier()
    y = classifier.predict(X)
    labels = {"none": None, "host": y, "device": library.from_host(y)}[given]
    result = attacks.ld_grad(classifier, library.from_host(X), labels, source=1, target=5)
    expected = attacks.ld_grad(classifier, X, y, source=1, target=5)
    assert np.array_equal(_back(library, result.success), expected.success)
    assert scaled_error(_back(library, result.X_adv), expected.X_adv) <= ATTACK[X.dtype]
    with pytest.raises(ValueError, match="target must be a component of the class that a sample is to reach"):
        attacks.ld_grad(classifier, library.from_host(X), labels, target=6)


@pytest.mark.parametrize(("rule", "given"), [("max", "none"), ("max", "host"), ("max", "device"), ("sum", "none")])
def test_nearest(library, dtype, rule, given):
    X, classifier = _data(dtype, 8 if rule == "max" else 3), _classifier(rule)
    y = classifier.predict(X)
    labels = {"none": None, "host": y, "device": library.from_host(y)}[given]
    result, expected = attacks.nearest(classifier, library.from_host(X), labels), attacks.nearest(classifier, X, y)
    X_adv = _back(library, result.X_adv, dtype)
    assert np.all(classifier.predict(X_adv) != y)
    assert np.array_equal(_back(library, result.success, np.bool_), expected.success)
    assert np.array_equal(_back(library, result.certified, np.bool_), expected.certified)
    l2, lower_bound = _back(library, result.l2, dtype), _back(library, result.lower_bound, dtype)
    assert relative_error(l2, np.linalg.norm(X_adv.astype(float) - X, axis=1)) <= ATTACK[dtype]
    assert relative_error(l2, expected.l2) <= NEAREST_POINT[dtype]
    assert np.all(lower_bound <= l2)
    assert relative_error(lower_bound, expected.lower_bound) <= (
        NEAREST_POINT[dtype] if rule == "max" else NEAREST_SUM_BOUND
    )
    assert np.all(_back(library, result.n_steps, np.int64) >= 1)
    assert result.summary() == pytest.approx(expected.summary(), rel=NEAREST_SUM_BOUND)


# Models go from one device to another.


def test_a_model_fitted_on_the_device_scores_on_the_host_and_back(library, tmp_path):
    X = _data(n=300)
    fitted = MFA(3, 2, random_state=0, tol=1e-1).fit(library.from_host(X))
    on_device = library.to_host(fitted.score_samples(library.from_host(X)))
    fitted.save(tmp_path / "model")
    for model in (fitted, pickle.loads(pickle.dumps(fitted)), MFA.load(tmp_path / "model")):
        assert relative_error(model.score_samples(X), on_device) <= LOG_DENSITY[np.dtype(np.float64)]
        again = library.to_host(model.score_samples(library.from_host(X)))
        assert np.array_equal(again, on_device)


def test_the_host_can_be_asked_for(library):
    X, model = _data(), _model().set_params(device="cpu")
    assert np.array_equal(_back(library, model.score_samples(library.from_host(X))), model.score_samples(X))
    with pytest.raises(ValueError, match="device='cpu'"):
        model.sample(5, out=library.empty((5, SHAPE[1]), np.float64))


# Streams.


@pytest.fixture(params=["late", "early"])
def streaming(library, request, monkeypatch):
    """Blocks of a few rows. Copies of the emulated device are made as late, or as early, as they may."""
    monkeypatch.setattr(_device_rows, "BLOCK_BYTES", 6000)
    monkeypatch.setattr(emulated_arrays.EmulatedArrays, "eager_copies", request.param == "early")
    return library


LAYOUTS = {
    "float64": lambda X: X,
    "float32": lambda X: X.astype(np.float32),
    "bytes": lambda X: (10 * X + 128).astype(np.uint8),
    "integers": lambda X: (10 * X).astype(np.int64),
    "Fortran order": np.asfortranarray,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_streamed_scores_are_those_of_arrays_on_the_device(streaming, layout):
    X = LAYOUTS[layout](_data(n=61))
    resident = X.astype(np.float64) if layout == "integers" else np.ascontiguousarray(X)
    on_device, model, other = streaming.from_host(resident), _model(), _model().set_params(device="cuda")
    for ask in ("weighted_log_prob", "score_samples", "reconstruct"):
        result = getattr(other, ask)(X)
        assert isinstance(result, np.ndarray)
        _assert_same(streaming, result, streaming.to_host(getattr(model, ask)(on_device)))


def test_blocks_are_no_larger_than_they_should_be(streaming, monkeypatch):
    """Integers that the kernels do not read come as float64, which is what counts."""
    sizes, pinned = [], type(streaming).pinned

    def measured(self, shape, dtype):
        array = pinned(self, shape, dtype)
        sizes.append(array.nbytes)
        return array

    monkeypatch.setattr(type(streaming), "pinned", measured)
    _model().set_params(device="cuda").score_samples((10 * _data(n=61)).astype(np.int8))
    assert 0 < sum(sizes) <= 2 * (_device_rows.BLOCK_BYTES + 8)  # two slots, each with the index of a bad row


def test_streamed_classes_and_attacks_are_those_of_arrays_on_the_device(streaming):
    X, resident, streamed = _data(n=61), _classifier("sum"), _classifier("sum").set_params(device="cuda")
    on_device = streaming.from_host(X)
    for ask in ("predict", "predict_proba", "decision_function"):
        _assert_same(streaming, getattr(streamed, ask)(X), streaming.to_host(getattr(resident, ask)(on_device)))
    actual, expected = attacks.ld_grad(streamed, X), attacks.ld_grad(resident, on_device)
    for name in ("X_adv", "l2", "success", "n_steps", "source", "target"):
        _assert_same(streaming, getattr(actual, name), streaming.to_host(getattr(expected, name)))


def test_streamed_nearest_examples_are_those_of_arrays_on_the_device(streaming):
    X, resident, streamed = _data(n=25), _classifier(), _classifier().set_params(device="cuda")
    actual, expected = attacks.nearest(streamed, X), attacks.nearest(resident, streaming.from_host(X))
    for name in ("X_adv", "l2", "success", "n_steps", "source", "target", "lower_bound", "certified"):
        assert isinstance(getattr(actual, name), np.ndarray)
        _assert_same(streaming, getattr(actual, name), streaming.to_host(getattr(expected, name)))


def test_streamed_fit(streaming):
    X = _data(n=301)
    a = MFA(3, 2, random_state=0, max_iter=20, tol=1e-1).fit(X)
    b = MFA(3, 2, random_state=0, max_iter=20, tol=1e-1, device="cuda").fit(X)
    assert scaled_error(b.means_, a.means_) <= EM_PARAMETERS_FLOAT32
    assert relative_error(b.lower_bounds_, a.lower_bounds_) <= LOG_DENSITY[np.dtype(np.float64)]


def test_streams_of_the_host_go_through_the_device(streaming):
    X = _data(n=301)
    batches = [X[i : i + 97] for i in range(0, len(X), 97)]
    model = _model().set_params(device="cuda")
    _assert_same(streaming, model.score_samples(batches), model.score_samples(X))
    a, b = (MFA(3, 2, random_state=0, tol=1e-1, device="cuda").fit(data) for data in (X, batches))
    assert scaled_error(a.means_, b.means_) <= EM_PARAMETERS and a.n_iter_ == b.n_iter_
    y = np.arange(301) % 2
    a, b = (MFAClassifier(2, 1, random_state=0, tol=1e-1, device="cuda").fit(data, y) for data in (X, batches))
    assert np.array_equal(a.predict(X), b.predict(batches)) and a.score(X, y) == b.score(batches, y)


def test_streamed_samples(streaming):
    model = _model()
    X, labels = model.set_params(device="cuda").sample(101, random_state=3)
    expected, expected_labels = model.set_params(device=None).sample(101, random_state=3)
    assert isinstance(X, np.ndarray) and np.array_equal(labels, expected_labels)
    assert relative_error(X, expected) <= FACTORS[np.dtype(np.float64)]


@pytest.mark.parametrize("row", [0, 30, 100])
def test_a_bad_row_in_a_stream_is_named_at_once(streaming, row):
    X = _data(n=101)
    X[row, 3] = np.nan
    model = _model().set_params(device="cuda")
    with pytest.raises(ValueError, match="NaN"):
        model.score_samples(X)
    X[row, 3] = 1e200
    with pytest.raises(ValueError, match=f"row {row} of X"):
        model.score_samples(X)
    synchronize()  # nothing is left to be raised


# Errors.


def test_a_bad_row_is_an_error_that_comes_late(library):
    X, model = _data(), _model()
    X[9, 2] = np.inf
    on_device, good = library.from_host(X), library.from_host(_data())
    model.score_samples(on_device)  # which does not wait, and so cannot know
    with pytest.raises(ValueError, match="row 9 of the X of an earlier call, of 75 rows"):
        synchronize()
    synchronize()
    model.score_samples(on_device)
    library.record(library.current()).synchronize()
    with pytest.raises(ValueError, match="row 9"):
        model.score_samples(good)
    for ask in (model.score, MFA(2, 1).fit, _classifier(classes=["a", "b"]).predict):
        with pytest.raises(ValueError, match="infinity"):
            ask(on_device)
    assert np.isfinite(model.score(good))


def test_another_thread_does_not_take_a_call_s_own_error(library, monkeypatch):
    X, y = _data(), np.repeat([3, 7], [40, 35])
    X[9, 2] = np.inf
    on_device, settle, taken = library.from_host(X), Samples.settle, []

    def after_another_thread(samples):
        with ThreadPoolExecutor(1) as pool:
            taken.append(pool.submit(_late_errors.raise_known).exception())
        settle(samples)

    monkeypatch.setattr(Samples, "settle", after_another_thread)
    for ask in (_model().score, _model().e_step, _model().partial_fit, lambda X: _classifier().score(X, y)):
        with pytest.raises(ValueError, match="infinity"):
            ask(on_device)
    assert len(taken) == 4 and all("of an earlier call" in str(error) for error in taken)


@pytest.mark.parametrize(
    ("classes", "dtype", "stray"),
    [((3, 7), np.int64, 5), ((3, 300), np.uint8, 300 - 256), ((3, 4), np.int64, 2), ((3, 4), np.uint8, 9)],
)
def test_a_label_of_no_class_is_an_error_that_comes_late(library, classes, dtype, stray):
    X, y = _data(), np.full(75, 3, dtype)
    y[20] = stray
    for held in ({}, {"source": 1}, {"target": 1}):
        attacks.ld_grad(_classifier(classes=classes), library.from_host(X), library.from_host(y), **held)
        with pytest.raises(ValueError, match=r"row 20 .* its label is none of the model"):
            synchronize()
    y = np.full(75, 5)
    with pytest.raises(ValueError, match="labels that the model does not know"):
        attacks.ld_grad(_classifier(), library.from_host(X), y)


def test_what_is_refused(library):
    X, model = _data(), _model()
    with pytest.raises(ValueError, match="two dimensions"):
        model.score_samples(library.from_host(X[0]))
    with pytest.raises(ValueError, match="features"):
        model.score_samples(library.from_host(X[:, 1:].copy()))
    with pytest.raises(ValueError, match=r"at least one sample"):
        model.score_samples(library.from_host(X[:0]))
    with pytest.raises(TypeError, match="must be of float32, float64, bfloat16, uint8; got int64"):
        model.score_samples(library.from_host(X.astype(np.int64)))
    machine = LinearSVC().fit(X, np.arange(75) % 2)
    for attack in (attacks.ld_grad, attacks.nearest):
        with pytest.raises(CudaUnavailableError, match="a support vector machine has no CUDA kernel"):
            attack(machine, library.from_host(X))
    for ask in (model.impute, model.conditional, MFA(2, 1, missing="marginal").fit):
        with pytest.raises(CudaUnavailableError, match="what takes NaN as a missing value has no CUDA kernel"):
            ask(library.from_host(X))
    with pytest.raises(TypeError, match="X must have its batches in host memory, got one in CUDA memory"):
        MFA(2, 1).fit([X, library.from_host(X)])
    for out in (library.empty((4, SHAPE[1]), np.float64), library.empty((5, SHAPE[1]), np.int64)):
        with pytest.raises(ValueError, match=r"out must be a writeable array of shape \(5, 24\)"):
            model.sample(5, out=out)


def test_the_torch_module_runs_where_its_input_is(library):
    if library.key[0] != "torch":
        pytest.skip("the module takes torch tensors, and the emulated device has none")
    import torch

    from mfa_fast.torch import MFAModule

    X = _data()
    module = MFAModule(_classifier())
    here, there = (torch.tensor(X, device=where, requires_grad=True) for where in ("cpu", "cuda"))
    for x in (here, there):
        module(x).diff(dim=1).sum().backward()
    assert there.grad.device.type == "cuda"
    assert scaled_error(there.grad.cpu().numpy(), here.grad.numpy()) <= ATTACK[np.dtype(np.float64)]


def test_bfloat16_tensors(library):
    if library.key[0] != "torch":
        pytest.skip("bfloat16 comes in torch tensors, and the emulated device has none")
    import torch

    x = torch.tensor(_data(), device="cuda").to(torch.bfloat16)
    rounded = x.float().cpu().numpy()
    scores = _back(library, _model().score_samples(x), np.float32)
    assert relative_error(scores, ref.score_samples(rounded, P)) <= LOG_DENSITY[np.dtype(np.float32)]
