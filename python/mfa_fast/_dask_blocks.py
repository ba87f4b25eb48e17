"""Between estimators and Dask: arrays as blocks of rows, models as tasks take them, and checks of both."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import dask.array as da
import numpy as np
from dask.delayed import delayed
from distributed import Client, default_client
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from mfa_fast._cuda_extension import CudaUnavailableError
from mfa_fast.classifier import MFAClassifier
from mfa_fast.mixture import MFA


def check_blocks(X: Any) -> da.Array:
    """Return the array with all features of a row in one block."""
    if not isinstance(X, da.Array):
        msg = (
            f"X must be a Dask array, got an object of type {type(X).__name__}: use dask.array.from_array for arrays, "
            "to_dask_array for data frames; for what fits into memory, the model's own methods do."
        )
        raise TypeError(msg)
    if X.ndim != 2:
        msg = f"X must have shape (n_samples, n_features), got {X.ndim} dimension(s)."
        raise ValueError(msg)
    if X.dtype.kind not in "biuf":
        msg = f"X must hold real numbers, got dtype {X.dtype}."
        raise TypeError(msg)
    if math.isnan(X.shape[1]):
        msg = "X must have a known number of features: use X.compute_chunk_sizes()."
        raise ValueError(msg)
    return X.rechunk({1: -1}) if X.numblocks[1] > 1 else X


def label_blocks(y: Any, X: da.Array) -> list[Any]:
    """Return the labels of each block of rows."""
    if y is None:
        msg = "y must be given: the class labels of the samples."
        raise ValueError(msg)
    rows = X.chunks[0]
    known = not math.isnan(X.shape[0])
    if not isinstance(y, da.Array):
        y = np.asanyarray(y)  # with its mask, if it has one, which is refused where labels are checked
        if not known:
            msg = "y must be a Dask array where X has unknown chunk sizes; or make them known: X.compute_chunk_sizes()."
            raise ValueError(msg)
    if y.ndim != 1 or (known and not math.isnan(y.shape[0]) and y.shape != X.shape[:1]):
        msg = f"y must have shape ({X.shape[0]},), a label for each row of X, got {y.shape}."
        raise ValueError(msg)
    if not isinstance(y, da.Array):
        y = da.from_array(y, chunks=(rows,))
    elif known and not math.isnan(y.shape[0]):
        y = y.rechunk((rows,))
    elif y.numblocks[0] != X.numblocks[0]:
        msg = (
            f"y must have its rows in the same blocks as X, where chunk sizes are unknown; got {y.numblocks[0]} blocks "
            f"and {X.numblocks[0]}: use compute_chunk_sizes() of both."
        )
        raise ValueError(msg)
    return row_blocks(y)


def labels_for(model: MFA | MFAClassifier, y: Any, X: da.Array) -> list[Any]:
    """Return the labels of each block of rows for a classifier, and None of each for a mixture."""
    if isinstance(model, MFAClassifier):
        return label_blocks(y, X)
    if y is not None:
        msg = "y must be None for an MFA, which has no classes."
        raise ValueError(msg)
    return [None] * X.numblocks[0]


def check_kind(name: str, model: Any, *kinds: type) -> None:
    if not isinstance(model, kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        msg = f"{name} must be an {expected}, got an object of type {type(model).__name__}."
        raise TypeError(msg)


def check_model(model: Any, *kinds: type) -> None:
    check_kind("model", model, *kinds)
    check_is_fitted(model)


def check_client(client: Any) -> Client:
    if client is None:
        try:
            client = default_client()
        except ValueError as error:
            msg = "fit needs a client, and there is none: make one with distributed.Client(), or pass client=."
            raise ValueError(msg) from error
    if not isinstance(client, Client) or client.asynchronous:
        kind = "an asynchronous one" if isinstance(client, Client) else f"an object of type {type(client).__name__}"
        msg = f"client must be a distributed.Client of the ordinary kind, got {kind}."
        raise TypeError(msg)
    return client


def later(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Return a function whose calls are tasks.

    They refer to it by its name, so that the workers call that of their own installation.
    """
    return delayed(function, pure=False, **options)


def for_task(model: Any) -> Any:
    """Return the model with one thread unless it says otherwise: a worker runs as many tasks as it has threads."""
    if not isinstance(model, (MFA, MFAClassifier)):
        return model
    if model.device == "cuda":
        msg = "device='cuda' is not for Dask arrays, whose workers run on CPUs: set device=None."
        raise CudaUnavailableError(msg)
    if model.n_threads is not None:
        return model
    changed = copy(model)
    changed.n_threads = 1
    return changed


def send(thing: Any) -> Any:
    """Return a thing as tasks take it that is brought to a worker once, whatever the number of its tasks.

    It travels in the graph and is not scattered: where all workers that have it die, it is sent again.
    """
    return delayed(thing, traverse=False)


def row_blocks(array: da.Array) -> list[Any]:
    """Return the blocks of an array of one block of features, as tasks take them."""
    return list(array.to_delayed().ravel())


def join_rows(parts: list[Any], rows: Sequence[int], like: NDArray[Any]) -> da.Array:
    """Make an array of blocks of rows, without the empty ones."""
    shapes = [(size, *like.shape[1:]) for size in rows]
    return da.concatenate(
        [da.from_delayed(part, shape, meta=like[:0]) for part, shape in zip(parts, shapes, strict=True)],
        allow_unknown_chunksizes=True,
    )
