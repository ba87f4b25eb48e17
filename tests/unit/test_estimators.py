"""The estimators as scikit-learn expects them."""

import pickle
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import parametrize_with_checks
from threadpoolctl import threadpool_info

import reference as ref
from mfa_fast import MFA, MFAClassifier


@parametrize_with_checks([MFA(), MFAClassifier()])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


P = ref.random_parameters(2, 5, 1)
X = ref.random_samples(P, 120)
Y = np.array(["no", "yes"])[(X[:, 0] > np.median(X[:, 0])).astype(int)]


def _fitted():
    return [
        MFA(2, 1, random_state=0, tol=1e-2).fit(X),
        MFAClassifier(2, 1, random_state=0, tol=1e-2).fit(X, Y),
        MFA.from_parameters(*P),
        MFAClassifier.from_mixtures([MFA.from_parameters(*P)] * 2),
    ]


fitted_models = pytest.mark.parametrize("index", range(4))


@fitted_models
def test_state_is_arrays_and_plain_parameters(index):
    plain = (np.ndarray, np.generic, str, bool, int, float, type(None))

    def check(value, name):
        if isinstance(value, (list, tuple)):
            for item in value:
                check(item, name)
        elif isinstance(value, MFA):
            for key, item in vars(value).items():
                check(item, f"{name}.{key}")
        else:
            assert isinstance(value, plain), f"{name} is a {type(value)}"

    model = _fitted()[index]
    model.predict(X)
    for key, item in vars(model).items():
        check(item, key)


@fitted_models
def test_pickle(index):
    model = _fitted()[index]
    for _ in range(2):  # the second time with whatever scoring has cached
        copy = pickle.loads(pickle.dumps(model))
        assert np.array_equal(copy.predict_proba(X), model.predict_proba(X))


@fitted_models
def test_joblib(index, tmp_path):
    model = _fitted()[index]
    joblib.dump(model, tmp_path / "model.joblib")
    copy = joblib.load(tmp_path / "model.joblib", mmap_mode="r")
    assert np.array_equal(copy.predict_proba(X), model.predict_proba(X))


def test_used_from_many_threads():
    for model in _fitted():
        expected = model.predict_proba(X)
        values = joblib.Parallel(n_jobs=4, prefer="threads")(joblib.delayed(model.predict_proba)(X) for _ in range(16))
        for value in values:
            assert np.array_equal(value, expected)


def test_fitted_in_many_threads(monkeypatch):
    fit = KMeans.fit

    def fit_slowly(*args, **options):
        time.sleep(0.02)  # others begin and end meanwhile
        warnings.warn("EM of another thread did not converge", ConvergenceWarning, stacklevel=2)
        return fit(*args, **options)

    monkeypatch.setattr(KMeans, "fit", fit_slowly)
    pools = threadpool_info()
    with ThreadPoolExecutor(4) as threads, pytest.warns(ConvergenceWarning, match="of another thread"):
        filters = list(warnings.filters)
        models = list(threads.map(lambda _: MFA(2, 1, tol=100, random_state=0).fit(X), range(8)))
        assert list(warnings.filters) == filters
    assert threadpool_info() == pools
    for model in models:
        assert np.array_equal(model.means_, models[0].means_)


def test_used_from_worker_processes():
    for model in _fitted()[:2]:
        values = joblib.Parallel(n_jobs=2)(joblib.delayed(model.predict_proba)(X) for _ in range(2))
        for value in values:
            assert np.array_equal(value, model.predict_proba(X))


@pytest.mark.parametrize("estimator", [MFA, MFAClassifier])
def test_clone_copies_parameters_alone(estimator):
    model = estimator(3, 2, noise_type="diag", tol=0.5, random_state=7)
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    assert not [name for name in vars(copy) if name.endswith("_")]


@pytest.mark.parametrize("estimator", [MFA, MFAClassifier])
def test_parameters_are_stored_as_given(estimator):
    given = {"n_components": 4, "n_factors": 3, "tied_noise": True, "max_iter": 9, "n_threads": 2}
    model = estimator().set_params(**given)
    assert {name: model.get_params()[name] for name in given} == given
    with pytest.raises(ValueError, match="nonsense"):
        model.set_params(nonsense=1)


def test_fit_returns_self_and_sets_what_is_promised():
    model = MFA(2, 1, random_state=0)
    assert model.fit(X) is model
    assert model.n_features_in_ == 5
    assert model.weights_.shape == (2,)
    assert model.means_.shape == (2, 5)
    assert model.loadings_.shape == (2, 1, 5)
    assert model.noise_variance_.shape == (2, 5)
    assert isinstance(model.converged_, (bool, np.bool_))
    assert model.n_iter_ >= 1
    assert model.lower_bound_ == pytest.approx(model.lower_bounds_[-1], rel=1e-3)


def test_fit_predict_is_predict_after_fit():
    model = MFA(2, 1, random_state=0)
    labels = model.fit_predict(X)
    assert np.array_equal(labels, model.predict(X))


def test_classifier_keeps_what_is_promised():
    model = MFAClassifier(2, 1, random_state=0)
    assert model.fit(X, Y) is model
    assert list(model.classes_) == ["no", "yes"]
    assert model.priors_ == pytest.approx([np.mean(Y == "no"), np.mean(Y == "yes")])
    assert [type(m) for m in model.mixtures_] == [MFA, MFA]
    assert model.n_features_in_ == 5


def test_repr_names_what_differs_from_the_default():
    assert repr(MFA(n_components=3)) == "MFA(n_components=3)"


def test_cached_models_follow_the_parameters():
    model = MFA.from_parameters(*P)
    model.score_samples(X)
    model.means_ = model.means_ + 1
    moved = MFA.from_parameters(*P._replace(means=P.means + 1))
    assert np.array_equal(model.score_samples(X), moved.score_samples(X))
    model.fit(X)
    assert np.array_equal(model.score_samples(X), pickle.loads(pickle.dumps(model)).score_samples(X))


@pytest.mark.parametrize("fitted", [False, True], ids=["unfitted", "fitted"])
@pytest.mark.parametrize("make", [MFA, MFAClassifier])
def test_the_html_names_the_parameters_and_links_nowhere(make, fitted):
    model = make(2, 1, noise_type="diag")
    page = (model.fit(X, Y) if fitted else model)._repr_html_()
    assert make.__name__ in page
    assert "noise_type" in page
    # scikit-learn would link to its own documentation, which has nothing on these.
    assert "href=" not in page


@pytest.mark.parametrize(
    ("noise_variance", "noise_type", "tied"),
    [
        (1.0, "spherical", True),
        ([[1.0], [2.0]], "spherical", False),
        ([[1.0, 2.0], [1.0, 2.0]], "diag", True),
        ([[1.0, 1.0], [1.0, 2.0]], "diag", False),
    ],
)
def test_what_given_noise_has_in_common_is_what_an_m_step_keeps_to(noise_variance, noise_type, tied):
    model = MFA.from_parameters([0.5, 0.5], np.zeros((2, 2)), np.ones((2, 1, 2)), noise_variance)
    assert (model.noise_type, model.tied_noise) == (noise_type, tied)
