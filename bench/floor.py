"""Tasks under pytest-benchmark: every timed round has a floor of its own, and the result of the last one is judged.

What the floors are, and how results are judged, is in `mfa_fast.experiments.tasks`.
"""

from threadpoolctl import threadpool_limits

from mfa_fast._validation import check_threads
from mfa_fast.experiments.timing import Comparison, settle, timed


def run_paired(benchmark, task, *, rounds, accurate=True):
    """Time a task and its floor in turn; return the row of the table and what the task returned.

    `accurate` is false for peers, whose error is reported and not judged.
    """
    floors = []

    def before_round():
        floors.append(timed(task.floor)[1])
        settle()

    shape = task.problem.shape
    benchmark.group = " ".join([task.name, shape.name, task.problem.data, task.problem.dtype.name])
    with threadpool_limits(limits=check_threads(None)):
        task.run()  # models are packed at the first call
        task.floor()
        result = benchmark.pedantic(task.run, setup=before_round, rounds=rounds, iterations=1)
    # With --benchmark-disable there is one round, and no time of it.
    seconds = [float("nan")] if benchmark.stats is None else benchmark.stats.stats.data
    row = task.row(Comparison.of(result, seconds, floors[-len(seconds) :]))
    benchmark.extra_info.update(row)
    if accurate:
        assert row["error"] <= task.tolerance, f"{benchmark.group}: error {row['error']:.2g} > {task.tolerance:g}"
    return row, result
