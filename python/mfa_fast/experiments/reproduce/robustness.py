"""Which classifiers are attacked on which data, and how the outcome is put into tables and beside the paper."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mfa_fast.experiments import paper
from mfa_fast.experiments.config import PAPER_ASYMMETRIC_NOISE_STD
from mfa_fast.experiments.paper import PaperFigure
from mfa_fast.experiments.reproduce.attacked import NAMES, AttackedModel, Bayes, LdGrad, exact_minimum
from mfa_fast.experiments.reproduce.cells import Cell
from mfa_fast.experiments.reproduce.comparison import Comparison, compare_distance, compare_order, compare_share
from mfa_fast.experiments.reproduce.distributions import Asymmetric, Distribution, Fitted, Real, Symmetric
from mfa_fast.experiments.reproduce.experiment import Results
from mfa_fast.experiments.reproduce.images import ImageSet
from mfa_fast.experiments.reproduce.learners import Gamma, LinearMachine, RbfMachine
from mfa_fast.experiments.reproduce.network_cells import Accuracy, CarliniWagner, Network, network
from mfa_fast.experiments.reproduce.report import DataTable
from mfa_fast.experiments.reproduce.settings import Settings
from mfa_fast.experiments.tables import distance, percent

Model = Bayes | LinearMachine | RbfMachine | Network

# A figure agrees with the paper's within these.
TOLERANCE_BAYES, TOLERANCE_LEARNED, TOLERANCE_SHARE = 0.15, 0.40, 0.05
LITTLE = 0.5  # by how much a network may change where the paper says that it hardly does
# The keys of the paper's figures.
PAPER_KEYS = {"bayes": "bayes_symmetric", "cnn": "cnn", "linear_svm": "linear_svm", "rbf_svm": "rbf_svm"}
# On every symmetric data set of the paper, and on its real ones but for one attribute; for those that it does not have.
PAPER_ORDER = {"bayes": 4.0, "rbf_svm": 3.0, "cnn": 2.0, "linear_svm": 1.0}
ORDER_SOURCE, REAL_ORDER_SOURCE = "ICLR 2020 submission, figure 6", f"{paper.FIGURE_12_SOURCE}; {paper.CIFAR_SOURCE}"
HEADER = ("Data set", "Classifier", "Accuracy", "Under attack", "Mean L2", "Median L2", "Exact minimum", "Paper")
NOTE = (
    "Accuracy: before the attack. Under attack: share that the attack left correctly classified. Median L2: failed "
    "attacks counted as infinitely far. Exact minimum: mean distance to the nearest adversarial example, for "
    "classifiers for which it can be found. LD-Grad attacks all but the CNN, which CW-L2 does, on fewer samples."
)


def symmetric(images: ImageSet, settings: Settings) -> Symmetric:
    """Return the symmetric data set that the settings ask for."""
    return Symmetric(Fitted.of(images, settings), settings.noise_std)


def asymmetric(images: ImageSet, settings: Settings) -> Asymmetric:
    """Return the asymmetric one."""
    return Asymmetric(Fitted.of(images, settings), settings.asymmetric_noise_std)


def model_of(key: str, distribution: Distribution, settings: Settings) -> Model:
    """Return the classifier of a key, trained on a distribution or optimal for it."""
    if key == "bayes":
        if isinstance(distribution, Real):
            msg = "of real images no Bayes-optimal classifier is known"
            raise ValueError(msg)
        return Bayes(distribution)
    if key == "cnn":
        return network(distribution, settings)
    if key == "linear_svm":
        return LinearMachine(distribution, settings.train_samples, settings.seed)
    return RbfMachine(distribution, settings.train_samples, settings.gamma, settings.svm_steps)


def attack_on(model: Model, distribution: Distribution, settings: Settings) -> Cell:
    """Return the paper's attack on a classifier: CW-L2 for networks, LD-Grad for all others."""
    if isinstance(model, Bayes | LinearMachine | RbfMachine):
        steps = settings.steps if isinstance(model, Bayes) else settings.svm_steps
        return LdGrad(model, distribution, settings.attack_samples, steps)
    return CarliniWagner.of(model, distribution, settings)


