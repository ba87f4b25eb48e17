"""The nearest adversarial example, with a certificate that none is nearer."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import gen_batches

from mfa_fast import _core
from mfa_fast._cuda_kernels import CudaScorer
from mfa_fast._devices import require_host
from mfa_fast._kernels import gram_of
from mfa_fast._labels import class_indices
from mfa_fast._samples import Samples, reject_bad_row
from mfa_fast._streams import as_array
from mfa_fast._typing import Array, FloatArray
from mfa_fast._validation import MOST_STEPS, check_integer, check_real, check_threads
from mfa_fast.attacks._crossings import crossings
from mfa_fast.attacks._distance_bounds import distance_bound
from mfa_fast.attacks.ld_grad import MixtureAttack, ld_grad, outputs_for, own_labels
from mfa_fast.attacks.result import AttackResult
from mfa_fast.attacks.svm import LinearMachine, RbfMachine, as_machine
from mfa_fast.classifier import MFAClassifier

__all__ = ["nearest"]

# Of differences between points and samples, in float64.
_NUMBERS_AT_ONCE = 1_000_000


def nearest(
    model: Any,
    X: Any,
    y: Any = None,
    *,
    rtol: float = 1e-6,
    steps: int = 50,
    n_threads: int | None = None,
) -> AttackResult:
    r"""Find the nearest point that the model puts in another class, and how near one can be at most.

    For an `MFAClassifier` this is exact: the scores of two components differ by a quadratic function, the nearest
    point at which one component beats the others has a dual of a few variables, and every value of the dual is a
    lower bound. Where the point that attains the least of these bounds is an adversarial example, it is the nearest
    one, with proof. That is the case for nearly all samples of well separated classes; where it is not, the surface
    between the classes is searched along rays and downhill from their ends, which in up to three dimensions hardly ever
    leaves out a nearer point, and the gap between `l2` and `lower_bound` says how much is left open.

    For a linear support vector machine the distance is that from a plane. For an RBF kernel `X_adv` is LD-Grad's, or,
    where that gets lost, lies on the way to the nearest support vector of the other class; `lower_bound` comes from the
    Lipschitz constant of the decision function's gradient. Both are true, and not tight.

    Parameters
    ----------
    model : MFAClassifier, LinearSVC, SVC or Pipeline
        As for `ld_grad`. Of any number of classes, either rule and any noise. Diagonal noise takes many times longer
        than spherical: with a thousand features and overlapping components, seconds a sample.
    X : array-like of shape (n_samples, n_features)
    y : array-like of shape (n_samples,), default=None
        The classes that the samples are to leave; None for those that the model predicts.
    rtol : float, default=1e-6
        A sample is certified where `l2` exceeds `lower_bound` by no more than this part of it, and what rounding
        X_adv to its dtype may move it.
    steps : int, default=50
        Of LD-Grad, at most, with whose answer the search starts: nothing that is further away is looked at.
    n_threads : int or None, default=None
        Number of threads; None for the model's own number, or as many as OMP_NUM_THREADS says, or all cores.

    Returns
    -------
    result : AttackResult
        `X_adv` in float32 where X is, else float64. `l2` is never above that of `ld_grad` with as many steps, and never
        below `lower_bound`; it is infinite, and `success` False, where no adversarial example was found. Where
        there is none at all, `lower_bound` is infinite if that can be shown; else it is finite, and may be huge.
        `n_steps` counts the problems that were solved, of which a device, where pairs are solved another way, takes
        about one more.

    Raises
    ------
    ValueError, TypeError, NotFittedError
        If an argument is not as described; the message names it.
    CudaUnavailableError
        If X is in CUDA memory and the model is a support vector machine, which has no CUDA kernel.

    See Also
    --------
    ld_grad : Some five times as fast (with ``rule="sum"`` twenty), and a few per cent further away.

    Notes
    -----
    docs/theory.md, section 7. The quadratic form of the gap is that of Richardson & Weiss, A Bayes-optimal view on
    adversarial examples, appendix C.2; the problem of one pair is the generalized trust-region problem of J. J. More,
    Optimization Methods and Software 2, 1993.

    Bounds count what rounding does. Where it does much, samples are not certified: where the loadings of two classes
    all but depend on each other, to a relative difference of 1e-5 or less, unless they are equal. The bound of a linear
    machine is that of its plane; the scalers of a Pipeline round where X is float32, and may put it somewhat nearer.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from mfa_fast import MFAClassifier, attacks
    >>> X, y = load_digits(n_class=2, return_X_y=True)
    >>> classifier = MFAClassifier(n_components=3, n_factors=2, random_state=0).fit(X / 16, y).symmetric(0.01)
    >>> X_new, y_new = classifier.sample(100, random_state=0)
    >>> exact = attacks.nearest(classifier, X_new, y_new)
    >>> bool(exact.certified.all())
    True
    >>> attack = attacks.ld_grad(classifier, X_new, y_new)
    >>> bool((exact.l2 <= attack.l2).all())
    True
    """
    check_real("rtol", rtol, least=0.0)
    check_integer("steps", steps, 0, MOST_STEPS)
    if isinstance(model, MFAClassifier):
        samples = as_array(X, estimator=model)
        if samples.device is not None:
            return _on_device(MixtureAttack(model, samples, n_threads), y, int(steps), float(rtol))
        labels = own_labels(model, X, samples) if y is None else y
        start = ld_grad(model, samples.unwrapped(), labels, steps=steps, n_threads=n_threads)
        l2, lower_bound, certified = _of_mixture(model, samples, labels, start, float(rtol), n_threads)
    else:
        machine = as_machine(model)
        samples = as_array(X, estimator=machine.first)
        require_host(samples.device, "the nearest adversarial example of a support vector machine")
        labels = own_labels(model, X, samples) if y is None else y
        # The step to a plane is exact but for the overshoot; elsewhere it is to be LD-Grad as it is called.
        overshoot = 0.1 * float(rtol) if isinstance(machine, LinearMachine) else 1e-6
        start = ld_grad(model, samples.unwrapped(), labels, steps=steps, overshoot=overshoot, n_threads=n_threads)
        if isinstance(machine, RbfMachine):
            start = _without_failures(machine, samples, class_indices(machine.classes, labels, len(samples)), start)
        l2, lower_bound, certified = _of_machine(machine, samples, start, float(rtol))
    dtype = samples.dtype
    with np.errstate(over="ignore"):  # float32 may have no number as large
        rounded = l2.astype(dtype)
    found = replace(start, l2=rounded, lower_bound=_round_down(lower_bound, dtype), certified=certified)
    return AttackResult(*(samples.wrap(getattr(found, field.name)) for field in fields(found)))


def _of_mixture(
    model: MFAClassifier, samples: Samples, y: Any, start: AttackResult, rtol: float, n_threads: int | None
) -> tuple[FloatArray, FloatArray, Array]:
    """Search from where LD-Grad has come; its X_adv and the like are written over. Returns l2, bounds, certificates."""
    scorer = model._scorer()
    threads = scorer.n_threads if n_threads is None else check_threads(n_threads)
    l2 = start.l2.astype(np.float64)
    lower_bound, certified = np.empty(len(l2)), np.empty(len(l2), np.bool_)
    bad = _core.nearest(
        scorer.model,
        gram_of(scorer.model, threads),
        samples.data,
        groups=scorer.groups,
        log_priors=model.log_priors(),
        labels=class_indices(model.classes_, y, len(samples)),
        sum_rule=model.rule == "sum",
        screening=scorer.screening,
        rtol=rtol,
        out=(start.X_adv, l2, start.success, start.n_steps),
        sources=start.source,
        targets=start.target,
        lower_bound=lower_bound,
        certified=certified,
        n_threads=threads,
    )
    reject_bad_row(samples, bad, model)
    return l2, lower_bound, certified


def _on_device(attack: MixtureAttack, y: Any, steps: int, rtol: float) -> AttackResult:
    """Run LD-Grad and the search on a device."""
    samples, scorer = attack.samples, attack.scorer
    assert isinstance(scorer, CudaScorer)
    n, arrays = len(samples), samples.arrays
    labels = attack.beside(attack.predicted() if y is None else attack.indices(y))
    out, pairs = outputs_for(samples)
    lower_bound, certified = certificates = arrays.empty((n,), np.float64), arrays.empty((n,), np.bool_)
    scorer.nearest(
        samples,
        labels,
        out,
        pairs,
        certificates,
        steps=steps,
        rtol=rtol,
        n_threads=attack.n_threads,
        log_priors=attack.log_priors,
        sum_rule=attack.sum_rule,
    )
    X_adv, l2, success, n_steps = out
    # The kernel has rounded the bounds down already.
    l2, lower_bound = arrays.cast(l2, samples.dtype), arrays.cast(lower_bound, samples.dtype)
    results = (X_adv, l2, success, n_steps, *pairs, lower_bound, certified)
    return AttackResult(*(samples.wrap(a) for a in results))


def _without_failures(
    machine: RbfMachine, samples: Samples, own: NDArray[np.int64], start: AttackResult
) -> AttackResult:
    """Return LD-Grad's answer, with points on the ways to support vectors in place of its failures."""
    lost = np.flatnonzero(~start.success)
    if not len(lost):
        return start
    X = samples.data[lost].astype(samples.dtype)
    points, found = crossings(machine, X, own[lost])
    X_adv, success, n_steps = (a.copy() for a in (start.X_adv, start.success, start.n_steps))
    X_adv[lost], success[lost] = points, found
    n_steps[lost] += found  # 0 is for those that were misclassified from the start
    return replace(start, X_adv=X_adv, success=success, n_steps=n_steps)


