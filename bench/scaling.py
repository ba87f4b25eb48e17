"""How time grows with n, d, K and L, each varied alone, against the formula of the kernels: 2 n d K (L + 1) flops.

    python bench/scaling.py [--quick] [--json NAME] [--plot FILE]

The exponent is the slope of log time over log flops: 1 where the formula holds, less where fixed costs show. Beside it
stands that of the dense matrix product, which has the same flops. Screening may only take away from the formula.
"""

import argparse

import numpy as np

import shapes
from mfa_fast.experiments.problems import Shape, cast, random_mixture
from mfa_fast.experiments.tasks import Problem, dense_floor
from mfa_fast.experiments.timing import compare
from table import write_json

NOISE_STD = 1.0


def repeat(call, times):
    """Return a call that makes a call several times."""

    def run():
        for _ in range(times):
            call()

    return run


def measure(sizes, dtype, repeats):
    """Time dense scoring of one size."""
    shape = Shape("scaling", sizes["d"], sizes["K"], sizes["L"], sizes["n"])
    model = cast(random_mixture(shape, NOISE_STD), dtype)
    problem = Problem(shape, "random", NOISE_STD, model, model.sample(shape.n_samples, random_state=1)[0])
    times = max(1, round(shapes.SCALING_FLOPS / shape.floor_flops))
    floor = dense_floor(shape, problem.X)
    compared = compare(repeat(lambda: model.weighted_log_prob(problem.X), times), repeat(floor, times), repeats)
    return {
        **sizes,
        "dtype": problem.dtype.name,
        "flops": shape.floor_flops,
        "seconds": compared.seconds / times,
        "floor_seconds": compared.floor_seconds / times,
        "ratio": compared.ratio,
    }


def scaling_curves(factors=shapes.SCALING_FACTORS, repeats=shapes.REPEATS):
    """Return one row per size.

    `varied` names what is varied, `predicted` scales the time of the largest size by the flops.
    """
    rows = []
    for dtype in shapes.DTYPE_NAMES.values():
        for name, base in shapes.SCALING_BASE.items():
            curve = []
            for factor in factors:
                # L + 1 is what counts.
                size = round((base + 1) * factor) - 1 if name == "L" else round(base * factor)
                curve.append({"varied": name, **measure({**shapes.SCALING_BASE, name: size}, dtype, repeats)})
            largest = max(curve, key=lambda row: row["flops"])
            rows += [{**row, "predicted": largest["seconds"] * row["flops"] / largest["flops"]} for row in curve]
    return rows


def curves(rows):
    """Group rows by what is varied and dtype."""
    keys = dict.fromkeys((row["varied"], row["dtype"]) for row in rows)
    return {key: [row for row in rows if (row["varied"], row["dtype"]) == key] for key in keys}


def exponent(curve, key="seconds"):
    """Return the slope of log time over log flops."""
    return float(np.polyfit(np.log([r["flops"] for r in curve]), np.log([r[key] for r in curve]), 1)[0])


def print_curves(rows):
    for (name, dtype), curve in curves(rows).items():
        print(f"{name}, {dtype}: exponent {exponent(curve):.2f}, dense product {exponent(curve, 'floor_seconds'):.2f}")
        for row in curve:
            measured, predicted = 1e3 * row["seconds"], 1e3 * row["predicted"]
            print(f"  {name} = {row[name]:6}  {measured:8.2f} ms, predicted {predicted:8.2f}, ratio {row['ratio']:.2f}")


def plot(rows, path):
    """Draw measured and predicted times, a panel for each size that is varied."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(shapes.SCALING_BASE), figsize=(14, 3.5), sharey=True, layout="constrained")
    where = dict(zip(shapes.SCALING_BASE, panels, strict=True))
    for (name, dtype), curve in curves(rows).items():
        sizes = [row[name] + (name == "L") for row in curve]
        (line,) = where[name].loglog(sizes, [1e3 * r["seconds"] for r in curve], "o-", label=f"{dtype}, measured")
        where[name].loglog(
            sizes, [1e3 * r["predicted"] for r in curve], "--", color=line.get_color(), label=f"{dtype}, predicted"
        )
        where[name].set_xticks(sizes, [str(size) for size in sizes])
        where[name].xaxis.minorticks_off()
        where[name].set_xlabel("L + 1" if name == "L" else name)
    panels[0].set_ylabel("time, ms")
    panels[0].legend()
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", default=shapes.QUICK, help="fewer sizes and repeats")
    parser.add_argument("--json", metavar="NAME", help="also write bench/results/NAME.json, or this path")
    parser.add_argument("--plot", metavar="FILE", help="also draw the curves")
    arguments = parser.parse_args()
    rows = scaling_curves(shapes.SCALING_FACTORS[:3], 3) if arguments.quick else scaling_curves()
    print_curves(rows)
    if arguments.json:
        write_json(arguments.json, {"quick": arguments.quick, "rows": rows})
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