def keys(distribution: Distribution, settings: Settings) -> tuple[str, ...]:
    """Return the classifiers that are compared on a distribution."""
    return tuple(key for key in settings.classifiers if key != "bayes" or not isinstance(distribution, Real))


def plan_attacks(distributions: Iterable[Distribution], settings: Settings) -> dict[str, Cell]:
    """Return the attacks on all classifiers of all distributions, and the exact minima, by label."""
    cells: dict[str, Cell] = {}
    for distribution in distributions:
        for key in keys(distribution, settings):
            model = model_of(key, distribution, settings)
            cells |= plan_attack(label(distribution, key), model, distribution, settings)
            exact = exact_minimum(model, distribution, settings.attack_samples)
            if exact is not None:
                cells[label(distribution, key, exact=True)] = exact
    return cells


def plan_attack(name: str, model: Model, distribution: Distribution, settings: Settings) -> dict[str, Cell]:
    """Return the attack on a classifier and what else a row says of it, by label.

    Of a network that is its accuracy on more samples than are attacked, of an RBF machine its gamma.
    """
    cells = {name: attack_on(model, distribution, settings)}
    if isinstance(model, RbfMachine):
        cells[gamma_label(name)] = Gamma(model)
    if isinstance(model, Network):
        cells[accuracy_label(name)] = Accuracy(model, distribution, settings.attack_samples)
    return cells


def label(distribution: Distribution, key: str, *, exact: bool = False) -> str:
    """Return the name of a cell in a plan."""
    return f"{distribution.description}: {key}{', exact' if exact else ''}"


def accuracy_label(name: str) -> str:
    """Return the name of a network's accuracy in a plan, from that of the attack on it."""
    return f"{name}, accuracy"


def gamma_label(name: str) -> str:
    """Return the name of an RBF machine's gamma in a plan, from that of the attack on it."""
    return f"{name}, gamma"


@dataclass(frozen=True)
class Row:
    """One classifier of one data set under attack."""

    distribution: Distribution
    key: str
    attacked: AttackedModel
    exact: AttackedModel | None
    accuracy: float
    gamma: float | None = None

    @property
    def name(self) -> str:
        """The classifier, in words."""
        return NAMES[self.key]

    @property
    def title(self) -> str:
        """The same and, of an RBF machine, its gamma."""
        return self.name if self.gamma is None else f"{self.name}, gamma {self.gamma:.4g}"

    @property
    def paper(self) -> PaperFigure | None:
        """The paper's mean L2, if it has one."""
        return paper_figures(self.distribution).get(self.key)

    @property
    def mean_l2(self) -> float:
        """Mean over successful attacks on samples that were classified correctly."""
        return self.attacked.mean_l2

    @property
    def exact_mean(self) -> float:
        """Mean distance to the nearest adversarial example; nan where it is not known."""
        return math.nan if self.exact is None else self.exact.mean_l2

    def cells(self) -> tuple[str, ...]:
        """Return the cells of `HEADER`."""
        summary = self.attacked.summary
        return (
            data_set_name(self.distribution),
            self.title,
            percent(self.accuracy),
            percent(summary["adversarial_accuracy"]),
            distance(self.mean_l2),
            distance(summary["median_l2"]),
            distance(self.exact_mean),
            "-" if self.paper is None else distance(self.paper.mean_l2),
        )


def data_set_name(distribution: Distribution) -> str:
    """Return what a row says of its data: no noise level, which is the same in all rows."""
    kind = {Symmetric: "symmetric", Asymmetric: "asymmetric", Real: "real"}[type(distribution)]
    return f"{distribution.images.name}, {kind}"


def rows_of(distributions: Iterable[Distribution], settings: Settings, results: Results) -> list[Row]:
    """Return the rows of what `plan_attacks` planned."""
    return [
        row_of(distribution, key, results) for distribution in distributions for key in keys(distribution, settings)
    ]


