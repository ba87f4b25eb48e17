"""Missing values: samples by the features that they lack, and the calls that marginalise over these.

docs/theory.md, section 8. Rows that lack nothing go the way of all others, so that their results are the same whatever
rows are beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mfa_fast import _core
from mfa_fast._array_libraries import CudaArrays
from mfa_fast._cuda_kernels import CudaScorer
from mfa_fast._devices import require_host
from mfa_fast._kernels import Scorer
from mfa_fast._parameters import Parameters
from mfa_fast._samples import Samples, find_bad_row, reject_bad_row
from mfa_fast._typing import Array, FloatArray
from mfa_fast._validation import check_option, check_threads

# What NaN may be.
MISSING = ("error", "marginal")

# Complete rows are copied from between the others in parts of this size.
_BYTES_AT_ONCE = 2**25

# What there is on the CPU alone.
_WHAT = "what takes NaN as a missing value"

Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class IncompleteSamples(Samples):
    """Samples some of which have NaN: the rows that have none, and the others in the order of their patterns."""

    complete: Rows
    incomplete: Rows
    starts: Rows  # places among the incomplete at which patterns begin, and their number
    empty: Rows  # without any feature: the first of the incomplete

    @classmethod
    def of(cls, samples: Samples, n_threads: int, sample_weight: FloatArray | None = None) -> IncompleteSamples:
        """Sort rows by pattern; those of weight 0 come last, and the others as if these were not there."""
        require_host(samples.device, _WHAT)
        pattern = np.zeros(len(samples), np.int64)
        if samples.data.dtype.kind == "f":
            _core.patterns(samples.data, pattern, n_threads=n_threads)
        if sample_weight is not None:
            counted = (pattern > 0) & (sample_weight > 0)
            # By where they are first met, as before, but among the rows that count.
            _, first, which = np.unique(pattern[counted], return_index=True, return_inverse=True)
            pattern[(pattern > 0) & ~counted] += len(pattern)
            pattern[counted] = 1 + first[which]
        incomplete = np.flatnonzero(pattern)
        incomplete = incomplete[np.argsort(pattern[incomplete], kind="stable")]
        begins = np.flatnonzero(np.diff(pattern[incomplete], prepend=0))
        return IncompleteSamples(
            samples.data,
            samples.wrap,
            samples.first,
            samples.rows,
            complete=np.flatnonzero(pattern == 0),
            incomplete=incomplete,
            starts=np.append(begins, len(incomplete)).astype(np.int64),
            empty=np.flatnonzero(pattern < 0),
        )

    def entries(self, row: int) -> Array:
        """Return what one row has."""
        entries = super().entries(row)
        return entries[:, ~np.isnan(entries[0])]

    @property
    def patterns(self) -> tuple[Rows, Rows]:
        """Incomplete rows by pattern, as the kernels take them."""
        return self.incomplete, self.starts

    @property
    def all_patterns(self) -> tuple[Rows, Rows]:
        """All rows by pattern, the complete ones first."""
        return (
            np.concatenate([self.complete, self.incomplete]),
            np.concatenate([[0], self.starts + len(self.complete)]).astype(np.int64),
        )

    @property
    def informative_patterns(self) -> tuple[Rows, Rows]:
        """Incomplete rows that have a feature, by pattern."""
        n = len(self.empty)
        return self.incomplete[n:], self.starts[int(n > 0) :] - n

    def complete_parts(self) -> Iterator[tuple[Rows, Array]]:
        """Go through the complete rows: which they are, and a copy of some of them."""
        size = _rows_at_once(self.data)
        for first in range(0, len(self.complete), size):
            rows = self.complete[first : first + size]
            yield rows, np.asarray(self.data[rows])

    def reject(self, bad: int | None, estimator: Any, rows: Rows | None = None) -> None:
        """Raise an error for the row in which a kernel met a number that is not finite."""
        reject_bad_row(self, bad if bad is None or rows is None else int(rows[bad]), estimator)

    def add_expectation(
        self,
        model: _core.Model,
        sums: tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray],
        log_likelihoods: FloatArray,
        sample_weight: FloatArray | None,
        *,
        screening: bool,
        n_threads: int,
    ) -> None:
        """Do the E-step: add to the sums, and find log p(x) of what every sample has.

        A sample without any feature has 0 there, and adds nothing to the sums: its density is 1 at any parameters.
        """
        log_likelihoods[self.empty] = 0.0
        for rows, part in self.complete_parts():
            values = np.empty(len(rows))
            shares = None if sample_weight is None else sample_weight[rows]
            bad = _core.expectation(
                model, part, sums, values, sample_weight=shares, screening=screening, n_threads=n_threads
            )
            self.reject(bad, None, rows)
            log_likelihoods[rows] = values
        bad = _core.marginal_expectation(
            model,
            self.data,
            self.informative_patterns,
            sums,
            log_likelihoods,
            sample_weight=sample_weight,
            n_threads=n_threads,
        )
        self.reject(bad, None)

    def last_if_empty(self, log_likelihoods: FloatArray) -> FloatArray:
        """Return log-likelihoods in whose order samples without any feature, which are of no use, come last."""
        ranked = log_likelihoods.copy()
        ranked[self.empty] = np.inf
        return ranked


def _rows_at_once(data: Array) -> int:
    return max(1, _BYTES_AT_ONCE // (8 * data.shape[1]))


def by_pattern(samples: Samples, n_threads: int, sample_weight: FloatArray | None = None) -> Samples:
    """Return samples in which NaN is a missing value; the same if nothing is missing."""
    found = IncompleteSamples.of(samples, n_threads, sample_weight)
    return found if len(found.incomplete) else samples


def _check_observed(samples: IncompleteSamples, counts: FloatArray, estimator: Any, n_samples: int) -> None:
    """Refuse samples, all of `n_samples` or a part, that leave nothing to fit a feature, or as many components, to."""
    n = len(samples)
    drawn, remedy = "", ""
    if n < n_samples:
        drawn = f" that were drawn from {n_samples} for the first parameters"
        remedy = ", or let more be drawn (scikit-learn's working_memory; init_rows of mfa_fast.dask)"
    for j in np.flatnonzero(counts == 0)[:1]:
        name = f" ({estimator.feature_names_in_[j]!r})" if hasattr(estimator, "feature_names_in_") else ""
        msg = (
            f"feature {j}{name} of X is NaN in all {n} samples{drawn}, so that nothing can be fitted to it; leave it "
            f"out{remedy}."
        )
        raise ValueError(msg)
    informative = n - len(samples.empty)
    if informative < estimator.n_components:
        msg = (
            f"n_components={estimator.n_components} needs at least as many samples with an observed feature, but there "
            f"are only {informative} among the {n}{drawn}; use fewer components{remedy}."
        )
        raise ValueError(msg)


def _feature_sums(samples: Samples, sample_weight: FloatArray | None) -> tuple[FloatArray, FloatArray]:
    """Return weighted sums (d,) of what is observed of each feature, and of the weights of its samples."""
    n, d = samples.data.shape
    sums, counts = np.zeros(d), np.zeros(d)
    weights = np.ones(n) if sample_weight is None else sample_weight
    size = _rows_at_once(samples.data)
    for first in range(0, n, size):
        rows = np.asarray(samples.data[first : first + size])
        shares = weights[first : first + size, None]
        observed = ~np.isnan(rows)
        counts += np.sum(shares * observed, axis=0)
        with np.errstate(invalid="ignore", over="ignore"):  # infinite sums are looked into later
            sums += np.sum(shares * rows, axis=0, where=observed)
    return sums, counts


def filled(
    samples: Samples, sample_weight: FloatArray | None, estimator: Any, n_samples: int
) -> tuple[Samples, FloatArray | None]:
    """Return samples to find first parameters from: features' means for what is missing, in a copy.

    They are all of `n_samples`, or a part. Weights are above zero. Rows without any feature are left out: their means
    would look like a cluster.
    """
    found = by_pattern(samples, check_threads(estimator.n_threads))
    if not isinstance(found, IncompleteSamples):
        return samples, sample_weight
    sums, counts = _feature_sums(samples, sample_weight)
    if not np.isfinite(sums).all():  # else infinity would be filled in elsewhere
        infinite = np.isinf(samples.data).any(axis=1)
        found.reject(int(np.argmax(infinite)) if infinite.any() else None, estimator)
    _check_observed(found, counts, estimator, n_samples)
    keep = np.ones(len(samples), bool)
    keep[found.empty] = False
    chosen = samples.take(keep)
    data = np.asarray(chosen.data).astype(samples.dtype, order="C", copy=False)
    size = _rows_at_once(data)
    for first in range(0, len(data), size):
        part = data[first : first + size]
        np.copyto(part, sums / counts, where=np.isnan(part), casting="same_kind")
    return replace(chosen, data=data), None if sample_weight is None else sample_weight[keep]


class MarginalScorer(Scorer):
    """A Scorer to which NaN is a missing value."""

    @classmethod
    def of(cls, owner: Any, mixtures: Sequence[Parameters]) -> Self:
        """Make one from an estimator and its mixtures, one group each."""
        plain = Scorer.of(owner, mixtures)
        return cls(plain.model, plain.groups, plain.n_threads, plain.screening, plain.owner)

    def log_densities(self, samples: Samples) -> Array:
        """Return log w_k + log N of what is observed as (n, K)."""
        found = IncompleteSamples.of(samples, self.n_threads)
        if not len(found.incomplete):
            return super().log_densities(samples)
        out = np.empty((len(samples), self.model.n_components), samples.dtype)
        for rows, part in found.complete_parts():
            values = np.empty((len(rows), out.shape[1]), out.dtype)
            found.reject(_core.log_densities(self.model, part, values, n_threads=self.n_threads), self.owner, rows)
            out[rows] = values
        bad = _core.marginal_log_densities(self.model, samples.data, found.patterns, out, n_threads=self.n_threads)
        found.reject(bad, self.owner)
        return out

    def _reduce(self, samples: Samples, exact: bool = False, **outputs: Array) -> None:
        found = IncompleteSamples.of(samples, self.n_threads)
        if not len(found.incomplete):
            super()._reduce(samples, exact, **outputs)
            return
        for rows, part in found.complete_parts():
            values = {name: np.empty((len(rows), *out.shape[1:]), out.dtype) for name, out in outputs.items()}
            bad = _core.reduce(
                self.model,
                part,
                self.groups,
                exact=exact,
                screening=self.screening,
                n_threads=self.n_threads,
                **values,
            )
            found.reject(bad, self.owner, rows)
            for name, out in outputs.items():
                out[rows] = values[name]
        bad = _core.marginal_reduce(
            self.model, samples.data, found.patterns, self.groups, n_threads=self.n_threads, **outputs
        )
        found.reject(bad, self.owner)

    def classify(self, samples: Samples, log_priors: FloatArray, *, sum_rule: bool) -> Any:
        """Return the group of the highest score as (n,), the first on a tie."""
        return self.scores(samples, log_priors, sum_rule=sum_rule).argmax(axis=1)

    def impute(self, samples: Samples) -> Array:
        """Return a copy (n, d) of the samples, with conditional means for what is missing."""
        found = IncompleteSamples.of(samples, self.n_threads)
        for rows, part in found.complete_parts():
            found.reject(find_bad_row(part), self.owner, rows)
        out = np.array(samples.data, dtype=samples.dtype, order="C")
        bad = _core.conditional(self.model, samples.data, found.patterns, mean=out, n_threads=self.n_threads)
        found.reject(bad, self.owner)
        return out

    def conditional(self, samples: Samples) -> tuple[Array, Array, Array, FloatArray]:
        """Return mean and variance (n, d), responsibilities (n, K) and the components' posterior factors (n, K, L)."""
        found = IncompleteSamples.of(samples, self.n_threads)
        n, K = len(samples), self.model.n_components
        mean = np.array(samples.data, dtype=samples.dtype, order="C")
        variance = np.zeros_like(mean)
        responsibilities = np.empty((n, K), samples.dtype)
        factors = np.empty((n, K, self.model.n_factors))
        bad = _core.conditional(
            self.model,
            samples.data,
            found.all_patterns,
            mean=mean,
            variance=variance,
            responsibilities=responsibilities,
            factors=factors,
            n_threads=self.n_threads,
        )
        found.reject(bad, self.owner)
        return mean, variance, responsibilities, factors


def scorer_of(owner: Any, mixtures: Sequence[Parameters], device: CudaArrays | None) -> Scorer:
    """Make the scorer that the owner's `missing` and the device ask for."""
    if check_option("missing", owner.missing, MISSING) == "marginal":
        require_host(device, _WHAT)
        return MarginalScorer.of(owner, mixtures)
    scorer = Scorer.of(owner, mixtures)
    return scorer if device is None else CudaScorer.on(device, scorer)
