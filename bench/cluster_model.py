"""An iteration of distributed EM, simulated: when which machine does what, if networks were as assumed.

What is simulated is `mfa_fast.dask.fit` on one worker per machine that does one task at a time with all its cores:

1. The parameters go from the client through the scheduler to one worker, and from those who have them to those who do
   not. A worker serves up to 50 others at a time (Dask's default), which share its bandwidth.
2. The scheduler hands out one block after the other, one to each machine and then the next. A machine does its blocks
   in turn; the first of an iteration waits for the parameters to be packed.
3. Whenever the statistics of four neighbours are there, they are sent to the machine of the first and added up; such
   tasks go before blocks. A network interface sends one message and receives one message at a time.
4. The last sum goes to the client, which does the M-step.
"""

import heapq
import itertools
from collections import deque
from dataclasses import dataclass
from math import ceil

import numpy as np

SERVED_AT_ONCE = 50
FAN_IN = 4


@dataclass(frozen=True)
class Costs:
    """What things take; seconds are of one core."""

    row_seconds: float
    block_seconds: float  # of a block, whatever its size
    pack_seconds: float
    add_seconds: float
    m_step_seconds: float
    task_seconds: float  # of the client and the scheduler, for each block
    parameter_bytes: int
    statistics_bytes: int


@dataclass(frozen=True)
class Cluster:
    """What is assumed."""

    machines: int
    cores: int
    bandwidth: float  # bytes per second and direction, of every network interface
    latency: float = 1e-4
    spread: float = 0.05  # of the times of blocks, relative
    blocks_per_machine: int = 8
    scattered: bool = False  # whether neighbouring blocks are on different machines


@dataclass(frozen=True)
class Iteration:
    """Seconds of an iteration, and of what it consists."""

    total: float
    broadcast: float
    arithmetic: float  # if it were all: the rows shared evenly among all cores
    reduction: float  # from the last block to the end of the M-step
    sent_bytes: int

    @property
    def efficiency(self):
        return self.arithmetic / self.total


def broadcast_seconds(costs, cluster):
    """Return when all machines have the parameters."""
    message = costs.parameter_bytes / cluster.bandwidth
    seconds, have = 2 * (message + cluster.latency), 1
    while have < cluster.machines:
        served = min(SERVED_AT_ONCE, ceil((cluster.machines - have) / have))
        seconds += served * message + cluster.latency
        have += have * served
    return seconds


class _Machine:
    def __init__(self, blocks):
        self.blocks = deque(blocks)  # (when the scheduler hands it out, index)
        self.sums = deque()
        self.busy = False
        self.sends = self.receives = 0.0  # until when


def simulate(costs, cluster, n_rows, seed=0):
    """Return an iteration over rows that are shared evenly."""
    rng = np.random.default_rng(seed)
    M, B = cluster.machines, cluster.blocks_per_machine
    count = M * B
    place = np.arange(count) % M if cluster.scattered else np.arange(count) // B
    row_seconds = n_rows / count * costs.row_seconds / cluster.cores
    # The single core's work of a block is not shared: statistics are made zero by one thread.
    block_seconds = (row_seconds + costs.block_seconds) * np.maximum(0, 1 + cluster.spread * rng.normal(size=count))
    message = costs.statistics_bytes / cluster.bandwidth
    ready = broadcast_seconds(costs, cluster)

    machines = [_Machine([]) for _ in range(M)]
    for block in range(count):
        blocks = machines[place[block]].blocks
        turn = len(blocks) * M + int(place[block])
        blocks.append((ready + turn * costs.task_seconds, block))
    # Level by level: whose statistics lie where, and how many parts of a sum are missing.
    owners = [place]
    while len(owners[-1]) > 1:
        owners.append(owners[-1][::FAN_IN])
    missing = [np.zeros(0, int)] + [
        np.minimum(FAN_IN, len(below) - FAN_IN * np.arange(len(level))) for below, level in itertools.pairwise(owners)
    ]
    done = [np.zeros(len(level)) for level in owners]
    events = [(ready + costs.pack_seconds, m, "free", None) for m in range(M)]
    heapq.heapify(events)
    sent, last_block, end = 0, 0.0, 0.0

    def start(machine, now, m):
        """Begin what there is to do: sums first."""
        if machine.sums:
            level, i = machine.sums.popleft()
            parts = min(FAN_IN, len(owners[level - 1]) - FAN_IN * i)
            finish = now + costs.add_seconds * (parts - 1)
        elif machine.blocks:
            handed, i = machine.blocks.popleft()
            level, finish = 0, max(now, handed) + block_seconds[i]
        else:
            machine.busy = False
            return
        machine.busy = True
        heapq.heappush(events, (finish, m, "done", (level, i)))

    while events:
        now, m, what, task = heapq.heappop(events)
        machine = machines[m]
        if what == "sum":
            machine.sums.append(task)
            if not machine.busy:
                start(machine, now, m)
            continue
        if what == "done":
            level, i = task
            done[level][i] = now
            last_block, end = max(last_block, now) if level == 0 else last_block, now
            if level + 1 < len(owners):
                up = i // FAN_IN
                missing[level + 1][up] -= 1
                if missing[level + 1][up] == 0:
                    home = owners[level + 1][up]
                    arrives = now
                    for part in range(FAN_IN * up, min(FAN_IN * (up + 1), len(owners[level]))):
                        other = owners[level][part]
                        if other == home:
                            continue
                        begin = max(now, machines[other].sends, machines[home].receives)
                        machines[other].sends = machines[home].receives = begin + message
                        arrives = max(arrives, begin + message + cluster.latency)
                        sent += costs.statistics_bytes
                    heapq.heappush(events, (arrives, int(home), "sum", (level + 1, up)))
        start(machine, now, m)

    total = end + message + cluster.latency + costs.m_step_seconds
    return Iteration(
        total=total,
        broadcast=ready,
        arithmetic=n_rows * costs.row_seconds / (M * cluster.cores),
        reduction=total - last_block,
        sent_bytes=sent + costs.statistics_bytes + (M + 1) * costs.parameter_bytes,
    )