def row_of(distribution: Distribution, key: str, results: Results) -> Row:
    """Return the row of one classifier."""
    name = label(distribution, key)
    attacked: AttackedModel = results[name]
    exact = results.get(label(distribution, key, exact=True))
    accuracy = results.get(accuracy_label(name), attacked.summary["accuracy"])
    return Row(distribution, key, attacked, exact, accuracy, results.get(gamma_label(name)))


def paper_figures(distribution: Distribution) -> Mapping[str, PaperFigure]:
    """Return the paper's mean L2 of each classifier of a data set, by our keys."""
    images = distribution.images
    if isinstance(distribution, Real):
        return paper.real_figures(images.name)
    if images.kind not in ("mnist", "celeba"):
        return {}
    known = paper.celeba_figures(images.attribute) if images.attribute else paper.mnist_figures(images.pair)
    if isinstance(distribution, Asymmetric):
        usual = distribution.noise_std == PAPER_ASYMMETRIC_NOISE_STD
        return {"bayes": known["bayes_asymmetric"]} if usual and "bayes_asymmetric" in known else {}
    return {key: known[theirs] for key, theirs in PAPER_KEYS.items() if theirs in known}


def table_of(rows: Sequence[Row], name: str = "attacks") -> DataTable:
    """Return the main table of an experiment."""
    return DataTable(name, HEADER, tuple(row.cells() for row in rows), NOTE)


def compare_rows(rows: Sequence[Row]) -> list[Comparison]:
    """Hold every mean L2 beside the paper's, and per data set the order of the classifiers."""
    comparisons = []
    for row in rows:
        figure = row.paper
        if figure is not None:
            tolerance = TOLERANCE_BAYES if row.key == "bayes" else TOLERANCE_LEARNED
            what = f"{data_set_name(row.distribution)}, {row.name}: mean L2"
            comparisons.append(compare_distance(what, row.mean_l2, figure.mean_l2, figure.source, tolerance))
    for distribution in dict.fromkeys(row.distribution for row in rows):
        own = {row.key: row.mean_l2 for row in rows if row.distribution == distribution}
        if len(own) > 1:
            comparisons.append(_order(distribution, own))
    return comparisons


def _order(distribution: Distribution, own: Mapping[str, float]) -> Comparison:
    figures = paper_figures(distribution)
    known = {NAMES[key]: figure.mean_l2 for key, figure in figures.items()}
    usual = {NAMES[key]: rank for key, rank in PAPER_ORDER.items()}
    usual_source = REAL_ORDER_SOURCE if isinstance(distribution, Real) else ORDER_SOURCE
    source = "; ".join(sorted({figure.source for figure in figures.values()})) or usual_source
    ours = {NAMES[key]: value for key, value in own.items()}
    return compare_order(
        f"{data_set_name(distribution)}: order of mean L2", ours, known or usual, source, same_data=bool(known)
    )


def compare_accuracies(rows: Sequence[Row]) -> list[Comparison]:
    """Hold clean and adversarial accuracies beside those of table 1."""
    comparisons = []
    for row in rows:
        shares = paper.clean_and_adversarial_accuracy(row.distribution.images.name, PAPER_KEYS[row.key])
        if shares is None or not isinstance(row.distribution, Symmetric):
            continue
        summary = row.attacked.summary
        ours = (row.accuracy, summary["adversarial_accuracy"])
        for words, own, theirs in zip(("accuracy", "under attack"), ours, shares, strict=True):
            what = f"{data_set_name(row.distribution)}, {row.name}: {words}"
            source = "ICLR 2020 submission, table 1"
            comparisons.append(compare_share(what, own, theirs, source, TOLERANCE_SHARE))
    return comparisons


def common_rows(attacked: Sequence[AttackedModel], per_class: int) -> list[int]:
    """Return the first samples of each class that every classifier got right and every attack flipped."""
    n = min(len(model.y) for model in attacked)
    flipped = np.logical_and.reduce([model.flipped[:n] for model in attacked])
    y = attacked[0].y[:n]
    chosen: list[int] = []
    for value in np.unique(y):
        own = np.flatnonzero(y == value)
        # Rather one that a classifier got wrong, or an attack failed on, than none.
        chosen += [int(i) for i in own[np.argsort(~flipped[own], kind="stable")][:per_class]]
    return chosen
