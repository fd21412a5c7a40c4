"""Dispersion of states, and permutation tests for differences in dispersion or location between groups.

All functions use squared distances between states of one noise level; each squared distance in a projection is within
about 2 % of the true one. PERMDISP tests whether one group is more spread out than another. It uses distances to the
group's spatial median, not to its mean: one distant video would move the mean and make all others seem more spread.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.arrays import FloatArray
from wantui.analysis.permutation_p import compare_with_observed
from wantui.analysis.statistics import draw_within_seed_permutations

MIN_GROUP_VIDEOS = 3
"""Minimum number of videos in a group. Two videos are always equally far from their median, so differences between
groups of two would seem to have no error."""
MAX_WEISZFELD_ITERATIONS = 5000
"""Maximum number of Weiszfeld iterations; a dozen suffice in many dimensions, nearly collinear states need hundreds."""
ROUNDING_TOLERANCE = 1e-20
"""Share of a sum of squares up to which a value is only a rounding error, which would order permutations
at random."""
CANCELLATION_TOLERANCE = 1e-12
"""Difference between two sums of squared distances, as a share of either sum, up to which it is only a rounding
error."""
STATE_ROUNDING_TOLERANCE = 1e-13
"""Largest squared distance of two states that is a rounding error, as a share of their squares; states are float32."""
PERMUTATION_CHUNK_SIZE = 1024
"""Number of permutations whose statistic is computed together."""


def compute_squared_distances(states: NDArray[np.floating]) -> FloatArray:
    """Return [n, n] squared distances between n states [n, k]; 0 between states that are equal up to rounding."""
    states = np.asarray(states, dtype=np.float64)
    gram = states @ states.T
    squared_norms = np.diagonal(gram)
    norm_sums = squared_norms[:, None] + squared_norms[None, :]
    squared_distances: FloatArray = np.where(
        norm_sums - 2 * gram > STATE_ROUNDING_TOLERANCE * norm_sums, norm_sums - 2 * gram, 0
    )
    np.fill_diagonal(squared_distances, 0)
    return squared_distances


def compute_median_weights(squared_distances: FloatArray) -> FloatArray:
    """Return weights [..., n] of n states whose weighted mean is their spatial median, from squared distances.

    The squared distances are [..., n, n].

    The spatial (geometric) median minimises the sum of distances to the states. Weiszfeld's iteration needs only
    distances: the point sum w_j x_j has the squared distance (D w)_i - w.D.w / 2 to state i. At a state, where the
    direction to it is undefined, the step of Vardi and Zhang (2000) is taken.
    """
    *set_shape, n, _ = squared_distances.shape
    matrices = squared_distances.reshape(-1, n, n)
    weights = np.full((len(matrices), n), 1 / n)
    unfinished = np.flatnonzero(matrices.max((1, 2)) > 0)
    for _ in range(MAX_WEISZFELD_ITERATIONS):
        if not unfinished.size:
            break
        weights[unfinished], is_finished = _step_to_median(matrices[unfinished], weights[unfinished])
        unfinished = unfinished[~is_finished]
    return weights.reshape(*set_shape, n)


def _step_to_median(matrices: FloatArray, weights: FloatArray) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Take one step of Weiszfeld's iteration for m sets of states.

    Args:
        matrices: [m, n, n] squared distances, not all 0 in any set.
        weights: [m, n] weights.

    Returns:
        [m, n] new weights, and [m] whether they are final.
    """
    distances = np.sqrt(_compute_squared_distances_to_mean(matrices, weights))
    is_at_median = distances <= 1e-9 * np.sqrt(matrices.max((1, 2)))[:, None]
    inverse = np.divide(1.0, distances, out=np.zeros_like(distances), where=~is_at_median)
    new_weights = inverse / inverse.sum(1, keepdims=True)
    is_final = np.zeros(len(matrices), dtype=bool)
    for i in np.flatnonzero(is_at_median.any(1)):
        point_count = is_at_median[i].sum()
        pull_length = _compute_resultant_length(matrices[i], np.flatnonzero(is_at_median[i])[0], inverse[i])
        is_final[i] = pull_length <= point_count * (1 + 1e-9)
        point_share = 1.0 if is_final[i] else point_count / pull_length
        new_weights[i] = (1 - point_share) * new_weights[i] + point_share * is_at_median[i] / point_count
    return new_weights, is_final | (np.abs(new_weights - weights).max(1) < 1e-12)


