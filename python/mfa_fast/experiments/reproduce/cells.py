"""Pieces of work that are done once: what a cell is, what names it, and where its result is kept.

A cell is a frozen dataclass. Its fields are its configuration; those that are cells are its inputs. So a sweep is a
graph of cells, and what two experiments share is one cell.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import joblib
import numpy as np

import mfa_fast

# Beside the configuration, results depend on these.
PACKAGES = ("numpy", "scipy", "scikit-learn")
VALUE, RECORD = "value.joblib", "cell.json"
UNFINISHED = ".unfinished-"
SEED_WORDS = 8  # of 32 bits: a whole SHA-256


# Metadata of a field that decides nothing about the result, such as where a file lies.
NOT_IN_KEY = {"in_key": False}


class Cell(ABC):
    """One piece of work. Subclasses are frozen dataclasses; equal fields make the same cell."""

    # Distributions that must be installed, with the extra of mfa_fast that brings them.
    requires: ClassVar[dict[str, str]] = {}

    @abstractmethod
    def compute(self, context: Context) -> Any:
        """Do the work; `context` has the inputs' results."""

    @property
    @abstractmethod
    def title(self) -> str:
        """What a progress bar says."""

    @cached_property
    def identity(self) -> str:
        """The cell's whole configuration, its inputs' included, as JSON."""
        return json.dumps(_plain(self), sort_keys=True)

    @cached_property
    def key(self) -> str:
        """The name under which the result is kept: kind of work, configuration, data and versions."""
        packages = (*PACKAGES, *self.requires)
        versions = {"mfa_fast": mfa_fast.__version__, **{name: version(name) for name in packages}}
        digest = hashlib.sha256(json.dumps([self.identity, versions], sort_keys=True).encode()).hexdigest()
        return f"{type(self).__name__}-{digest[:24]}"

    @cached_property
    def inputs(self) -> tuple[Cell, ...]:
        """The cells whose results this one needs, each once."""
        return tuple(dict.fromkeys(_cells_in(self)))

    def seed(self, root: int, purpose: str) -> int:
        """Return a seed that depends on this cell, not on when or where it runs."""
        return spawned_seed(root, self.identity, purpose)


def spawned_seed(root: int, *names: str) -> int:
    """Return the seed of a purpose.

    Parameters
    ----------
    root : int
        The seed of the whole sweep.
    *names : str
        What it is for. Seeds of different names are independent.

    Returns
    -------
    int
        From 0 to 2**32 - 1.

    Examples
    --------
    >>> from mfa_fast.experiments.reproduce.cells import spawned_seed
    >>> spawned_seed(0, "MNIST 0-6", "training") == spawned_seed(0, "MNIST 0-6", "training")
    True
    >>> spawned_seed(0, "MNIST 0-6", "training") == spawned_seed(0, "MNIST 0-6", "attack")
    False
    """
    digest = hashlib.sha256(json.dumps(names).encode()).digest()
    words = np.frombuffer(digest, "<u4", SEED_WORDS).tolist()
    return int(np.random.SeedSequence(root, spawn_key=words).generate_state(1)[0])


def _plain(value: Any) -> Any:
    """Return a configuration as what JSON can hold; a dataclass with its type's name."""
    if is_dataclass(value) and not isinstance(value, type):
        decisive = [f.name for f in fields(value) if f.metadata.get("in_key", True)]
        return {"": type(value).__name__, **{name: _plain(getattr(value, name)) for name in decisive}}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _cells_in(value: Any) -> Iterator[Cell]:
    """Yield the cells in the fields of a dataclass, but not those that these need in turn."""
    items = [getattr(value, f.name) for f in fields(value)] if is_dataclass(value) else value
    for item in items:
        if isinstance(item, Cell):
            yield item
        elif isinstance(item, tuple) or (is_dataclass(item) and not isinstance(item, type)):
            yield from _cells_in(item)


