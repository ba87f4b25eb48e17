"""Times in pairs, of calls on a machine that is noisy."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from mfa_fast._validation import check_threads


@dataclass(frozen=True)
class Comparison:
    """What a task returned, medians of its time and its floor's, median of the ratios and half their middle range."""

    result: Any
    seconds: float
    floor_seconds: float
    ratio: float
    spread: float

    @classmethod
    def of(cls, result: Any, seconds: list[float], floors: list[float]) -> Comparison:
        """Compare paired times."""
        ratios = np.array(seconds) / np.array(floors)
        low, ratio, high = np.quantile(ratios, (0.25, 0.5, 0.75))
        return cls(result, float(np.median(seconds)), float(np.median(floors)), float(ratio), float(high - low) / 2)


def settle() -> None:
    """Wait until this process has come to rest.

    After a matrix product the threads of OpenBLAS spin for a tenth of a second, on cores that what is timed next needs.
    """
    for _ in range(20):
        before = time.process_time()
        time.sleep(0.02)
        if time.process_time() - before < 0.004:
            return


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return a call's result and its time, once everything else is at rest."""
    settle()
    started = time.perf_counter()
    result = call()
    return result, time.perf_counter() - started


def compare(candidate: Callable[[], Any], floor: Callable[[], Any], repeats: int) -> Comparison:
    """Time two calls in turn, on the same number of threads, after one run of each that does not count."""
    with threadpool_limits(limits=check_threads(None)):
        floor()
        result = candidate()
        seconds, floors = [], []
        for _ in range(repeats):
            floors.append(timed(floor)[1])
            result, duration = timed(candidate)
            seconds.append(duration)
    return Comparison.of(result, seconds, floors)
