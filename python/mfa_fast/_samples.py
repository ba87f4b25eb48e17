"""Samples: arrays of any library, checked as they come in, and the way back to that library."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import assert_all_finite
from sklearn.utils.validation import check_array, validate_data

from mfa_fast import _array_api
from mfa_fast._array_libraries import HOST, Arrays, CudaArrays, tensor_as_numpy
from mfa_fast._cuda_extension import KERNEL_DTYPES
from mfa_fast._devices import arrays_of, check_device, packages_of, requested_arrays, require_kernels
from mfa_fast._late_errors import LateCheck
from mfa_fast._typing import Array
from mfa_fast._validation import list_as_array, raise_named, reject_masked


@dataclass(frozen=True)
class Samples:
    """A two-dimensional array that the kernels can read in place, and the way back to the caller's library."""

    data: Any
    wrap: Callable[[Any], Any]
    # Index of the first row, where they are a part of what the caller gave.
    first: int = 0
    # Their rows in what the caller gave, where they were chosen from among them.
    rows: NDArray[np.int64] | None = None
    # Where the kernels run; None is the CPU.
    device: CudaArrays | None = None
    # What holds the data, and is to hold the results.
    arrays: Arrays = HOST
    # What a device has still to say of these samples.
    late: list[LateCheck] = field(default_factory=list, repr=False, compare=False)

    @property
    def n_features(self) -> int:
        """Number of features."""
        return int(self.data.shape[1])

    @property
    def dtype(self) -> type[np.floating[Any]]:
        """The type that results have: float32 for float32 samples (and bfloat16, which it holds), else float64."""
        name = self.data.dtype.name if self.on_host else str(self.device and self.device.dtype_name(self.data))
        return np.float32 if name in ("float32", "bfloat16") else np.float64

    @property
    def on_host(self) -> bool:
        """Whether the data are NumPy's; if not, they are in the memory of `device`."""
        return self.arrays is HOST

    def __len__(self) -> int:
        """Return the number of samples."""
        return int(self.data.shape[0])

    def row_number(self, row: int) -> int:
        """Return which row of what the caller gave one is."""
        return self.first + row if self.rows is None else int(self.rows[self.first + row])

    def entries(self, row: int) -> Array:
        """Return one row (1, d), of what has to be finite."""
        return self.host_rows(slice(row, row + 1))

    def unwrapped(self) -> Samples:
        """Return the same samples, of which results stay as they are: for a call from within another."""
        return replace(self, wrap=identity)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return int(self.data.dtype.itemsize) * self.n_features

    @property
    def read_bytes(self) -> int:
        """Bytes of a row that has to be read into memory first: none, it is there."""
        return 0

    def blocks(self, rows: int) -> Iterator[Samples]:
        """Go through the rows in order, in views of at most so many; in device memory, where they are, all at once."""
        if not self.on_host:
            yield self
            return
        for start in range(0, len(self), rows):
            yield replace(self, data=self.data[start : start + rows], first=self.first + start)

    def take(self, rows: Any) -> Samples:
        """Return the samples in the rows of a NumPy index or mask."""
        data = self.data[rows if self.on_host else self.arrays.from_host(rows)]
        numbers = self.first + (np.flatnonzero(rows) if rows.dtype == np.bool_ else rows)
        return replace(self, data=data, first=0, rows=numbers if self.rows is None else self.rows[numbers], late=[])

    def host_rows(self, rows: Any) -> Array:
        """Return the rows of a NumPy index, mask or slice as a NumPy array."""
        return self.arrays.to_host(self.data[rows] if isinstance(rows, slice) else self.take(rows).data)

    def fetch(self, results: Any) -> Any:
        """Return results as NumPy's; that waits for them, so what is wrong with the samples is known too."""
        fetched = self.arrays.to_host(results)
        self.settle()
        return fetched

    def settle(self) -> None:
        """Raise what a device that has been waited for has found wrong with these samples.

        Not left to the queue of late errors, from which another thread may have taken it.
        """
        while self.late:
            check = self.late.pop()
            reject_bad_row(self, check.settle(), check.owner)

    def rounded(self, values: Any) -> Any:
        """Return float64 results in the type that results have, as an array of the caller's library."""
        return self.wrap(self.arrays.cast(values, self.dtype))


def identity(array: Any) -> Any:
    """Leave an array as it is."""
    return array


