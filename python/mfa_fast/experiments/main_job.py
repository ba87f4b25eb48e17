"""The main job: the robustness of the Bayes-optimal classifier, and of what learns from its data.

Fit a mixture of factor analyzers (MFA) to each class of real images, make a symmetric and an
asymmetric data set of known distribution from them, train support vector machines on the symmetric
one, and attack all classifiers.
"""

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.svm import SVC, LinearSVC

import mfa_fast
from mfa_fast import MFAClassifier, datasets
from mfa_fast._typing import Array
from mfa_fast.attacks import AttackResult, ld_grad, nearest
from mfa_fast.experiments import models, paper
from mfa_fast.experiments.config import PAPER_ASYMMETRIC_NOISE_STD, RunConfig
from mfa_fast.experiments.models import GammaTrial

Progress = Callable[[str, int, int], None]

# Key, title and data set of the classifiers, in the order of every table and figure.
# A table may show one more, see `RunResult.same_noise`.
MODELS: dict[str, tuple[str, str]] = {
    "bayes_symmetric": ("Bayes, symmetric", "symmetric"),
    "bayes_asymmetric": ("Bayes, asymmetric", "asymmetric"),
    "linear_svm": ("Linear SVM", "symmetric"),
    "rbf_svm": ("RBF SVM", "symmetric"),
}
SAME_NOISE = "bayes_asymmetric_same_noise"
STAGES = (
    "load the images",
    "fit one mixture per class",
    "draw the data sets",
    "train the linear SVM",
    "search gamma of the RBF SVM",
    "train the RBF SVM",
    *(f"attack: {title}" for title, _ in MODELS.values()),
)
N_GALLERY = 6  # images per class in the pictures of the data sets


@dataclass(frozen=True)
class ModelResult:
    """A classifier under attack: what it was shown, what it said, what the attack found, and what there is to find."""

    key: str
    title: str
    data_set: str
    noise_std: float
    X: Array
    y: Array
    predicted: Array
    attack: AttackResult
    summary: dict[str, float]
    nearest: AttackResult
    paper: paper.PaperFigure | None
    seconds: float
    nearest_seconds: float

    @property
    def row_title(self) -> str:
        """The title in tables, where asymmetric data sets of two noise levels may stand."""
        return f"{self.title}, noise {self.noise_std:g}" if self.data_set == "asymmetric" else self.title


@dataclass(frozen=True)
class RunResult:
    """All that the main job found; `mfa_fast.experiments.write_report` writes it to a folder.

    `same_noise` is the Bayes-optimal classifier of asymmetric data with the noise of the symmetric ones; None where
    that is the noise of ``models[1]`` already. It has a row in every table, but no picture: those compare four.
    """

    config: RunConfig
    data_name: str
    class_names: tuple[str, ...]
    classes: Array
    image_shape: tuple[int, ...]
    n_real: int
    galleries: dict[str, tuple[Array, Array]]
    models: tuple[ModelResult, ...]
    same_noise: ModelResult | None
    gamma: float
    gamma_trials: tuple[GammaTrial, ...]
    em_iterations: tuple[int, ...]
    seconds: dict[str, float]
    versions: dict[str, str]

    @property
    def rows(self) -> tuple[ModelResult, ...]:
        """The classifiers in the order of the tables."""
        extra = () if self.same_noise is None else (self.same_noise,)
        return (*self.models[:2], *extra, *self.models[2:])


def load_images(data: Path | None, pair: tuple[int, int], attribute: str | None, size: int) -> Any:
    """Load two classes of images: faces if an attribute is named, else digits, bundled or MNIST."""
    if attribute is not None:
        if data is None:
            msg = "attribute needs data: the folder that holds CelebA"
            raise ValueError(msg)
        return datasets.load_celeba(data, attribute, size=size)
    if data is not None:
        return datasets.load_mnist_pair(*pair, data=data)
    return datasets.load_digits_pair(*pair)


