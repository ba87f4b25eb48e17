"""Missing values against the dense product of complete samples: a few patterns, and a pattern for every sample."""

from copy import copy
from dataclasses import replace

import numpy as np
import pytest

import reference
import shapes
from mfa_fast.experiments.problems import TOLERANCE, relative_error, some_rows
from mfa_fast.experiments.tasks import Task, dense_floor

# Rows that the reference conditions on assembled covariances.
CONDITIONED = 2


def _half(X):
    """Hide the lower half of every image."""
    hidden = np.zeros(X.shape, bool)
    hidden[:, X.shape[1] // 2 :] = True
    return hidden


def _random(X):
    """Hide 30 per cent of the pixels, others in every image."""
    return np.random.default_rng(0).uniform(size=X.shape) < 0.3


KINDS = {"half": (_half, 1), "random": (_random, 10)}
kinds = pytest.mark.parametrize("kind", KINDS)


def _problem(kind, dtype):
    """Digits under a model that was fitted to them, and these with NaN; of many patterns, fewer."""
    hide, fraction = KINDS[kind]
    problem = shapes.problem("fitted", dtype)
    problem = replace(problem, X=problem.X[: max(1, len(problem.X) // fraction)])
    X = problem.X.copy()
    X[hide(X)] = np.nan
    parameters = (problem.model.weights_, problem.model.means_, problem.model.loadings_, problem.model.noise_variance_)
    return problem, reference.Parameters(*(a.astype(np.float64) for a in parameters)), X


def _task(name, kind, problem, run, error):
    floor = dense_floor(problem.shape, problem.X)
    return Task(f"{name}, {kind} missing", problem, run, floor, "dense product", error, TOLERANCE[problem.dtype])


@kinds
def test_score_samples(paired, kind, dtype):
    problem, p, X = _problem(kind, dtype)
    model = copy(problem.model).set_params(missing="marginal")
    rows = some_rows(len(X), model)

    def error(result):
        return relative_error(result[rows], reference.log_sum_exp(reference.marginal_weighted_log_prob(X[rows], p)))

    paired(_task("score", kind, problem, lambda: model.score_samples(X), error))


@kinds
def test_impute(paired, kind, dtype):
    problem, p, X = _problem(kind, dtype)

    def error(result):
        return relative_error(result[:CONDITIONED], reference.conditional_moments(X[:CONDITIONED], p)[0])

    paired(_task("impute", kind, problem, lambda: problem.model.impute(X), error))
