"""What to say of parameters that EM has ended at: whether they can be kept, and which components tell nothing."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray
from sklearn.exceptions import ConvergenceWarning

from mfa_fast._parameters import Parameters
from mfa_fast._typing import FloatArray

# A component at the floor has collapsed if the floor is less than this share of the samples' variance; above it the
# floor is a choice, not a last resort.
_COLLAPSED = 1e-3
# A component of fewer samples than this explains one.
_SINGLE = 1.5
# Numbers whose last digit is worth more than this share of the noise's standard deviation tell little of the noise: at
# a tenth, rounding adds a thousandth to the variance.
_RESOLVED = 0.1

# Modules whose lines no warning is to show: these, and scikit-learn's wrapper of fits that take callbacks.
_NOT_THE_CALLERS = (f"{__package__}.", "sklearn.callback.")

# What a warning begins with: of which model of several it is.
_whose: ContextVar[str] = ContextVar("whose", default="")


def round_parameters(parameters: Parameters, dtype: Any) -> Parameters:
    """Return parameters in the dtype of the samples, or refuse those that are out of its range."""
    with np.errstate(over="ignore", under="ignore"):
        rounded = parameters.astype(dtype)
    lost = np.zeros(len(rounded.weights), np.bool_)
    for array in rounded.arrays():
        lost |= ~np.isfinite(array).reshape(len(lost), -1).all(axis=1)
    lost |= (rounded.noise_variance < np.finfo(dtype).tiny).any(axis=1)
    if lost.any():
        noise = parameters.noise_variance[lost]
        msg = (
            f"X cannot be fitted in {np.dtype(dtype)}: parameters of component(s) {_listed(lost)} are out of its range "
            f"(noise variances of {noise.min():.3g} to {noise.max():.3g}); scale X"
            f"{', or pass float64' if dtype == np.float32 else ''}."
        )
        raise ValueError(msg)
    return rounded


class Fault(NamedTuple):
    """Components of which the parameters tell nothing, and what to say of them."""

    components: NDArray[np.bool_]
    text: str


def find_faults(
    parameters: Parameters, dtype: DTypeLike, floor: float, least: FloatArray, n_samples: int
) -> dict[str, Fault]:
    """Return what is wrong with parameters that samples of this dtype have led to, by kind.

    `least` are the noise variances that EM does not go below, `floor` or above. With diagonal noise, single features
    there are ordinary: the border of an image is constant.
    """
    D = parameters.noise_variance
    center = parameters.weights @ parameters.means
    between = parameters.weights @ ((parameters.means - center) ** 2).mean(axis=1)
    explained = parameters.explained()
    variance = float(between + parameters.weights @ explained.mean(axis=1))
    slack = 1 + 2 * np.finfo(dtype).eps
    is_least = least * slack >= D
    no_noise = is_least.all(axis=1)
    at_floor = (floor * slack >= D).all(axis=1)
    single = (parameters.weights * n_samples < _SINGLE) & (len(D) > 1)
    faults = {}

    if at_floor.all() and variance < floor:
        faults["constant"] = Fault(
            at_floor,
            f"X varies by less than min_noise_variance={floor:g} (a variance of {variance:.3g} per feature), so that "
            "all components are noise alone: scale X, or lower min_noise_variance.",
        )

    # A single sample is explained exactly anyway.
    collapsed = at_floor & ~single & (floor < _COLLAPSED * variance)
    if collapsed.any():
        faults["collapsed"] = Fault(
            collapsed,
            f"component(s) {_listed(collapsed)} ended with every noise variance at min_noise_variance={floor:g}: they "
            "explain their samples exactly, and the likelihood depends on that bound instead of on the samples. Raise "
            f"min_noise_variance (the variance per feature is {variance:.3g}), or use fewer components (n_components) "
            "or factors (n_factors).",
        )

    narrow = no_noise & ~at_floor & ~single
    if narrow.any():
        faults["narrow"] = Fault(
            narrow,
            f"component(s) {_listed(narrow)} ended with the least noise that float64 tells beside what factors explain "
            f"(variances of {D[narrow].max():.3g} beside {explained[narrow].max():.3g}), and the likelihood depends on "
            "that bound instead of on the samples: use fewer factors (n_factors) or components (n_components), scale "
            "the features of X to similar variances, or raise min_noise_variance.",
        )

    if single.any():
        faults["single"] = Fault(
            single,
            f"component(s) {_listed(single)} ended with a single sample each, perhaps an outlier: use fewer components "
            f"(n_components), raise min_noise_variance={floor:g} (the variance per feature is {variance:.3g}) so that "
            "such a component has to explain more than one sample, or try another init_params.",
        )

    reach = np.abs(parameters.means) + np.sqrt(explained)
    steps = np.spacing(reach.astype(dtype)).astype(np.float64)
    coarse = steps > _RESOLVED * np.sqrt(D)
    coarse &= ~(is_least & ~no_noise[:, None])
    unresolved = coarse.any(axis=1) & ~single
    if unresolved.any():
        k, j = np.unravel_index(np.argmax(np.where(coarse & unresolved[:, None], steps**2 / D, 0.0)), D.shape)
        name = np.dtype(dtype).name
        faults["unresolved"] = Fault(
            unresolved,
            f"component(s) {_listed(unresolved)} lie where {name} is too coarse for their noise: at {reach[k, j]:.3g}, "
            f"as in feature {j} of component {k}, its steps are {steps[k, j]:.3g}, and the noise's standard deviation "
            f"is {np.sqrt(D[k, j]):.3g}. What was fitted is in part the rounding of X: subtract the mean of every "
            f"feature before X becomes {name}{', or pass float64' if name == 'float32' else ''}.",
        )
    return faults


def warn_of_faults(faults: Mapping[str, Fault], known: Mapping[str, Fault] | None = None) -> None:
    """Warn of faults, once per kind: of those that some component did not have before, if known is what was then."""
    for kind, fault in faults.items():
        if not known or kind not in known or (fault.components & ~known[kind].components).any():
            warn(fault.text)


def warn(text: str) -> None:
    """Warn of what EM has come to, at the line that called this package; within `naming`, of which model."""
    stacklevel, frame = 1, sys._getframe()
    while frame.f_back is not None and f"{frame.f_globals.get('__name__')}.".startswith(_NOT_THE_CALLERS):
        stacklevel, frame = stacklevel + 1, frame.f_back
    warnings.warn(f"{_whose.get()}{text}", ConvergenceWarning, stacklevel=stacklevel)


@contextmanager
def naming(model: str) -> Iterator[None]:
    """Let warnings of this thread begin with a name: of one of several models that are fitted together."""
    token = _whose.set(f"{model}: ")
    try:
        yield
    finally:
        _whose.reset(token)


def _listed(components: Any) -> str:
    return ", ".join(map(str, np.flatnonzero(components)))
