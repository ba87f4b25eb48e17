"""The command `mfa-fast reproduce`: every figure and table of the paper."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from mfa_fast._options import Threads
from mfa_fast.experiments import tables
from mfa_fast.experiments.reproduce.catalogue import ALL, EXPERIMENTS
from mfa_fast.experiments.reproduce.comparison import COLUMNS, TEXTS
from mfa_fast.experiments.reproduce.report import Report
from mfa_fast.experiments.reproduce.settings import read_settings
from mfa_fast.experiments.reproduce.sweep import Sweep, plan_sweep, run_sweep

OUT = Path("mfa-fast-reproduce")


def reproduce(
    name: Annotated[
        str | None,
        typer.Argument(
            help=f"A figure or table, see --list; or {ALL}. Figures have the numbers of the paper's first version"
            " (ICLR 2020 submission), which are others than in JMLR.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="Images: mnist.npz or a folder of MNIST's IDX files, CelebA's folder, or CIFAR-10's"
            " (cifar-10-batches-py). Once for each of them. Left out: scikit-learn's bundled digits."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for results and reports.")] = OUT,
    jobs: Annotated[
        int, typer.Option(min=1, metavar="N", help="Processes; they share the threads. (Networks use one thread each.)")
    ] = 1,
    threads: Threads = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="Tiny budgets: does all of it work?")] = False,
    force: Annotated[
        bool, typer.Option("--force/--resume", help="Do everything anew, or go on where an earlier run stopped.")
    ] = False,
    config: Annotated[Path | None, typer.Option(help="TOML file with settings.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting, such as attack_samples=200 or fig9.width=8.", metavar="NAME=VALUE"),
    ] = None,
    list_them: Annotated[bool, typer.Option("--list", help="List the figures and tables.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
) -> None:
    """Reproduce a figure or table of the paper, or all of them, and hold the outcome beside it."""
    if list_them:
        _print_list()
        return
    if name is None:
        msg = f"name is missing: one of {', '.join(EXPERIMENTS)} or {ALL} (see mfa-fast reproduce --list)"
        raise ValueError(msg)
    settings = read_settings(smoke=smoke, file=config, changes=changes or ())
    command = _command(name, data or (), out, smoke, config, changes or ())
    sweep = plan_sweep(name, settings, data or (), out, command)
    for sentence in sweep.left_out:
        typer.echo(sentence)
    if dry_run:
        _print_plan(sweep, force)
        return
    screen = Console(stderr=True)
    bar = Progress(
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=screen,
        transient=True,
    )
    shown: list[Report] = []
    with bar:
        task = bar.add_task("reading what is done", total=None)
        page = run_sweep(
            sweep,
            jobs=jobs,
            n_threads=threads,
            force=force,
            progress=lambda title, done, total: bar.update(task, description=title, completed=done, total=total),
            done=lambda report, _: shown.append(report),
        )
    if name == ALL:
        _print_overview(shown)
    else:
        _print_report(shown[0])
    typer.echo(f"Report: {page}")


def _command(
    name: str,
    data: Sequence[Path],
    out: Path,
    smoke: bool,
    config: Path | None,
    changes: Sequence[str],
) -> str:
    """Return the command line that leads to the same results."""
    words = ["mfa-fast", "reproduce", name]
    for path in data:
        words += ["--data", str(path)]
    if out != OUT:
        words += ["--out", str(out)]
    if smoke:
        words.append("--smoke")
    if config is not None:
        words += ["--config", str(config)]
    for change in changes:
        words += ["--set", change]
    return shlex.join(words)


def _print_list() -> None:
    rows = [[experiment.name, experiment.title] for experiment in EXPERIMENTS.values()]
    rows.append([ALL, "Everything above, on one page"])
    _print_table("", rows, ("Name", "What"), texts=["What"])


def _print_plan(sweep: Sweep, force: bool) -> None:
    left = sweep.left(force=force)
    for cell in left:
        typer.echo(cell.title)
    done = len(sweep.targets) - len(set(left) & set(sweep.targets))
    typer.echo(f"{len(left)} cells to be done; {done} of the {len(sweep.targets)} that are reported on are there.")


def _print_report(report: Report) -> None:
    typer.echo(report.summary)
    if report.comparisons:
        rows = [comparison.cells() for comparison in report.comparisons]
        _print_table("Beside the paper", rows, COLUMNS, texts=TEXTS)


def _print_overview(reports: Sequence[Report]) -> None:
    rows = []
    for report in reports:
        agreeing = sum(line.agrees is True for line in report.comparisons)
        judged = sum(line.agrees is not None for line in report.comparisons)
        rows.append([report.name, report.title, f"{agreeing} of {judged}", f"{report.seconds:.0f}"])
    _print_table("", rows, ("Name", "What", "Agree with the paper", "Seconds"), texts=["What"])


def _print_table(title: str, rows: Sequence[Sequence[str]], columns: Sequence[str], texts: Sequence[str]) -> None:
    # A file or pipe has no width: there, lines are not to be broken at 80.
    console = Console(width=None if sys.stdout.isatty() else 160)
    tables.print_table(tables.screen_table(title, rows, columns, texts=texts), console)
