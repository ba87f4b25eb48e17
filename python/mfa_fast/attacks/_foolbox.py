"""Attacks of Foolbox on any model that can be a torch module; imported only when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from foolbox.attacks import DDNAttack, L2CarliniWagnerAttack
from foolbox.models import PyTorchModel
from numpy.typing import NDArray

from mfa_fast._devices import require_host
from mfa_fast._labels import class_indices
from mfa_fast._samples import as_samples, find_bad_row, reject_bad_row
from mfa_fast._typing import Array
from mfa_fast._validation import check_clip, check_integer
from mfa_fast.attacks._modules import MachineModule, as_module
from mfa_fast.attacks.ld_grad import labels_of_points
from mfa_fast.attacks.result import AttackResult
from mfa_fast.torch import MFAModule

__all__ = ["Bounds", "DDNAttack", "L2CarliniWagnerAttack", "attack"]

# What the logits of a row are multiplied by, from the gap (n,) by which its class leads and the gap's squared
# gradient (n,).
Scale = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Bounds:
    """The box in which an attack moves, and how many times as wide it is as the range of the data."""

    low: float
    high: float
    widths: float


def attack(
    make: Callable[[Bounds], Any],
    scale: Scale,
    model: Any,
    X: Any,
    y: Any,
    *,
    clip: Any,
    batch_size: int,
) -> AttackResult:
    """Run one of Foolbox's attacks on the samples that the model gives the right class.

    Parameters
    ----------
    make : callable
        Makes the attack.
    scale : callable
        Foolbox's attacks have constants that suit the logits of networks; this brings those of each row there.
    model, X, y, clip, batch_size
        As in `mfa_fast.attacks.cw_l2`.
    """
    check_integer("batch_size", batch_size, 1)
    victim = _Victim(as_module(model))
    is_module = isinstance(model, torch.nn.Module)
    data, wrap = victim.samples(X, any_shape=True) if is_module else victim.samples(X, estimator=victim.first())
    bounds = _bounds(data, clip)
    with victim.at_rest(), torch.random.fork_rng(), torch.inference_mode(mode=False), torch.enable_grad():
        torch.manual_seed(0)  # DDN draws a direction where a gradient is 0
        before = victim.classify(data, batch_size)
        labels = before if y is None else class_indices(victim.classes(data), y, len(data))
        X_adv, n_steps = data.copy(), np.zeros(len(data), np.int64)
        standing = np.flatnonzero(before == labels)
        for start in range(0, len(standing), batch_size):
            rows = standing[start : start + batch_size]
            X_adv[rows], n_steps[rows] = victim.attack(make(bounds), scale, data[rows], labels[rows], bounds)
        # What Foolbox gives back where it found nothing is not where it ended, but all zeros.
        lost = (before == labels) & ~X_adv.reshape(len(data), -1).any(axis=1)
        X_adv[lost] = data[lost]
        found = victim.classify(X_adv, batch_size) != labels
    if not is_module and hasattr(model, "predict"):
        # A module in torch and the model may differ in the last digit; it is the model that is to be fooled.
        found = class_indices(victim.classes(data), labels_of_points(model, X_adv), len(data)) != labels
    found &= ~lost
    X_adv[~found] = data[~found]
    distances = (X_adv.astype(np.float64) - data).reshape(len(data), -1)
    n = len(data)
    arrays = (
        X_adv,
        np.linalg.norm(distances, axis=1).astype(data.dtype),
        found,
        n_steps,
        np.full(n, -1),
        np.full(n, -1),
        np.full(n, np.nan, data.dtype),
        np.zeros(n, np.bool_),
    )
    return AttackResult(*(wrap(a) for a in arrays))


class _Victim:
    """A module under attack."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module
        # Class scores before they are rounded to float32, in which those of either side of the surface may be equal.
        self.logits: Callable[[torch.Tensor], torch.Tensor] = (
            module.class_scores if isinstance(module, MFAModule) else module
        )
        first = next(iter(module.parameters()), None)
        self.device = torch.device("cpu") if first is None else first.device
        # Of its parameters; a module without any takes samples as they are.
        self.dtype = None if first is None else first.dtype
        if self.dtype not in (None, torch.float32, torch.float64):
            msg = f"model must have parameters of float32 or float64, got {self.dtype}; pass a copy of it in float32."
            raise TypeError(msg)

    def first(self) -> Any:
        """Return what of the model knows its features; None if nothing does."""
        if isinstance(self.module, MFAModule):
            return self.module.classifier
        return self.module.first if isinstance(self.module, MachineModule) else None

    def samples(
        self, X: Any, *, any_shape: bool = False, estimator: Any = None
    ) -> tuple[Array, Callable[[Array], Any]]:
        """Return samples as an array of the dtype that the module wants, and the way back to the caller's library."""
        shape = np.shape(X)
        if any_shape and len(shape) > 2:
            X = (X if hasattr(X, "reshape") else np.asarray(X)).reshape(len(X), -1)
        samples = as_samples(X, estimator=estimator)
        require_host(samples.device, "a Foolbox attack")
        reject_bad_row(samples, find_bad_row(samples.data))
        dtype: Any = samples.dtype if self.dtype is None else str(self.dtype).removeprefix("torch.")
        data = np.ascontiguousarray(samples.data, dtype=dtype).reshape(shape)
        if not np.all(np.isfinite(data)):
            msg = f"X must be within the range of {dtype}, which the model takes."
            raise ValueError(msg)
        return data, samples.wrap

    def tensor(self, data: Array) -> torch.Tensor:
        """Return an array where the module is."""
        return torch.from_numpy(data).to(self.device)

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Keep the module from changing: no dropout, no statistics of batches, no gradients of parameters."""
        training = [m for m in self.module.modules() if m.training]
        learning = [p for p in self.module.parameters() if p.requires_grad]
        self.module.eval()
        try:
            for parameter in learning:
                parameter.requires_grad_(False)
            yield
        finally:
            for module in training:
                module.training = True
            for parameter in learning:
                parameter.requires_grad_(True)

    def classes(self, data: Array) -> Array:
        """Return the labels of the logits: `classes_` of the module if it has one, else 0, 1, ..."""
        if hasattr(self.module, "classes_"):
            return np.asarray(self.module.classes_)
        with torch.no_grad():
            return np.arange(self.logits(self.tensor(data[:1])).shape[1])

    def classify(self, data: Array, batch_size: int) -> NDArray[np.int64]:
        """Return the index of the largest logit."""
        with torch.no_grad():
            batches = [
                self._checked_logits(data[i : i + batch_size], i).argmax(dim=1).cpu().numpy()
                for i in range(0, len(data), batch_size)
            ]
        return np.concatenate(batches)

    def _checked_logits(self, batch: Array, first: int) -> torch.Tensor:
        """Return the logits of a batch, whose first sample has this number."""
        logits = self.logits(self.tensor(batch))
        if not isinstance(logits, torch.Tensor):
            msg = f"model must give a tensor of logits, got an object of type {type(logits).__name__}."
            raise TypeError(msg)
        shape = tuple(logits.shape)
        if len(shape) != 2 or shape[0] != len(batch) or shape[1] < 2:
            msg = f"model must give logits ({len(batch)}, n_classes) of two classes or more, got shape {shape}."
            raise ValueError(msg)
        bad = torch.isnan(logits).any(dim=1).nonzero()
        if len(bad):
            msg = f"model must give logits that are numbers, got NaN for sample {first + int(bad[0])}."
            raise ValueError(msg)
        return logits

    def attack(
        self, attack: Any, scale: Scale, data: Array, labels: NDArray[np.int64], bounds: Bounds
    ) -> tuple[Array, int]:
        """Return adversarial examples of a batch and the number of gradients taken."""
        x, y = self.tensor(data), self.tensor(labels)
        scaled = _Scaled(self.logits, self._scales(scale, x, y))
        peer = PyTorchModel(scaled, bounds=(bounds.low, bounds.high), device=self.device)
        X_adv, _, _ = attack(peer, x, y, epsilons=None)
        return X_adv.cpu().numpy(), scaled.n_gradients

    def _scales(self, scale: Scale, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x = x.clone().requires_grad_()
        logits = self.logits(x)
        if not logits.requires_grad:
            msg = "model must give logits with a gradient, got some without: is there a no_grad or a detach in it?"
            raise ValueError(msg)
        own = torch.nn.functional.one_hot(y, logits.shape[1]).bool()
        gap = logits[own] - logits.masked_fill(own, -torch.inf).max(dim=1).values
        (gradient,) = torch.autograd.grad(gap.sum(), x)
        scales = scale(gap.detach().double(), gradient.double().flatten(1).square().sum(dim=1))
        # A gap or a gradient of 0 has no scale.
        return torch.where(torch.isfinite(scales) & (scales > 0), scales, 1.0)


class _Scaled(torch.nn.Module):  # type: ignore[misc,unused-ignore]
    """Logits less the largest, times a number for each row; rounded to the dtype of the samples only then."""

    def __init__(self, logits: Callable[[torch.Tensor], torch.Tensor], scales: torch.Tensor) -> None:
        super().__init__()
        self._logits = [logits]  # in a list: a module in there stays where it is
        self._scales = scales
        self.n_gradients = 0
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.n_gradients += int(x.requires_grad)
        logits = self._logits[0](x)
        largest = logits.detach().max(dim=1, keepdim=True).values
        return ((logits - largest) * self._scales[:, None]).to(x.dtype)


def _bounds(data: Array, clip: Any) -> Bounds:
    low, high = check_clip(clip)
    smallest, largest = float(data.min()), float(data.max())
    if (low is not None and smallest < low) or (high is not None and largest > high):
        msg = f"X must lie within clip={clip!r}, got entries from {smallest:.6g} to {largest:.6g}; clip them first."
        raise ValueError(msg)
    spread = largest - smallest or 1.0
    # Foolbox scales the box to another: one without an end has no scale.
    low = smallest - spread if low is None or np.isinf(low) else low
    high = largest + spread if high is None or np.isinf(high) else high
    return Bounds(low, high, (high - low) / spread)