def run(config: RunConfig, progress: Progress = lambda stage, done, total: None) -> RunResult:
    """Run the main job.

    Parameters
    ----------
    config : RunConfig
    progress : callable
        Called as ``progress(stage, done, total)`` when a stage of `STAGES` starts (``done`` 0),
        advances and ends. The stage of the second asymmetric data set comes only where there is one.

    Returns
    -------
    RunResult

    Examples
    --------
    >>> from mfa_fast.experiments import RunConfig, run
    >>> result = run(RunConfig(attack_samples=50, train_samples=200))  # doctest: +SKIP
    >>> result.models[0].summary["mean_l2"]  # doctest: +SKIP
    """
    clock = _Clock(progress)
    with clock("load the images"):
        real = load_images(config.data, config.pair, config.attribute, config.size)
        components, factors = config.mixture_size(real.y_train)
        config = replace(config, components=components, factors=factors)
    with clock("fit one mixture per class"):
        fitted = models.fit_mixtures(
            real.X_train,
            real.y_train,
            components,
            factors,
            max_iter=config.max_iter,
            seed=config.seed,
            n_threads=config.n_threads,
        )
    with clock("draw the data sets"):
        symmetric = fitted.symmetric(config.noise_std)
        asymmetric = models.asymmetric_classifier(fitted, real.X_train, config.asymmetric_noise_std)
        # Seeds of their own: no sample of one set is one of another.
        for_training, for_search, for_attack = (config.seed + k for k in (1, 2, 3))
        train = symmetric.sample(config.train_samples, random_state=for_training)
        held_out = symmetric.sample(models.N_HELD_OUT, random_state=for_search)
        samples = {
            "symmetric": symmetric.sample(config.attack_samples, random_state=for_attack),
            "asymmetric": asymmetric.sample(config.attack_samples, random_state=for_attack),
        }
        galleries = {
            "Real images": _first_of_each(real.X_train, real.y_train),
            "Symmetric, no noise": _first_of_each(
                *symmetric.sample(config.attack_samples, noise=False, random_state=for_attack)
            ),
            "Symmetric, with noise": _first_of_each(*samples["symmetric"]),
            "Asymmetric, with noise": _first_of_each(
                *samples["asymmetric"], last=models.from_outlier(asymmetric, *samples["asymmetric"])
            ),
        }
    with clock("train the linear SVM"):
        linear = models.train_linear_svm(*train, seed=config.seed)
    gamma, trials = config.gamma, list[GammaTrial]()
    with clock("search gamma of the RBF SVM") as advance:
        if gamma is None:
            gamma, trials = models.search_gamma(
                train, held_out, attack_steps=config.svm_steps, n_threads=config.n_threads, progress=advance
            )
    with clock("train the RBF SVM"):
        rbf = models.train_rbf_svm(*train, gamma)

    attack = partial(_attack, config, _paper_figures(config))
    classifiers = {
        "bayes_symmetric": symmetric,
        "bayes_asymmetric": asymmetric,
        "linear_svm": linear,
        "rbf_svm": rbf,
    }
    results = []
    for key, (title, data_set) in MODELS.items():
        with clock(f"attack: {title}"):
            results.append(attack(key, classifiers[key], *samples[data_set]))
    same_noise = None
    if config.noise_std != config.asymmetric_noise_std:
        with clock(f"attack: {MODELS['bayes_asymmetric'][0]}, noise {config.noise_std:g}"):
            other = models.asymmetric_classifier(fitted, real.X_train, config.noise_std)
            same_noise = attack(SAME_NOISE, other, *other.sample(config.attack_samples, random_state=for_attack))
    return RunResult(
        config=config,
        data_name=str(real.name),
        class_names=tuple(str(name) for name in real.target_names),
        classes=fitted.classes_,
        image_shape=tuple(real.image_shape),
        n_real=len(real.X_train),
        galleries=galleries,
        models=tuple(results),
        same_noise=same_noise,
        gamma=float(gamma),
        gamma_trials=tuple(trials),
        em_iterations=tuple(int(mixture.n_iter_) for mixture in fitted.mixtures_),
        seconds=clock.seconds,
        versions=_versions(),
    )


class _Clock:
    """Times the stages of a run and tells `progress` of them."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[Callable[[int, int], None]]:
        self.progress(stage, 0, 1)
        start = time.perf_counter()
        yield partial(self.progress, stage)
        self.seconds[stage] = time.perf_counter() - start
        self.progress(stage, 1, 1)


def _attack(
    config: RunConfig,
    figures: dict[str, paper.PaperFigure],
    key: str,
    classifier: MFAClassifier | SVC | LinearSVC,
    X: Array,
    y: Array,
) -> ModelResult:
    title, data_set = MODELS["bayes_asymmetric" if key == SAME_NOISE else key]
    steps = config.steps if isinstance(classifier, MFAClassifier) else config.svm_steps
    start = time.perf_counter()
    attack = ld_grad(classifier, X, y, steps=steps, n_threads=config.n_threads)
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    exact = nearest(classifier, X, y, steps=steps, n_threads=config.n_threads)
    nearest_seconds = time.perf_counter() - start
    return ModelResult(
        key=key,
        title=title,
        data_set=data_set,
        noise_std=config.asymmetric_noise_std if key == "bayes_asymmetric" else config.noise_std,
        X=X,
        y=y,
        predicted=classifier.predict(X),
        attack=attack,
        summary=attack.summary(),
        nearest=exact,
        paper=figures.get(key),
        seconds=seconds,
        nearest_seconds=nearest_seconds,
    )


def _paper_figures(config: RunConfig) -> dict[str, paper.PaperFigure]:
    if config.attribute is not None:
        figures = paper.celeba_figures(config.attribute)
    else:
        figures = {} if config.data is None else paper.mnist_figures(config.pair)
    if config.asymmetric_noise_std != PAPER_ASYMMETRIC_NOISE_STD:
        figures.pop("bayes_asymmetric", None)
    return figures


def _first_of_each(X: Array, y: Array, last: Array | None = None) -> tuple[Array, Array]:
    """Return the first images of each class, of those marked in `last` only one, at the end."""
    marked = np.zeros(len(y), dtype=bool) if last is None else last
    chosen = []
    for label in np.unique(y):
        final = np.flatnonzero((y == label) & marked)[:1]
        chosen += [np.flatnonzero((y == label) & ~marked)[: N_GALLERY - len(final)], final]
    rows = np.concatenate(chosen)
    return X[rows], y[rows]


def _versions() -> dict[str, str]:
    names = ("numpy", "scipy", "scikit-learn", "matplotlib")
    return {
        "mfa_fast": mfa_fast.__version__,
        **{name: version(name) for name in names},
        "python": platform.python_version(),
    }
