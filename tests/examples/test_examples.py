"""What the documentation shows runs as it stands: the README's Python, the user guide's and every docstring."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import mfa_fast

README = Path(__file__).parents[2] / "README.md"
GUIDE = sorted((README.parent / "docs" / "guide").glob("*.md"))

# Modules that need more than the library's own dependencies, which the tests' environment has.
MODULES = sorted(
    name for _, name, _ in pkgutil.walk_packages(mfa_fast.__path__, "mfa_fast.") if not name.endswith("._core")
)


# Modules that are imported without these packages, and whose examples need them.
EXAMPLES_NEED = {"mfa_fast.attacks.carlini_wagner": ("torch", "foolbox")}
EXTRAS = ("torch", "foolbox", "dask", "distributed")


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    for package in EXAMPLES_NEED.get(name, ()):
        pytest.importorskip(package)
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        pytest.skip(f"{name} needs {error.name}, which is not installed")
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.testmod(module, optionflags=flags).failed == 0


def _blocks(page):
    """Return the blocks marked python; those marked py are for show, as they need what a machine may not have."""
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_readme(capsys):
    blocks = _blocks(README)
    assert blocks
    for block in blocks:
        assert len(block.strip().splitlines()) <= 10
        exec(compile(block, str(README), "exec"), {})
    assert "1.0 {" in capsys.readouterr().out


@pytest.mark.parametrize("page", [page for page in GUIDE if _blocks(page)], ids=lambda page: page.stem)
def test_guide(page):
    names = {}
    for block in _blocks(page):  # each goes on where the last one ended
        exec(compile(block, str(page), "exec"), names)
