"""Figure 11: networks that learn from an adversary (TRADES) gain robustness and lose accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mfa_fast.experiments import paper
from mfa_fast.experiments.pictures import COLOURS, GREY, png
from mfa_fast.experiments.reproduce.cells import Cell
from mfa_fast.experiments.reproduce.charts import colour_of
from mfa_fast.experiments.reproduce.comparison import Comparison, claim, compare_distance
from mfa_fast.experiments.reproduce.distributions import Symmetric
from mfa_fast.experiments.reproduce.experiment import Experiment, Plan, Results
from mfa_fast.experiments.reproduce.images import ImageSets
from mfa_fast.experiments.reproduce.network_cells import network
from mfa_fast.experiments.reproduce.report import DataTable, Picture, Report
from mfa_fast.experiments.reproduce.robustness import (
    TOLERANCE_LEARNED,
    Row,
    accuracy_label,
    keys,
    label,
    model_of,
    plan_attack,
    row_of,
    symmetric,
)
from mfa_fast.experiments.reproduce.settings import Settings
from mfa_fast.experiments.tables import distance, percent

HEADER = ("Data set", "Classifier", "Accuracy", "Mean L2", "Paper, accuracy", "Paper, mean L2")
NOTE = "The paper's figures are those of faces."


@dataclass(frozen=True)
class Trained:
    """A network that was trained against an adversary, and attacked."""

    beta: float
    accuracy: float
    mean_l2: float

    @property
    def paper(self) -> tuple[float, float]:
        """The paper's mean L2 and accuracy for its beta; nan where it has none."""
        return paper.TRADES.get(self.beta, (math.nan, math.nan))


@dataclass(frozen=True)
class Trade:
    """All networks of one data set, by beta, and the other classifiers."""

    data_set: Symmetric
    networks: list[Trained]
    others: list[Row]

    @property
    def name(self) -> str:
        """The images."""
        return self.data_set.images.name

    def rows(self) -> list[tuple[str, ...]]:
        """Return rows of the cells of `HEADER`."""
        networks = [
            (
                self.name,
                f"CNN, beta {one.beta:g}",
                percent(one.accuracy),
                distance(one.mean_l2),
                percent(one.paper[1]),
                distance(one.paper[0]),
            )
            for one in self.networks
        ]
        others = [(self.name, row.title, percent(row.accuracy), distance(row.mean_l2), "-", "-") for row in self.others]
        return [*networks, *others]


def _data_sets(settings: Settings, images: ImageSets) -> list[Symmetric]:
    return [symmetric(image_set, settings) for image_set in images.swept]


def _others(data_set: Symmetric, settings: Settings) -> list[str]:
    """Return the classifiers that are no networks."""
    return [key for key in keys(data_set, settings) if key != "cnn"]


def _beta_label(data_set: Symmetric, beta: float) -> str:
    return f"{data_set.description}: TRADES, beta {beta:g}"


def _plan(settings: Settings, images: ImageSets) -> Plan:
    cells: dict[str, Cell] = {}
    for data_set in _data_sets(settings, images):
        for key in _others(data_set, settings):
            cells |= plan_attack(label(data_set, key), model_of(key, data_set, settings), data_set, settings)
        for beta in settings.fig11.betas:
            name, model = _beta_label(data_set, beta), network(data_set, settings, beta)
            cells |= plan_attack(name, model, data_set, settings)
    return cells


def _trade(data_set: Symmetric, settings: Settings, results: Results) -> Trade:
    def trained(beta: float) -> Trained:
        name = _beta_label(data_set, beta)
        return Trained(beta, results[accuracy_label(name)], results[name].mean_l2)

    return Trade(
        data_set,
        [trained(beta) for beta in settings.fig11.betas],
        [row_of(data_set, key, results) for key in _others(data_set, settings)],
    )


