"""Errors that a CUDA device finds when the call that caused them has long returned.

Whether a row of samples is finite is known when the device has read it, and to wait for that would hold up the caller.
So a check is left here, and made by whoever comes next: the next call that goes to a device, one that has to wait for
its result anyway, or `synchronize`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(eq=False)
class LateCheck:
    """What a device will have found of a call's samples when an event has come."""

    event: Any
    has_come: Callable[[Any], bool]
    find: Callable[[], int | None]  # the bad row, if there is one
    n_rows: int
    labelled: bool  # whether it may be the row's label that is bad
    owner: Any
    settled: bool = False

    def settle(self) -> int | None:
        """Return the bad row to the call itself, which has waited for the event and raises the error."""
        self.settled = True
        return self.find()

    def error(self) -> ValueError | None:
        """Return what others are to raise, once the event has come."""
        row = None if self.settled else self.find()
        if row is None:
            return None
        label = ", or its label is none of the model" if self.labelled else ""
        msg = (
            f"row {row} of the X of an earlier call, of {self.n_rows} rows in CUDA memory, is not finite or too far "
            f"from the model{label}; the results of that call are incomplete."
        )
        return ValueError(msg)


_waiting: deque[LateCheck] = deque()


def leave(check: LateCheck) -> None:
    """Leave a check to be made."""
    _waiting.append(check)


def raise_known() -> None:
    """Make all checks whose events have come, and raise the first error."""
    _raise_first(late for late in _taken(len(_waiting)) if _has_come_or_goes_back(late))


def _taken(count: int) -> Iterator[LateCheck]:
    for _ in range(count):
        try:
            yield _waiting.popleft()
        except IndexError:  # another thread was faster
            return


def _has_come_or_goes_back(late: LateCheck) -> bool:
    if late.has_come(late.event):
        return True
    _waiting.append(late)
    return False


def _raise_first(checks: Iterable[LateCheck]) -> None:
    errors = [error for error in [late.error() for late in checks] if error is not None]
    if errors:
        raise errors[0]


def synchronize() -> None:
    """Wait for all that was queued on CUDA devices, and raise what was wrong with its samples.

    Calls on arrays in CUDA memory return before the device has read them. Where one has a row that is not finite, its
    results are incomplete, and a ValueError is raised: by the call itself if it returns Python numbers (`score`) or
    parameters (`fit`), else by the next call on such arrays after the device has found it, or here. Without CUDA, this
    does nothing.

    Raises
    ------
    ValueError
        If samples of an earlier call were not finite, or too far from the model.

    Examples
    --------
    >>> import mfa_fast
    >>> mfa_fast.synchronize()
    """
    checks = list(_taken(len(_waiting)))
    for late in checks:
        late.event.synchronize()
    _raise_first(checks)
