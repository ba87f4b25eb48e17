"""First parameters of a mixture: a clustering in a subspace of principal components, and one M-step from it."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import pairwise_distances_argmin
from threadpoolctl import threadpool_limits

from mfa_fast._backend import Samples, reject_bad_row
from mfa_fast._em import NoiseModel, assigned_sums, regress
from mfa_fast._kernels import FloatArray, Parameters

METHODS = ("kmeans", "k-means++", "random_from_data", "random")

# The subspace is found from this many samples: its directions need to be good, not perfect.
_SUBSAMPLE = 2000
_ROWS_AT_ONCE = 4096
# Beyond it sums of squares overflow.
_LARGEST = 1e140
# Enough for a start that EM improves on: the last rounds of k-means move next to nothing.
_KMEANS_ITERATIONS = 20


class Subspace:
    """Leading principal components of the samples, and all samples in their coordinates."""

    def __init__(self, samples: Samples, n_directions: int, rng: np.random.RandomState) -> None:
        n, d = samples.data.shape
        chosen = np.sort(rng.permutation(n)[:_SUBSAMPLE])
        some = np.array(samples.data[chosen], dtype=np.float64, order="C")
        usable = (np.abs(some) < _LARGEST).all(axis=1)
        reject_bad_row(samples, None if usable.all() else int(chosen[np.argmin(usable)]))
        size = min(n_directions, d, len(some))
        solver = "full" if size > 0.5 * min(some.shape) else "randomized"
        self._pca = PCA(size, svd_solver=solver, random_state=rng).fit(some)
        self.coordinates = np.concatenate(
            [self.project(samples.data[i : i + _ROWS_AT_ONCE]) for i in range(0, n, _ROWS_AT_ONCE)]
        )
        # A number that is not finite shows in every coordinate of its row.
        bad = ~(np.abs(self.coordinates) < _LARGEST).all(axis=1)
        reject_bad_row(samples, int(np.argmax(bad)) if bad.any() else None)

    def project(self, X: NDArray[np.generic]) -> FloatArray:
        """Return coordinates (n, R)."""
        with np.errstate(invalid="ignore", over="ignore"):
            # In one memory order: a product's rounding depends on it, and clusters on that.
            centered = np.array(X, dtype=np.float64, order="C") - self._pca.mean_
            return np.asarray(centered @ self._pca.components_.T)


def _cluster(
    subspace: Subspace,
    method: str,
    n_components: int,
    means: FloatArray | None,
    rng: np.random.RandomState,
) -> NDArray[np.int64]:
    points = subspace.coordinates
    if means is not None:
        return pairwise_distances_argmin(points, subspace.project(means)).astype(np.int64)
    if n_components == 1:
        return np.zeros(len(points), np.int64)
    if method == "random":
        return rng.randint(n_components, size=len(points)).astype(np.int64)
    if method == "kmeans":
        clustering = KMeans(n_components, n_init=1, max_iter=_KMEANS_ITERATIONS, random_state=rng)
        with warnings.catch_warnings():
            # Fewer distinct points than clusters: the empty ones are seeded below, and EM says so if they stay empty.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return clustering.fit(points).labels_.astype(np.int64)
    if method == "k-means++":
        centers, _ = kmeans_plusplus(points, n_components, random_state=rng)
    else:
        centers = points[rng.choice(len(points), n_components, replace=False)]
    return pairwise_distances_argmin(points, centers).astype(np.int64)


def _fill_empty(labels: NDArray[np.int64], n_components: int, rng: np.random.RandomState) -> NDArray[np.int64]:
    """Give every cluster without a sample one from a cluster that has several."""
    counts = np.bincount(labels, minlength=n_components)
    labels = labels.copy()
    for k in np.flatnonzero(counts == 0):
        row = rng.choice(np.flatnonzero(counts[labels] > 1))
        counts[labels[row]] -= 1
        labels[row] = k
        counts[k] = 1
    return labels


def _guess_factors(
    points: FloatArray,
    labels: NDArray[np.int64],
    n_components: int,
    n_factors: int,
    rng: np.random.RandomState,
) -> FloatArray:
    """Return each sample's coordinates along its cluster's own principal directions, of unit variance.

    Directions in which a cluster does not extend are drawn at random: loadings of zero would stay zero for ever.
    """
    z = rng.standard_normal((len(points), n_factors))
    for k in range(n_components):
        members = np.flatnonzero(labels == k)
        centered = points[members] - points[members].mean(axis=0)
        variances, directions = np.linalg.eigh(centered.T @ centered / len(members))
        order = np.argsort(variances)[::-1][:n_factors]
        wide = order[variances[order] > 1e-12 * max(variances[order[0]], 1e-300)] if n_factors else order
        wide = wide[: max(len(members) - 1, 0)]
        z[members, : len(wide)] = centered @ directions[:, wide] / np.sqrt(variances[wide])
    return z


def initial_parameters(
    samples: Samples,
    method: str,
    shape: tuple[int, int, int],
    means: FloatArray | None,
    noise: NoiseModel,
    rng: np.random.RandomState,
    n_threads: int,
) -> Parameters:
    """Return first parameters of a mixture with shape = (K, L, d); given `means` make the clusters."""
    n_components, n_factors, _ = shape
    # On one thread, because scikit-learn's k-means adds up in whatever order its threads come home.
    with threadpool_limits(limits=1):
        subspace = Subspace(samples, max(16, 2 * n_factors), rng)
        labels = _fill_empty(_cluster(subspace, method, n_components, means, rng), n_components, rng)
        z = _guess_factors(subspace.coordinates, labels, n_components, n_factors, rng)
    center = np.asarray(samples.data[: min(len(samples), _SUBSAMPLE)], dtype=np.float64).mean(axis=0)
    about = np.tile(center, (n_components, 1))
    return regress(about, assigned_sums(samples, about, labels, z, n_threads), noise)
