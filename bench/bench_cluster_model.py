"""The simulation behind docs/scaling.md, where its outcome is known without it."""

import pytest

from cluster_model import FAN_IN, Cluster, Costs, broadcast_seconds, simulate

COSTS = Costs(
    row_seconds=2e-3,
    block_seconds=0.1,
    pack_seconds=0.5,
    add_seconds=0.2,
    m_step_seconds=3.0,
    task_seconds=0.0,
    parameter_bytes=1000,
    statistics_bytes=4000,
)
EVEN = {"bandwidth": 1e4, "latency": 0.0, "spread": 0.0}


def test_one_machine():
    cluster = Cluster(machines=1, cores=4, blocks_per_machine=FAN_IN**2, **EVEN)
    iteration = simulate(COSTS, cluster, 10_000)
    assert iteration.arithmetic == pytest.approx(5.0)
    sums = (FAN_IN**2 - 1) * 0.2
    assert iteration.total == pytest.approx(0.2 + 0.5 + 16 * 0.1 + 5.0 + sums + 0.4 + 3.0)
    assert iteration.sent_bytes == 4000 + 2 * 1000


def test_a_machine_for_each_block():
    cluster = Cluster(machines=FAN_IN, cores=1, blocks_per_machine=1, **EVEN)
    iteration = simulate(COSTS, cluster, 4000)
    assert iteration.broadcast == pytest.approx(0.2 + 3 * 0.1)
    # Three statistics come in one after the other, and are added up.
    assert iteration.total == pytest.approx(0.5 + 0.5 + 0.1 + 2.0 + 3 * 0.4 + 3 * 0.2 + 0.4 + 3.0)
    assert iteration.sent_bytes == 4 * 4000 + 5 * 1000


def test_broadcast_goes_on_from_those_who_have_it():
    cluster = Cluster(machines=51 * 51, cores=1, **EVEN)
    assert broadcast_seconds(COSTS, cluster) == pytest.approx(0.2 + 100 * 0.1)


def test_scattered_neighbours_send_more():
    near, far = (
        simulate(COSTS, Cluster(machines=8, cores=1, blocks_per_machine=8, scattered=scattered, **EVEN), 8000)
        for scattered in (False, True)
    )
    assert far.sent_bytes > near.sent_bytes
    assert far.total > near.total


def test_a_slow_scheduler_holds_everyone_up():
    slow = Costs(**{**COSTS.__dict__, "task_seconds": 10.0})
    cluster = Cluster(machines=4, cores=1, blocks_per_machine=4, **EVEN)
    assert simulate(slow, cluster, 16).total > 15 * 10.0
