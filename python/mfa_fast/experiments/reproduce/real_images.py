"""Figure 12, table 2 and CIFAR-10: classifiers that learn from real images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import cast

from matplotlib.figure import Figure

from mfa_fast.experiments import paper
from mfa_fast.experiments.pictures import COLOURS, GREY, plain_axes, png
from mfa_fast.experiments.reproduce.charts import blocks_of, draw_bars, draw_sheet
from mfa_fast.experiments.reproduce.comparison import Comparison, claim, compare_distance, compare_share
from mfa_fast.experiments.reproduce.distributions import Real
from mfa_fast.experiments.reproduce.experiment import Experiment, Plan, Results
from mfa_fast.experiments.reproduce.images import ImageSet, ImageSets
from mfa_fast.experiments.reproduce.network_cells import EVERYTHING, Accuracy, network
from mfa_fast.experiments.reproduce.report import DataTable, Picture, Report
from mfa_fast.experiments.reproduce.robustness import (
    TOLERANCE_LEARNED,
    TOLERANCE_SHARE,
    Row,
    compare_rows,
    plan_attacks,
    rows_of,
    symmetric,
    table_of,
)
from mfa_fast.experiments.reproduce.settings import Settings
from mfa_fast.experiments.tables import distance, percent

Choose = Callable[[ImageSets], tuple[ImageSet, ...]]
TABLE_2_SOURCE = "ICLR 2020 submission, table 2"


def _on_real_images(name: str, title: str, choose: Choose, missing: str) -> Experiment:
    """Return an experiment that trains and attacks classifiers on real images of the sets that `choose` picks.

    `missing` says what the paper shows, for where other images take its place.
    """

    def sets(settings: Settings, images: ImageSets) -> list[Real]:
        return [Real(image_set, settings.seed) for image_set in choose(images)]

    def plan(settings: Settings, images: ImageSets) -> Plan:
        return plan_attacks(sets(settings, images), settings)

    def report(settings: Settings, images: ImageSets, results: Results) -> Report:
        chosen = sets(settings, images)
        rows = rows_of(chosen, settings, results)
        first = [row for row in rows if row.distribution == chosen[0]]
        given = bool(paper.real_figures(chosen[0].images.name))
        means = ", ".join(f"{distance(row.mean_l2)} for the {row.name}" for row in first)
        return Report(
            name=name,
            title=title,
            summary=f"Real images, {chosen[0].images.name}: mean L2 {means}.",
            paragraphs=(
                "Classifiers that learned from the real training images, attacked on real test images. No "
                "Bayes-optimal classifier is known here.",
                *(() if given else (f"The paper shows {missing}, which was not given (see --data).",)),
            ),
            tables=(table_of(rows),),
            pictures=(
                Picture(
                    "mean-l2", draw_bars(rows), "Mean L2 of successful attacks, with the paper's where it has one."
                ),
                Picture(
                    "sheet",
                    draw_sheet(blocks_of(first), chosen[0].images.image_shape, shared=True),
                    f"{chosen[0].images.name}: real test images, what the attacks make of them, the changes, and how "
                    "much the pixels change, in 255ths.",
                ),
            ),
            comparisons=(*compare_rows(rows), *(_compare_first_version(rows) if name == "fig12" else ())),
        )

    return Experiment(name, title, plan, report)


def _compare_first_version(rows: Sequence[Row]) -> Iterator[Comparison]:
    """Hold figures of CelebA Male beside those of the paper's first version, which differ from the second's."""
    for row in rows:
        if row.distribution.images.name != "CelebA Male":
            continue
        mean_l2, *shares = paper.FIGURE_12[row.key]
        source = paper.FIGURE_12_SOURCE
        yield compare_distance(f"CelebA Male, {row.name}: mean L2", row.mean_l2, mean_l2, source, TOLERANCE_LEARNED)
        ours = (row.accuracy, row.attacked.summary["adversarial_accuracy"])
        for words, own, share in zip(("accuracy", "under attack"), ours, shares, strict=True):
            what = f"CelebA Male, {row.name}: {words}"
            yield compare_share(what, own, share, source, TOLERANCE_SHARE)


FIGURE_12 = _on_real_images("fig12", "Real images", lambda images: images.wanted_or("Male", stand_in=0), "CelebA Male")
CIFAR = _on_real_images(
    "cifar", "Real images of CIFAR-10", lambda images: images.objects or images.modelled, "ten pairs of CIFAR-10"
)


# ------------------------------------------------------------------------------------------------------------- table 2


def _sets(images: ImageSets) -> tuple[ImageSet, ...]:
    return images.wanted(*paper.ATTRIBUTES) or images.modelled


def _plan_table_2(settings: Settings, images: ImageSets) -> Plan:
    cells = {}
    for image_set in _sets(images):
        real = Real(image_set, settings.seed)
        for words, learned_from in (("real", real), ("symmetric", symmetric(image_set, settings))):
            cells[f"{image_set.name}: {words}"] = Accuracy(network(learned_from, settings), real, EVERYTHING)
    return cells


def _report_table_2(settings: Settings, images: ImageSets, results: Results) -> Report:
    names = [image_set.name for image_set in _sets(images)]
    rows, comparisons = [], list[Comparison]()
    for name in names:
        ours = tuple(cast(float, results[f"{name}: {words}"]) for words in ("real", "symmetric"))
        theirs = paper.accuracy_on_real_images(name)
        rows.append((name, *(percent(value) for value in ours), *(percent(v) for v in theirs or ())))
        comparisons.append(
            claim(
                f"{name}: accuracy on real images",
                "a little lower after symmetric ones (by 5 points on average)",
                TABLE_2_SOURCE,
                f"{percent(ours[0])} after real, {percent(ours[1])} after symmetric ones",
                0 <= ours[0] - ours[1] <= 0.1,
            )
        )
        if theirs is not None:
            for words, own, their in zip(("real", "symmetric"), ours, theirs, strict=True):
                what = f"{name}: accuracy after {words} images"
                comparisons.append(compare_share(what, own, their, TABLE_2_SOURCE, TOLERANCE_SHARE))
    with_paper = any(len(row) > 3 for row in rows)
    header = ("Data set", "Real", "Symmetric", *(("Paper, real", "Paper, symmetric") if with_paper else ()))
    rows = [row + ("-",) * (len(header) - len(row)) for row in rows]
    return Report(
        name="table2",
        title="Networks that learned from real and from symmetric images, tested on real ones",
        summary=f"{rows[0][0]}: {rows[0][1]} after real images, {rows[0][2]} after symmetric ones.",
        paragraphs=(
            "How close are the symmetric data sets to the real ones? A network that learned from samples of the model "
            "is tested on real test images, beside one that learned from real training images. The paper's networks "
            "were trained against an adversary here; these were not.",
            *images.instead_of(*paper.FACES),
        ),
        tables=(DataTable("accuracies", header, tuple(rows), "Accuracy on real test images."),),
        pictures=(Picture("accuracies", _draw_accuracies(names, results), "Accuracy on real test images."),),
        comparisons=tuple(comparisons),
    )


def _draw_accuracies(names: list[str], results: Results) -> bytes:
    figure = Figure(figsize=(max(6.0, 1.8 * len(names) + 3), 3.8), layout="constrained")
    axes = figure.subplots()
    for place, name in enumerate(names):
        for shift, words, colour in ((-0.2, "real", GREY), (0.2, "symmetric", COLOURS["cnn"])):
            value = 100 * results[f"{name}: {words}"]
            axes.bar(place + shift, value, 0.36, color=colour, label=f"after {words} images" if place == 0 else None)
            axes.annotate(f"{value:.1f}", (place + shift, value), (0, 3), textcoords="offset points", ha="center")
    axes.set_xticks(range(len(names)), names)
    axes.set(ylabel="Accuracy on real images, %", ylim=(0, 112))
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    plain_axes(axes)
    return png(figure)


TABLE_2 = Experiment("table2", "Networks tested on real images", _plan_table_2, _report_table_2)
