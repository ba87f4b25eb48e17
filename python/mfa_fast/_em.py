"""Expectation-maximisation: the kernels add up sufficient statistics, this makes parameters of them.

docs/theory.md, section 2.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from mfa_fast import _core
from mfa_fast._backend import Samples, reject_bad_row
from mfa_fast._kernels import FloatArray, Parameters

# A component with less than this many samples' worth of responsibility has no claim to any: it is seeded anew.
EMPTY_COUNT = 1e-3


@dataclass(frozen=True)
class NoiseModel:
    """What is assumed of the noise variance."""

    diagonal: bool
    tied: bool
    floor: float

    def fit(self, residual_squares: FloatArray, counts: FloatArray) -> FloatArray:
        """Return noise variances (K, d) from sums of squared residuals (K, d), theory.md (13)."""
        n_components, n_features = residual_squares.shape
        totals = counts[:, None]
        if self.tied:
            residual_squares = residual_squares.sum(axis=0, keepdims=True)
            totals = totals.sum(axis=0, keepdims=True)
        variance = residual_squares / totals
        if not self.diagonal:
            variance = variance.mean(axis=1, keepdims=True)
        return np.ascontiguousarray(np.broadcast_to(np.maximum(variance, self.floor), (n_components, n_features)))


@dataclass(frozen=True)
class Statistics:
    """Sums over samples with responsibilities g, factors z and offsets r from the current means."""

    counts: FloatArray  # (K,)            sum g
    factor_sums: FloatArray  # (K, L)          sum g z
    factor_moments: FloatArray  # (K, L, L)       sum g E[z z^T]
    cross: FloatArray  # (K, L + 1, d)   sum g [z; 1] r^T
    squares: FloatArray  # (K, d)          sum g r * r

    @classmethod
    def zeros(cls, n_components: int, n_factors: int, n_features: int) -> Statistics:
        """Make empty ones."""
        K, L, d = n_components, n_factors, n_features
        return cls(
            np.zeros(K),
            np.zeros((K, L)),
            np.zeros((K, L, L)),
            np.zeros((K, L + 1, d)),
            np.zeros((K, d)),
        )

    def arrays(self) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
        """Return the arrays in the order in which the kernels take them."""
        return (self.counts, self.factor_sums, self.factor_moments, self.cross, self.squares)


def e_step(model: _core.Model, samples: Samples, screening: bool, n_threads: int) -> tuple[Statistics, FloatArray]:
    """Return the statistics and log p(x) of every sample."""
    statistics = Statistics.zeros(model.n_components, model.n_factors, model.n_features)
    log_likelihoods = np.empty(len(samples))
    bad = _core.expectation(
        model, samples.data, statistics.arrays(), log_likelihoods, screening=screening, n_threads=n_threads
    )
    reject_bad_row(samples, bad)
    return statistics, log_likelihoods


def assigned_statistics(
    samples: Samples,
    means: FloatArray,
    labels: NDArray[np.int64],
    factors: FloatArray,
    n_threads: int,
) -> Statistics:
    """Return the statistics of samples whose components and factors are taken as known."""
    statistics = Statistics.zeros(means.shape[0], factors.shape[1], means.shape[1])
    _core.assigned(samples.data, means, labels, factors, statistics.arrays(), n_threads=n_threads)
    return statistics


def m_step(means: FloatArray, statistics: Statistics, noise: NoiseModel) -> Parameters:
    """Return the parameters that maximise the expected log-likelihood, theory.md (11) to (13).

    Means and loadings together are the regression of r on [z; 1] (Ghahramani & Hinton 1996); its residual is the noise.
    Every component must have a count above zero.
    """
    n_components, n_factors = statistics.factor_sums.shape
    gram = np.empty((n_components, n_factors + 1, n_factors + 1))
    gram[:, :n_factors, :n_factors] = statistics.factor_moments
    gram[:, :n_factors, n_factors] = gram[:, n_factors, :n_factors] = statistics.factor_sums
    gram[:, n_factors, n_factors] = statistics.counts
    # The pseudo-inverse, because factors that are taken as known may be linearly dependent.
    coefficients = np.linalg.pinv(gram / statistics.counts[:, None, None], hermitian=True) @ (
        statistics.cross / statistics.counts[:, None, None]
    )
    explained = np.einsum("kld,kld->kd", coefficients, statistics.cross)
    return Parameters(
        weights=statistics.counts / statistics.counts.sum(),
        means=means + coefficients[:, n_factors],
        loadings=np.ascontiguousarray(coefficients[:, :n_factors]),
        noise_variance=noise.fit(statistics.squares - explained, statistics.counts),
    )


def reseed_empty(
    parameters: Parameters,
    statistics: Statistics,
    log_likelihoods: FloatArray,
    samples: Samples,
    noise: NoiseModel,
) -> Parameters:
    """Do the M-step when components have lost all their samples.

    Each of these is moved to one of the worst explained samples, with the shape of the heaviest component.
    """
    empty = np.flatnonzero(statistics.counts < EMPTY_COUNT)
    kept = np.flatnonzero(statistics.counts >= EMPTY_COUNT)
    warnings.warn(
        f"component(s) {', '.join(map(str, empty))} had lost all samples and were moved to the worst explained ones; "
        "fewer components (n_components), or another init_params, may suit the data better.",
        ConvergenceWarning,
        stacklevel=4,
    )
    rest = Statistics(*(a[kept] for a in statistics.arrays()))
    fitted = m_step(parameters.means[kept], rest, noise)
    heaviest = int(np.argmax(fitted.weights))
    worst = np.argsort(log_likelihoods, kind="stable")[: len(empty)]
    share = 1.0 / len(samples)

    new = parameters.astype(np.float64)
    weights, means, loadings, variance = (np.array(a) for a in new.arrays())
    weights[kept] = fitted.weights * (1.0 - share * len(empty))
    means[kept], loadings[kept], variance[kept] = (
        fitted.means,
        fitted.loadings,
        fitted.noise_variance,
    )
    weights[empty] = share
    means[empty] = samples.data[worst].astype(np.float64)
    loadings[empty] = fitted.loadings[heaviest]
    variance[empty] = fitted.noise_variance[heaviest]
    return Parameters(weights, means, loadings, variance)


def iterate(
    parameters: Parameters,
    samples: Samples,
    noise: NoiseModel,
    screening: bool,
    n_threads: int,
    last: _core.Model | None,
) -> tuple[Parameters, float, _core.Model]:
    """Do one iteration: the new parameters, the mean log-likelihood of the old ones, and these as they were packed.

    `last` is what the iteration before has packed: the subspace that screening uses is carried on from there.
    """
    model = parameters.pack(near=last if screening else None)
    statistics, log_likelihoods = e_step(model, samples, screening, n_threads)
    if np.any(statistics.counts < EMPTY_COUNT):
        new = reseed_empty(parameters, statistics, log_likelihoods, samples, noise)
    else:
        new = m_step(parameters.means, statistics, noise)
    if not all(np.isfinite(a).all() for a in new.arrays()):
        msg = "X has numbers too large for EM: their squares overflow float64; scale the data."
        raise ValueError(msg)
    return new, float(np.mean(log_likelihoods)), model
