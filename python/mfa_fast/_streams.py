"""Samples that are not in memory: arrays in files, and sequences of batches, read block by block.

Where samples come from is decided by one rule, `as_data`. What they are used for knows `Samples` and `Stream` by the
same few words: their number and width, `blocks` of rows in order, and `take` for some of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import wraps
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from mfa_fast._array_libraries import CudaArrays
from mfa_fast._devices import check_device, requested_arrays
from mfa_fast._memory import rows_within, scoring_rows, working_memory
from mfa_fast._samples import Samples, as_samples, identity
from mfa_fast._typing import Array
from mfa_fast._validation import one_line

_Method = TypeVar("_Method", bound=Callable[..., Any])


class Stream(ABC):
    """Rows of one width and type that can be read from the first to the last, as often as needed."""

    # Where the kernels run on its blocks; None is the CPU.
    device: CudaArrays | None = None
    # The rows in what the caller gave, where they were chosen from among them.
    rows: NDArray[np.int64] | None = None

    def __init__(self, head: Samples) -> None:
        self.n_features = head.n_features
        self.dtype = head.dtype
        self.row_bytes = self.read_bytes = head.row_bytes

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of rows."""

    @abstractmethod
    def pieces(self, rows: int) -> Iterator[Any]:
        """Go through the rows in order, in arrays of at most so many."""

    def blocks(self, rows: int) -> Iterator[Samples]:
        """Go through the rows in order, in samples of at most so many."""
        first = 0
        for piece in self.pieces(rows):
            block = replace(_in_memory(piece), wrap=identity, first=first, rows=self.rows, device=self.device)
            if block.n_features != self.n_features or block.dtype != self.dtype:
                msg = (
                    f"X must have {self.n_features} features in all batches, and results in {np.dtype(self.dtype)}, as "
                    f"in the first; from row {first} on it has {block.n_features}, of dtype {block.data.dtype}."
                )
                raise ValueError(msg)
            yield block
            first += len(block)
            # Not held while the next one is read.
            del piece, block

    def take(self, rows: NDArray[np.int64]) -> Samples:
        """Return the samples in these rows, which rise."""
        chosen: Array | None = None
        for block in self.blocks(rows_within(working_memory() / 8, 2 * self.read_bytes)):
            low, high = np.searchsorted(rows, [block.first, block.first + len(block)])
            if chosen is None:
                chosen = np.empty((len(rows), self.n_features), block.data.dtype)
            chosen[low:high] = block.data[rows[low:high] - block.first]
        assert chosen is not None
        return Samples(chosen, identity, rows=rows if self.rows is None else self.rows[rows])


def _in_memory(batch: Any) -> Samples:
    """Check a batch, which has to be in host memory."""
    samples = as_samples(batch)
    if not samples.on_host:
        msg = (
            f"X must have its batches in host memory, got one in CUDA memory ({type(batch).__qualname__}); give it as "
            "one array, or its batches to partial_fit, or leave them on the host and set device='cuda'."
        )
        raise TypeError(msg)
    return samples


