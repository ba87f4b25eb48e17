"""The parameters of a mixture, as arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mfa_fast import _core
from mfa_fast._typing import Array


@dataclass(frozen=True)
class Parameters:
    """Of one mixture: weights (K,), means (K, d), loadings (K, L, d), noise variance (K, d)."""

    weights: Array
    means: Array
    loadings: Array
    noise_variance: Array

    def arrays(self) -> tuple[Array, ...]:
        """Return the four arrays."""
        return (self.weights, self.means, self.loadings, self.noise_variance)

    def astype(self, dtype: Any) -> Parameters:
        """Return the parameters in another dtype, as the kernels take them."""
        # Aligned too: arrays that come out of a network's buffer without a copy may not be.
        return Parameters(*(np.require(a, dtype, ["C", "ALIGNED"]) for a in self.arrays()))

    def explained(self) -> Array:
        """Return the variances (K, d) that are the factors'."""
        return np.asarray(np.einsum("kld,kld->kd", self.loadings, self.loadings))

    def freeze(self) -> Parameters:
        """Make the arrays read-only, so that packed models of them can be kept."""
        for array in self.arrays():
            array.flags.writeable = False
        return self

    def fingerprint(self) -> str:
        """Return a hash of the values: the same for the same numbers, be they in float32 or float64."""
        digest = hashlib.sha256()
        for array in self.astype(np.float64).arrays():
            digest.update(str(array.shape).encode())
            digest.update(array.data)
        return digest.hexdigest()

    def pack(
        self, n_threads: int, near: _core.Model | None = None, groups: NDArray[np.int64] | None = None
    ) -> _core.Model:
        """Pack them for the kernels; what screening has found for a similar model by now is taken up.

        Where components groups[g] to groups[g + 1] - 1 will be scored as a class, and not all together, that counts for
        how much screening is worth.
        """
        return _core.Model(*self.astype(np.float64).arrays(), near=near, n_threads=n_threads, groups=groups)


def join(mixtures: Sequence[Parameters]) -> Parameters:
    """Lay mixtures side by side as one, with loadings filled up with zeros to the same number of factors."""
    n_factors = max(m.loadings.shape[1] for m in mixtures)
    padded = [np.pad(m.loadings, ((0, 0), (0, n_factors - m.loadings.shape[1]), (0, 0))) for m in mixtures]
    return Parameters(
        np.concatenate([m.weights for m in mixtures]),
        np.concatenate([m.means for m in mixtures]),
        np.concatenate(padded),
        np.concatenate([m.noise_variance for m in mixtures]),
    )
