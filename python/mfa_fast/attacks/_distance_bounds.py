"""How near another class can be at most, by a support vector machine."""

from __future__ import annotations

import numpy as np

from mfa_fast._typing import Array, FloatArray
from mfa_fast.attacks._decisions import TERM_ROUNDING, linear_decisions, parts, rbf_decisions, rbf_kernels
from mfa_fast.attacks.svm import LinearMachine, RbfMachine

# By which bounds are lowered, relative: the rounding of what they are made of in double.
_ROUNDING = 1e-9
# Below which a kernel is not known to any digit, here or where the machine itself computes it.
_VANISHED = float(np.finfo(np.float64).tiny)
# Of a radius, which the bound hardly depends on near the best one.
_HALVINGS = 12


def distance_bound(machine: LinearMachine | RbfMachine, X: Array, known: FloatArray) -> FloatArray:
    """Return distances (n,) within which the decision of no sample (n, d) changes.

    `known` are the distances (n,) of adversarial examples, infinite where there is none: the search ends there.
    """
    if isinstance(machine, LinearMachine):
        return _from_plane(machine, X)
    return np.concatenate([_from_surface(machine, X[some], known[some]) for some in parts(machine, len(X))])


def _from_plane(machine: LinearMachine, X: Array) -> FloatArray:
    """Return distances from the plane, docs/theory.md (18), less what rounding may take from them, (18a)."""
    decisions, doubts = linear_decisions(machine, X)
    length = float(np.linalg.norm(machine.weights * machine.scale))
    sure = np.maximum(0.0, np.abs(decisions) - doubts)
    return sure / length * (1 - _ROUNDING) if length > 0 else np.full(len(sure), np.inf)


def _from_surface(machine: RbfMachine, X: Array, known: FloatArray) -> FloatArray:
    """Return lower bounds of distances from the surface on which the decision is 0.

    In a ball of radius R the decision, with the sign that it has at x, is at least f - |grad f| r - c(R) r^2 / 2 at a
    distance r, where c(R) bounds how fast any kernel can bend it downwards (docs/theory.md (37), (38)). f is taken less
    what rounding and underflow may change it by. The root of that, or R if it is smaller, is a lower bound for any R;
    the best one is found by bisection.
    """
    gamma = machine.gamma
    points, distances, weights = rbf_kernels(machine, X)
    decision, doubt = rbf_decisions(machine, X)
    vanished = _VANISHED * np.sum(np.abs(machine.coefficients))
    lead = np.maximum(0.0, np.abs(decision) - doubt - vanished)
    if gamma == 0:  # of a kernel that is 1 everywhere
        return np.where(lead > 0, np.inf, 0.0)
    sign = np.where(decision > 0, 1.0, -1.0)
    gradient = -2 * gamma * machine.scale * (weights.sum(axis=1)[:, None] * points - weights @ machine.support_vectors)
    stretch = float(np.abs(machine.scale).max())
    lengths = np.linalg.norm(points, axis=1)[:, None] + np.linalg.norm(machine.support_vectors, axis=1)
    terms = 2 * gamma * stretch * np.sum(np.abs(weights) * lengths, axis=1)
    steepness = np.linalg.norm(gradient, axis=1) + TERM_ROUNDING * terms
    own = sign[:, None] * machine.coefficients  # positive: of the sample's class

    def reach(radius: FloatArray) -> FloatArray:
        """Return the root of the bound that holds within the radius."""
        near = np.maximum(0.0, distances - stretch * radius[:, None])
        far = distances + stretch * radius[:, None]
        # The eigenvalues of a kernel's Hessian lie between -2 gamma k and (4 gamma^2 r^2 - 2 gamma) k, which is
        # largest at r^2 = 3 / (2 gamma).
        at = np.clip(1.5 / gamma, near**2, far**2)
        up = np.maximum(0.0, 4 * gamma**2 * at - 2 * gamma) * np.exp(-gamma * at)
        down = 2 * gamma * np.exp(-gamma * near**2)
        bend = stretch**2 * np.sum(np.where(own > 0, own * down, -own * up), axis=1)
        root = steepness + np.hypot(steepness, np.sqrt(2 * bend) * np.sqrt(lead))  # whose product may underflow
        return np.divide(2 * lead, root, out=np.where(lead > 0, np.inf, 0.0), where=root > 0)

    # Where nothing is known: all kernels have vanished there.
    high = np.minimum(known, (distances.max(axis=1) + 10 / np.sqrt(gamma)) / stretch)
    low = np.zeros(len(high))
    best = np.minimum(high, reach(high))
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        reached = reach(middle)
        best = np.maximum(best, np.minimum(middle, reached))
        holds = reached >= middle
        low, high = np.where(holds, middle, low), np.where(holds, high, middle)
    return best * (1 - _ROUNDING)
