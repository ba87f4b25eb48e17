"""Calls into the CUDA extension, for samples whose kernels run on a device: what `_kernels` is for the CPU."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mfa_fast import _core
from mfa_fast._array_libraries import CudaArrays
from mfa_fast._device_rows import Columns, rows_at_once, run
from mfa_fast._kernels import Scorer, gram_of
from mfa_fast._samples import Samples
from mfa_fast._statistics import Sums, count_sums, lay_out_sums
from mfa_fast._typing import Array, FloatArray

# The handle of CUDA's per-thread default stream (cudaStreamPerThread).
_PER_THREAD_STREAM = 2

# Copies of packed models in device memory, and what `nearest` needs beside them, each used on the stream that it was
# made on.
_copies: weakref.WeakKeyDictionary[_core.Model, dict[Any, Any]] = weakref.WeakKeyDictionary()


def model_on(device: CudaArrays, model: _core.Model) -> Any:
    """Return the model's copy on a device."""
    return _on(device, model, "Model", lambda: (model,))


def nearest_model_on(device: CudaArrays, model: _core.Model, n_threads: int) -> Any:
    """Return what `nearest` needs beside the model's copy on a device; threads are for what is made on the host."""
    return _on(device, model, "NearestModel", lambda: (model, gram_of(model, n_threads)))


def _on(device: CudaArrays, model: _core.Model, kind: str, arguments: Callable[[], tuple[Any, ...]]) -> Any:
    copies = _copies.setdefault(model, {})
    stream = device.handle(device.current())
    # One handle stands for a stream of every thread's own.
    key = (kind, device.key, stream, threading.get_ident() if stream == _PER_THREAD_STREAM else None)
    if key not in copies:
        # Two threads that make the same one do no harm.
        with device.active():
            make = getattr(device.kernels, kind)
            copies[key] = make(*arguments(), stream=stream, allocate=device.allocate)
    return copies[key]


