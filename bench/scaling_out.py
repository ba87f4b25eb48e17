"""What 10^9 images take on many machines: rates measured on this one, the rest simulated; docs/scaling.md from it.

    python bench/scaling_out.py [--quick] [--json NAME]     measure, and simulate on the screen
    python bench/scaling_out.py --page NAME                 docs/scaling.md and its picture from bench/results/NAME.json

Seconds are of one core's processor time, so that what else the machine does hardly shows; only the check against two
worker processes also looks at the clock. The simulation is cluster_model.py.
"""

import argparse
import json
import os
import pickle
import textwrap
import time
import warnings
from copy import copy
from dataclasses import asdict
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning

import shapes
from cluster_model import Cluster, Costs, simulate
from mfa_fast import MFA
from mfa_fast._parameters import Parameters
from mfa_fast.experiments.problems import Shape, cast, smooth_mixture
from table import result_path, write_json

DOCS = Path(__file__).parents[1] / "docs"
PICTURE = "scaling.png"

IMAGES = Shape("images", 64 * 64 * 3, 200, 10, 10**9)
QUICK_IMAGES = Shape("images", 16 * 16 * 3, 20, 4, 10**9)
CHECK = Shape("check", 784, 50, 6, 40_000)
CHECK_BLOCKS = 16
CHECK_WORKERS = 2
NOISE_STD = 0.1  # of pixels in [0, 1]; fitted faces have 0.13
GIGABIT = 1e9 / 8
CORES = 32
MACHINES = (1, 3, 10, 30, 100, 300, 1000, 3000)
NETWORKS = (10, 100)
ITERATIONS = 30


# -------------------------------------------------------------------------------------------------------- measurement


def processor_seconds(call, repeats):
    """Return the least processor time of a call, after a first one."""
    call()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def line(call, sizes, repeats):
    """Return seconds per row, and those of no rows, from two numbers of rows."""
    few, many = (processor_seconds(lambda n=n: call(n), repeats) for n in sizes)
    slope = (many - few) / (sizes[1] - sizes[0])
    return slope, max(0.0, few - slope * sizes[0])


def one_core(model, screening=True):
    return cast(model, np.float64).set_params(n_threads=1, screening=screening)


def measure_rates(shape, sizes, repeats):
    """Return a row for each way to go through the samples, and the model."""
    model = smooth_mixture(shape, NOISE_STD)
    X = model.set_params(n_threads=1).sample(sizes[1], random_state=1)[0]
    # Images of 8 bits: the same in other units.
    pixels = np.clip(np.round(255 * X), 0, 255).astype(np.uint8)
    p = Parameters(model.weights_, 255 * model.means_, 255 * model.loadings_, 255**2 * model.noise_variance_)
    in_pixels = MFA.from_parameters(*p.arrays())
    rows = []
    for dtype, samples, own in (("uint8", pixels, in_pixels), ("float32", X.astype(np.float32), model)):
        for screening in (False, True):
            fitted = one_core(own, screening)
            seconds, block_seconds = line(lambda n, f=fitted, s=samples: f.e_step(s[:n]), sizes, repeats)
            rows.append(
                {"dtype": dtype, "screening": screening, "row_seconds": seconds, "block_seconds": block_seconds}
            )
            print(f"{dtype}, screening {screening}: {1 / seconds:.0f} rows per second and core", flush=True)
    return rows, model, X


def measure_steps(model, X, repeats):
    """Return what the rest of an iteration takes."""
    fitted = one_core(model, screening=False)
    # The means too, so that no component is without samples.
    statistics = fitted.e_step(np.concatenate([X, model.means_.astype(X.dtype)]))
    parameters = fitted._parameters()
    K, L, d = model.loadings_.shape
    assert statistics.nbytes == 8 * K * (1 + L + L**2 + (L + 2) * d)
    return {
        "pack_seconds": processor_seconds(parameters.pack, repeats),
        "add_seconds": processor_seconds(lambda: statistics + statistics, repeats),
        "m_step_seconds": processor_seconds(lambda: copy(fitted).m_step(statistics), repeats),
        "parameter_bytes": len(pickle.dumps(fitted)),
        "statistics_bytes": len(pickle.dumps(statistics)),
    }