def _on_host(X: Any) -> tuple[Any, Callable[[Array], Any]]:
    """NumPy's view of another library's array in host memory; everything else is left to scikit-learn's checks."""
    if "torch" in packages_of(X):
        import torch

        if isinstance(X, torch.Tensor):
            try:
                return tensor_as_numpy(X), torch.from_numpy
            except (RuntimeError, TypeError) as error:
                msg = f"X must be a dense torch tensor of a dtype that NumPy has, got {X.dtype}, {X.layout} ({error})."
                raise TypeError(msg) from error
    return _array_api.borrow(X) if _array_api.is_standard(X) else (X, identity)


def forget_features(estimator: Any, n_features: int) -> None:
    """Set an estimator's number of features, and drop the names that an earlier fit may have left."""
    estimator.n_features_in_ = n_features
    if hasattr(estimator, "feature_names_in_"):
        del estimator.feature_names_in_


def _reject_dimensions(X: Any) -> NoReturn:
    """Refuse an array of other than two dimensions: of images, most likely."""
    msg = f"X must have two dimensions (n_samples, n_features), got shape {tuple(X.shape)}; use X.reshape(len(X), -1)."
    raise ValueError(msg)


def as_samples(X: Any, *, estimator: Any = None, reset: bool = False) -> Samples:
    """Check samples as scikit-learn does, but leave dtypes as they are and finiteness to the kernels.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Real numbers of any dtype, in any memory order. Arrays in CUDA memory stay there. `Samples` were checked before,
        and pass.
    estimator : estimator, optional
        Its ``n_features_in_`` is checked, or set where `reset` is true; its ``device`` is where kernels are to run.
    reset : bool
        True in ``fit``.
    """
    if isinstance(X, Samples):  # a block of what has been checked, or the samples of a class
        if reset:
            forget_features(estimator, X.n_features)
        return X
    if X is None:
        msg = "X must be an array of shape (n_samples, n_features), got None."
        raise TypeError(msg)
    device = check_device(getattr(estimator, "device", None))
    arrays = arrays_of(X)
    if arrays is not None and device != "cpu":
        return _in_cuda_memory(X, arrays, estimator, reset)
    if isinstance(X, np.ma.MaskedArray):
        floats = "X" if X.dtype.kind == "f" else "X.astype(float)"
        reject_masked("X", X, f"pass {floats}.filled(np.nan) to an estimator with missing='marginal'")
    host, wrap = _on_host(X) if arrays is None else (arrays.to_host(X), arrays.from_host)
    if getattr(host, "ndim", 2) > 2:
        _reject_dimensions(host)
    options: dict[str, Any] = {
        "dtype": "numeric",
        "ensure_all_finite": False,
        "input_name": "X",
    }
    try:
        host = list_as_array(host)
        if _passes(host, estimator, reset):
            data = host
        elif estimator is None:
            data = check_array(host, **options)
        else:
            options.pop("input_name")
            data = validate_data(estimator, host, reset=reset, **options)
    except (OverflowError, TypeError, ValueError) as error:
        raise_named("X", error)
    if data.dtype.kind not in "fiub":  # dates are numeric to scikit-learn
        msg = f"X must hold real numbers, got dtype {data.dtype}."
        raise TypeError(msg)
    if not data.dtype.isnative or not data.flags.aligned:
        # Rare, and read by no kernel: foreign byte order, or fields of a packed record.
        data = np.array(data, dtype=data.dtype.newbyteorder("="))
    elif data.dtype.byteorder not in "=|":
        data = data.view(data.dtype.newbyteorder("="))  # Zarr's names the native order outright
    return Samples(data, wrap, device=requested_arrays(device))


def _in_cuda_memory(X: Any, arrays: CudaArrays, estimator: Any, reset: bool) -> Samples:
    """Check what can be checked of an array without a look at its numbers."""
    require_kernels(X, arrays)
    if X.ndim != 2:
        _reject_dimensions(X)
    if 0 in X.shape:
        msg = f"X must have at least one sample and one feature, got shape {tuple(X.shape)}."
        raise ValueError(msg)
    if arrays.dtype_name(X) not in KERNEL_DTYPES:
        msg = f"X in CUDA memory must be of {', '.join(KERNEL_DTYPES)}; got {arrays.dtype_name(X)}: convert it."
        raise TypeError(msg)
    if estimator is not None and (reset or not _is_as_in_fit(X, estimator)):
        validate_data(estimator, X, reset=reset, skip_check_array=True)
    return Samples(arrays.plain(X), identity, device=arrays, arrays=arrays)


