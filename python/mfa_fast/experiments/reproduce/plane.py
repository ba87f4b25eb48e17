"""Figures 2 and 5: distributions in the plane, their decision boundaries, and how far samples are from these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from contourpy import contour_generator
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from scipy.ndimage import distance_transform_cdt
from scipy.spatial import cKDTree
from sklearn.linear_model import SGDClassifier

from mfa_fast._typing import Array
from mfa_fast.datasets import discrete_toy, gaussian_toy
from mfa_fast.datasets.toys import EXTENT
from mfa_fast.experiments.pictures import png
from mfa_fast.experiments.reproduce.cells import Cell, Context
from mfa_fast.experiments.reproduce.comparison import Comparison, claim
from mfa_fast.experiments.reproduce.experiment import Plan, Results
from mfa_fast.experiments.reproduce.images import ImageSets
from mfa_fast.experiments.reproduce.report import DataTable, Picture, Report
from mfa_fast.experiments.reproduce.settings import Settings

Kind = Literal["spherical", "elliptical", "discrete", "mixture"]

KINDS: dict[Kind, str] = {
    "spherical": "Spherical Gaussians",
    "elliptical": "Elliptical Gaussians",
    "discrete": "Discrete",
    "mixture": "Mixtures",
}
TICKS = (-10, -5, 0, 5, 10)  # the paper's, in the units of the distances
CLASS_COLOURS = ("#0072B2", "#D55E00")
GRID = 801  # points per side on which boundaries are found
MARGIN = 1.3
PER_STEP = 20  # points per step of the grid from which distances are measured
SHADED = 401
SOURCE = "ICLR 2020 submission, figure "


@dataclass(frozen=True)
class PlaneSamples:
    """Samples of two classes in the plane and a classifier's boundary.

    Attributes
    ----------
    X, y, predicted : ndarray of shape (n, 2), (n,) and (n,)
    distances : ndarray of shape (n,)
        To the boundary; nan for what is misclassified.
    boundary : tuple of ndarray of shape (m, 2)
        Lines.
    regions : ndarray of shape (side, side), int8
        The predicted class over the square, rows upwards.
    unit : str
        Of the distances.
    """

    X: Array
    y: Array
    predicted: Array
    distances: Array
    boundary: tuple[Array, ...]
    regions: Array
    unit: str

    def median(self, label: int) -> float:
        """Return the median distance of a class."""
        return float(np.nanmedian(self.distances[self.y == label]))


@dataclass(frozen=True)
class BayesInPlane(Cell):
    """A toy distribution and its Bayes-optimal classifier."""

    kind: Kind
    robust: bool
    samples: int
    root_seed: int

    @property
    def title(self) -> str:
        """What a progress bar says."""
        return f"plane: {self.kind}, {'robust' if self.robust else 'vulnerable'}"

    def compute(self, context: Context) -> PlaneSamples:
        """Draw samples and measure their distances."""
        seed = self.seed(self.root_seed, "samples")
        if self.kind == "discrete":
            return _discrete(self.robust, 2 * self.samples, seed)
        classifier = gaussian_toy(self.kind, self.robust)
        X, y = classifier.sample(2 * self.samples, random_state=seed)
        return _continuous(X, y, classifier.predict(X), classifier.decision_function)


@dataclass(frozen=True)
class BadLearner(Cell):
    """A linear classifier that stops learning, from a bad start, as soon as all its samples are on the right side."""

    samples: int
    root_seed: int

    @property
    def title(self) -> str:
        """What a progress bar says."""
        return "plane: learn badly"

    def compute(self, context: Context) -> PlaneSamples:
        """Draw symmetric samples, learn, and measure distances."""
        seed = self.seed(self.root_seed, "samples")
        X, y = gaussian_toy("elliptical", robust=True).sample(2 * self.samples, random_state=seed)
        learner = SGDClassifier(loss="perceptron", penalty=None, learning_rate="constant", eta0=0.005, random_state=0)
        # Perceptron steps are taken for misclassified samples only: with the last of them learning ends.
        learner.fit(X, y, coef_init=np.array([[0.5, 1.5]]), intercept_init=np.zeros(1))
        return _continuous(X, y, learner.predict(X), learner.decision_function)


def _continuous(X: Array, y: Array, predicted: Array, decision: Callable[[Array], Array]) -> PlaneSamples:
    # Beyond the samples, so that the boundary near the outermost is found as well.
    reach = MARGIN * max(EXTENT, float(np.abs(X).max()))
    axis, scores = _on_grid(decision, reach, GRID)
    lines = contour_generator(axis, axis, scores).lines(0.0)
    boundary = tuple(np.asarray(line) for line in lines)
    distances, _ = cKDTree(np.concatenate([_dense(line) for line in boundary])).query(X)
    regions = (_on_grid(decision, EXTENT, SHADED)[1] > 0).astype(np.int8)
    return PlaneSamples(X, y, predicted, np.where(predicted == y, distances, np.nan), boundary, regions, "")


def _on_grid(decision: Callable[[Array], Array], reach: float, side: int) -> tuple[Array, Array]:
    """Return an axis from -reach to reach, and the decision function on the square over it."""
    axis = np.linspace(-reach, reach, side)
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    return axis, np.asarray(decision(points)).reshape(side, side)


def _dense(line: Array) -> Array:
    """Return points along a line that are much nearer to each other than the grid's."""
    places = np.arange(PER_STEP * (len(line) - 1) + 1) / PER_STEP
    corners = np.arange(len(line))
    return np.stack([np.interp(places, corners, coordinate) for coordinate in line.T], axis=1)


