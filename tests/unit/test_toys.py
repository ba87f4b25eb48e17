"""Toy distributions: robust where they say so, vulnerable where they say so."""

import numpy as np
import pytest

import reference
from mfa_fast.attacks import ld_grad
from mfa_fast.datasets import discrete_toy, gaussian_toy, helix
from models import mixtures_of

KINDS = ["spherical", "elliptical", "mixture"]


def _distances(kind, robust):
    """Return LD-Grad's distances for the samples of class 0 that are classified correctly."""
    classifier = gaussian_toy(kind, robust)
    X, y = classifier.sample(600, random_state=0)
    own = (y == 0) & (classifier.predict(X) == 0)
    result = ld_grad(classifier, X[own], y[own], steps=50)
    assert np.mean(result.success) > 0.99
    return result.l2[result.success]


@pytest.mark.parametrize("kind", KINDS)
def test_vulnerable_samples_are_much_nearer_to_the_boundary(kind):
    assert np.median(_distances(kind, False)) < np.median(_distances(kind, True)) / 3


@pytest.mark.parametrize("kind", KINDS)
def test_robust_ones_share_the_minimal_variance_and_others_do_not(kind):
    least = [
        [np.linalg.eigvalsh(loadings.T @ loadings + np.diag(noise)).min() for m in c.mixtures_
         for loadings, noise in zip(m.loadings_, m.noise_variance_, strict=True)]
        for c in (gaussian_toy(kind, True), gaussian_toy(kind, False))
    ]  # fmt: skip
    assert np.ptp(least[0]) < 1e-12
    assert max(least[1]) > 100 * min(least[1])


def test_the_classifier_is_bayes_optimal_for_its_samples():
    classifier = gaussian_toy("mixture", False)
    X, _ = classifier.sample(200, random_state=1)
    mixtures = mixtures_of(classifier)
    expected = reference.decision_function(X, mixtures, [0.5, 0.5], rule="sum")
    np.testing.assert_allclose(classifier.decision_function(X), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("robust", [True, False])
def test_discrete_tables_are_distributions_that_samples_follow(robust):
    toy = discrete_toy(robust)
    assert toy.probabilities.shape == (2, 100, 100)
    np.testing.assert_allclose(toy.probabilities.sum(axis=(1, 2)), 1.0)
    assert np.all(toy.probabilities > 0)
    features, y = toy.sample(20_000, random_state=0)
    for label, table in enumerate(toy.probabilities):
        own = features[y == label]
        assert abs(len(own) / len(y) - 0.5) < 0.02
        expected = np.array([(table.sum(axis=1 - axis) * np.arange(100)).sum() for axis in (0, 1)])
        np.testing.assert_allclose(own.mean(axis=0), expected, atol=0.6)
    assert np.mean(toy.predict(features) == y) > 0.99


def test_one_level_flips_the_vulnerable_discrete_class_only():
    for robust in (True, False):
        toy = discrete_toy(robust)
        features, y = toy.sample(2000, random_state=0)
        moved = np.clip(features[y == 0] + [1, 0], 0, 99)
        share = np.mean(toy.predict(moved) == 1)
        assert share < 0.01 if robust else share > 0.99


def test_helix_follows_its_curve():
    X = helix(2000, noise_std=0.01, random_state=0)
    assert X.shape == (2000, 3)
    on_curve = np.stack([np.cos(2 * np.pi * X[:, 2]), np.sin(2 * np.pi * X[:, 2])], axis=1)
    assert np.percentile(np.linalg.norm(X[:, :2] - on_curve, axis=1), 99) < 0.25
    assert X[:, 2].min() < 0.1 and X[:, 2].max() > 1.9
    np.testing.assert_array_equal(X, helix(2000, noise_std=0.01, random_state=0))


@pytest.mark.parametrize(
    ("call", "error", "word"),
    [
        (lambda: gaussian_toy("round", True), ValueError, "kind"),
        (lambda: gaussian_toy("spherical", 1), TypeError, "robust"),
        (lambda: discrete_toy("yes"), TypeError, "robust"),
        (lambda: discrete_toy(True).sample(0), ValueError, "n_samples"),
        (lambda: discrete_toy(True).predict([[-1, 0]]), ValueError, "features must be .* 0 to 99, got -1"),
        (lambda: discrete_toy(True).predict([[100, 0]]), ValueError, "features must be .* 0 to 99, got 100"),
        (lambda: discrete_toy(True).predict([[1.0, 0.0]]), TypeError, "features must be .* got an array of float64"),
        (lambda: discrete_toy(True).predict([1, 2]), ValueError, "features must have shape"),
        (lambda: helix(0), ValueError, "n"),
        (lambda: helix(5, noise_std=-1), ValueError, "noise_std"),
    ],
)
def test_bad_arguments_are_named(call, error, word):
    with pytest.raises(error, match=word):
        call()
