"""Checks of the plain arguments of loaders."""

import os
from pathlib import Path

from mfa_fast._validation import check_integer


def check_digit_pair(a: object, b: object) -> tuple[int, int]:
    """Return two different digits, the smaller one first."""
    first, second = sorted((check_integer("a", a, 0, 9), check_integer("b", b, 0, 9)))
    if first == second:
        msg = f"a and b must be two different digits; got {first} twice"
        raise ValueError(msg)
    return first, second


def check_existing_path(data: object, expected: str) -> Path:
    """Return `data` as the path of a file or folder that exists; `expected` is for messages."""
    if not isinstance(data, str | os.PathLike):
        msg = f"data must be the path of {expected}; got an object of type {type(data).__name__}"
        raise TypeError(msg)
    path = Path(os.path.expanduser(data))  # which leaves alone what Path.expanduser raises a RuntimeError for
    if not path.exists():
        msg = f"data must be the path of {expected}; got '{path}', which does not exist"
        raise FileNotFoundError(msg)
    return path
