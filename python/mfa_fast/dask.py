"""Mixtures on Dask arrays: samples stay where they are, and statistics or results come back.

Imported only when asked for; needs ``pip install "mfa_fast[dask]"``. How far it scales: docs/scaling.md.

Models are plain `MFA` and `MFAClassifier`, before and after; what is here are functions that take one and a Dask array.
Blocks are groups of rows. An array that is chunked along features too is put together, block by block, so that every
block has all features of its rows; the rows stay in the blocks they are in. Blocks may be of any real dtype, uint8
images included: nothing is converted as a whole.

Chunk sizes of the rows need be known for `fit` alone.

**Threads.** Dask runs as many tasks on a worker as the worker has threads. So ``n_threads=None`` means one thread for a
task, and any other number that number. Workers with one Dask thread and models with ``n_threads`` as large as the
machine are best for large models, since every task that runs has statistics of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from copy import copy
from typing import Any, TypeVar

import numpy as np

try:
    import dask
    import dask.array as da
    from distributed import Client
except ModuleNotFoundError as error:
    msg = f"mfa_fast.dask needs Dask and distributed ({error}); install them with: pip install 'mfa_fast[dask]'"
    raise ModuleNotFoundError(msg, name=error.name) from None

from mfa_fast import attacks
from mfa_fast._dask_blocks import (
    check_blocks,
    check_client,
    check_kind,
    check_model,
    for_task,
    join_rows,
    label_blocks,
    labels_for,
    later,
    row_blocks,
    send,
)
from mfa_fast._dask_fit import count_classes, fit_mixture, of_class, rows_of_class
from mfa_fast._progress import Task
from mfa_fast._samples import forget_features
from mfa_fast._typing import Array
from mfa_fast._validation import as_seed, check_place
from mfa_fast.attacks import AttackResult
from mfa_fast.classifier import MFAClassifier
from mfa_fast.mixture import MFA

__all__ = ["fit", "ld_grad", "predict", "predict_proba", "sample", "score", "score_samples"]

_Model = TypeVar("_Model", MFA, MFAClassifier)

# -------------------------------------------------------------------------------------------------------- fitting


def fit(
    estimator: _Model, X: da.Array, y: Any = None, *, client: Client | None = None, init_rows: int = 10_000
) -> _Model:
    """Fit a mixture, or one for each class, to samples on many machines, by the iterations of `MFA.fit`.

    In each, the parameters go to the workers, every block becomes `Statistics` where it is, these are added up on the
    way back in an order that the blocks fix, and the M-step is done here. The mixtures of a classifier are fitted one
    after the other, each to the rows of its class, which are picked out of the blocks where these are.

    Parameters
    ----------
    estimator : MFA or MFAClassifier
        Its parameters are those of the fit; it is not changed. With ``warm_start=True`` and fitted, its parameters are
        gone on from.
    X : dask.array.Array of shape (n_samples, n_features)
        Of known chunk sizes. Every iteration goes through it: let the workers keep it with ``X.persist()`` if it fits
        into their memory, or it will be read anew.
    y : array or dask.array.Array of shape (n_samples,), default=None
        The classes, for an MFAClassifier. Sample weights are not taken.
    client : distributed.Client, default=None
        None for the one that was made last.
    init_rows : int, default=10_000
        The first parameters are made here, from this many rows at random (or all, if there are no more), which are
        pulled from the workers: a function of `random_state`, of the number of rows, and of these rows. For an
        MFAClassifier, so many of each class.

    Returns
    -------
    model : MFA or MFAClassifier
        Fitted, with all attributes that its own `fit` gives it; a local model that knows nothing of Dask.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it. An error about samples tells their rows.
    CudaUnavailableError
        If the estimator has ``device="cuda"``; the workers run on CPUs.

    Warns
    -----
    ConvergenceWarning
        As `MFA.fit` does.

    Notes
    -----
    The same blocks give the same bits on any number of workers, and if workers die on the way: what they had is
    computed again by those that are left. Where none is, Dask waits for another, if it is not told for how long
    (``distributed.scheduler.no-workers-timeout``).

    Other blocks, or the estimator's own `fit` from the same first parameters, give the same to rounding. Screening
    starts anew in each iteration, where `MFA.fit` carries its subspace on: also that shows in rounding alone.

    Examples
    --------
    >>> import dask.array as da
    >>> from distributed import Client
    >>> from sklearn.datasets import load_digits
    >>> from mfa_fast import MFA
    >>> from mfa_fast.dask import fit
    >>> X = load_digits().data / 16
    >>> estimator = MFA(n_components=5, n_factors=2, random_state=0)
    >>> with Client(processes=False, dashboard_address=":0") as client:
    ...     model = fit(estimator, da.from_array(X, chunks=(500, -1)))
    >>> bool(abs(model.score(X) - estimator.fit(X).score(X)) < 1e-6)
    True
    """
    check_kind("estimator", estimator, MFA, MFAClassifier)
    model = copy(estimator)
    X = check_blocks(X)
    n, d = X.shape
    if math.isnan(n):
        msg = (
            "X must have known chunk sizes to be fitted to, and those of its rows are not: use X.compute_chunk_sizes()."
        )
        raise ValueError(msg)
    labels = labels_for(model, y, X)
    workers = check_client(client)
    stops = list(itertools.accumulate(X.chunks[0]))
    spans = [(stop - size, stop) for size, stop in zip(X.chunks[0], stops, strict=True)]

    def begin(n_parts: int) -> Task:
        return Task(None, model, X, y, {})  # callbacks are for fits here

    if isinstance(model, MFA):
        model._warn_of(fit_mixture(model, X, None, spans, workers, init_rows, begin))
        return model

    forget_features(model, d)
    classes, counts = count_classes(workers, labels, spans)

    def fit_class(c: int, mixture: MFA) -> None:
        chosen = np.flatnonzero(counts[:, c])
        blocks = row_blocks(X)
        sizes = counts[chosen, c].tolist()
        rows = join_rows(
            [later(of_class)(blocks[b], labels[b], classes[c]) for b in chosen], sizes, np.empty((0, d), X.dtype)
        )
        numbers = join_rows(
            [later(rows_of_class)(labels[b], classes[c], spans[b][0]) for b in chosen], sizes, np.empty(0, np.int64)
        )
        mixture._warn_of(fit_mixture(mixture, rows, numbers, [spans[b] for b in chosen], workers, init_rows, begin))

    sizes = counts.sum(axis=0)
    model._fit(classes, sizes, sizes, fit_class, begin)
    return model


# -------------------------------------------------------------------------------------------------------- evaluation


def score_samples(model: MFA, X: da.Array) -> da.Array:
    """Return the log-density log p(x) of each sample, in nats: `MFA.score_samples`, when it is computed.

    Parameters
    ----------
    model : MFA
        Fitted.
    X : dask.array.Array of shape (n_samples, n_features)

    Returns
    -------
    log_density : dask.array.Array of shape (n_samples,)
        With the rows' chunks; float32 where X is, else float64.

    Raises
    ------
    TypeError, ValueError, NotFittedError
        If an argument is not as described, when this is called; the message names it.

    Examples
    --------
    >>> import dask.array as da
    >>> from mfa_fast import MFA
    >>> from mfa_fast.dask import score_samples
    >>> model = MFA.from_parameters([1.0], [[0.0, 0.0]], [[[3.0, 0.0]]], 1.0)
    >>> score_samples(model, da.zeros((4, 2), chunks=(2, 1))).compute().round(4)
    array([-2.9892, -2.9892, -2.9892, -2.9892])
    """
    check_model(model, MFA)
    return _map(model, X, "score_samples")


def predict(model: MFA | MFAClassifier, X: da.Array) -> da.Array:
    """Return each sample's best component, or its class: `predict` of the model, when it is computed.

    Errors are those of `score_samples`.

    Parameters
    ----------
    model : MFA or MFAClassifier
        Fitted.
    X : dask.array.Array of shape (n_samples, n_features)

    Returns
    -------
    labels : dask.array.Array of shape (n_samples,)
        With the rows' chunks; int64 for an MFA, of the type of ``classes_`` for an MFAClassifier.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from mfa_fast import MFA
    >>> from mfa_fast.dask import predict
    >>> model = MFA.from_parameters([0.5, 0.5], [[0.0, 0.0], [1.0, 1.0]], np.zeros((2, 0, 2)), 0.1)
    >>> predict(model, da.ones((4, 2), chunks=2)).compute()
    array([1, 1, 1, 1])
    """
    check_model(model, MFA, MFAClassifier)
    return _map(model, X, "predict")


def predict_proba(model: MFA | MFAClassifier, X: da.Array) -> da.Array:
    """Return the probability of each component, or class, for each sample: `predict_proba`, when it is computed.

    Errors are those of `score_samples`.

    Parameters
    ----------
    model : MFA or MFAClassifier
        Fitted.
    X : dask.array.Array of shape (n_samples, n_features)

    Returns
    -------
    probabilities : dask.array.Array of shape (n_samples, n_components) or (n_samples, n_classes)
        With the rows' chunks; float32 where X is, else float64.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from mfa_fast import MFA
    >>> from mfa_fast.dask import predict_proba
    >>> model = MFA.from_parameters([0.5, 0.5], [[0.0, 0.0], [2.0, 2.0]], np.zeros((2, 0, 2)), 1.0)
    >>> predict_proba(model, da.ones((2, 2), chunks=1)).compute()
    array([[0.5, 0.5],
           [0.5, 0.5]])
    """
    check_model(model, MFA, MFAClassifier)
    return _map(model, X, "predict_proba")


def score(model: MFA | MFAClassifier, X: da.Array, y: Any = None) -> float:
    """Return the mean log-density of the samples, or the accuracy: `score` of the model. It is computed at once.

    Errors are those of `score_samples`.

    Parameters
    ----------
    model : MFA or MFAClassifier
        Fitted.
    X : dask.array.Array of shape (n_samples, n_features)
    y : array or dask.array.Array of shape (n_samples,), default=None
        The classes, for an MFAClassifier.

    Returns
    -------
    score : float
        Nats per sample for an MFA, a fraction for an MFAClassifier.

    Examples
    --------
    >>> import dask.array as da
    >>> from mfa_fast import MFA
    >>> from mfa_fast.dask import score
    >>> model = MFA.from_parameters([1.0], [[0.0, 0.0]], [[[3.0, 0.0]]], 1.0)
    >>> round(score(model, da.zeros((4, 2), chunks=(2, 1))), 4)
    -2.9892
    """
    check_model(model, MFA, MFAClassifier)
    X = check_blocks(X)
    labels = labels_for(model, y, X)
    _probe(model, X, "predict")
    sent = send(for_task(model))
    parts = dask.compute(
        *(later(_score_block)(sent, block, some) for block, some in zip(row_blocks(X), labels, strict=True))
    )
    count = sum(size for _, size in parts)
    if count == 0:
        msg = "X must have at least one sample, got none."
        raise ValueError(msg)
    return math.fsum(total for total, _ in parts) / count


def _score_block(model: MFA | MFAClassifier, block: Array, labels: Any) -> tuple[float, int]:
    size = len(block)
    return (model.score(block, labels) * size if size else 0.0), size


def _map(model: MFA | MFAClassifier, X: da.Array, method: str) -> da.Array:
    X = check_blocks(X)
    nothing = _probe(model, X, method)[:0]
    sent = send(for_task(model))
    axes = {"drop_axis": 1} if nothing.ndim == 1 else {"chunks": (X.chunks[0], nothing.shape[1:])}
    return X.map_blocks(_call, sent, method, nothing, dtype=nothing.dtype, meta=nothing, **axes)


def _call(block: Array, model: MFA | MFAClassifier, method: str, nothing: Array) -> Array:
    return np.asarray(getattr(model, method)(block)) if len(block) else nothing


def _probe(model: MFA | MFAClassifier, X: da.Array, method: str) -> Array:
    """Call a method with one row: the errors that X would give in every block come now, and so does the dtype."""
    return np.asarray(getattr(model, method)(np.zeros((1, X.shape[1]), X.dtype)))


# -------------------------------------------------------------------------------------------------------- sampling


def sample(
    model: MFA | MFAClassifier,
    n_samples: int,
    *,
    chunks: int | Sequence[int] | str = "auto",
    noise: bool = True,
    random_state: Any = None,
    start: int = 0,
) -> tuple[da.Array, da.Array]:
    """Draw samples where they are needed: block by block those that the model's own `sample` draws.

    Sample i of a seed is a function of the seed and of i alone. So neither the blocks nor the workers show in them.

    Errors are those of `score_samples`.

    Parameters
    ----------
    model : MFA or MFAClassifier
        Fitted.
    n_samples : int
    chunks : int, sequence of int or str, default="auto"
        Rows of a block, of each block, or Dask's choice.
    noise, random_state, start : as in `MFA.sample`

    Returns
    -------
    X : dask.array.Array of shape (n_samples, n_features)
    labels : dask.array.Array of shape (n_samples,)
        Components of an MFA, classes of an MFAClassifier.

    Examples
    --------
    >>> import numpy as np
    >>> from mfa_fast import MFA
    >>> from mfa_fast.dask import sample
    >>> model = MFA.from_parameters([0.5, 0.5], [[0.0, 0], [9, 9]], np.ones((2, 1, 2)), 0.1)
    >>> X, labels = sample(model, 1000, chunks=300, random_state=0)
    >>> X.chunks
    ((300, 300, 300, 100), (2,))
    >>> bool(np.array_equal(X.compute(), model.sample(1000, random_state=0)[0]))
    True
    """
    check_model(model, MFA, MFAClassifier)
    n_samples, start = check_place(n_samples, start)
    seed = as_seed(model.random_state if random_state is None else random_state)
    one, label = model.sample(1, noise=noise, random_state=seed, start=start)
    try:
        asked = da.core.normalize_chunks((chunks, -1), (n_samples, one.shape[1]), dtype=one.dtype)[0]
    except (TypeError, ValueError) as error:
        msg = f"chunks must be a number of rows, numbers that add up to n_samples, or 'auto'; got {chunks!r} ({error})."
        raise ValueError(msg) from error
    rows = [size for size in asked if size > 0]
    firsts = itertools.accumulate(rows[:-1], initial=start)
    sent = send(for_task(model))
    parts = [
        later(_draw_block, nout=2)(sent, size, noise, seed, first) for first, size in zip(firsts, rows, strict=True)
    ]
    return join_rows([X for X, _ in parts], rows, one), join_rows([labels for _, labels in parts], rows, label)


def _draw_block(model: MFA | MFAClassifier, size: int, noise: bool, seed: int, first: int) -> tuple[Array, Array]:
    return model.sample(size, noise=noise, random_state=seed, start=first)


# -------------------------------------------------------------------------------------------------------- attacks


def ld_grad(model: Any, X: da.Array, y: Any = None, **options: Any) -> AttackResult:
    """Move samples out of their class: `attacks.ld_grad`, block by block, when it is computed.

    Errors are those of `score_samples`.

    Parameters
    ----------
    model : MFAClassifier, LinearSVC, SVC or Pipeline
        As in `attacks.ld_grad`.
    X : dask.array.Array of shape (n_samples, n_features)
    y : array or dask.array.Array of shape (n_samples,), default=None
        The classes that the samples are to leave; None for those that the model predicts.
    **options
        `steps`, `overshoot`, `clip`, `source`, `target` and `n_threads`, as in `attacks.ld_grad`.

    Returns
    -------
    result : AttackResult
        Of Dask arrays with the rows' chunks. ``dask.compute(result)[0]`` makes it one of NumPy arrays, and
        ``dask.persist(result)[0]`` lets the workers keep it; its `summary` computes it each time that it has to.

    Examples
    --------
    >>> import dask
    >>> from sklearn.datasets import load_digits
    >>> from mfa_fast import MFAClassifier
    >>> from mfa_fast.dask import ld_grad, sample
    >>> X, y = load_digits(n_class=2, return_X_y=True)
    >>> classifier = MFAClassifier(n_components=3, n_factors=2, random_state=0).fit(X / 16, y).symmetric(0.01)
    >>> X, y = sample(classifier, 1000, chunks=250, random_state=0)
    >>> result = dask.compute(ld_grad(classifier, X, y))[0]
    >>> result.summary()["success_rate"]
    1.0
    """
    X = check_blocks(X)
    labels = [None] * X.numblocks[0] if y is None else label_blocks(y, X)
    # One row, so that wrong arguments are an error now, and for the dtypes of what comes.
    one = attacks.ld_grad(model, np.zeros((1, X.shape[1]), X.dtype), **options)
    there = for_task(model)
    if options.get("n_threads") is None:
        options["n_threads"] = getattr(there, "n_threads", 1)  # support vector machines have no number of their own
    sent = send(there)
    parts = [
        later(_attack_block)(sent, block, some, options, one) for block, some in zip(row_blocks(X), labels, strict=True)
    ]
    names = AttackResult.__dataclass_fields__
    return AttackResult(
        **{name: join_rows([getattr(part, name) for part in parts], X.chunks[0], getattr(one, name)) for name in names}
    )


def _attack_block(model: Any, block: Array, labels: Any, options: dict[str, Any], one: AttackResult) -> AttackResult:
    if len(block) == 0:
        return AttackResult(**{name: getattr(one, name)[:0] for name in AttackResult.__dataclass_fields__})
    return attacks.ld_grad(model, block, labels, **options)
