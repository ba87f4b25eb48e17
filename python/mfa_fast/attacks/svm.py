"""scikit-learn's support vector machines as the kernels want them: a scaling and a decision function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from scipy.spatial.distance import cdist
from sklearn.metrics import pairwise_distances_argmin
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.utils.validation import check_is_fitted

from mfa_fast._backend import Array
from mfa_fast._kernels import FloatArray

__all__ = ["LinearMachine", "Machine", "RbfMachine", "as_machine"]

# By which bounds are lowered, relative: the rounding of what they are made of in double.
_ROUNDING = 1e-9
# And what the sign of a sum is certain beyond, relative to the size of its terms, docs/theory.md (18a).
_TERM_ROUNDING = 64 * np.finfo(np.float64).eps
# What stands for an intercept of 0 that is to be above it.
_LEAST = float(np.finfo(np.float64).tiny)
# Of the way to a support vector, until the crossing is known to a part in 10^9.
_HALVINGS = 30


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

    def distance_bound(self, X: Array, known: FloatArray) -> FloatArray:
        """Return the distances of samples (n, d) from the plane, which no other class is nearer than."""
        normal = self.weights * self.scale
        length = float(np.linalg.norm(normal))
        centered = np.asarray(X, np.float64) - self.shift
        gap = np.abs(centered @ normal + self.intercept)
        sizes = abs(self.intercept) + self.reach * np.linalg.norm(centered * self.scale, axis=1)
        sure = np.maximum(0.0, gap - _TERM_ROUNDING * sizes)
        return sure / length * (1 - _ROUNDING) if length > 0 else np.full(len(gap), np.inf)

    def arguments(self) -> dict[str, Any]:
        """Return the kernel's arguments."""
        return super().arguments() | {"weights": self.weights, "reach": self.reach}


