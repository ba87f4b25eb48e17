"""Classifiers under attack as cells, and the exact minimum beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mfa_fast import MFAClassifier, attacks
from mfa_fast._typing import Array
from mfa_fast.attacks import AttackResult, ld_grad
from mfa_fast.experiments.reproduce.cells import Cell, Context
from mfa_fast.experiments.reproduce.distributions import ATTACK, Asymmetric, Distribution, Symmetric
from mfa_fast.experiments.reproduce.learners import LinearMachine, RbfMachine, machine


@dataclass(frozen=True)
class Bayes:
    """The classifier that is optimal for a distribution."""

    distribution: Symmetric | Asymmetric

    def load(self, context: Context) -> MFAClassifier:
        """Return the classifier."""
        return self.distribution.classifier(context)


# What LD-Grad takes.
ClosedForm = Bayes | LinearMachine | RbfMachine
NAMES = {"bayes": "Bayes-optimal", "cnn": "CNN", "linear_svm": "Linear SVM", "rbf_svm": "RBF SVM"}


_KEYS = {Bayes: "bayes", LinearMachine: "linear_svm", RbfMachine: "rbf_svm"}


def load_model(model: ClosedForm, context: Context) -> Any:
    """Return a classifier that predicts and that attacks take."""
    return model.load(context) if isinstance(model, Bayes) else machine(context.value(model))


@dataclass(frozen=True)
class AttackedModel:
    """What a classifier was shown, what it said, and what the attack found."""

    X: Array
    y: Array
    predicted: Array
    attack: AttackResult

    @property
    def summary(self) -> dict[str, float]:
        """The figures by which attacks are compared."""
        return self.attack.summary()

    @property
    def mean_l2(self) -> float:
        """Mean over successful attacks on samples that were classified correctly."""
        return self.summary["mean_l2"]

    @property
    def flipped(self) -> Array:
        """Which samples were right before the attack and wrong after it."""
        was_right: Array = np.asarray(self.attack.success) & (self.predicted == self.y)
        return was_right


@dataclass(frozen=True)
class LdGrad(Cell):
    """LD-Grad on a mixture or a support vector machine."""

    model: ClosedForm
    distribution: Distribution
    samples: int
    steps: int

    @property
    def title(self) -> str:
        """What a progress bar says."""
        return f"{self.distribution.description}: attack {NAMES[_KEYS[type(self.model)]]} with LD-Grad"

    def compute(self, context: Context) -> AttackedModel:
        """Attack."""
        X, y = self.distribution.draw(context, self.samples, ATTACK)
        model = load_model(self.model, context)
        attack = ld_grad(model, X, y, steps=self.steps, n_threads=context.n_threads)
        return AttackedModel(X, y, model.predict(X), attack)


@dataclass(frozen=True)
class Nearest(Cell):
    """The nearest adversarial examples, with their certificates."""

    model: Bayes | LinearMachine
    distribution: Distribution
    samples: int

    @property
    def title(self) -> str:
        """What a progress bar says."""
        return f"{self.distribution.description}: nearest adversarial examples of {NAMES[_KEYS[type(self.model)]]}"

    def compute(self, context: Context) -> AttackedModel:
        """Find them."""
        X, y = self.distribution.draw(context, self.samples, ATTACK)
        model = load_model(self.model, context)
        return AttackedModel(X, y, model.predict(X), attacks.nearest(model, X, y, n_threads=context.n_threads))


def exact_minimum(model: Cell | Bayes, distribution: Distribution, samples: int) -> Nearest | None:
    """Return the cell of the exact minimum, or None for a classifier of which nobody knows how to find it."""
    return Nearest(model, distribution, samples) if isinstance(model, Bayes | LinearMachine) else None
