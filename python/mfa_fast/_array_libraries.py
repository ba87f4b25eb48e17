"""What is asked of the libraries that arrays belong to: NumPy, torch and CuPy.

All work on a device goes to its current stream, and all memory comes from the library's own allocator.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from mfa_fast._cuda_extension import CudaUnavailableError, cuda_kernels


class Arrays(Protocol):
    """Arrays of one library in one memory, and the little that is computed with them outside the kernels."""

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Make an array."""

    def full(self, shape: tuple[int, ...], value: Any, dtype: Any) -> Any:
        """Make an array of one value."""

    def cast(self, array: Any, dtype: Any) -> Any:
        """Return an array in another dtype."""

    def from_host(self, array: NDArray[Any]) -> Any:
        """Return a copy of a NumPy array; nothing waits for it."""

    def to_host(self, array: Any) -> NDArray[Any]:
        """Return a NumPy array, once everything that it waits for is done."""

    def pick(self, values: NDArray[Any], indices: Any) -> Any:
        """Return the entries of a NumPy array that indices stand for, where these are."""

    def softmax(self, scores: Any) -> Any:
        """Return softmax over the columns."""

    def log_softmax(self, scores: Any) -> Any:
        """Return the logarithm of softmax over the columns."""


class CudaArrays(Arrays, Protocol):
    """Arrays of one library on one CUDA device."""

    @property
    def kernels(self) -> ModuleType:
        """The extension whose kernels read these arrays."""

    @property
    def key(self) -> tuple[str, int]:
        """The library's name and the device's number."""

    def active(self) -> AbstractContextManager[Any]:
        """Make the device the current one."""

    def require_active(self) -> None:
        """Raise if the library would compute elsewhere than where its arrays lie."""

    def allocate(self, n_bytes: int) -> Any:
        """Return memory that may be given back while the stream still works on it."""

    def dtype_name(self, array: Any) -> str:
        """Return the name of an array's dtype."""

    def plain(self, array: Any) -> Any:
        """Return an array as the kernels read it: nothing attached, and every row in one piece."""

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Return a NumPy array that the device can copy from and to while the host goes on."""

    def current(self) -> Any:
        """Return the current stream. It is asked for once per call, as that takes as long as to launch a kernel."""

    def handle(self, stream: Any) -> int:
        """Return a stream's handle."""

    def second(self) -> Any:
        """Return a new stream."""

    def record(self, stream: Any) -> Any:
        """Return an event that comes when the stream has done all it was given; it has ``synchronize()``."""

    def has_come(self, event: Any) -> bool:
        """Tell whether an event has come, without waiting for it."""

    def wait(self, stream: Any, event: Any) -> None:
        """Let a stream go on only when an event has come."""

    def upload(self, source: NDArray[Any], target: Any, stream: Any) -> None:
        """Copy from pinned memory, both in C order."""

    def download(self, source: Any, target: NDArray[Any]) -> None:
        """Copy to pinned memory on the current stream, both in C order."""


