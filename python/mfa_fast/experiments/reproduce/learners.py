"""Support vector machines as cells: trained once, however many experiments ask for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sklearn.svm import SVC, LinearSVC

from mfa_fast.experiments import models
from mfa_fast.experiments.models import GammaTrial
from mfa_fast.experiments.reproduce.cells import Cell, Context
from mfa_fast.experiments.reproduce.distributions import HELD_OUT, TRAINING, Distribution


@dataclass(frozen=True)
class LinearMachine(Cell):
    """scikit-learn's LinearSVC with its defaults."""

    distribution: Distribution
    train_samples: int
    root_seed: int

    @property
    def title(self) -> str:
        """What a progress bar says."""
        return f"{self.distribution.description}: train the linear SVM"

    def compute(self, context: Context) -> LinearSVC:
        """Train."""
        train = self.distribution.draw(context, self.train_samples, TRAINING)
        return models.train_linear_svm(*train, seed=self.seed(self.root_seed, "train"))


@dataclass(frozen=True)
class TrainedRbf:
    """An RBF machine, and how its gamma was found."""

    machine: SVC
    gamma: float
    trials: tuple[GammaTrial, ...]


@dataclass(frozen=True)
class RbfMachine(Cell):
    """scikit-learn's SVC with a Gaussian kernel, C = 1 and the paper's choice of gamma."""

    distribution: Distribution
    train_samples: int
    gamma: float | None
    steps: int

    @property
    def title(self) -> str:
        """What a progress bar says."""
        return f"{self.distribution.description}: train the RBF SVM"

    def compute(self, context: Context) -> TrainedRbf:
        """Search gamma unless it is given, and train."""
        train = self.distribution.draw(context, self.train_samples, TRAINING)
        gamma, trials = self.gamma, list[GammaTrial]()
        if gamma is None:
            gamma, trials = models.search_gamma(
                train,
                self.distribution.draw(context, models.N_HELD_OUT, HELD_OUT),
                attack_steps=self.steps,
                n_threads=context.n_threads,
                progress=context.progress,
            )
        return TrainedRbf(models.train_rbf_svm(*train, gamma), gamma, tuple(trials))


@dataclass(frozen=True)
class Gamma(Cell):
    """The gamma of an RBF machine, by itself: reports need no more of it, and machines of faces take much memory."""

    machine: RbfMachine

    @property
    def title(self) -> str:
        """What a progress bar says."""
        return f"{self.machine.distribution.description}: note the RBF SVM's gamma"

    def compute(self, context: Context) -> float:
        """Look it up."""
        trained: TrainedRbf = context.value(self.machine)
        return float(trained.gamma)


def machine(trained: Any) -> SVC | LinearSVC:
    """Return the machine in the result of either cell."""
    return trained.machine if isinstance(trained, TrainedRbf) else trained
