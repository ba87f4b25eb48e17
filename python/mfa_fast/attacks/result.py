"""What every attack returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mfa_fast._devices import to_host


@dataclass(frozen=True, eq=False, repr=False)
class AttackResult:
    """Adversarial examples of n samples and how far they are from them.

    Attributes
    ----------
    X_adv : array of shape (n, d)
        Where each attack ended; the sample itself where it was misclassified from the start.
    l2 : array of shape (n,)
        Euclidean distance of `X_adv` from the sample, in units of X; 0 where it was misclassified from the start. Where
        the attack failed it says how far that went (`ld_grad`), 0 (`cw_l2`, `ddn`, which give the sample back) or
        infinity (`nearest`). Infinite too where it is more than the largest number of X's type.
    success : array of shape (n,), bool
        Whether `X_adv` is classified as another class than y.
    n_steps : array of shape (n,), int64
        Steps that were taken.
    source, target : array of shape (n,), int64
        Components of the last step, counted within their class's mixture; -1 where there is none.
    lower_bound : array of shape (n,)
        No adversarial example is nearer than this; nan where nothing is known.
    certified : array of shape (n,), bool
        Whether `l2` is the least there is, to the attack's tolerance.

    Notes
    -----
    Arrays are of the kind of X, and lie where X does; the figures that are made of them are Python's and NumPy's.
    Success, distances and bounds are taken over the samples that were classified correctly before the attack;
    accuracies and curves are fractions of all.

    Examples
    --------
    >>> from mfa_fast import attacks
    >>> from mfa_fast.datasets import gaussian_toy
    >>> classifier = gaussian_toy("spherical", robust=True)  # the boundary is 4 away from either mean
    >>> X, y = classifier.sample(1000, random_state=0)
    >>> result = attacks.ld_grad(classifier, X, y)
    >>> result.security_curve([0, 4, 8]).round(1)
    array([1. , 0.5, 0. ])
    """

    X_adv: Any
    l2: Any
    success: Any
    n_steps: Any
    source: Any
    target: Any
    lower_bound: Any
    certified: Any

    def __repr__(self) -> str:
        """Return what it comes to: arrays would fill the screen."""
        summary = self.summary()
        shown = ", ".join(f"{k}={summary[k]:.4g}" for k in ("accuracy", "success_rate", "mean_l2", "certified_rate"))
        return f"AttackResult(n_samples={summary['n_samples']}, {shown})"

    def _was_right(self) -> Any:
        """Which samples were classified correctly."""
        return ~(_host(self.success) & (_host(self.n_steps) == 0))

    def _attacked(self) -> tuple[Any, Any]:
        """Distances and success of the samples that were classified correctly."""
        was_right = self._was_right()
        return _host(self.l2)[was_right], _host(self.success)[was_right]

    def summary(self) -> dict[str, float | int]:
        """Return the figures by which attacks are compared.

        Returns
        -------
        summary : dict
            ``n_samples``; ``accuracy`` before the attack; ``adversarial_accuracy`` after it; ``success_rate`` among
            the samples that were classified correctly; ``mean_l2`` over the successful among them (the paper's figure;
            nan if there is none); ``median_l2`` with failures as infinite; ``mean_lower_bound`` over all that were
            classified correctly and ``certified_rate`` among them (nan and 0 where nothing is known).

        Examples
        --------
        >>> from mfa_fast import attacks
        >>> from mfa_fast.datasets import gaussian_toy
        >>> classifier = gaussian_toy("spherical", robust=True)
        >>> summary = attacks.ld_grad(classifier, *classifier.sample(1000, random_state=0)).summary()
        >>> summary["success_rate"], round(summary["mean_l2"], 1)
        (1.0, 4.0)
        """
        l2, success = self._attacked()
        lower_bound, certified = (_host(a)[self._was_right()] for a in (self.lower_bound, self.certified))
        n = len(_host(self.l2))
        distances = np.where(success, l2, np.inf)
        return {
            "n_samples": n,
            "accuracy": len(l2) / n,
            "adversarial_accuracy": float(np.sum(~success)) / n,
            "success_rate": float(np.mean(success)) if len(l2) else float("nan"),
            "mean_l2": float(np.mean(l2[success])) if success.any() else float("nan"),
            "median_l2": float(np.median(distances)) if len(l2) else float("nan"),
            "mean_lower_bound": float(np.mean(lower_bound)) if len(l2) else float("nan"),
            "certified_rate": float(np.mean(certified)) if len(l2) else float("nan"),
        }

    def security_curve(self, radii: Any) -> Any:
        """Return the accuracy that is left when an adversary may move samples this far.

        Parameters
        ----------
        radii : array-like of shape (m,)
            In units of X.

        Returns
        -------
        accuracy : ndarray of shape (m,)
            Fraction of all samples that are classified correctly and for which no adversarial example was found within
            the radius.
        """
        l2, success = self._attacked()
        within = np.searchsorted(np.sort(l2[success]), _check_radii(radii), side="right")
        return (len(l2) - within) / len(_host(self.l2))

    def certified_curve(self, radii: Any) -> Any:
        """Return the accuracy that is certainly left when an adversary may move samples this far.

        It is never above `security_curve`; between the two lies what is not known.

        Parameters
        ----------
        radii : array-like of shape (m,)
            In units of X.

        Returns
        -------
        accuracy : ndarray of shape (m,)
            Fraction of all samples that are classified correctly and whose `lower_bound` is beyond the radius; 0 where
            no bounds are known.

        Examples
        --------
        >>> from mfa_fast import attacks
        >>> from mfa_fast.datasets import gaussian_toy
        >>> classifier = gaussian_toy("mixture", robust=True)
        >>> X, y = classifier.sample(200, random_state=0)
        >>> attacks.nearest(classifier, X, y).certified_curve([3, 4, 6]).round(1)
        array([1. , 0.9, 0.1])
        >>> attacks.ld_grad(classifier, X, y).security_curve([3, 4, 6]).round(1)  # it does not find all
        array([1. , 1. , 0.3])
        """
        bounds = np.nan_to_num(_host(self.lower_bound)[self._was_right()], nan=-np.inf, posinf=np.inf)
        beyond = len(bounds) - np.searchsorted(np.sort(bounds), _check_radii(radii), side="right")
        return beyond / len(_host(self.l2))


def _check_radii(radii: Any) -> Any:
    """Return radii (m,); infinite ones are for failures."""
    try:
        checked = np.atleast_1d(np.asarray(to_host(radii), dtype=float))
    except (TypeError, ValueError):
        checked = np.array([np.nan])
    if checked.ndim != 1 or np.isnan(checked).any():
        msg = f"radii must be an array (m,) of numbers without NaN, got {radii!r}."
        raise ValueError(msg)
    return checked


def _host(array: Any) -> Any:
    """Return an array of any library, in CUDA memory too, as NumPy's."""
    return np.asarray(to_host(array))
