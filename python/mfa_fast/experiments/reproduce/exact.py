"""Every attack, and every learned classifier, against the exact minimum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from mfa_fast._typing import Array
from mfa_fast.experiments.pictures import COLOURS, plain_axes, png
from mfa_fast.experiments.reproduce.attacked import AttackedModel, Bayes, Nearest
from mfa_fast.experiments.reproduce.cells import Cell
from mfa_fast.experiments.reproduce.comparison import Comparison, claim
from mfa_fast.experiments.reproduce.distributions import Asymmetric, Distribution, Symmetric
from mfa_fast.experiments.reproduce.experiment import Experiment, Plan, Results
from mfa_fast.experiments.reproduce.images import ImageSets
from mfa_fast.experiments.reproduce.network_cells import CarliniWagner
from mfa_fast.experiments.reproduce.report import DataTable, Picture, Report
from mfa_fast.experiments.reproduce.robustness import (
    Row,
    asymmetric,
    attack_on,
    data_set_name,
    label,
    plan_attacks,
    rows_of,
    symmetric,
)
from mfa_fast.experiments.reproduce.settings import Settings
from mfa_fast.experiments.tables import distance, percent

CLOSE = 0.15  # how far CW-L2 may be from LD-Grad
ROUNDING = 1e-3  # of the distances compared: attacks of networks work in float32
LD_GRAD, CW = "LD-Grad", "CW-L2"
COLOUR = {LD_GRAD: COLOURS["bayes_symmetric"], CW: COLOURS["cnn"]}


@dataclass(frozen=True)
class Found:
    """An attack on a Bayes-optimal classifier beside the exact minimum for the same samples."""

    distribution: Distribution
    attack: str
    attacked: AttackedModel
    exact: AttackedModel

    @property
    def both(self) -> Array:
        """Which samples, of those shown to both, were flipped by both."""
        n = min(len(self.attacked.y), len(self.exact.y))
        flipped: Array = self.attacked.flipped[:n] & self.exact.flipped[:n]
        return flipped

    @property
    def ratios(self) -> Array:
        """The attack's distance over the exact minimum, sample by sample."""
        both = self.both
        ratios: Array = self.attacked.attack.l2[: len(both)][both] / self.exact.attack.l2[: len(both)][both]
        return ratios

    @property
    def means(self) -> tuple[float, float]:
        """Mean distances of the attack and of the exact minimum over the same samples; nan where there are none."""
        both = self.both
        if not both.any():
            return math.nan, math.nan
        pair = (self.attacked.attack.l2[: len(both)][both], self.exact.attack.l2[: len(both)][both])
        attack, exact = (float(np.mean(l2, dtype=np.float64)) for l2 in pair)
        return attack, exact

    @property
    def below_bound(self) -> float:
        """The share of samples for which the attack claims a distance that is proved impossible; nan of none."""
        both = self.both
        if not both.any():
            return math.nan
        bound = np.nan_to_num(self.exact.attack.lower_bound[: len(both)][both])
        return float(np.mean(self.attacked.attack.l2[: len(both)][both] < (1 - ROUNDING) * bound))


def _optimal(settings: Settings, images: ImageSets) -> list[Symmetric | Asymmetric]:
    return [make(image_set, settings) for image_set in images.modelled for make in (symmetric, asymmetric)]


def _learned(settings: Settings, images: ImageSets) -> list[Symmetric]:
    return [symmetric(image_set, settings) for image_set in images.modelled]


def _plan(settings: Settings, images: ImageSets) -> Plan:
    cells: dict[str, Cell] = {}
    for distribution in _optimal(settings, images):
        model = Bayes(distribution)
        cells[label(distribution, LD_GRAD)] = attack_on(model, distribution, settings)
        cells[label(distribution, "bayes", exact=True)] = Nearest(model, distribution, settings.attack_samples)
        if isinstance(distribution, Symmetric) and "cnn" in settings.classifiers:
            cells[label(distribution, CW)] = CarliniWagner.of(model, distribution, settings)
    return {**cells, **plan_attacks(_learned(settings, images), settings)}


def _found(settings: Settings, images: ImageSets, results: Results) -> list[Found]:
    return [
        Found(distribution, attack, results[label(distribution, attack)], results[exact])
        for distribution in _optimal(settings, images)
        for attack in (LD_GRAD, CW)
        if label(distribution, attack) in results and (exact := label(distribution, "bayes", exact=True)) in results
    ]


def _report(settings: Settings, images: ImageSets, results: Results) -> Report:
    found = _found(settings, images, results)
    rows = rows_of(_learned(settings, images), settings, results)
    gaps = [entry.means[0] / entry.means[1] - 1 for entry in found if entry.attack == LD_GRAD and entry.both.any()]
    return Report(
        name="exact",
        title="How far every attack, and every learned classifier, is from the exact minimum",
        summary=(
            f"LD-Grad goes {percent(min(gaps))} to {percent(max(gaps))} further than the nearest adversarial "
            "example of the best classifier, on average."
            if gaps
            else "LD-Grad has flipped no sample of the best classifiers, so there is nothing to compare."
        ),
        paragraphs=(
            "The nearest adversarial example of a Bayes-optimal classifier can be found exactly, and certified: no "
            "smaller change flips it. So an attack can be measured against what is possible, sample by sample; and the "
            "robustness of a learned classifier against that of the classifier that makes the fewest errors.",
        ),
        tables=(_attack_table(found), _learned_table(rows)),
        pictures=(
            Picture(
                "ratios",
                _draw_ratios(found),
                "By how much the distance that an attack found exceeds the exact minimum of the same sample; the "
                "curves give the share of samples up to each excess.",
            ),
        ),
        comparisons=tuple(_comparisons(found)),
    )