def _of_machine(
    machine: LinearMachine | RbfMachine, samples: Samples, start: AttackResult, rtol: float
) -> tuple[FloatArray, FloatArray, Array]:
    """Return l2, the machine's bounds, and whether these say that LD-Grad has found the nearest point."""
    X = samples.data.astype(samples.dtype, copy=False)
    # LD-Grad has rounded its distances to the type of X.
    l2 = np.where(start.success, _distances(start.X_adv, X), np.inf)
    lower_bound = np.minimum(distance_bound(machine, X, l2), l2)
    norms = np.sqrt(np.einsum("ij,ij->i", X, X, dtype=np.float64, casting="same_kind"))
    with np.errstate(invalid="ignore"):
        apart = l2 - lower_bound
    known = np.where(start.success, l2, 0)
    rounding = 2 * np.finfo(samples.dtype).eps * np.maximum(norms, known)
    certified = np.where(start.success, apart <= rtol * known + rounding, np.isinf(lower_bound))
    return l2, lower_bound, certified


def _distances(points: Array, X: Array) -> FloatArray:
    """Return how far each point (n, d) is from its sample, in float64; a few megabytes of differences at a time."""
    distances = np.empty(len(X))
    for rows in gen_batches(len(X), max(1, _NUMBERS_AT_ONCE // X.shape[1])):
        distances[rows] = np.linalg.norm(np.subtract(points[rows], X[rows], dtype=np.float64), axis=1)
    return distances


def _round_down(values: FloatArray, dtype: Any) -> NDArray[Any]:
    """Return lower bounds in another dtype, none of them raised."""
    with np.errstate(over="ignore"):
        rounded = values.astype(dtype)
    raised = rounded > values
    rounded[raised] = np.nextafter(rounded[raised], dtype(0))
    return rounded
