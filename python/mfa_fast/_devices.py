"""Where arrays live, and where the kernels are to run.

No array library but NumPy is imported, and no driver touched, before an array in CUDA memory is given or CUDA is asked
for by name.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

import numpy as np

from mfa_fast._array_api import as_numpy
from mfa_fast._array_libraries import CudaArrays, CupyArrays, TorchArrays, tensor_as_numpy
from mfa_fast._cuda_extension import CudaUnavailableError, require_build

DEVICES = ("cpu", "cuda")

# By the package that their arrays' type is from; the first that is there lends memory where NumPy arrays are streamed.
LIBRARIES: dict[str, Any] = {"torch": TorchArrays, "cupy": CupyArrays}


def arrays_of(X: Any) -> CudaArrays | None:
    """Return the library of an array in CUDA memory, None for everything else."""
    if type(X) is np.ndarray or not hasattr(type(X), "__cuda_array_interface__"):
        return None
    name = next((package for package in packages_of(X) if package in LIBRARIES), None)
    # Types of libraries that have arrays in host memory too have the attribute, and raise when it is read of these.
    if not (X.is_cuda if name == "torch" else hasattr(X, "__cuda_array_interface__")):
        return None
    if name is None:
        msg = f"arrays in CUDA memory may be torch's or CuPy's, got {_kind(X)}; use cupy.asarray, which copies nothing."
        raise TypeError(msg)
    found: CudaArrays = LIBRARIES[name].of(X)
    return found


def packages_of(X: Any) -> list[str]:
    """Return the packages that an object's type and those it is derived from are of: others derive from tensors too."""
    return [base.__module__.partition(".")[0] for base in type(X).__mro__]


def _kind(X: Any) -> str:
    return f"{type(X).__module__}.{type(X).__qualname__}"


def require_kernels(X: Any, arrays: CudaArrays) -> None:
    """Raise the reason if there are no kernels for samples in CUDA memory, or these lie on another device."""
    try:
        _ = arrays.kernels
    except CudaUnavailableError as error:
        msg = (
            f"X is a CUDA array ({_kind(X)}), but {error}; or pass one in host memory, for example X.cpu() or X.get()."
        )
        raise CudaUnavailableError(msg) from error
    arrays.require_active()


def require_host(device: CudaArrays | None, what: str) -> None:
    """Refuse a CUDA device for what has no kernel there."""
    if device is not None:
        msg = f"{what} has no CUDA kernel: it takes samples in host memory (X.cpu() or X.get()), with device=None."
        raise CudaUnavailableError(msg)


def default_arrays() -> CudaArrays:
    """Return the library that lends memory on the current device: one that is imported, else one that is installed."""
    reasons = []
    for name in sorted(LIBRARIES, key=lambda name: name not in sys.modules):
        if name in sys.modules or find_spec(name) is not None:
            try:
                found: CudaArrays = LIBRARIES[name].default()
            except (CudaUnavailableError, ImportError, OSError) as error:
                reasons.append(str(error))
            else:
                return found
    if not reasons:
        require_build()
        reasons.append('neither torch nor CuPy is installed; use pip install "mfa_fast[cuda13]"')
    raise CudaUnavailableError("; ".join(dict.fromkeys(reasons)))


def check_device(device: Any) -> str | None:
    """Return the name of a device, or None for where the samples are."""
    if device is not None and not (isinstance(device, str) and device in DEVICES):
        msg = (
            f"device must be None or one of {', '.join(map(repr, DEVICES))}; got {device!r}. 'cuda' is torch's or "
            "CuPy's current device: choose it there."
        )
        raise ValueError(msg)
    return device


def requested_arrays(device: str | None) -> CudaArrays | None:
    """Return where `device` wants arrays in host memory to be taken: None is the CPU."""
    if device != "cuda":
        return None
    try:
        return default_arrays()
    except CudaUnavailableError as error:
        msg = f"device='cuda' was asked for, but {error}; device=None runs on the CPU."
        raise CudaUnavailableError(msg) from error


def cuda_state() -> str:
    """Say whether CUDA is on and why, for people."""
    try:
        arrays = default_arrays()
    except CudaUnavailableError as error:
        return f"off: {error}"
    return f"on: {', '.join(arrays.kernels.devices())}; memory for streaming comes from {arrays.key[0]}"


def to_host(array: Any, name: str = "X") -> Any:
    """Return arrays of other libraries, in CUDA memory too, as NumPy's, and all else as it is."""
    arrays = arrays_of(array)
    if arrays is not None:
        return arrays.to_host(array)
    return tensor_as_numpy(array.cpu()) if hasattr(array, "detach") else as_numpy(array, name)
