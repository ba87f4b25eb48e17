"""First parameters of a mixture: a clustering in a subspace of principal components, and one M-step from it."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import pairwise_distances_argmin
from sklearn.utils.extmath import randomized_svd
from threadpoolctl import threadpool_limits

from mfa_fast._em import NoiseModel, assigned_sums, regress
from mfa_fast._memory import projection_rows
from mfa_fast._parameters import Parameters
from mfa_fast._samples import Samples, reject_bad_row
from mfa_fast._typing import Array, FloatArray

METHODS = ("kmeans", "k-means++", "random_from_data", "random")

# The subspace is found from this many samples: its directions need to be good, not perfect.
SUBSAMPLE = 2000
# Rows that are brought into coordinates at once: what they become stays in the second-level cache.
_ROWS_AT_ONCE = 512
# k-means is run on this many samples for each component, or on so many at least, and the others go to the nearest mean.
_CLUSTERED_PER_COMPONENT = 100
_CLUSTERED = 4000
# Beyond it sums of squares overflow.
_LARGEST = 1e140
# Enough for a start that EM improves on: the last rounds of k-means move next to nothing.
_KMEANS_ITERATIONS = 20


class _ProcessSettings:
    """What a start changes of the whole process: BLAS's number of threads, and which warnings are shown.

    One start at a time. Of two that change and restore them side by side, the later to end would restore what the
    other had set, for good. A signal's handler may begin one within another of its thread, and end it first.
    """

    def __init__(self) -> None:
        self._renew_lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew_lock)

    def _renew_lock(self) -> None:
        # The thread that held it may not exist in the child.
        self._lock = threading.RLock()

    @contextmanager
    def single_threaded(self) -> Iterator[None]:
        """Hold BLAS to one thread; inside, filters of warnings may be changed too."""
        with self._lock, threadpool_limits(limits=1):
            yield


_process_settings = _ProcessSettings()


class Subspace:
    """Leading principal components of the samples, and all samples in their coordinates."""

    def __init__(
        self, samples: Samples, n_directions: int, sample_weight: FloatArray | None, rng: np.random.RandomState
    ) -> None:
        n, d = samples.data.shape
        # What is drawn does not depend on the number of samples, so that weights stand for repetition here too.
        seed = int(rng.randint(2**31))
        chosen = np.arange(n)
        if n > SUBSAMPLE:
            chosen = np.sort(np.random.RandomState(seed).permutation(n)[:SUBSAMPLE])
        some = np.array(samples.host_rows(chosen), dtype=np.float64, order="C")
        usable = (np.abs(some) < _LARGEST).all(axis=1)
        reject_bad_row(samples, None if usable.all() else int(chosen[np.argmin(usable)]))
        size = min(n_directions, d, len(some))
        self.mean, self._directions = _principal_directions(
            some, None if sample_weight is None else sample_weight[chosen], size, seed
        )
        # Directions come with either sign, depending on the rows; times these they always point the same way.
        self.signs = np.sign(self._directions[np.arange(size), np.argmax(np.abs(self._directions), axis=1)])
        rows = projection_rows(d, _ROWS_AT_ONCE)
        self.coordinates = np.empty((n, size))
        for i in range(0, n, rows):
            self.coordinates[i : i + rows] = self.project(samples.host_rows(slice(i, i + rows)))
        # A number that is not finite shows in every coordinate of its row.
        bad = ~(np.abs(self.coordinates) < _LARGEST).all(axis=1)
        reject_bad_row(samples, int(np.argmax(bad)) if bad.any() else None)
        # By how much equal rows may differ: how a product rounds depends on where in a block a row stands.
        self.rounding = 64.0 * float(np.finfo(samples.dtype).eps) * float(np.abs(self.coordinates).max())

    def project(self, X: NDArray[np.generic]) -> Array:
        """Return coordinates (n, R): in float32 for samples in float32, of which clusters need no more."""
        dtype = np.float32 if X.dtype == np.float32 else np.float64
        with np.errstate(invalid="ignore", over="ignore"):
            # In one memory order: a product's rounding depends on it, and clusters on that.
            centered = np.array(X, dtype=dtype, order="C")
            np.subtract(centered, self.mean.astype(dtype), out=centered)
            return np.asarray(centered @ self._directions.T.astype(dtype))


def _principal_directions(
    some: FloatArray, sample_weight: FloatArray | None, size: int, seed: int
) -> tuple[FloatArray, FloatArray]:
    """Return the mean (d,) and the leading principal directions (size, d)."""
    mean = np.average(some, axis=0, weights=sample_weight)
    scaled = some - mean
    if sample_weight is not None:
        scaled *= np.sqrt(sample_weight / sample_weight.mean())[:, None]
    if size > 0.5 * min(some.shape):
        return mean, np.linalg.svd(scaled, full_matrices=False)[2][:size]
    # Two rounds: clusters are the same in a subspace that is all but the best.
    return mean, randomized_svd(scaled, size, n_iter=2, random_state=seed)[2]


def _cluster(
    subspace: Subspace,
    method: str,
    n_components: int,
    means: FloatArray | None,
    sample_weight: FloatArray | None,
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
        most = max(_CLUSTERED, _CLUSTERED_PER_COMPONENT * n_components)
        some = slice(None) if len(points) <= most else np.sort(rng.permutation(len(points))[:most])
        shares = None if sample_weight is None else sample_weight[some]
        with warnings.catch_warnings():
            # Fewer distinct points than clusters: the empty ones are seeded below, and EM says so if they stay empty.
            # By its words: other threads may have something to say of EM meanwhile.
            warnings.filterwarnings("ignore", "Number of distinct clusters", ConvergenceWarning)
            clustering.fit(points[some], sample_weight=shares)
        return clustering.predict(points).astype(np.int64)
    if method == "k-means++":
        centers, _ = kmeans_plusplus(points, n_components, sample_weight=sample_weight, random_state=rng)
    else:
        # With shares in any case: without them NumPy draws in another way, and equal weights stand for none.
        shares = np.ones(len(points)) if sample_weight is None else sample_weight
        centers = points[rng.choice(len(points), n_components, replace=False, p=shares / shares.sum())]
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
    subspace: Subspace,
    labels: NDArray[np.int64],
    n_components: int,
    n_factors: int,
    sample_weight: FloatArray | None,
    rng: np.random.RandomState,
) -> FloatArray:
    """Return each sample's coordinates along its cluster's own principal directions, of unit variance.

    In place of directions in which a cluster does not extend there are waves across it, of random frequencies:
    loadings of zero would stay zero for ever. They are small and of mean zero, so that the principal directions explain
    what they did without them; and the same for a sample wherever it stands and however often, so that weights stand
    for repetition here too.
    """
    points = subspace.coordinates
    phases = rng.uniform(0.0, 2.0 * np.pi, n_factors)
    frequencies = rng.standard_normal((points.shape[1], n_factors)) * subspace.signs[:, None]
    z = np.empty((len(points), n_factors))
    for k in range(n_components):
        members = np.flatnonzero(labels == k)
        shares = np.full(len(members), 1.0 / len(members))
        if sample_weight is not None:
            shares = sample_weight[members] / sample_weight[members].sum()
        centered = points[members] - shares @ points[members]
        if np.ptp(points[members], axis=0).max() <= subspace.rounding:
            centered[:] = 0.0  # a single place: what is left is no direction
        variances, directions = np.linalg.eigh((centered.T * shares) @ centered)
        order = np.argsort(variances)[::-1][:n_factors]
        wide = order[variances[order] > 1e-12 * max(variances[order[0]], 1e-300)] if n_factors else order
        wide = wide[: max(len(members) - 1, 0)]
        reach = np.sqrt(max(float(variances.sum()), 1e-300))
        rest = slice(len(wide), None)
        waves = 0.1 * np.cos(centered / reach @ frequencies[:, rest] + phases[rest])
        # A cluster of a single place has its offset from all samples' mean to make loadings of, and nothing else.
        z[members, rest] = waves - shares @ waves if len(wide) else waves
        z[members, : len(wide)] = centered @ directions[:, wide] / np.sqrt(variances[wide])
    return z


def initial_parameters(
    samples: Samples,
    method: str,
    shape: tuple[int, int, int],
    means: FloatArray | None,
    noise: NoiseModel,
    sample_weight: FloatArray | None,
    rng: np.random.RandomState,
    n_threads: int,
) -> Parameters:
    """Return first parameters of a mixture with shape = (K, L, d); given `means` make the clusters.

    Weights are above zero: samples without weight have been left out.
    """
    n_components, n_factors, _ = shape
    # On one thread, because scikit-learn's k-means adds up in whatever order its threads come home.
    with _process_settings.single_threaded():
        subspace = Subspace(samples, max(16, 2 * n_factors), sample_weight, rng)
        labels = _fill_empty(_cluster(subspace, method, n_components, means, sample_weight, rng), n_components, rng)
        z = _guess_factors(subspace, labels, n_components, n_factors, sample_weight, rng)
    about = np.tile(subspace.mean, (n_components, 1))
    return regress(about, assigned_sums(samples, about, labels, z, sample_weight, n_threads), noise, n_threads)