@dataclass(frozen=True)
class RbfMachine(Machine):
    """Decision sum_i a_i exp(-gamma |x - s_i|^2) + b."""

    support_vectors: FloatArray
    coefficients: FloatArray
    gamma: float

    def distance_bound(self, X: Array, known: FloatArray) -> FloatArray:
        """Return distances (n,) within which the decision of no sample (n, d) changes.

        In a ball of radius R the decision, with the sign that it has at x, is at least
        f - |grad f| r - c(R) r^2 / 2 at a distance r, where c(R) bounds how fast any kernel can bend it downwards
        (docs/theory.md (37), (38)). The root of that, or R if it is smaller, is a lower bound for any R; the best one
        is found by bisection, below the distances (n,) of adversarial examples that are known.
        """
        return np.concatenate([self._distance_bound(X[some], known[some]) for some in self._parts(len(X))])

    def _parts(self, n_samples: int) -> list[slice]:
        """Return as many samples at a time as have some ten megabytes of kernels."""
        height = max(1, 1_000_000 // max(1, len(self.coefficients)))
        return [slice(i, i + height) for i in range(0, n_samples, height)]

    def crossings(self, X: Array, own: NDArray[np.int64]) -> tuple[Array, NDArray[np.bool_]]:
        """Return points of the other class for samples (n, d), and who has one (n,); the others come back as they are.

        `own` are the places of the samples' classes (n,). The points lie where the way to the nearest support vector of
        the other class crosses over, and are surely of it in the dtype of X.
        """
        points, found = X.copy(), np.zeros(len(X), np.bool_)
        vectors = self.support_vectors / self.scale + self.shift
        of_vectors, doubts = np.hstack([self._decide(vectors[some]) for some in self._parts(len(vectors))])
        for place, sign in enumerate((-1.0, 1.0)):
            members, others = np.flatnonzero(own == place), vectors[sign * of_vectors < -doubts]
            if not len(others):
                continue
            for some in self._parts(len(members)):
                rows = members[some]
                ends = others[pairwise_distances_argmin(X[rows].astype(np.float64), others)]
                points[rows], found[rows] = self._crossings(X[rows], ends, sign)
        return points, found

    def _crossings(self, X: Array, ends: FloatArray, sign: float) -> tuple[Array, NDArray[np.bool_]]:
        """Do it on the ways to `ends` (n, d) for samples of the class whose decisions have that sign."""
        points, found = X.copy(), np.zeros(len(X), np.bool_)
        near, far = np.zeros((len(X), 1)), np.ones((len(X), 1))
        at = far  # first of all the end itself
        for _ in range(_HALVINGS):
            reached = (X + at * (ends - X)).astype(X.dtype)
            decision, doubt = self._decide(reached)
            crossed = (sign * decision < -doubt)[:, None]
            points, found = np.where(crossed, reached, points), found | crossed[:, 0]
            near, far = np.where(crossed, near, at), np.where(crossed, at, far)
            at = 0.5 * (near + far)
        return points, found

    def _decide(self, X: Array) -> tuple[FloatArray, FloatArray]:
        """Return the decision at points (n, d), and what rounding may change it by.

        That is docs/theory.md (19a), and (19b) for scalers, which work in the dtype of X.
        """
        points, distances, weights = self._kernels(X)
        norms = np.sum(points**2, axis=1)[:, None] + np.sum(self.support_vectors**2, axis=1)
        sizes = abs(self.intercept) + np.sum(np.abs(weights) * (1 + self.gamma * norms), axis=1)
        steepness = 2 * self.gamma * np.sum(np.abs(weights) * distances, axis=1)
        terms = (np.abs(X, dtype=np.float64) + np.abs(self.shift)) * self.scale
        moved = 4 * np.finfo(X.dtype).eps * np.linalg.norm(terms, axis=1)
        return weights.sum(axis=1) + self.intercept, _TERM_ROUNDING * sizes + steepness * moved

    def _kernels(self, X: Array) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return scaled points (n, d), their distances from the support vectors, and what these add to the decision."""
        points = (np.asarray(X, np.float64) - self.shift) * self.scale
        distances = cdist(points, self.support_vectors)
        return points, distances, self.coefficients * np.exp(-self.gamma * distances**2)

    def _distance_bound(self, X: Array, known: FloatArray) -> FloatArray:
        points, distances, weights = self._kernels(X)
        decision = weights.sum(axis=1) + self.intercept
        sign = np.where(decision > 0, 1.0, -1.0)
        gradient = (
            -2 * self.gamma * self.scale * (weights.sum(axis=1)[:, None] * points - weights @ self.support_vectors)
        )
        steepness = np.linalg.norm(gradient, axis=1)
        stretch = float(np.abs(self.scale).max())
        own = sign[:, None] * self.coefficients  # positive: of the sample's class

        def reach(radius: FloatArray) -> FloatArray:
            """Return the root of the bound that holds within the radius."""
            near = np.maximum(0.0, distances - stretch * radius[:, None])
            far = distances + stretch * radius[:, None]
            # The eigenvalues of a kernel's Hessian lie between -2 gamma k and (4 gamma^2 r^2 - 2 gamma) k, which is
            # largest at r^2 = 3 / (2 gamma).
            at = np.clip(1.5 / self.gamma, near**2, far**2)
            up = np.maximum(0.0, 4 * self.gamma**2 * at - 2 * self.gamma) * np.exp(-self.gamma * at)
            down = 2 * self.gamma * np.exp(-self.gamma * near**2)
            bend = stretch**2 * np.sum(np.where(own > 0, own * down, -own * up), axis=1)
            root = steepness + np.sqrt(steepness**2 + 2 * bend * np.abs(decision))
            return np.divide(2 * np.abs(decision), root, out=np.full(len(root), np.inf), where=root > 0)

        # Where nothing is known: all kernels have vanished there.
        high = np.minimum(known, (distances.max(axis=1) + 10 / np.sqrt(self.gamma)) / stretch)
        low = np.zeros(len(high))
        best = np.minimum(high, reach(high))
        for _ in range(12):
            middle = 0.5 * (low + high)
            reached = reach(middle)
            best = np.maximum(best, np.minimum(middle, reached))
            holds = reached >= middle
            low, high = np.where(holds, middle, low), np.where(holds, high, middle)
        return best * (1 - _ROUNDING)

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
    shift, scale = _compose(steps, machine.n_features_in_)
    first = next(step for step in [*steps, machine] if hasattr(step, "n_features_in_"))
    intercept = float(np.ravel(machine.intercept_)[0])
    if isinstance(machine, SVC):
        # A decision of 0 is for the second class, where LinearSVC's is for the first: at one where no kernel reaches.
        intercept = intercept or _LEAST
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
        # In double: fitted to float32 samples, these are float32.
        inverse = 1.0 / np.asarray(step.scale_, dtype=np.float64)
        mean, spread = -step.min_ * inverse, inverse
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
