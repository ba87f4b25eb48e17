"""Checks of the plain arguments of loaders and streams."""

import os
from numbers import Integral
from pathlib import Path


def one_line(content: object, limit: int = 200) -> str:
    """Return text for a message, of one line and no great length whatever came."""
    text = " ".join(str(content).split())
    return text if len(text) <= limit else f"{text[:limit]}..."


def check_integer(name: str, value: object, minimum: int, maximum: int | None = None) -> int:
    """Return `value` as an int, or say which integers `name` takes (both bounds included)."""
    limits = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
    expected = f"{name} must be an integer {limits}"
    # A bool is an Integral, but True is hardly meant as the digit 1.
    if not isinstance(value, Integral) or isinstance(value, bool):
        msg = f"{expected}; got {one_line(repr(value))} of type {type(value).__name__}"
        raise TypeError(msg)
    number = int(value)
    if number < minimum or (maximum is not None and number > maximum):
        msg = f"{expected}; got {number}"
        raise ValueError(msg)
    return number


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
    path = Path(data).expanduser()
    if not path.exists():
        msg = f"data must be the path of {expected}; got '{path}', which does not exist"
        raise FileNotFoundError(msg)
    return path
