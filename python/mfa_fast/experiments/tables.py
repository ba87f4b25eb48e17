"""The main job's numbers as rows: on the screen, as CSV, as JSON."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mfa_fast._typing import Array
from mfa_fast.attacks import AttackResult
from mfa_fast.experiments.main_job import ModelResult, RunResult

COLUMNS = ("Classifier", "Accuracy", "Success", "Mean L2", "Median L2", "Steps")
RADIUS_COLUMNS = ("Classifier", "Nearest", "Proved", "Attack", "Mean L2", "Too far", "Share")
LONGEST_UNBROKEN = 24  # characters of a first column that stay on one line: no title is longer, names of files may be
SUMMARY_FIELDS = ("n_samples", "accuracy", "success_rate", "mean_l2", "median_l2")


def percent(value: float) -> str:
    """Format a share; 100 % is written only where it is exactly that."""
    if math.isnan(value):
        return "-"
    text = f"{100 * value:.1f}"
    if text == "100.0":
        return "100 %" if value == 1 else "99.9 %"
    return f"{text} %"


def distance(value: float) -> str:
    """Format an L2 distance; a median over mostly failed attacks is infinite."""
    if math.isnan(value):
        return "-"
    return "infinite" if math.isinf(value) else f"{value:.2f}"


def numbers(values: Any) -> str:
    """Format a number, or one for each class."""
    return " and ".join(str(value) for value in np.atleast_1d(values))


def attack_cells(title: str, summary: dict[str, float], attack: AttackResult) -> list[str]:
    """Return the cells of `COLUMNS` for one attacked classifier."""
    steps = attack.n_steps[attack.success]
    return [
        title,
        percent(summary["accuracy"]),
        percent(summary["success_rate"]),
        distance(summary["mean_l2"]),
        distance(summary["median_l2"]),
        str(int(steps.max())) if steps.size else "-",
    ]


def screen_table(
    title: str, rows: Sequence[Sequence[str]], columns: Sequence[str], *, texts: Sequence[str] = ()
) -> Table:
    """Return a rich table: the first column and those in `texts` to the left, numbers to the right.

    A long first column is folded where the others would have no room; a word of these is never cut.
    """
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        left = index == 0 or column in texts
        cells = [row[index] for row in rows]
        words = " ".join([column] if index == 0 else [column, *cells]).split()
        table.add_column(
            column,
            justify="left" if left else "right",
            overflow="fold",
            no_wrap=index == 0 and all(len(line) <= LONGEST_UNBROKEN for cell in cells for line in cell.splitlines()),
            min_width=max(map(len, words)),
        )
    for row in rows:
        table.add_row(*map(Text, row))  # as they are: of strings, rich takes what stands in brackets for styles
    return table


def print_table(table: Table, console: Console) -> None:
    """Print a table of `screen_table`; where the screen is too narrow for it, rather beyond its edge than in part."""
    console.print(table, crop=False)


def result_rows(result: RunResult) -> list[list[str]]:
    """Return the rows of the main table, the paper's mean L2 last."""
    return [
        [
            *attack_cells(model.row_title, model.summary, model.attack),
            "-" if model.paper is None else distance(model.paper.mean_l2),
        ]
        for model in result.rows
    ]


def result_table(result: RunResult) -> Table:
    """Return the main table for the screen."""
    # On two lines, so that the table fits 80 columns.
    rows = [[title.replace(", noise", ",\n  noise"), *cells] for title, *cells in result_rows(result)]
    return screen_table(result.data_name, rows, (*COLUMNS, "Paper"))


def radius_rows(result: RunResult) -> list[list[str]]:
    """Return, for each classifier, the exact distance and how far beyond it the attack went.

    Where it is not known exactly, what it lies between. The last column is the exact distance as a share of that of the
    Bayes-optimal classifier of the same data.
    """
    optimum = {
        (model.data_set, model.noise_std): model.nearest.summary()["mean_l2"]
        for model in result.rows
        if model.key.startswith("bayes")
    }
    rows = []
    for model in result.rows:
        nearest = model.nearest.summary()
        low, high = nearest["mean_lower_bound"], nearest["mean_l2"]
        best = optimum[model.data_set, model.noise_std]
        rows.append(
            [
                model.row_title,
                _between(low, high, "{:.2f}"),
                percent(nearest["certified_rate"]),
                "LD-Grad",
                distance(model.summary["mean_l2"]),
                _excess(model.attack, model.nearest, model.predicted == model.y),
                _between(100 * low / best, 100 * high / best, "{:.0f}", " %"),
            ]
        )
    return rows


