"""Where the way to a support vector crosses over to its class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import pairwise_distances_argmin

from mfa_fast._typing import Array, FloatArray
from mfa_fast.attacks._decisions import parts, rbf_decisions
from mfa_fast.attacks.svm import RbfMachine

# Of the way, until the crossing is known to a part in 10^9.
_HALVINGS = 30


def crossings(machine: RbfMachine, X: Array, own: NDArray[np.int64]) -> tuple[Array, NDArray[np.bool_]]:
    """Return points of the other class for samples (n, d), and who has one (n,); the others come back as they are.

    `own` are the places of the samples' classes (n,). The points lie where the way to the nearest support vector of
    the other class crosses over, and are surely of it in the dtype of X.
    """
    points, found = X.copy(), np.zeros(len(X), np.bool_)
    vectors = machine.support_vectors / machine.scale + machine.shift
    of_vectors, doubts = np.hstack([rbf_decisions(machine, vectors[some]) for some in parts(machine, len(vectors))])
    for place, sign in enumerate((-1.0, 1.0)):
        members, others = np.flatnonzero(own == place), vectors[sign * of_vectors < -doubts]
        if not len(others):
            continue
        for some in parts(machine, len(members)):
            rows = members[some]
            ends = others[pairwise_distances_argmin(X[rows].astype(np.float64), others)]
            points[rows], found[rows] = _cross(machine, X[rows], ends, sign)
    return points, found


def _cross(machine: RbfMachine, X: Array, ends: FloatArray, sign: float) -> tuple[Array, NDArray[np.bool_]]:
    """Go from samples of the class whose decisions have that sign towards `ends` (n, d), halving the way."""
    points, found = X.copy(), np.zeros(len(X), np.bool_)
    near, far = np.zeros((len(X), 1)), np.ones((len(X), 1))
    at = far  # first of all the end itself
    for _ in range(_HALVINGS):
        reached = (X + at * (ends - X)).astype(X.dtype)
        decision, doubt = rbf_decisions(machine, reached)
        crossed = (sign * decision < -doubt)[:, None]
        points, found = np.where(crossed, reached, points), found | crossed[:, 0]
        near, far = np.where(crossed, near, at), np.where(crossed, at, far)
        at = 0.5 * (near + far)
    return points, found
