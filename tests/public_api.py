"""Names that users may rely on, found and not listed: the public modules and what they export."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import mfa_fast


def modules() -> list[str]:
    """Return the names of the public modules: those that say what they export, without importing them."""
    names = [f"mfa_fast.{name}" for _, name, _ in pkgutil.iter_modules(mfa_fast.__path__) if not name.startswith("_")]
    names.remove("mfa_fast.experiments")  # what the command runs
    sources = {name: Path(find_spec(name).origin).read_text(encoding="utf-8") for name in names}
    return ["mfa_fast", *(name for name, source in sources.items() if "\n__all__ = " in source)]


def exports(module: str) -> Iterator[tuple[str, Any]]:
    """Yield the functions and classes of a public module by their names in it, or skip the test."""
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name.startswith("mfa_fast"):
            raise
        pytest.skip(f"{module} needs {error.name}, which is not installed")
    for name in imported.__all__:
        value = getattr(imported, name)
        if not inspect.ismodule(value):
            yield name, value


def members(cls: type) -> list[str]:
    """Return the names of a class's own public methods and properties."""
    kinds = (classmethod, staticmethod, property)
    return [
        name
        for name, value in vars(cls).items()
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, kinds))
    ]
