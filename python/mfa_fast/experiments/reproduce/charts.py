"""Charts of reproductions: bars, sheets of images with their perturbations, curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mfa_fast._typing import Array
from mfa_fast.experiments.pictures import (
    COLOURS,
    GREY,
    JUST_VISIBLE,
    bare,
    magnification,
    plain_axes,
    png,
    row_label,
    show_image,
)
from mfa_fast.experiments.reproduce.attacked import NAMES, AttackedModel
from mfa_fast.experiments.reproduce.distributions import Asymmetric
from mfa_fast.experiments.reproduce.robustness import Row, common_rows, data_set_name
from mfa_fast.experiments.tables import distance, percent

IMAGES_PER_CLASS = 4
LAST_CHANGE = 128  # of 255: where histograms of pixels end
LAST_BIN = "last bin: all beyond"
GROUPS_PER_LINE = 5  # of bars
BAR = 0.8  # of the room between two groups
LABEL = 0.1  # of the highest mark of a chart: what a bar's label takes
PAPER_BLACK = "#1d1d1f"
DATA_SET_COLOURS = ("#CC79A7", "#0072B2", "#E69F00", "#009E73", "#56B4E9")  # of curves that are told by their data


def colour_of(row: Row) -> str:
    """Return a classifier's colour."""
    if row.key == "bayes":
        return COLOURS["bayes_asymmetric" if isinstance(row.distribution, Asymmetric) else "bayes_symmetric"]
    return COLOURS[row.key]


