"""What all suites share: a fixture that times a task with its floor, and the table at the end."""

import sys
from pathlib import Path

import pytest

# The suites import shapes.py and floor.py from here, however they are started.
sys.path.insert(0, str(Path(__file__).parent))

import floor
import shapes

ROWS = pytest.StashKey[list]()


def pytest_configure(config):
    config.stash[ROWS] = []


@pytest.fixture(params=shapes.DTYPE_NAMES.values(), ids=shapes.DTYPE_NAMES)
def dtype(request):
    return request.param


@pytest.fixture
def paired(benchmark, request):
    """Return a function that times a task, asserts that it was right and returns its result."""

    def run(task, *, who="mfa_fast", accurate=True):
        row, result = floor.run_paired(benchmark, task, rounds=shapes.REPEATS, accurate=accurate)
        benchmark.extra_info["who"] = who
        request.config.stash[ROWS].append({"who": who, **row})
        return result

    return run


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash[ROWS]
    if not rows:
        return
    from table import text_table

    terminalreporter.section("ratios to the floor of the same run")
    terminalreporter.write(text_table(rows))
