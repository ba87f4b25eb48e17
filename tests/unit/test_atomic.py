"""Fits and steps that fail leave the model as it was."""

import pickle
import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

import reference as ref
from mfa_fast import MFA, MFAClassifier

X = ref.random_samples(ref.random_parameters(2, 5, 1, noise_std=0.7, seed=1), 120, stray=0)
Y = np.arange(120) % 2


def _with(value):
    batch = X[:60].copy()
    batch[-1, 2] = value
    return batch


# Batches with their weights, and what of a message tells why not.
REFUSED = {
    "NaN": (_with(np.nan), None, "NaN"),
    "infinity": (_with(np.inf), None, "infinity"),
    "too large": (_with(1e200), None, r"row \d+ of X|scale"),
    "no row": (X[:0], None, "0 sample"),
    "one feature": (X[:60, :1], None, "features"),
    "three dimensions": (X[:60, :, None], None, "dim"),
    "words": (np.full((60, 5), "a"), None, "X"),
    "negative weights": (X[:60], -np.ones(60), "sample_weight"),
    "no weight": (X[:60], np.zeros(60), "sample_weight"),
    "weights of other rows": (X[:60], np.ones(59), "sample_weight"),
}
refused = pytest.mark.parametrize("batch", REFUSED)


def _models():
    """Models and classifiers that know nothing, or have been fitted, or moved by batches."""
    options = {"random_state": 0, "tol": 0.1}
    yield MFA(2, 1, **options), ()
    yield MFA(2, 1, **options).fit(X), ()
    yield MFA(2, 1, **options).partial_fit(X[:60]).partial_fit(X[60:]), ()
    yield MFAClassifier(1, 1, **options), (Y,)
    yield MFAClassifier(1, 1, **options).fit(X, Y), (Y,)
    yield MFAClassifier(1, 1, **options).partial_fit(X, Y, classes=[0, 1]), (Y,)


def _state(model):
    """All that there is of a model, as bytes."""
    return {name: pickle.dumps(value) for name, value in vars(model).items()}


@refused
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_what_is_refused_changes_nothing(batch, method):
    data, weights, words = REFUSED[batch]
    for model, y in _models():
        before = _state(model)
        labels = tuple(labels[: len(data)] for labels in y)
        more = {"classes": [0, 1]} if y and method == "partial_fit" else {}
        with pytest.raises((ValueError, TypeError), match=words):
            getattr(model, method)(data, *labels, sample_weight=weights, **more)
        assert _state(model) == before


def test_a_class_that_cannot_be_fitted_leaves_the_others_as_they_were():
    classifier = MFAClassifier(1, 1, random_state=0, warm_start=True).fit(X, Y)
    before = _state(classifier)
    data = X.copy()
    data[-1] = np.nan  # of class 1, whose turn comes last
    for method in ("fit", "partial_fit"):
        with pytest.raises(ValueError, match="class 1 "):
            getattr(classifier, method)(data, Y)
        assert _state(classifier) == before


def test_a_batch_that_a_step_cannot_take_changes_nothing():
    model = MFA(2, 1, random_state=0).partial_fit(X.astype(np.float32))
    before = _state(model)
    with pytest.raises(ValueError, match=r"component\(s\) .* out of its range"):
        model.partial_fit(1e30 * X)
    assert _state(model) == before
    with pytest.raises(ValueError, match=r"component\(s\) .* out of its range"):
        model.m_step(model.e_step(1e30 * X))
    assert _state(model) == before


def test_a_warning_that_is_an_error_undoes_the_fit():
    model = MFA(2, 1, random_state=0)
    before = _state(model)
    for method in (model.fit, model.partial_fit):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ConvergenceWarning, match=r"component\(s\) "):
                method(np.repeat(X[:2], 10, axis=0))
        assert _state(model) == before


def test_a_refused_batch_is_as_if_it_had_not_been():
    model = MFA(2, 1, random_state=0)
    with pytest.raises(ValueError, match="NaN"):
        model.partial_fit(np.full((10, 3), np.nan))
    model.partial_fit(X[:60])
    with pytest.raises(ValueError, match="NaN"):
        model.partial_fit(_with(np.nan))
    model.partial_fit(X[60:])
    plain = MFA(2, 1, random_state=0).partial_fit(X[:60]).partial_fit(X[60:])
    assert _state(model) == _state(plain)
