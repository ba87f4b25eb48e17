"""A chain of scikit-learn's scalers as one scaling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler
from sklearn.utils.validation import check_is_fitted

from mfa_fast._typing import FloatArray


def compose(steps: Sequence[Any], n_features: int) -> tuple[FloatArray, FloatArray]:
    """Return shift and scale of a chain of scalers: their composition is ``(x - shift) * scale``."""
    shift, scale = np.zeros(n_features), np.ones(n_features)
    for step in steps:
        own_shift, own_scale = _scaling(step, n_features)
        # ((x - shift) * scale - own_shift) * own_scale = (x - (shift + own_shift / scale)) * (scale * own_scale)
        shift = shift + own_shift / scale
        scale = scale * own_scale
    return shift, scale


def _scaling(step: Any, n_features: int) -> tuple[FloatArray, FloatArray]:
    """Return shift and scale of one step, or refuse it."""
    zeros, ones = np.zeros(n_features), np.ones(n_features)
    if step is None or step == "passthrough":
        return zeros, ones
    check_is_fitted(step)
    if isinstance(step, StandardScaler):
        mean, spread = step.mean_ if step.with_mean else None, step.scale_
    elif isinstance(step, RobustScaler):
        mean, spread = step.center_ if step.with_centering else None, step.scale_
    elif isinstance(step, MaxAbsScaler) and not getattr(step, "clip", False):  # not in all versions
        mean, spread = None, step.scale_
    elif isinstance(step, MinMaxScaler) and not step.clip:
        # In double: fitted to float32 samples, these are float32.
        inverse = 1.0 / np.asarray(step.scale_, dtype=np.float64)
        mean, spread = -step.min_ * inverse, inverse
    else:
        msg = (
            "model must have only invertible scalings before the SVM (StandardScaler, RobustScaler, and MinMaxScaler "
            f"and MaxAbsScaler without clip), got {type(step).__name__}."
        )
        raise TypeError(msg)
    return (
        zeros if mean is None else np.asarray(mean, dtype=np.float64),
        ones if spread is None else 1.0 / np.asarray(spread, dtype=np.float64),
    )
