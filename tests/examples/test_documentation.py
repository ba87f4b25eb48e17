"""The documentation is whole: docstrings have the sections that they should, and nothing public is without a page."""

import ast
import dataclasses
import inspect
import re
import sys
from operator import attrgetter
from pathlib import Path

import pytest

import mfa_fast
import public_api

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

# numpydoc's checks that are not asked for, and why.
NOT_ASKED = {
    "ES01": "the summary often says it all",
    "SA01": "there is not always something else to see",
    "RT02": "what is returned has a name, as in scikit-learn",
    "RT03": "of many a result name, type and shape say enough",
    "PR07": "and so they do of many a parameter",
    "PR08": "a description may begin with a name, such as float32",
}


@pytest.mark.parametrize("module", public_api.modules())
def test_docstrings_have_their_sections(module):
    validate = pytest.importorskip("numpydoc.validate").validate
    complaints = []
    for name, value in public_api.exports(module):
        complaints += _complaints(validate, f"{module}.{name}", _excused(value))
        if inspect.isclass(value):
            for member in public_api.members(value):
                # A class has an example for all of its methods.
                complaints += _complaints(validate, f"{module}.{name}.{member}", {*NOT_ASKED, "EX01"})
    assert not complaints, "\n".join(complaints)


def _excused(value):
    excused = set(NOT_ASKED)
    if dataclasses.is_dataclass(value):
        excused.add("PR01")  # its parameters are its attributes
    if inspect.isclass(value) and issubclass(value, Exception):
        excused.add("EX01")
    return excused


def _complaints(validate, path, excused):
    return [f"{path}: {code} {text}" for code, text in validate(path)["errors"] if code not in excused]


@pytest.mark.parametrize("module", public_api.modules())
def test_docstrings_state_the_defaults_that_there_are(module):
    docscrape = pytest.importorskip("numpydoc.docscrape")
    checked = [value for _, value in public_api.exports(module)]
    for cls in filter(inspect.isclass, list(checked)):
        checked += [getattr(cls, member) for member in public_api.members(cls)]
    for value in filter(callable, checked):
        for parameter in docscrape.get_doc_object(value)["Parameters"]:
            for name in parameter.name.split(", "):
                if stated := re.search(r"default=(.+)$", parameter.type):
                    assert _default(value, name) == ast.literal_eval(stated[1]), f"{value.__qualname__}: {name}"
                elif other := re.fullmatch(r"as in `(.+)`", parameter.type):
                    same = attrgetter(other[1])(sys.modules[value.__module__])
                    assert _default(value, name) == _default(same, name), f"{value.__qualname__}: {name}"


def _default(function, name):
    return inspect.signature(function).parameters[name].default


@pytest.mark.parametrize("module", public_api.modules())
def test_every_public_name_has_a_page(module):
    listed = _autosummaries((DOCS / "api" / "index.rst").read_text(encoding="utf-8"))
    missing = {name for name, _ in public_api.exports(module)} - listed.get(module, set())
    if module != "mfa_fast":
        missing -= set(mfa_fast.__all__)  # they are listed where they are imported from
    assert not missing, f"docs/api/index.rst lacks, of {module}: {', '.join(sorted(missing))}"


def _autosummaries(text):
    """Return the names in the page's lists, by module."""
    listed, module = {}, None
    for line in text.splitlines():
        if match := re.fullmatch(r"\.\. currentmodule:: (\S+)", line):
            module = match[1]
        elif match := re.fullmatch(r" {3}([\w.]+)", line):
            owner, _, name = f"{module}.{match[1]}".rpartition(".")
            listed.setdefault(owner, set()).add(name)
    return listed


@pytest.mark.parametrize(
    ("file", "pattern"),
    [("CITATION.cff", r"^version: (\S+)$"), ("CHANGELOG.md", r"^## \[(\d\S*)\]")],
    ids=["citation", "changelog"],
)
def test_version_is_that_of_the_package(file, pattern):
    stated = re.search(pattern, (ROOT / file).read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert stated[1] == mfa_fast.__version__
