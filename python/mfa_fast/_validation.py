"""Checks of parameters, with messages that name the argument, what was expected and what came."""

from __future__ import annotations

import re
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils import check_array

from mfa_fast._backend import raise_named
from mfa_fast._devices import to_host
from mfa_fast._kernels import FloatArray, Parameters

# Samples of one seed, draws of what is missing in a row, and steps of an attack: as far as the kernels count.
MOST_SAMPLES = 2**63
MOST_DRAWS = 2**23
MOST_STEPS = 2**63 - 1


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
    try:
        # Its first look is a sum, which infinities of both signs make a warning of.
        with np.errstate(invalid="ignore", over="ignore"):
            array = np.asarray(
                check_array(to_host(value, name), dtype="numeric", ensure_2d=False, allow_nd=True, input_name=name)
            )
    except (TypeError, ValueError) as error:
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


def _check_given(name: str, value: Any) -> None:
    """Refuse None, of which NumPy makes NaN or an object."""
    if value is None:
        msg = f"{name} must be an array, got None."
        raise TypeError(msg)


def check_weights(weights: Any, n_components: int | None = None, name: str = "weights") -> FloatArray:
    """Return mixture weights: non-negative, of sum 1."""
    checked = check_finite_array(name, weights, 1, (n_components,))
    if np.any(checked < 0):
        msg = f"{name} must not be negative, got a smallest of {checked.min():.6g}."
        raise ValueError(msg)
    total = float(checked.sum())
    if not abs(total - 1.0) <= 1e-5:  # NaN neither, which scikit-learn's assume_finite lets in
        msg = f"{name} must sum to 1, got a sum of {total:.6g}; divide them by it."
        raise ValueError(msg)
    return checked / total if abs(total - 1.0) > 1e-12 else checked


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


def check_parameters(weights: Any, means: Any, loadings: Any, noise_variance: Any) -> Parameters:
    """Return parameters of a mixture in float64."""
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
        check_weights(weights, n_components),
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
