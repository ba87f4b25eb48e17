"""LD-Grad: steps in closed form along the gradient of a log-density ratio, or of a decision function."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from mfa_fast import _core
from mfa_fast._cuda_kernels import CudaScorer
from mfa_fast._devices import arrays_of, require_host
from mfa_fast._labels import class_indices
from mfa_fast._samples import Samples, as_samples, find_bad_row, reject_bad_row
from mfa_fast._streams import as_array
from mfa_fast._typing import Array
from mfa_fast._validation import MOST_STEPS, check_clip, check_integer, check_real, check_threads
from mfa_fast.attacks.result import AttackResult
from mfa_fast.attacks.svm import LinearMachine, RbfMachine, as_machine
from mfa_fast.classifier import MFAClassifier

__all__ = ["ld_grad"]

# Of a way that ends where rounding decides, each by twice as much as the one before: by 0.8 % in all.
_LENGTHENINGS = 16

# Where the samples are: NumPy arrays, or arrays in CUDA memory.
_Outputs = tuple[Any, Any, Any, Any]
_Pairs = tuple[Any, Any]


def ld_grad(
    model: Any,
    X: Any,
    y: Any = None,
    *,
    steps: int = 3,
    overshoot: float = 1e-6,
    clip: tuple[float | None, float | None] | None = None,
    source: int | None = None,
    target: int | None = None,
    n_threads: int | None = None,
) -> AttackResult:
    r"""Move samples out of their class, by the shortest way that a closed form finds.

    For an `MFAClassifier`: with s the best component of the sample's class and t the best of any other,
    :math:`f = \log p_s - \log p_t` is an exact quadratic along its own gradient, so the step to its zero is the root
    of a quadratic equation. After each step s and t are chosen again. (With ``rule="sum"`` f is the gap between the
    classes, and all their components take part in its gradient.) For support vector machines f is the decision
    function, and the step is :math:`f / \lVert\nabla f\rVert`: exact for a linear one; for an RBF kernel the last step
    ends at the root of f along its direction.

    Parameters
    ----------
    model : MFAClassifier, LinearSVC, SVC or Pipeline
        Fitted. An SVC of two classes with ``kernel="rbf"`` or ``"linear"``; a Pipeline may scale the features first
        (StandardScaler, RobustScaler, and MinMaxScaler and MaxAbsScaler without ``clip``).
    X : array-like of shape (n_samples, n_features)
    y : array-like of shape (n_samples,), default=None
        The classes that the samples are to leave; None for those that the model predicts.
    steps : int, default=3
        Number of steps at most. An RBF kernel needs more, some 50; with `clip`, which cuts steps short, some 10.
    overshoot : float, default=1e-6
        How far beyond the boundary a step ends, as a fraction of its length; never less than what rounding X_adv to
        its dtype may take back. A sample that lies on an MFAClassifier's boundary goes at least 1e-10 of its least
        noise (a standard deviation) beyond it.
    clip : (low, high), default=None
        Bounds for the entries of X_adv, for example ``(0, 1)``; either may be None.
    source, target : int, default=None
        Components, counted within their class's mixture, that every step is taken between: of the class that samples
        are to leave, and of the other one; for an MFAClassifier of two classes.
    n_threads : int or None, default=None
        Number of threads; None for the model's own number, or as many as OMP_NUM_THREADS says, or all cores.

    Returns
    -------
    result : AttackResult
        `X_adv` in float32 where X is, else float64.

    Raises
    ------
    ValueError, TypeError, NotFittedError
        If an argument is not as described; the message names it.
    CudaUnavailableError
        If X is in CUDA memory and the model is a support vector machine, which has no CUDA kernel.

    Notes
    -----
    Richardson & Weiss, A Bayes-optimal view on adversarial examples, appendix C.2; the quadratic term is kept, which
    finds the boundary in one to three steps where the linear step needs ten or more.

    The scalers of a Pipeline work in float32 where X is float32. There the Pipeline's own `predict` says what has
    crossed, and what has not goes a little further (docs/theory.md, (19b)).

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from mfa_fast import MFAClassifier, attacks
    >>> X, y = load_digits(n_class=2, return_X_y=True)
    >>> classifier = MFAClassifier(n_components=3, n_factors=2, random_state=0).fit(X / 16, y).symmetric(0.01)
    >>> X_new, y_new = classifier.sample(100, random_state=0)
    >>> result = attacks.ld_grad(classifier, X_new, y_new)
    >>> result.summary()["success_rate"]
    1.0
    """
    check_integer("steps", steps, 0, MOST_STEPS)
    check_real("overshoot", overshoot, least=0.0)
    bounds = check_clip(clip)
    attack: MixtureAttack | _MachineAttack
    if isinstance(model, MFAClassifier):
        samples = as_array(X, estimator=model)
        attack = MixtureAttack(model, samples, n_threads, source, target)
    else:
        machine = as_machine(model)
        if source is not None or target is not None:
            msg = f"source and target are components of an MFAClassifier's mixtures; {type(model).__name__} has none."
            raise ValueError(msg)
        samples = as_array(X, estimator=machine.first)
        require_host(samples.device, "LD-Grad on a support vector machine")
        attack = _MachineAttack(model, machine, X, samples, n_threads)

    labels = attack.predicted() if y is None else attack.indices(y)
    n, arrays = len(samples), samples.arrays
    out, pairs = outputs_for(samples)
    attack.run(pairs, labels=labels, steps=int(steps), overshoot=float(overshoot), clip=bounds, out=out)
    X_adv, l2, success, n_steps = out
    unknown = (arrays.full((n,), np.nan, samples.dtype), arrays.full((n,), False, np.bool_))
    with np.errstate(over="ignore"):  # it may have gone further than float32 can say
        l2 = arrays.cast(l2, samples.dtype)
    results = (X_adv, l2, success, n_steps, *pairs, *unknown)
    return AttackResult(*(samples.wrap(a) for a in results))


def outputs_for(samples: Samples) -> tuple[_Outputs, _Pairs]:
    """Make X_adv, l2, success and n_steps, and source and target, where the samples are. All are to be written."""
    n, arrays = len(samples), samples.arrays
    out = (
        arrays.empty(tuple(samples.data.shape), samples.dtype),
        arrays.empty((n,), np.float64),
        arrays.empty((n,), np.bool_),
        arrays.empty((n,), np.int64),
    )
    return out, (arrays.empty((n,), np.int64), arrays.empty((n,), np.int64))


def own_labels(model: Any, X: Any, samples: Samples) -> Array:
    """Return the classes that the model itself gives to samples, which came as X."""
    if isinstance(model, MFAClassifier):
        return np.asarray(model.predict(samples.unwrapped()))
    reject_bad_row(samples, find_bad_row(samples.data), model)
    # A frame as it is: its column names are what scikit-learn would miss. Numbers may be finite and their squares not.
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(model.predict(X if hasattr(X, "columns") else samples.data))


def labels_of_points(model: Any, points: Array) -> Array:
    """Return the classes that the model itself gives to points (n, d) that were made of samples."""
    with warnings.catch_warnings():
        # Names of features were checked in the samples.
        warnings.filterwarnings("ignore", "X does not have valid feature names", UserWarning)
        return own_labels(model, points, as_samples(points))


class MixtureAttack:
    """LD-Grad on an MFAClassifier."""

    def __init__(
        self,
        model: MFAClassifier,
        samples: Samples,
        n_threads: int | None,
        source: int | None = None,
        target: int | None = None,
    ) -> None:
        self.model = model
        self.scorer = model._scorer(samples)
        self.n_threads = self.scorer.n_threads if n_threads is None else check_threads(n_threads)
        self.samples = samples
        self.classes = model.classes_
        self.log_priors = model.log_priors()
        self.sum_rule = model.rule == "sum"
        self.source = self._check_component("source", source)
        self.target = self._check_component("target", target)

    def _check_component(self, name: str, component: int | None) -> int | None:
        if component is None:
            return None
        if self.scorer.n_groups != 2:
            msg = f"{name} may be given for two classes only; this classifier has {self.scorer.n_groups}."
            raise ValueError(msg)
        return check_integer(name, component, 0)

    def _check_held(self, labels: Any) -> None:
        """Refuse a source that a sample's class, or a target that the other one, does not have."""
        if self.source is None and self.target is None:
            return
        sizes = np.diff(self.scorer.groups)
        known = labels if isinstance(labels, np.ndarray) else self.samples.fetch(labels)
        # The kernel reports rows of no class.
        for own in np.unique(known[(known >= 0) & (known < len(sizes))]):
            for name, component, c in (("source", self.source, own), ("target", self.target, 1 - own)):
                if component is not None and component >= sizes[c]:
                    role = "class of a sample" if name == "source" else "class that a sample is to reach"
                    msg = (
                        f"{name} must be a component of the {role}, counted from 0, got {component}: class "
                        f"{self.classes[c]} has {sizes[c]}."
                    )
                    raise ValueError(msg)

    def predicted(self) -> Any:
        """Return the places of the model's own labels among the classes."""
        return self.model._class_indices(self.samples)

    def beside(self, indices: Any) -> Any:
        """Return places among the classes where the samples are."""
        return self.samples.arrays.from_host(indices) if isinstance(indices, np.ndarray) else indices

    def indices(self, y: Any) -> Any:
        """Return the places of labels among the classes; of those in CUDA memory there, without waiting for them."""
        n, classes = len(self.samples), self.classes
        arrays, here = arrays_of(y), None if self.samples.on_host else self.samples.device
        beside = arrays is not None and here is not None and arrays.key == here.key
        if arrays is None or not beside or classes.dtype.kind not in "biuf" or tuple(y.shape) != (n,):
            return class_indices(classes, y, n)
        if "int" in arrays.dtype_name(y):
            y = arrays.cast(y, np.int64)  # in a small type the classes would wrap around
            first = int(classes[0])
            if classes.dtype.kind == "i" and classes.tolist() == list(range(first, first + len(classes))):
                return y - first  # the kernel reports rows of what is then no class's place
        # -1 where it is no class: the kernel reports such rows.
        places = arrays.full((n,), -1, np.int64)
        for place, label in enumerate(classes.tolist()):
            places = places + (y == label) * (place + 1)
        return places

    def run(self, pairs: _Pairs, *, labels: Any, out: _Outputs, **common: Any) -> None:
        """Run the kernel."""
        self._check_held(labels)
        common |= {
            "log_priors": self.log_priors,
            "sum_rule": self.sum_rule,
            "source": self.source,
            "target": self.target,
        }
        if isinstance(self.scorer, CudaScorer):
            self.scorer.ld_grad(self.samples, self.beside(labels), out, pairs, **common)
            return
        bad = _core.ld_grad(
            self.scorer.model,
            self.samples.data,
            groups=self.scorer.groups,
            labels=labels,
            screening=self.scorer.screening,
            out=out,
            sources=pairs[0],
            targets=pairs[1],
            n_threads=self.n_threads,
            **common,
        )
        reject_bad_row(self.samples, bad, self.model)


