"""What `mfa-fast reproduce` does: plan, run what is left, report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mfa_fast.experiments.folder import check_can_be_made
from mfa_fast.experiments.reproduce import report as reports
from mfa_fast.experiments.reproduce.catalogue import ALL, find_experiments
from mfa_fast.experiments.reproduce.cells import Cell, Store, closure, missing
from mfa_fast.experiments.reproduce.experiment import Experiment, Plan
from mfa_fast.experiments.reproduce.images import ImageSets, find_image_sets
from mfa_fast.experiments.reproduce.run import Progress, run_cells
from mfa_fast.experiments.reproduce.settings import Settings

CELLS = "cells"


@dataclass(frozen=True)
class Sweep:
    """Everything that was asked for, before any of it is done.

    Attributes
    ----------
    name : str
        The id asked for, or "all".
    settings : Settings
    images : ImageSets
    plans : dict of Experiment to Plan
        What can be done here.
    left_out : tuple of str
        For each experiment that cannot be done here a sentence that says why.
    out : Path
    command : str
        The command line that makes it again.
    """

    name: str
    settings: Settings
    images: ImageSets
    plans: dict[Experiment, Plan]
    left_out: tuple[str, ...]
    out: Path
    command: str

    @property
    def store(self) -> Store:
        """Where results are kept."""
        return Store(self.out / CELLS)

    @property
    def targets(self) -> list[Cell]:
        """The cells of which reports are made, each once."""
        return list(dict.fromkeys(cell for plan in self.plans.values() for cell in plan.values()))

    def left(self, *, force: bool = False) -> list[Cell]:
        """Return what is to be done, inputs first."""
        return closure(self.targets) if force else missing(self.targets, self.store)


def plan_sweep(name: str, settings: Settings, data: Sequence[Path], out: Path, command: str) -> Sweep:
    """Find out what has to be done.

    Parameters
    ----------
    name : str
        An id of `catalogue.EXPERIMENTS`, or "all".
    settings : Settings
    data : sequence of Path
        See `images.find_image_sets`.
    out : Path
        Folder for the cells and, in a folder per experiment, the reports.
    command : str
        The command line that makes it again.

    Returns
    -------
    Sweep

    Raises
    ------
    ImportError
        If a single experiment needs a package that is not installed. Of "all", such experiments are left out.
    ValueError, OSError
        If `name`, `data` or `out` is not as described; or if a single experiment is about none of the classifiers in
        the settings. Of "all", such experiments are left out.
    """
    experiments = find_experiments(name)
    images = find_image_sets(settings, data)
    check_can_be_made(out)
    plans: dict[Experiment, Plan] = {}
    left_out = []
    for experiment in experiments:
        plan = experiment.plan(settings, images)
        why_not = _why_not(experiment.name, plan)
        if why_not is None:
            plans[experiment] = plan
            reports.check_destination(out / experiment.name)
        elif name != ALL:
            raise why_not
        else:
            left_out.append(f"Left out: {why_not}.")
    if name == ALL:
        reports.check_destination(out / ALL)
    return Sweep(name, settings, images, plans, tuple(left_out), out, command)


def _why_not(name: str, plan: Plan) -> Exception | None:
    """Return what keeps an experiment from being done here, or None."""
    if not plan:  # of experiments on real images, where classifiers are the Bayes-optimal one alone
        return ValueError(
            f"{name} compares classifiers that learn from real images, and classifiers names none of them"
        )
    needed = absent(closure(plan.values()))
    if needed:
        remedy = f'pip install "mfa_fast[{",".join(dict.fromkeys(needed.values()))}]"'
        return ImportError(f"{name} needs {' and '.join(needed)}, not installed here: {remedy}")
    return None


def absent(cells: Iterable[Cell]) -> dict[str, str]:
    """Return the packages that cells need and that are not installed, with the extras that bring them."""
    needed = {package: extra for cell in cells for package, extra in cell.requires.items()}
    return {package: extra for package, extra in needed.items() if not _is_installed(package)}


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def run_sweep(
    sweep: Sweep,
    *,
    jobs: int,
    n_threads: int | None,
    force: bool,
    progress: Progress,
    done: Callable[[reports.Report, Path], None],
) -> Path:
    """Do what is left of a sweep and write its reports.

    Parameters
    ----------
    sweep : Sweep
    jobs, n_threads, force, progress
        See `run.run_cells`.
    done : callable
        Called with each report and its page.

    Returns
    -------
    Path
        The page of everything or, of a single experiment, its own.
    """
    run_cells(sweep.targets, sweep.store, jobs=jobs, n_threads=n_threads, force=force, progress=progress)
    written = []
    page = sweep.out
    for experiment, plan in sweep.plans.items():
        results = {label: sweep.store.load(cell) for label, cell in plan.items()}
        seconds = sum(sweep.store.record(cell)["seconds"] for cell in closure(plan.values()) if cell in sweep.store)
        report = replace(experiment.report(sweep.settings, sweep.images, results), seconds=seconds)
        written.append(report)
        page = reports.write(report, sweep.settings, sweep.command, sweep.out / experiment.name)
        done(report, page)
    if sweep.name == ALL:
        page = reports.write_all(written, sweep.left_out, sweep.settings, sweep.command, sweep.out / ALL)
    return page