@dataclass(frozen=True)
class Context:
    """What a cell may use while it works: threads, a folder of its own, and its inputs' results."""

    store: Store
    n_threads: int | None
    progress: Callable[[int, int], None] = lambda done, total: None

    def value(self, cell: Cell) -> Any:
        """Return the result of an input."""
        return self.store.load(cell)

    def checkpoint(self, cell: Cell) -> Path:
        """Return a file in which long work may keep what it would go on from; gone once the cell is done."""
        return self.store.checkpoint(cell)


class Store:
    """A folder with one subfolder per finished cell, each written whole or not at all.

    Results are pickles, scikit-learn's machines being among them: as with any pickle, load none that others have made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, cell: Cell) -> Path:
        """Return the folder of a cell."""
        return self.folder / cell.key

    def checkpoint(self, cell: Cell) -> Path:
        """Return the file in which a cell may keep how far it is."""
        return self.folder / f"{cell.key}.checkpoint"

    def __contains__(self, cell: Cell) -> bool:
        """Whether a cell is done."""
        return self.path(cell).is_dir()

    def load(self, cell: Cell) -> Any:
        """Return the result of a cell that is done."""
        with self._reading(cell):
            return joblib.load(self.path(cell) / VALUE)

    def record(self, cell: Cell) -> dict[str, Any]:
        """Return what was written down beside the result: configuration, versions, seconds."""
        with self._reading(cell):
            content: dict[str, Any] = json.loads((self.path(cell) / RECORD).read_text("utf-8"))
        return content

    @contextmanager
    def _reading(self, cell: Cell) -> Iterator[None]:
        """Raise ValueError, which says what to do, for files that are there but damaged."""
        try:
            yield
        except (OSError, ImportError, MemoryError):
            raise
        except Exception as error:  # a damaged pickle may raise anything
            msg = (
                f"'{self.path(cell)}' must hold the result of {cell.title!r}; got a damaged one "
                f"({type(error).__name__}: {error}); remove that folder, and the result is made anew"
            )
            raise ValueError(msg) from error

    def make(self, cell: Cell, context: Context) -> None:
        """Do a cell's work and keep its result, in place of an earlier one."""
        start = time.perf_counter()
        value = cell.compute(context)
        record = {
            "title": cell.title,
            "configuration": json.loads(cell.identity),
            "mfa_fast": mfa_fast.__version__,
            "seconds": round(time.perf_counter() - start, 3),
        }
        scratch = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=self.folder))
        try:
            joblib.dump(value, scratch / VALUE, compress=3)
            (scratch / RECORD).write_text(json.dumps(record, indent=1), "utf-8")
            self._replace(scratch, self.path(cell))
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        self.checkpoint(cell).unlink(missing_ok=True)

    def _replace(self, scratch: Path, target: Path) -> None:
        # A folder can take the place of an empty one only: an earlier result moves aside first.
        if target.exists():
            aside = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=self.folder))
            target.replace(aside / target.name)
            scratch.replace(target)
            shutil.rmtree(aside)
        else:
            scratch.replace(target)

    def sweep(self) -> None:
        """Remove what killed processes have left half written; only while no other process works here."""
        for leftover in self.folder.glob(f"{UNFINISHED}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def prepare(self) -> None:
        """Make the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not os.access(self.folder, os.W_OK | os.X_OK):
            msg = f"out cannot be written: no permission in {self.folder}"
            raise ValueError(msg)


def closure(cells: Iterable[Cell]) -> list[Cell]:
    """Return the cells and all that they need, inputs before what needs them."""
    ordered: dict[Cell, None] = {}

    def visit(cell: Cell) -> None:
        if cell not in ordered:
            for needed in cell.inputs:
                visit(needed)
            ordered[cell] = None

    for cell in cells:
        visit(cell)
    return list(ordered)


def missing(cells: Iterable[Cell], store: Store) -> list[Cell]:
    """Return what is left to be done for these cells, inputs first; inputs of what is done are not looked at."""
    ordered: dict[Cell, None] = {}

    def visit(cell: Cell) -> None:
        if cell not in ordered and cell not in store:
            for needed in cell.inputs:
                visit(needed)
            ordered[cell] = None

    for cell in cells:
        visit(cell)
    return list(ordered)