class _NumpyArrays:
    """Arrays in host memory. There is one of it, also after pickling."""

    def __reduce__(self) -> str:
        return "HOST"

    def empty(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        return np.empty(shape, dtype)

    def full(self, shape: tuple[int, ...], value: Any, dtype: Any) -> NDArray[Any]:
        return np.full(shape, value, dtype)

    def cast(self, array: NDArray[Any], dtype: Any) -> NDArray[Any]:
        return array.astype(dtype)

    def from_host(self, array: NDArray[Any]) -> NDArray[Any]:
        return array

    def to_host(self, array: NDArray[Any]) -> NDArray[Any]:
        return array

    def pick(self, values: NDArray[Any], indices: NDArray[Any]) -> Any:
        return values[indices]

    def softmax(self, scores: NDArray[Any]) -> Any:
        return softmax(scores, axis=1)

    def log_softmax(self, scores: NDArray[Any]) -> Any:
        return log_softmax(scores, axis=1)


HOST: Arrays = _NumpyArrays()


def tensor_as_numpy(tensor: Any) -> NDArray[Any]:
    """Return a torch tensor in host memory as a NumPy array: bfloat16, which NumPy lacks, as float32."""
    known = tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor
    return np.asarray(known.detach().numpy())


@cache
def _torch_dtype(dtype: Any) -> Any:
    """Return torch's dtype of NumPy's, whose name NumPy puts together anew every time."""
    return getattr(import_module("torch"), np.dtype(dtype).name)


class TorchArrays:
    """torch tensors on a CUDA device."""

    def __init__(self, device: Any) -> None:
        import torch

        self._torch = torch
        self._device = torch.device(device)

    @classmethod
    def of(cls, array: Any) -> TorchArrays:
        return cls(array.device)

    @classmethod
    def default(cls) -> TorchArrays:
        cuda_kernels()
        import torch

        if not torch.cuda.is_available():
            msg = "torch finds no CUDA device (torch.cuda.is_available() is False)"
            raise CudaUnavailableError(msg)
        return cls(f"cuda:{torch.cuda.current_device()}")

    @property
    def kernels(self) -> ModuleType:
        return cuda_kernels()

    @property
    def key(self) -> tuple[str, int]:
        return ("torch", int(self._device.index))

    def active(self) -> AbstractContextManager[Any]:
        return self._torch.cuda.device(self._device)  # type: ignore[no-any-return,no-untyped-call,unused-ignore]

    def require_active(self) -> None:
        """Do nothing: torch computes where its tensors lie."""

    def allocate(self, n_bytes: int) -> Any:
        return self._torch.empty(n_bytes, dtype=self._torch.uint8, device=self._device)

    def dtype_name(self, array: Any) -> str:
        return str(array.dtype).removeprefix("torch.")

    def plain(self, array: Any) -> Any:
        if array.layout != self._torch.strided:
            msg = f"X must be a dense torch tensor, got {array.layout}; use X.to_dense()."
            raise TypeError(msg)
        detached = array.detach()
        return detached if detached.stride(1) == 1 else detached.contiguous()

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return self._torch.empty(shape, dtype=_torch_dtype(dtype), device=self._device)

    def full(self, shape: tuple[int, ...], value: Any, dtype: Any) -> Any:
        return self._torch.full(shape, value, dtype=_torch_dtype(dtype), device=self._device)

    def cast(self, array: Any, dtype: Any) -> Any:
        return array.to(_torch_dtype(dtype))

    def from_host(self, array: NDArray[Any]) -> Any:
        # From pageable memory the copy would be waited for. Pinned memory of torch's is given back when it is made.
        pinned = self._torch.empty(array.shape, dtype=_torch_dtype(array.dtype), device="cpu", pin_memory=True)
        pinned.numpy()[...] = array
        return pinned.to(self._device, non_blocking=True)

    def to_host(self, array: Any) -> NDArray[Any]:
        return tensor_as_numpy(array.cpu())

    def pick(self, values: NDArray[Any], indices: Any) -> Any:
        # Of unsigned integers torch indexes no more than bytes on a device: the others' bits are taken for signed ones.
        bits = values.view(f"i{values.itemsize}") if values.dtype.kind == "u" else values
        return self.from_host(bits)[indices].view(_torch_dtype(values.dtype))

    def softmax(self, scores: Any) -> Any:
        return self._torch.softmax(scores, 1)

    def log_softmax(self, scores: Any) -> Any:
        return self._torch.log_softmax(scores, 1)

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        return np.asarray(self._torch.empty(shape, dtype=_torch_dtype(dtype), device="cpu", pin_memory=True).numpy())

    def current(self) -> Any:
        return self._torch.cuda.current_stream(self._device)

    def handle(self, stream: Any) -> int:
        return int(stream.cuda_stream)

    def second(self) -> Any:
        return self._torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call,unused-ignore]

    def record(self, stream: Any) -> Any:
        return stream.record_event()

    def has_come(self, event: Any) -> bool:
        return bool(event.query())

    def wait(self, stream: Any, event: Any) -> None:
        stream.wait_event(event)

    def upload(self, source: NDArray[Any], target: Any, stream: Any) -> None:
        with self._torch.cuda.stream(stream):
            target.copy_(self._torch.from_numpy(source), non_blocking=True)

    def download(self, source: Any, target: NDArray[Any]) -> None:
        self._torch.from_numpy(target).copy_(source, non_blocking=True)


