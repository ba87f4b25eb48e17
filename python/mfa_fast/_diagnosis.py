"""What to say of parameters that EM has ended at: whether they can be kept, and which components tell nothing."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from mfa_fast._kernels import Parameters

# A component at the floor has collapsed if the floor is less than this share of the samples' variance; above it the
# floor is a choice, not a last resort.
_COLLAPSED = 1e-3
# A component of fewer samples than this explains one.
_SINGLE = 1.5


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


def warn_of_degenerate(parameters: Parameters, floor: float, n_samples: int, stacklevel: int) -> None:
    """Warn of components whose likelihood depends on the floor of the noise variance, or on a single sample.

    With diagonal noise, single features at the floor are ordinary: the border of an image is constant.
    """
    center = parameters.weights @ parameters.means
    between = parameters.weights @ ((parameters.means - center) ** 2).mean(axis=1)
    within = parameters.weights @ (parameters.loadings**2).sum(axis=1).mean(axis=1)
    variance = float(between + within)
    at_floor = (parameters.noise_variance <= floor * (1 + 1e-9)).all(axis=1)
    collapsed = at_floor & (floor < _COLLAPSED * variance)
    single = parameters.weights * n_samples < _SINGLE
    if at_floor.all() and variance < floor:
        msg = (
            f"X varies by less than min_noise_variance={floor:g} (a variance of {variance:.3g} per feature), so that "
            "all components are noise alone: scale X, or lower min_noise_variance."
        )
    elif collapsed.any():
        msg = (
            f"component(s) {_listed(collapsed)} ended with every noise variance at min_noise_variance={floor:g}: they "
            "explain their samples exactly, and the likelihood depends on that bound instead of on the samples. Raise "
            f"min_noise_variance (the variance per feature is {variance:.3g}), or use fewer components (n_components) "
            "or factors (n_factors)."
        )
    elif len(single) > 1 and single.any():
        msg = (
            f"component(s) {_listed(single)} ended with a single sample each, perhaps an outlier: use fewer components "
            "(n_components), or another init_params."
        )
    else:
        return
    warnings.warn(msg, ConvergenceWarning, stacklevel=stacklevel + 1)


def _listed(components: Any) -> str:
    return ", ".join(map(str, np.flatnonzero(components)))
