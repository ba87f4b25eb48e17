"""Figure 10: the same classifiers on data of more and more noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from mfa_fast.experiments import paper
from mfa_fast.experiments.pictures import COLOURS, IMAGES_PER_CLASS, gallery, png
from mfa_fast.experiments.reproduce.attacked import Bayes, Nearest
from mfa_fast.experiments.reproduce.cells import Cell
from mfa_fast.experiments.reproduce.charts import DATA_SET_COLOURS, Line, draw_lines, legend_below
from mfa_fast.experiments.reproduce.comparison import Comparison, claim
from mfa_fast.experiments.reproduce.distributions import Fitted, Symmetric
from mfa_fast.experiments.reproduce.experiment import Experiment, Plan, Results
from mfa_fast.experiments.reproduce.images import ImageSet, ImageSets
from mfa_fast.experiments.reproduce.network_cells import network
from mfa_fast.experiments.reproduce.report import DataTable, Picture, Report
from mfa_fast.experiments.reproduce.robustness import LITTLE, Row, attack_on, label, plan_attack, row_of
from mfa_fast.experiments.reproduce.settings import Settings
from mfa_fast.experiments.tables import distance, percent

STEADY = 0.03  # by how much the Bayes-optimal classifier may change with the noise
SOURCE = "ICLR 2020 submission, figure 10"
HEADER = ("Data set", "Classifier", "Noise", "Accuracy", "Mean L2", "Exact minimum")

# The rows of one classifier on one set of images, by rising noise.
Curve = list[Row]


def _noisy(image_set: ImageSet, settings: Settings) -> list[Symmetric]:
    return [Symmetric(Fitted.of(image_set, settings), noise_std) for noise_std in settings.fig10.noise_stds]


def _plan(settings: Settings, images: ImageSets) -> Plan:
    cells: dict[str, Cell] = {}
    for image_set in images.swept:
        for data_set in _noisy(image_set, settings):
            cells[label(data_set, "bayes")] = attack_on(Bayes(data_set), data_set, settings)
            cells[label(data_set, "bayes", exact=True)] = Nearest(Bayes(data_set), data_set, settings.attack_samples)
            if "cnn" in settings.classifiers:
                cells |= plan_attack(label(data_set, "cnn"), network(data_set, settings), data_set, settings)
    return cells


def _curves(image_set: ImageSet, settings: Settings, results: Results) -> list[Curve]:
    """Return a curve for each classifier that there is."""
    data_sets = _noisy(image_set, settings)
    there = [key for key in ("bayes", "cnn") if label(data_sets[0], key) in results]
    return [[row_of(data_set, key, results) for data_set in data_sets] for key in there]


def _report(settings: Settings, images: ImageSets, results: Results) -> Report:
    by_set = [_curves(image_set, settings, results) for image_set in images.swept]
    curves = [curve for own in by_set for curve in own]
    return Report(
        name="fig10",
        title="More noise",
        summary=" ".join(_sentence(curve) for curve in curves if curve[0].key == "bayes"),
        paragraphs=(
            "Symmetric data sets that differ in their noise only; components and factors of their samples are the "
            "same. Networks are trained anew on each.",
            *images.instead_of(*paper.FACES),
        ),
        tables=(DataTable("noise", HEADER, tuple(_cells(row) for curve in curves for row in curve)),),
        pictures=(
            Picture(
                "noise",
                _draw(by_set, settings.fig10.noise_stds),
                "Mean L2 of the attacks; dashed: the Bayes-optimal classifier.",
            ),
            _samples(by_set[0][0]),
        ),
        comparisons=tuple(_compare(curve) for curve in curves),
    )


def _noise(row: Row) -> float:
    assert isinstance(row.distribution, Symmetric)
    return row.distribution.noise_std


def _cells(row: Row) -> tuple[str, ...]:
    """Return the cells of `HEADER`."""
    return (
        row.distribution.images.name,
        row.name,
        f"{_noise(row):g}",
        percent(row.accuracy),
        distance(row.mean_l2),
        distance(row.exact_mean),
    )


def _change(curve: Curve) -> float:
    """Return how much larger the largest mean L2 is than the smallest, as a share of it."""
    means = [row.mean_l2 for row in curve]
    return max(means) / min(means) - 1


def _sentence(curve: Curve) -> str:
    noise = [_noise(row) for row in curve]
    return (
        f"{curve[0].distribution.images.name}: over noise of {min(noise):g} to {max(noise):g} the best classifier's "
        f"mean L2 changes by {percent(_change(curve))}."
    )


def _draw(by_set: Sequence[Sequence[Curve]], noise_stds: Sequence[float]) -> bytes:
    """Draw the curves, those of one set of images in one colour where there are several."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    lines = []
    for curves, colour in zip(by_set, DATA_SET_COLOURS, strict=False):
        for curve in curves:
            row, best = curve[0], curve[0].key == "bayes"
            shade = colour if len(by_set) > 1 else COLOURS["bayes_symmetric" if best else row.key]
            name = f"{row.name}, {row.distribution.images.name}"
            x, y = [_noise(row) for row in curve], [row.mean_l2 for row in curve]
            lines.append(Line(name, shade, x, y, dashed=best))
    draw_lines(
        axes,
        lines,
        x_label="Noise standard deviation of the data set",
        y_label="Mean L2 of the attack",
        logarithmic=True,
    )
    axes.set_xticks(noise_stds, [f"{value:g}" for value in noise_stds])
    axes.minorticks_off()
    legend_below(figure, axes)
    return png(figure)


def _samples(curve: Curve) -> Picture:
    """Show the first samples of each class at each noise."""
    shown = {}
    for row in curve:
        X, y = row.attacked.X, row.attacked.y
        chosen = [np.flatnonzero(y == value)[:IMAGES_PER_CLASS] for value in np.unique(y)]
        shown[f"Noise {_noise(row):g}"] = X[np.concatenate(chosen)]
    images = curve[0].distribution.images
    return Picture(
        "samples", png(gallery(shown, images.image_shape)), f"{images.name}: the same samples at each noise."
    )


def _compare(curve: Curve) -> Comparison:
    row, best = curve[0], curve[0].key == "bayes"
    means = [row.mean_l2 for row in curve]
    change = _change(curve)
    return claim(
        f"{row.distribution.images.name}, {row.name}: change over the noise levels",
        "unchanged" if best else "little",
        SOURCE,
        f"{percent(change)}, from {distance(min(means))} to {distance(max(means))}",
        change < (STEADY if best else LITTLE),
    )


FIGURE_10 = Experiment("fig10", "Noise levels", _plan, _report)
