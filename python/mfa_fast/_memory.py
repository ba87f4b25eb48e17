"""How many rows are taken at once, so that memory stays within scikit-learn's `working_memory`: docs/memory.md."""

from __future__ import annotations

import sklearn

# Rows that a block has at least, however little memory there is: fewer would leave threads and products without work.
LEAST_ROWS = 96
# A start has this many samples for each component at least.
LEAST_ROWS_PER_COMPONENT = 10


def working_memory() -> int:
    """Return scikit-learn's `working_memory` in bytes."""
    return int(sklearn.get_config()["working_memory"] * 2**20)


def rows_within(memory: float, bytes_per_row: int) -> int:
    """Return how many rows fit into the memory, but not fewer than a block has at least."""
    return max(LEAST_ROWS, int(memory // bytes_per_row))


def expectation_rows(n_components: int, n_factors: int, read_bytes: int) -> int:
    """Return the rows of an E-step's block, docs/memory.md (M1).

    `read_bytes` is what a row takes that has to be read into memory first; 0 for samples that are there.
    """
    return rows_within(working_memory(), 2 * read_bytes + 32 * n_components * (n_factors + 3) + 40)


def scoring_rows(n_components: int, n_features: int, read_bytes: int) -> int:
    """Return the rows of a block that is read and scored, docs/memory.md (M2)."""
    return rows_within(working_memory(), 2 * read_bytes + 8 * (n_components + 2 * n_features))


def start_rows(n_components: int, n_factors: int, n_features: int, row_bytes: int, subsample: int) -> int:
    """Return how many samples the first parameters are made of at most, docs/memory.md (M3).

    `subsample` of them are looked at in all their features, the others by their coordinates.
    """
    directions = max(16, 2 * n_factors)
    each = row_bytes + 8 * (5 * directions + 7 * n_factors + 24)
    wide = 32 * n_features
    memory = working_memory() * 7 // 8  # the rest is for `projection_rows`
    rows = memory // (each + wide)
    if rows > subsample:
        rows = (memory - subsample * wide) // each
    return max(rows, LEAST_ROWS_PER_COMPONENT * n_components)


def projection_rows(n_features: int, most: int) -> int:
    """Return how many samples are brought into coordinates at once: an eighth of the memory, two copies in float64."""
    return min(most, rows_within(working_memory() / 8, 16 * n_features))