def _discrete(robust: bool, n: int, seed: int) -> PlaneSamples:
    toy = discrete_toy(robust)
    features, y = toy.sample(n, random_state=seed)
    levels = len(toy.levels)
    regions = toy.predict(np.indices((levels, levels)).reshape(2, -1).T).reshape(levels, levels)
    # One feature changes by one level at a time, so steps are counted along the axes.
    steps = np.where(
        regions == 0,
        distance_transform_cdt(regions == 0, metric="taxicab"),
        distance_transform_cdt(regions == 1, metric="taxicab"),
    )
    first, second = features.T
    predicted = regions[first, second]
    distances = np.where(predicted == y, steps[first, second], np.nan)
    return PlaneSamples(toy.levels[features], y, predicted, distances, (), regions.T.astype(np.int8), " levels")


def plan_figure_2(settings: Settings, images: ImageSets) -> Plan:
    """Return the cells of the eight distributions."""
    toy = settings.toy
    return {
        f"{kind} {robust}": BayesInPlane(kind, robust, toy.samples, settings.seed)
        for robust in (True, False)
        for kind in KINDS
    }


def report_figure_2(settings: Settings, images: ImageSets, results: Results) -> Report:
    """Return what figure 2 shows."""
    figure = Figure(figsize=(13, 6.6), layout="constrained")
    grid = figure.subplots(2, len(KINDS), squeeze=False)
    for row, robust in zip(grid, (True, False), strict=True):
        for axes, (kind, name) in zip(row, KINDS.items(), strict=True):
            _draw_plane(axes, results[f"{kind} {robust}"], name if robust else "")
        row[0].set_ylabel("robust" if robust else "vulnerable", fontsize=11)
    rows, comparisons = [], []
    for kind, name in KINDS.items():
        robust, vulnerable = results[f"{kind} True"], results[f"{kind} False"]
        for words, plane in (("robust", robust), ("vulnerable", vulnerable)):
            rows.append((name, words, *(_distance(plane, label) for label in (0, 1)), _accuracy(plane)))
        comparisons.append(_nearer(name, robust, vulnerable))
    histograms = _distance_histograms(
        {f"{name}, {words}": results[f"{kind} {robust}"] for words, robust in (("robust", True), ("vulnerable", False))
         for kind, name in KINDS.items()}
    )  # fmt: skip
    return Report(
        name="fig2",
        title="Where the boundary is near, and where it is not",
        summary="The same kinds of distribution, with a boundary far from the samples or close to them.",
        paragraphs=(
            "Two classes in the plane, whose distributions are known, and the boundary (black) of the best possible "
            "classifier. Above, all components have the same minimal variance: the samples are far from the boundary. "
            "Below, one class (blue) has a direction of hardly any variance and the other does not; in mixtures, a "
            "rare and wide component in each class is enough. There nearly every sample of a narrow component is "
            "close to the boundary, although the classes are about as easy to tell apart.",
        ),
        tables=(
            DataTable(
                "distances",
                ("Distribution", "Row", "Median distance, blue", "Median distance, orange", "Accuracy"),
                tuple(rows),
                "Distance of correctly classified samples to the boundary; of discrete ones in quantisation levels.",
            ),
        ),
        pictures=(
            Picture(
                "distributions",
                png(figure),
                "Samples, and the regions in which the best classifier decides for either class. In the lower row the "
                "boundary hugs the samples of the blue class, of mixtures those of both.",
            ),
            Picture("distances", histograms, "How far the samples are from the boundary, on a logarithmic scale."),
        ),
        comparisons=tuple(comparisons),
    )


def _nearer(name: str, robust: PlaneSamples, vulnerable: PlaneSamples) -> Comparison:
    far, near = robust.median(0), vulnerable.median(0)
    return claim(
        f"{name}: median distance, blue class",
        "far where robust, near where vulnerable",
        f"{SOURCE}2",
        f"{far:.2g} and {near:.2g}{robust.unit}",
        near < far / 3,
    )


def plan_figure_5(settings: Settings, images: ImageSets) -> Plan:
    """Return the cells of the two reasons."""
    toy = settings.toy
    return {
        "asymmetric": BayesInPlane("elliptical", False, toy.samples, settings.seed),
        "symmetric": BayesInPlane("elliptical", True, toy.samples, settings.seed),
        "bad learner": BadLearner(toy.samples, settings.seed),
    }


