"""Convolutional networks as cells: trained once, attacked with CW-L2, tested on real images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mfa_fast import attacks
from mfa_fast.datasets import SampleStream
from mfa_fast.experiments import models
from mfa_fast.experiments.reproduce.attacked import AttackedModel, Bayes
from mfa_fast.experiments.reproduce.cells import Cell, Context, spawned_seed
from mfa_fast.experiments.reproduce.distributions import (
    ATTACK,
    HELD_OUT,
    TRAINING,
    Distribution,
    Real,
    draw_seed,
)
from mfa_fast.experiments.reproduce.settings import Settings

TORCH = {"torch": "torch"}
EVERYTHING = 2**31  # more images than any part has


@dataclass(frozen=True)
class Training:
    """How a network is trained; what is not said here are the defaults of `experiments.training.TrainConfig`.

    Attributes
    ----------
    samples : int or None
        Of a fixed set. None: every image is drawn on the fly, and seen once.
    images : int
        Shown in all.
    batch_size : int
    learning_rate : float
    stop_early : bool
        Whether to stop as soon as all held-out samples are classified correctly.
    beta, radius, steps
        Of TRADES; a `beta` of 0 is ordinary training.
    """

    samples: int | None
    images: int
    batch_size: int
    learning_rate: float
    stop_early: bool = False
    beta: float = 0.0
    radius: float = 1.0
    steps: int = 1


@dataclass(frozen=True)
class Network(Cell):
    """A trained network.

    `depth` is that of a network of figure 9; None for the all-convolutional reference network.
    """

    requires: ClassVar[dict[str, str]] = TORCH

    distribution: Distribution
    width: int
    depth: int | None
    training: Training
    root_seed: int

    @property
    def words(self) -> str:
        """Which one it is, among those that learn from the same distribution."""
        trades = f" and beta {self.training.beta:g}" if self.training.beta else ""
        depth = "" if self.depth is None else f", depth {self.depth}"
        return f"network of width {self.width}{depth} on {self.training.images:,} images{trades}"

    @property
    def title(self) -> str:
        """What a progress bar says."""
        return f"{self.distribution.description}: train a {self.words}"

    def compute(self, context: Context) -> Any:
        """Train; the result is a `TrainedNetwork` on the CPU."""
        # Only here: they need torch.
        from mfa_fast.experiments.networks import AllConvolutional, StridedNetwork
        from mfa_fast.experiments.trades import Trades
        from mfa_fast.experiments.training import TrainConfig, train_network

        seed = spawned_seed(self.root_seed, self.distribution.images.name, "network")
        shape = self.distribution.images.image_shape
        made = (
            AllConvolutional(shape, 2, self.width, seed=seed)
            if self.depth is None
            else StridedNetwork(shape, 2, self.width, depth=self.depth, seed=seed)
        )
        training = self.training
        config = TrainConfig(
            images=training.images,
            batch_size=training.batch_size,
            learning_rate=training.learning_rate,
            target_accuracy=1.0 if training.stop_early else None,
            trades=Trades(beta=training.beta, radius=training.radius, steps=training.steps) if training.beta else None,
            seed=seed,
        )
        held_out = self.distribution.draw(context, models.N_HELD_OUT, HELD_OUT)
        checkpoint = context.checkpoint(self)
        data = self._data(context)
        trained = train_network(made, data, config, held_out=held_out, checkpoint=checkpoint, progress=context.progress)
        trained.network.cpu()
        return trained

    def _data(self, context: Context) -> Any:
        if self.training.samples is not None:
            return self.distribution.draw(context, self.training.samples, TRAINING)
        if isinstance(self.distribution, Real):
            msg = "real images cannot be drawn on the fly"
            raise ValueError(msg)
        classifier = self.distribution.classifier(context)
        return SampleStream(classifier, self.training.batch_size, draw_seed(self.distribution.fitted, TRAINING))


def network(distribution: Distribution, settings: Settings, beta: float = 0.0) -> Network:
    """Return the network that is compared with the other classifiers, or one of figure 11, trained by TRADES."""
    chosen, trades = settings.network, settings.fig11
    real = isinstance(distribution, Real)
    training = Training(
        samples=EVERYTHING if real else settings.train_samples,
        images=trades.images if beta else chosen.images,
        batch_size=chosen.batch_size,
        learning_rate=chosen.learning_rate,
        stop_early=chosen.stop_early,
        beta=beta,
        # Without an adversary it is the same network, and the same cell, whatever these are.
        radius=trades.radius if beta else 1.0,
        steps=trades.steps if beta else 1,
    )
    return Network(distribution, chosen.width, None, training, settings.seed)


def stream_network(distribution: Distribution, settings: Settings, *, width: int, depth: int, images: int) -> Network:
    """Return a network of figure 9."""
    training = Training(None, images, settings.fig9.batch_size, settings.network.learning_rate)
    return Network(distribution, width, depth, training, settings.seed)


@dataclass(frozen=True)
class CarliniWagner(Cell):
    """The CW-L2 attack, on a network or a mixture."""

    requires: ClassVar[dict[str, str]] = {**TORCH, "foolbox": "attacks"}

    model: Network | Bayes
    distribution: Distribution
    samples: int
    iterations: int
    binary_search_steps: int
    learning_rate: float

    @classmethod
    def of(cls, model: Network | Bayes, distribution: Distribution, settings: Settings) -> CarliniWagner:
        """Return the attack that the settings ask for."""
        cw = settings.cw
        return cls(model, distribution, cw.samples, cw.iterations, cw.binary_search_steps, cw.learning_rate)

    @property
    def title(self) -> str:
        """What a progress bar says."""
        what = "Bayes-optimal classifier" if isinstance(self.model, Bayes) else self.model.words
        return f"{self.distribution.description}: attack the {what} with CW-L2"

    def compute(self, context: Context) -> AttackedModel:
        """Attack."""
        X, y = self.distribution.draw(context, self.samples, ATTACK)
        model = self.model.load(context) if isinstance(self.model, Bayes) else context.value(self.model)
        attack = attacks.cw_l2(
            model,
            X,
            y,
            iterations=self.iterations,
            binary_search_steps=self.binary_search_steps,
            learning_rate=self.learning_rate,
        )
        return AttackedModel(X, y, np.asarray(model.predict(X)), attack)


@dataclass(frozen=True)
class Accuracy(Cell):
    """A network's accuracy, on many more samples than it is attacked on, and of any distribution."""

    requires: ClassVar[dict[str, str]] = TORCH

    model: Network
    distribution: Distribution
    samples: int

    @property
    def title(self) -> str:
        """What a progress bar says."""
        learned_from = self.model.distribution
        origin = "" if learned_from == self.distribution else f" of {learned_from.description}"
        tested = "all" if self.samples == EVERYTHING else f"{self.samples:,} at most"
        return f"{self.distribution.description}, {tested}: test the {self.model.words}{origin}"

    def compute(self, context: Context) -> float:
        """Test."""
        X, y = self.distribution.draw(context, self.samples, ATTACK)
        return float(np.mean(context.value(self.model).predict(X) == y))