def _attack_table(found: Sequence[Found]) -> DataTable:
    rows = []
    for entry in found:
        attack, exact = entry.means
        rows.append(
            (
                data_set_name(entry.distribution),
                entry.attack,
                str(len(entry.ratios)),
                distance(attack),
                distance(exact),
                _excess(attack / exact),
                _excess(float(np.percentile(entry.ratios, 95)) if len(entry.ratios) else math.nan),
                percent(float(np.mean(entry.exact.attack.certified))),
                percent(entry.below_bound),
            )
        )
    header = (
        *("Data set", "Attack", "Samples", "Mean L2", "Exact minimum", "Excess", "95th percentile"),
        *("Certified", "Below the bound"),
    )
    note = (
        "Mean L2 of both over the samples that both flipped. 95th percentile: of the excess of single samples. "
        "Certified: share of exact minima with a proof. Below the bound: share of samples for which the attack claims "
        f"less than was proved possible, by more than a rounding of {ROUNDING:g}; it has to be 0."
    )
    return DataTable("attacks", header, tuple(rows), note)


def _excess(ratio: float) -> str:
    return "-" if math.isnan(ratio) else f"{100 * (ratio - 1):+.1f} %"


def _learned_table(rows: Sequence[Row]) -> DataTable:
    optima = {row.distribution: row.exact_mean for row in rows if row.key == "bayes"}
    cells = []
    for row in rows:
        best = optima.get(row.distribution, math.nan)
        share = row.mean_l2 / best
        cells.append(
            (
                data_set_name(row.distribution),
                row.name,
                distance(row.mean_l2),
                distance(row.exact_mean),
                distance(best),
                "-" if math.isnan(share) else f"{100 * share:.0f} %",
            )
        )
    header = ("Data set", "Classifier", "Attack", "Its exact minimum", "Bayes-optimal, exact", "Attack / Bayes-optimal")
    note = (
        "Bayes-optimal, exact: the mean exact minimum of the Bayes-optimal classifier of the same data. It is a "
        "yardstick, not a limit: that classifier makes the fewest errors, and another that makes hardly more may keep "
        "further away from its samples. An attack, moreover, gives only an upper bound on a classifier's robustness."
    )
    return DataTable("learned", header, tuple(cells), note)


def _draw_ratios(found: Sequence[Found]) -> bytes:
    sets = list(dict.fromkeys(data_set_name(entry.distribution) for entry in found))
    columns = min(3, len(sets))
    lines = math.ceil(len(sets) / columns)
    figure = Figure(figsize=(4 * columns, 2.9 * lines), layout="constrained")
    grid = np.ravel(figure.subplots(lines, columns, squeeze=False, sharex=True))
    for axes in grid[len(sets) :]:
        axes.set_visible(False)
    for axes, name in zip(grid, sets, strict=False):
        for entry in found:
            if data_set_name(entry.distribution) == name and len(entry.ratios):
                excess = 100 * (np.sort(entry.ratios) - 1)
                shares = 100 * np.arange(1, len(excess) + 1) / len(excess)
                axes.plot(excess, shares, color=COLOUR[entry.attack], label=entry.attack, linewidth=2)
        axes.axvline(0, color="black", linewidth=1, linestyle="--")
        axes.set(xlabel="Excess over the exact minimum, %", ylabel="Samples, %", title=name, ylim=(0, 103))
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=9, loc="lower right")
        plain_axes(axes)
        axes.title.set_fontsize(11)
    return png(figure)


def _comparisons(found: Sequence[Found]) -> list[Comparison]:
    lines = []
    for entry in (entry for entry in found if entry.both.any()):
        lines.append(
            claim(
                f"{data_set_name(entry.distribution)}, {entry.attack}: samples below the certified bound",
                "none can be",
                "the bound",
                percent(entry.below_bound),
                entry.below_bound == 0,
            )
        )
    by_set: dict[str, dict[str, Found]] = {}
    for entry in found:
        by_set.setdefault(data_set_name(entry.distribution), {})[entry.attack] = entry
    for name, attacks in by_set.items():
        if CW in attacks:
            pair = [attacks[attack].attacked for attack in (LD_GRAD, CW)]
            n = min(len(attacked.y) for attacked in pair)
            both = pair[0].flipped[:n] & pair[1].flipped[:n]
            if not both.any():
                continue
            closed_form, iterative = (float(np.mean(attacked.attack.l2[:n][both])) for attacked in pair)
            apart = abs(iterative / closed_form - 1)
            lines.append(
                claim(
                    f"{name}: CW-L2 and LD-Grad",
                    "similar results",
                    "ICLR 2020 submission, appendix C.2",
                    f"{distance(iterative)} and {distance(closed_form)}, {percent(apart)} apart",
                    apart <= CLOSE,
                )
            )
    return lines


EXACT = Experiment("exact", "Every attack and classifier against the exact minimum", _plan, _report)
