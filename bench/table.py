"""The throughput table on the screen, and in bench/results for the documentation.

python bench/table.py [--quick] [--json NAME]
"""

import argparse
import json
import sys
from pathlib import Path

from mfa_fast.experiments.throughput import machine, text_table, throughput_table

RESULTS = Path(__file__).parent / "results"


def result_path(name):
    """Return where results of a name go; a path is taken as it is."""
    path = Path(name)
    return path if path.parent != Path() else RESULTS / f"{path.stem}.json"


def write_json(name, content):
    """Write results, and with them what they depend on."""
    path = result_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), **content}, indent=1) + "\n")


def main():
    import shapes
    import sources

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", default=shapes.QUICK, help="a fifth of the samples")
    parser.add_argument("--repeats", type=int, help="pairs of measurements per line")
    parser.add_argument("--json", metavar="NAME", help="also write bench/results/NAME.json, or this path")
    arguments = parser.parse_args()

    def progress(row):
        print(f"{row['task']}, {row['shape']}, {row['dtype']}: {row['ratio']:.2f}", file=sys.stderr)

    rows = throughput_table(arguments.quick, shapes.DATA, repeats=arguments.repeats, progress=progress)
    print(text_table(rows), end="")
    if arguments.json:
        kernels = sources.digest(sources.CPU)
        write_json(arguments.json, {"kernels": kernels, "quick": arguments.quick, "rows": rows})


if __name__ == "__main__":
    main()
