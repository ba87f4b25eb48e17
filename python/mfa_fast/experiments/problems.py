"""What throughput is measured on: sizes, models, data, and a reference to hold results against."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom

from mfa_fast import MFA
from mfa_fast._typing import Array
from mfa_fast.datasets import load_digits_pair, load_mnist_pair

Row = dict[str, Any]
DType = type[np.float32] | type[np.float64]
Path = str | os.PathLike[str]
DTYPES: tuple[DType, ...] = (np.float32, np.float64)


# ---------------------------------------------------------------------------------------------------- problem sizes


@dataclass(frozen=True)
class Shape:
    """A problem size with a name; `n_samples` are scored."""

    name: str
    n_features: int
    n_components: int
    n_factors: int
    n_samples: int

    @property
    def floor_flops(self) -> int:
        """Of the dense matrix product."""
        return 2 * self.n_samples * self.n_features * self.n_components * (self.n_factors + 1)


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("mnist-fit", 784, 50, 6, 10_000),
        Shape("mnist-25", 784, 25, 6, 10_000),
        Shape("faces", 12_288, 80, 10, 1_000),
        Shape("small", 64, 10, 4, 200_000),
    )
}
FIT_SAMPLES = 12_000
FIT_ITERATIONS = 30
EM_SAMPLES = 20_000
ATTACK_SAMPLES = 2_000
DRAWN_SAMPLES = 20_000
QUICK_FRACTION = 5  # the quick mode has this many times fewer samples
SYMMETRIC_NOISE_STD = 1e-3
ATTACKED_PAIR = (0, 6)
ATTACK_STEPS = (3, 10)
NESTED_NOISE_STDS = (1.0, 0.1)

# What the ratios are to be in float32, and how many times more in float64.
TARGETS = {
    "score, fitted": 0.60,
    "score, symmetric": 0.35,
    "score, smooth": 0.20,
    "score, nested": 1.4,
    "EM iteration": 1.0,
    "LD-Grad, 3 steps": 2.5,
    "LD-Grad, 10 steps": 1.3,
    "nearest": 20.0,
    "sample": 1.0,
}
FLOAT64_ALLOWANCE = 2.5
TARGET_DENSE_FLOAT32 = 2.5

# Largest relative error of a log-density; of what is left of the gap between the classes after an attack.
TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-10}
BOUNDARY_TOLERANCE = 1e-4
STANDARD_ERRORS = 5.0


# ----------------------------------------------------------------------------------------------------------- models


def random_mixture(shape: Shape, noise_std: float, seed: int = 0) -> MFA:
    """Return a mixture with means and loadings of independent numbers."""
    rng = np.random.default_rng(seed)
    K, L, d = shape.n_components, shape.n_factors, shape.n_features
    means, loadings = rng.uniform(size=(K, d)), rng.normal(scale=0.3, size=(K, L, d))
    return MFA.from_parameters(np.full(K, 1 / K), means, loadings, noise_std**2)


def smooth_mixture(shape: Shape, noise_std: float, seed: int = 0) -> MFA:
    """Return a mixture that looks like images: most of it lies in a few smooth functions common to all components.

    The means alone also have a rough part, which no small subspace holds.
    """
    rng = np.random.default_rng(seed)
    K, L, d = shape.n_components, shape.n_factors, shape.n_features
    frequencies = np.arange(48)[:, None]
    basis = np.cos(np.pi * frequencies * (np.arange(d) + 0.5) / d) / (1 + frequencies)
    means = 0.5 + 0.3 * rng.normal(size=(K, len(basis))) @ basis + rng.normal(scale=0.02, size=(K, d))
    loadings = (0.3 * rng.normal(size=(K * L, len(basis))) @ basis).reshape(K, L, d)
    return MFA.from_parameters(np.full(K, 1 / K), means, loadings, noise_std**2)


def nested_mixture(shape: Shape, noise_std: float, seed: int = 0) -> MFA:
    """Return a mixture of components on top of each other: for every sample all of them matter."""
    one = random_mixture(replace(shape, n_components=1), noise_std, seed)
    rng = np.random.default_rng(seed + 1)
    K = shape.n_components
    apart = 0.01 * noise_std * rng.normal(size=(K, shape.n_features))
    return MFA.from_parameters(
        np.full(K, 1 / K), one.means_ + apart, np.repeat(one.loadings_, K, axis=0), one.noise_variance_
    )


def cast(model: MFA, dtype: DType, noise_std: float | None = None) -> MFA:
    """Return a model with parameters of a dtype, and of a noise if one is given."""
    noise = model.noise_variance_ if noise_std is None else np.full_like(model.noise_variance_, noise_std**2)
    arrays = (np.array(a, dtype=dtype) for a in (model.weights_, model.means_, model.loadings_, noise))
    return MFA.from_parameters(*arrays)


# ------------------------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class Digits:
    """Images of the ten digits as rows of 784 pixels, and where they come from."""

    name: str
    train: Array
    train_labels: Array
    test: Array

    @classmethod
    def load(cls, data: Path | None) -> Digits:
        """Load MNIST from a file or folder; without one make the like of it from the digits bundled in scikit-learn."""
        pairs = [
            load_digits_pair(a, a + 1) if data is None else load_mnist_pair(a, a + 1, data) for a in range(0, 10, 2)
        ]
        parts = {name: np.concatenate([p[name] for p in pairs]) for name in ("X_train", "y_train", "X_test", "y_test")}
        train, test = (_shuffle(parts[f"X_{part}"], parts[f"y_{part}"]) for part in ("train", "test"))
        if data is not None:
            return cls("MNIST", *train, test[0])
        train, test = _like_mnist(*train, EM_SAMPLES), _like_mnist(*test, SHAPES["mnist-fit"].n_samples)
        return cls("bundled digits", *train, test[0])


def _shuffle(X: Array, y: Array) -> tuple[Array, Array]:
    order = np.random.default_rng(0).permutation(len(X))
    return X[order], y[order]


def _like_mnist(X: Array, y: Array, n: int) -> tuple[Array, Array]:
    """Enlarge images of 8 x 8 to 28 x 28; repeat them, moved about and with noise, until there are n."""
    rng = np.random.default_rng(0)
    large = zoom(X.reshape(-1, 8, 8), (1, 3.5, 3.5), order=1)
    picked = np.arange(n) % len(X)
    moves = rng.integers(-2, 3, size=(n, 2))
    out = rng.normal(scale=0.1, size=(n, 28, 28)).astype(np.float32)
    for image, source, move in zip(out, picked, moves, strict=True):
        image += np.roll(large[source], tuple(move), axis=(0, 1))
    return out.reshape(n, -1), y[picked]


# ------------------------------------------------------------------------------------------------ reference and error


def log_density(X: Array, model: MFA, k: int, precision: Any = np.longdouble) -> Array:
    """Return log N(x; mu_k, S_k) in residual form, with all sums over the features in the given precision.

    The L x L systems are solved in double precision: the residual form is least at the right factors, so that an error
    in them enters squared.
    """
    mean, loadings, noise = (
        np.asarray(a[k], precision) for a in (model.means_, model.loadings_, model.noise_variance_)
    )
    scaled = loadings / noise
    m = np.eye(len(scaled)) + np.asarray(scaled @ loadings.T, np.float64)
    r = np.asarray(X, precision) - mean
    z = np.linalg.solve(m, np.asarray(scaled @ r.T, np.float64)).T.astype(precision)
    e = r - z @ loadings
    mahalanobis = np.sum(e * e / noise, axis=1) + np.sum(z * z, axis=1)
    log_det = np.linalg.slogdet(m)[1] + np.sum(np.log(noise))
    return -(len(mean) * np.log(2 * precision(np.pi)) + log_det + mahalanobis) / 2


def weighted_log_prob(X: Array, model: MFA, precision: Any = np.longdouble) -> Array:
    """Return log w_k + log N(x; mu_k, S_k), (n, K)."""
    columns = [log_density(X, model, k, precision) for k in range(len(model.weights_))]
    return np.stack(columns, axis=1) + np.log(model.weights_.astype(precision))


def score_samples(X: Array, model: MFA, precision: Any = np.longdouble) -> Array:
    """Return log p(x), (n,)."""
    joint = weighted_log_prob(X, model, precision)
    top = joint.max(axis=1, keepdims=True)
    return top[:, 0] + np.log(np.sum(np.exp(joint - top), axis=1))


def relative_error(actual: Array, expected: Array) -> float:
    """Return the largest |actual - expected| / max(1, |expected|); NaN if any is NaN."""
    return float(np.max(np.abs(actual - expected) / np.maximum(1, np.abs(expected))))


def some_rows(n: int, model: MFA) -> NDArray[np.int64]:
    """Return rows across the whole array, few enough that long double takes them in about a second."""
    K, L, d = model.loadings_.shape
    return np.unique(np.linspace(0, n - 1, int(np.clip(3e7 / (K * L * d), 3, 64))).astype(np.int64))
