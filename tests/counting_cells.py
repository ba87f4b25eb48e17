"""Cells that note when they are done; in a module that worker processes can import."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mfa_fast.experiments.reproduce.cells import NOT_IN_KEY, Cell


@dataclass(frozen=True)
class Draw(Cell):
    """Random numbers of a seed of its own."""

    name: str
    log: Path | None = field(default=None, compare=False, metadata=NOT_IN_KEY)

    @property
    def title(self):
        return f"draw {self.name}"

    def compute(self, context):
        _note(self.log, self.name)
        return np.random.default_rng(self.seed(0, "draw")).normal(size=5)


@dataclass(frozen=True)
class Add(Cell):
    """The sum of other cells' results."""

    parts: tuple[Cell, ...]
    log: Path | None = field(default=None, compare=False, metadata=NOT_IN_KEY)

    @property
    def title(self):
        return "add"

    def compute(self, context):
        _note(self.log, "add")
        return sum(context.value(part) for part in self.parts)


@dataclass(frozen=True)
class Fail(Cell):
    """One that cannot be done."""

    part: Cell

    @property
    def title(self):
        return "fail"

    def compute(self, context):
        msg = "nothing can be done"
        raise ValueError(msg)


def _note(log, what):
    if log is not None:
        with log.open("a") as file:
            file.write(f"{what}\n")
