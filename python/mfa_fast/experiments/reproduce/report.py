"""What an experiment leaves: tables, pictures and a comparison with the paper, on one self-contained page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from mfa_fast.experiments import tables
from mfa_fast.experiments.folder import check_folder, write_files
from mfa_fast.experiments.page import data_url, html_table, style, to_bytes
from mfa_fast.experiments.reproduce.comparison import COLUMNS, Comparison
from mfa_fast.experiments.reproduce.settings import Settings

MADE_BY = "mfa-fast reproduce"
SIGNS = {True: "✓ ", False: "✗ ", None: ""}


@dataclass(frozen=True)
class Picture:
    """A PNG and what is to be seen on it."""

    name: str
    png: bytes
    caption: str


@dataclass(frozen=True)
class DataTable:
    """A table: texts to read, under headings, with a word on what the columns mean."""

    name: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def csv(self) -> bytes:
        """Return the table as a CSV file."""
        return tables.to_csv(self.header, self.rows).encode()


@dataclass(frozen=True)
class Report:
    """What came out of one experiment."""

    name: str
    title: str
    summary: str
    paragraphs: tuple[str, ...]
    tables: tuple[DataTable, ...]
    pictures: tuple[Picture, ...]
    comparisons: tuple[Comparison, ...]
    seconds: float = field(default=0.0)

    @property
    def sources(self) -> list[str]:
        """Where the paper's side of the comparison stands."""
        return sorted({comparison.source for comparison in self.comparisons if comparison.source})


def check_destination(out: Path) -> None:
    """Raise ValueError if a report cannot be written to this folder; before the work, not after."""
    check_folder(out, MADE_BY)


def write(report: Report, settings: Settings, command: str, out: Path) -> Path:
    """Write the report of one experiment to a folder, in place of an earlier one.

    Parameters
    ----------
    report : Report
    settings : Settings
        With which it came about.
    command : str
        The command line that makes it again.
    out : Path

    Returns
    -------
    Path
        The page.
    """
    contents = {
        "report.html": to_bytes(page(report.title, report.summary, [report], settings, command)),
        "comparison.csv": DataTable("comparison", COLUMNS, _comparison_rows(report)).csv(),
        "settings.json": tables.to_json(asdict(settings)).encode(),
        **{f"{table.name}.csv": table.csv() for table in report.tables},
        **{f"{picture.name}.png": picture.png for picture in report.pictures},
    }
    write_files(contents, out, MADE_BY)
    return out / "report.html"


def write_all(reports: Sequence[Report], left_out: Sequence[str], settings: Settings, command: str, out: Path) -> Path:
    """Write one page with everything; `left_out` are sentences on what is not on it, and why."""
    title = "A Bayes-optimal view on adversarial examples, reproduced"
    lines = [comparison for report in reports for comparison in report.comparisons]
    agreeing = sum(line.agrees is True for line in lines)
    judged = sum(line.agrees is not None for line in lines)
    summary = " ".join(
        [f"{len(reports)} figures and tables. {agreeing} of {judged} comparisons with the paper agree.", *left_out]
    )
    contents = {
        "report.html": to_bytes(page(title, summary, reports, settings, command)),
        "settings.json": tables.to_json(asdict(settings)).encode(),
        "comparison.csv": DataTable(
            "comparison",
            ("Experiment", *COLUMNS),
            tuple((report.name, *row) for report in reports for row in _comparison_rows(report)),
        ).csv(),
    }
    write_files(contents, out, MADE_BY)
    return out / "report.html"


def page(title: str, summary: str, reports: Sequence[Report], settings: Settings, command: str) -> str:
    """Return one self-contained page of one report, or of several with their contents at the top."""
    several = len(reports) > 1
    contents = ""
    if several:
        rows = [
            [
                report.name,
                report.title,
                str(sum(line.agrees is True for line in report.comparisons)),
                str(sum(line.agrees is not None for line in report.comparisons)),
            ]
            for report in reports
        ]
        contents = html_table(("Id", "What", "Agree", "Compared"), rows, [f'<a href="#{r[0]}">→</a> ' for r in rows])
    entries = [[name, str(value)] for name, value in asdict(settings).items()]
    return Template(files(__package__).joinpath("page.html").read_text("utf-8")).substitute(
        style=style(),
        title=escape(title),
        summary=escape(summary),
        contents=f'<div class="scroll">{contents}</div>',
        sections="\n".join(_section(report, several) for report in reports),
        command=escape(command),
        settings=html_table(("Setting", "Value"), entries),
    )


def _section(report: Report, several: bool) -> str:
    parts = []
    if several:
        parts += [f'<h2 id="{report.name}">{escape(report.name)}: {escape(report.title)}</h2>']
        parts += [f'<p class="lead">{escape(report.summary)}</p>']
    parts += [f"<p>{escape(text)}</p>" for text in report.paragraphs]
    for picture in report.pictures:
        image = f'<img alt="{escape(picture.caption, quote=True)}" src="{data_url(picture.png)}">'
        parts.append(f"<figure>{image}<figcaption>{escape(picture.caption)}</figcaption></figure>")
    for table in report.tables:
        note = f'<p class="quiet">{escape(table.note)}</p>' if table.note else ""
        parts.append(f'<div class="scroll">{html_table(table.header, table.rows)}</div>{note}')
    parts.append(_comparison(report))
    return "\n".join(parts)


def _comparison(report: Report) -> str:
    if not report.comparisons:
        return ""
    heading = "<h3>Beside the paper</h3>"
    sources = f'<p class="quiet">Paper: {escape("; ".join(report.sources))}.</p>' if report.sources else ""
    return f'{heading}<div class="scroll">{html_table(COLUMNS, _comparison_rows(report))}</div>{sources}'


def _comparison_rows(report: Report) -> tuple[tuple[str, ...], ...]:
    rows = []
    for comparison in report.comparisons:
        *cells, verdict = comparison.cells()
        rows.append((*cells, SIGNS[comparison.agrees] + verdict))
    return tuple(rows)
