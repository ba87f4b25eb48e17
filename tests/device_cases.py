"""Models and samples that tests of several kernels share."""

from functools import cache

import numpy as np
import pytest

import reference as ref

NOISES = ("spherical", "tied diagonal", "diagonal")
NOISE_STDS = (1.0, 1e-3)
# (K, d, L), rows: one of each; more factors than a thread keeps sums of; edges of slices, warps, tiles and blocks; and
# more rows than a part of the work has.
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


# Excerpts that end with a piece's first feature, within a piece and with a whole one.
every_glanced_width = pytest.mark.parametrize("d", [513, 600, 1152])


def glanced_case(d, noise, dtype, noise_std=0.05):
    """A model whose components a part of the features tells, and rows of it, some of which deceive who looks there.

    Of these one third lies between two components, one third far from all, and one third has in every feature that
    is looked at what one component has there, in all others what another has.
    """
    rng = np.random.default_rng(0)
    space = rng.normal(size=(8, d)) / np.sqrt(8)  # which few directions cover
    means, loadings = rng.normal(size=(24, 8)) @ space, 0.3 * rng.normal(size=(24, 3, 8)) @ space
    p = parameters_of((24, d, 3), noise, noise_std)._replace(means=means, loadings=loadings)
    X = ref.random_samples(p, 90, stray=0.0)
    others = np.roll(X, 1, axis=0)
    X[60::6] = 0.5 * (X[60::6] + others[60::6])
    X[62::6] *= 100.0
    elsewhere = np.arange(d) // 64 % 8 != 0
    X[64::6, elsewhere] = others[64::6, elsewhere]
    return p, X.astype(dtype)


def gaps_of_two(p, X):
    """By how much the second half of the components is ahead, with priors of 0.3 and 0.7."""
    K = len(p.weights)
    joint = ref.weighted_log_prob(X, p)
    return joint[:, K // 2 :].max(axis=1) + np.log(0.7) - joint[:, : K // 2].max(axis=1) - np.log(0.3)


def classes_of_two(p, X):
    """The class of each sample, where the first half of the components is one."""
    return (gaps_of_two(p, X) > 0).astype(np.int64)


def reduce_all(device, model, X, groups, dtype, *, exact=True, screening=True):
    """All outputs of reduce, on the host."""
    n, G = len(X), len(groups) - 1
    out = {
        "log_sum": device.empty((n, G), np.float64),
        "best_value": device.empty((n, G), np.float64),
        "best": device.empty((n, G), np.int64),
        "responsibilities": device.empty((n, model.n_components), dtype),
        "factors": device.empty((n, model.n_factors), np.float64),
    }
    device.call("reduce", model, device.send(X), groups, exact=exact, screening=screening, n_rows=n, **out)
    return {name: device.fetch(value) for name, value in out.items()}
