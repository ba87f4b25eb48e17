"""Where samples come from: models that were fitted to real images, or these images themselves."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from mfa_fast import MFAClassifier
from mfa_fast._typing import Array
from mfa_fast.experiments import models
from mfa_fast.experiments.config import RunConfig
from mfa_fast.experiments.reproduce.cells import Cell, Context, spawned_seed
from mfa_fast.experiments.reproduce.images import ImageSet
from mfa_fast.experiments.reproduce.settings import Settings

TRAINING, HELD_OUT, ATTACK = "training", "held out", "attack"


@dataclass(frozen=True)
class Fitted(Cell):
    """One mixture per class, fitted to real images."""

    images: ImageSet
    components: int | None
    factors: int | None
    max_iter: int
    root_seed: int

    @classmethod
    def of(cls, images: ImageSet, settings: Settings) -> Fitted:
        """Return the cell that the settings ask for."""
        return cls(images, settings.components, settings.factors, settings.max_iter, settings.seed)

    @property
    def title(self) -> str:
        """What a progress bar says."""
        return f"{self.images.name}: fit one mixture per class"

    def compute(self, context: Context) -> MFAClassifier:
        """Fit."""
        real = self.images.load()
        components, factors = self._size(real.y_train)
        fitted = models.fit_mixtures(
            real.X_train,
            real.y_train,
            components,
            factors,
            max_iter=self.max_iter,
            seed=self.seed(self.root_seed, "fit"),
            n_threads=context.n_threads,
        )
        return fitted.set_params(n_threads=None)

    def _size(self, y_train: Array) -> tuple[int | tuple[int, ...], int]:
        asked = RunConfig(
            data=self.images.path,
            attribute=self.images.attribute,
            components=self.components,
            factors=self.factors,
        )
        return asked.mixture_size(y_train)


@dataclass(frozen=True)
class Symmetric:
    """Samples of the fitted model, all noise set to one value."""

    fitted: Fitted
    noise_std: float

    @property
    def images(self) -> ImageSet:
        """What the model was fitted to."""
        return self.fitted.images

    @property
    def description(self) -> str:
        """The data set, in words."""
        return f"{self.images.name}, symmetric, noise {self.noise_std:g}"

    def classifier(self, context: Context) -> MFAClassifier:
        """Return the Bayes-optimal classifier."""
        fitted: MFAClassifier = context.value(self.fitted)
        return _on_threads(fitted.symmetric(self.noise_std), context)

    def draw(self, context: Context, n: int, purpose: str) -> tuple[Array, Array]:
        """Return n samples and their classes; others for each purpose, and of each noise the same but for the noise."""
        return self.classifier(context).sample(n, random_state=draw_seed(self.fitted, purpose))


@dataclass(frozen=True)
class Asymmetric:
    """Samples of the fitted model with one wide outlier component more in each class."""

    fitted: Fitted
    noise_std: float

    @property
    def images(self) -> ImageSet:
        """What the model was fitted to."""
        return self.fitted.images

    @property
    def description(self) -> str:
        """The data set, in words."""
        return f"{self.images.name}, asymmetric, noise {self.noise_std:g}"

    def classifier(self, context: Context) -> MFAClassifier:
        """Return the Bayes-optimal classifier."""
        X = self.images.load().X_train
        return _on_threads(models.asymmetric_classifier(context.value(self.fitted), X, self.noise_std), context)

    def draw(self, context: Context, n: int, purpose: str) -> tuple[Array, Array]:
        """Return n samples and their classes; others for each purpose."""
        return self.classifier(context).sample(n, random_state=draw_seed(self.fitted, purpose))


@dataclass(frozen=True)
class Real:
    """The real images themselves: those of the training part to learn from, those of the test part to attack."""

    images: ImageSet
    root_seed: int

    @property
    def description(self) -> str:
        """The data set, in words."""
        return f"{self.images.name}, real images"

    def draw(self, context: Context, n: int, purpose: str) -> tuple[Array, Array]:
        """Return n images, or all that there are if these are fewer, and their classes, in a random order."""
        real = self.images.load()
        part = "test" if purpose == ATTACK else "train"
        X, y = real[f"X_{part}"], real[f"y_{part}"]
        names = (json.dumps([self.images.kind, *self.images.classes]), part)
        order = np.random.default_rng(spawned_seed(self.root_seed, *names)).permutation(len(y))
        held_out = min(models.N_HELD_OUT, len(y) // 5)
        if purpose == TRAINING:
            order = order[held_out:]
        elif purpose == HELD_OUT:
            order = order[:held_out]
        return X[order[:n]], y[order[:n]]


Distribution = Symmetric | Asymmetric | Real


def draw_seed(fitted: Fitted, purpose: str) -> int:
    """Return the seed with which samples of a fitted model are drawn."""
    return fitted.seed(fitted.root_seed, purpose)


def _on_threads(classifier: MFAClassifier, context: Context) -> MFAClassifier:
    classifier.set_params(n_threads=context.n_threads)
    return classifier