class CupyArrays:
    """CuPy arrays on a CUDA device."""

    def __init__(self, device: int) -> None:
        import cupy

        self._cupy = cupy
        self._device = device

    @classmethod
    def of(cls, array: Any) -> CupyArrays:
        return cls(int(array.device.id))

    @classmethod
    def default(cls) -> CupyArrays:
        cuda_kernels()
        import cupy

        try:
            return cls(int(cupy.cuda.runtime.getDevice()))
        except cupy.cuda.runtime.CUDARuntimeError as error:
            msg = f"CuPy finds no CUDA device ({error})"
            raise CudaUnavailableError(msg) from error

    @property
    def kernels(self) -> ModuleType:
        return cuda_kernels()

    @property
    def key(self) -> tuple[str, int]:
        return ("cupy", self._device)

    def active(self) -> AbstractContextManager[Any]:
        return self._cupy.cuda.Device(self._device)  # type: ignore[no-any-return,unused-ignore]

    def require_active(self) -> None:
        # CuPy computes on its current device, on whose stream nothing waits for the kernels that run beside the array.
        current = int(self._cupy.cuda.runtime.getDevice())
        if current != self._device:
            msg = (
                f"a CuPy array must lie on CuPy's current device, which is {current}, got one on device "
                f"{self._device}; call from within `with cupy.cuda.Device({self._device}):`."
            )
            raise ValueError(msg)

    def allocate(self, n_bytes: int) -> Any:
        return self.empty((n_bytes,), np.uint8)

    def dtype_name(self, array: Any) -> str:
        return str(array.dtype.name)

    def plain(self, array: Any) -> Any:
        return array if array.strides[1] == array.itemsize else self._cupy.ascontiguousarray(array)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        with self.active():
            return self._cupy.empty(shape, dtype)

    def full(self, shape: tuple[int, ...], value: Any, dtype: Any) -> Any:
        with self.active():
            return self._cupy.full(shape, value, dtype)

    def cast(self, array: Any, dtype: Any) -> Any:
        return array.astype(dtype)

    def from_host(self, array: NDArray[Any]) -> Any:
        with self.active():
            return self._cupy.asarray(array)

    def to_host(self, array: Any) -> NDArray[Any]:
        return np.asarray(self._cupy.asnumpy(array))

    def pick(self, values: NDArray[Any], indices: Any) -> Any:
        return self.from_host(values)[indices]

    def softmax(self, scores: Any) -> Any:
        return import_module("cupyx.scipy.special").softmax(scores, axis=1)

    def log_softmax(self, scores: Any) -> Any:
        return import_module("cupyx.scipy.special").log_softmax(scores, axis=1)

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        return np.asarray(import_module("cupyx").empty_pinned(shape, dtype))

    def current(self) -> Any:
        with self.active():
            return self._cupy.cuda.get_current_stream()

    def handle(self, stream: Any) -> int:
        return int(stream.ptr)

    def second(self) -> Any:
        with self.active():
            return self._cupy.cuda.Stream(non_blocking=True)

    def record(self, stream: Any) -> Any:
        return stream.record()

    def has_come(self, event: Any) -> bool:
        return bool(event.done)

    def wait(self, stream: Any, event: Any) -> None:
        stream.wait_event(event)

    def upload(self, source: NDArray[Any], target: Any, stream: Any) -> None:
        target.data.copy_from_host_async(source.ctypes.data, source.nbytes, stream)

    def download(self, source: Any, target: NDArray[Any]) -> None:
        source.data.copy_to_host_async(target.ctypes.data, target.nbytes, self.current())
