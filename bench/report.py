"""docs/performance.md from a result of bench/table.py.

python bench/report.py NAME
"""

import argparse
import json
from pathlib import Path

from mfa_fast.experiments.throughput import text_table
from table import result_path

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"

TEXT = """# Performance

Made by `python bench/report.py {name}` from `bench/results/{name}.json`, which
`python bench/table.py --json {name}` wrote. `mfa-fast bench` measures your own machine in the same way.

Machine: {machine}.

Times say little, because machines differ; ratios say more. Every task is timed in turn with a floor in the same run,
and the figure is the median of the ratios, with its spread beside it. For densities the floor is NumPy's dense matrix
product (n, d) @ (d, K (L + 1)) in the same dtype on the same cores: the arithmetic of a dense evaluation and nothing
else. LD-Grad's is a scoring pass of both classes (or its own three steps), sampling's is NumPy's normal numbers on one
generator; that of the nearest adversarial example, all densities of all components. The error is that of the timed call
against a long-double reference; of LD-Grad, what is left of the gap between the classes; of the nearest adversarial
example, the part of the mean distance that is not proved.

`target` is what the project set itself. Where a ratio is above it, it has not been reached. Nested in float32 at noise
0.1 is the worst case there is: every component matters, and none can be told from the others without double precision.

CUDA: compiled, not yet run on a GPU. The kernels are tested as compiled for the CPU; the estimators do not use them
yet.

```text
{table}
```
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", help="of the result, as given to bench/table.py --json")
    name = parser.parse_args().name
    result = json.loads(result_path(name).read_text())
    machine = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in result["machine"].items())
    PAGE.write_text(TEXT.format(name=name, machine=machine, table=text_table(result["rows"]).rstrip()))


if __name__ == "__main__":
    main()
