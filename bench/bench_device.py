"""Whether what bench/device.py measures runs and is right, on the CPU; its figures mean nothing there."""

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from device import Bench
from device_table import table
from shapes import DEVICE_TARGETS


def test_every_task_runs_and_is_right():
    bench = Bench("cpu", quick=True)
    rows = bench.run()
    assert [row["task"] for row in rows] == list(DEVICE_TARGETS)
    for row in rows:
        assert row["against_cpu"] <= row["tolerance"]
        assert row.get("error", 0) <= row["tolerance"]
    # In float32 the dense evaluation is off where there is little noise, and right where there is much.
    symmetric, fitted = (
        next(row for row in rows if row["task"] == f"score, {kind}") for kind in ("symmetric", "fitted")
    )
    assert fitted["dense_error"] <= 1e-3
    assert symmetric["dense_error"] > symmetric["error"]
    assert len(table(rows).splitlines()) == 1 + len(rows)
