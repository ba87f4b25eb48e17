"""The distribution of what is missing, given what is observed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mfa_fast import _core
from mfa_fast._missing import IncompleteSamples
from mfa_fast._parameters import Parameters
from mfa_fast._samples import Samples
from mfa_fast._validation import MOST_DRAWS, as_seed, check_integer

__all__ = ["Conditional"]


@dataclass(frozen=True, eq=False)
class Conditional:
    """The distribution of samples' missing features given the observed ones; `MFA.conditional` makes it.

    Row by row it is a mixture: of component k with the probability ``responsibilities[:, k]``, in which the factors are
    normal about ``factors[:, k]``.

    Attributes
    ----------
    mean : ndarray of shape (n_samples, n_features)
        Of every feature under the mixture; what is observed is as it was. The same as `MFA.impute`.
    variance : ndarray of shape (n_samples, n_features)
        In squared units of X; 0 where a feature is observed.
    responsibilities : ndarray of shape (n_samples, n_components)
        The components' probabilities given what is observed.
    factors : ndarray of shape (n_samples, n_components, n_factors)
        Means of each component's factors given what is observed; float64.

    Notes
    -----
    Ghahramani & Jordan, Supervised learning from incomplete data via an EM approach, NIPS 1994.

    Examples
    --------
    >>> import numpy as np
    >>> from mfa_fast import MFA
    >>> model = MFA.from_parameters([0.5, 0.5], [[-5.0, 0.0], [5.0, 1.0]], np.ones((2, 1, 2)), 1.0)
    >>> given = model.conditional([[5.0, np.nan], [np.nan, np.nan]])
    >>> given.mean.round(3)
    array([[5. , 1. ],
           [0. , 0.5]])
    >>> given.variance.round(3)
    array([[ 0.  ,  1.5 ],
           [27.  ,  2.25]])
    >>> given.sample(3, random_state=0).shape
    (3, 2, 2)
    """

    mean: Any
    variance: Any
    responsibilities: Any
    factors: Any
    _samples: Samples = field(repr=False)
    _parameters: Parameters = field(repr=False)
    _random_state: Any = field(repr=False)
    _n_threads: int = field(repr=False)

    def component_mean(self, component: int) -> Any:
        """Return the mean under one component alone.

        Parameters
        ----------
        component : int
            Its index, from 0.

        Returns
        -------
        mean : ndarray of shape (n_samples, n_features)
            What is observed is as it was.
        """
        k = check_integer("component", component, 0, len(self._parameters.weights) - 1)
        data = self._samples.data
        factors = np.asarray(self.factors)[:, k]
        mean = self._parameters.means[k] + factors @ self._parameters.loadings[k]
        return self._samples.wrap(np.where(np.isnan(data), mean, data).astype(self._samples.dtype))

    def sample(self, n_samples: int = 1, *, random_state: Any = None) -> Any:
        """Draw the missing features.

        Draw s of row i is a function of the seed, of s and i, and of that row alone.

        Parameters
        ----------
        n_samples : int, default=1
            Draws for every row.
        random_state : int, RandomState, Generator or None, default=None
            A non-negative integer is the seed itself; None takes the model's `random_state`.

        Returns
        -------
        X : ndarray of shape (n_samples, n_rows, n_features)
            What is observed is as it was.
        """
        draws = check_integer("n_samples", n_samples, 1, MOST_DRAWS)
        found = IncompleteSamples.of(self._samples, self._n_threads)
        out = np.empty((draws, *self._samples.data.shape), self._samples.dtype)
        bad = _core.conditional_sample(
            self._parameters.pack(self._n_threads),
            self._samples.data,
            found.all_patterns,
            seed=as_seed(self._random_state if random_state is None else random_state),
            out=out,
            n_threads=self._n_threads,
        )
        found.reject(bad, None)
        return self._samples.wrap(out)
