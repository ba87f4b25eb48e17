"""Models and samples that the tests of the CUDA kernels share."""

from functools import cache

import numpy as np
import pytest

import reference as ref

NOISES = ("spherical", "tied diagonal", "diagonal")
NOISE_STDS = (1.0, 1e-3)
# (K, d, L), rows: one of each; more factors than a thread keeps sums of; edges of slices, warps, tiles and blocks; and
# more rows than a block looks through for entries.
SMALL = [((1, 1, 0), 1), ((2, 17, 1), 33), ((3, 33, 12), 65), ((5, 130, 23), 16), ((2, 2, 0), 1100)]
# Models that screening is used with, to whose components several entries go.
SCREENED = [((20, 256, 3), 65), ((33, 257, 2), 130)]
every_shape = pytest.mark.parametrize(("shape", "n"), SMALL + SCREENED)
every_noise = pytest.mark.parametrize("noise", NOISES)
every_noise_std = pytest.mark.parametrize("noise_std", NOISE_STDS)
KINDS = ("float32", "float64", "bfloat16", "uint8")


def parameters_of(shape, noise="spherical", noise_std=1.0, seed=0):
    kind = "spherical" if noise == "spherical" else "diag"
    return ref.random_parameters(*shape, noise_type=kind, tied=noise == "tied diagonal", noise_std=noise_std, seed=seed)


@cache
def case_of(shape, n, noise, noise_std, dtype):
    """A model, samples and their exact weighted log-densities."""
    p = parameters_of(shape, noise, noise_std)
    X = ref.random_samples(p, n).astype(dtype)
    return p, X, ref.weighted_log_prob(X, p)


def samples_of(parameters, n, kind):
    """Rows as the kernels get them, and the same numbers in a type that NumPy has."""
    X = ref.random_samples(parameters, n)
    if kind == "uint8":
        images = np.clip(np.rint(10 * X + 128), 0, 255).astype(np.uint8)
        return images, images
    X = X.astype(np.float64 if kind == "float64" else np.float32)
    if kind != "bfloat16":
        return X, X
    upper = (X.view(np.uint32) >> 16).astype(np.uint16)
    return upper.view("V2"), (upper.astype(np.uint32) << 16).view(np.float32)


def precision_of(kind):
    return np.dtype(np.float32 if kind in ("float32", "bfloat16") else np.float64)
