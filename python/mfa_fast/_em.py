"""Expectation-maximisation: the kernels add up sufficient statistics, this makes parameters of them.

docs/theory.md, section 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mfa_fast import _core, _cuda_kernels
from mfa_fast._diagnosis import warn
from mfa_fast._memory import expectation_rows
from mfa_fast._missing import IncompleteSamples, by_pattern
from mfa_fast._parameters import Parameters
from mfa_fast._samples import Samples, reject_bad_row
from mfa_fast._statistics import Statistics, Sums, keep_worst, worst_rows, zero_sums
from mfa_fast._streams import Stream
from mfa_fast._typing import Array, FloatArray

# Noise is what factors leave of the squares. Of a smaller share of them rounding leaves few digits, and of the matrices
# that the E-step inverts none.
RESOLVED = 2.0**-40


@dataclass(frozen=True)
class NoiseModel:
    """What is assumed of the noise variance."""

    diagonal: bool
    tied: bool
    floor: float

    def fit(self, squares: FloatArray, explained: FloatArray, modelled: FloatArray, counts: FloatArray) -> FloatArray:
        """Return noise variances (K, d) from sums of squares (K, d), and what is explained of them, theory.md (13).

        What the loadings make of a feature's variance is `modelled` (K, d).
        """
        residual_squares, totals = squares - explained, counts[:, None]
        if self.tied:
            residual_squares = residual_squares.sum(axis=0, keepdims=True)
            totals = totals.sum(axis=0, keepdims=True)
        variance = residual_squares / totals
        if not self.diagonal:
            variance = variance.mean(axis=1, keepdims=True)
        # Of the model's own, if the samples do not make use of its loadings.
        spread = np.maximum(squares / counts[:, None], modelled)
        variance = np.maximum(variance, self.least(spread))
        return np.ascontiguousarray(np.broadcast_to(variance, squares.shape))

    def least(self, spread: FloatArray) -> FloatArray:
        """Return the least noise variances beside a mean square of so much (K, d), theory.md (13e).

        They broadcast to (K, d).
        """
        if not self.diagonal:
            spread = spread.mean(axis=1, keepdims=True)
        if self.tied:
            spread = spread.max(axis=0, keepdims=True)
        return np.maximum(RESOLVED * spread, self.floor)


def e_step(
    model: _core.Model,
    data: Samples | Stream,
    fingerprint: str,
    sample_weight: FloatArray | None = None,
    *,
    marginal: bool,
    screening: bool,
    n_threads: int,
) -> Statistics:
    """Return the statistics of the samples at the parameters that were packed, which have this fingerprint.

    If `marginal`, NaN is a missing value. Every number is summed in the order of the rows, so blocks show in none of
    them; but in rounding where values are missing, as rows are then taken by pattern, or where a device adds blocks up.
    """
    sums: Sums | None = None
    log_likelihood, n_samples = 0.0, 0
    counted = None if sample_weight is None else sample_weight.copy()
    worst: tuple[Array, FloatArray] | None = None
    for block in data.blocks(expectation_rows(model.n_components, model.n_factors, data.read_bytes)):
        shares = None if sample_weight is None else sample_weight[block.first : block.first + len(block)]
        found = by_pattern(block, n_threads, shares) if marginal else block
        if isinstance(found, IncompleteSamples):
            sums, log_likelihoods = _or_zero(sums, model), np.empty(len(block))
            found.add_expectation(
                model, sums._sums(), log_likelihoods, shares, screening=screening, n_threads=n_threads
            )
            ranks = found.last_if_empty(log_likelihoods)
            n_samples -= len(found.empty)
            if counted is not None:
                counted[block.first + found.empty] = 0.0
        else:
            sums, log_likelihoods = _add_expectation(model, block, sums, shares, screening, n_threads)
            ranks = log_likelihoods
        # Components only gain samples: those that are empty at the end are so after every block.
        n_empty = int(np.count_nonzero(sums._empty()))
        candidates = _worst(block, n_empty, ranks, shares)
        worst = (
            candidates
            if worst is None
            else keep_worst(n_empty, *map(np.concatenate, zip(worst, candidates, strict=True)))
        )
        log_likelihood = add_log_likelihoods(log_likelihood, block, log_likelihoods, shares)
        n_samples += len(block)
    assert sums is not None and worst is not None
    return Statistics(
        *sums._sums(),
        log_likelihood=log_likelihood,
        weight=float(n_samples if counted is None else counted.sum()),
        worst_samples=worst[0],
        worst_log_likelihoods=worst[1],
        fingerprint=fingerprint,
    )


def _or_zero(sums: Sums | None, model: _core.Model) -> Sums:
    """Return the sums, or where there are none yet empty ones for a kernel on the host to add to."""
    return zero_sums(model.n_components, model.n_factors, model.n_features) if sums is None else sums


def _add_expectation(
    model: _core.Model,
    samples: Samples,
    sums: Sums | None,
    sample_weight: FloatArray | None,
    screening: bool,
    n_threads: int,
) -> tuple[Sums, Any]:
    """Return the sums with what the samples add to them, and log p(x) of every sample, where the samples are."""
    if samples.device is not None:
        found, log_likelihoods = _cuda_kernels.expectation(model, samples, sample_weight, screening)
        if sums is None:
            return found, log_likelihoods
        for total, addend in zip(sums._sums(), found._sums(), strict=True):
            total += addend
        return sums, log_likelihoods
    sums, log_likelihoods = _or_zero(sums, model), np.empty(len(samples))
    bad = _core.expectation(
        model,
        samples.data,
        sums._sums(),
        log_likelihoods,
        sample_weight=sample_weight,
        screening=screening,
        n_threads=n_threads,
    )
    reject_bad_row(samples, bad)
    return sums, log_likelihoods


def add_log_likelihoods(total: float, block: Samples, values: Any, sample_weight: FloatArray | None) -> float:
    """Return the total with a block's log p(x): in the order of the rows, unless they are on a device."""
    if block.on_host:
        return _core.add_in_order(total, values, sample_weight)
    if sample_weight is not None:
        values = values * block.arrays.from_host(sample_weight)
    return total + float(block.fetch(values.sum()))