def report_figure_5(settings: Settings, images: ImageSets, results: Results) -> Report:
    """Return what figure 5 shows."""
    asymmetric, symmetric, learned = (results[name] for name in ("asymmetric", "symmetric", "bad learner"))
    titles = ("Asymmetric distributions", "Non-optimal learning")
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    for axes, title, plane in zip(figure.subplots(1, 2), titles, (asymmetric, learned), strict=True):
        _draw_plane(axes, plane, title)
    axes = figure.axes[1]
    for line in symmetric.boundary:
        axes.plot(*line.T, color="black", linestyle="--", linewidth=1.2)
    limit = np.nanmin(symmetric.distances) / 2
    rows = tuple(
        (name, f"{np.nanmin(plane.distances):.3f}", _distance(plane, 0), _distance(plane, 1), _accuracy(plane))
        for name, plane in (
            ("asymmetric data, best classifier", asymmetric),
            ("symmetric data, best classifier", symmetric),
            ("symmetric data, bad learner", learned),
        )
    )
    return Report(
        name="fig5",
        title="Two reasons for being brittle",
        summary="A boundary passes close to samples because the data are asymmetric, or because learning was bad.",
        paragraphs=(
            "Left: the best classifier of asymmetric data, whose boundary hugs the blue samples. Right: symmetric "
            "data, whose best classifier (dashed) keeps away from all samples, and a linear classifier (solid) that "
            "began badly and stopped learning as soon as no training sample was on the wrong side.",
        ),
        tables=(
            DataTable(
                "distances",
                ("Classifier", "Least distance", "Median distance, blue", "Median distance, orange", "Accuracy"),
                rows,
            ),
        ),
        pictures=(
            Picture("two-reasons", png(figure), "Two classifiers without an error, both close to some of the samples."),
        ),
        comparisons=(
            claim(
                "Asymmetric data: median distance, blue class",
                "near",
                f"{SOURCE}5",
                f"{asymmetric.median(0):.2g}, of symmetric data {symmetric.median(0):.2g}",
                asymmetric.median(0) < symmetric.median(0) / 3,
            ),
            claim(
                "Bad learner: least distance",
                "near",
                f"{SOURCE}5",
                f"{np.nanmin(learned.distances):.2g}, of the best classifier {2 * limit:.2g}",
                bool(np.nanmin(learned.distances) < limit),
            ),
        ),
    )


def _draw_plane(axes: Axes, plane: PlaneSamples, title: str) -> None:
    axes.imshow(
        plane.regions,
        extent=(-EXTENT, EXTENT, -EXTENT, EXTENT),
        origin="lower",
        cmap=ListedColormap(CLASS_COLOURS),
        alpha=0.15,
        vmin=0,
        vmax=1,
        interpolation="nearest",
    )
    for label, colour in enumerate(CLASS_COLOURS):
        axes.plot(*plane.X[plane.y == label].T, ".", color=colour, markersize=2.5, alpha=0.6)
    for line in plane.boundary:
        axes.plot(*line.T, color="black", linewidth=1.2)
    if not plane.boundary:
        side = np.linspace(-EXTENT, EXTENT, len(plane.regions))
        axes.contour(side, side, plane.regions, [0.5], colors="black", linewidths=1)
    axes.set(xlim=(-EXTENT, EXTENT), ylim=(-EXTENT, EXTENT), aspect="equal", xticks=TICKS, yticks=TICKS)
    axes.tick_params(labelsize=9)
    axes.set_title(title, fontsize=13, fontweight="bold")


def _distance_histograms(planes: dict[str, PlaneSamples]) -> bytes:
    figure = Figure(figsize=(13, 5), layout="constrained")
    grid = figure.subplots(2, len(planes) // 2, squeeze=False, sharey=True)
    for axes, (name, plane) in zip(grid.ravel(), planes.items(), strict=True):
        discrete = bool(plane.unit)
        bins = np.geomspace(0.9, 110, 25) if discrete else np.geomspace(0.05, 20, 40)
        for label, colour in enumerate(CLASS_COLOURS):
            distances = plane.distances[(plane.y == label) & ~np.isnan(plane.distances)]
            counts, _ = np.histogram(np.clip(distances, bins[0], bins[-1]), bins)
            axes.stairs(100 * counts / max(counts.sum(), 1), bins, color=colour, fill=True, alpha=0.55)
        axes.set(xscale="log", xlim=(bins[0], bins[-1]))
        axes.set_title(name, fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("distance to the boundary" + (", levels" if discrete else ""))
    for axes in grid[:, 0]:
        axes.set_ylabel("samples of the class, %")
    return png(figure)


def _distance(plane: PlaneSamples, label: int) -> str:
    return f"{plane.median(label):.2f}{plane.unit}"


def _accuracy(plane: PlaneSamples) -> str:
    return f"{100 * np.mean(plane.predicted == plane.y):.1f} %"