def _excess(attack: AttackResult, nearest: AttackResult, was_right: Array) -> str:
    """Format by how much an attack exceeds the nearest distance, over the samples that both have flipped.

    Over those that either has, an attack that fails where it is far would seem to come nearer than anything can.
    """
    both = was_right & attack.success & nearest.success
    if not both.any():
        return "-"
    found, high, low = (float(np.mean(l2[both])) for l2 in (attack.l2, nearest.l2, nearest.lower_bound))
    return _between(100 * (found / high - 1), 100 * (found / low - 1) if low > 0 else np.inf, "{:.1f}", " %")


def _between(low: float, high: float, form: str, unit: str = "") -> str:
    """Format what lies between two numbers: as one, where they are the same to a thousandth."""
    if math.isnan(low) or math.isnan(high):
        return "-"
    if math.isinf(high):
        return f"above {form.format(low)}{unit}"
    if high - low <= 1e-3 * abs(high) + 1e-3:
        return f"{form.format(high)}{unit}"
    return f"{form.format(low)} to {form.format(high)}{unit}"


def radius_table(result: RunResult) -> Table:
    """Return the table of exact distances for the screen."""
    rows = [[title.replace(", noise", ",\n  noise"), *cells] for title, *cells in radius_rows(result)]
    return screen_table("The nearest adversarial image", rows, RADIUS_COLUMNS)


def summary_records(result: RunResult) -> list[dict[str, Any]]:
    """Return one record per classifier, numbers unrounded."""
    return [
        {
            "model": model.key,
            "title": model.row_title,
            "data_set": model.data_set,
            "noise_std": model.noise_std,
            **{field: model.summary[field] for field in SUMMARY_FIELDS},
            "paper_mean_l2": None if model.paper is None else model.paper.mean_l2,
            "paper_source": None if model.paper is None else model.paper.source,
            **_nearest_record(model),
            "attack_seconds": model.seconds,
            "nearest_seconds": model.nearest_seconds,
        }
        for model in result.rows
    ]


def _nearest_record(model: ModelResult) -> dict[str, Any]:
    summary = model.nearest.summary()
    return {
        "nearest_mean_l2": summary["mean_l2"],
        "nearest_mean_lower_bound": summary["mean_lower_bound"],
        "certified_rate": summary["certified_rate"],
    }


def summary_csv(result: RunResult) -> str:
    """Return `summary_records` as CSV."""
    records = summary_records(result)
    return to_csv(list(records[0]), [list(record.values()) for record in records])


def summary_json(result: RunResult) -> str:
    """Return `summary_records`, the search for gamma and the timings as JSON."""
    return to_json(
        {
            "data": result.data_name,
            "classes": list(result.class_names),
            "models": summary_records(result),
            "gamma": result.gamma,
            "gamma_trials": [asdict(trial) for trial in result.gamma_trials],
            "em_iterations": list(result.em_iterations),
            "seconds": result.seconds,
        }
    )


def config_json(result: RunResult) -> str:
    """Return the resolved configuration and the versions it ran with as JSON."""
    return to_json({"config": asdict(result.config), "versions": result.versions})


def samples_csv(result: RunResult) -> str:
    """Return one row per attacked sample as CSV."""
    rows = [row for model in result.rows for row in _sample_rows(model)]
    header = (
        "model",
        "index",
        "label",
        "predicted",
        "l2",
        "success",
        "n_steps",
        "source",
        "target",
        "nearest_l2",
        "lower_bound",
        "certified",
    )
    return to_csv(header, rows)


def _sample_rows(model: ModelResult) -> list[list[Any]]:
    attack = model.attack
    columns = (
        model.y,
        model.predicted,
        attack.l2,
        attack.success,
        attack.n_steps,
        attack.source,
        attack.target,
        model.nearest.l2,
        model.nearest.lower_bound,
        model.nearest.certified,
    )
    cells = zip(*(np.asarray(column).tolist() for column in columns), strict=True)
    return [[model.key, index, *row] for index, row in enumerate(cells)]


def to_csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return rows under a header as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def to_json(value: Any) -> str:
    """Return standard JSON: paths as text, null for what is not finite, as JSON has no infinity."""
    return json.dumps(_plain(value), indent=2, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
