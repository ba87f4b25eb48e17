"""How fast this machine is, as ratios to a floor that is measured in the same run.

Machines differ and are noisy, so a time says little. Each task is timed in turn with a floor; the figure is the median
of the ratios. For densities the floor is the dense matrix product (n, d) @ (d, K (L + 1)) of NumPy, in the same dtype
on the same cores: the arithmetic of a dense evaluation and nothing else. Beside every ratio stands the error of what
the timed call returned.
"""

from __future__ import annotations

import platform
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from mfa_fast import MFA, MFAClassifier, _core
from mfa_fast._backend import check_threads
from mfa_fast.attacks import AttackResult, ld_grad, nearest
from mfa_fast.experiments.problems import (
    ATTACK_SAMPLES,
    ATTACK_STEPS,
    ATTACKED_PAIR,
    BOUNDARY_TOLERANCE,
    DRAWN_SAMPLES,
    DTYPES,
    EM_SAMPLES,
    FIT_ITERATIONS,
    FIT_SAMPLES,
    FLOAT64_ALLOWANCE,
    NESTED_NOISE_STDS,
    QUICK_FRACTION,
    SHAPES,
    STANDARD_ERRORS,
    SYMMETRIC_NOISE_STD,
    TARGET_DENSE_FLOAT32,
    TARGETS,
    TOLERANCE,
    Array,
    Digits,
    DType,
    Path,
    Row,
    Shape,
    cast,
    log_density,
    nested_mixture,
    random_mixture,
    relative_error,
    score_samples,
    smooth_mixture,
    some_rows,
    weighted_log_prob,
)

# ----------------------------------------------------------------------------------------------------------- timing


@dataclass(frozen=True)
class Comparison:
    """What a task returned, medians of its time and its floor's, median of the ratios and half their middle range."""

    result: Any
    seconds: float
    floor_seconds: float
    ratio: float
    spread: float

    @classmethod
    def of(cls, result: Any, seconds: list[float], floors: list[float]) -> Comparison:
        """Compare paired times."""
        ratios = np.array(seconds) / np.array(floors)
        low, ratio, high = np.quantile(ratios, (0.25, 0.5, 0.75))
        return cls(result, float(np.median(seconds)), float(np.median(floors)), float(ratio), float(high - low) / 2)


def settle() -> None:
    """Wait until this process has come to rest.

    After a matrix product the threads of OpenBLAS spin for a tenth of a second, on cores that what is timed next needs.
    """
    for _ in range(20):
        before = time.process_time()
        time.sleep(0.02)
        if time.process_time() - before < 0.004:
            return


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return a call's result and its time, once everything else is at rest."""
    settle()
    started = time.perf_counter()
    result = call()
    return result, time.perf_counter() - started


def compare(candidate: Callable[[], Any], floor: Callable[[], Any], repeats: int) -> Comparison:
    """Time two calls in turn, on the same number of threads, after one run of each that does not count."""
    with threadpool_limits(limits=check_threads(None)):
        floor()
        result = candidate()
        seconds, floors = [], []
        for _ in range(repeats):
            floors.append(timed(floor)[1])
            result, duration = timed(candidate)
            seconds.append(duration)
    return Comparison.of(result, seconds, floors)


# ------------------------------------------------------------------------------------------------------------ tasks


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
        return relative_error(np.array(result.lower_bound_), expected)

    name = "EM iteration"
    floor = dense_floor(problem.shape, X)
    tolerance = TOLERANCE[problem.dtype]
    return Task(name, problem, run, floor, "dense product", error, tolerance, _target(name, problem.dtype))


def attack_task(classifier: MFAClassifier, problem: Problem, labels: Array, steps: int) -> Task:
    """Attack with LD-Grad; the error is what is left of the gap between the classes, which is 0 on the boundary."""
    X = problem.X

    def attack(n_steps: int) -> AttackResult:
        return ld_grad(classifier, X, labels, steps=n_steps)

    def gap(points: Array, own: Array) -> Array:
        # Uniform priors, and classes 0 and 1: those of `Workbench.classifier`.
        scores = np.stack([weighted_log_prob(points, m).max(axis=1) for m in classifier.mixtures_], axis=1)
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


