"""Where numbers leave their range, priors vanish, and calls fail half-way."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from sklearn.cluster import KMeans

import reference as ref
from mfa_fast import MFA, MFAClassifier, _core, attacks


def _model(noise_variance=0.1):
    return MFA.from_parameters([0.5, 0.5], [[0.0, 0, 0], [5, 5, 5]], np.ones((2, 1, 3)), noise_variance)


@pytest.mark.parametrize(
    ("means", "loadings", "noise"),
    [(0.0, 1.0, 1e-310), (0.0, 1e160, 1.0), (1e300, 1.0, 1e-6)],
)
def test_parameters_that_overflow_are_refused(means, loadings, noise):
    with pytest.raises(ValueError, match="means, loadings and noise_variance"):
        MFA.from_parameters([0.5, 0.5], [[means] * 3, [0.0] * 3], np.full((2, 1, 3), loadings), noise)


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_a_component_that_is_out_of_range_is_infinitely_far(order):
    # Its squares overflow; whether another one follows it or comes before shows in no result.
    loadings = np.zeros((2, 1, 3))
    loadings[:, 0, 0] = 1e-160
    noise = np.array([[1e-300] * 3, [1.0] * 3])[order]
    model = MFA.from_parameters([0.5, 0.5], np.zeros((2, 3)), loadings, noise)
    alone = MFA.from_parameters([1.0], np.zeros((1, 3)), np.zeros((1, 0, 3)), 1.0)
    x, near = np.array([[0.0, 1e9, 0.0]]), order.index(1)
    assert model.score_samples(x) == alone.score_samples(x) - np.log(2)
    assert model.predict(x) == near
    assert model.predict_proba(x)[0, near] == 1
    assert model.predict_proba(x).sum() == 1
    assert np.array_equal(model.posterior_factors(x)[1], [[0.0]])
    other = MFA.from_parameters([1.0], np.ones((1, 3)), np.zeros((1, 0, 3)), 1.0)
    classifier = MFAClassifier.from_mixtures([model, other])
    assert classifier.predict(x) == 1
    result = attacks.nearest(classifier, x)
    assert result.certified.all()
    assert classifier.predict(result.X_adv) == 0


@pytest.mark.parametrize(("n_components", "n_features"), [(0, 3), (2, 0)])
def test_models_of_nothing_are_refused(n_components, n_features):
    shape = (n_components, n_features)
    loadings = np.zeros((n_components, 1, n_features))
    with pytest.raises(ValueError, match="loadings must have components and features, got"):
        _core.Model(np.ones(n_components), np.zeros(shape), loadings, np.ones(shape))


@pytest.mark.parametrize("weight", [np.nan, -0.5])
def test_weights_without_a_logarithm_are_refused(weight):
    parameters = [np.zeros((2, 3)), np.zeros((2, 1, 3)), np.ones((2, 3))]
    assert _core.Model(np.array([1.0, 0.0]), *parameters).n_components == 2
    with pytest.raises(ValueError, match="to be computed with in float64"):
        _core.Model(np.array([1.0, weight]), *parameters)


def test_noise_that_vanishes_in_float32_is_refused():
    with pytest.raises(ValueError, match="noise_variance must be positive"):
        MFA.from_parameters([1.0], np.zeros((1, 3), np.float32), np.ones((1, 1, 3)), 1e-50)


@pytest.mark.parametrize("method", ["score_samples", "weighted_log_prob", "predict", "predict_proba"])
@pytest.mark.parametrize(("value", "dtype"), [(1e151, np.float64), (1e18, np.float32)])
def test_samples_whose_density_overflows_are_refused(method, value, dtype):
    X = np.zeros((5, 3), dtype)
    X[3] = [value, -value, 0]
    with pytest.raises(ValueError, match=r"row 3 of X .* scale the data"):
        getattr(_model(1e-6), method)(X)


def test_em_names_numbers_too_large():
    X = np.random.default_rng(0).normal(size=(60, 4))
    X[39] = 1e160
    with pytest.raises(ValueError, match="X"):
        MFA(1, 1).fit(X)


@pytest.mark.parametrize("n_threads", [2**62, 2**70, 0, 1.5])
def test_a_wrong_number_of_threads_is_refused(n_threads):
    with pytest.raises((TypeError, ValueError), match="n_threads"):
        _model().set_params(n_threads=n_threads).score_samples(np.zeros((10, 3)))


def test_the_core_refuses_missing_outputs():
    p = _model()
    packed = _core.Model(*(np.ascontiguousarray(a, dtype=float) for a in p._parameters().arrays()))
    X = np.zeros((2, 3))
    with pytest.raises(TypeError, match="out"):
        _core.log_densities(packed, X, None, n_threads=1)
    with pytest.raises(TypeError, match="counts"):
        _core.expectation(packed, X, (None,) * 5, np.zeros(2), screening=False, n_threads=1)


def _halves():
    left = MFA.from_parameters([1.0], [[-1.0, 0.0]], np.ones((1, 1, 2)), 0.1)
    right = MFA.from_parameters([0.0, 1.0], [[1.0, 0.0], [1.0, 1.0]], np.ones((2, 1, 2)), 0.1)
    return left, right


def test_where_no_rival_has_a_chance_the_attack_fails_and_says_so():
    classifier = MFAClassifier.from_mixtures(_halves(), priors=[1.0, 0.0])
    result = attacks.ld_grad(classifier, np.zeros((4, 2)))
    assert not result.success.any()
    assert np.array_equal(result.X_adv, np.zeros((4, 2)))
    weightless = attacks.ld_grad(MFAClassifier.from_mixtures(_halves()), np.array([[-1.0, 0.0]]), target=0)
    assert not weightless.success.any()


def test_classes_in_any_order():
    left, right = _halves()
    classifier = MFAClassifier.from_mixtures([left, right], classes=["right", "left"])
    X, y = classifier.sample(50, random_state=0)
    assert np.mean(classifier.predict(X) == y) > 0.9
    result = attacks.ld_grad(classifier, X, y, steps=10)
    assert np.array_equal(classifier.predict(result.X_adv) != y, result.success)


def test_a_failing_warm_start_leaves_the_classifier_as_it_was():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 4)), np.repeat(["a", "b"], 30)
    classifier = MFAClassifier(2, 1, warm_start=True, random_state=0, tol=1e-1).fit(X, y)
    before = classifier.predict_proba(X)
    spoilt = 2 * X
    spoilt[45] = np.nan
    with pytest.raises(ValueError, match="class 'b'"):
        classifier.fit(spoilt, y)
    assert np.array_equal(classifier.predict_proba(X), before)


def test_parameters_that_are_written_to_are_seen():
    model, X = _model(), np.zeros((4, 3))
    means = np.array([[0.0, 0, 0], [5, 5, 5]])
    model.means_ = means
    before = model.score_samples(X)
    means[0] = 1.0
    assert not np.array_equal(model.score_samples(X), before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_fork_while_another_thread_packs():
    large = ref.random_parameters(60, 1500, 20, noise_std=0.1)
    small, X = _model(), np.zeros((4, 3))
    packing = threading.Thread(target=lambda: MFA.from_parameters(*large))
    packing.start()
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # what hangs is to fail
        small.score_samples(X)
        MFA.from_parameters(*_model()._parameters().arrays()).score_samples(X)
        os._exit(0)
    packing.join()
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_fork_while_another_thread_makes_what_the_first_score_needs():
    model = MFA.from_parameters(*ref.random_parameters(60, 6000, 20, noise_std=0.1)).set_params(n_threads=1)
    X = np.ones((1, 6000))
    scoring = threading.Thread(target=model.score_samples, args=(X,))
    scoring.start()
    time.sleep(0.05)  # some way into it
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        model.score_samples(X)
        os._exit(0)
    assert scoring.is_alive()
    scoring.join()
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_fork_while_another_thread_begins_a_fit(monkeypatch):
    begun, ended, fit = threading.Event(), threading.Event(), KMeans.fit

    def fit_slowly(*args, **options):
        begun.set()
        ended.wait(60)
        return fit(*args, **options)

    X = np.random.default_rng(0).normal(size=(20, 3))
    with monkeypatch.context() as patches:
        patches.setattr(KMeans, "fit", fit_slowly)
        fitting = threading.Thread(target=MFA(2, 1, tol=100, random_state=0).fit, args=(X,))
        fitting.start()
        begun.wait(60)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        MFA(2, 1, tol=100, random_state=0).fit(X)
        os._exit(0)
    ended.set()
    fitting.join()
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not hasattr(signal, "alarm"), reason="this platform has no signals to begin with")
def test_a_fit_within_the_beginning_of_another(monkeypatch):
    X = np.random.default_rng(0).normal(size=(20, 3))
    fit, within = KMeans.fit, []

    def handler(*_):
        within.append(MFA(2, 1, tol=100, random_state=0).fit(X))

    def late(*_):
        raise TimeoutError

    def fit_interrupted(*args, **options):
        monkeypatch.setattr(KMeans, "fit", fit)
        signal.raise_signal(signal.SIGUSR1)
        return fit(*args, **options)

    monkeypatch.setattr(KMeans, "fit", fit_interrupted)
    before = signal.signal(signal.SIGUSR1, handler), signal.signal(signal.SIGALRM, late)
    signal.alarm(30)
    try:
        model = MFA(2, 1, tol=100, random_state=0).fit(X)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGUSR1, before[0])
        signal.signal(signal.SIGALRM, before[1])
    assert np.array_equal(model.means_, within[0].means_)


def test_screening_counts_the_rounding_of_the_row_itself():
    # Two components that are alike but for a little, a row at right angles to the subspace, far away: what rounding to
    # float32 moves it by is worth many nats.
    rng = np.random.default_rng(1)
    d, K, L = 512, 40, 2
    space = np.linalg.qr(rng.normal(size=(d, 24)))[0].T
    means = 1e-3 * rng.normal(size=(K, 24)) @ space
    means[1] = means[0] + 1e-9
    loadings = 1e-3 * rng.normal(size=(K, L, 24)) @ space
    loadings[1] = loadings[0]
    model = MFA.from_parameters(np.full(K, 1 / K), means, loadings, 1e-6)
    X = rng.normal(size=(50, d))
    X = (X - X @ space.T @ space).astype(np.float32)
    full = MFA.from_parameters(*model._parameters().arrays()).set_params(screening=False)
    assert np.max(np.abs(model.predict_proba(X) - full.predict_proba(X))) <= 1e-2


def test_a_gradient_out_of_range_is_refused():
    mixtures = [MFA.from_parameters([1.0], [[float(c), 0.0]], np.zeros((1, 0, 2)), 0.01) for c in range(2)]
    classifier = MFAClassifier.from_mixtures(mixtures)
    samples = classifier._samples(np.array([[0.0, 0.0], [3e38, 0.0]], np.float32))
    with pytest.raises(ValueError, match=r"row 1 .* gradient is out of the range of float32"):
        classifier._scorer().gradient(samples, np.array([[1.0, 0.0], [1.0, 0.0]]), sum_rule=False)


@pytest.mark.parametrize(("bridge", "package"), [("torch", "torch"), ("dask", "dask"), ("dask", "distributed")])
def test_a_bridge_without_its_package_names_the_remedy(bridge, package):
    code = f"import sys, mfa_fast; sys.modules[{package!r}] = None; import mfa_fast.{bridge}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ModuleNotFoundError: mfa_fast.{bridge} needs")
    assert f"pip install 'mfa_fast[{bridge}]'" in last
