"""Dispersion of states, and permutation tests for differences in dispersion or location between groups.

All functions use squared distances between states of one noise level; each squared distance in a projection is within
about 2 % of the true one. PERMDISP tests whether one group is more spread out than another. It uses distances to the
group's spatial median, not to its mean: one distant video would move the mean and make all others seem more spread.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.statistics import draw_within_seed_permutations

Floats = NDArray[np.float64]
MIN_VIDEOS = 3
"""Minimum number of videos in a group. Two videos are always equally far from their median, so that differences between
groups of two would seem to have no error."""
MAX_ITERATIONS = 5000
"""Maximum number of Weiszfeld iterations; a dozen suffice in many dimensions, nearly collinear states need hundreds."""
ROUNDING_TOLERANCE = 1e-20
"""Share of a sum of squares up to which it is only rounding, which would order permutations by chance."""
CANCELLATION_TOLERANCE = 1e-12
"""Share of a sum of squared distances up to which a difference of two such sums is only rounding."""
STATE_ROUNDING_TOLERANCE = 1e-13
"""Share of the squares of two states up to which their squared distance is only rounding; states are float32."""
PERMUTATION_CHUNK_SIZE = 1024
"""Number of permutations whose statistic is computed together."""


def compute_squared_distances(states: NDArray[np.floating]) -> Floats:
    """Return [n, n] squared distances between n states [n, k]; 0 between states that are equal up to rounding."""
    states = np.asarray(states, dtype=np.float64)
    gram = states @ states.T
    squares = np.diagonal(gram)
    sums = squares[:, None] + squares[None, :]
    distances: Floats = np.where(sums - 2 * gram > STATE_ROUNDING_TOLERANCE * sums, sums - 2 * gram, 0)
    np.fill_diagonal(distances, 0)
    return distances


def compute_median_weights(distances: Floats) -> Floats:
    """Return weights [n] such that the weighted mean of n states is their spatial median, from squared distances
    [n, n].

    The spatial (geometric) median minimises the sum of distances to the states. Weiszfeld's iteration needs only
    distances: the point sum w_j x_j has the squared distance (D w)_i - w.D.w / 2 to state i. At a state, where the
    direction to it is undefined, the step of Vardi and Zhang (2000) is taken.
    """
    n, size = len(distances), np.sqrt(distances.max())
    weights = np.full(n, 1 / n)
    if size == 0:
        return weights
    for _ in range(MAX_ITERATIONS):
        distance = np.sqrt(np.maximum(distances @ weights - weights @ distances @ weights / 2, 0))
        here = distance <= 1e-9 * size
        inverse = np.divide(1.0, distance, out=np.zeros(n), where=~here)
        moved = inverse / inverse.sum()
        if here.any():
            pull, held = _compute_resultant_length(distances, np.flatnonzero(here)[0], inverse), here / here.sum()
            if pull <= here.sum() * (1 + 1e-9):
                return held
            moved = (1 - here.sum() / pull) * moved + here.sum() / pull * held
        change = np.abs(moved - weights).max()
        weights = moved
        if change < 1e-12:
            break
    return weights


def _compute_resultant_length(distances: Floats, k: int, inverse: Floats) -> float:
    """Return the length of sum_i (x_i - x_k) / d_ik, from <x_i - x_k, x_j - x_k> = (D_ik + D_jk - D_ij) / 2."""
    squared = 2 * inverse.sum() * (inverse @ distances[k]) - inverse @ distances @ inverse
    return float(np.sqrt(max(squared, 0) / 2))


def compute_distances_to_median(distances: Floats) -> Floats:
    """Return the distance [n] of each state to the spatial median of all states, from squared distances [n, n].

    Distances to a sample's own median are too short by about sqrt((n - 1) / n), like distances to its own centroid.
    They are corrected by that factor, so that groups of different sizes can be compared.
    """
    n = len(distances)
    if n < MIN_VIDEOS:
        return np.full(n, np.nan)
    weights = compute_median_weights(distances)
    squared = distances @ weights - weights @ distances @ weights / 2
    return np.sqrt(np.maximum(squared, 0) * n / (n - 1))


def compute_total_variance(distances: Floats) -> float:
    """Return the total variance, sum |x_i - mean|^2 / (n - 1), from squared distances [n, n]."""
    n = len(distances)
    return float(distances.sum() / (2 * n * (n - 1))) if n > 1 else float("nan")


@dataclass(frozen=True)
class PermutationTest:
    """Result of a permutation test: pseudo-F, and its p by permutation within blocks."""

    f: float
    p: float


def run_permanova(distances: Floats, cells: NDArray[np.int64]) -> PermutationTest:
    """Test whether groups differ in location (Anderson 2001), with the groups exchanged within blocks.

    F = ((SS_T - SS_W) / (a - 1)) / (SS_W / (N - a)) with SS_T = sum of squared distances over pairs / N and SS_W the
    same within groups. The test also responds to spread; read it together with `run_permdisp`.

    Args:
        distances: [n, n] squared distances.
        cells: [blocks, groups, phrasings] indices of the states. All phrasings of a block are exchanged together,
            because they share their initial noise and are not replicates.
    """
    groups, n = cells.shape[1], cells.size
    flat = cells.reshape(-1, cells.shape[2])
    # Sum over the phrasings of each pair of cells, because permutations move complete cells.
    sums = np.stack([distances[:, members].sum(1) for members in flat], axis=1)
    sums = np.stack([sums[members].sum(0) for members in flat])
    total = sums.sum() / (2 * n)
    if total == 0:
        return PermutationTest(0.0, 1.0)

    def statistic(orders: NDArray[np.int64]) -> Floats:
        labels = orders.reshape(len(orders), -1)
        within = np.zeros(len(orders))
        for group in range(groups):
            member = (labels == group).astype(np.float64)
            within += ((member @ sums) * member).sum(1) / (2 * n / groups)
        between = total - within
        return _compute_pseudo_f(np.where(between > CANCELLATION_TOLERANCE * total, between, 0), within, groups, n)

    return _run_permutation_test(statistic, cells)


def run_permdisp(distances: Floats, cells: NDArray[np.int64]) -> PermutationTest:
    """Test whether groups differ in dispersion (Anderson 2006, robust form), with the groups exchanged within blocks.

    F is that of a one-way analysis of variance of the distances to the group's spatial median. Arguments as for
    `run_permanova`.
    """
    blocks, groups, _ = cells.shape
    n = cells.size
    z = np.empty(n)
    for group in range(groups):
        members = cells[:, group].ravel()
        z[members] = compute_distances_to_median(distances[np.ix_(members, members)])
    means, total = z[cells].mean(2), ((z - z.mean()) ** 2).sum()
    if not np.isfinite(total):  # a group has fewer than MIN_VIDEOS
        return PermutationTest(float("nan"), float("nan"))
    if total <= ROUNDING_TOLERANCE * (z**2).sum():
        return PermutationTest(0.0, 1.0)

    def statistic(orders: NDArray[np.int64]) -> Floats:
        permuted = np.zeros((len(orders), blocks, groups))
        np.put_along_axis(permuted, orders, np.broadcast_to(means, orders.shape), axis=2)
        between = n / groups * ((permuted.mean(1) - z.mean()) ** 2).sum(1)
        between = np.where(between > ROUNDING_TOLERANCE * (z**2).sum(), between, 0)
        return _compute_pseudo_f(between, np.maximum(total - between, 0), groups, n)

    return _run_permutation_test(statistic, cells)


def _compute_pseudo_f(between: Floats, within: Floats, groups: int, n: int) -> Floats:
    with np.errstate(divide="ignore"):
        return np.where(between > 0, (between / (groups - 1)) / (np.maximum(within, 0) / (n - groups)), 0.0)


def _run_permutation_test(
    statistic: Callable[[NDArray[np.int64]], Floats], cells: NDArray[np.int64]
) -> PermutationTest:
    orders = draw_within_seed_permutations(*cells.shape[:2])
    statistics = np.concatenate(
        [statistic(orders[i : i + PERMUTATION_CHUNK_SIZE]) for i in range(0, len(orders), PERMUTATION_CHUNK_SIZE)]
    )
    return PermutationTest(float(statistics[0]), float(np.mean(statistics >= statistics[0] * (1 - 1e-9))))


def compute_unbiased_squared_mean(differences: NDArray[np.floating]) -> float:
    """Return the unbiased |mean|^2 of paired differences [n, k], |d|^2 - sum |d_s - d|^2 / (n (n - 1)), which can be
    negative."""
    d = np.asarray(differences, dtype=np.float64)
    n, mean = len(d), d.mean(0)
    return float(mean @ mean - ((d - mean) ** 2).sum() / (n * (n - 1)))