# -------------------------------------------------------------------------------------------------------- the bench

Kind = Literal["fitted", "symmetric", "smooth", "nested", "random"]


class Workbench:
    """Problems and tasks by name; what is dear is made once.

    Parameters
    ----------
    quick : bool
        A fifth of the samples, for machines that only look whether everything runs.
    data : path or None
        MNIST as `load_mnist_pair` takes it; None for the like of it, made of scikit-learn's digits.
    """

    def __init__(self, *, quick: bool = False, data: Path | None = None) -> None:
        self.quick = quick
        self.data = data

    def count(self, n: int) -> int:
        """Return n, or less in the quick mode."""
        return n // QUICK_FRACTION if self.quick else n

    @cached_property
    def digits(self) -> Digits:
        """All digits there are."""
        return Digits.load(self.data)

    @cached_property
    def fitted(self) -> MFA:
        """A mixture fitted to digits."""
        return self._fit(SHAPES["mnist-fit"], self.digits.train[: self.count(FIT_SAMPLES)])

    @cached_property
    def fitted_pair(self) -> list[MFA]:
        """One mixture for each of two digits."""
        X, y = self.digits.train, self.digits.train_labels
        return [self._fit(SHAPES["mnist-25"], X[y == digit][: self.count(FIT_SAMPLES)]) for digit in ATTACKED_PAIR]

    def _fit(self, shape: Shape, X: Array) -> MFA:
        iterations = self.count(FIT_ITERATIONS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return MFA(shape.n_components, shape.n_factors, max_iter=iterations, random_state=0).fit(X)

    def problem(self, kind: Kind, dtype: DType, shape_name: str = "mnist-fit", noise_std: float = 0.1) -> Problem:
        """Return a model and samples; `noise_std` is that of random and nested mixtures."""
        shape = SHAPES[shape_name]
        n = self.count(shape.n_samples)
        if kind == "fitted":
            model = cast(self.fitted, dtype)
            return Problem(shape, self.digits.name, None, model, self.digits.test[:n].astype(dtype))
        if kind == "symmetric":
            noise_std = SYMMETRIC_NOISE_STD
            data, model = f"symmetric, {self.digits.name}", cast(self.fitted, dtype, noise_std)
        elif kind == "smooth":
            noise_std = SYMMETRIC_NOISE_STD
            data, model = "symmetric, smooth", cast(smooth_mixture(shape, noise_std), dtype)
        else:
            make = random_mixture if kind == "random" else nested_mixture
            data, model = kind, cast(make(shape, noise_std), dtype)
        return Problem(shape, data, noise_std, model, model.sample(n, random_state=1)[0])

    def em_problem(self, dtype: DType) -> Problem:
        """Return digits to fit to, and where to start."""
        X = self.digits.train[: self.count(EM_SAMPLES)].astype(dtype)
        return replace(self.problem("fitted", dtype), X=X)

    def classifier(self, dtype: DType) -> MFAClassifier:
        """Return the Bayes-optimal classifier of the symmetric data of two digits; its classes are 0 and 1."""
        return MFAClassifier.from_mixtures([cast(m, dtype, SYMMETRIC_NOISE_STD) for m in self.fitted_pair])

    def attack_problem(self, dtype: DType) -> tuple[MFAClassifier, Problem, Array]:
        """Return a classifier, some of its own samples and their classes."""
        classifier = self.classifier(dtype)
        X, labels = classifier.sample(self.count(ATTACK_SAMPLES), random_state=1)
        data = f"symmetric, {self.digits.name}"
        problem = Problem(SHAPES["mnist-25"], data, SYMMETRIC_NOISE_STD, classifier.mixtures_[0], X)
        return classifier, problem, labels

    def sample_problem(self, dtype: DType) -> Problem:
        """Return a model to draw from, and as many samples as are to be drawn."""
        problem = self.problem("random", dtype, "mnist-25")
        return replace(problem, X=np.empty((self.count(DRAWN_SAMPLES), problem.shape.n_features), dtype))

    def tasks(self, dtypes: tuple[DType, ...] = DTYPES) -> Iterator[Task]:
        """Go through the table."""
        for dtype in dtypes:
            yield score_task(self.problem("fitted", dtype), "fitted")
            yield score_task(self.problem("symmetric", dtype), "symmetric")
            yield score_task(self.problem("smooth", dtype, "faces"), "smooth")
            for noise_std in NESTED_NOISE_STDS:
                yield score_task(self.problem("nested", dtype, noise_std=noise_std), "nested")
            for shape_name in ("mnist-25", "faces", "small"):
                yield dense_task(self.problem("random", dtype, shape_name, SYMMETRIC_NOISE_STD))
            yield em_task(self.em_problem(dtype))
            attacked = self.attack_problem(dtype)
            yield from (attack_task(*attacked, steps) for steps in ATTACK_STEPS)
            yield nearest_task(*attacked)
            yield sample_task(self.sample_problem(dtype))


def throughput_table(
    quick: bool = False,
    data: Path | None = None,
    *,
    repeats: int | None = None,
    progress: Callable[[Row], None] | None = None,
) -> list[Row]:
    """Measure this machine.

    Parameters
    ----------
    quick : bool
        Fewer samples and repeats.
    data : path or None
        MNIST as `load_mnist_pair` takes it; None for the like of it, made of scikit-learn's digits.
    repeats : int or None
        Pairs of measurements per line; None for 5, or 3 where it is to be quick.
    progress : callable, optional
        Called with every line when it is there.

    Returns
    -------
    rows : list of dict
        Task, shape and data; times in seconds, their ratio and its spread; target; largest relative error.
    """
    rows = []
    for task in Workbench(quick=quick, data=data).tasks():
        row = task.row(compare(task.run, task.floor, repeats or (3 if quick else 5)))
        rows.append(row)
        if progress is not None:
            progress(row)
    return rows


# Heading, key, format; a heading whose key no row has is left out.
COLUMNS = (
    ("", "who", "{}"),
    ("task", "task", "{}"),
    ("shape", "shape", "{}"),
    ("data", "data", "{}"),
    ("n", "n", "{}"),
    ("dtype", "dtype", "{}"),
    ("noise", "noise_std", "{:g}"),
    ("time, ms", "seconds", "{:.1f}"),
    ("floor, ms", "floor_seconds", "{:.1f}"),
    ("floor is", "against", "{}"),
    ("ratio", "ratio", "{:.2f}"),
    ("+-", "spread", "{:.2f}"),
    ("target", "target", "{:.2f}"),
    ("error", "error", "{:.1e}"),
    ("allowed", "tolerance", "{:.0e}"),
)
IN_MILLISECONDS = ("seconds", "floor_seconds")


def _cells(row: Row) -> list[str]:
    return [
        "-" if row.get(key) is None else form.format(row[key] * 1e3 if key in IN_MILLISECONDS else row[key])
        for _, key, form in COLUMNS
    ]


def text_table(rows: Sequence[Row]) -> str:
    """Return lines with aligned columns: words to the left, numbers to the right."""
    kept = [i for i, (_, key, _) in enumerate(COLUMNS) if any(key in row for row in rows)]
    lines = [[COLUMNS[i][0] for i in kept], *([line[i] for i in kept] for line in map(_cells, rows))]
    widths = [max(len(line[i]) for line in lines) for i in range(len(kept))]
    words = [COLUMNS[i][2] == "{}" for i in kept]
    aligned = (
        "  ".join(
            cell.ljust(width) if word else cell.rjust(width)
            for cell, width, word in zip(line, widths, words, strict=True)
        )
        for line in lines
    )
    return "".join(f"{line.rstrip()}\n" for line in aligned)


def machine() -> dict[str, str | int]:
    """Return what the figures depend on."""
    return {
        "mfa_fast": version("mfa_fast"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "instruction_set": _core.isa(),
        "architecture": platform.machine(),
        "threads": check_threads(None),
    }
