"""What an E-step leaves of the samples: sums that can be added, kept and sent.

docs/theory.md, section 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mfa_fast._typing import Array, FloatArray

# A component with less than this many samples' worth of responsibility has no claim to any: it is seeded anew.
EMPTY_COUNT = 1e-3


@dataclass(frozen=True, eq=False, repr=False)
class Sums:
    """Sums over samples with responsibilities g, factors z and offsets r from the current means, theory.md (10)."""

    counts: FloatArray  # (K,)            sum g
    factor_sums: FloatArray  # (K, L)          sum g z
    factor_moments: FloatArray  # (K, L, L)       sum g E[z z^T]
    cross: FloatArray  # (K, L + 1, d)   sum g [z; 1] r^T
    squares: FloatArray  # (K, d)          sum g r * r

    # Private, as all that users see is `Statistics`, which inherits them.

    def _sums(self) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
        """Return the sums in the order in which the kernels take them."""
        return (self.counts, self.factor_sums, self.factor_moments, self.cross, self.squares)

    def _empty(self) -> Any:
        """Tell of each component whether it has lost all its samples, as (K,)."""
        return self.counts < EMPTY_COUNT


def count_sums(n_components: int, n_factors: int, n_features: int) -> int:
    """Return of how many numbers `Sums` are."""
    K, L, d = n_components, n_factors, n_features
    return K * (1 + L + L * L + (L + 2) * d)


def lay_out_sums(numbers: Any, n_components: int, n_factors: int, n_features: int) -> Sums:
    """Return the `count_sums` numbers of a one-dimensional array as sums, views of it."""
    K, L, d = n_components, n_factors, n_features
    shapes = ((K,), (K, L), (K, L, L), (K, L + 1, d), (K, d))
    edges = accumulate(map(math.prod, shapes), initial=0)
    places = zip(pairwise(edges), shapes, strict=True)
    return Sums(*(numbers[start:end].reshape(shape) for (start, end), shape in places))


def zero_sums(n_components: int, n_factors: int, n_features: int) -> Sums:
    """Make empty ones, for a kernel to add to."""
    shape = (n_components, n_factors, n_features)
    return lay_out_sums(np.zeros(count_sums(*shape)), *shape)


@dataclass(frozen=True, eq=False, repr=False)
class Statistics(Sums):
    r"""Sufficient statistics of samples for one M-step of `MFA`, as `MFA.e_step` returns them.

    Those of two sets of samples, taken at the same parameters, add up to those of both: ``a + b``. So samples may lie
    in files or on machines that never see one another; what travels is this, whose size has nothing to do with the
    number of samples: :math:`8 K (1 + L + L^2 + (L + 2) d)` bytes.

    Attributes
    ----------
    counts : ndarray of shape (n_components,)
        Sums of responsibilities g.
    factor_sums : ndarray of shape (n_components, n_factors)
        Sums of g z, with z the posterior mean of the factors.
    factor_moments : ndarray of shape (n_components, n_factors, n_factors)
        Sums of g times the posterior second moment of the factors.
    cross : ndarray of shape (n_components, n_factors + 1, n_features)
        Sums of g [z; 1] times the sample's offset from the component's mean.
    squares : ndarray of shape (n_components, n_features)
        Sums of g times the squares of these offsets.
    log_likelihood : float
        Sum of log p(x), in nats.
    weight : float
        Number of samples, or the sum of their weights; without those of which every feature is missing.
    worst_samples : ndarray of shape (m, n_features)
        The worst explained samples, the worst first, in the samples' dtype: as many as components have lost all their
        samples, for the M-step to move these to. None, in most cases.
    worst_log_likelihoods : ndarray of shape (m,)
        Their log p(x).
    fingerprint : str
        A hash of the parameters at which the statistics were taken.

    Notes
    -----
    A component that has lost all samples of a whole has lost those of every part, so a part carries at least as many of
    its worst samples as the whole needs: nothing is lost by their being few. Ghahramani & Hinton, The EM algorithm for
    mixtures of factor analyzers, 1996; docs/theory.md, section 2.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from mfa_fast import MFA, Statistics
    >>> X = load_digits().data / 16
    >>> model = MFA(n_components=10, n_factors=4, random_state=0).fit(X)
    >>> before = model.score(X)
    >>> parts = [model.e_step(X[i : i + 500]) for i in range(0, len(X), 500)]
    >>> statistics = Statistics.merge(parts)
    >>> statistics.weight
    1797.0
    >>> bool(abs(statistics.mean_log_likelihood - before) < 1e-9)
    True
    >>> bool(model.m_step(statistics).score(X) >= before)
    True
    """

    log_likelihood: float
    weight: float
    worst_samples: Array
    worst_log_likelihoods: FloatArray
    fingerprint: str

    def __post_init__(self) -> None:
        """Make the arrays read-only: what was sent somewhere stays what it was."""
        for array in (*self._sums(), self.worst_samples, self.worst_log_likelihoods):
            array.flags.writeable = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore pickled ones, whose arrays NumPy makes writeable."""
        self.__dict__.update(state)
        self.__post_init__()

    @property
    def mean_log_likelihood(self) -> float:
        """Mean of log p(x), in nats per sample: what EM raises from one iteration to the next; NaN without samples."""
        return self.log_likelihood / self.weight if self.weight > 0 else math.nan

    @property
    def nbytes(self) -> int:
        """Size of the arrays in bytes: what is sent, but for some hundred bytes."""
        return sum(array.nbytes for array in (*self._sums(), self.worst_samples, self.worst_log_likelihoods))

    def __add__(self, other: Any) -> Statistics:
        """Return the statistics of both sets of samples.

        Raises
        ------
        ValueError
            If they were taken at different parameters.
        """
        if not isinstance(other, Statistics):
            return NotImplemented
        if self.fingerprint != other.fingerprint:
            msg = (
                "statistics can be added if they were taken at the same parameters, and these were taken at different "
                "ones: take both with e_step of the same model, before its m_step."
            )
            raise ValueError(msg)
        sums = Sums(*(a + b for a, b in zip(self._sums(), other._sums(), strict=True)))
        worst = keep_worst(
            int(np.count_nonzero(sums._empty())),
            np.concatenate([self.worst_samples, other.worst_samples]),
            np.concatenate([self.worst_log_likelihoods, other.worst_log_likelihoods]),
        )
        return Statistics(
            *sums._sums(),
            log_likelihood=self.log_likelihood + other.log_likelihood,
            weight=self.weight + other.weight,
            worst_samples=worst[0],
            worst_log_likelihoods=worst[1],
            fingerprint=self.fingerprint,
        )

    def __radd__(self, other: Any) -> Statistics:
        """Return these statistics where they are added to 0, as the built-in `sum` does first."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    @staticmethod
    def merge(statistics: Iterable[Statistics]) -> Statistics:
        """Return the sum of many, added in pairs of neighbours, then pairs of pairs, and so on.

        The order of additions, and with it the last digits, depend on the sequence alone: not on who made its parts, or
        which were ready first. Any aligned run of 2, 4, 8, ... of them may be merged beforehand.

        Parameters
        ----------
        statistics : iterable of Statistics
            One or more, taken at the same parameters.

        Returns
        -------
        statistics : Statistics

        Raises
        ------
        TypeError, ValueError
            If there is none, an element is something else, or they were taken at different parameters.
        """
        level = list(statistics)
        for one in level:
            if not isinstance(one, Statistics):
                msg = f"statistics must hold what MFA.e_step returns, got an element of type {type(one).__name__}."
                raise TypeError(msg)
        if not level:
            msg = "statistics must hold at least one element, got none."
            raise ValueError(msg)
        while len(level) > 1:
            pairs = [a + b for a, b in zip(level[::2], level[1::2], strict=False)]
            level = pairs + level[2 * len(pairs) :]
        return level[0]

    def __repr__(self) -> str:
        """Say of how many samples, and of what shape."""
        K, rows, d = self.cross.shape
        return (
            f"Statistics(weight={self.weight:g}, mean_log_likelihood={self.mean_log_likelihood:.6g}, "
            f"n_components={K}, n_factors={rows - 1}, n_features={d})"
        )


def worst_rows(
    count: int, log_likelihoods: FloatArray, sample_weight: FloatArray | None = None
) -> NDArray[np.int64] | slice:
    """Return the rows of the `count` samples of lowest log-likelihood, lowest first; of equal ones the first.

    Those of weight 0 do not count as samples.
    """
    if not count:
        return slice(0, 0)
    if sample_weight is not None:
        log_likelihoods = np.where(sample_weight > 0, log_likelihoods, np.inf)
        count = min(count, int(np.count_nonzero(sample_weight)))
    return np.argsort(log_likelihoods, kind="stable")[:count].astype(np.int64)


def keep_worst(count: int, samples: Array, log_likelihoods: FloatArray) -> tuple[Array, FloatArray]:
    """Return the `count` samples of lowest log-likelihood and these."""
    chosen = worst_rows(count, log_likelihoods)
    return np.array(samples[chosen]), np.array(log_likelihoods[chosen])