def draw_bars(rows: Sequence[Row]) -> bytes:
    """Draw mean L2 by data set and classifier, the paper's figure and the exact minimum marked on each bar."""
    groups = list(dict.fromkeys(data_set_name(row.distribution) for row in rows))
    width = BAR / max(sum(data_set_name(row.distribution) == group for row in rows) for group in groups)
    heights = [h for row in rows for h in (row.mean_l2, row.exact_mean, row.paper.mean_l2 if row.paper else 0.0)]
    highest = max((height for height in heights if math.isfinite(height)), default=0.0)
    # Under each other where they are many: on a page, a wider figure would shrink until its numbers cannot be read.
    lines = [groups[start : start + GROUPS_PER_LINE] for start in range(0, len(groups), GROUPS_PER_LINE)]
    longest = len(lines[0])
    figure = Figure(figsize=(max(7.0, 2.4 + 2.6 * longest), 4.2 * len(lines)), layout="constrained")
    grid = np.ravel(figure.subplots(len(lines), 1, sharey=True, squeeze=False))
    for axes, line in zip(grid, lines, strict=True):
        for place, group in enumerate(line):
            members = [row for row in rows if data_set_name(row.distribution) == group]
            for number, row in enumerate(members):
                x = place + (number - (len(members) - 1) / 2) * width
                _draw_bar(axes, row, x, width, highest)
        axes.set_xticks(range(len(line)), [group.replace(", ", ",\n") for group in line], fontsize=11)
        axes.set(ylabel="Mean L2 of the attack", xlim=(-0.6, longest - 0.4))
        axes.margins(y=0.12)
        plain_axes(axes)
    grid[0].set_title("How far the attack moves an image", fontsize=13, fontweight="bold")
    handles: list[Patch | Line2D] = [Patch(color=colour, label=name) for name, colour in _colours_by_name(rows).items()]
    if any(row.paper for row in rows):
        handles.append(Line2D([], [], color=PAPER_BLACK, linewidth=2.5, label="the paper"))
    if any(math.isfinite(row.exact_mean) for row in rows):
        handles.append(
            Line2D([], [], color=PAPER_BLACK, marker="D", markerfacecolor="white", linestyle="", label="exact minimum")
        )
    grid[0].legend(handles=handles, frameon=False, fontsize=10, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return png(figure)


def _colours_by_name(rows: Sequence[Row]) -> dict[str, str]:
    """Return what a legend says of each colour: the classifier, and its data where that has two."""
    names = {}
    for row in rows:
        several = len({colour_of(other) for other in rows if other.key == row.key}) > 1
        kind = data_set_name(row.distribution).rpartition(", ")[2]
        names[f"{row.name}, {kind}" if several else row.name] = colour_of(row)
    return names


def _draw_bar(axes: Axes, row: Row, x: float, width: float, highest: float) -> None:
    height = row.mean_l2
    if not math.isfinite(height):
        axes.annotate("no success", (x, 0), rotation=90, ha="center", va="bottom", fontsize=9)
        return
    axes.bar(x, height, 0.92 * width, color=colour_of(row))
    # Inside the bar, where no mark can cover it; above bars too low for that.
    inside = height > LABEL * highest
    axes.annotate(
        f"{height:.2f}",
        (x, 0 if inside else height),
        (0, 3),
        textcoords="offset points",
        ha="center",
        fontsize=10,
        color=_ink(colour_of(row)) if inside else "black",
    )
    if row.paper is not None:
        axes.plot([x - width / 2, x + width / 2], [row.paper.mean_l2] * 2, color=PAPER_BLACK, linewidth=2.5)
    if math.isfinite(row.exact_mean):
        axes.plot(x, row.exact_mean, "D", color=PAPER_BLACK, markerfacecolor="white", markersize=6)


def _ink(colour: str) -> str:
    """Return white or black, whichever stands out more from a colour (WCAG 2's contrast)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    luminance = float(np.dot([0.2126, 0.7152, 0.0722], linear))
    return "white" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "black"


@dataclass(frozen=True)
class Block:
    """A classifier's part of a sheet."""

    title: str
    colour: str
    attacked: AttackedModel


def draw_sheet(blocks: Sequence[Block], shape: tuple[int, ...], *, shared: bool) -> bytes:
    """Draw images, adversarial images, perturbations and a histogram of the changes of pixels for each block.

    Parameters
    ----------
    blocks : sequence of Block
    shape : tuple of int
        Of an image.
    shared : bool
        Whether all blocks have the same images, which then are shown once.
    """
    if shared:
        shown = [common_rows([block.attacked for block in blocks], IMAGES_PER_CLASS)] * len(blocks)
    else:
        shown = [common_rows([block.attacked], IMAGES_PER_CLASS) for block in blocks]
    n_columns = max(len(rows) for rows in shown)
    per_block = 2 if shared else 3
    n_rows = per_block * len(blocks) + shared
    side = 0.85
    figure = Figure(figsize=(2.6 + side * n_columns + 3.6, side * n_rows + 0.5), layout="constrained")
    grid = figure.add_gridspec(n_rows, n_columns + 4)
    if shared:
        _draw_images(figure, grid, 0, blocks[0].attacked.X[shown[0]], shape, "Original")
    for number, (block, rows) in enumerate(zip(blocks, shown, strict=True)):
        top = per_block * number + shared
        X, X_adv = block.attacked.X[rows], block.attacked.attack.X_adv[rows]
        if not shared:
            _draw_images(figure, grid, top, X, shape, "Original")
        first = top + (not shared)
        name = f"{block.title}\nadversarial"
        _draw_images(figure, grid, first, X_adv, shape, name, block.colour)
        factor = magnification(X_adv - X)
        times = f"change \N{MULTIPLICATION SIGN} {factor}"
        _draw_changes(figure, grid, first + 1, factor * (X_adv - X), shape, times)
        axes = figure.add_subplot(grid[top : top + per_block, n_columns:])
        _draw_pixels(axes, block)
    return png(figure)


def _draw_images(
    figure: Figure, grid: GridSpec, row: int, images: Array, shape: tuple[int, ...], name: str, colour: str = "black"
) -> None:
    for column, image in enumerate(images):
        axes = figure.add_subplot(grid[row, column])
        show_image(axes, image, shape)
        bare(axes)
        if column == 0:
            row_label(axes, name)
            axes.yaxis.label.set_color(colour)


def _draw_changes(figure: Figure, grid: GridSpec, row: int, changes: Array, shape: tuple[int, ...], name: str) -> None:
    for column, change in enumerate(changes):
        axes = figure.add_subplot(grid[row, column])
        if len(shape) == 3:  # colour: grey is no change
            show_image(axes, (change + 1) / 2, shape)
        else:
            axes.imshow(change.reshape(shape), cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
        bare(axes)
        if column == 0:
            row_label(axes, name)


def _draw_pixels(axes: Axes, block: Block) -> None:
    """Draw how many pixels change by how much; a change of less than 5/255 is invisible."""
    attacked = block.attacked
    bins = np.arange(0, LAST_CHANGE + 4, 4)
    changes = 255 * np.abs(attacked.attack.X_adv[attacked.flipped] - attacked.X[attacked.flipped]).ravel()
    if changes.size:  # of none, a logarithmic axis could show no bar
        counts, _ = np.histogram(np.minimum(changes, bins[-1]), bins)
        axes.stairs(100 * counts / changes.size, bins, fill=True, color=block.colour)
    axes.axvline(JUST_VISIBLE, color="black", linestyle="--", linewidth=1)
    share = float(np.mean(changes < JUST_VISIBLE)) if changes.size else math.nan
    axes.set_title(
        f"mean L2 {distance(attacked.summary['mean_l2'])}", fontsize=11, color=block.colour, fontweight="bold"
    )
    axes.annotate(
        f"{percent(share)} of the pixels\nchange by less than {JUST_VISIBLE}/255",
        (0.97, 0.93),
        xycoords="axes fraction",
        ha="right",
        va="top",
        fontsize=9,
    )
    axes.set(yscale="log", xlim=(0, LAST_CHANGE), ylim=(1e-3, 120), xticks=[0, 32, 64, 96, 128])
    axes.set_yticks([0.01, 1, 100], ["0.01 %", "1 %", "100 %"], fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel(f"change of a pixel, in 255ths ({LAST_BIN})", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


@dataclass(frozen=True)
class Line:
    """A curve: its name, colour, places and heights."""

    name: str
    colour: str
    x: Sequence[float]
    y: Sequence[float]
    dashed: bool = False


def draw_lines(axes: Axes, lines: Sequence[Line], *, x_label: str, y_label: str, logarithmic: bool = False) -> None:
    """Draw curves with a point for each value; `legend_below` names them."""
    for line in lines:
        style = "--" if line.dashed else "-o"
        axes.plot(line.x, line.y, style, color=line.colour, label=line.name, linewidth=2)
    if logarithmic:
        axes.set_xscale("log")
    axes.set(xlabel=x_label, ylabel=y_label)
    heights = [height for line in lines for height in line.y if math.isfinite(height)]
    axes.set_ylim(0, 1.1 * max(heights, default=1.0))
    plain_axes(axes)


def legend_below(figure: Figure, axes: Axes) -> None:
    """Name the curves of all axes of a figure, which are those of `axes`, below them: there none is crossed."""
    lines = sorted(axes.get_lines(), key=lambda line: line.get_linestyle() == "--")  # these in a column of their own
    figure.set_figheight(figure.get_figheight() + 0.11 * len(lines))
    figure.legend(handles=lines, frameon=False, fontsize=10, loc="outside lower center", ncols=2)


def draw_distance_histogram(
    axes: Axes, distances: Mapping[str, Array], colours: Mapping[str, str], x_label: str
) -> None:
    """Draw histograms of distances over each other, their means in the legend."""
    everything = np.concatenate(list(distances.values()))
    bins = np.linspace(0, float(np.percentile(everything, 99.5)) if everything.size else 1.0, 50)
    for name, values in distances.items():
        counts, _ = np.histogram(np.minimum(values, bins[-1]), bins)
        label = f"{name}: mean {np.mean(values):.2f}" if values.size else name
        shares = 100 * counts / max(values.size, 1)
        # Outlines: four filled ones over each other cannot be told apart.
        axes.stairs(shares, bins, linewidth=2, color=colours.get(name, GREY), label=label)
    axes.set(xlabel=f"{x_label} ({LAST_BIN})", ylabel="Samples, %", xlim=(0, bins[-1]))
    axes.legend(frameon=False, fontsize=10)
    plain_axes(axes)


def blocks_of(rows: Sequence[Row], titles: Mapping[str, str] | None = None) -> list[Block]:
    """Return the blocks of a sheet of some rows."""
    return [Block((titles or NAMES).get(row.key, row.name), colour_of(row), row.attacked) for row in rows]