class StoredArray(Stream):
    """An array in a file, of which slices can be read: an HDF5 dataset or a Zarr array."""

    def __init__(self, array: Any) -> None:
        if len(array.shape) != 2 or array.shape[0] == 0:
            as_samples(array[:0])  # raises what it raises for any array
        super().__init__(as_samples(array[:1]))
        self._array = array
        # Rows that are compressed together are read together.
        chunks = array.chunks
        self._unit = int(chunks[0]) if chunks and isinstance(chunks[0], (int, np.integer)) else 1

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self._array.shape[0])

    def pieces(self, rows: int) -> Iterator[Any]:
        """Read slices, of whole chunks where several fit."""
        step = max(rows // self._unit * self._unit, 1) if rows >= self._unit else rows
        for start in range(0, len(self), step):
            yield np.asarray(self._array[start : start + step])


class Batches(Stream):
    """A sequence of two-dimensional arrays."""

    def __init__(self, batches: Any, head: Any) -> None:
        super().__init__(_in_memory(head))
        self._batches = batches
        self._names = _column_names(head)
        self._n_rows: int | None = None

    def __len__(self) -> int:
        """Return the number of rows, for which all batches are looked at once."""
        if self._n_rows is None:
            self._n_rows = sum(len(self._batches[i]) for i in range(len(self._batches)))
        return self._n_rows

    def pieces(self, rows: int) -> Iterator[Any]:
        """Go through the batches, those that are longer in parts."""
        total = 0
        for i in range(len(self._batches)):
            batch = self._batches[i]
            names = _column_names(batch)
            if self._names and names and names != self._names:
                msg = (
                    f"X must have the same columns in all batches, in the same order: batch {i} has {one_line(names)}, "
                    f"the first {one_line(self._names)}; use batch[columns] to bring them into one order."
                )
                raise ValueError(msg)
            total += len(batch)
            last = i == len(self._batches) - 1
            if self._n_rows is not None and (total > self._n_rows or (last and total < self._n_rows)):
                msg = (
                    f"X must give the same batches every time: it had {self._n_rows} rows in the first pass, and has "
                    f"{total} by the end of batch {i} in this one; give batches that change to partial_fit."
                )
                raise ValueError(msg)
            # By place: before pandas 3, slices of a frame whose index holds floating-point numbers go by these.
            by_place = getattr(batch, "iloc", batch)
            for start in range(0, len(batch), rows):
                yield by_place[start : start + rows]


def _column_names(batch: Any) -> list[str] | None:
    """Return the names of a frame's columns, where they are strings: scikit-learn takes no others for names."""
    names = list(getattr(batch, "columns", ()))
    return names if names and all(isinstance(name, str) for name in names) else None


class Selection(Stream):
    """Some rows of a stream."""

    def __init__(self, stream: Stream, mask: NDArray[np.bool_]) -> None:
        self.n_features, self.dtype = stream.n_features, stream.dtype
        self.row_bytes = self.read_bytes = stream.row_bytes
        self._stream = stream
        self._mask = mask
        self.rows = np.flatnonzero(mask)

    def __len__(self) -> int:
        """Return the number of selected rows."""
        return int(np.count_nonzero(self._mask))

    def pieces(self, rows: int) -> Iterator[Any]:
        """Read all rows, and give those that are selected."""
        for block in self._stream.blocks(rows):
            chosen = self._mask[block.first : block.first + len(block)]
            if chosen.any():
                yield block.data[chosen]


def as_stream(X: Any) -> Stream | None:
    """Return X as a stream, or None if it is an array in memory, or nothing that is known.

    A stream is an array that is stored in chunks (with `shape`, `dtype`, slices and the attribute `chunks`: HDF5's and
    Zarr's), or a sequence of batches: an object that is no array itself, with a length, whose elements 0, 1, ... are
    two-dimensional arrays, the same each time.
    """
    if isinstance(X, Stream):
        return X
    if isinstance(X, (np.ndarray, Samples)):
        return None
    try:
        # Of a frame, columns may have such names.
        stored = not hasattr(X, "columns") and all(
            hasattr(X, name) for name in ("shape", "dtype", "chunks", "__getitem__")
        )
    except (OSError, RuntimeError, ValueError) as error:
        msg = f"X must be an array that can be read, got {X!r} ({error}): open its file, and keep it open."
        raise ValueError(msg) from error
    if stored:
        return StoredArray(X)
    if hasattr(X, "keys") and not hasattr(X, "shape"):
        msg = (
            f"X must be an array, got {type(X).__name__}, which holds others by their names: pass one of them, as "
            "X['name']."
        )
        raise TypeError(msg)
    if hasattr(X, "__next__"):
        msg = (
            f"X must be readable more than once, got an iterator ({type(X).__name__}); pass a sequence of batches, or "
            "give them to partial_fit one by one."
        )
        raise TypeError(msg)
    sequence = hasattr(X, "__len__") and hasattr(X, "__getitem__")
    if not sequence or isinstance(X, (str, bytes)) or hasattr(X, "shape") or len(X) == 0:
        return None
    for i in range(len(X)):
        head = X[i]
        if len(getattr(head, "shape", ())) != 2:
            return None
        if head.shape[0] > 0:  # batches may be empty, but tell no type then
            break
    return Batches(X, head)


def as_data(X: Any, *, estimator: Any, reset: bool = False) -> Samples | Stream:
    """Check samples as `as_samples` does, of which those in files or batches are left where they are."""
    stream = as_stream(X)
    if stream is None:
        return as_samples(X, estimator=estimator, reset=reset)
    stream.device = requested_arrays(check_device(estimator.device))
    if not isinstance(stream, Selection):
        as_samples(next(stream.pieces(1)), estimator=estimator, reset=reset)
    return stream


def as_array(X: Any, *, estimator: Any, reset: bool = False) -> Samples:
    """Check samples as `as_samples` does, for what takes no streams."""
    if hasattr(X, "__next__") or isinstance(as_stream(X), Batches):
        msg = f"X must be one array here, got a sequence of batches ({type(X).__name__}); pass these one by one."
        raise TypeError(msg)
    return as_samples(X, estimator=estimator, reset=reset)


def select(data: Samples | Stream, mask: NDArray[np.bool_]) -> Samples | Selection:
    """Return some rows: of samples in memory a copy, of a stream another one."""
    return data.take(np.flatnonzero(mask)) if isinstance(data, Samples) else Selection(data, mask)


def by_blocks(method: _Method) -> _Method:
    """Let a method that takes samples and returns arrays of as many rows take streams as well."""

    @wraps(method)
    def call(self: Any, X: Any) -> Any:
        stream = as_stream(X)
        if stream is None:
            return method(self, X)
        blocks = scored_blocks(self, stream)
        return _gather((method(self, block) for block in blocks), None if isinstance(stream, Batches) else len(stream))

    return call  # type: ignore[return-value]


def scored_blocks(model: Any, stream: Stream) -> Iterator[Samples]:
    """Go through a stream in blocks that a fitted model can score within the working memory."""
    check_is_fitted(model)
    as_data(stream, estimator=model)
    n_components = sum(len(mixture.weights_) for mixture in getattr(model, "mixtures_", [model]))
    return stream.blocks(scoring_rows(n_components, stream.n_features, stream.read_bytes))


def _gather(parts: Iterable[Any], n_rows: int | None) -> Any:
    """Lay the results of blocks one under the other; in their place at once where the number of rows is known."""
    if n_rows is None:
        whole = list(parts)
        if isinstance(whole[0], tuple):
            return tuple(np.concatenate(column) for column in zip(*whole, strict=True))
        return np.concatenate(whole)
    outputs: tuple[Array, ...] = ()
    first = 0
    single = True
    for part in parts:
        single = not isinstance(part, tuple)
        columns = (part,) if single else part
        if not outputs:
            outputs = tuple(np.empty((n_rows, *column.shape[1:]), column.dtype) for column in columns)
        for output, column in zip(outputs, columns, strict=True):
            output[first : first + len(column)] = column
        first += len(columns[0])
    return outputs[0] if single else outputs
