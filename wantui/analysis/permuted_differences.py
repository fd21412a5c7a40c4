"""Student's t of the differences between pairs of groups, for many permutations of the groups within units.

A permutation selects one difference between two groups for each unit and pair. A sparse matrix of ones selects all of
them: its products with the tables of differences and of squared differences are the sums that t needs.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from wantui.analysis.arrays import FloatArray
from wantui.analysis.statistics import compute_absolute_t

MIN_VARIANCE_SHARE = 1e-3
"""Variance as a share of the mean square, below which it is computed from the deviations, because the difference
between the mean square and the squared mean has a relative error above some 1e-13."""


class PermutedDifferences:
    """Differences between all pairs of groups in each unit; each permutation selects some of them.

    Args:
        values: [units, groups, columns].
        group_pairs: indices of the first and the second group of each pair.
    """

    def __init__(self, values: FloatArray, group_pairs: Sequence[tuple[int, int]]) -> None:
        self._unit_count, self._group_count, self._column_count = values.shape
        self._first_groups, self._second_groups = [i for i, _ in group_pairs], [j for _, j in group_pairs]
        differences = (values[:, :, None] - values[:, None]).reshape(-1, self._column_count)
        self._table = np.concatenate([differences, differences**2], axis=1)

    @property
    def values_per_order(self) -> int:
        """Return the number of values that are computed from one permutation."""
        return len(self._first_groups) * (2 * self._column_count + self._unit_count)

    def compute_t(self, orders: NDArray[np.int64]) -> FloatArray:
        """Return t [permutations, pairs, columns] of permutations [permutations, units, groups].

        The pair (i, j) of a permutation subtracts the group at position j of each unit from the group at position i.
        """
        n, positions = self._unit_count, orders.swapaxes(1, 2)
        rows = positions[:, self._first_groups] * self._group_count + positions[:, self._second_groups]
        selected_rows = (rows + np.arange(n) * self._group_count**2).reshape(-1, n)
        selection = sparse.csr_array(
            (np.ones(selected_rows.size), selected_rows.ravel(), np.arange(len(selected_rows) + 1) * n),
            shape=(len(selected_rows), len(self._table)),
        )
        sums = selection @ self._table
        means, mean_squares = sums[:, : self._column_count] / n, sums[:, self._column_count :] / n
        variances = mean_squares - means**2
        is_inaccurate = (variances <= MIN_VARIANCE_SHARE * mean_squares) & (mean_squares > 0)
        if is_inaccurate.any():
            indices, columns = np.nonzero(is_inaccurate)
            differences = self._table[selected_rows[indices], columns[:, None]]
            means[is_inaccurate], variances[is_inaccurate] = differences.mean(1), differences.var(axis=1)
        t = np.copysign(compute_absolute_t(means, variances * (n / (n - 1)), n), means)
        return t.reshape(len(orders), -1, self._column_count)
