"""Mixtures on Dask arrays, on a cluster of two worker processes."""

import asyncio
import warnings
from functools import partial

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.svm import SVC

import reference as ref
from fits import starting_from
from mfa_fast import MFA, CudaUnavailableError, MFAClassifier, attacks
from tolerances import EM_PARAMETERS, scaled_error

dask = pytest.importorskip("dask", reason="dask is not installed")
da = pytest.importorskip("dask.array", reason="dask[array] is not installed")
distributed = pytest.importorskip("distributed", reason="distributed is not installed")

from mfa_fast import dask as mfa_dask  # noqa: E402
from mfa_fast._dask_blocks import for_task  # noqa: E402

NAMES = ("weights_", "means_", "loadings_", "noise_variance_")


@pytest.fixture(scope="module")
def cluster():
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def client(cluster):
    cluster.wait_for_workers(2, timeout=30)
    return cluster


@pytest.fixture
def here():
    """Compute where we are; the cluster's client would else be taken."""
    with dask.config.set(scheduler="synchronous"):
        yield


def _problem(n=900, shape=(3, 8, 2), **options):
    options = {"noise_std": 0.7, **options}
    X = ref.random_samples(ref.random_parameters(*shape, **options, seed=1), n, seed=2)
    return X, ref.random_parameters(*shape, **options, seed=3)


_estimator = partial(starting_from, max_iter=5)


