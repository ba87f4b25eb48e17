"""The table of a CUDA device's figures, on the screen and in the documentation."""

from mfa_fast.experiments.throughput import text_table

COLUMNS = (
    ("task", "task", "{}"),
    ("shape", "shape", "{}"),
    ("n", "n", "{}"),
    ("time, ms", "milliseconds", "{:.3f}"),
    ("rows/s", "rows_per_second", "{:.3g}"),
    ("bandwidth", "bandwidth", "{:.3f}"),
    ("target", "target_bandwidth", "{:.2f}"),
    ("product", "product", "{:.2f}"),
    ("passes", "passes", "{:.2f}"),
    ("target", "target_passes", "{:.2f}"),
    ("dense", "dense", "{:.1f}"),
    ("target", "target_dense", "{:.0f}"),
    ("error", "error", "{:.1e}"),
    ("CPU", "against_cpu", "{:.1e}"),
    ("allowed", "tolerance", "{:.0e}"),
    ("dense error", "dense_error", "{:.1e}"),
)


def table(rows):
    """Return the rows as lines of text."""
    return text_table(rows, COLUMNS)


def summary(device, measured):
    """Return one line on the device and its ceilings."""
    return (
        f"{device}: copies {measured['copied'] / 1e9:.0f} GB/s (bytes read and written), fills "
        f"{measured['written'] / 1e9:.0f} GB/s, multiplies {measured['multiplied'] / 1e12:.1f} TFLOP/s (TF32)"
    )
