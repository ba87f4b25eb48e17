"""Decisions of support vector machines, and below which size rounding may give them another sign."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

from mfa_fast._typing import Array, FloatArray
from mfa_fast.attacks.svm import LinearMachine, RbfMachine

# The sign of a sum is certain beyond so much of the size of its terms, docs/theory.md (18a) and (19a).
TERM_ROUNDING = 64 * np.finfo(np.float64).eps
# Of a machine's kernels, one for each sample and support vector, some ten megabytes are made at a time.
_KERNELS_AT_ONCE = 1_000_000


def linear_decisions(machine: LinearMachine, X: Array) -> tuple[FloatArray, FloatArray]:
    """Return the decisions at points (n, d), and what rounding may change them by, docs/theory.md (18a).

    Without the last term there: it is the kernel's, which adds up over x. Here it is x - shift, as in the machine.
    """
    centered = np.asarray(X, np.float64) - machine.shift
    sizes = abs(machine.intercept) + np.linalg.norm(centered * (machine.reach * machine.scale), axis=1)
    return centered @ (machine.weights * machine.scale) + machine.intercept, TERM_ROUNDING * sizes


def rbf_decisions(machine: RbfMachine, X: Array) -> tuple[FloatArray, FloatArray]:
    """Return the decisions at points (n, d), and what rounding may change them by, docs/theory.md (19a) and (19b)."""
    points, distances, weights = rbf_kernels(machine, X)
    norms = np.sum(points**2, axis=1)[:, None] + np.sum(machine.support_vectors**2, axis=1)
    sizes = abs(machine.intercept) + np.sum(np.abs(weights) * (1 + machine.gamma * norms), axis=1)
    steepness = 2 * machine.gamma * np.sum(np.abs(weights) * distances, axis=1)
    doubt = TERM_ROUNDING * sizes + steepness * _moved_by_scalers(machine, X)
    return weights.sum(axis=1) + machine.intercept, doubt


def _moved_by_scalers(machine: RbfMachine, X: Array) -> FloatArray:
    """Return how far scalers, which work in the dtype of X, may put points (n, d) from where they belong, (19b)."""
    terms = (np.abs(X, dtype=np.float64) + np.abs(machine.shift)) * np.abs(machine.scale)
    return np.asarray(4 * np.finfo(X.dtype).eps * np.linalg.norm(terms, axis=1))


def rbf_kernels(machine: RbfMachine, X: Array) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return scaled points (n, d), their distances from the support vectors, and what these add to the decision."""
    points = (np.asarray(X, np.float64) - machine.shift) * machine.scale
    distances = cdist(points, machine.support_vectors)
    return points, distances, machine.coefficients * np.exp(-machine.gamma * distances**2)


def parts(machine: RbfMachine, n_samples: int) -> list[slice]:
    """Return as many samples at a time as their kernels leave memory for."""
    height = max(1, _KERNELS_AT_ONCE // max(1, len(machine.coefficients)))
    return [slice(i, i + height) for i in range(0, n_samples, height)]
