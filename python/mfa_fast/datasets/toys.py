"""Distributions in two and three dimensions, whose decision boundaries and manifolds can be drawn."""

from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from scipy.stats import norm

from mfa_fast._typing import Array
from mfa_fast._validation import as_random_state, check_flag, check_integer, check_option, check_real
from mfa_fast.classifier import MFAClassifier
from mfa_fast.mixture import MFA

Kind = Literal["spherical", "elliptical", "mixture"]

EXTENT = 10.0  # the paper's figures go from -10 to 10
N_LEVELS = 100


def gaussian_toy(kind: Kind, robust: bool) -> MFAClassifier:
    """Return the Bayes-optimal classifier of two classes in the plane, and thereby their distribution.

    Parameters
    ----------
    kind : {"spherical", "elliptical", "mixture"}
        One Gaussian per class, with or without a direction of its own; or a mixture of several.
    robust : bool
        True: all components have the same minimal variance, and the decision boundary is far from the samples. False:
        one class has a component of much smaller minimal variance than one of the other's, and the boundary is near
        nearly all of its samples. In mixtures a rare and wide component in each class does that to both.

    Returns
    -------
    MFAClassifier
        Of the classes 0 and 1, with equal priors. ``sample`` draws from it, ``decision_function`` is 0 on the boundary.

    References
    ----------
    Richardson & Weiss, A Bayes-optimal view on adversarial examples, figure 2.

    Examples
    --------
    >>> from mfa_fast.datasets import gaussian_toy
    >>> classifier = gaussian_toy("spherical", robust=True)
    >>> X, y = classifier.sample(100, random_state=0)
    >>> X.shape, classifier.score(X, y)
    ((100, 2), 1.0)
    """
    check_option("kind", kind, ("spherical", "elliptical", "mixture"))
    mixtures = _MIXTURES[kind](check_flag("robust", robust))
    return MFAClassifier.from_mixtures([_mfa(mixture) for mixture in mixtures], rule="sum")


@dataclass(frozen=True)
class _Gaussian:
    """A Gaussian in the plane: its weight, its mean, its two standard deviations, the angle of the larger."""

    mean: tuple[float, float]
    small: float
    large: float
    angle: float = 0.0
    weight: float = 1.0


def _spherical(robust: bool) -> list[list[_Gaussian]]:
    stds = (1.0, 1.0) if robust else (0.15, 3.0)
    return [[_Gaussian((-4.0, 0.0), stds[0], stds[0])], [_Gaussian((4.0, 0.0), stds[1], stds[1])]]


def _elliptical(robust: bool) -> list[list[_Gaussian]]:
    small = (0.8, 0.8) if robust else (0.15, 2.0)
    return [
        [_Gaussian((-4.0, 1.0), small[0], 3.0, angle=60.0)],
        [_Gaussian((4.0, -1.0), small[1], 3.0, angle=60.0)],
    ]


def _mixture(robust: bool) -> list[list[_Gaussian]]:
    thin = [
        [_Gaussian((-5.0, 4.0), 0.15, 1.5, 55.0), _Gaussian((-4.5, -4.0), 0.15, 1.5, 105.0)],
        [_Gaussian((5.0, 4.0), 0.15, 1.5, 125.0), _Gaussian((4.5, -4.0), 0.15, 1.5, 75.0)],
    ]
    if robust:
        return thin
    # Among the samples of each class the other's wide component is denser than its own.
    wide = [_Gaussian((x, 0.0), 5.0, 5.0, weight=0.1) for x in (4.0, -4.0)]
    return [[*components, outlier] for components, outlier in zip(thin, wide, strict=True)]


_MIXTURES = {"spherical": _spherical, "elliptical": _elliptical, "mixture": _mixture}


def _mfa(components: list[_Gaussian]) -> MFA:
    weights = np.array([component.weight for component in components])
    angles = np.deg2rad([component.angle for component in components])
    small, large = np.array([(component.small, component.large) for component in components]).T
    # One factor for what the larger standard deviation has more than the smaller, which is the noise.
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    loadings = np.sqrt(large**2 - small**2)[:, None] * directions
    means = np.array([component.mean for component in components])
    return MFA.from_parameters(weights / weights.sum(), means, loadings[:, None, :], (small**2)[:, None])


