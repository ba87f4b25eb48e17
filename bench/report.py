"""docs/performance.md from results of bench/table.py, and of bench/device.sh where there are any.

python bench/report.py NAME ...
"""

import argparse
import json
from pathlib import Path

import sources
from device_table import summary, table
from mfa_fast.experiments.throughput import text_table
from shapes import DEVICE_SHAPES, DEVICE_TARGETS, SHAPES
from table import result_path

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"

TEXT = """# Performance

Made by `python bench/report.py {names}` from `bench/results`, where
`python bench/table.py --json NAME` wrote what it measured. `mfa-fast bench` measures your own machine in the same way.

## On two cores

Times say little, because machines differ; ratios say more. Every task is timed in turn with a floor in the same run,
and the figure is the median of the ratios, with its spread beside it. For densities the floor is NumPy's dense matrix
product (n, d) @ (d, K (L + 1)) in the same dtype on the same cores: the arithmetic of a dense evaluation and nothing
else. That of predictions and of LD-Grad is a scoring pass of both classes (or its own three steps), sampling's is
NumPy's normal numbers on one generator; that of the nearest adversarial example, all densities of all components. The
error is that of the timed call against a long-double reference; of predictions, how far below the highest score that of
the predicted class lies; of LD-Grad, what is left of the gap between the classes; of the nearest adversarial example,
the part of the mean distance that is not proved.

`target` is what the project set itself. Where a ratio is above it, it has not been reached. Nested in float32 at noise
0.1 is the worst case there is: every component matters, and none can be told from the others without double precision,
so that the product is one in float64, which takes twice as long. Its target is missed everywhere. Instruction set v3 is
AVX2, v4 AVX-512.

| shape | features d | components K | factors L |
|---|--:|--:|--:|
{shapes}

Of the data, `MNIST` are digits, under a model that was fitted to them; `symmetric` are samples of such a model with the
same small noise everywhere, whose components lie far apart, and `smooth` the like of it at the size of faces, with
parameters that are smooth functions but for a rough part of the means. The components of `random` have independent
random numbers for parameters, those of `nested` lie on top of each other.

{tables}

## On a GPU

{device}
"""

# What a processor did.
TABLE = """### {name}

{machine}.{changed}

```text
{table}
```"""

# Where there is a result of bench/device.sh.
MEASURED = """{summary}. Made by `bench/device.sh`, which builds, tests and measures on a machine with a CUDA device, \
in `{path}`.{changed}

Times are medians of whole calls. `bandwidth` counts X once, as a part of what a copy of the same run moves (for
samples: of what filling memory writes); `product` is the rate of the dense product's arithmetic over that of torch's
largest product in TF32, above 1 where screening spares more than that; `passes` are scoring passes over the same rows
(`EM iteration` is a fit of one iteration with all that it begins with, `EM, after that` what each of nine more takes);
`dense` is how many times longer a dense evaluation in torch takes per row (float32, batched Woodbury), whose own error
is the last column. The error of the nearest adversarial example is the part of the mean distance that is not proved;
that of samples, how far their mean squared distance from their components is from what it should be. Beside them stands
what the project set itself: for `passes` the most, for the others the least. What falls short of it has not been
reached. The passes are against scoring as it is in the same run: when scoring gains more than they do, they grow.

```text
{table}
```
"""

# Where the sources were others then.
CHANGED = """

**The kernels' sources have been changed since.** As they are now they have not been measured there{tested}."""
TESTED = ";\nthey are compiled, and tested as compiled for the CPU"

# Where there is none.
UNMEASURED = """The CUDA kernels are compiled, not yet run on a GPU. Their sources are tested as compiled for the CPU,
in `tests/gpu`. `bench/device.sh` builds, tests and measures on a machine with a CUDA device, and leaves its figures in
`bench/results`. What the project set itself:

{targets}"""

TARGET_WORDS = {
    "bandwidth": "{:.0%} or more of the bandwidth",
    "dense": "{:.0f} times or more the dense evaluation in torch",
    "passes": "{} scoring passes or less",
}


def changed(result, folders, tested=""):
    """Return what is to be said where a result is of other sources than those there are."""
    return "" if result.get("kernels") == sources.digest(folders) else CHANGED.format(tested=tested)


def on_processor(name):
    """Return the page's part on one processor."""
    result = json.loads(result_path(name).read_text())
    facts = result["machine"].items()
    machine = ", ".join(f"{key if key == 'mfa_fast' else key.replace('_', ' ')} {value}" for key, value in facts)
    rows = text_table(result["rows"]).rstrip()
    return TABLE.format(name=name, machine=machine, changed=changed(result, sources.CPU), table=rows)


def on_device():
    """Return the page's part on the GPU: every result of bench/device.sh, or that there is none."""
    found = []
    for path in sorted(result_path("x").parent.glob("*.json")):
        result = json.loads(path.read_text())
        if "device" in result:
            line, rows = summary(result["device"], result["ceilings"]), table(result["rows"]).rstrip()
            of_others = changed(result, sources.DEVICE, TESTED)
            path = path.relative_to(PAGE.parents[1])
            found.append(MEASURED.format(summary=line, path=path, changed=of_others, table=rows).rstrip())
    if found:
        return "\n\n".join(found)
    targets = "\n".join(
        f"- {task}: {' and '.join(TARGET_WORDS[name].format(value) for name, value in wanted.items())}"
        for task, wanted in DEVICE_TARGETS.items()
        if wanted
    )
    return UNMEASURED.format(targets=targets)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="+", help="of the results, as given to bench/table.py --json")
    names = parser.parse_args().names
    tables = "\n\n".join(on_processor(name) for name in names)
    shapes = {shape.name: shape for shape in (*SHAPES.values(), *DEVICE_SHAPES.values())}
    lines = (f"| `{s.name}` | {s.n_features:,} | {s.n_components} | {s.n_factors} |" for s in shapes.values())
    PAGE.write_text(TEXT.format(names=" ".join(names), shapes="\n".join(lines), tables=tables, device=on_device()))


if __name__ == "__main__":
    main()
