"""Figures 6 and 13 to 18 and table 1: all classifiers on the symmetric data sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mfa_fast.experiments.reproduce.attacked import NAMES
from mfa_fast.experiments.reproduce.charts import blocks_of, draw_bars, draw_sheet
from mfa_fast.experiments.reproduce.comparison import Comparison
from mfa_fast.experiments.reproduce.distributions import Symmetric
from mfa_fast.experiments.reproduce.experiment import Experiment, Plan, Results
from mfa_fast.experiments.reproduce.images import ImageSet, ImageSets
from mfa_fast.experiments.reproduce.report import DataTable, Picture, Report
from mfa_fast.experiments.reproduce.robustness import (
    Row,
    compare_accuracies,
    compare_rows,
    plan_attacks,
    rows_of,
    symmetric,
    table_of,
)
from mfa_fast.experiments.reproduce.settings import Settings
from mfa_fast.experiments.tables import distance, percent


def _all(settings: Settings, images: ImageSets) -> list[Symmetric]:
    return [symmetric(image_set, settings) for image_set in images.modelled]


def _plan(settings: Settings, images: ImageSets) -> Plan:
    return plan_attacks(_all(settings, images), settings)


def _means(rows: Sequence[Row]) -> str:
    parts = []
    for key in dict.fromkeys(row.key for row in rows):
        values = [row.mean_l2 for row in rows if row.key == key]
        parts.append(f"{distance(sum(values) / len(values))} for the {NAMES[key]} classifier")
    return ", ".join(parts)


def _report_figure_6(settings: Settings, images: ImageSets, results: Results) -> Report:
    rows = rows_of(_all(settings, images), settings, results)
    return Report(
        name="fig6",
        title="All classifiers on the symmetric data sets: how far an attack must go",
        summary=f"Mean L2 over {len(images.modelled)} data sets: {_means(rows)}.",
        paragraphs=(
            f"Symmetric data sets of noise {settings.noise_std:g}. All learned classifiers see the same "
            f"{settings.train_samples:,} samples. The best classifier is robust; which of the learned ones are?",
        ),
        tables=(table_of(rows),),
        pictures=(
            Picture(
                "mean-l2",
                draw_bars(rows),
                "Mean L2 of successful attacks on samples that were classified correctly, with the paper's where it "
                "has one.",
            ),
        ),
        comparisons=tuple(compare_rows(rows)),
    )


def _report_table_1(settings: Settings, images: ImageSets, results: Results) -> Report:
    distributions = _all(settings, images)
    rows = rows_of(distributions, settings, results)
    shown = list(dict.fromkeys(row.key for row in rows))
    by_set = {d.images.name: {row.key: row for row in rows if row.distribution == d} for d in distributions}
    table = DataTable(
        "accuracies",
        ("Data set", *(NAMES[key] for key in shown), *(["Gamma of the RBF SVM"] if "rbf_svm" in shown else [])),
        tuple(
            (
                name,
                *(
                    f"{percent(own[k].accuracy)} ({percent(own[k].attacked.summary['adversarial_accuracy'])})"
                    for k in shown
                ),
                *(f"{row.gamma:.4g}" for row in own.values() if row.gamma is not None),
            )
            for name, own in by_set.items()
        ),
        "Accuracy on fresh samples and, in brackets, on the adversarial ones made of them.",
    )
    lowest = min((row.accuracy, row.name, row.distribution.images.name) for row in rows)
    comparisons: list[Comparison] = compare_accuracies(rows)
    return Report(
        name="table1",
        title="All classifiers on the symmetric data sets: accuracy",
        summary=f"The lowest accuracy is {percent(lowest[0])}: the {lowest[1]} classifier on {lowest[2]}.",
        paragraphs=(
            "An attack of unlimited budget should leave nothing: where accuracy remains, the attack got lost, as it "
            "does on RBF SVMs of high gamma, whose gradient vanishes between their support vectors.",
        ),
        tables=(table,),
        pictures=(Picture("sheet", _sheet(rows[: len(shown)]), _sheet_caption(rows[0])),),
        comparisons=tuple(comparisons),
    )


FIGURE_6 = Experiment("fig6", "Mean L2 of all classifiers on the symmetric data sets", _plan, _report_figure_6)
TABLE_1 = Experiment("table1", "Accuracies of all classifiers on the symmetric data sets", _plan, _report_table_1)


def samples_figure(name: str, wanted: str, stand_in: int) -> Experiment:
    """Return one of figures 13 to 18: samples, perturbations and histograms of a data set.

    Where the image set `wanted` was not given, the pair of digits number `stand_in` stands in for it.
    """
    title = f"Samples, perturbations and histograms: {wanted.replace('_', ' ')}"
    choose: Callable[[ImageSets], ImageSet] = lambda images: images.wanted_or(wanted, stand_in=stand_in)[0]  # noqa: E731

    def plan(settings: Settings, images: ImageSets) -> Plan:
        return plan_attacks([symmetric(choose(images), settings)], settings)

    def report(settings: Settings, images: ImageSets, results: Results) -> Report:
        chosen = choose(images)
        rows = rows_of([symmetric(chosen, settings)], settings, results)
        given = chosen.name.endswith(wanted)
        shown = f"{'MNIST' if wanted[0].isdigit() else 'CelebA'} {wanted}"
        return Report(
            name=name,
            title=title if given else f"{title}, of which {chosen.name} takes the place",
            summary=f"{chosen.name}, symmetric: {_means(rows)}.",
            paragraphs=images.instead_of(shown),
            tables=(table_of(rows),),
            pictures=(Picture("sheet", _sheet(rows), _sheet_caption(rows[0])),),
            comparisons=tuple(compare_rows(rows)),
        )

    return Experiment(name, title, plan, report)


def _sheet(rows: Sequence[Row]) -> bytes:
    return draw_sheet(blocks_of(rows), rows[0].distribution.images.image_shape, shared=True)


def _sheet_caption(row: Row) -> str:
    return (
        f"{row.distribution.images.name}, symmetric. Top: samples. Below, for each classifier: what the attack makes "
        "of them, the change (red: brighter, blue: darker; magnified by the factor given), and the changes of all "
        "pixels in 255ths; less than the dashed mark is invisible."
    )
