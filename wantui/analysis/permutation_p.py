"""p of permutation tests, from statistics whose first row is the observed one."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.arrays import FloatArray

TIE_FACTOR = 1 - 1e-9
"""Share of the observed statistic from which a permuted statistic counts as equal: both have rounding errors."""


def compare_with_observed(values: FloatArray) -> NDArray[np.bool_]:
    """Return which permuted values [m, ...] are at least as large as the observed values, which come first."""
    return np.asarray(values >= values[0] * TIE_FACTOR)


def compute_family_wise_p(chunks: Iterable[FloatArray]) -> FloatArray:
    """Return the p of each statistic, corrected for all of them (Westfall and Young 1993).

    It is the share of permutations whose largest statistic is at least the observed one.

    Args:
        chunks: statistics [permutations, m] of all permutations, in one or more chunks.
    """
    observed = np.empty(0)
    largest_chunks: list[FloatArray] = []
    for statistics in chunks:
        if not largest_chunks:
            observed = statistics[0].copy()
        largest_chunks.append(statistics.max(1))
    largest = np.concatenate(largest_chunks)
    return np.array([np.mean(largest >= statistic * TIE_FACTOR) for statistic in observed])