@dataclass(frozen=True)
class CudaScorer(Scorer):
    """A packed model whose components belong to groups, and the device to run it on.

    Results lie where the samples do: beside them in device memory, or in NumPy arrays if the samples are streamed.
    """

    device: CudaArrays

    @classmethod
    def on(cls, device: CudaArrays, scorer: Scorer) -> CudaScorer:
        """Make one of a scorer for the CPU."""
        return cls(scorer.model, scorer.groups, scorer.n_threads, scorer.screening, scorer.owner, device)

    @property
    def _copy(self) -> Any:
        return model_on(self.device, self.model)

    def log_densities(self, samples: Samples) -> Any:
        """Return log w_k + log N(x; mu_k, S_k) as (n, K)."""
        kernel, model = self.device.kernels.log_densities, self._copy
        out = samples.arrays.empty((len(samples), self.model.n_components), samples.dtype)

        def call(columns: Columns, launch: dict[str, Any]) -> None:
            kernel(model, columns["X"], columns["out"], **launch)

        run(samples, call, {"out": out}, owner=self.owner)
        return out

    def _reduce(self, samples: Samples, exact: bool = False, **outputs: Any) -> None:
        kernel, model = self.device.kernels.reduce, self._copy

        def call(columns: Columns, launch: dict[str, Any]) -> None:
            X = columns.pop("X")
            kernel(model, X, self.groups, exact=exact, screening=self.screening, **columns, **launch)

        run(samples, call, outputs, owner=self.owner)

    def classify(self, samples: Samples, log_priors: FloatArray, *, sum_rule: bool) -> Any:
        """Return the group of the highest score as (n,), the first on a tie."""
        return self.scores(samples, log_priors, sum_rule=sum_rule).argmax(axis=1)

    def gradient(self, samples: Samples, vectors: Any, *, sum_rule: bool) -> Any:
        """Return the vectors (n, G) times the Jacobian of the groups' scores: (n, d)."""
        kernel, model = self.device.kernels.gradient, self._copy
        out = samples.arrays.empty(tuple(samples.data.shape), samples.dtype)

        def call(columns: Columns, launch: dict[str, Any]) -> None:
            kernel(
                model,
                columns["X"],
                self.groups,
                columns["vectors"],
                sum_rule=sum_rule,
                screening=self.screening,
                out=columns["out"],
                **launch,
            )

        run(samples, call, {"out": out}, {"vectors": vectors}, self.owner)
        return out

    def reconstruct(self, samples: Samples) -> Any:
        """Return what the first group's best component explains of each sample as (n, d)."""
        kernels, model = self.device.kernels, self._copy
        n, arrays = len(samples), samples.arrays
        out = arrays.empty(tuple(samples.data.shape), samples.dtype)
        best = arrays.empty((n, self.n_groups), np.int64)
        factors = arrays.empty((n, self.model.n_factors), np.float64)

        def call(columns: Columns, launch: dict[str, Any]) -> None:
            labels, z = columns["best"], columns["factors"]
            kernels.reduce(
                model, columns["X"], self.groups, exact=True, screening=self.screening, best=labels, factors=z, **launch
            )
            launch.pop("bad_row")
            kernels.reconstruct(model, labels[:, 0], z, columns["out"], **launch)

        run(samples, call, {"out": out, "best": best, "factors": factors}, owner=self.owner)
        return out

    def ld_grad(self, samples: Samples, labels: Any, out: tuple[Any, ...], pairs: tuple[Any, Any], **how: Any) -> None:
        """Attack samples of classes `labels`, an index each, as the kernel for the CPU does."""
        kernel, model = self.device.kernels.ld_grad, self._copy
        names = ("X_adv", "l2", "success", "n_steps", "sources", "targets")

        def call(columns: Columns, launch: dict[str, Any]) -> None:
            kernel(
                model,
                columns["X"],
                groups=self.groups,
                labels=columns["labels"],
                screening=self.screening,
                out=tuple(columns[name] for name in names[:4]),
                sources=columns["sources"],
                targets=columns["targets"],
                **how,
                **launch,
            )

        run(samples, call, dict(zip(names, (*out, *pairs), strict=True)), {"labels": labels}, self.owner)

    def nearest(
        self,
        samples: Samples,
        labels: Any,
        out: tuple[Any, ...],
        pairs: tuple[Any, Any],
        certificates: tuple[Any, Any],
        *,
        steps: int,
        rtol: float,
        n_threads: int,
        **classes: Any,
    ) -> None:
        """Find the nearest adversarial examples of samples of classes `labels`, from where LD-Grad comes to."""
        kernels, model = self.device.kernels, self._copy
        parts = nearest_model_on(self.device, self.model, n_threads)
        names = ("X_adv", "l2", "success", "n_steps", "sources", "targets", "lower_bound", "certified")
        alone = {"steps": steps, "overshoot": 1e-6, "clip": (None, None), "source": None, "target": None}

        def call(columns: Columns, launch: dict[str, Any]) -> None:
            common = {
                "groups": self.groups,
                "labels": columns["labels"],
                "screening": self.screening,
                "out": tuple(columns[name] for name in names[:4]),
                "sources": columns["sources"],
                "targets": columns["targets"],
                **classes,
                **launch,
            }
            kernels.ld_grad(model, columns["X"], **common, **alone)
            bounds = {"lower_bound": columns["lower_bound"], "certified": columns["certified"]}
            kernels.nearest(model, parts, columns["X"], **common, rtol=rtol, **bounds)

        outputs = dict(zip(names, (*out, *pairs, *certificates), strict=True))
        run(samples, call, outputs, {"labels": labels}, self.owner)

    def sample(self, target: Samples, *, weights: Array, seed: int, start: int, noise: bool) -> Any:
        """Write samples start, start + 1, ... of a seed, as many as there are rows, and return their components."""
        kernel, model, device = self.device.kernels.sample, self._copy, self.device
        shares, stream = np.require(weights, np.float64, ["C", "ALIGNED"]), device.handle(device.current())

        def draw(out: Any, labels: Any, first: int) -> None:
            how = {"stream": stream, "allocate": device.allocate}
            kernel(model, weights=shares, seed=seed, start=first, noise=noise, out=out, labels=labels, **how)

        X, n = target.data, len(target)
        labels = target.arrays.empty((n,), np.int64)
        if not target.on_host:
            with device.active():
                draw(X, labels, start)
            return labels
        at_once = rows_at_once(n, X.itemsize * X.shape[1])
        with device.active():
            block, chosen = device.empty((at_once, X.shape[1]), X.dtype), device.empty((at_once,), np.int64)
            for first in range(0, n, at_once):
                count = min(at_once, n - first)
                rows = slice(first, first + count)
                draw(block[:count], chosen[:count], start + first)
                X[rows], labels[rows] = device.to_host(block[:count]), device.to_host(chosen[:count])
        return labels