def measure_dask(tasks, repeats):
    """Return what two worker processes of one core each took, by the clock and of processors, and the prediction."""
    from distributed import Client, LocalCluster, wait

    from mfa_fast.dask import fit, sample

    tiny = smooth_mixture(Shape("tiny", 4, 1, 1, tasks), NOISE_STD)
    model = smooth_mixture(CHECK, NOISE_STD)
    with (
        LocalCluster(n_workers=CHECK_WORKERS, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):

        def now():
            """Return the time, this process's processor time (with the scheduler in it), and that of the workers."""
            workers = client.run(time.process_time)
            return np.array([time.perf_counter(), time.process_time(), sum(workers.values())])

        def iteration_seconds(model, X, iterations=(2, 7)):
            """Return the three for an iteration, from two fits of different length."""
            names = ("weights", "means", "loadings", "noise_variance")
            K, L = model.loadings_.shape[:2]
            estimator = MFA(K, L, tol=0, n_threads=1, screening=False).set_params(
                **{f"{name}_init": getattr(model, f"{name}_") for name in names}
            )
            seconds = []
            for count in iterations:
                start = now()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    fit(estimator.set_params(max_iter=count), X)
                seconds.append(now() - start)
            return (seconds[1] - seconds[0]) / (iterations[1] - iterations[0])

        def samples(model, rows, blocks):
            """Draw them where they are used."""
            X = sample(model, rows, chunks=rows // blocks, random_state=0)[0].astype(np.float32).persist()
            wait(X)
            return X

        small, large = samples(tiny, tasks, tasks), samples(model, CHECK.n_samples, CHECK_BLOCKS)
        per_task = min(iteration_seconds(tiny, small)[1] for _ in range(repeats)) / tasks
        taken = np.min([iteration_seconds(model, large) for _ in range(repeats)], axis=0)
        load = os.getloadavg()[0]
    n = CHECK.n_samples // CHECK_BLOCKS
    X = model.sample(n, random_state=0)[0].astype(np.float32)
    fitted = one_core(model, screening=False)
    row_seconds, block_seconds = line(lambda rows: fitted.e_step(X[:rows]), (n // 4, n), repeats)
    costs = Costs(row_seconds, block_seconds, **measure_steps(model, X, repeats), task_seconds=per_task)
    predicted = simulate(costs, Cluster(CHECK_WORKERS, 1, 10 * GIGABIT, spread=0.0), CHECK.n_samples)
    return {
        "task_seconds": per_task,  # for each block, its share of sums with it
        "load": load,
        "seconds": taken[0],
        "worker_seconds": taken[2],
        "predicted_seconds": predicted.total,
        "predicted_worker_seconds": CHECK.n_samples * row_seconds
        + CHECK_BLOCKS * block_seconds
        + 2 * costs.pack_seconds
        + (CHECK_BLOCKS - 1) * costs.add_seconds,
    }


def measure(quick):
    shape = QUICK_IMAGES if quick else IMAGES
    sizes, repeats = ((200, 600), 2) if quick else ((200, 600), 3)
    rates, model, X = measure_rates(shape, sizes, repeats)
    dask = measure_dask(100 if quick else 500, 1 if quick else 3)
    return {
        "quick": quick,
        "shape": asdict(shape),
        "rates": rates,
        "steps": measure_steps(model, X, repeats),
        "dask": dask,
        "processor": processor(),
    }


def processor():
    """Return the processor's name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    names = [one.partition(":")[2].strip() for one in lines if one.startswith("model name")]
    return f"{names[0] if names else 'unknown'}, {os.cpu_count()} cores"


# --------------------------------------------------------------------------------------------------------- simulation


def costs_of(result, rate):
    return Costs(
        rate["row_seconds"], rate["block_seconds"], task_seconds=result["dask"]["task_seconds"], **result["steps"]
    )


def base_rate(result):
    """Return the rate that the tables start from: pixels read in place, and nothing left out by screening."""
    return next(rate for rate in result["rates"] if rate["dtype"] == "uint8" and not rate["screening"])


def curve(result, rate, gigabits, machines=MACHINES, **assumed):
    cluster = {"cores": CORES, "bandwidth": gigabits * GIGABIT, **assumed}
    return [simulate(costs_of(result, rate), Cluster(M, **cluster), result["shape"]["n_samples"]) for M in machines]


def duration(seconds):
    for unit, size in (("days", 86400), ("hours", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s" if seconds >= 0.1 else f"{1e3 * seconds:.2g} ms"


def machine_table(result):
    """Return the table over numbers of machines, as Markdown."""
    lines = [
        "| machines | cores | iteration | parameters there after | last block to end | of ideal | "
        f"{ITERATIONS} iterations | of ideal at {NETWORKS[1]} Gbit/s |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    slow, fast = (curve(result, base_rate(result), gigabits) for gigabits in NETWORKS)
    for M, one, other in zip(MACHINES, slow, fast, strict=True):
        lines.append(
            f"| {M} | {M * CORES} | {duration(one.total)} | {duration(one.broadcast)} | {duration(one.reduction)} | "
            f"{one.efficiency:.0%} | {duration(ITERATIONS * one.total)} | {other.efficiency:.0%} |"
        )
    return "\n".join(lines)


def rate_table(result):
    lines = [
        "| samples | components left out | rows/s per core (measured) | iteration on 100 machines (simulated) |",
        "|---|---|---:|---:|",
    ]
    for rate in result["rates"]:
        (one,) = curve(result, rate, NETWORKS[0], (100,))
        what = "where provably negligible" if rate["screening"] else "none"
        lines.append(f"| {rate['dtype']} | {what} | {1 / rate['row_seconds']:.0f} | {duration(one.total)} |")
    return "\n".join(lines)


def block_table(result):
    lines = [
        "| blocks per machine | rows of a block | neighbours | sent per iteration, all machines | iteration |",
        "|---:|---:|---|---:|---:|",
    ]
    for blocks in (2, 8, 32, 128):
        for scattered in (False, True):
            (one,) = curve(
                result, base_rate(result), NETWORKS[0], (100,), blocks_per_machine=blocks, scattered=scattered
            )
            where = "on different machines" if scattered else "on one machine"
            rows = result["shape"]["n_samples"] / 100 / blocks
            sent = f"{one.sent_bytes / 1e9:,.0f} GB"
            lines.append(f"| {blocks} | {rows:,.0f} | {where} | {sent} | {duration(one.total)} |")
    return "\n".join(lines)


def draw(result, path):
    """Draw the time of an iteration against the number of machines."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots(figsize=(7, 4), layout="constrained")
    machines = np.unique(np.round(np.geomspace(1, MACHINES[-1], 25)).astype(int)).tolist()
    rate = base_rate(result)
    for gigabits in NETWORKS:
        curve_of = curve(result, rate, gigabits, machines)
        panel.loglog(machines, [one.total for one in curve_of], "-", label=f"{gigabits} Gbit/s")
    panel.loglog(machines, [one.arithmetic for one in curve_of], "k--", label="arithmetic alone")
    panel.set_xlabel(f"machines of {CORES} cores")
    panel.set_ylabel("an EM iteration, s (simulated)")
    panel.legend()
    panel.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


# --------------------------------------------------------------------------------------------------------------- page


def page(name, result):
    K, L, d = (result["shape"][key] for key in ("n_components", "n_factors", "n_features"))
    steps, dask, rate = result["steps"], result["dask"], base_rate(result)
    slow = curve(result, rate, NETWORKS[0])
    at_100 = slow[MACHINES.index(100)]
    machines = list(range(10, MACHINES[-1] + 1, 10))
    half = {
        gigabits: next((M for M, one in zip(machines, curve(result, rate, gigabits, machines), strict=True)
                        if one.efficiency < 0.5), None)
        for gigabits in NETWORKS
    }  # fmt: skip
    halves = ", ".join(
        f"from {M} machines on at {gigabits} Gbit/s" if M else f"nowhere up to {MACHINES[-1]} at {gigabits} Gbit/s"
        for gigabits, M in half.items()
    )
    read = CORES / rate["row_seconds"] * d
    text = TEXT.format(
        name=name,
        processor=result["processor"],
        isa=result["machine"]["instruction_set"],
        version=result["machine"]["mfa_fast"],
        K=K,
        L=L,
        d=d,
        noise=NOISE_STD,
        cores=CORES,
        iterations=ITERATIONS,
        rate_table=rate_table(result),
        statistics=steps["statistics_bytes"] / 1e6,
        parameters=steps["parameter_bytes"] / 1e6,
        pack=steps["pack_seconds"],
        add=steps["add_seconds"],
        m_step=steps["m_step_seconds"],
        block=rate["block_seconds"],
        task=1e3 * dask["task_seconds"],
        rate=1 / rate["row_seconds"],
        task_blocks=8e3 * dask["task_seconds"],
        task_all=8e3 * dask["task_seconds"],
        blocks=CHECK_BLOCKS,
        load=dask["load"],
        worker=dask["worker_seconds"],
        worker_predicted=dask["predicted_worker_seconds"],
        overhead=1e3 * (dask["worker_seconds"] - dask["predicted_worker_seconds"]) / CHECK_BLOCKS,
        check_seconds=dask["seconds"],
        check_predicted=dask["predicted_seconds"],
        check_with_overhead=dask["predicted_seconds"]
        + (dask["worker_seconds"] - dask["predicted_worker_seconds"]) / CHECK_WORKERS,
        check=CHECK,
        machine_table=machine_table(result),
        block_table=block_table(result),
        at_100=duration(at_100.total),
        whole=duration(ITERATIONS * at_100.total),
        efficiency=at_100.efficiency,
        halves=halves,
        read=read / 1e9,
        size=result["shape"]["n_samples"] * d / 1e12,
        least_rows=4 * K * (L + 2),
        picture=PICTURE,
    )
    return "\n\n".join(wrap(paragraph) for paragraph in text.split("\n\n"))


def wrap(paragraph):
    """Break the lines of text anew, now that the numbers are in it; tables, headings and lists stay as they are."""
    if paragraph.startswith(("|", "#", "!", "- ")):
        return paragraph
    end = "\n" if paragraph.endswith("\n") else ""
    return textwrap.fill(paragraph, 120, break_long_words=False, break_on_hyphens=False) + end


TEXT = """# Scaling out

How far `mfa_fast.dask.fit` goes, and where it stops. Made by `python bench/scaling_out.py --page {name}` from
`bench/results/{name}.json`, which `python bench/scaling_out.py --json {name}` wrote. Without arguments the script
measures your own machine and simulates from that.

Every number here is of one of three kinds. **Measured**: on one machine ({processor}; instruction set {isa}, mfa_fast
{version}), in seconds of one core's processor time unless it says otherwise. **Formula**: exact, of sizes.
**Simulated**: by `bench/cluster_model.py`, from what was measured and from the assumptions named below. Nothing here
was run on 100 machines.

The problem: $10^9$ images of 64 x 64 x 3 = {d} features, K = {K} components, L = {L} factors, spherical noise.

## What travels

In an iteration the parameters go out, once to every worker. Every block becomes statistics, which are added up in fours
on the way back. Neither depends on the number of samples. In bytes, with float64 throughout:

| | formula | here (measured, pickled) |
|---|---|---:|
| parameters | $8 K (1 + (L + 2) d)$ | {parameters:.1f} MB |
| statistics | $8 K (1 + L + L^2 + (L + 2) d)$ | {statistics:.1f} MB |

The samples do not travel, but for `init_rows` of them at the start. Statistics also carry some samples where components
have lost all of theirs: one for each such component, mostly none.

## What it takes

Samples of a smooth mixture (`smooth_mixture` of the benchmarks) with a noise of {noise}, for pixels in [0, 1], under
the mixture itself. "None" evaluates all components of all samples, and in float64 depends little on the data. What
screening saves depends
on the data: a great deal here, where few components come into question; [performance.md](performance.md) has it on
digits. uint8 is read in place, with arithmetic in float64; float32 is what `X.astype("float32")` makes of it, block by
block, with half the arithmetic.

{rate_table}

| measured | |
|---|---:|
| fixed cost of a block, uint8 with none left out | {block:.2f} s |
| parameters packed for the kernels, once per worker and iteration | {pack:.2f} s |
| two statistics added | {add:.2f} s |
| M-step | {m_step:.2f} s |
| Dask's client and scheduler (one process), per block | {task:.1f} ms |

## $10^9$ images

Assumed: machines of {cores} such cores that share a block without loss (`n_threads={cores}`, workers with one Dask
thread); a network that gives every machine 10 Gbit/s each way whatever the others do, with a latency of 0.1 ms; blocks
whose times differ by 5 % (standard deviation); 8 blocks per machine, neighbours on the same machine (on a few machines
there would have to be more; the second table says that this costs little); samples in memory, or read as fast as they
are needed, {read:.2f} GB/s per machine, of {size:.1f} TB of uint8 in all. No failures.
Simulated, for the {rate:.0f} rows per second and core of uint8 with none left out:

{machine_table}

![An iteration against the number of machines, simulated]({picture})

On 100 machines an iteration takes {at_100}, and {iterations} of them {whole}: {efficiency:.0%} of the ideal, where all
that counts is arithmetic (simulated).

## Where it stops

More than half of the time goes elsewhere {halves} (simulated, in steps of 10 machines). By then iterations are short,
and what does not shrink shows:

- **The parameters on their way out.** Dask sends from a worker to at most 50 at a time, which share its bandwidth. A
  faster network moves this, as the last column shows; so do fewer machines with more cores.
- **What more machines do not share**: packing on each worker before it begins, the last sums, and the M-step, which the
  client does.
- **The scheduler**, with {task_blocks:.0f} ms for the 8 blocks of a machine: with 1,000 machines that is
  {task_all:.0f} s.

And the blocks: each has statistics of its own, whatever its size, which are made, sent and added up. Simulated, on 100
machines with 10 Gbit/s:

{block_table}

Where neighbours lie is up to Dask; these are the extremes. A block of uint8 has half as many bytes as its statistics
at 4 K (L + 2) = {least_rows:,} rows, and should have many more: for models like this one a GB or more.

## Is the simulation any good?

It was held against two worker processes of one core each on the machine above: {check.n_samples:,} samples of
{check.n_features} features, K = {check.n_components}, L = {check.n_factors}, in {blocks} blocks of float32 that
the workers kept. For an iteration

- the workers took {worker:.2f} s of processor time (measured); what the same rows, blocks and sums take outside of Dask
  (measured on one core) makes {worker_predicted:.2f} s. The rest, {overhead:.0f} ms a block, is Dask's own work in the
  workers and what cores lose that are shared with other processes; blocks of $10^9$ images take a minute and more;
- {check_seconds:.2f} s went by on the clock (measured, at a load average of {load:.0f}); the simulation says
  {check_predicted:.2f} s, and {check_with_overhead:.2f} s with that rest on the two workers. What is left is the
  client's and the scheduler's, who share the two cores with them here.

Both processes share one machine's memory and caches, and there is no network to speak of: this checks the arithmetic
and the overhead, not the network. Cases whose outcome is known without a simulation are in
`bench/bench_cluster_model.py`. Left out are machines that die (what they had is computed again;
`tests/unit/test_dask_faults.py` kills some), disks, other users of the network, and what is lost when {cores} cores
share a memory.
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", default=shapes.QUICK, help="a small problem")
    parser.add_argument("--json", metavar="NAME", help="also write bench/results/NAME.json, or this path")
    parser.add_argument("--page", metavar="NAME", help="measure nothing: write docs/scaling.md from these results")
    arguments = parser.parse_args()
    if arguments.page:
        result = json.loads(result_path(arguments.page).read_text())
        (DOCS / "scaling.md").write_text(page(arguments.page, result), encoding="utf-8")
        draw(result, DOCS / PICTURE)
        return
    result = measure(arguments.quick)
    if arguments.json:
        write_json(arguments.json, result)
    print(rate_table(result), machine_table(result), block_table(result), sep="\n\n")
    dask = result["dask"]
    print(
        f"\ntwo workers here: {dask['worker_seconds']:.3f} s of processors, predicted "
        f"{dask['predicted_worker_seconds']:.3f}; {dask['seconds']:.3f} s of the clock, simulated "
        f"{dask['predicted_seconds']:.3f}; {1e3 * dask['task_seconds']:.2f} ms a task"
    )


if __name__ == "__main__":
    main()
