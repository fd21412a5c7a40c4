"""Array types, limits on the number of values processed at once, and small functions of arrays and numbers."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
MAX_CHUNK_VALUES = 4_000_000
"""Maximum number of permuted values that are in memory together."""
CACHED_CHUNK_VALUES = 200_000
"""Number of values that are computed at once if several passes follow, so that their arrays fit into the cache of a
core."""


def split_rows(rows: NDArray[Any], values_per_row: int, max_values: int = MAX_CHUNK_VALUES) -> list[NDArray[Any]]:
    """Return the rows of an array in chunks, each with at least one row and about `max_values` values at most.

    Args:
        values_per_row: number of values that are computed from each row.
    """
    chunk_count = len(rows) * values_per_row // max_values + 1
    return np.array_split(rows, min(len(rows), chunk_count))


def mark_last_repeats(values: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return whether each value is the last of successive equal values."""
    return np.append(np.diff(values) != 0, True)


def exponentiate(logarithm: float) -> float:
    """Return exp(logarithm); infinity if it overflows."""
    try:
        return math.exp(logarithm)
    except OverflowError:
        return math.inf