def _passes(host: Any, estimator: Any, reset: bool) -> bool:
    """Tell whether scikit-learn's checks, which take as long as the kernels on a few rows, let an array in as it is."""
    plain = type(host) is np.ndarray and host.ndim == 2 and host.size > 0 and host.dtype.kind in "fiub"
    return plain and (estimator is None or (not reset and _is_as_in_fit(host, estimator)))


def _is_as_in_fit(X: Any, estimator: Any) -> bool:
    """Tell whether scikit-learn has nothing to say of an array, which has no names, after a fit to what had none."""
    names = getattr(estimator, "feature_names_in_", None)
    return names is None and getattr(estimator, "n_features_in_", None) == X.shape[1]


def as_output(out: Any, shape: tuple[int, int], dtype: Any, device: Any) -> Samples:
    """Return where samples are to be written: the caller's array, or a new one of NumPy's.

    `device` is where they are to be drawn if that is in host memory.
    """
    where = check_device(device)
    if out is None:
        return Samples(np.empty(shape, dtype), identity, device=requested_arrays(where))
    arrays = arrays_of(out)
    if arrays is not None:
        require_kernels(out, arrays)
        out = out.detach() if hasattr(out, "detach") else out
        if where == "cpu":
            msg = "out is in CUDA memory, but device='cpu'; set device=None, or pass an array in host memory."
            raise ValueError(msg)
        target, name = Samples(out, identity, device=arrays, arrays=arrays), arrays.dtype_name(out)
        fits = out.__cuda_array_interface__.get("strides") is None
    else:
        data, wrap = _on_host(out)
        if not isinstance(data, np.ndarray):
            msg = f"out must be an array of NumPy, torch or CuPy, got {type(out).__name__}."
            raise TypeError(msg)
        # Of `out` itself: the data of one that NumPy cannot hold are a copy.
        target, name = Samples(data, wrap, device=requested_arrays(where)), str(out.dtype).rpartition(".")[2]
        fits = data.flags.c_contiguous and data.flags.writeable and data.dtype.isnative
    if tuple(target.data.shape) != shape or name not in ("float32", "float64") or not fits:
        got = f"{name}, shape {tuple(out.shape)}"
        msg = f"out must be a writeable array of shape {shape}, float32 or float64, in C order; got {got}."
        raise ValueError(msg)
    return target


def find_bad_row(rows: Array) -> int | None:
    """Return the first row with a number that is not finite, if there is one: for what no kernel looks at."""
    finite = np.isfinite(rows).all(axis=1)
    return None if finite.all() else int(np.argmin(finite))


def reject_bad_row(samples: Samples, row: int | None, estimator: Any = None) -> None:
    """Raise an error for the row in which a kernel met a number that is not finite.

    The kernels look at every number anyway, so no pass over the data is spent on it beforehand.
    """
    if row is None:
        return
    bad = samples.entries(row)
    if np.isnan(bad).any():
        # It begins with scikit-learn's words, which name its own estimators as the remedy.
        msg = (
            f"Input X contains NaN, in row {samples.row_number(row)}. With missing='marginal', MFA and MFAClassifier "
            "are fitted to what is observed and score it; MFA.impute fills in what is missing; attacks take none."
        )
        raise ValueError(msg)
    try:
        # Its first look is a sum, which infinities of both signs make a warning of.
        with np.errstate(invalid="ignore", over="ignore"):
            name = None if estimator is None else type(estimator).__name__
            assert_all_finite(bad, input_name="X", estimator_name=name)
    except ValueError as error:
        msg = (
            f"{str(error).removesuffix('.')}, in row {samples.row_number(row)}: leave such rows out, or put finite "
            "numbers in their place."
        )
        raise ValueError(msg) from error
    msg = (
        f"row {samples.row_number(row)} of X (largest entry {np.abs(bad).max():.3g}) lies so far from the model that "
        f"its log-density or its gradient is out of the range of {np.dtype(samples.dtype)}; scale the data"
        f"{', or pass float64' if samples.dtype == np.float32 else ''}."
    )
    raise ValueError(msg)
