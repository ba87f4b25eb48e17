"""How fast this machine is, as ratios to a floor that is measured in the same run.

Machines differ and are noisy, so a time says little. Each task is timed in turn with a floor; the figure is the median
of the ratios. For densities the floor is the dense matrix product (n, d) @ (d, K (L + 1)) of NumPy, in the same dtype
on the same cores: the arithmetic of a dense evaluation and nothing else. Beside every ratio stands the error of what
the timed call returned.
"""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from typing import Literal

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from mfa_fast import MFA, MFAClassifier, _core
from mfa_fast._typing import Array
from mfa_fast._validation import check_threads
from mfa_fast.experiments.problems import (
    ATTACK_SAMPLES,
    ATTACK_STEPS,
    ATTACKED_PAIR,
    DRAWN_SAMPLES,
    DTYPES,
    EM_SAMPLES,
    FIT_ITERATIONS,
    FIT_SAMPLES,
    NESTED_NOISE_STDS,
    QUICK_FRACTION,
    SHAPES,
    SYMMETRIC_NOISE_STD,
    Digits,
    DType,
    Path,
    Row,
    Shape,
    cast,
    nested_mixture,
    random_mixture,
    smooth_mixture,
)
from mfa_fast.experiments.tasks import (
    Problem,
    Task,
    attack_task,
    dense_task,
    em_task,
    nearest_task,
    predict_task,
    sample_task,
    score_task,
)
from mfa_fast.experiments.timing import compare

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
            yield predict_task(*attacked[:2])
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


def _cell(row: Row, key: str, form: str) -> str:
    value = row.get(key)
    return "-" if value is None else form.format(value * 1e3 if key in IN_MILLISECONDS else value)


def text_table(rows: Sequence[Row], columns: Sequence[tuple[str, str, str]] = COLUMNS) -> str:
    """Return lines with aligned columns: words to the left, numbers to the right."""
    kept = [column for column in columns if any(column[1] in row for row in rows)]
    lines = [[heading for heading, _, _ in kept]]
    lines += [[_cell(row, key, form) for _, key, form in kept] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    words = [form == "{}" for _, _, form in kept]
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