def _fit(fit, *arguments, **options):
    """Fit without the warning that the iterations were not enough."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return fit(*arguments, **options)


def _assert_same_model(a, b, tolerance):
    for name in NAMES:
        assert getattr(a, name).dtype == getattr(b, name).dtype
        assert scaled_error(getattr(a, name), getattr(b, name)) <= tolerance, name
    assert scaled_error(a.lower_bounds_, b.lower_bounds_) <= tolerance


def _mixtures(dtype=np.float64):
    mixtures = [ref.random_parameters(3, 6, 2, noise_std=0.1, seed=seed) for seed in (1, 2)]
    return [MFA.from_parameters(*(np.asarray(value, dtype) for value in mixture)) for mixture in mixtures]


# ------------------------------------------------------------------------------------------------------------ fitting


def test_fit_needs_a_client():  # the first test, as the cluster's client serves all that come after it
    with pytest.raises(ValueError, match="there is none"):
        mfa_dask.fit(MFA(), da.zeros((10, 6), chunks=(5, 6)))


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (np.float64, {}),
        (np.float32, {"noise_type": "diag"}),
        (">f4", {}),  # of the other byte order
        (np.uint8, {"noise_type": "diag", "tied_noise": True}),
        (np.float64, {"tied_noise": True, "screening": False, "n_threads": 2}),
    ],
)
def test_fit_agrees_with_the_local_one(client, dtype, options):
    X, start = _problem()
    if dtype == np.uint8:
        X = np.clip(16 * X + 128, 0, 255)
        start = start._replace(means=16 * start.means + 128, noise_variance=256 * start.noise_variance)
    X = X.astype(dtype)
    estimator = _estimator(start, **options)
    # Blocks of many sizes, none too, and of a few features each.
    blocks = da.from_array(X, chunks=((1, 299, 0, 500, 100), (3, 3, 2)))
    model = _fit(mfa_dask.fit, estimator, blocks, client=client)
    assert not hasattr(estimator, "means_")
    tolerance = 1e-6 if X.dtype.name == "float32" else EM_PARAMETERS
    _assert_same_model(model, _fit(estimator.fit, X), tolerance)
    assert type(model) is MFA
    assert model.n_iter_ == 5
    assert model.n_features_in_ == 8
    assert model.get_params() == estimator.get_params()


def test_the_first_parameters_are_those_of_the_local_fit_if_all_rows_are_pulled(client):
    X, _ = _problem()
    estimator = MFA(3, 2, random_state=0, n_init=2, max_iter=8, tol=0)
    model = _fit(mfa_dask.fit, estimator, da.from_array(X, chunks=(250, -1)))
    _assert_same_model(model, _fit(estimator.fit, X), 1e-7)


def test_the_first_parameters_from_some_rows(client):
    X, _ = _problem()
    estimator = MFA(3, 2, random_state=0, tol=0.05, max_iter=50)
    blocks = da.from_array(X, chunks=(250, -1))
    model = mfa_dask.fit(estimator, blocks, init_rows=100)
    assert model.converged_
    assert 1 < model.n_iter_ < 50
    assert model.score(X) > model.lower_bounds_[0]
    _assert_same_model(model, mfa_dask.fit(estimator, blocks, init_rows=100), 0)
    other = mfa_dask.fit(estimator.set_params(random_state=1), blocks, init_rows=100)
    assert not np.array_equal(other.means_, model.means_)


def test_bit_identical_for_any_number_of_workers_and_threads(client):
    X, start = _problem()
    blocks = da.from_array(X, chunks=(130, -1))
    estimator = _estimator(start)
    two = _fit(mfa_dask.fit, estimator, blocks, client=client)
    with distributed.Client(
        n_workers=1, threads_per_worker=3, processes=False, dashboard_address=":0", set_as_default=False
    ) as other:
        one = _fit(mfa_dask.fit, estimator.set_params(n_threads=3), blocks, client=other)
    _assert_same_model(one, two, 0)


def test_lost_components_are_placed_as_in_the_local_fit(client):
    X, start = _problem()
    start.means[1] = 1e5
    estimator = _estimator(start, max_iter=3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model = mfa_dask.fit(estimator, da.from_array(X, chunks=(200, -1)))
    assert any("component(s) 1 had lost all samples" in str(warning.message) for warning in caught)
    _assert_same_model(model, _fit(estimator.fit, X), EM_PARAMETERS)


def test_warm_start_goes_on_where_it_stopped(client):
    X, start = _problem()
    blocks = da.from_array(X, chunks=(300, -1))
    estimator = _estimator(start, max_iter=3, warm_start=True)
    half = _fit(mfa_dask.fit, estimator, blocks)
    whole = _fit(mfa_dask.fit, half, blocks)
    expected = _fit(_estimator(start, max_iter=6).fit, X)
    for name in NAMES:
        assert scaled_error(getattr(whole, name), getattr(expected, name)) <= EM_PARAMETERS
    assert half.n_iter_ == whole.n_iter_ == 3


def test_what_an_earlier_fit_left_does_not_matter(client):
    X, _ = _problem()
    blocks = da.from_array(X, chunks=(300, -1))
    estimator = MFA(3, 2, random_state=0, max_iter=3, tol=0)
    expected = _fit(mfa_dask.fit, estimator, blocks)
    _fit(estimator.fit, X[:, :5])
    estimator.feature_names_in_ = np.array(list("abcde"), dtype=object)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = mfa_dask.fit(estimator, blocks)
    _assert_same_model(model, expected, 0)
    assert not hasattr(model, "feature_names_in_")
    assert estimator.n_features_in_ == 5


def _labelled(n=900):
    """Samples of three classes in no order, with few features."""
    mixtures = [ref.random_parameters(2, 6, 2, noise_std=0.7, seed=seed) for seed in (1, 2, 3)]
    labels = np.random.default_rng(0).choice(3, n, p=[0.5, 0.3, 0.2])
    samples = np.stack([ref.random_samples(mixture, n, seed=seed) for seed, mixture in enumerate(mixtures)])
    return samples[labels, np.arange(n)], np.array(["a", "bb", "c"])[labels]


def _assert_same_classifier(a, b, tolerance):
    assert a.classes_.dtype == b.classes_.dtype
    assert np.array_equal(a.classes_, b.classes_)
    assert np.array_equal(a.priors_, b.priors_)
    assert np.array_equal(a.class_count_, b.class_count_)
    assert a.n_iter_ == b.n_iter_
    assert vars(a).keys() == vars(b).keys()
    assert len(a.mixtures_) == len(b.mixtures_)
    for one, other in zip(a.mixtures_, b.mixtures_, strict=True):
        assert vars(one).keys() == vars(other).keys()
        assert one.get_params() == other.get_params()
        assert one.n_samples_seen_ == other.n_samples_seen_
        _assert_same_model(one, other, tolerance)


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (np.float64, {"priors": "uniform", "noise_type": "diag"}),
        (np.float32, {"rule": "sum"}),
        (np.float64, {"missing": "marginal", "tied_noise": True}),
    ],
)
def test_a_classifier_agrees_with_the_local_one(client, dtype, options):
    X, y = _labelled()
    X = X.astype(dtype)
    if "missing" in options:
        X[np.random.default_rng(1).random(X.shape) < 0.05] = np.nan
    y[:50] = "a"  # a block without the other classes
    classifier = MFAClassifier(2, 2, random_state=0, max_iter=5, tol=0, **options)
    blocks = da.from_array(X, chunks=((50, 0, 450, 400), (4, 2)))
    expected = _fit(classifier.fit, X, y)
    classifier = MFAClassifier(**classifier.get_params())
    model = _fit(mfa_dask.fit, classifier, blocks, da.from_array(y, chunks=300), client=client)
    assert not hasattr(classifier, "mixtures_")
    assert type(model) is MFAClassifier
    _assert_same_classifier(model, expected, 1e-6 if dtype == np.float32 else 1e-7)
    _assert_same_classifier(_fit(mfa_dask.fit, classifier, blocks, y, client=client), model, 0)
    assert np.array_equal(mfa_dask.predict(model, blocks).compute(), model.predict(X))


def test_a_classifier_is_bit_identical_for_any_number_of_workers_and_starts_from_some_rows(client):
    X, y = _labelled()
    blocks = da.from_array(X, chunks=(130, -1))
    classifier = MFAClassifier(2, 2, random_state=0, max_iter=5, tol=0)
    two = _fit(mfa_dask.fit, classifier, blocks, y, client=client, init_rows=100)
    with distributed.Client(
        n_workers=1, threads_per_worker=3, processes=False, dashboard_address=":0", set_as_default=False
    ) as other:
        one = _fit(mfa_dask.fit, classifier, blocks, y, client=other, init_rows=100)
    _assert_same_classifier(one, two, 0)


def test_a_classifier_goes_on_where_it_stopped(client):
    X, y = _labelled()
    blocks = da.from_array(X, chunks=(300, -1))
    parameters = {"random_state": 0, "tol": 0, "warm_start": True}
    half = _fit(mfa_dask.fit, MFAClassifier(2, 2, max_iter=2, **parameters), blocks, y)
    whole = _fit(mfa_dask.fit, half.set_params(max_iter=3), blocks, y)
    expected = _fit(MFAClassifier(2, 2, max_iter=5, **parameters).fit, X, y)
    for one, other in zip(whole.mixtures_, expected.mixtures_, strict=True):
        for name in NAMES:
            assert scaled_error(getattr(one, name), getattr(other, name)) <= 1e-7
    assert half.n_iter_ == 2
    assert whole.n_iter_ == 3


def test_errors_of_a_classifier_name_the_class_or_the_rows(client):
    X, y = _labelled()
    blocks = da.from_array(X, chunks=(300, -1))
    with pytest.raises(ValueError, match="y must be given"):
        mfa_dask.fit(MFAClassifier(), blocks)
    with pytest.raises(ValueError, match="y must be None"):
        mfa_dask.fit(MFA(), blocks, y)
    with pytest.raises(ValueError, match=r"y must have shape \(900,\)"):
        mfa_dask.fit(MFAClassifier(), blocks, y[:-1])
    with pytest.raises(ValueError, match="at least two classes"):
        mfa_dask.fit(MFAClassifier(), blocks, np.zeros(900))
    with pytest.raises(ValueError, match=r"rows 300 to 599: y must hold .*: Unknown label type: continuous"):
        mfa_dask.fit(MFAClassifier(), blocks, np.where(np.arange(900) == 400, 0.5, 1.0))
    with pytest.raises(ValueError, match=r"rows 300 to 599: y must not be masked"):
        mfa_dask.fit(MFAClassifier(), blocks, np.ma.masked_where(np.arange(900) == 400, np.ones(900)))
    with pytest.raises(ValueError, match="rule"):
        mfa_dask.fit(MFAClassifier(rule="best"), blocks, y)
    rare = np.where(np.arange(900) == 400, "rare", y)
    with pytest.raises(ValueError, match=r"class 'rare' \(1 sample\(s\)\) cannot be fitted.*at least two samples"):
        _fit(mfa_dask.fit, MFAClassifier(max_iter=1), blocks, rare)
    X[333] = np.nan
    blocks = da.from_array(X, chunks=(300, -1))
    with pytest.raises(ValueError, match=r"cannot be fitted: rows 300 to 599 of X, \d+ of them of the class: .*NaN"):
        _fit(mfa_dask.fit, MFAClassifier(random_state=0), blocks, y, init_rows=10)


def test_a_task_has_one_thread_unless_the_model_says_otherwise():
    model = _mixtures()[0]
    assert for_task(model).n_threads == 1
    assert model.n_threads is None
    assert for_task(model.set_params(n_threads=3)).n_threads == 3
    svc = SVC()
    assert for_task(svc) is svc
    with pytest.raises(CudaUnavailableError, match="workers run on CPUs"):
        for_task(model.set_params(device="cuda"))


# --------------------------------------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_scores_and_predictions(here, dtype):
    mixture, other = _mixtures()
    classifier = MFAClassifier.from_mixtures([mixture, other], classes=["left", "right"])
    X, y = classifier.sample(200, random_state=0)
    X = (10 * X).astype(dtype)
    blocks = da.from_array(X, chunks=((0, 7, 100, 93), (4, 2)))
    scores = mfa_dask.score_samples(mixture, blocks)
    labels = mfa_dask.predict(mixture, blocks)
    classes = mfa_dask.predict(classifier, blocks)
    for model in (mixture, classifier):
        probabilities = mfa_dask.predict_proba(model, blocks)
        assert probabilities.chunks == (blocks.chunks[0], (len(model.predict_proba(X[:1])[0]),))
        assert probabilities.dtype == model.predict_proba(X).dtype
        assert np.array_equal(probabilities.compute(), model.predict_proba(X))
    for lazy, local in (
        (scores, mixture.score_samples(X)),
        (labels, mixture.predict(X)),
        (classes, classifier.predict(X)),
    ):
        assert lazy.chunks == (blocks.chunks[0],)
        assert lazy.dtype == local.dtype
        computed = lazy.compute()
        assert computed.dtype == local.dtype
        assert np.array_equal(computed, local)
    assert mfa_dask.score(mixture, blocks) == pytest.approx(mixture.score(X), rel=1e-12)
    for given in (y, da.from_array(y, chunks=60)):
        assert mfa_dask.score(classifier, blocks, given) == pytest.approx(classifier.score(X, y), abs=1e-12)


def test_unknown_chunk_sizes(here):
    classifier = MFAClassifier.from_mixtures(_mixtures())
    X, y = classifier.sample(200, random_state=0)
    blocks = da.from_array(X, chunks=(30, 2))
    positive = blocks[blocks[:, 0] > 0]
    labels = da.from_array(y, chunks=30)[blocks[:, 0] > 0]
    kept = X[:, 0] > 0
    assert np.isnan(positive.shape[0])
    assert np.array_equal(mfa_dask.predict(classifier, positive).compute(), classifier.predict(X[kept]))
    assert mfa_dask.score(classifier, positive, labels) == classifier.score(X[kept], y[kept])
    result = dask.compute(mfa_dask.ld_grad(classifier, positive, labels))[0]
    assert np.array_equal(result.l2, attacks.ld_grad(classifier, X[kept], y[kept]).l2)
    with pytest.raises(ValueError, match="y must be a Dask array"):
        mfa_dask.score(classifier, positive, y[kept])
    with pytest.raises(ValueError, match="the same blocks"):
        mfa_dask.score(classifier, positive, da.from_array(y[kept], chunks=11))
    with pytest.raises(ValueError, match="compute_chunk_sizes"):
        mfa_dask.fit(MFA(), positive)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_samples_are_those_of_the_model(here, dtype):
    mixtures = _mixtures(dtype)
    for model in (mixtures[0], MFAClassifier.from_mixtures(mixtures, classes=["left", "right"])):
        for chunks in (40, (1, 0, 99), "auto"):
            X, labels = mfa_dask.sample(model, 100, chunks=chunks, random_state=5, start=7)
            local = model.sample(100, random_state=5, start=7)
            assert labels.chunks == X.chunks[:1]
            assert X.chunks[0] == {40: (40, 40, 20), "auto": (100,)}.get(chunks, (1, 99))
            for lazy, expected in zip((X, labels), local, strict=True):
                assert lazy.dtype == expected.dtype
                assert np.array_equal(lazy.compute(), expected)
    X, _ = mfa_dask.sample(mixtures[0].set_params(random_state=5), 10, noise=False)
    assert np.array_equal(X.compute(), mixtures[0].sample(10, noise=False, random_state=5)[0])


def test_what_the_cluster_gives(client):
    classifier = MFAClassifier.from_mixtures(_mixtures())
    X, y = mfa_dask.sample(classifier, 200, chunks=60, random_state=0)
    X, y = dask.persist(X, y)
    local = classifier.sample(200, random_state=0)
    assert np.array_equal(X.compute(), local[0])
    assert np.array_equal(mfa_dask.predict(classifier, X).compute(), classifier.predict(local[0]))
    result = dask.persist(mfa_dask.ld_grad(classifier, X, y))[0]
    assert result.summary() == pytest.approx(attacks.ld_grad(classifier, *local).summary(), rel=1e-12, nan_ok=True)


@pytest.mark.parametrize("labels", ["none", "numpy", "dask"])
@pytest.mark.parametrize("kind", ["mixtures", "machine"])
def test_ld_grad_is_that_of_the_model(here, kind, labels):
    classifier = MFAClassifier.from_mixtures(_mixtures(np.float32))
    X, y = classifier.sample(150, random_state=0)
    model = classifier if kind == "mixtures" else SVC(kernel="linear").fit(X, y)
    given = {"none": None, "numpy": y, "dask": da.from_array(y, chunks=40)}[labels]
    result = mfa_dask.ld_grad(model, da.from_array(X, chunks=((70, 0, 80), 3)), given, steps=2, clip=(-20, 20))
    local = attacks.ld_grad(model, X, None if given is None else y, steps=2, clip=(-20, 20))
    computed = dask.compute(result)[0]
    assert isinstance(computed, attacks.AttackResult)
    for name in ("X_adv", "l2", "success", "n_steps", "source", "target", "lower_bound", "certified"):
        lazy, expected = getattr(result, name), getattr(local, name)
        assert lazy.chunks[0] == (70, 80)
        assert lazy.dtype == expected.dtype == getattr(computed, name).dtype
        assert np.array_equal(getattr(computed, name), expected, equal_nan=name == "lower_bound"), name


# ---------------------------------------------------------------------------------------------------------- arguments


def test_errors_of_samples_tell_their_rows(client):
    X, start = _problem()
    X[333, 2] = np.nan
    with pytest.raises(ValueError, match=r"rows 300 to 599 of X.*NaN"):
        mfa_dask.fit(_estimator(start), da.from_array(X, chunks=(300, -1)))


def test_errors_of_samples_to_start_from_tell_their_rows(client):
    X, _ = _problem()
    X[333, 2] = np.nan
    blocks = da.from_array(X, chunks=(300, -1))
    for estimator, y, init_rows in ((MFA(random_state=1), None, 800), (MFAClassifier(), np.arange(900) % 3, 1000)):
        with pytest.raises(ValueError, match=r"Input X contains NaN, in row 333\."):
            mfa_dask.fit(estimator, blocks, y, init_rows=init_rows)


def test_wrong_arrays(here):
    model = _mixtures()[0]
    X = da.zeros((10, 6), chunks=(5, 6))
    for call in (
        mfa_dask.score_samples,
        mfa_dask.predict,
        mfa_dask.score,
        mfa_dask.ld_grad,
        lambda model, X: mfa_dask.fit(MFA(), X),
    ):
        with pytest.raises(TypeError, match="X must be a Dask array, got an object of type ndarray"):
            call(model, np.zeros((10, 6)))
        with pytest.raises(ValueError, match="X must have shape"):
            call(model, da.zeros(10))
        with pytest.raises(TypeError, match="complex128"):
            call(model, X.astype(complex))
    for call in (mfa_dask.score_samples, mfa_dask.predict, mfa_dask.score):
        with pytest.raises(ValueError, match="5 features"):
            call(model, X[:, :5])
    with pytest.raises(ValueError, match="at least one sample"):
        mfa_dask.score(model, X[:0])


def test_wrong_models(here):
    X = da.zeros((10, 6), chunks=(5, 6))
    classifier = MFAClassifier.from_mixtures(_mixtures())
    with pytest.raises(TypeError, match="estimator must be an MFA or MFAClassifier, got an object of type SVC"):
        mfa_dask.fit(SVC(), X)
    with pytest.raises(TypeError, match="model must be an MFA, got an object of type MFAClassifier"):
        mfa_dask.score_samples(classifier, X)
    for call in (
        mfa_dask.predict,
        mfa_dask.predict_proba,
        mfa_dask.score,
        lambda model, X: mfa_dask.sample(model, 3),
    ):
        with pytest.raises(TypeError, match="model must be an MFA or MFAClassifier"):
            call(SVC(), X)
        with pytest.raises(NotFittedError):
            call(MFA(), X)


def test_wrong_arguments(client):
    mixtures = _mixtures()
    classifier = MFAClassifier.from_mixtures(mixtures)
    X = da.zeros((10, 6), chunks=(5, 6))
    for arguments, message in [
        ({"client": "tcp://"}, "client must be a distributed.Client"),
        ({"init_rows": 2.5}, "init_rows"),
    ]:
        with pytest.raises(TypeError, match=message):
            mfa_dask.fit(MFA(), X, **arguments)
    with pytest.raises(ValueError, match="init_rows"):
        mfa_dask.fit(MFA(5), X, init_rows=4)
    with pytest.raises(ValueError, match="n_components=11"):
        mfa_dask.fit(MFA(11), X)
    with pytest.raises(ValueError, match="n_factors=6"):
        mfa_dask.fit(MFA(1, 6), X)
    with pytest.raises(ValueError, match="tol"):
        mfa_dask.fit(MFA(tol=-1.0), X)
    with pytest.raises(ValueError, match="at least two samples"):
        mfa_dask.fit(MFA(), X[:1])
    with pytest.raises(ValueError, match="y must be None"):
        mfa_dask.score(mixtures[0], X, np.zeros(10))
    with pytest.raises(ValueError, match="y must be given"):
        mfa_dask.score(classifier, X)
    with pytest.raises(ValueError, match=r"y must have shape \(10,\)"):
        mfa_dask.ld_grad(classifier, X, np.zeros(9))
    with pytest.raises(ValueError, match="steps"):
        mfa_dask.ld_grad(classifier, X, steps=-1)
    with pytest.raises(TypeError, match="stepz"):
        mfa_dask.ld_grad(classifier, X, stepz=1)
    with pytest.raises(ValueError, match="chunks must be"):
        mfa_dask.sample(mixtures[0], 10, chunks=(3, 4))
    with pytest.raises(ValueError, match="n_samples"):
        mfa_dask.sample(mixtures[0], 0)


def test_fit_does_not_run_in_an_event_loop(client):
    async def fit():
        async with distributed.Client(client.scheduler.address, asynchronous=True, set_as_default=False) as other:
            mfa_dask.fit(MFA(), da.zeros((10, 6), chunks=(5, 6)), client=other)

    with pytest.raises(TypeError, match="an asynchronous one"):
        asyncio.run(fit())
