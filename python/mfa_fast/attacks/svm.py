"""scikit-learn's support vector machines taken apart: a scaling and a decision function, as the kernels want them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC, LinearSVC
from sklearn.utils.validation import check_is_fitted

from mfa_fast._typing import Array, FloatArray
from mfa_fast.attacks._scalers import compose

__all__ = ["LinearMachine", "Machine", "RbfMachine", "as_machine"]

# What stands for an intercept of 0 that is to be above it. Of an RBF kernel, whose decisions fall to 0 by and by, it is
# to be less than any of them; next to a plane, a point that is moved by so little has a decision of 0 still.
_LEAST = {"rbf": float(np.finfo(np.float64).smallest_subnormal), "linear": float(np.finfo(np.float64).tiny)}


@dataclass(frozen=True)
class Machine:
    """A binary machine on ``(x - shift) * scale``; a positive decision is for ``classes[1]``."""

    # What sees samples first, and knows their features: the machine itself or a scaler before it.
    first: Any
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
    # The size, for a sample of length 1, of all the terms that the machine's own predict may add up.
    reach: float

    def arguments(self) -> dict[str, Any]:
        """Return the kernel's arguments."""
        return super().arguments() | {"weights": self.weights, "reach": self.reach}


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
        place = "a Pipeline that ends in " if isinstance(model, Pipeline) else ""
        msg = (
            "model must be an MFAClassifier, a LinearSVC, an SVC, or a Pipeline that ends in one of these SVMs; got "
            f"{place}{type(machine).__name__}. attacks.cw_l2 and attacks.ddn take any torch module as well."
        )
        raise TypeError(msg)
    check_is_fitted(machine)
    if len(machine.classes_) != 2:
        msg = f"model must have two classes, got {len(machine.classes_)}."
        raise ValueError(msg)
    if isinstance(machine, SVC) and machine.kernel not in ("rbf", "linear"):
        msg = f"model must have kernel 'rbf' or 'linear', got {machine.kernel!r}."
        raise ValueError(msg)
    shift, scale = compose(steps, machine.n_features_in_)
    first = next(step for step in [*steps, machine] if hasattr(step, "n_features_in_"))
    intercept = float(np.ravel(machine.intercept_)[0])
    if isinstance(machine, SVC):
        # A decision of 0 is for the second class, where LinearSVC's is for the first: at one where no kernel reaches.
        intercept = intercept or _LEAST[machine.kernel]
    shared = (first, machine.classes_, shift, scale, intercept)
    if isinstance(machine, LinearSVC) or machine.kernel == "linear":
        weights = _dense(machine.coef_)[0]
        reach = float(np.linalg.norm(weights))
        if isinstance(machine, SVC):  # it adds up over the support vectors
            lengths = np.linalg.norm(_dense(machine.support_vectors_), axis=1)
            reach = float(np.abs(_dense(machine.dual_coef_)[0]) @ lengths)
        return LinearMachine(*shared, weights=weights, reach=reach)
    return RbfMachine(
        *shared,
        support_vectors=_dense(machine.support_vectors_),
        coefficients=_dense(machine.dual_coef_)[0],
        gamma=float(machine._gamma),
    )


def _dense(parameters: Any) -> FloatArray:
    """Return parameters (n, m) as the kernels read them; an SVC that was fitted to sparse samples has sparse ones."""
    return np.array(parameters.toarray() if issparse(parameters) else parameters, dtype=np.float64, order="C")
