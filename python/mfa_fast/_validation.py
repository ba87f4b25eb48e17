"""Checks of parameters, with messages that name the argument, what was expected and what came."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, NoReturn

import numpy as np
from numpy.typing import DTypeLike
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted

from mfa_fast._devices import to_host
from mfa_fast._parameters import Parameters
from mfa_fast._typing import FloatArray

# Samples of one seed, draws of what is missing in a row, and steps of an attack: as far as the kernels count.
MOST_SAMPLES = 2**63
MOST_DRAWS = 2**23
MOST_STEPS = 2**63 - 1
# More than any machine makes use of.
MOST_THREADS = 1024


def check_has(estimator: Any, fitted: str) -> None:
    """Raise scikit-learn's error if an estimator lacks an attribute of every fitted one.

    Of one that has it, scikit-learn would make all tags first: as much time as some calls take on a device.
    """
    if not hasattr(estimator, fitted):
        check_is_fitted(estimator)


def check_option(name: str, value: Any, options: Sequence[str]) -> str:
    """Return the value if it is one of the options."""
    if not isinstance(value, str) or value not in options:
        msg = f"{name} must be one of {', '.join(map(repr, options))}; got {value!r}."
        raise ValueError(msg)
    return value


def one_line(content: object, limit: int = 200) -> str:
    """Return text for a message, of one line and no great length whatever came."""
    text = " ".join(str(content).split())
    return text if len(text) <= limit else f"{text[:limit]}..."


def check_integer(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Return an integer in [least, most]; True and False are none."""
    limits = f"of at least {least}" if most is None else f"from {least} to {most}"
    expected = f"{name} must be an integer {limits}"
    # A bool is an Integral, but True is hardly meant as 1.
    if not isinstance(value, Integral) or isinstance(value, bool):
        msg = f"{expected}; got {one_line(repr(value))} of type {type(value).__name__}."
        raise TypeError(msg)
    number = int(value)
    if number < least or (most is not None and number > most):
        msg = f"{expected}; got {number}."
        raise ValueError(msg)
    return number


def check_place(n_samples: Any, start: Any) -> tuple[int, int]:
    """Return how many samples of a seed are asked for, and from which on."""
    n = check_integer("n_samples", n_samples, 1, MOST_SAMPLES)
    return n, check_integer("start", start, 0, MOST_SAMPLES - n)


def check_threads(n_threads: int | None) -> int:
    """Return the number of threads to run on; None: as many as ``OMP_NUM_THREADS`` says, or all cores it may use."""
    if n_threads is not None:
        expected = f"n_threads must be None, for all cores, or an integer from 1 to {MOST_THREADS}"
        if not isinstance(n_threads, Integral) or isinstance(n_threads, bool):
            msg = f"{expected}; got {n_threads!r} of type {type(n_threads).__name__}."
            raise TypeError(msg)
        if not 1 <= n_threads <= MOST_THREADS:
            msg = f"{expected}; got {n_threads}."
            raise ValueError(msg)
        return int(n_threads)
    # One number for each level of nested loops; ours are the first.
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def as_seed(random_state: Any) -> int:
    """Turn a random state into the 64-bit seed of a counter-based generator; a non-negative integer is that seed."""
    if isinstance(random_state, (int, np.integer)) and not isinstance(random_state, bool):
        if not 0 <= int(random_state) < 2**64:
            msg = f"random_state must lie in [0, 2**64), got {random_state}."
            raise ValueError(msg)
        return int(random_state)
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(0, 2**64, dtype=np.uint64))
    try:
        return int(check_random_state(random_state).randint(0, 2**63 - 1, dtype=np.int64))
    except ValueError as error:
        msg = (
            f"random_state must be None, an integer in [0, 2**64), a RandomState or a Generator, got {random_state!r}."
        )
        raise ValueError(msg) from error


def as_random_state(random_state: Any) -> np.random.RandomState:
    """Return scikit-learn's random state of a seed, a random state or None."""
    try:
        return check_random_state(random_state)
    except ValueError as error:
        msg = f"random_state must be None, an integer in [0, 2**32) or a RandomState, got {random_state!r}."
        raise ValueError(msg) from error


