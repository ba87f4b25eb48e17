"""The throughput table on the screen, and in bench/results for the documentation.

python bench/table.py [--quick] [--json NAME]
"""

import argparse
import json
import sys
from pathlib import Path

from mfa_fast.experiments.throughput import machine, throughput_table

RESULTS = Path(__file__).parent / "results"

# Heading, key, format; a heading whose key no row has is left out.
COLUMNS = (
    ("", "who", "{}"),
    ("task", "task", "{}"),
    ("shape", "shape", "{}"),
    ("data", "data", "{}"),
    ("n", "n", "{}"),
    ("dtype", "dtype", "{}"),
    ("noise", "noise_std", "{:g}"),
    ("time, ms", "seconds", "{:.1f}"),
    ("floor, ms", "floor_seconds", "{:.1f}"),
    ("floor is", "against", "{}"),
    ("ratio", "ratio", "{:.2f}"),
    ("+-", "spread", "{:.2f}"),
    ("target", "target", "{:.2f}"),
    ("error", "error", "{:.1e}"),
    ("allowed", "tolerance", "{:.0e}"),
)
IN_MILLISECONDS = ("seconds", "floor_seconds")


def cells(row):
    """Return a row as text."""
    return [
        "-" if row.get(key) is None else form.format(row[key] * 1e3 if key in IN_MILLISECONDS else row[key])
        for _, key, form in COLUMNS
    ]


def text_table(rows):
    """Return lines with aligned columns: words to the left, numbers to the right."""
    kept = [i for i, (_, key, _) in enumerate(COLUMNS) if any(key in row for row in rows)]
    lines = [[COLUMNS[i][0] for i in kept], *([line[i] for i in kept] for line in map(cells, rows))]
    widths = [max(len(line[i]) for line in lines) for i in range(len(kept))]
    words = [COLUMNS[i][2] == "{}" for i in kept]
    aligned = (
        "  ".join(
            cell.ljust(width) if word else cell.rjust(width)
            for cell, width, word in zip(line, widths, words, strict=True)
        )
        for line in lines
    )
    return "".join(f"{line.rstrip()}\n" for line in aligned)


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
        write_json(arguments.json, {"quick": arguments.quick, "rows": rows})


if __name__ == "__main__":
    main()
