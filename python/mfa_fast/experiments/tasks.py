"""What is timed: each task with its floor, and how its result is judged."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from mfa_fast import MFA, MFAClassifier
from mfa_fast._typing import Array
from mfa_fast.attacks import AttackResult, ld_grad, nearest
from mfa_fast.experiments.problems import (
    ATTACK_STEPS,
    BOUNDARY_TOLERANCE,
    FLOAT64_ALLOWANCE,
    STANDARD_ERRORS,
    TARGET_DENSE_FLOAT32,
    TARGETS,
    TOLERANCE,
    Row,
    Shape,
    log_density,
    relative_error,
    score_samples,
    some_rows,
    weighted_log_prob,
)
from mfa_fast.experiments.timing import Comparison


@dataclass(frozen=True)
class Problem:
    """A model and samples to score."""

    shape: Shape
    data: str
    noise_std: float | None
    model: MFA
    X: Array

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of samples and parameters."""
        return self.X.dtype


@dataclass(frozen=True)
class Task:
    """What is timed, what with, and how its result is judged."""

    name: str
    problem: Problem
    run: Callable[[], Any]
    floor: Callable[[], Any]
    against: str
    error: Callable[[Any], float]
    tolerance: float
    target: float | None = None

    def row(self, compared: Comparison) -> Row:
        """Return the line of the table."""
        shape = self.problem.shape
        return {
            "task": self.name,
            "shape": shape.name,
            "data": self.problem.data,
            "n": len(self.problem.X),
            "d": shape.n_features,
            "K": shape.n_components,
            "L": shape.n_factors,
            "dtype": self.problem.dtype.name,
            "noise_std": self.problem.noise_std,
            "seconds": compared.seconds,
            "against": self.against,
            "floor_seconds": compared.floor_seconds,
            "ratio": compared.ratio,
            "spread": compared.spread,
            "target": self.target,
            "error": self.error(compared.result),
            "tolerance": self.tolerance,
        }


def _target(name: str, dtype: np.dtype[Any]) -> float | None:
    allowance = 1.0 if dtype == np.float32 else FLOAT64_ALLOWANCE
    return TARGETS[name] * allowance if name in TARGETS else None


def dense_floor(shape: Shape, X: Array) -> Callable[[], Any]:
    """Return the product (n, d) @ (d, K (L + 1)), ready to be run."""
    columns = shape.n_components * (shape.n_factors + 1)
    other = np.random.default_rng(0).normal(size=(X.shape[1], columns)).astype(X.dtype)
    out = np.empty((len(X), columns), X.dtype)
    return lambda: np.matmul(X, other, out=out)


def _density_task(
    name: str, problem: Problem, run: Callable[[Array], Array], reference: Callable[[Array, MFA], Array]
) -> Task:
    X, model = problem.X, problem.model

    def error(result: Array) -> float:
        rows = some_rows(len(X), model)
        return relative_error(result[rows], reference(X[rows], model))

    floor = dense_floor(problem.shape, X)
    tolerance = TOLERANCE[problem.dtype]
    return Task(name, problem, lambda: run(X), floor, "dense product", error, tolerance, _target(name, problem.dtype))


def score_task(problem: Problem, kind: str) -> Task:
    """Score under the mixture."""
    return _density_task(f"score, {kind}", problem, problem.model.score_samples, score_samples)


def dense_task(problem: Problem) -> Task:
    """Score under all components."""
    task = _density_task("all components", problem, problem.model.weighted_log_prob, weighted_log_prob)
    return replace(task, target=TARGET_DENSE_FLOAT32) if problem.dtype == np.float32 else task


