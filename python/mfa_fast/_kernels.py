"""Calls into the compiled core: packed models, kept as long as their parameters are, and outputs made to measure."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from operator import is_
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mfa_fast import _core
from mfa_fast._parameters import Parameters, join
from mfa_fast._samples import Samples, reject_bad_row
from mfa_fast._typing import Array, FloatArray
from mfa_fast._validation import check_threads

# A packed model, and the place of every group's first component, of the end too.
_Packed = tuple[_core.Model, NDArray[np.int64]]


class PackedCache:
    """Packed models by estimator, outside the estimators so that these hold arrays and plain parameters only.

    A packed model is taken again as long as the very same parameter arrays are in place, and these are read-only, as
    the estimators make them. Arrays that could change under it are packed anew every time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: weakref.WeakKeyDictionary[Any, tuple[tuple[Array, ...], _Packed]] = weakref.WeakKeyDictionary()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew_lock)

    def _renew_lock(self) -> None:
        # The thread that held it may not exist in the child.
        self._lock = threading.Lock()

    def get(self, owner: Any, mixtures: Sequence[Parameters], n_threads: int) -> _Packed:
        """Return the packed model of the owner's mixtures, side by side, one group each, and where the groups begin."""
        arrays = tuple(a for m in mixtures for a in m.arrays())
        with self._lock:
            known, packed = self._entries.get(owner, ((), None))
        same = len(known) == len(arrays) and all(map(is_, known, arrays))
        if packed is not None and same and packed[0].isa == _core.isa():
            return packed
        groups = np.cumsum([0, *(len(m.weights) for m in mixtures)], dtype=np.int64)
        # Outside the lock: packing takes time, and two threads that pack the same model do no harm.
        model = (mixtures[0] if len(mixtures) == 1 else join(mixtures)).pack(n_threads, groups=groups)
        if not any(a.flags.writeable for a in arrays):
            with self._lock:
                self._entries[owner] = (arrays, (model, groups))
        return model, groups


packed_models = PackedCache()
if hasattr(os, "register_at_fork"):
    # A thread that was making a part of a packed model may not exist in the child.
    os.register_at_fork(after_in_child=_core.after_fork)

# Inner products by packed model: made when first asked for, kept as long as the model is.
_grams: weakref.WeakKeyDictionary[_core.Model, _core.Gram | None] = weakref.WeakKeyDictionary()


def gram_of(model: _core.Model, n_threads: int) -> _core.Gram | None:
    """Return a model's inner products, which `nearest` takes; None where its noise is not spherical."""
    if model not in _grams:
        # Two threads that make the same one do no harm.
        _grams[model] = _core.gram(model, n_threads=n_threads)
    return _grams[model]


