"""Errors that a CUDA device finds when the call that caused them has long returned.

Whether a row of samples is finite is known when the device has read it, and to wait for that would hold up the caller.
So a check is left here, and made by whoever comes next: the next call that goes to a device, one that has to wait for
its result anyway, or `synchronize`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LateCheck:
    """A look at what a device will have found when an event has come."""

    event: Any
    has_come: Callable[[Any], bool]
    check: Callable[[], None]


_waiting: deque[LateCheck] = deque()


def leave(check: LateCheck) -> None:
    """Leave a check to be made."""
    _waiting.append(check)


def raise_known() -> None:
    """Make all checks whose events have come; the first that fails raises."""
    for _ in range(len(_waiting)):
        try:
            late = _waiting.popleft()
        except IndexError:  # another thread was faster
            return
        if late.has_come(late.event):
            late.check()
        else:
            _waiting.append(late)


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
    while _waiting:
        try:
            late = _waiting.popleft()
        except IndexError:  # another thread was faster
            return
        late.event.synchronize()
        late.check()
