"""scikit-learn's support vector machines as the kernels want them: a scaling and a decision function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.utils.validation import check_is_fitted

from mfa_fast._backend import Array
from mfa_fast._kernels import FloatArray


@dataclass(frozen=True)
class Machine:
    """A binary machine on ``(x - shift) * scale``; a positive decision is for ``classes[1]``."""

    classes: Array
    shift: FloatArray
    scale: FloatArray
    intercept: float

    def check_width(self, n_features: int) -> None:
        """Refuse samples of another width."""
        if n_features != len(self.shift):
            msg = f"X has {n_features} features, but the model expects {len(self.shift)} features as input."
            raise ValueError(msg)

    def arguments(self) -> dict[str, Any]:
        """Return the kernel's arguments."""
        return {"shift": self.shift, "scale": self.scale, "intercept": self.intercept}


@dataclass(frozen=True)
class LinearMachine(Machine):
    """Decision w.x + b."""

    weights: FloatArray

    def arguments(self) -> dict[str, Any]:
        """Return the kernel's arguments."""
        return super().arguments() | {"weights": self.weights}


@dataclass(frozen=True)
class RbfMachine(Machine):
    """Decision sum_i a_i exp(-gamma |x - s_i|^2) + b."""

    support_vectors: FloatArray
    coefficients: FloatArray
    gamma: float

    def arguments(self) -> dict[str, Any]:
        """Return the kernel's arguments."""
        own = {
            "support_vectors": self.support_vectors,
            "coefficients": self.coefficients,
            "gamma": self.gamma,
        }
        return super().arguments() | own


def as_machine(model: Any) -> LinearMachine | RbfMachine:
    """Take a fitted model apart.

    Raises
    ------
    TypeError
        If it is none that the attack has a closed form for.
    ValueError
        If it has other than two classes, or another kernel.
    NotFittedError
        If it is not fitted.
    """
    steps, machine = (
        ([s for _, s in model.steps[:-1]], model.steps[-1][1]) if isinstance(model, Pipeline) else ([], model)
    )
    if not isinstance(machine, (SVC, LinearSVC)):
        msg = (
            "model must be an MFAClassifier, a LinearSVC, an SVC, or a Pipeline that ends in one of these SVMs; got "
            f"{type(machine).__name__}."
        )
        raise TypeError(msg)
    check_is_fitted(machine)
    if len(machine.classes_) != 2:
        msg = f"model must have two classes, got {len(machine.classes_)}."
        raise ValueError(msg)
    if isinstance(machine, SVC) and machine.kernel not in ("rbf", "linear"):
        msg = f"model must have kernel 'rbf' or 'linear', got {machine.kernel!r}."
        raise ValueError(msg)
    shift, scale = _compose(steps, machine.n_features_in_)
    shared = (machine.classes_, shift, scale, float(np.ravel(machine.intercept_)[0]))
    if isinstance(machine, LinearSVC) or machine.kernel == "linear":
        return LinearMachine(*shared, weights=np.array(machine.coef_[0], dtype=np.float64))
    return RbfMachine(
        *shared,
        support_vectors=np.array(machine.support_vectors_, dtype=np.float64, order="C"),
        coefficients=np.array(machine.dual_coef_[0], dtype=np.float64),
        gamma=float(machine._gamma),
    )


def _compose(steps: list[Any], n_features: int) -> tuple[FloatArray, FloatArray]:
    """Return shift and scale of a chain of scalers: their composition is ``(x - shift) * scale``."""
    shift, scale = np.zeros(n_features), np.ones(n_features)
    for step in steps:
        own_shift, own_scale = _scaling(step, n_features)
        # ((x - shift) * scale - own_shift) * own_scale = (x - (shift + own_shift / scale)) * (scale * own_scale)
        shift = shift + own_shift / scale
        scale = scale * own_scale
    return shift, scale


def _scaling(step: Any, n_features: int) -> tuple[FloatArray, FloatArray]:
    zeros, ones = np.zeros(n_features), np.ones(n_features)
    if step is None or step == "passthrough":
        return zeros, ones
    check_is_fitted(step)
    if isinstance(step, StandardScaler):
        mean, spread = step.mean_ if step.with_mean else None, step.scale_
    elif isinstance(step, RobustScaler):
        mean, spread = step.center_ if step.with_centering else None, step.scale_
    elif isinstance(step, MaxAbsScaler):
        mean, spread = None, step.scale_
    elif isinstance(step, MinMaxScaler) and not step.clip:
        mean, spread = -step.min_ / step.scale_, 1.0 / step.scale_
    else:
        msg = (
            f"the steps before the SVM must be invertible scalings (StandardScaler, MinMaxScaler without clip, "
            f"MaxAbsScaler, RobustScaler), got {type(step).__name__}."
        )
        raise TypeError(msg)
    return (
        zeros if mean is None else np.asarray(mean, dtype=np.float64),
        ones if spread is None else 1.0 / np.asarray(spread, dtype=np.float64),
    )
