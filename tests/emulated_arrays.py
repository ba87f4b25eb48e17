"""An array library without a device: CuPy's part in the tests, for the CUDA kernels that were compiled for the CPU.

Arrays keep to themselves, as CuPy's do: NumPy cannot read them. Streams are queues that run as late as they may, or,
for a second stream, as early as they may, so that whoever does not wait for an event gets wrong numbers.
"""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
from scipy.special import log_softmax, softmax


class Event:
    """The place in a stream where it was recorded."""

    def __init__(self, stream):
        self.stream, self.place = stream, stream.queued

    def synchronize(self):
        self.stream.run(self.place)


class Stream:
    """Work in order. An eager one does its work when it is given it; others when somebody waits."""

    def __init__(self, *, eager=False):
        self.eager, self.work, self.queued, self.done = eager, [], 0, 0

    def put(self, work):
        self.work.append(work)
        self.queued += 1
        if self.eager:
            self.run()

    def run(self, place=None):
        while self.done < (self.queued if place is None else place):
            self.done += 1
            self.work.pop(0)()


CURRENT = Stream()


def _memory(value):
    """What the kernels compiled for the CPU take."""
    if isinstance(value, EmulatedArray):
        return value.memory
    return tuple(map(_memory, value)) if isinstance(value, tuple) else value


class EmulatedArray:
    """What the library asks of an array; the queue runs before anything is read."""

    def __init__(self, memory):
        self.memory = memory

    @property
    def __cuda_array_interface__(self):
        return {**self.memory.__array_interface__, "version": 3}

    def __array__(self, *_, **__):
        raise TypeError("arrays on a device are not converted to NumPy's implicitly")

    shape = property(lambda self: self.memory.shape)
    ndim = property(lambda self: self.memory.ndim)
    dtype = property(lambda self: self.memory.dtype)

    def __len__(self):
        return len(self.memory)

    def _after_queue(self, compute):
        CURRENT.run()
        return EmulatedArray(np.asarray(compute(self.memory)))

    def __getitem__(self, rows):
        if isinstance(rows, (slice, tuple)):  # a view, which reads nothing
            return EmulatedArray(self.memory[rows])
        if self.dtype.kind == "u" and self.dtype.itemsize > 1:
            msg = f'"index_cuda" not implemented for {self.dtype}'  # as torch has it
            raise NotImplementedError(msg)
        return self._after_queue(lambda a: a[_memory(rows)])

    def reshape(self, shape):  # a view of what is contiguous
        return EmulatedArray(self.memory.reshape(shape))

    def __add__(self, other):
        return self._after_queue(lambda a: a + _memory(other))

    def __sub__(self, other):
        return self._after_queue(lambda a: a - _memory(other))

    def __mul__(self, factor):
        return self._after_queue(lambda a: a * _memory(factor))

    def __eq__(self, value):
        return self._after_queue(lambda a: a == value)

    __hash__ = None

    def argmax(self, axis):
        return self._after_queue(lambda a: a.argmax(axis))

    def sum(self):
        return self._after_queue(np.sum)

    def astype(self, dtype):
        return self._after_queue(lambda a: a.astype(dtype))


def kernels_of(module):
    """The module's kernels, queued; models are made at once."""

    def queued(kernel):
        return lambda *arguments, **more: CURRENT.put(
            lambda: kernel(*map(_memory, arguments), **{name: _memory(value) for name, value in more.items()})
        )

    names = (
        "log_densities",
        "reduce",
        "expectation",
        "assigned",
        "sample",
        "reconstruct",
        "ld_grad",
        "nearest",
        "gradient",
    )
    return SimpleNamespace(
        Model=module.Model,
        NearestModel=module.NearestModel,
        devices=lambda: ["the CPU, emulating"],
        **{name: queued(getattr(module, name)) for name in names},
    )


class EmulatedArrays:
    """The library, in the form in which `mfa_fast._devices` knows one."""

    key = ("emulated_arrays", 0)
    eager_copies = False
    kernels = None  # set by whoever has them

    @classmethod
    def of(cls, _):
        return cls()

    default = classmethod(lambda cls: cls())

    def active(self):
        return nullcontext()

    def require_active(self):
        pass

    def allocate(self, n_bytes):
        return np.empty(n_bytes, np.uint8)

    def dtype_name(self, array):
        return array.dtype.name

    def plain(self, array):
        one = array.memory.strides[1] == array.memory.itemsize
        return array if one else EmulatedArray(np.ascontiguousarray(array.memory))

    def empty(self, shape, dtype):
        nothing = {"f": np.nan, "i": -99, "u": 99, "b": True}[np.dtype(dtype).kind]
        return EmulatedArray(np.full(shape, nothing, dtype))

    def full(self, shape, value, dtype):
        return EmulatedArray(np.full(shape, value, dtype))

    def cast(self, array, dtype):
        return array.astype(dtype)

    def from_host(self, array):
        return EmulatedArray(np.array(array))

    def to_host(self, array):
        CURRENT.run()
        return array.memory.copy()

    def pick(self, values, indices):
        bits = values.view(f"i{values.itemsize}") if values.dtype.kind == "u" else values
        return EmulatedArray(self.from_host(bits)[indices].memory.view(values.dtype))

    def softmax(self, scores):
        return scores._after_queue(lambda a: softmax(a, axis=1))

    def log_softmax(self, scores):
        return scores._after_queue(lambda a: log_softmax(a, axis=1))

    def pinned(self, shape, dtype):
        return self.empty(shape, dtype).memory

    def current(self):
        return CURRENT

    def handle(self, stream):
        return 0

    def second(self):
        return Stream(eager=self.eager_copies)

    def record(self, stream):
        return Event(stream)

    def has_come(self, event):
        return event.stream.done >= event.place

    def wait(self, stream, event):
        stream.put(event.synchronize)

    def upload(self, source, target, stream):
        stream.put(lambda: np.copyto(target.memory, source))

    def download(self, source, target):
        CURRENT.put(lambda: np.copyto(target, source.memory))