def _compute_squared_distances_to_mean(squared_distances: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the squared distance [..., n] of each of n states to their weighted mean.

    The arguments are squared distances [..., n, n] and weights [..., n].
    """
    weighted_sums = (squared_distances @ weights[..., None])[..., 0]
    variances = (weights * weighted_sums).sum(-1, keepdims=True) / 2
    return np.maximum(weighted_sums - variances, 0)


def _compute_resultant_length(squared_distances: FloatArray, state_index: int, inverse_distances: FloatArray) -> float:
    """Return the length of sum_i (x_i - x_k) / d_ik, from <x_i - x_k, x_j - x_k> = (D_ik + D_jk - D_ij) / 2."""
    doubled_square = (
        2 * inverse_distances.sum() * (inverse_distances @ squared_distances[state_index])
        - inverse_distances @ squared_distances @ inverse_distances
    )
    return float(np.sqrt(max(doubled_square, 0) / 2))


def compute_distances_to_median(squared_distances: FloatArray) -> FloatArray:
    """Return the distance [..., n] of each state to the spatial median of all n states.

    The argument is the squared distances [..., n, n].

    Distances to a sample's own median are too short by about sqrt((n - 1) / n), like distances to its own centroid.
    They are corrected by that factor, so that groups of different sizes can be compared.
    """
    n = squared_distances.shape[-1]
    if n < MIN_GROUP_VIDEOS:
        return np.full(squared_distances.shape[:-1], np.nan)
    weights = compute_median_weights(squared_distances)
    distances: FloatArray = np.sqrt(_compute_squared_distances_to_mean(squared_distances, weights) * n / (n - 1))
    return distances


def compute_total_variance(squared_distances: FloatArray) -> float:
    """Return the total variance, sum |x_i - mean|^2 / (n - 1), from squared distances [n, n]."""
    n = len(squared_distances)
    return float(squared_distances.sum() / (2 * n * (n - 1))) if n > 1 else float("nan")


@dataclass(frozen=True)
class PermutationTest:
    """Result of a permutation test: pseudo-F, and its p by permutation within blocks."""

    pseudo_f: float
    p_value: float


def run_permanova(squared_distances: FloatArray, cell_indices: NDArray[np.int64]) -> PermutationTest:
    """Test whether groups differ in location (Anderson 2001), with the groups exchanged within blocks.

    F = ((SS_T - SS_W) / (a - 1)) / (SS_W / (N - a)) with SS_T = sum of squared distances over pairs / N and SS_W the
    same within groups. The test also responds to spread; read it together with `run_permdisp`.

    Args:
        squared_distances: [n, n] squared distances.
        cell_indices: [blocks, groups, phrasings] indices of the states. All phrasings of a block are exchanged
            together, because they share their initial noise and are not replicates.
    """
    group_count, state_count = cell_indices.shape[1], cell_indices.size
    cell_members = cell_indices.reshape(-1, cell_indices.shape[2])
    # Sum over the phrasings of each pair of cells, because permutations move complete cells.
    cell_sums = np.stack([squared_distances[:, members].sum(1) for members in cell_members], axis=1)
    cell_sums = np.stack([cell_sums[members].sum(0) for members in cell_members])
    total_squares = cell_sums.sum() / (2 * state_count)
    if total_squares == 0:
        return PermutationTest(0.0, 1.0)

    def compute_statistic(orders: NDArray[np.int64]) -> FloatArray:
        labels = orders.reshape(len(orders), -1)
        within_squares = np.zeros(len(orders))
        for group in range(group_count):
            is_member = (labels == group).astype(np.float64)
            within_squares += ((is_member @ cell_sums) * is_member).sum(1) / (2 * state_count / group_count)
        between_squares = total_squares - within_squares
        return _compute_pseudo_f(
            np.where(between_squares > CANCELLATION_TOLERANCE * total_squares, between_squares, 0),
            within_squares,
            group_count,
            state_count,
        )

    return _run_permutation_test(compute_statistic, cell_indices)


def run_permdisp(squared_distances: FloatArray, cell_indices: NDArray[np.int64]) -> PermutationTest:
    """Test whether groups differ in dispersion (Anderson 2006, robust form), with the groups exchanged within blocks.

    F comes from a one-way analysis of variance of the distances to the group's spatial median. Arguments as for
    `run_permanova`.
    """
    block_count, group_count, _ = cell_indices.shape
    state_count = cell_indices.size
    median_distances = np.empty(state_count)
    for group in range(group_count):
        members = cell_indices[:, group].ravel()
        median_distances[members] = compute_distances_to_median(squared_distances[np.ix_(members, members)])
    cell_means = median_distances[cell_indices].mean(2)
    total_squares = ((median_distances - median_distances.mean()) ** 2).sum()
    if not np.isfinite(total_squares):  # a group has fewer than MIN_GROUP_VIDEOS videos
        return PermutationTest(float("nan"), float("nan"))
    if total_squares <= ROUNDING_TOLERANCE * (median_distances**2).sum():
        return PermutationTest(0.0, 1.0)

    def compute_statistic(orders: NDArray[np.int64]) -> FloatArray:
        permuted_means = np.zeros((len(orders), block_count, group_count))
        np.put_along_axis(permuted_means, orders, np.broadcast_to(cell_means, orders.shape), axis=2)
        between_squares = state_count / group_count * ((permuted_means.mean(1) - median_distances.mean()) ** 2).sum(1)
        between_squares = np.where(
            between_squares > ROUNDING_TOLERANCE * (median_distances**2).sum(), between_squares, 0
        )
        return _compute_pseudo_f(
            between_squares, np.maximum(total_squares - between_squares, 0), group_count, state_count
        )

    return _run_permutation_test(compute_statistic, cell_indices)


def _compute_pseudo_f(
    between_squares: FloatArray, within_squares: FloatArray, group_count: int, state_count: int
) -> FloatArray:
    with np.errstate(divide="ignore"):
        return np.where(
            between_squares > 0,
            (between_squares / (group_count - 1)) / (np.maximum(within_squares, 0) / (state_count - group_count)),
            0.0,
        )


def _run_permutation_test(
    compute_statistic: Callable[[NDArray[np.int64]], FloatArray], cell_indices: NDArray[np.int64]
) -> PermutationTest:
    orders = draw_within_seed_permutations(*cell_indices.shape[:2])
    statistics = np.concatenate(
        [
            compute_statistic(orders[i : i + PERMUTATION_CHUNK_SIZE])
            for i in range(0, len(orders), PERMUTATION_CHUNK_SIZE)
        ]
    )
    return PermutationTest(float(statistics[0]), float(compare_with_observed(statistics).mean()))


def compute_unbiased_squared_mean(differences: NDArray[np.floating]) -> float:
    """Return the unbiased |mean|^2 of paired differences [n, k], which can be negative.

    It is |d|^2 - sum |d_s - d|^2 / (n (n - 1)).
    """
    d = np.asarray(differences, dtype=np.float64)
    n, mean = len(d), d.mean(0)
    return float(mean @ mean - ((d - mean) ** 2).sum() / (n * (n - 1)))