def expectation(
    model: _core.Model, samples: Samples, sample_weight: FloatArray | None, screening: bool
) -> tuple[Sums, Any]:
    """Return EM's sums over the samples, on the host, and log p(x) of every sample, where they are."""
    device = samples.device
    assert device is not None
    on_device = _SumsOnDevice(device, model.n_components, model.n_factors, model.n_features)
    log_likelihoods = samples.arrays.empty((len(samples),), np.float64)
    kernel, copy, sums = device.kernels.expectation, model_on(device, model), on_device.sums._sums()

    def call(columns: Columns, launch: dict[str, Any]) -> None:
        X, values = columns["X"], columns["log_likelihoods"]
        kernel(copy, X, sums, values, sample_weight=columns.get("sample_weight"), screening=screening, **launch)

    run(samples, call, {"log_likelihoods": log_likelihoods}, _weights(samples, sample_weight))
    return on_device.fetch(samples), log_likelihoods


def assigned(
    samples: Samples,
    means: FloatArray,
    labels: NDArray[np.int64],
    factors: FloatArray,
    sample_weight: FloatArray | None,
) -> Sums:
    """Return the sums over samples whose components and factors are known, on the host."""
    device = samples.device
    assert device is not None
    on_device = _SumsOnDevice(device, means.shape[0], factors.shape[1], means.shape[1])
    kernel, centers, sums = device.kernels.assigned, device.from_host(means), on_device.sums._sums()
    columns_in = {"labels": samples.arrays.from_host(labels), "factors": samples.arrays.from_host(factors)}

    def call(columns: Columns, launch: dict[str, Any]) -> None:
        X, weights = columns["X"], columns.get("sample_weight")
        kernel(X, centers, columns["labels"], columns["factors"], sums, sample_weight=weights, **launch)

    run(samples, call, {}, columns_in | _weights(samples, sample_weight))
    return on_device.fetch(samples)


def _weights(samples: Samples, sample_weight: FloatArray | None) -> Columns:
    return {} if sample_weight is None else {"sample_weight": samples.arrays.from_host(sample_weight)}


class _SumsOnDevice:
    """Sums of zeros on a device for a kernel to add to, which come to the host in one piece."""

    def __init__(self, device: CudaArrays, *shape: int) -> None:
        self.device, self.shape = device, shape
        self.numbers = device.full((count_sums(*shape),), 0.0, np.float64)
        self.sums = lay_out_sums(self.numbers, *shape)

    def fetch(self, samples: Samples) -> Sums:
        """Wait for the sums, and for what is wrong with the samples that they are of."""
        with self.device.active():
            # By way of pinned memory, which is used again from call to call and copied to at the full speed of the bus.
            fetched = self.device.pinned((len(self.numbers),), np.float64)
            self.device.download(self.numbers, fetched)
            self.device.record(self.device.current()).synchronize()
        samples.settle()
        return lay_out_sums(np.array(fetched), *self.shape)
