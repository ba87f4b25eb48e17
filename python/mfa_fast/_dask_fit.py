"""Fits to samples that are with Dask's workers: EM's iterations, and the rows of a class."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from typing import Any

import dask.array as da
import numpy as np
from distributed import Client
from numpy.typing import NDArray
from sklearn.utils.random import sample_without_replacement

from mfa_fast._dask_blocks import for_task, later, row_blocks, send
from mfa_fast._em import e_step
from mfa_fast._fitting import check_hyperparameters, check_rows, check_shape, completed
from mfa_fast._labels import check_labels
from mfa_fast._parameters import Parameters
from mfa_fast._progress import Task
from mfa_fast._samples import Samples, as_samples, forget_features
from mfa_fast._statistics import Statistics
from mfa_fast._typing import Array
from mfa_fast._validation import check_integer
from mfa_fast.mixture import MFA

# Statistics that one task adds up. A power of two, so that the order of additions is that of Statistics.merge.
_FAN_IN = 4


def fit_mixture(
    model: MFA,
    X: da.Array,
    numbers: da.Array | None,
    spans: list[tuple[int, int]],
    client: Client,
    init_rows: int,
    begin: Callable[[int], Task],
) -> Parameters:
    """Fit a mixture in place to blocks that are, or come from, these spans of rows; return what `MFA._fit` does.

    `numbers` are those of the rows in what the caller gave, where they were chosen from among them.
    """
    check_hyperparameters(model)
    n, d = X.shape
    check_rows(model, n)
    check_integer("init_rows", init_rows, max(2, int(model.n_components)))
    forget_features(model, d)
    cluster = _Cluster(client, model, X, spans)
    return model._fit(
        check_shape(model, int(d), n),
        n,
        np.float32 if X.dtype.name == "float32" else np.float64,
        find_samples=lambda rng: completed(model, _pull(client, X, numbers, init_rows, rng), None, n),
        expectation=lambda: cluster.expect,
        begin=begin,
    )


def count_classes(client: Client, labels: list[Any], spans: list[tuple[int, int]]) -> tuple[Array, NDArray[np.int64]]:
    """Return the classes, sorted, and the number of rows (n_blocks, n_classes) of each in every block."""
    tasks = [later(_count_block)(some, start, stop) for some, (start, stop) in zip(labels, spans, strict=True)]
    found = client.gather(client.compute(tasks))
    classes = np.unique(np.concatenate([some for some, _ in found]))
    counts = np.zeros((len(found), len(classes)), dtype=np.int64)
    for row, (some, times) in zip(counts, found, strict=True):
        row[np.searchsorted(classes, some)] = times
    return classes, counts


def _count_block(labels: Array, start: int, stop: int) -> tuple[Array, NDArray[np.int64]]:
    if start == stop:
        return np.unique(labels, return_counts=True)
    try:
        return np.unique(check_labels(labels, stop - start), return_counts=True)
    except ValueError as error:
        msg = f"rows {start} to {stop - 1}: {error}"
        raise ValueError(msg) from error


def of_class(block: Array, labels: Array, label: Any) -> Array:
    """Return the rows of a block that have this label."""
    return block[labels == label]


def rows_of_class(labels: Array, label: Any, start: int) -> NDArray[np.int64]:
    """Return which rows these are, where the block begins with row `start`."""
    return start + np.flatnonzero(labels == label)


class _Cluster:
    """The E-step on samples that are with the workers."""

    def __init__(self, client: Client, model: MFA, X: da.Array, spans: list[tuple[int, int]]) -> None:
        self.client = client
        self.model = for_task(model)
        self.blocks = [
            (block, start, stop) for block, (start, stop) in zip(row_blocks(X), spans, strict=True) if stop > start
        ]

    def expect(self, parameters: Parameters) -> Statistics:
        there = copy(self.model)
        there._set_parameters(parameters)
        sent = send((there, parameters.fingerprint()))
        level = [later(_expect_block)(sent, block, start, stop) for block, start, stop in self.blocks]
        while len(level) > 1:
            level = [later(Statistics.merge)(level[i : i + _FAN_IN]) for i in range(0, len(level), _FAN_IN)]
        with warnings.catch_warnings():
            # Dask's remedy for large graphs is to scatter, which `send` says why not to.
            warnings.filterwarnings("ignore", message="Sending large graph", category=UserWarning)
            root = self.client.compute(level[0])
        return root.result()


_packing = threading.Lock()


def _expect_block(sent: tuple[MFA, str], block: Array, start: int, stop: int) -> Statistics:
    model, fingerprint = sent
    with _packing:  # by one of a worker's threads, for all
        scorer = model._scorer()
    try:
        samples = as_samples(block, estimator=model)
        return e_step(
            scorer.model,
            samples,
            fingerprint,
            marginal=model.missing == "marginal",
            screening=scorer.screening,
            n_threads=scorer.n_threads,
        )
    except (TypeError, ValueError) as error:
        size = f"a block of {len(block)}" if len(block) == stop - start else f"{len(block)} of them of the class"
        msg = f"rows {start} to {stop - 1} of X, {size}: {error}"
        raise (TypeError if isinstance(error, TypeError) else ValueError)(msg) from error


def _pull(client: Client, X: da.Array, numbers: da.Array | None, init_rows: int, rng: np.random.RandomState) -> Samples:
    """Bring some rows here, in their order, with their numbers in what the caller gave."""
    n = X.shape[0]
    chosen = None if n <= init_rows else np.sort(sample_without_replacement(n, init_rows, random_state=rng))
    X, rows = (some if some is None or chosen is None else some[chosen] for some in (X, numbers))
    samples = as_samples(client.compute(X).result())
    return replace(samples, rows=chosen if rows is None else client.compute(rows).result())
