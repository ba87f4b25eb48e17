"""Classifiers and machines that several tests attack, and samples of theirs."""

import numpy as np
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

import reference as ref
from tolerances import TIE


def problem(n_classes=2, *, noise_std=0.1, noise_type="spherical", shape=(3, 12, 2), n=20, stray=0.0):
    """Mixtures, priors, samples of every class and the class of each."""
    mixtures = [
        ref.random_parameters(*shape, noise_type=noise_type, noise_std=noise_std, seed=10 + c) for c in range(n_classes)
    ]
    priors = np.arange(1, n_classes + 1) / np.arange(1, n_classes + 1).sum()
    X = [ref.random_samples(m, n, seed=c, stray=stray) for c, m in enumerate(mixtures)]
    return mixtures, priors, np.concatenate(X), np.repeat(np.arange(n_classes), n)


def assert_success(result, y, mixtures, priors, rule="max"):
    """Success is what the reference says, but for scores that tie."""
    scores = ref.class_scores(result.X_adv, mixtures, priors, rule)
    best = np.sort(scores, axis=1)
    tied = best[:, -1] - best[:, -2] <= TIE * np.maximum(1, np.abs(best[:, -1]))
    assert np.all((result.success == (np.argmax(scores, axis=1) != y)) | tied)


def blobs(n=80, d=6):
    """Samples of two classes for machines to learn from, and their classes."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 2
    X = rng.normal(size=(n, d)) * np.linspace(0.5, 3, d) + 2.0 * y[:, None] * np.linspace(1, 2, d)
    return X, y


SCALED = {
    "plain": lambda svm: svm,
    "standard": lambda svm: make_pipeline(StandardScaler(), svm),
    "minmax": lambda svm: make_pipeline(MinMaxScaler(), svm),
}