def _report(settings: Settings, images: ImageSets, results: Results) -> Report:
    trades = [_trade(data_set, settings, results) for data_set in _data_sets(settings, images)]
    return Report(
        name="fig11",
        title="Training against an adversary",
        summary=_sentence(trades[0]),
        paragraphs=(
            "TRADES (Zhang et al. 2019) adds to the loss beta times the divergence between a network's answer to an "
            f"image and to the worst image within an L2 distance of {settings.fig11.radius:g}. The larger beta, the "
            "more accuracy is traded for robustness. The best classifier has both.",
            "The paper's two versions differ here: in the first (ICLR 2020 submission, figure 11) a network of beta 10 "
            "is only slightly more robust, and far from the best classifier; the figures below are those of the second "
            "(JMLR, figure 10), in which it is more robust than the best one.",
            *images.instead_of(*paper.FACES),
        ),
        tables=(DataTable("trades", HEADER, tuple(row for trade in trades for row in trade.rows()), NOTE),),
        pictures=(
            Picture("trades", _draw(trades), "Accuracy against mean L2; the numbers beside the points are beta."),
        ),
        comparisons=tuple(line for trade in trades for line in _compare(trade)),
    )


def _sentence(trade: Trade) -> str:
    first, last = trade.networks[0], trade.networks[-1]
    return (
        f"{trade.name}: from beta {first.beta:g} to {last.beta:g} accuracy goes from {percent(first.accuracy)} to "
        f"{percent(last.accuracy)} and the mean L2 from {distance(first.mean_l2)} to {distance(last.mean_l2)}."
    )


def _draw(trades: Sequence[Trade]) -> bytes:
    figure = Figure(figsize=(8, 4.4 * len(trades)), layout="constrained")
    for axes, trade in zip(np.ravel(figure.subplots(len(trades), 1)), trades, strict=True):
        _draw_trade(axes, trade)
    return png(figure)


def _draw_trade(axes: Axes, trade: Trade) -> None:
    """Draw accuracy over mean L2: a line of networks, a point for each of the others, and the paper's networks."""
    x, y = [one.mean_l2 for one in trade.networks], [100 * one.accuracy for one in trade.networks]
    axes.plot(x, y, "-o", color=COLOURS["cnn"], linewidth=2, label="CNN, by beta")
    for one, across, up in zip(trade.networks, x, y, strict=True):
        axes.annotate(f"{one.beta:g}", (across, up), (5, 5), textcoords="offset points", fontsize=10)
    for row in trade.others:
        axes.plot(row.mean_l2, 100 * row.accuracy, "D", color=colour_of(row), markersize=9, label=row.name)
    theirs = np.array(list(paper.TRADES.values()))
    axes.plot(theirs[:, 0], 100 * theirs[:, 1], "--s", color=GREY, label="CNN in the paper (faces)", markersize=5)
    axes.set(xlabel="Mean L2 of the attack", ylabel="Accuracy, %", title=trade.name, xlim=(0, None))
    axes.legend(frameon=False, fontsize=10, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.spines[["top", "right"]].set_visible(False)


def _compare(trade: Trade) -> list[Comparison]:
    """Ask whether accuracy falls and robustness rises with beta, and hold distances on faces beside the paper's."""
    first, last = trade.networks[0], trade.networks[-1]
    over = f"from beta {first.beta:g} to {last.beta:g}"
    lines = [
        claim(
            f"{trade.name}: accuracy {over}",
            "falls",
            paper.TRADES_SOURCE,
            " → ".join(percent(one.accuracy) for one in trade.networks),
            last.accuracy < first.accuracy,
        ),
        claim(
            f"{trade.name}: mean L2 {over}",
            "rises",
            paper.TRADES_SOURCE,
            " → ".join(distance(one.mean_l2) for one in trade.networks),
            last.mean_l2 > first.mean_l2,
        ),
    ]
    if trade.data_set.images.kind == "celeba":
        for one in trade.networks:
            what = f"{trade.name}, beta {one.beta:g}: mean L2"
            known = None if math.isnan(one.paper[0]) else one.paper[0]
            lines.append(compare_distance(what, one.mean_l2, known, paper.TRADES_SOURCE, TOLERANCE_LEARNED))
    return lines


FIGURE_11 = Experiment("fig11", "Training against an adversary (TRADES)", _plan, _report)
