"""Arguments that users should not pass, and rare ones that they may: samples, weights, parameters, whatever comes.

All of them are drawn from a NumPy generator, so that a case of the fuzzer is a function of its seed.
"""

from __future__ import annotations

import warnings

import numpy as np

import reference as ref

# Block edges and widths of vectors are straddled; 0 is refused.
ROWS = (0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 33, 47, 48, 49)
FEATURES = (2, 3, 5, 8, 9, 17, 31)
DTYPES = ("f4", "f8", "f2", "g", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "?")


def parameters(rng, d=None, **options):
    d = int(rng.choice(FEATURES)) if d is None else d
    K, L = int(rng.integers(1, 7)), int(rng.integers(0, min(4, d)))
    options = {
        "noise_std": float(rng.choice([1e-3, 0.1, 1.0])),
        "noise_type": str(rng.choice(["spherical", "diag"])),
        "tied": bool(rng.integers(2)),
        "seed": int(rng.integers(2**31)),
    } | options
    return ref.random_parameters(K, d, L, **options)


def matrix(rng, d, near=None):
    """Return samples of any type, layout and size, and whether all of their numbers are ordinary ones."""
    n = int(rng.choice(ROWS))
    dtype = np.dtype(str(rng.choice(DTYPES)) if rng.random() < 0.6 else rng.choice(["f4", "f8"]))
    if near is not None and n and rng.random() < 0.7:
        values = ref.random_samples(near, n, seed=int(rng.integers(2**31)))
    else:
        values = rng.normal(size=(n, d)) * float(rng.choice([1, 10, 100]))
    benign = True
    with np.errstate(all="ignore"):
        if dtype.kind == "f":
            if values.size and rng.random() < 0.25:
                extremes = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e20, -1e30, 1e150, 1e300, 1e-300, 5e-324, 3.4e38]
                for _ in range(int(rng.integers(1, 4))):
                    values[rng.integers(n), rng.integers(d)] = rng.choice(extremes)
                benign = False
            X = values.astype(dtype)
        elif dtype.kind == "b":
            X = values > 0
        else:
            X = np.clip(values, *(0, 100) if dtype.kind == "u" else (-100, 100)).astype(dtype)
            if X.size and rng.random() < 0.1:
                X.flat[0] = np.iinfo(dtype).max
                benign = False
    return layout(rng, X), benign


def layout(rng, X):
    """Return the same numbers, laid out in memory in another way."""
    n, d = X.shape
    kind = int(rng.integers(10))
    if kind == 1:
        return np.asfortranarray(X)
    if kind == 2:  # every second row and column of something larger
        wide = np.zeros((2 * n + 1, 2 * d + 1), X.dtype)
        view = wide[1::2, 1::2]
        view[...] = X
        return view
    if kind == 3:
        return np.ascontiguousarray(X[::-1, ::-1])[::-1, ::-1]
    if kind == 4:
        return X.astype(X.dtype.newbyteorder())
    if kind == 5:
        buffer = np.zeros(X.nbytes + 1, np.uint8)
        view = buffer[1:].view(X.dtype).reshape(X.shape)
        view[...] = X
        return view
    if kind == 6:
        X = X.copy()
        X.flags.writeable = False
        return X
    if kind == 7 and n:  # all rows the same memory
        return np.broadcast_to(X[:1], X.shape)
    if kind == 8:  # inside a packed record
        record = np.zeros(n, [("tag", "u1"), ("x", X.dtype, (d,))])
        record["x"] = X
        return record["x"]
    if kind == 9 and X.dtype.kind == "f" and n:  # one column for all features
        return np.broadcast_to(X[:, :1], X.shape)
    return X


def misshapen(rng, X):
    """Return something that is no (n, d) matrix of real numbers."""
    d = X.shape[1]
    options = (
        lambda: X[:, : d - 1], lambda: np.hstack([X, X]), lambda: X.ravel(), lambda: X[None], lambda: None,
        lambda: X.astype(complex), lambda: X.astype("U8"), lambda: "X", lambda: [[1.0], [1.0, 2.0]],
        lambda: X.astype(object), lambda: np.zeros((3, d), "datetime64[s]"), lambda: np.zeros((0, d)),
        lambda: X.tolist(), lambda: 3.5,
    )  # fmt: skip
    with np.errstate(all="ignore"):
        return options[int(rng.integers(len(options)))]()


def hide(rng, X):
    """Return the samples with NaN in any pattern: single entries, whole rows and columns, all of it."""
    if not (isinstance(X, np.ndarray) and X.ndim == 2 and X.dtype.kind == "f" and X.size):
        return X
    n, d = X.shape
    hidden = rng.random((n, d)) < rng.choice([0.05, 0.5, 0.95])
    hidden[rng.integers(n)] = rng.random() < 0.5
    hidden[:, rng.integers(d)] = rng.random() < 0.5
    if rng.random() < 0.3:
        hidden[:] = hidden[0]
    if rng.random() < 0.03:
        hidden[:] = True
    X = X.copy()
    X[hidden] = np.nan
    return layout(rng, X)


def weights(rng, n):
    weight = rng.random(n) * float(rng.choice([1, 1e-300, 1e300, 1e10]))
    change = int(rng.integers(6))
    if change == 1 and n:
        weight[rng.integers(n)] = rng.choice([0.0, -1.0, np.nan, np.inf])
    elif change == 2:
        weight[: n // 2 + 1] = 0
    elif change == 3:
        weight = weight[:-1]
    elif change == 4:
        weight = weight[:, None]
    return weight


def spoilt(rng, value):
    """Return an argument of the extension that is wrong in type, shape, layout or value."""
    if isinstance(value, tuple):
        parts = list(value)
        if rng.random() < 0.2:
            return tuple(parts[:-1])
        place = int(rng.integers(len(parts)))
        parts[place] = spoilt(rng, parts[place])
        return tuple(parts)
    if not isinstance(value, np.ndarray):
        options = [None, -1, 2**40, 2**63, 1.5, np.nan, np.inf, "a", [], True, np.zeros(2)]
        return options[int(rng.integers(len(options)))]
    kinds = ["f2", "f4", "f8", "g", "i4", "i8", "u8", "?", "U2", "O", "c16", "M8[s]", ">f8", ">i8", ">f4"]
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        changes = (
            lambda: value.astype(str(rng.choice(kinds))),
            lambda: value[..., :-1] if value.shape[-1:] > (0,) else value[None],
            lambda: np.concatenate([value, value]),
            lambda: value[None],
            lambda: value.ravel()[0] if value.size else None,
            lambda: value[::-1],
            lambda: np.asfortranarray(np.repeat(value, 2, axis=-1))[..., ::2],
            lambda: np.broadcast_to(value.ravel()[:1].reshape((1,) * value.ndim), value.shape) if value.size else value,
            lambda: np.frombuffer(b"\0" + value.tobytes(), np.uint8)[1:].view(value.dtype).reshape(value.shape),
            lambda: np.full_like(value, rng.choice([-1, 10**6, 127]) if value.dtype.kind == "i" else True),
            lambda: np.full(value.shape, rng.choice([np.nan, np.inf, 1e300, -1e300, 5e-324])).astype(value.dtype),
            lambda: value.tolist(),
            lambda: None,
            lambda: np.zeros((0,) * value.ndim, value.dtype),
        )
        return changes[int(rng.integers(len(changes)))]()