def check_real(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> float:
    """Return a finite number within bounds: above one, or that at least, and at most one, or below that."""
    bounds = {"above": above, "of at least": least, "of at most": most, "below": below}
    limits = " and ".join(f"{words} {bound:g}" for words, bound in bounds.items() if bound is not None)
    if least is not None and most is not None:
        limits = f"from {least:g} to {most:g}"
    expected = f"{name} must be a finite number {limits}".rstrip()
    if not isinstance(value, Real) or isinstance(value, (bool, np.bool_)):
        msg = f"{expected}; got {one_line(repr(value))} of type {type(value).__name__}."
        raise TypeError(msg)
    number = float(value)
    within = (above is None or number > above) and (least is None or number >= least)
    within = within and (most is None or number <= most) and (below is None or number < below)
    if not (np.isfinite(number) and within):
        msg = f"{expected}; got {value}."
        raise ValueError(msg)
    return number


def check_flag(name: str, value: Any) -> bool:
    """Return a truth value."""
    if not isinstance(value, (bool, np.bool_)):
        msg = f"{name} must be True or False, got {value!r}."
        raise TypeError(msg)
    return bool(value)


def check_finite_array(name: str, value: Any, ndim: int, shape: tuple[int | None, ...] | None = None) -> FloatArray:
    """Return an array in float64, after a check of its dimensions; None in `shape` stands for any extent."""
    _check_given(name, value)
    reject_masked(name, value, f"put numbers in their place ({name}.filled)")
    try:
        # Its first look is a sum, which infinities of both signs make a warning of.
        with np.errstate(invalid="ignore", over="ignore"):
            host = list_as_array(to_host(value, name))
            array = np.asarray(check_array(host, dtype="numeric", ensure_2d=False, allow_nd=True, input_name=name))
    except (OverflowError, TypeError, ValueError) as error:
        if re.match(r"Input \S+ contains", str(error)):
            msg = f"{str(error).removesuffix('.')}: put finite numbers in its place."
            raise ValueError(msg) from error
        raise_named(name, error)
    wrong = array.ndim != ndim or (
        shape is not None and any(want not in (None, got) for want, got in zip(shape, array.shape, strict=True))
    )
    if wrong:
        wanted = f"shape {shape}".replace("None", "any") if shape is not None else f"{ndim} dimension(s)"
        msg = f"{name} must have {wanted}, got shape {array.shape}."
        raise ValueError(msg)
    return np.array(array, dtype=np.float64, order="C")


def reject_masked(name: str, value: Any, remedy: str) -> None:
    """Refuse an array with a mask, which nothing here looks at."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        msg = (
            f"{name} must not be masked, got a masked array of shape {value.shape} with {np.sum(value.mask)} masked "
            f"values: {remedy}, or pass {name}.data if the mask does not matter."
        )
        raise ValueError(msg)


def list_as_array(value: Any) -> Any:
    """Return a list as an array, for scikit-learn to check; all else as it is.

    Of None and other objects in an array it makes floating-point numbers; of those in a list an array of objects, in
    which it looks for no NaN.
    """
    return np.asarray(value) if isinstance(value, (list, tuple)) else value


def _check_given(name: str, value: Any) -> None:
    """Refuse None, of which NumPy makes NaN or an object."""
    if value is None:
        msg = f"{name} must be an array, got None."
        raise TypeError(msg)


def check_weights(
    weights: Any, n_components: int | None = None, name: str = "weights", dtype: DTypeLike = np.float64
) -> FloatArray:
    """Return mixture weights: non-negative, of sum 1 as far as `dtype`, in which they are to be kept, can tell."""
    checked = check_finite_array(name, weights, 1, (n_components,))
    if np.any(checked < 0):
        msg = f"{name} must not be negative, got a smallest of {checked.min():.6g}."
        raise ValueError(msg)
    total = float(checked.sum())
    if not abs(total - 1.0) <= 1e-5:  # NaN neither, which scikit-learn's assume_finite lets in
        msg = f"{name} must sum to 1, got a sum of {total:.6g}; divide them by it."
        raise ValueError(msg)
    # What rounding each of a model's weights makes of their sum stays: copies of the model are to be the same bits.
    return checked / total if abs(total - 1.0) > max(1e-12, float(np.finfo(dtype).eps)) else checked


def check_sample_weight(sample_weight: Any, n_samples: int, *, all_zero: bool = False) -> FloatArray | None:
    """Return the samples' weights (n_samples,) in float64; None, for which all weigh the same, as it is.

    `all_zero` allows them to be so: those of a part of the samples.
    """
    if sample_weight is None:
        return None
    if isinstance(sample_weight, (int, float, np.number)):
        sample_weight = np.full(n_samples, sample_weight)
    checked = check_finite_array("sample_weight", sample_weight, 1)
    if len(checked) != n_samples:
        msg = f"sample_weight must have shape ({n_samples},), one weight for each row of X, got shape {checked.shape}."
        raise ValueError(msg)
    if np.any(checked < 0):
        msg = f"sample_weight must not be negative, got a smallest of {checked.min():.6g}."
        raise ValueError(msg)
    if not all_zero and not checked.any():
        msg = "sample_weight must contain at least one weight that is not zero; they are all zero."
        raise ValueError(msg)
    with np.errstate(over="ignore"):
        total = checked.sum()
    if not np.isfinite(total):
        msg = "sample_weight must have a finite sum; divide the weights by the largest."
        raise ValueError(msg)
    return checked


def check_noise_variance(
    noise_variance: Any, n_components: int, n_features: int, name: str = "noise_variance"
) -> FloatArray:
    """Return noise variances as (K, d), from a scalar, (d,), (K, 1) or (K, d)."""
    _check_given(name, noise_variance)
    array = np.atleast_1d(to_host(noise_variance, name))
    checked = check_finite_array(name, array, array.ndim)
    try:
        full = np.broadcast_to(checked, (n_components, n_features))
    except ValueError:
        remedy = "; give one for each component the shape (n_components, 1)" if len(checked) == n_components else ""
        msg = (
            f"{name} must broadcast to (n_components, n_features) = ({n_components}, {n_features}), "
            f"got shape {checked.shape}{remedy}."
        )
        raise ValueError(msg) from None
    if np.any(full <= 0):
        msg = f"{name} must be positive, got a smallest of {full.min():.6g}."
        raise ValueError(msg)
    return np.array(full, order="C")


def check_parameters(weights: Any, means: Any, loadings: Any, noise_variance: Any, dtype: DTypeLike) -> Parameters:
    """Return parameters of a mixture in float64, of a model that is to keep them in `dtype`."""
    checked_means = check_finite_array("means", means, 2)
    n_components, n_features = checked_means.shape
    checked_loadings = check_finite_array("loadings", loadings, 3, (n_components, None, n_features))
    n_factors = checked_loadings.shape[1]
    if n_factors >= n_features:
        msg = (
            f"loadings must have fewer factors than features, got shape {checked_loadings.shape} (n_components, "
            "n_factors, n_features); use fewer factors (0 is allowed)."
        )
        raise ValueError(msg)
    return Parameters(
        check_weights(weights, n_components, dtype=dtype),
        checked_means,
        checked_loadings,
        check_noise_variance(noise_variance, n_components, n_features),
    )


def check_factors(n_factors: int, n_features: int) -> None:
    """Refuse as many factors as features, which leave nothing for noise to explain."""
    if n_factors >= n_features:
        msg = (
            f"n_factors={n_factors} must be smaller than the number of features, but X has n_features={n_features}; "
            "use fewer factors (0 is allowed)."
        )
        raise ValueError(msg)


def check_clip(clip: Any) -> tuple[float | None, float | None]:
    """Return bounds (low, high), either of which may be None."""
    if clip is None:
        return (None, None)
    try:
        low, high = (None if bound is None else float(bound) for bound in clip)
    except (TypeError, ValueError):
        low = high = float("nan")
    bounds = (-np.inf if low is None else low, np.inf if high is None else high)
    if not bounds[0] < bounds[1]:
        msg = f"clip must be a pair (low, high) with low < high, either of which may be None; got {clip!r}."
        raise ValueError(msg)
    return (low, high)


def raise_named(name: str, error: OverflowError | TypeError | ValueError) -> NoReturn:
    """Raise another library's error again, with the name of the argument in front unless it is there."""
    msg = str(error)
    if msg.startswith("Complex data not supported"):  # the whole array follows
        msg = f"Complex data not supported: {name} must hold real numbers; pass {name}.real if that is all."
    elif isinstance(error, OverflowError):
        msg = f"{name} must hold numbers in the range of float64, got an integer that is not; scale them."
    elif "dtype='numeric'" in msg:  # an argument of scikit-learn's own
        msg = f"{name} must hold numbers, got bytes or strings; use numpy.asarray({name}, dtype=float)."
    if not re.search(rf"\b{name}\b", msg):
        msg = f"{name}: {msg}"
    if msg == str(error):
        raise error
    raise (TypeError if isinstance(error, TypeError) else ValueError)(msg) from error