def _worst(block: Samples, count: int, ranks: Any, sample_weight: FloatArray | None) -> tuple[Array, FloatArray]:
    """Return the `count` samples of a block that rank lowest, and their ranks, on the host."""
    known: FloatArray = block.fetch(ranks) if count else np.empty(0)
    chosen = worst_rows(count, known, sample_weight)
    return np.array(block.host_rows(chosen)), known[chosen]


class Expectation:
    """The E-step on samples that are here, or read from here, iteration after iteration.

    What screening found for the parameters of one is carried on to the next.
    """

    def __init__(
        self,
        data: Samples | Stream,
        sample_weight: FloatArray | None,
        *,
        marginal: bool,
        screening: bool,
        n_threads: int,
    ) -> None:
        self.data = data
        self.sample_weight = sample_weight
        self.marginal = marginal
        self.screening = screening
        self.n_threads = n_threads
        self._packed: _core.Model | None = None

    def __call__(self, parameters: Parameters) -> Statistics:
        """Return the statistics at these parameters, without a fingerprint: they are for the next M-step alone."""
        self._packed = parameters.pack(self.n_threads, near=self._packed if self.screening else None)
        return e_step(
            self._packed,
            self.data,
            "",
            self.sample_weight,
            marginal=self.marginal,
            screening=self.screening,
            n_threads=self.n_threads,
        )


def assigned_sums(
    samples: Samples,
    means: FloatArray,
    labels: NDArray[np.int64],
    factors: FloatArray,
    sample_weight: FloatArray | None,
    n_threads: int,
) -> Sums:
    """Return the sums over samples whose components and factors are taken as known."""
    if samples.device is not None:
        return _cuda_kernels.assigned(samples, means, labels, factors, sample_weight)
    sums = zero_sums(means.shape[0], factors.shape[1], means.shape[1])
    _core.assigned(samples.data, means, labels, factors, sums._sums(), sample_weight=sample_weight, n_threads=n_threads)
    return sums


