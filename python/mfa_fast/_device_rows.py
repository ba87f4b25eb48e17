"""CUDA kernels over rows of samples: where the rows lie, or streamed from the host through pinned double buffers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mfa_fast._array_libraries import CudaArrays
from mfa_fast._cuda_extension import KERNEL_DTYPES
from mfa_fast._late_errors import LateCheck, leave, raise_known
from mfa_fast._samples import Samples, reject_bad_row
from mfa_fast._typing import Array

Columns = dict[str, Any]
# What a kernel is called with: arrays by name, X among them, and the arguments that all kernels share.
Call = Callable[[Columns, dict[str, Any]], None]

# Of one of the two blocks that samples from the host pass through: large beside the time that a copy takes to start,
# small beside any device's memory.
BLOCK_BYTES = 64 << 20


def rows_at_once(n_rows: int, bytes_per_row: int) -> int:
    """Return how many rows make a block."""
    return min(n_rows, max(1, BLOCK_BYTES // max(bytes_per_row, 1)))


def run(
    samples: Samples, call: Call, outputs: Columns, inputs: Mapping[str, Any] | None = None, owner: Any = None
) -> None:
    """Call a kernel on all rows.

    `outputs` and `inputs` have one row per sample and lie where the samples do. A bad row in device memory is an error
    that comes late; one from the host is raised at once.
    """
    device = samples.device
    assert device is not None
    raise_known()
    if samples.on_host:
        reject_bad_row(samples, _stream(samples.data, device, call, outputs, inputs or {}), owner)
        return
    bad_row = device.empty((1,), np.int64)
    with device.active():
        current = device.current()
        call({"X": samples.data, **(inputs or {}), **outputs}, launch(device, current, bad_row))
        found = device.pinned((1,), np.int64)
        device.download(bad_row, found)
        event = device.record(current)

    def find() -> int | None:
        row = int(found[0])
        return row if row < n_rows else None

    n_rows, labelled = len(samples), "labels" in (inputs or {})
    late = LateCheck(event, device.has_come, find, n_rows, labelled, owner)
    leave(late)
    samples.late.append(late)


def launch(device: CudaArrays, current: Any, bad_row: Any) -> dict[str, Any]:
    """Return the arguments that all kernels on samples share."""
    return {"bad_row": bad_row, "stream": device.handle(current), "allocate": device.allocate}


def _as_read(X: Array) -> np.dtype[Any]:
    """Return the dtype in which samples from the host are read."""
    return X.dtype if X.dtype.name in KERNEL_DTYPES else np.dtype(np.float64)


class _Slot:
    """One of the two blocks: pinned memory, its counterpart on the device, and results on their way back."""

    def __init__(self, device: CudaArrays, n_rows: int, sources: Mapping[str, Array], results: Mapping[str, Array]):
        shapes = {name: ((n_rows, *a.shape[1:]), a.dtype) for name, a in {**sources, **results}.items()}
        shapes["X"] = (shapes["X"][0], _as_read(sources["X"]))
        shapes["bad_row"] = ((1,), np.dtype(np.int64))
        self.pinned = {name: device.pinned(*shape) for name, shape in shapes.items()}
        self.resident = {name: device.empty(*shape) for name, shape in shapes.items()}
        self.device, self.sources, self.results = device, sources, results
        self.rows = slice(0, 0)
        self.done: Any = None

    def fill(self, rows: slice, copies: Any) -> Any:
        """Send rows on their way, and return the event of their arrival."""
        self.rows = rows
        for name, source in self.sources.items():
            count = rows.stop - rows.start
            np.copyto(self.pinned[name][:count], source[rows], casting="same_kind")
            self.device.upload(self.pinned[name][:count], self.resident[name][:count], copies)
        return self.device.record(copies)

    def run(self, call: Call) -> None:
        """Queue the kernel and the way back."""
        count, current = self.rows.stop - self.rows.start, self.device.current()
        columns = {name: self.resident[name][:count] for name in (*self.sources, *self.results)}
        call(columns, launch(self.device, current, self.resident["bad_row"]))
        for name in self.results:
            self.device.download(columns[name], self.pinned[name][:count])
        self.device.download(self.resident["bad_row"], self.pinned["bad_row"])
        self.done = self.device.record(current)

    def finish(self) -> int | None:
        """Wait, and put results in their place; a bad row is returned."""
        if self.done is None:
            return None
        self.done.synchronize()
        self.done = None
        count, bad_row = self.rows.stop - self.rows.start, int(self.pinned["bad_row"][0])
        for name, result in self.results.items():
            result[self.rows] = self.pinned[name][:count]
        return self.rows.start + bad_row if bad_row < count else None


def _stream(X: Array, device: CudaArrays, call: Call, outputs: Columns, inputs: Mapping[str, Any]) -> int | None:
    """Call a kernel on blocks of rows: while it works on one, the next is copied. Returns a bad row."""
    n = len(X)
    width = _as_read(X).itemsize * X.shape[1]
    width += sum(a.itemsize * int(np.prod(a.shape[1:])) for a in (*inputs.values(), *outputs.values()))
    at_once = rows_at_once(n, width)
    with device.active():
        copies, current = device.second(), device.current()
        slots = [_Slot(device, at_once, {"X": X, **inputs}, outputs) for _ in range(2)]
        # The allocator may have given memory that the current stream still works on.
        device.wait(copies, device.record(current))
        try:
            for block, start in enumerate(range(0, n, at_once)):
                slot = slots[block % 2]
                bad_row = slot.finish()
                if bad_row is not None:
                    return bad_row
                device.wait(current, slot.fill(slice(start, min(start + at_once, n)), copies))
                slot.run(call)
            # In the order of their rows.
            last = sorted(slots, key=lambda slot: slot.rows.start)
            return next((row for row in [slot.finish() for slot in last] if row is not None), None)
        finally:
            # Whatever happened, no copy may be under way to memory that is given back.
            device.record(copies).synchronize()
            device.record(current).synchronize()
