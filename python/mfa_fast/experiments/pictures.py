"""The main job's pictures, as PNG files in memory."""

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mfa_fast._typing import Array
from mfa_fast.experiments.main_job import ModelResult, RunResult
from mfa_fast.experiments.tables import percent

# One colour per classifier in every figure (Okabe & Ito: distinct for colour-blind readers and in
# grey).
COLOURS = {
    "bayes_symmetric": "#0072B2",
    "bayes_asymmetric": "#D55E00",
    "cnn": "#CC79A7",
    "linear_svm": "#E69F00",
    "rbf_svm": "#009E73",
}
GREY = "#9a9a9a"
JUST_VISIBLE = 5  # of 255: the paper's mark for a change of a pixel that nobody sees
IMAGES_PER_CLASS = 4
DPI = 110


def render(result: RunResult) -> dict[str, bytes]:
    """Draw every picture of a run.

    Parameters
    ----------
    result : RunResult

    Returns
    -------
    dict
        File name to content of the PNG, in the order of the report.
    """
    pictures = {
        "mean-l2.png": png(_mean_l2_bars(result)),
        "samples.png": png(gallery({name: X for name, (X, _) in result.galleries.items()}, result.image_shape)),
    }
    for model in result.models:
        pictures[adversarial_name(model)] = png(adversarial_figure(model, result.image_shape))
    pictures["histograms.png"] = png(_histograms(result))
    pictures["accuracy-under-attack.png"] = png(_security_curves(result))
    return pictures


def adversarial_name(model: ModelResult) -> str:
    """Return the file name of the adversarial images of a classifier."""
    return f"adversarial-{model.key.replace('_', '-')}.png"


def magnification(perturbations: Array) -> int:
    """Return the round factor (1, 2, 5, 10, ...) that spreads perturbations over [-1, 1]."""
    largest = float(np.abs(perturbations).max(initial=0.0))
    if largest == 0:
        return 1
    exponent = math.floor(math.log10(1 / largest))
    candidates = [int(m * 10.0**e) for e in (exponent, exponent + 1) for m in (1, 2, 5)]
    return max([1, *(c for c in candidates if c * largest <= 1)])


def png(figure: Figure) -> bytes:
    """Return a figure as the content of a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DPI, facecolor="white")
    return content.getvalue()


def show_image(axes: Axes, image: Array, shape: tuple[int, ...]) -> None:
    """Show a row of pixels as an image; what is outside of [0, 1] is clipped."""
    axes.imshow(np.clip(image, 0, 1).reshape(shape), cmap="gray", vmin=0, vmax=1, interpolation="nearest")


def bare(axes: Axes) -> None:
    """Leave out the ticks, and draw the frame faintly."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#cccccc")


def row_label(axes: Axes, text: str) -> None:
    """Write a row's name to the left of its first image."""
    axes.set_ylabel(text, rotation=0, ha="right", va="center", fontsize=11, labelpad=10)