def em_task(problem: Problem) -> Task:
    """Do one iteration from the problem's model; the error is that of the mean log-density."""
    start, X = problem.model, problem.X
    K, L, _ = start.loadings_.shape

    def run() -> MFA:
        estimator = MFA(
            K,
            L,
            max_iter=1,
            tol=0.0,
            weights_init=start.weights_,
            means_init=start.means_,
            loadings_init=start.loadings_,
            noise_variance_init=start.noise_variance_,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return estimator.fit(X)

    def error(result: MFA) -> float:
        blocks = np.array_split(X, len(X) // 1000 + 1)
        expected = np.concatenate([score_samples(block, start, np.float64) for block in blocks]).mean()
        return relative_error(np.array(result.lower_bound_), np.array(expected))

    name = "EM iteration"
    floor = dense_floor(problem.shape, X)
    tolerance = TOLERANCE[problem.dtype]
    return Task(name, problem, run, floor, "dense product", error, tolerance, _target(name, problem.dtype))


def _class_scores(classifier: MFAClassifier, points: Array) -> Array:
    # Uniform priors, and classes 0 and 1: those of `Workbench.classifier`.
    return np.stack([weighted_log_prob(points, m).max(axis=1) for m in classifier.mixtures_], axis=1)


def predict_task(classifier: MFAClassifier, problem: Problem) -> Task:
    """Predict classes; the error is how far, relatively, the predicted class's score lies below the highest."""
    X = problem.X

    def error(result: Array) -> float:
        rows = some_rows(len(X), problem.model)
        scores = _class_scores(classifier, X[rows])
        return relative_error(np.take_along_axis(scores, result[rows, None], axis=1)[:, 0], scores.max(axis=1))

    floor = lambda: classifier.class_log_likelihood(X)  # noqa: E731
    tolerance = TOLERANCE[np.dtype(np.float64)]
    return Task("predict", problem, lambda: classifier.predict(X), floor, "scoring pass", error, tolerance)


def attack_task(classifier: MFAClassifier, problem: Problem, labels: Array, steps: int) -> Task:
    """Attack with LD-Grad; the error is what is left of the gap between the classes, which is 0 on the boundary."""
    X = problem.X

    def attack(n_steps: int) -> AttackResult:
        return ld_grad(classifier, X, labels, steps=n_steps)

    def gap(points: Array, own: Array) -> Array:
        scores = _class_scores(classifier, points)
        return np.where(own == 0, 1, -1) * (scores[:, 0] - scores[:, 1])

    def error(result: AttackResult) -> float:
        rows = some_rows(len(X), problem.model)
        before, after = gap(X[rows], labels[rows]), gap(result.X_adv[rows], labels[rows])
        if not np.array_equal(after < 0, result.success[rows]):
            return float("inf")
        left = np.where(result.success[rows], np.abs(after) / np.abs(before), 0)
        return float(np.max(np.where(before < 0, 0, left)))

    name = f"LD-Grad, {steps} steps"
    few = min(ATTACK_STEPS)
    floor, against = (
        (lambda: classifier.class_log_likelihood(X), "scoring pass")
        if steps == few
        else (lambda: attack(few), f"{few} steps")
    )
    target = _target(name, problem.dtype)
    return Task(name, problem, lambda: attack(steps), floor, against, error, BOUNDARY_TOLERANCE, target)


def nearest_task(classifier: MFAClassifier, problem: Problem, labels: Array) -> Task:
    """Find the nearest adversarial examples; the error is the part of the mean distance that is not proved."""
    X = problem.X

    def floor() -> list[Array]:
        return [m.weighted_log_prob(X) for m in classifier.mixtures_]

    def error(result: AttackResult) -> float:
        if not (np.all(result.success) and np.all(result.lower_bound <= result.l2)):
            return float("inf")
        return float(1 - result.lower_bound.mean(dtype=np.float64) / result.l2.mean(dtype=np.float64))

    name = "nearest" if classifier.rule == "max" else "nearest, sum"
    target = _target(name, problem.dtype)
    return Task(
        name, problem, lambda: nearest(classifier, X, labels), floor, "dense pass", error, BOUNDARY_TOLERANCE, target
    )


def sample_task(problem: Problem) -> Task:
    """Draw with noise; the error is that of the mean squared distance of samples from their components, which is d."""
    model, n, d = problem.model, len(problem.X), problem.shape.n_features

    def floor() -> Array:
        return np.random.default_rng(0).standard_normal((n, d), dtype=problem.dtype.type)

    def error(result: tuple[Array, Array]) -> float:
        X, labels = result
        distances = np.empty(n)
        for k in np.unique(labels):
            own = labels == k
            # The density at a mean, where the distance is 0, has all that does not depend on x.
            top = log_density(model.means_[k : k + 1], model, k, np.float64)
            distances[own] = 2 * (top - log_density(X[own], model, k, np.float64))
        return float(abs(distances.mean() / d - 1))

    tolerance = STANDARD_ERRORS * float(np.sqrt(2 / (n * d)))
    name = "sample"
    run = lambda: model.sample(n, random_state=0)  # noqa: E731
    return Task(name, problem, run, floor, "NumPy normals", error, tolerance, _target(name, problem.dtype))
