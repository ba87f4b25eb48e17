"""Writes what the main job found to a folder: tables, pictures and one self-contained HTML page."""

from dataclasses import asdict
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from mfa_fast.experiments import models, pictures, tables
from mfa_fast.experiments.folder import check_folder, write_files
from mfa_fast.experiments.main_job import RunResult
from mfa_fast.experiments.page import data_url, html_table, style, swatch, to_bytes

_MADE_BY = "mfa-fast run"


def check_destination(out: Path) -> None:
    """Raise ValueError if `out` holds something other than the report of an earlier run, or cannot be written.

    To be called before minutes of work, not after.
    """
    check_folder(out, _MADE_BY)


def write_report(result: RunResult, out: Path) -> Path:
    """Write tables, pictures and the HTML report of a run.

    Parameters
    ----------
    result : RunResult
    out : Path
        The folder: a new or an empty one, or that of an earlier run, whose files are replaced.

    Returns
    -------
    Path
        The HTML report.

    Raises
    ------
    ValueError
        If `out` holds something else.
    """
    check_destination(out)  # before the pictures are drawn
    images = pictures.render(result)
    contents: dict[str, bytes] = {
        "config.json": tables.config_json(result).encode(),
        "summary.json": tables.summary_json(result).encode(),
        "summary.csv": tables.summary_csv(result).encode(),
        "samples.csv": tables.samples_csv(result).encode(),
        "report.html": to_bytes(html(result, images)),
        **images,
    }
    write_files(contents, out, _MADE_BY)
    return out / "report.html"


def html(result: RunResult, images: dict[str, bytes]) -> str:
    """Return the report as one page with its pictures inside."""
    config = result.config
    bayes = result.models[0]
    words = {
        **{model.key: tables.distance(model.summary["mean_l2"]) for model in result.models},
        **{name: str(value) for name, value in asdict(config).items()},
        "title": f"How robust is the Bayes-optimal classifier? {result.data_name}",
        "subtitle": (
            f"{tables.numbers(config.components)} components with {config.factors} factors each per class,"
            f" {config.attack_samples:,} attacked samples per classifier, seed {config.seed}"
        ),
        "bayes_accuracy": tables.percent(bayes.summary["accuracy"]),
        "n_real": f"{result.n_real:,}",
        "train_samples": f"{config.train_samples:,}",
        "em_iterations": tables.numbers(result.em_iterations),
        "gamma": f"{result.gamma:.4g}",
        "gamma_text": _gamma_text(result),
        "sources": _sources(result),
        "same_noise": _same_noise(result),
        "certified": tables.percent(bayes.nearest.summary()["certified_rate"]),
    }
    markup = {
        "style": style(),
        "result_table": html_table((*tables.COLUMNS, "Paper"), tables.result_rows(result), _swatches(result)),
        "radius_table": html_table(tables.RADIUS_COLUMNS, tables.radius_rows(result), _swatches(result)),
        "gamma_table": _gamma_table(result),
        "settings_table": html_table(
            ("Setting", "Value"),
            [[name, str(value)] for name, value in (asdict(config) | result.versions).items()],
        ),
        "time_table": html_table(("Stage", "Seconds"), [[stage, f"{s:.2f}"] for stage, s in result.seconds.items()]),
        **{_placeholder(name): data_url(content) for name, content in images.items()},
    }
    template = Template(files(__package__).joinpath("report.html").read_text("utf-8"))
    return template.substitute({name: escape(text) for name, text in words.items()} | markup)


def _placeholder(name: str) -> str:
    """Return the name under which the template knows a picture."""
    return Path(name).stem.replace("-", "_")


def _gamma_text(result: RunResult) -> str:
    if not result.gamma_trials:
        return f"No search: gamma was given as {result.gamma:g}."
    return (
        "Chosen is the highest gamma that keeps the accuracy on held-out samples (within"
        f" {100 * models.ACCURACY_SLACK:g} percentage points of the best) and on which the attack"
        " still flips every one of them. Beyond, the kernel is so narrow that its gradient vanishes"
        " between the training samples: the attack gets lost, and what it measures is no longer"
        " the distance to the boundary. There the search ends."
    )


def _same_noise(result: RunResult) -> str:
    if result.same_noise is None:
        return ""
    return (
        f"The asymmetric data set with the noise of the symmetric one, {result.config.noise_std:g}, has a row in the"
        " table, but no pictures: wherever they say asymmetric, the noise is"
        f" {result.config.asymmetric_noise_std:g}."
    )


def _gamma_table(result: RunResult) -> str:
    rows = [
        [
            f"{trial.gamma:.4g}" + (" (chosen)" if trial.gamma == result.gamma else ""),
            tables.percent(trial.accuracy),
            tables.percent(trial.attack_success),
        ]
        for trial in result.gamma_trials
    ]
    return html_table(("Gamma", "Held-out accuracy", "Attack success"), rows) if rows else ""


def _sources(result: RunResult) -> str:
    sources = sorted({model.paper.source for model in result.models if model.paper is not None})
    if not sources:
        return "It has no figures for this data set."
    return f"Its figures: {'; '.join(sources)}."


def _swatches(result: RunResult) -> list[str]:
    # What is in no picture has no colour, but its title keeps in line with the others.
    colours = [pictures.COLOURS.get(model.key, "transparent") for model in result.rows]
    return [swatch(colour) for colour in colours]