@dataclass(frozen=True)
class DiscreteToy:
    """Two classes whose samples are pairs of quantised features, with equal priors.

    Attributes
    ----------
    probabilities : ndarray of shape (2, 100, 100)
        Of each pair of levels, in each class.
    levels : ndarray of shape (100,)
        The values that the levels stand for.

    Examples
    --------
    >>> from mfa_fast.datasets import discrete_toy
    >>> toy = discrete_toy(robust=True)
    >>> features, y = toy.sample(1000, random_state=0)
    >>> bool((toy.predict(features) == y).mean() > 0.95)
    True
    """

    probabilities: Array
    levels: Array

    def predict(self, features: Any) -> Array:
        """Return the Bayes-optimal class, 0 or 1.

        Parameters
        ----------
        features : array-like of shape (n, 2)
            Pairs of levels, from 0 to 99.

        Returns
        -------
        labels : ndarray of shape (n,)

        Raises
        ------
        ValueError, TypeError
            If these are no such pairs.
        """
        pairs = np.asarray(features)
        if pairs.ndim != 2 or pairs.shape[1] != 2:
            msg = f"features must have shape (n, 2), got shape {pairs.shape}."
            raise ValueError(msg)
        most = len(self.levels) - 1
        if pairs.dtype.kind not in "iu":
            msg = f"features must be levels, integers from 0 to {most}, got an array of {pairs.dtype}."
            raise TypeError(msg)
        wrong = pairs[(pairs < 0) | (pairs > most)]
        if wrong.size:
            msg = f"features must be levels, integers from 0 to {most}, got {wrong[0]} among them."
            raise ValueError(msg)
        first, second = pairs.T
        return cast(Array, np.argmax(self.probabilities[:, first, second], axis=0))

    def sample(self, n_samples: int = 1, *, random_state: Any = None) -> tuple[Array, Array]:
        """Draw pairs of levels and their classes.

        Parameters
        ----------
        n_samples : int, default=1
        random_state : int, RandomState or None, default=None

        Returns
        -------
        features : ndarray of shape (n_samples, 2)
        y : ndarray of shape (n_samples,)
        """
        n_samples = check_integer("n_samples", n_samples, 1)
        random = as_random_state(random_state)
        y = random.randint(2, size=n_samples)
        cells = np.empty(n_samples, np.int64)
        for label, table in enumerate(self.probabilities):
            own = np.flatnonzero(y == label)
            cells[own] = random.choice(table.size, own.size, p=table.ravel())
        return np.stack(np.unravel_index(cells, self.probabilities.shape[1:]), axis=1), y


def discrete_toy(robust: bool) -> DiscreteToy:
    """Return two classes of pairs of features that are quantised to 100 levels each.

    Parameters
    ----------
    robust : bool
        True: the least probability of a pair is about the same in both classes. False: class 0 nearly always has the
        same level of the first feature, and every pair has some probability in class 1, so that one level more or
        less makes nearly any sample of class 0 one of class 1.

    Returns
    -------
    DiscreteToy

    References
    ----------
    Richardson & Weiss, A Bayes-optimal view on adversarial examples, figure 2 and observation 3.

    Examples
    --------
    >>> from mfa_fast.datasets import discrete_toy
    >>> toy = discrete_toy(robust=False)
    >>> features, y = toy.sample(1000, random_state=0)
    >>> bool((toy.predict(features[y == 0] + [1, 0]) == 1).mean() > 0.99)
    True
    """
    levels = np.linspace(-EXTENT, EXTENT, N_LEVELS)
    least = 1e-12 if check_flag("robust", robust) else 1e-6
    first = _table(levels, (-4.0, 1.0), (1.2, 2.5), 1e-12) if robust else _constant_feature(levels)
    tables = np.stack([first, _table(levels, (4.0, -1.0), (1.2, 2.5) if robust else (2.5, 2.5), least)])
    return DiscreteToy(tables, levels)


def _table(levels: Array, mean: tuple[float, float], std: tuple[float, float], least: float) -> Array:
    table = np.multiply.outer(*(norm.pdf(levels, m, s) for m, s in zip(mean, std, strict=True)))
    table = table / table.sum() + least
    return cast(Array, table / table.sum())


def _constant_feature(levels: Array) -> Array:
    first = np.full(len(levels), 1e-12)
    first[np.searchsorted(levels, -4.0)] = 1.0
    second = norm.pdf(levels, 0.0, 3.0)
    return cast(Array, np.multiply.outer(first / first.sum(), second / second.sum()))


def helix(n: int, *, noise_std: float = 0.05, random_state: Any = None) -> Array:
    """Return noisy points of a helix: three dimensions, of which a manifold takes one.

    Parameters
    ----------
    n : int
        Number of points.
    noise_std : float, default=0.05
        Standard deviation of the noise in each coordinate. The helix has radius 1 and two turns of height 1 each.
    random_state : int, RandomState or None, default=None

    Returns
    -------
    ndarray of shape (n, 3)

    References
    ----------
    Richardson & Weiss, A Bayes-optimal view on adversarial examples, figure 8.

    Examples
    --------
    >>> from mfa_fast.datasets import helix
    >>> helix(500, random_state=0).shape
    (500, 3)
    """
    n = check_integer("n", n, 1)
    noise_std = check_real("noise_std", noise_std, least=0.0)
    random = as_random_state(random_state)
    turns = random.uniform(0.0, 2.0, n)
    curve = np.stack([np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns), turns], axis=1)
    return curve + noise_std * random.standard_normal((n, 3))
