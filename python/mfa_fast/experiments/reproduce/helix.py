"""Figure 8: a mixture of factor analyzers on a helix in three dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d.art3d import Poly3DCollection

from mfa_fast import MFA, datasets
from mfa_fast._typing import Array
from mfa_fast.experiments.pictures import COLOURS, png
from mfa_fast.experiments.reproduce.cells import Cell, Context
from mfa_fast.experiments.reproduce.comparison import claim
from mfa_fast.experiments.reproduce.experiment import Plan, Results
from mfa_fast.experiments.reproduce.images import ImageSets
from mfa_fast.experiments.reproduce.report import DataTable, Picture, Report
from mfa_fast.experiments.reproduce.settings import Settings

N_COMPONENTS, N_FACTORS = 12, 2
NOISE_STD = 0.05
SPREAD = 1.5  # standard deviations to which the planes of components are drawn


@dataclass(frozen=True)
class HelixFit:
    """Points of a helix, a mixture that was fitted to them, and how far both are from it."""

    X: Array
    mixture: MFA
    samples: Array
    distance_of_points: float
    distance_of_samples: float


@dataclass(frozen=True)
class Helix(Cell):
    """A mixture fitted to points of a helix."""

    samples: int
    root_seed: int

    @property
    def title(self) -> str:
        """What a progress bar says."""
        return "helix"

    def compute(self, context: Context) -> HelixFit:
        """Fit, and draw from the fitted mixture."""
        X = datasets.helix(self.samples, noise_std=NOISE_STD, random_state=self.seed(self.root_seed, "points"))
        mixture = MFA(N_COMPONENTS, N_FACTORS, n_init=5, random_state=self.seed(self.root_seed, "fit")).fit(X)
        drawn, _ = mixture.sample(self.samples, random_state=self.seed(self.root_seed, "samples"))
        return HelixFit(X, mixture, drawn, _mean_distance(X), _mean_distance(drawn))


def _mean_distance(X: Array) -> float:
    """Return the mean distance to the curve itself, taken as a chain of close points."""
    turns = np.linspace(-0.2, 2.2, 3000)
    curve = np.stack([np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns), turns], axis=1)
    return float(np.mean([np.min(np.linalg.norm(curve - x, axis=1)) for x in X]))


def plan_figure_8(settings: Settings, images: ImageSets) -> Plan:
    """Return the cell of the fit."""
    return {"fit": Helix(2 * settings.toy.samples, settings.seed)}


def report_figure_8(settings: Settings, images: ImageSets, results: Results) -> Report:
    """Return what figure 8 shows."""
    fit = cast(HelixFit, results["fit"])
    rows = tuple(
        (str(k + 1), f"{weight:.3f}", *(f"{std:.3f}" for std in _standard_deviations(fit.mixture, k)))
        for k, weight in enumerate(fit.mixture.weights_)
    )
    return Report(
        name="fig8",
        title="A mixture of factor analyzers on a helix",
        summary=(
            f"{N_COMPONENTS} planes of {N_FACTORS} factors each follow a curve in three dimensions: their samples are "
            f"{fit.distance_of_samples:.3f} from it on average, the points that they were fitted to "
            f"{fit.distance_of_points:.3f}."
        ),
        paragraphs=(
            "Each component is a Gaussian on a plane of its own, the latent dimension being 2, with noise around it.",
        ),
        tables=(
            DataTable(
                "components",
                ("Component", "Weight", "Larger factor", "Smaller factor", "Noise"),
                rows,
                "Standard deviations along the two directions of each plane, and off it.",
            ),
        ),
        pictures=(
            Picture(
                "helix",
                _draw(fit),
                f"Left: points of the helix and the components' planes, to {SPREAD} standard deviations. Right: "
                "samples of the fitted mixture.",
            ),
        ),
        comparisons=(
            claim(
                "Samples of the mixture",
                "lie along the helix",
                "ICLR 2020 submission, figure 8",
                f"mean distance {fit.distance_of_samples:.3f}, of the points {fit.distance_of_points:.3f}",
                fit.distance_of_samples < 2 * fit.distance_of_points,
            ),
        ),
    )


def _standard_deviations(mixture: MFA, k: int) -> tuple[float, float, float]:
    along = np.linalg.svd(mixture.loadings_[k], compute_uv=False)
    noise = float(mixture.noise_variance_[k].mean())
    return (*(float(np.sqrt(length**2 + noise)) for length in along), float(np.sqrt(noise)))  # type: ignore[return-value]


def _draw(fit: HelixFit) -> bytes:
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    left, right = (figure.add_subplot(1, 2, place, projection="3d") for place in (1, 2))
    left.plot(*fit.X.T, ".", color=COLOURS["bayes_symmetric"], markersize=2, alpha=0.45)
    right.plot(*fit.samples.T, ".", color=COLOURS["bayes_asymmetric"], markersize=2, alpha=0.45)
    for mean, loadings in zip(fit.mixture.means_, fit.mixture.loadings_, strict=True):
        _, lengths, directions = np.linalg.svd(loadings, full_matrices=False)
        first, second = SPREAD * lengths[:, None] * directions
        corners = [mean + a * first + b * second for a, b in ((1, 1), (1, -1), (-1, -1), (-1, 1))]
        left.add_collection3d(
            Poly3DCollection([corners], facecolor=COLOURS["linear_svm"], edgecolor="black", alpha=0.45, linewidth=0.8)
        )
    for axes, title in ((left, "Data, and the planes of the components"), (right, "Samples of the mixture")):
        axes.set_title(title, fontsize=12, fontweight="bold", y=0.97)
        axes.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), zlim=(-0.2, 2.2), xticks=[-1, 0, 1], yticks=[-1, 0, 1])
        axes.set_zticks([0, 1, 2])
        # From nearly the side: from further up, the back of a turn would be as high as its front.
        axes.view_init(elev=6, azim=-60)
        axes.set_box_aspect((1, 1, 1.3))
    return png(figure)
