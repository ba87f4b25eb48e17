"""Models as torch modules of logits, for attacks that take gradients from torch; imported only when asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mfa_fast._typing import FloatArray
from mfa_fast.attacks.svm import LinearMachine, Machine, RbfMachine, as_machine
from mfa_fast.classifier import MFAClassifier
from mfa_fast.torch import MFAModule


class MachineModule(torch.nn.Module):  # type: ignore[misc,unused-ignore]
    """The decision function of a support vector machine, f, as logits (0, f).

    In float64, whatever comes in: near the surface the sign is to be the one that the machine itself gives. So f is not
    halved either, which would take the least there is to 0.
    """

    shift: torch.Tensor
    scale: torch.Tensor

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self._machine = machine
        self.first = machine.first
        self.classes_ = machine.classes
        self._keep("shift", machine.shift)
        self._keep("scale", machine.scale)

    def _keep(self, name: str, array: FloatArray) -> None:
        self.register_buffer(name, torch.tensor(array, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (n, 2) of rows (n, d)."""
        self._machine.check_width(x.shape[1])
        decision = self.decide((x.double() - self.shift) * self.scale) + self._machine.intercept
        return torch.stack([torch.zeros_like(decision), decision], dim=1)

    def decide(self, y: torch.Tensor) -> torch.Tensor:
        """Return the decision function (n,) of scaled rows (n, d), without the intercept."""
        raise NotImplementedError


class LinearModule(MachineModule):
    """w.y."""

    weights: torch.Tensor

    def __init__(self, machine: LinearMachine) -> None:
        super().__init__(machine)
        self._keep("weights", machine.weights)

    def decide(self, y: torch.Tensor) -> torch.Tensor:
        """Return the decision function (n,) of scaled rows (n, d), without the intercept."""
        return y @ self.weights


class RbfModule(MachineModule):
    """sum_i a_i exp(-gamma |y - s_i|^2), theory.md (16)."""

    center: torch.Tensor
    support_vectors: torch.Tensor
    squares: torch.Tensor
    coefficients: torch.Tensor

    def __init__(self, machine: RbfMachine) -> None:
        super().__init__(machine)
        center = machine.support_vectors.mean(axis=0)
        centered = machine.support_vectors - center
        self.gamma = machine.gamma
        self._keep("center", center)
        self._keep("support_vectors", centered)
        self._keep("squares", np.sum(centered**2, axis=1))
        self._keep("coefficients", machine.coefficients)

    def decide(self, y: torch.Tensor) -> torch.Tensor:
        """Return the decision function (n,) of scaled rows (n, d), without the intercept."""
        y = y - self.center
        distances = y.square().sum(dim=1, keepdim=True) - 2.0 * y @ self.support_vectors.T + self.squares
        return torch.exp(-self.gamma * distances) @ self.coefficients


def as_module(model: Any) -> torch.nn.Module:
    """Return a model as a module of logits; a `classes_` that it has are their labels.

    Raises
    ------
    TypeError, ValueError, NotFittedError
        If it is none of those that `mfa_fast.attacks.cw_l2` takes.
    """
    if isinstance(model, MFAClassifier):
        return MFAModule(model)
    if isinstance(model, torch.nn.Module):
        return model
    network = getattr(model, "network", None)
    if isinstance(network, torch.nn.Module):
        return network
    machine = as_machine(model)
    return RbfModule(machine) if isinstance(machine, RbfMachine) else LinearModule(machine)