def gallery(rows: Mapping[str, Array], shape: tuple[int, ...]) -> Figure:
    """Draw rows of images (n, d), with their names beside them."""
    columns = max(len(images) for images in rows.values())
    figure = Figure(figsize=(2.2 + 0.85 * columns, 0.95 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for row, (name, images) in zip(grid, rows.items(), strict=True):
        row_label(row[0], name)
        for axes in row:
            bare(axes)
        for axes, image in zip(row, images, strict=False):
            show_image(axes, image, shape)
    return figure


def shown_rows(model: ModelResult) -> Array:
    """Return the first samples of each class that were classified correctly, if any was."""
    correct = model.predicted == model.y
    if not correct.any():
        return np.arange(min(IMAGES_PER_CLASS, len(model.y)))
    labels = np.unique(model.y)
    return np.concatenate([np.flatnonzero(correct & (model.y == label))[:IMAGES_PER_CLASS] for label in labels])


def adversarial_figure(model: ModelResult, shape: tuple[int, ...]) -> Figure:
    """Draw images, what the attack makes of them, and the difference."""
    rows = shown_rows(model)
    originals, adversarial = model.X[rows], model.attack.X_adv[rows]
    perturbations = adversarial - originals
    factor = magnification(perturbations)
    figure = Figure(figsize=(3.3 + 1.05 * len(rows), 4.0), layout="constrained")
    grid = figure.subplots(3, len(rows), squeeze=False)
    times = f"\N{MULTIPLICATION SIGN} {factor}"
    labels = ("Original", "Adversarial", f"Perturbation\nmagnified {times}")
    for axes, label in zip(grid[:, 0], labels, strict=True):
        row_label(axes, label)
    image = None
    for column, row in enumerate(rows):
        for axes in grid[:, column]:
            bare(axes)
        flipped = bool(model.attack.success[row])
        title = f"L2 {model.attack.l2[row]:.2f}" if flipped else "not flipped"
        if model.predicted[row] != model.y[row]:
            title = "wrong before"
        grid[0, column].set_title(title, fontsize=10)
        show_image(grid[0, column], originals[column], shape)
        show_image(grid[1, column], adversarial[column], shape)
        scaled = (factor * perturbations[column]).reshape(shape)
        if len(shape) == 3:  # colour: grey is no change
            show_image(grid[2, column], (scaled + 1) / 2, shape)
        else:
            image = grid[2, column].imshow(scaled, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    if image is not None:
        # Taken from the room of all three rows, so that their columns stay in line.
        bar = figure.colorbar(image, ax=list(grid.ravel()), ticks=[-1, 0, 1], shrink=0.3, anchor=(0, 0), pad=0.01)
        limit = 1 / factor
        bar.ax.set_yticklabels([f"\N{MINUS SIGN}{limit:.2g}", "0", f"+{limit:.2g}"], fontsize=9)
    figure.suptitle(
        f"{model.title}: mean L2 {model.summary['mean_l2']:.2f}",
        color=COLOURS[model.key],
        fontsize=13,
        fontweight="bold",
    )
    return figure


def _histograms(result: RunResult) -> Figure:
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    pixels, distances = figure.subplots(1, 2)
    pixel_histogram(pixels, result.models)
    _distance_histogram(distances, result)
    return figure


def pixel_histogram(axes: Axes, models: Sequence[ModelResult]) -> None:
    """Draw by how much single pixels change in successful attacks."""
    labels = []
    bins = np.arange(0, 132, 2)
    for model in models:
        rows = flipped_rows(model)
        changes = 255 * np.abs(model.attack.X_adv[rows] - model.X[rows]).ravel()
        most = f"{np.percentile(changes, 99):.0f}/255" if changes.size else "-"
        labels.append(f"{model.title}: 99 % of the pixels below {most}")
        if changes.size:  # of none, a logarithmic axis could show no bar
            counts, _ = np.histogram(np.minimum(changes, bins[-1]), bins)
            axes.stairs(100 * counts / changes.size, bins, linewidth=1.8, color=COLOURS[model.key])
    axes.axvline(JUST_VISIBLE, color="black", linestyle="--", linewidth=1)
    axes.annotate(
        f"{JUST_VISIBLE}/255",
        (JUST_VISIBLE, 1),
        (4, -4),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        va="top",
        fontsize=10,
    )
    axes.set(
        yscale="log",
        xlim=(0, bins[-1]),
        xlabel="Change of a pixel, in 255ths (last bin: all beyond)",
        ylabel="Share of the pixels, %",
        title="How much single pixels change",
    )
    axes.legend(_handles(models), labels, frameon=False, fontsize=9)
    plain_axes(axes)


def _distance_histogram(axes: Axes, result: RunResult) -> None:
    bins = np.linspace(0, _far(result), 60)
    for model in result.models:
        counts, _ = np.histogram(np.minimum(model.attack.l2[flipped_rows(model)], bins[-1]), bins)
        # A narrow histogram would tower over the others: all get the same height.
        axes.stairs(counts / max(counts.max(), 1), bins, linewidth=1.8, color=COLOURS[model.key])
    axes.set(
        xlabel="L2 distance to the adversarial image (last bin: all beyond)",
        ylabel="Samples (each histogram scaled to height 1)",
        title="How far the whole image moves",
        xlim=(0, bins[-1]),
        ylim=(0, 1.3),
        yticks=[],
    )
    axes.legend(_handles(result.models), [model.title for model in result.models], frameon=False, fontsize=9)
    plain_axes(axes)


def _mean_l2_bars(result: RunResult) -> Figure:
    figure = Figure(figsize=(8, 3.8), layout="constrained")
    axes = figure.subplots()
    with_paper = any(model.paper for model in result.models)
    width = 0.38 if with_paper else 0.6
    for position, model in enumerate(result.models):
        ours = model.summary["mean_l2"]
        shift = width / 2 if with_paper else 0
        bars = [(position - shift, ours, COLOURS[model.key])]
        if model.paper is not None:
            bars.append((position + shift, model.paper.mean_l2, GREY))
        lowest = model.nearest.summary()["mean_lower_bound"]
        if math.isfinite(lowest):
            ends = (position - shift - width * 0.475, position - shift + width * 0.475)
            axes.hlines(lowest, *ends, color="black", linewidth=2)
        for place, height, colour in bars:
            if math.isfinite(height):
                axes.bar(place, height, width * 0.95, color=colour)
                axes.annotate(
                    f"{height:.2f}",
                    (place, height),
                    (0, 3),
                    textcoords="offset points",
                    ha="center",
                    fontsize=11,
                )
    axes.set_xticks(
        range(len(result.models)),
        [f"{model.title}\n({percent(model.summary['accuracy'])} accurate)" for model in result.models],
        fontsize=11,
    )
    axes.set(ylabel="Mean L2 of LD-Grad", title="How far the attack moves an image")
    axes.margins(y=0.15)
    handles: list[Patch | Line2D] = [Line2D([], [], color="black", linewidth=2)]
    labels = ["no adversarial image is nearer, on average"]
    if with_paper:
        handles.append(Patch(color=GREY))
        labels.append("the paper's figure")
    axes.legend(handles, labels, frameon=False)
    plain_axes(axes)
    return figure


def _security_curves(result: RunResult) -> Figure:
    figure = Figure(figsize=(8, 3.8), layout="constrained")
    axes = figure.subplots()
    radii = np.linspace(0, _far(result), 200)
    for model in result.models:
        accuracy = 100 * np.asarray(model.attack.security_curve(radii))
        axes.plot(radii, accuracy, color=COLOURS[model.key], label=model.title, linewidth=2)
        certain = 100 * np.asarray(model.nearest.certified_curve(radii))
        axes.plot(radii, certain, color=COLOURS[model.key], linewidth=1.4, linestyle=(0, (4, 2)))
    axes.set(
        xlabel="Largest L2 distance that the attacker may go",
        ylabel="Samples still classified correctly, %",
        title="Accuracy under attack",
        xlim=(0, radii[-1]),
        ylim=(0, 103),
    )
    handles, labels = axes.get_legend_handles_labels()
    handles.append(Line2D([], [], color="#555555", linewidth=1.4, linestyle=(0, (4, 2))))
    axes.legend(handles, [*labels, "certain, whatever the attack"], frameon=False)
    plain_axes(axes)
    return figure


def flipped_rows(model: ModelResult) -> Array:
    """Return which samples were classified correctly before the attack, and not after it."""
    flipped: Array = model.attack.success & (model.predicted == model.y)
    return flipped


def _far(result: RunResult) -> float:
    """Return where axes of distances end: a few stragglers would squeeze all the others together."""
    distances = [model.attack.l2[flipped_rows(model)] for model in result.models]
    return max(float(np.percentile(l2, 99)) if l2.size else 0.1 for l2 in distances)


def _handles(models: Sequence[ModelResult]) -> list[Patch]:
    return [Patch(color=COLOURS[model.key]) for model in models]


def plain_axes(axes: Axes) -> None:
    """Draw axes in the style of every chart here."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.title.set_fontsize(13)
    axes.title.set_fontweight("bold")
