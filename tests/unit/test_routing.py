"""Sample weights on their way through scikit-learn's meta-estimators."""

import numpy as np
import pytest
import sklearn
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import reference as ref
from mfa_fast import MFA, MFAClassifier

P = ref.random_parameters(3, 5, 1, noise_std=0.3)
X = ref.random_samples(P, 150)
Y = (X[:, 0] > np.median(X[:, 0])).astype(int)
# Those with a weight of 0 are as good as removed, which shows wherever weights get lost.
WEIGHTS = np.random.default_rng(0).integers(0, 3, len(X)).astype(float)
FOLDS = KFold(3)
SHARED = {"n_components": 2, "n_factors": 1, "init_params": "k-means++", "random_state": 0, "tol": 1e-2}


@pytest.fixture(autouse=True)
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def _weighted(estimator):
    return estimator.set_fit_request(sample_weight=True).set_score_request(sample_weight=True)


ESTIMATORS = pytest.mark.parametrize("make", [MFA, MFAClassifier], ids=lambda c: c.__name__)


@ESTIMATORS
def test_a_pipeline_passes_weights_on(make):
    pipeline = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), _weighted(make(**SHARED)))
    pipeline.fit(X, Y, sample_weight=WEIGHTS)
    scaled = StandardScaler().fit_transform(X)
    alone = make(**SHARED).fit(scaled, Y, sample_weight=WEIGHTS)
    assert np.array_equal(pipeline.predict_proba(X), alone.predict_proba(scaled))
    assert pipeline.score(X, Y, sample_weight=WEIGHTS) == alone.score(scaled, Y, sample_weight=WEIGHTS)
    assert pipeline.score(X, Y, sample_weight=WEIGHTS) != alone.score(scaled, Y)


@ESTIMATORS
def test_cross_validation_passes_weights_on(make):
    found = cross_validate(
        _weighted(make(**SHARED)), X, Y, cv=FOLDS, params={"sample_weight": WEIGHTS}, return_train_score=True
    )
    for fold, (train, test) in enumerate(FOLDS.split(X)):
        model = make(**SHARED).fit(X[train], Y[train], sample_weight=WEIGHTS[train])
        for name, rows in (("train_score", train), ("test_score", test)):
            assert found[name][fold] == model.score(X[rows], Y[rows], sample_weight=WEIGHTS[rows])


@ESTIMATORS
def test_a_search_passes_weights_on(make):
    search = GridSearchCV(_weighted(make(**SHARED)), {"n_components": [1, 3]}, cv=FOLDS)
    search.fit(X, Y, sample_weight=WEIGHTS)
    for place, n_components in enumerate([1, 3]):
        scores = []
        for train, test in FOLDS.split(X):
            model = make(**SHARED | {"n_components": n_components})
            model.fit(X[train], Y[train], sample_weight=WEIGHTS[train])
            scores.append(model.score(X[test], Y[test], sample_weight=WEIGHTS[test]))
        assert search.cv_results_["mean_test_score"][place] == pytest.approx(np.mean(scores), rel=1e-12)
    best = make(**SHARED | search.best_params_).fit(X, Y, sample_weight=WEIGHTS)
    assert np.array_equal(search.predict_proba(X), best.predict_proba(X))


@ESTIMATORS
def test_weights_that_nobody_asked_for_are_refused(make):
    with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
        cross_validate(make(**SHARED), X, Y, cv=FOLDS, params={"sample_weight": WEIGHTS})