@dataclass(frozen=True)
class Scorer:
    """A packed model whose components belong to groups, and how to run it. Results lie where the samples do."""

    model: _core.Model
    groups: NDArray[np.int64]
    n_threads: int
    screening: bool
    owner: Any

    @classmethod
    def of(cls, owner: Any, mixtures: Sequence[Parameters]) -> Scorer:
        """Make one from an estimator and its mixtures, one group each."""
        n_threads = check_threads(owner.n_threads)
        model, groups = packed_models.get(owner, mixtures, n_threads)
        return cls(model, groups, n_threads, bool(owner.screening), owner)

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return len(self.groups) - 1

    def log_densities(self, samples: Samples) -> Array:
        """Return log w_k + log N(x; mu_k, S_k) as (n, K)."""
        out = np.empty((len(samples), self.model.n_components), samples.dtype)
        bad = _core.log_densities(self.model, samples.data, out, n_threads=self.n_threads)
        reject_bad_row(samples, bad, self.owner)
        return out

    def _reduce(self, samples: Samples, exact: bool = False, **outputs: Array) -> None:
        bad = _core.reduce(
            self.model,
            samples.data,
            self.groups,
            exact=exact,
            screening=self.screening,
            n_threads=self.n_threads,
            **outputs,
        )
        reject_bad_row(samples, bad, self.owner)

    def log_sums(self, samples: Samples, *, exact: bool = False) -> Any:
        """Return the log-sum-exp over each group as (n, G); to double precision if `exact`."""
        out = samples.arrays.empty((len(samples), self.n_groups), np.float64)
        self._reduce(samples, exact, log_sum=out)
        return out

    def best_values(self, samples: Samples) -> Any:
        """Return the value of each group's best component as (n, G), to double precision."""
        out = samples.arrays.empty((len(samples), self.n_groups), np.float64)
        self._reduce(samples, exact=True, best_value=out)
        return out

    def log_likelihoods(self, samples: Samples, *, sum_rule: bool) -> Any:
        """Return log p(x | group) by the rule as (n, G), to double precision."""
        return self.log_sums(samples, exact=True) if sum_rule else self.best_values(samples)

    def scores(self, samples: Samples, log_priors: FloatArray, *, sum_rule: bool) -> Any:
        """Return the same and the groups' log priors."""
        return self.log_likelihoods(samples, sum_rule=sum_rule) + samples.arrays.from_host(log_priors)

    def classify(self, samples: Samples, log_priors: FloatArray, *, sum_rule: bool) -> Any:
        """Return the group of the highest score as (n,), the first on a tie."""
        out = np.empty(len(samples), np.int64)
        bad = _core.classify(
            self.model,
            samples.data,
            self.groups,
            log_priors,
            sum_rule=sum_rule,
            screening=self.screening,
            out=out,
            n_threads=self.n_threads,
        )
        reject_bad_row(samples, bad, self.owner)
        return out

    def gradient(self, samples: Samples, vectors: FloatArray, *, sum_rule: bool) -> Any:
        """Return the vectors (n, G) times the Jacobian of the groups' scores: (n, d)."""
        out = np.empty(samples.data.shape, samples.dtype)
        bad = _core.gradient(
            self.model,
            samples.data,
            self.groups,
            vectors,
            sum_rule=sum_rule,
            screening=self.screening,
            out=out,
            n_threads=self.n_threads,
        )
        if bad is None:
            # A score in range may have a gradient that is not: that is as many times steeper as the noise is small.
            lost = ~np.isfinite(out).all(axis=1) & np.isfinite(vectors).all(axis=1)
            bad = int(np.argmax(lost)) if lost.any() else None
        reject_bad_row(samples, bad, self.owner)
        return out

    def best(self, samples: Samples) -> Any:
        """Return the index of each group's best component as (n, G)."""
        out = samples.arrays.empty((len(samples), self.n_groups), np.int64)
        self._reduce(samples, best=out)
        return out

    def responsibilities(self, samples: Samples) -> Any:
        """Return the components' posterior probabilities within their group as (n, K)."""
        out = samples.arrays.empty((len(samples), self.model.n_components), samples.dtype)
        self._reduce(samples, exact=True, responsibilities=out)
        return out

    def best_factors(self, samples: Samples) -> tuple[Any, Any]:
        """Return the first group's best component (n,) and the posterior mean of its factors (n, L)."""
        best = samples.arrays.empty((len(samples), self.n_groups), np.int64)
        factors = samples.arrays.empty((len(samples), self.model.n_factors), np.float64)
        self._reduce(samples, exact=True, best=best, factors=factors)
        return best[:, 0], factors

    def reconstruct(self, samples: Samples) -> Any:
        """Return what the first group's best component explains of each sample as (n, d)."""
        labels, factors = self.best_factors(samples)
        out = np.empty(samples.data.shape, samples.dtype)
        _core.reconstruct(self.model, labels, factors, out, n_threads=self.n_threads)
        return out

    def sample(self, target: Samples, *, weights: Array, seed: int, start: int, noise: bool) -> Any:
        """Write samples start, start + 1, ... of a seed, as many as there are rows, and return their components."""
        labels = np.empty(len(target), np.int64)
        _core.sample(
            self.model,
            weights=np.require(weights, np.float64, ["C", "ALIGNED"]),
            seed=seed,
            start=start,
            noise=noise,
            out=target.data,
            labels=labels,
            n_threads=self.n_threads,
        )
        return labels
