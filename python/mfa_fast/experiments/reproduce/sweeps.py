"""Figures 9 to 11: networks that see more images, are wider or deeper, meet more noise, or learn from an adversary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
from matplotlib.figure import Figure

from mfa_fast.experiments import paper
from mfa_fast.experiments.pictures import COLOURS, GREY, IMAGES_PER_CLASS, gallery, png
from mfa_fast.experiments.reproduce.attacked import NAMES, AttackedModel, Bayes, Nearest
from mfa_fast.experiments.reproduce.cells import Cell
from mfa_fast.experiments.reproduce.charts import Line, draw_lines, legend_below
from mfa_fast.experiments.reproduce.comparison import Comparison, claim, compare_distance
from mfa_fast.experiments.reproduce.distributions import Fitted, Symmetric
from mfa_fast.experiments.reproduce.experiment import Experiment, Plan, Results
from mfa_fast.experiments.reproduce.images import ImageSet, ImageSets
from mfa_fast.experiments.reproduce.network_cells import Accuracy, CarliniWagner, Network, network, stream_network
from mfa_fast.experiments.reproduce.report import DataTable, Picture, Report
from mfa_fast.experiments.reproduce.robustness import (
    TOLERANCE_LEARNED,
    attack_on,
    keys,
    label,
    model_of,
    symmetric,
)
from mfa_fast.experiments.reproduce.settings import Figure9Settings, Settings
from mfa_fast.experiments.tables import distance, percent

# The five attributes of the paper's figures 9 to 11.
ATTRIBUTES = ("Male", "Smiling", "Bangs", "Heavy_Makeup", "Eyeglasses")
FACES = tuple(f"CelebA {name}" for name in ATTRIBUTES)
ROBUST = 0.8  # a network whose mean L2 is this share of the Bayes-optimal classifier's would count as robust
STEADY = 0.03  # by how much the Bayes-optimal classifier may change with the noise
LITTLE = 0.5  # by how much a network may change where the paper says that it hardly does
CYCLE = ("#CC79A7", "#0072B2", "#E69F00", "#009E73", "#56B4E9")


def _sets(images: ImageSets) -> tuple[ImageSet, ...]:
    """Return the paper's five attributes or, where there are no faces, MNIST's 4 and 5 (or the last pair)."""
    return images.wanted(*ATTRIBUTES) or images.wanted("4-5") or images.modelled[-1:]


# ------------------------------------------------------------------------------------------------------------ figure 9


def _variants(settings: Figure9Settings) -> dict[str, list[tuple[int, int, int]]]:
    """Return (width, depth, images) of the networks of each of the three sweeps."""
    return {
        "images": [(settings.width, settings.depth, n) for n in settings.images],
        "width": [(width, settings.depth, settings.sweep_images) for width in settings.widths],
        "depth": [(settings.width, depth, settings.sweep_images) for depth in settings.depths],
    }


def _attack_and_test(name: str, model: Network, data_set: Symmetric, settings: Settings) -> dict[str, Cell]:
    return {
        name: CarliniWagner.of(model, data_set, settings),
        f"{name}, accuracy": Accuracy(model, data_set, settings.attack_samples),
    }


def _variant_label(data_set: Symmetric, variant: tuple[int, int, int]) -> str:
    width, depth, images = variant
    return f"{data_set.description}: width {width}, depth {depth}, {images} images"


def _plan_9(settings: Settings, images: ImageSets) -> Plan:
    cells: dict[str, Cell] = {}
    for data_set in (symmetric(image_set, settings) for image_set in _sets(images)):
        cells[label(data_set, "bayes")] = attack_on(Bayes(data_set), data_set, settings)
        for variants in _variants(settings.fig9).values():
            for width, depth, n in variants:
                model = stream_network(data_set, settings, width=width, depth=depth, images=n)
                cells |= _attack_and_test(_variant_label(data_set, (width, depth, n)), model, data_set, settings)
    return cells


def _report_9(settings: Settings, images: ImageSets, results: Results) -> Report:
    sets = [symmetric(image_set, settings) for image_set in _sets(images)]
    sweeps = _variants(settings.fig9)
    figure = Figure(figsize=(13, 4), layout="constrained")
    places = {"images": "Training images", "width": "Filters of the first layer", "depth": "Layers"}
    for axes, (sweep, variants) in zip(figure.subplots(1, 3), sweeps.items(), strict=True):
        x = [{"images": n, "width": width, "depth": depth}[sweep] for width, depth, n in variants]
        lines = []
        for data_set, colour in zip(sets, CYCLE, strict=False):
            networks = [_mean(results[_variant_label(data_set, variant)]) for variant in variants]
            bayes = _mean(results[label(data_set, "bayes")])
            lines.append(Line(f"CNN, {data_set.images.name}", colour, x, networks))
            best = colour if len(sets) > 1 else COLOURS["bayes_symmetric"]
            lines.append(Line(f"Bayes-optimal, {data_set.images.name}", best, x, [bayes] * len(x), dashed=True))
        draw_lines(axes, lines, x_label=places[sweep], y_label="Mean L2 of the attack", logarithmic=sweep != "depth")
        if sweep != "depth":
            axes.set_xticks(x, [f"{value:,}" for value in x])
            axes.minorticks_off()
        else:
            axes.set_xticks(x)
    legend_below(figure, axes)
    rows, comparisons = [], list[Comparison]()
    for data_set in sets:
        bayes = _mean(results[label(data_set, "bayes")])
        for sweep, variants in sweeps.items():
            for variant in variants:
                attacked: AttackedModel = results[_variant_label(data_set, variant)]
                width, depth, n = variant
                rows.append(
                    (
                        data_set.images.name,
                        sweep,
                        f"{n:,}",
                        str(width),
                        str(depth),
                        percent(results[f"{_variant_label(data_set, variant)}, accuracy"]),
                        distance(_mean(attacked)),
                        distance(bayes),
                    )
                )
            means = [_mean(results[_variant_label(data_set, variant)]) for variant in variants]
            comparisons += _compare_sweep(f"{data_set.images.name}, sweep over {sweep}", means, bayes)
    n_most = max(settings.fig9.images)
    return Report(
        name="fig9",
        title="Wider, deeper networks and more images",
        summary=(
            f"Networks that see up to {n_most:,} images, each drawn for them and none twice, and wider and deeper "
            f"ones: mean L2 {rows[0][6]} after {rows[0][2]} images, {rows[len(sweeps['images']) - 1][6]} after "
            f"{n_most:,}; the best classifier {rows[0][7]}."
        ),
        paragraphs=(
            "Convolutional networks whose every second layer has stride 2 and twice the filters, trained on a stream "
            f"of fresh samples of the symmetric distribution in batches of {settings.fig9.batch_size}. The sweep over "
            f"the number of images has width {settings.fig9.width} and depth {settings.fig9.depth}; those over width "
            f"and depth see {settings.fig9.sweep_images:,} images.",
            *images.instead_of(*FACES),
        ),
        tables=(
            DataTable(
                "networks",
                ("Data set", "Sweep", "Images", "Width", "Depth", "Accuracy", "Mean L2", "Bayes-optimal"),
                tuple(rows),
            ),
        ),
        pictures=(
            Picture(
                "sweeps",
                png(figure),
                "Mean L2 of the CW-L2 attack on the networks; dashed: of LD-Grad on the Bayes-optimal classifier.",
            ),
        ),
        comparisons=tuple(comparisons),
    )


def _compare_sweep(name: str, means: Sequence[float], bayes: float) -> list[Comparison]:
    """Ask two things: whether a network comes near the best classifier, and whether any gains over the first."""
    source = "ICLR 2020 submission, figure 9"
    best = float(np.max(means))  # nan, with which nothing holds, where no attack on one of them succeeded
    return [
        claim(
            f"{name}: the most robust network",
            "far from Bayes-optimal (on faces 0.6 to 0.9 against 2.8 to 3.9)",
            source,
            f"mean L2 {distance(best)}, Bayes-optimal {distance(bayes)}",
            best < ROBUST * bayes,
        ),
        claim(
            f"{name}: gain over the first network",
            "none that is significant",
            source,
            f"mean L2 {' → '.join(distance(mean) for mean in means)}",
            best < (1 + LITTLE) * means[0],
        ),
    ]


# ----------------------------------------------------------------------------------------------------------- figure 10


def _noisy(image_set: ImageSet, settings: Settings) -> list[Symmetric]:
    return [Symmetric(Fitted.of(image_set, settings), noise_std) for noise_std in settings.fig10.noise_stds]


def _plan_10(settings: Settings, images: ImageSets) -> Plan:
    cells: dict[str, Cell] = {}
    for image_set in _sets(images):
        for data_set in _noisy(image_set, settings):
            cells[label(data_set, "bayes")] = attack_on(Bayes(data_set), data_set, settings)
            cells[label(data_set, "bayes", exact=True)] = Nearest(Bayes(data_set), data_set, settings.attack_samples)
            if "cnn" in settings.classifiers:
                cells |= _attack_and_test(label(data_set, "cnn"), network(data_set, settings), data_set, settings)
    return cells


def _report_10(settings: Settings, images: ImageSets, results: Results) -> Report:
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    lines, rows, comparisons, sentences = list[Line](), [], list[Comparison](), []
    several = len(_sets(images)) > 1
    for image_set, colour in zip(_sets(images), CYCLE, strict=False):
        data_sets = _noisy(image_set, settings)
        noise = [data_set.noise_std for data_set in data_sets]
        for key in ("bayes", "cnn"):
            if label(data_sets[0], key) not in results:
                continue
            attacked = [cast(AttackedModel, results[label(data_set, key)]) for data_set in data_sets]
            means = [_mean(one) for one in attacked]
            shade = colour if several else COLOURS["bayes_symmetric" if key == "bayes" else key]
            lines.append(Line(f"{NAMES[key]}, {image_set.name}", shade, noise, means, dashed=key == "bayes"))
            for data_set, one in zip(data_sets, attacked, strict=True):
                exact = results.get(label(data_set, key, exact=True))
                accuracy = percent(results.get(f"{label(data_set, key)}, accuracy", one.summary["accuracy"]))
                best = "-" if exact is None else distance(_mean(exact))
                row = (image_set.name, NAMES[key], f"{data_set.noise_std:g}", accuracy, distance(_mean(one)), best)
                rows.append(row)
            change = max(means) / min(means) - 1
            if key == "bayes":
                sentences.append(
                    f"{image_set.name}: over noise of {min(noise):g} to {max(noise):g} the best classifier's mean L2 "
                    f"changes by {percent(change)}."
                )
            comparisons.append(
                claim(
                    f"{image_set.name}, {NAMES[key]}: change over the noise levels",
                    "unchanged" if key == "bayes" else "little",
                    "ICLR 2020 submission, figure 10",
                    f"{percent(change)}, from {distance(min(means))} to {distance(max(means))}",
                    change < (STEADY if key == "bayes" else LITTLE),
                )
            )
    draw_lines(
        axes,
        lines,
        x_label="Noise standard deviation of the data set",
        y_label="Mean L2 of the attack",
        logarithmic=True,
    )
    axes.set_xticks(settings.fig10.noise_stds, [f"{value:g}" for value in settings.fig10.noise_stds])
    axes.minorticks_off()
    legend_below(figure, axes)
    return Report(
        name="fig10",
        title="More noise",
        summary=" ".join(sentences),
        paragraphs=(
            "Symmetric data sets that differ in their noise only; components and factors of their samples are the "
            "same. Networks are trained anew on each.",
            *images.instead_of(*FACES),
        ),
        tables=(
            DataTable(
                "noise",
                ("Data set", "Classifier", "Noise", "Accuracy", "Mean L2", "Exact minimum"),
                tuple(rows),
            ),
        ),
        pictures=(
            Picture("noise", png(figure), "Mean L2 of the attacks; dashed: the Bayes-optimal classifier."),
            _samples_by_noise(_noisy(_sets(images)[0], settings), results),
        ),
        comparisons=tuple(comparisons),
    )


def _samples_by_noise(data_sets: Sequence[Symmetric], results: Results) -> Picture:
    rows = {}
    for data_set in data_sets:
        attacked: AttackedModel = results[label(data_set, "bayes")]
        chosen = [np.flatnonzero(attacked.y == value)[:IMAGES_PER_CLASS] for value in np.unique(attacked.y)]
        rows[f"Noise {data_set.noise_std:g}"] = attacked.X[np.concatenate(chosen)]
    first = data_sets[0].images
    return Picture("samples", png(gallery(rows, first.image_shape)), f"{first.name}: the same samples at each noise.")


# ----------------------------------------------------------------------------------------------------------- figure 11


def _beta_label(data_set: Symmetric, beta: float) -> str:
    return f"{data_set.description}: TRADES, beta {beta:g}"


def _plan_11(settings: Settings, images: ImageSets) -> Plan:
    cells: dict[str, Cell] = {}
    for data_set in (symmetric(image_set, settings) for image_set in _sets(images)):
        for key in keys(data_set, settings):
            if key != "cnn":
                cells[label(data_set, key)] = attack_on(model_of(key, data_set, settings), data_set, settings)
        for beta in settings.fig11.betas:
            model = network(data_set, settings, beta)
            cells |= _attack_and_test(_beta_label(data_set, beta), model, data_set, settings)
    return cells


def _report_11(settings: Settings, images: ImageSets, results: Results) -> Report:
    sets = [symmetric(image_set, settings) for image_set in _sets(images)]
    figure = Figure(figsize=(8, 4.4 * len(sets)), layout="constrained")
    rows, comparisons = [], list[Comparison]()
    betas = settings.fig11.betas
    for axes, data_set in zip(np.ravel(figure.subplots(len(sets), 1)), sets, strict=True):
        name = data_set.images.name
        networks = [cast(AttackedModel, results[_beta_label(data_set, beta)]) for beta in betas]
        x = [_mean(one) for one in networks]
        y = [cast(float, results[f"{_beta_label(data_set, beta)}, accuracy"]) for beta in betas]
        axes.plot(x, 100 * np.array(y), "-o", color=COLOURS["cnn"], linewidth=2, label="CNN, by beta")
        for beta, across, up in zip(betas, x, y, strict=True):
            axes.annotate(f"{beta:g}", (across, 100 * up), (5, 5), textcoords="offset points", fontsize=10)
            row = (f"CNN, beta {beta:g}", percent(up), distance(across))
            rows.append((name, *row, *_paper_trades(beta)))
        for key in (key for key in keys(data_set, settings) if key != "cnn"):
            one = cast(AttackedModel, results[label(data_set, key)])
            colour = COLOURS["bayes_symmetric" if key == "bayes" else key]
            axes.plot(_mean(one), 100 * one.summary["accuracy"], "D", color=colour, markersize=9, label=NAMES[key])
            rows.append((name, NAMES[key], percent(one.summary["accuracy"]), distance(_mean(one)), "-", "-"))
        theirs = np.array(list(paper.TRADES.values()))
        axes.plot(theirs[:, 0], 100 * theirs[:, 1], "--s", color=GREY, label="CNN in the paper (faces)", markersize=5)
        axes.set(xlabel="Mean L2 of the attack", ylabel="Accuracy, %", title=name, xlim=(0, None))
        axes.legend(frameon=False, fontsize=10, loc="center left", bbox_to_anchor=(1, 0.5))
        axes.spines[["top", "right"]].set_visible(False)
        comparisons += _compare_trades(name, betas, x, y, data_set.images.kind == "celeba")
    first, last = rows[0], rows[len(betas) - 1]
    return Report(
        name="fig11",
        title="Training against an adversary",
        summary=(
            f"{first[0]}: from beta {betas[0]:g} to {betas[-1]:g} accuracy goes from {first[2]} to {last[2]} and the "
            f"mean L2 from {first[3]} to {last[3]}."
        ),
        paragraphs=(
            "TRADES (Zhang et al. 2019) adds to the loss beta times the divergence between a network's answer to an "
            f"image and to the worst image within an L2 distance of {settings.fig11.radius:g}. The larger beta, the "
            "more accuracy is traded for robustness. The best classifier has both.",
            "The paper's two versions differ here: in the first (ICLR 2020 submission, figure 11) a network of beta 10 "
            "is only slightly more robust, and far from the best classifier; the figures below are those of the second "
            "(JMLR, figure 10), in which it is more robust than the best one.",
            *images.instead_of(*FACES),
        ),
        tables=(
            DataTable(
                "trades",
                ("Data set", "Classifier", "Accuracy", "Mean L2", "Paper, accuracy", "Paper, mean L2"),
                tuple(rows),
                "The paper's figures are those of faces.",
            ),
        ),
        pictures=(Picture("trades", png(figure), "Accuracy against mean L2; the numbers beside the points are beta."),),
        comparisons=tuple(comparisons),
    )


def _paper_trades(beta: float) -> tuple[str, str]:
    if beta not in paper.TRADES:
        return "-", "-"
    mean_l2, accuracy = paper.TRADES[beta]
    return percent(accuracy), distance(mean_l2)


def _compare_trades(
    name: str, betas: Sequence[float], x: Sequence[float], y: Sequence[float], faces: bool
) -> list[Comparison]:
    lines = [
        claim(
            f"{name}: accuracy from beta {betas[0]:g} to {betas[-1]:g}",
            "falls",
            paper.TRADES_SOURCE,
            " → ".join(percent(value) for value in y),
            y[-1] < y[0],
        ),
        claim(
            f"{name}: mean L2 from beta {betas[0]:g} to {betas[-1]:g}",
            "rises",
            paper.TRADES_SOURCE,
            " → ".join(distance(value) for value in x),
            x[-1] > x[0],
        ),
    ]
    if faces:
        for beta, across in zip(betas, x, strict=True):
            theirs = paper.TRADES.get(beta, (math.nan, math.nan))[0]
            what = f"{name}, beta {beta:g}: mean L2"
            known = None if math.isnan(theirs) else theirs
            lines.append(compare_distance(what, across, known, paper.TRADES_SOURCE, TOLERANCE_LEARNED))
    return lines


def _mean(attacked: AttackedModel) -> float:
    return attacked.summary["mean_l2"]


FIGURE_9 = Experiment("fig9", "Wider and deeper networks, and up to a million images", _plan_9, _report_9)
FIGURE_10 = Experiment("fig10", "Noise levels", _plan_10, _report_10)
FIGURE_11 = Experiment("fig11", "Training against an adversary (TRADES)", _plan_11, _report_11)
