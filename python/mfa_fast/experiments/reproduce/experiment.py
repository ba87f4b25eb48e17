"""What every experiment has: an id, the cells it needs, and a report made of their results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mfa_fast.experiments.reproduce.cells import Cell
from mfa_fast.experiments.reproduce.images import ImageSets
from mfa_fast.experiments.reproduce.report import Report
from mfa_fast.experiments.reproduce.settings import Settings

# From a label to the cell that makes it, and to its result.
Plan = Mapping[str, Cell]
Results = Mapping[str, Any]


@dataclass(frozen=True)
class Experiment:
    """A figure or table of the paper.

    `plan` turns settings and image sets into cells, `report` their results into what is shown. Neither does any work
    that is worth keeping: that is in the cells.
    """

    name: str
    title: str
    plan: Callable[[Settings, ImageSets], Plan]
    report: Callable[[Settings, ImageSets, Results], Report]