def regress(means: FloatArray, sums: Sums, noise: NoiseModel, n_threads: int) -> Parameters:
    """Return the parameters that maximise the expected log-likelihood, theory.md (11) to (13).

    Means and loadings together are the regression of r on [z; 1] (Ghahramani & Hinton 1996); its residual is the noise.
    Every component must have a count above zero.
    """
    n_components, n_factors = sums.factor_sums.shape
    gram = np.empty((n_components, n_factors + 1, n_factors + 1))
    gram[:, :n_factors, :n_factors] = sums.factor_moments
    gram[:, :n_factors, n_factors] = gram[:, n_factors, :n_factors] = sums.factor_sums
    gram[:, n_factors, n_factors] = sums.counts
    # In coordinates along eigenvectors: the large errors of those along which the factors hardly vary then stay there,
    # where they change next to nothing of what is explained.
    eigenvalues, directions = np.linalg.eigh(gram)
    # Without those that are zero: factors that are taken as known may be linearly dependent.
    known = eigenvalues > 1e-15 * eigenvalues[:, -1:]
    scales = np.power(eigenvalues, -0.5, out=np.zeros_like(eigenvalues), where=known)
    shape = means.shape
    loadings = np.empty((n_components, n_factors, shape[1]))
    shifts, explained, modelled = np.empty(shape), np.empty(shape), np.empty(shape)
    _core.regress(
        directions * scales[:, None, :],
        np.require(sums.cross, np.float64, ["C", "ALIGNED"]),  # statistics may have come from elsewhere
        out=(loadings, shifts, explained, modelled),
        n_threads=n_threads,
    )
    return Parameters(
        weights=sums.counts / sums.counts.sum(),
        means=means + shifts,
        loadings=loadings,
        noise_variance=noise.fit(sums.squares, explained, modelled, sums.counts),
    )


def m_step(parameters: Parameters, statistics: Statistics, noise: NoiseModel, n_threads: int) -> Parameters:
    """Return the parameters that follow from statistics taken at `parameters`."""
    empty = statistics._empty()
    return check_range(
        _reseed(parameters, statistics, empty, noise, n_threads)
        if empty.any()
        else regress(parameters.means, statistics, noise, n_threads)
    )


def check_range(parameters: Parameters) -> Parameters:
    """Return the parameters if all are finite.

    Loadings need no look of their own: a share of their squares is the least that the noise variance can be.
    """
    if not all(np.isfinite(a).all() for a in (parameters.weights, parameters.means, parameters.noise_variance)):
        msg = "X has numbers too large for EM: their squares overflow float64; scale the data."
        raise ValueError(msg)
    return parameters


def filled_in(samples: Array, mean: FloatArray) -> FloatArray:
    """Return samples in float64, with a component's mean in place of what is missing in them."""
    return np.where(np.isnan(samples), mean, samples.astype(np.float64))


def _reseed(
    parameters: Parameters, statistics: Statistics, is_empty: NDArray[np.bool_], noise: NoiseModel, n_threads: int
) -> Parameters:
    """Do the M-step when components have lost all their samples.

    Each of these is moved to one of the worst explained samples, with the shape of the heaviest component.
    """
    empty, kept = np.flatnonzero(is_empty), np.flatnonzero(~is_empty)
    if len(kept) == 0 or len(statistics.worst_samples) < len(empty):
        msg = (
            f"statistics must be of enough samples to place the {len(empty)} component(s) that lost all theirs, got "
            f"those of {statistics.weight:g}; add statistics of more samples, or use fewer components."
        )
        raise ValueError(msg)
    warn(
        f"component(s) {', '.join(map(str, empty))} had lost all samples and were moved to the worst explained ones; "
        "fewer components (n_components), or another init_params, may suit the data better."
    )
    fitted = regress(parameters.means[kept], Sums(*(a[kept] for a in statistics._sums())), noise, n_threads)
    heaviest = int(np.argmax(fitted.weights))
    share = 1.0 / max(statistics.weight, len(parameters.weights))

    new = parameters.astype(np.float64)
    weights, means, loadings, variance = (np.array(a) for a in new.arrays())
    weights[kept] = fitted.weights * (1.0 - share * len(empty))
    means[kept], loadings[kept], variance[kept] = (
        fitted.means,
        fitted.loadings,
        fitted.noise_variance,
    )
    weights[empty] = share
    means[empty] = filled_in(statistics.worst_samples, fitted.means[heaviest])
    loadings[empty] = fitted.loadings[heaviest]
    variance[empty] = fitted.noise_variance[heaviest]
    return Parameters(weights, means, loadings, variance)
