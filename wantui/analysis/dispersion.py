"""Dispersion of the videos of a group, and tests for differences in dispersion or location between groups.

The states are compared at one noise level, from their squared distances; squared distances in a projection are the true
ones within about 2 % each. This, PERMDISP, is the test for "A takes more room than B". Distances are taken to the
spatial median of a group, not to its mean: one distant video moves the mean, which makes all others of its group seem
more spread at once.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.statistics import within_seed_permutations

Floats = NDArray[np.float64]
MIN_VIDEOS = 3
"""Two are equally far from their middle, whatever they are: differences between such groups seem to have no error."""
MAX_ITERATIONS = 5000
"""Weiszfeld steps to a spatial median; a dozen suffice in many dimensions, hundreds where states are nearly
collinear."""
ROUNDING = 1e-20
"""Share of a sum of squares below which there is rounding only, which would order permutations by chance."""
CANCELLED = 1e-12
"""Share of a sum of squared distances below which a difference of two such sums is rounding."""
AT_ONCE = 1024
"""Permutations whose statistic is computed together."""


def squared_distances(states: NDArray[np.floating]) -> Floats:
    """Return [n, n] squared distances between n states [n, k]."""
    states = np.asarray(states, dtype=np.float64)
    gram = states @ states.T
    squares = np.diagonal(gram)
    distances: Floats = np.maximum(squares[:, None] + squares[None, :] - 2 * gram, 0)
    np.fill_diagonal(distances, 0)
    return distances


def median_weights(distances: Floats) -> Floats:
    """Return the weights [n] whose weighted mean of n states is their spatial median, from squared distances [n, n].

    The spatial (geometric) median minimises the sum of distances to the states. Weiszfeld's iteration needs distances
    only: the point sum w_j x_j has the squared distance (D w)_i - w.D.w / 2 to state i. Where it meets a state, which
    has no direction to itself, the step is that of Vardi and Zhang (2000).
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
            pull, held = _pull(distances, np.flatnonzero(here)[0], inverse), here / here.sum()
            if pull <= here.sum() * (1 + 1e-9):
                return held
            moved = (1 - here.sum() / pull) * moved + here.sum() / pull * held
        change = np.abs(moved - weights).max()
        weights = moved
        if change < 1e-12:
            break
    return weights


def _pull(distances: Floats, k: int, inverse: Floats) -> float:
    """Return the length of sum_i (x_i - x_k) / d_ik, from <x_i - x_k, x_j - x_k> = (D_ik + D_jk - D_ij) / 2."""
    squared = 2 * inverse.sum() * (inverse @ distances[k]) - inverse @ distances @ inverse
    return float(np.sqrt(max(squared, 0) / 2))


def to_median(distances: Floats) -> Floats:
    """Return the distance [n] of each state to the spatial median of them all, from squared distances [n, n].

    Distances to the own median are too short by about sqrt((n - 1) / n), as those to the own centroid are; that is
    corrected, so that groups of another size can be compared.
    """
    n = len(distances)
    if n < MIN_VIDEOS:
        return np.full(n, np.nan)
    weights = median_weights(distances)
    squared = distances @ weights - weights @ distances @ weights / 2
    return np.sqrt(np.maximum(squared, 0) * n / (n - 1))


def dispersion(distances: Floats) -> float:
    """Return sum |x_i - mean|^2 / (n - 1), from squared distances [n, n]."""
    n = len(distances)
    return float(distances.sum() / (2 * n * (n - 1))) if n > 1 else float("nan")


@dataclass(frozen=True)
class PermutationTest:
    """A pseudo-F and its p by permutation within blocks; every permutation is tried where they are few."""

    f: float
    p: float


def permanova(distances: Floats, cells: NDArray[np.int64]) -> PermutationTest:
    """Test whether groups differ in location (Anderson 2001), with the groups exchanged within blocks.

    F = ((SS_T - SS_W) / (a - 1)) / (SS_W / (N - a)) with SS_T = sum of squared distances over pairs / N and SS_W the
    same within groups. It also reacts to spread: read it beside `permdisp`.

    Args:
        distances: [n, n], squared.
        cells: [blocks, groups, phrasings] which of the n each is. All phrasings of a block are exchanged together: they
            share their noise, and are no replicates.
    """
    groups, n = cells.shape[1], cells.size
    flat = cells.reshape(-1, cells.shape[2])
    # Sums over the phrasings of each pair of cells: a permutation moves cells, never parts of them.
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
        return _pseudo_f(np.where(between > CANCELLED * total, between, 0), within, groups, n)

    return _permuted(statistic, cells)


def permdisp(distances: Floats, cells: NDArray[np.int64]) -> PermutationTest:
    """Test whether the dispersion of groups differs (Anderson 2006, in its robust form).

    F of a one-way analysis of variance on the distances to the own spatial median, which are then exchanged within
    blocks. Arguments as of `permanova`.
    """
    blocks, groups, _ = cells.shape
    n = cells.size
    z = np.empty(n)
    for group in range(groups):
        members = cells[:, group].ravel()
        z[members] = to_median(distances[np.ix_(members, members)])
    means, total = z[cells].mean(2), ((z - z.mean()) ** 2).sum()
    if not np.isfinite(total):  # of fewer than MIN_VIDEOS
        return PermutationTest(float("nan"), float("nan"))
    if total <= ROUNDING * (z**2).sum():
        return PermutationTest(0.0, 1.0)

    def statistic(orders: NDArray[np.int64]) -> Floats:
        permuted = np.zeros((len(orders), blocks, groups))
        np.put_along_axis(permuted, orders, np.broadcast_to(means, orders.shape), axis=2)
        between = n / groups * ((permuted.mean(1) - z.mean()) ** 2).sum(1)
        between = np.where(between > ROUNDING * (z**2).sum(), between, 0)
        return _pseudo_f(between, np.maximum(total - between, 0), groups, n)

    return _permuted(statistic, cells)


def _pseudo_f(between: Floats, within: Floats, groups: int, n: int) -> Floats:
    with np.errstate(divide="ignore"):
        return np.where(between > 0, (between / (groups - 1)) / (np.maximum(within, 0) / (n - groups)), 0.0)


def _permuted(statistic: Callable[[NDArray[np.int64]], Floats], cells: NDArray[np.int64]) -> PermutationTest:
    orders = within_seed_permutations(*cells.shape[:2])
    statistics = np.concatenate([statistic(orders[i : i + AT_ONCE]) for i in range(0, len(orders), AT_ONCE)])
    return PermutationTest(float(statistics[0]), float(np.mean(statistics >= statistics[0] * (1 - 1e-9))))


def divergence(differences: NDArray[np.floating]) -> float:
    """Return the unbiased |mean|^2 of paired differences [n, k]: |d|^2 - sum |d_s - d|^2 / (n (n - 1)). It can be
    negative."""
    d = np.asarray(differences, dtype=np.float64)
    n, mean = len(d), d.mean(0)
    return float(mean @ mean - ((d - mean) ** 2).sum() / (n * (n - 1)))
