"""How near an adversarial example can be at all: subspaces as sigma goes to 0, and the exact minimum."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from mfa_fast import MFA
from mfa_fast._typing import Array
from mfa_fast.experiments import paper
from mfa_fast.experiments.pictures import COLOURS, png
from mfa_fast.experiments.reproduce.attacked import AttackedModel, Bayes, Nearest
from mfa_fast.experiments.reproduce.cells import Cell, Context
from mfa_fast.experiments.reproduce.charts import draw_distance_histogram
from mfa_fast.experiments.reproduce.comparison import Comparison, claim, compare_distance
from mfa_fast.experiments.reproduce.distributions import ATTACK, Symmetric
from mfa_fast.experiments.reproduce.experiment import Experiment, Plan, Results
from mfa_fast.experiments.reproduce.images import ImageSets
from mfa_fast.experiments.reproduce.report import DataTable, Picture, Report
from mfa_fast.experiments.reproduce.robustness import (
    TOLERANCE_LEARNED,
    attack_on,
    symmetric,
)
from mfa_fast.experiments.reproduce.settings import Settings
from mfa_fast.experiments.tables import distance

SUBSPACE_SOURCE = "JMLR 22(221) 2021, histogram of distances to subspaces"


@dataclass(frozen=True)
class SubspaceDistances(Cell):
    """Distances of samples to the nearest affine subspace of the other class."""

    distribution: Symmetric
    samples: int

    @property
    def title(self) -> str:
        """What a progress bar says."""
        return f"{self.distribution.description}: distances to subspaces"

    def compute(self, context: Context) -> Array:
        """Project every sample onto every component of the other class."""
        X, y = self.distribution.draw(context, self.samples, ATTACK)
        classifier = self.distribution.classifier(context)
        nearest = np.empty(len(X))
        for label, other in zip(classifier.classes_, reversed(classifier.mixtures_), strict=True):
            own = y == label
            nearest[own] = distances_to_subspaces(other, X[own]).min(axis=1)
        return nearest


def distances_to_subspaces(mixture: MFA, X: Array) -> Array:
    """Return the distance of each sample to the mean plus the span of the loadings of each component, (n, K)."""
    distances = np.empty((len(X), len(mixture.weights_)))
    for k, (mean, loadings) in enumerate(zip(mixture.means_, mixture.loadings_, strict=True)):
        # In float64, and as a difference of vectors, not of squares: nothing cancels.
        basis, _ = np.linalg.qr(np.asarray(loadings, np.float64).T)
        residual = X - np.asarray(mean, np.float64)
        residual -= (residual @ basis) @ basis.T
        distances[:, k] = np.linalg.norm(residual, axis=1)
    return distances


def _subspace_sets(settings: Settings, images: ImageSets) -> list[Symmetric]:
    chosen = dict.fromkeys((*images.wanted_or("Male", stand_in=0), *images.digits))
    return [symmetric(image_set, settings) for image_set in chosen]


def _plan_subspace(settings: Settings, images: ImageSets) -> Plan:
    cells: dict[str, Cell] = {}
    for data_set in _subspace_sets(settings, images):
        cells[f"{data_set.images.name}: subspaces"] = SubspaceDistances(data_set, settings.subspace_samples)
        cells[f"{data_set.images.name}: attack"] = attack_on(Bayes(data_set), data_set, settings)
        cells[f"{data_set.images.name}: exact"] = Nearest(Bayes(data_set), data_set, settings.attack_samples)
    return cells


def _report_subspace(settings: Settings, images: ImageSets, results: Results) -> Report:
    sets = _subspace_sets(settings, images)
    figure = Figure(figsize=(8, 3.2 * len(sets)), layout="constrained")
    rows, comparisons = [], list[Comparison]()
    for axes, data_set in zip(np.ravel(figure.subplots(len(sets), 1)), sets, strict=True):
        name = data_set.images.name
        to_subspace: Array = results[f"{name}: subspaces"]
        attacked: AttackedModel = results[f"{name}: attack"]
        exact: AttackedModel = results[f"{name}: exact"]
        distances = {
            "to the nearest subspace": to_subspace,
            "half of it": to_subspace / 2,
            "LD-Grad": attacked.attack.l2[attacked.flipped],
            "exact minimum": exact.attack.l2[exact.flipped],
        }
        colours = {"LD-Grad": COLOURS["bayes_symmetric"], "exact minimum": "black", "half of it": COLOURS["rbf_svm"]}
        draw_distance_histogram(axes, distances, colours, "Distance")
        axes.set_title(name)
        means = {key: float(np.mean(value)) if value.size else math.nan for key, value in distances.items()}
        rows.append((name, *(distance(means[key]) for key in _SUBSPACE_COLUMNS)))
        if name == "CelebA Male":
            what = f"{name}: distance to the nearest subspace"
            mean = means["to the nearest subspace"]
            comparisons.append(compare_distance(what, mean, paper.SUBSPACE_MALE, SUBSPACE_SOURCE, TOLERANCE_LEARNED))
        if exact.flipped.any():
            comparisons.append(
                claim(
                    f"{name}: mean exact minimum, and half the distance to the nearest subspace",
                    "half bounds it from below as sigma goes to 0",
                    SUBSPACE_SOURCE,
                    f"{means['exact minimum']:.2f}, half {means['half of it']:.2f}",
                    means["exact minimum"] > 0.95 * means["half of it"],
                )
            )
    return Report(
        name="subspace",
        title="The distance to the nearest subspace of the other class",
        summary=f"{rows[0][0]}: {rows[0][1]} on average, half of which is {rows[0][2]}; the attack goes {rows[0][3]}.",
        paragraphs=(
            "As sigma goes to 0, an image is classified by which component's subspace it is nearest to. A sample lies "
            "on one of its own class; to be nearer to one of the other class it has to go at least half the distance "
            "to it.",
            *images.instead_of("CelebA Male"),
        ),
        tables=(DataTable("distances", ("Data set", *(f"Mean, {c}" for c in _SUBSPACE_COLUMNS)), tuple(rows)),),
        pictures=(
            Picture(
                "distances",
                png(figure),
                "Distances of samples to the nearest subspace of the other class, half of them, and how far the attack "
                "went.",
            ),
        ),
        comparisons=tuple(comparisons),
    )


_SUBSPACE_COLUMNS = ("to the nearest subspace", "half of it", "LD-Grad", "exact minimum")
SUBSPACE = Experiment(
    "subspace", "Distance to the nearest subspace of the other class", _plan_subspace, _report_subspace
)