class _MachineAttack:
    """LD-Grad on a support vector machine."""

    def __init__(
        self, model: Any, machine: LinearMachine | RbfMachine, X: Any, samples: Samples, n_threads: int | None
    ) -> None:
        self.model = model
        self.given = X
        self.machine = machine
        self.samples = samples
        self.classes = machine.classes
        self.n_threads = check_threads(n_threads)

    def indices(self, y: Any) -> NDArray[np.int64]:
        return class_indices(self.classes, y, len(self.samples))

    def predicted(self) -> NDArray[np.int64]:
        return class_indices(self.classes, own_labels(self.model, self.given, self.samples), len(self.samples))

    def run(self, pairs: _Pairs, **common: Any) -> None:
        for places in pairs:  # a machine has no components
            places.fill(-1)
        kernel = _core.ld_grad_rbf if isinstance(self.machine, RbfMachine) else _core.ld_grad_linear
        bad = kernel(**self.machine.arguments(), X=self.samples.data, n_threads=self.n_threads, **common)
        reject_bad_row(self.samples, bad, self.model)
        if isinstance(self.model, Pipeline) and self.samples.dtype == np.float32:
            self._go_beyond_rounding(common["labels"], common["clip"], common["out"])

    def _go_beyond_rounding(
        self, labels: NDArray[np.int64], clip: tuple[float | None, float | None], out: _Outputs
    ) -> None:
        """Bring across what scalers take back: these round to float32, theory.md (19b), and the kernel does not.

        It goes further on the way that it came, by twice as much each time. What stays behind is no success.
        """
        X_adv, l2, success, _ = out
        low, high = clip
        back = np.flatnonzero(success)
        for beyond in np.finfo(np.float32).eps * 2.0 ** np.arange(_LENGTHENINGS):
            back = self._of_class(labels, X_adv, back)
            X = self.samples.data[back].astype(np.float64)
            longer = (X + (1.0 + beyond) * (X_adv[back] - X)).astype(np.float32)
            X_adv[back] = np.clip(longer, -np.inf if low is None else low, np.inf if high is None else high)
            l2[back] = np.linalg.norm(X_adv[back] - X, axis=1)
        success[self._of_class(labels, X_adv, back)] = False

    def _of_class(self, labels: NDArray[np.int64], X: Array, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return those rows of X that the model itself still puts in the class that they are to leave."""
        if not len(rows):
            return rows
        own = labels_of_points(self.model, X[rows])
        return rows[class_indices(self.classes, own, len(rows)) == labels[rows]]
