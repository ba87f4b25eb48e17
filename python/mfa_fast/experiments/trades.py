"""TRADES: training that trades accuracy for a distribution of logits that small changes leave as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from mfa_fast._validation import check_integer, check_option, check_real

START = 1e-3  # standard deviation of the random start, the authors'


@dataclass(frozen=True, kw_only=True)
class Trades:
    """Settings of TRADES.

    Parameters
    ----------
    beta : float
        Weight of the divergence between the logits' distributions at clean and at perturbed images. 0: the
        cross-entropy alone.
    norm : {"l2", "linf"}
        In which perturbations are bounded.
    radius : float
        By how much, in units of the images.
    steps : int
        Of the inner attack, each of length 2 `radius` / `steps`.
    """

    beta: float
    norm: Literal["l2", "linf"] = "l2"
    radius: float = 1.0
    steps: int = 10

    def __post_init__(self) -> None:
        """Reject what would only fail later."""
        check_real("beta", self.beta, least=0.0)
        check_option("norm", self.norm, ("l2", "linf"))
        check_real("radius", self.radius, above=0.0)
        check_integer("steps", self.steps, 1)


def trades_loss(network: nn.Module, X: torch.Tensor, y: torch.Tensor, settings: Trades, seed: int) -> torch.Tensor:
    """Return cross-entropy + beta * KL(p(x) || p(x')), x' being where the divergence is largest within the radius.

    Parameters
    ----------
    network : torch.nn.Module
        Maps rows to logits.
    X : Tensor of shape (n, n_features)
    y : Tensor of shape (n,)
        Class indices.
    settings : Trades
    seed : int
        Of the inner attack's start.

    Notes
    -----
    H. Zhang et al.: Theoretically principled trade-off between robustness and accuracy, ICML 2019. Perturbed images are
    not clipped to [0, 1], as samples of an MFA are not confined to it.
    """
    if settings.beta == 0.0:
        return functional.cross_entropy(network(X), y)
    network.eval()
    perturbed = _perturb(network, X, settings, seed)
    network.train()
    clean = network(X)
    return functional.cross_entropy(clean, y) + settings.beta * _divergence(clean, network(perturbed)) / len(X)


def _divergence(clean: torch.Tensor, perturbed: torch.Tensor) -> torch.Tensor:
    return functional.kl_div(
        functional.log_softmax(perturbed, dim=1), functional.log_softmax(clean, dim=1), reduction="sum", log_target=True
    )


def _perturb(network: nn.Module, X: torch.Tensor, settings: Trades, seed: int) -> torch.Tensor:
    generator = torch.Generator(X.device).manual_seed(seed)
    delta = START * torch.randn(X.shape, generator=generator, device=X.device)
    length = 2.0 * settings.radius / settings.steps
    with torch.no_grad():
        clean = network(X)
    for _ in range(settings.steps):
        delta.requires_grad_()
        (gradient,) = torch.autograd.grad(_divergence(clean, network(X + delta)), delta)
        delta = delta.detach()
        if settings.norm == "linf":
            delta = (delta + length * gradient.sign()).clamp(-settings.radius, settings.radius)
        else:
            step = gradient / gradient.norm(dim=1, keepdim=True).clamp_min(torch.finfo(X.dtype).tiny)
            delta = (delta + length * step).renorm(p=2, dim=0, maxnorm=settings.radius)
    return X + delta
