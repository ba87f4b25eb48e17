"""The edge between array libraries and the kernels: what comes in, what goes out, on how many threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import assert_all_finite, check_random_state, check_scalar
from sklearn.utils.validation import check_array, validate_data

from mfa_fast import _array_api

Array = NDArray[Any]


# More than any machine makes use of.
MOST_THREADS = 1024


class CudaUnavailableError(RuntimeError):
    """A CUDA array or device was given to a build, or on a machine, that has no CUDA."""


@dataclass(frozen=True)
class Samples:
    """A two-dimensional array that the kernels can read in place, and the way back to the caller's library."""

    data: Array
    wrap: Callable[[Array], Any]
    first: int = 0  # index of the first row, where they are a part of what the caller gave

    @property
    def n_features(self) -> int:
        """Number of features."""
        return int(self.data.shape[1])

    @property
    def dtype(self) -> type[np.floating[Any]]:
        """The type that results have: float32 for float32 samples, float64 for all others."""
        return np.float32 if self.data.dtype == np.float32 else np.float64

    def __len__(self) -> int:
        """Return the number of samples."""
        return int(self.data.shape[0])

    def entries(self, row: int) -> Array:
        """Return one row (1, d), of what has to be finite."""
        return np.asarray(self.data[row : row + 1])

    def unwrapped(self) -> Samples:
        """Return the same samples, of which NumPy arrays are made: for a call from within another."""
        return replace(self, wrap=identity)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.data.dtype.itemsize * self.n_features

    @property
    def read_bytes(self) -> int:
        """Bytes of a row that has to be read into memory first: none, it is there."""
        return 0

    def blocks(self, rows: int) -> Iterator[Samples]:
        """Go through the rows in order, in views of at most so many."""
        for start in range(0, len(self), rows):
            yield Samples(self.data[start : start + rows], self.wrap, self.first + start)

    def take(self, rows: NDArray[np.int64]) -> Samples:
        """Return the samples in these rows."""
        return Samples(self.data[rows], self.wrap)


def identity(array: Array) -> Any:
    """Leave an array as it is."""
    return array


def _on_host(X: Any) -> tuple[Any, Callable[[Array], Any]]:
    """NumPy's view of another library's array in host memory; everything else is left to scikit-learn's checks."""
    if hasattr(X, "__cuda_array_interface__") or getattr(X, "is_cuda", False):
        msg = (
            f"X is a CUDA array ({type(X).__module__}.{type(X).__qualname__}), but this build of mfa_fast has no "
            "CUDA kernels; pass an array in host memory, for example X.cpu() or X.get()."
        )
        raise CudaUnavailableError(msg)
    if type(X).__module__.partition(".")[0] == "torch":
        import torch

        if isinstance(X, torch.Tensor):
            try:
                return X.detach().numpy(), torch.from_numpy
            except (RuntimeError, TypeError) as error:
                msg = f"X must be a dense torch tensor of a dtype that NumPy has, got {X.dtype}, {X.layout} ({error})."
                raise TypeError(msg) from error
    return _array_api.borrow(X) if _array_api.is_standard(X) else (X, identity)


def as_samples(X: Any, *, estimator: Any = None, reset: bool = False, min_samples: int = 1) -> Samples:
    """Check samples as scikit-learn does, but leave dtypes as they are and finiteness to the kernels.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Real numbers of any dtype, in any memory order. `Samples` were checked before, and pass.
    estimator : estimator, optional
        Its ``n_features_in_`` is checked, or set where `reset` is true.
    reset : bool
        True in ``fit``.
    min_samples : int
        The least number of rows.
    """
    if isinstance(X, Samples):
        return X  # a block of what has been checked
    host, wrap = _on_host(X)
    options: dict[str, Any] = {
        "dtype": "numeric",
        "ensure_all_finite": False,
        "ensure_min_samples": min_samples,
        "input_name": "X",
    }
    try:
        if estimator is None:
            data = check_array(host, **options)
        else:
            options.pop("input_name")
            data = validate_data(estimator, host, reset=reset, **options)
    except (TypeError, ValueError) as error:
        raise_named("X", error)
    if not data.dtype.isnative or not data.flags.aligned:
        # Rare, and read by no kernel: foreign byte order, or fields of a packed record.
        data = np.array(data, dtype=data.dtype.newbyteorder("="))
    elif data.dtype.byteorder not in "=|":
        data = data.view(data.dtype.newbyteorder("="))  # Zarr's names the native order outright
    return Samples(data, wrap)


def raise_named(name: str, error: TypeError | ValueError) -> NoReturn:
    """Raise another library's error again, with the name of the argument in front unless it is there."""
    if name in str(error):
        raise error
    msg = f"{name}: {error}"
    raise (TypeError if isinstance(error, TypeError) else ValueError)(msg) from error


def reject_not_finite(X: Array, estimator: Any = None) -> None:
    """Raise scikit-learn's error if there is a number that is not finite."""
    # Its first look is a sum, which infinities of both signs make a warning of.
    with np.errstate(invalid="ignore", over="ignore"):
        assert_all_finite(X, input_name="X", estimator_name=None if estimator is None else type(estimator).__name__)


def reject_bad_row(samples: Samples, row: int | None, estimator: Any = None) -> None:
    """Raise scikit-learn's error for the row in which a kernel met a number that is not finite.

    The kernels look at every number anyway, so no pass over the data is spent on it beforehand.
    """
    if row is None:
        return
    bad = samples.entries(row)
    reject_not_finite(bad, estimator)
    msg = (
        f"row {samples.first + row} of X (largest entry {np.abs(bad).max():.3g}) lies so far from the model that its "
        f"log-density or its gradient is out of the range of {np.dtype(samples.dtype)}; scale the data"
        f"{', or pass float64' if samples.dtype == np.float32 else ''}."
    )
    raise ValueError(msg)


def check_threads(n_threads: int | None) -> int:
    """Return the number of threads to run on; None stands for ``OMP_NUM_THREADS`` or all cores the process may use."""
    if n_threads is not None:
        check_scalar(n_threads, "n_threads", (int, np.integer), min_val=1, max_val=MOST_THREADS)
        return int(n_threads)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def as_seed(random_state: Any) -> int:
    """Turn a random state into the 64-bit seed of a counter-based generator; a non-negative integer is that seed."""
    if isinstance(random_state, (int, np.integer)) and not isinstance(random_state, bool):
        if not 0 <= int(random_state) < 2**64:
            msg = f"random_state must lie in [0, 2**64), got {random_state}."
            raise ValueError(msg)
        return int(random_state)
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(0, 2**64, dtype=np.uint64))
    return int(as_random_state(random_state).randint(0, 2**63 - 1, dtype=np.int64))


def as_random_state(random_state: Any) -> np.random.RandomState:
    """Return scikit-learn's random state of a seed, a random state or None."""
    try:
        return check_random_state(random_state)
    except ValueError as error:
        raise_named("random_state", error)
