"""How far apart the videos of a group lie, and whether groups differ in that or in where they lie.

The states are compared at one noise level, from their squared distances; squared distances in a projection are the true
ones within about 2 % each. This, PERMDISP, is the test for "A takes more room than B".
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.statistics import within_seed_permutations

Floats = NDArray[np.float64]
LEAST_VIDEOS = 3
"""Two are equally far from their middle, whatever they are: differences between such groups seem to have no error."""


def squared_distances(states: NDArray[np.floating]) -> Floats:
    """[n, n] between n states [n, k]."""
    states = np.asarray(states, dtype=np.float64)
    gram = states @ states.T
    squares = np.diagonal(gram)
    found: Floats = np.maximum(squares[:, None] + squares[None, :] - 2 * gram, 0)
    np.fill_diagonal(found, 0)
    return found


def to_centroid(distances: Floats) -> Floats:
    """[n] distance of each state to the centroid of them all, from squared distances [n, n] (Gower 1966).

    Distances to one's own centroid are too short by sqrt((n - 1) / n); that is put right, so that groups of another
    size can be compared.
    """
    n = len(distances)
    if n < LEAST_VIDEOS:
        return np.full(n, np.nan)
    squared = distances.mean(1) - distances.sum() / (2 * n * n)
    return np.sqrt(np.maximum(squared, 0) * n / (n - 1))


def dispersion(distances: Floats) -> float:
    """sum |x_i - mean|^2 / (n - 1), from squared distances [n, n]."""
    n = len(distances)
    return float(distances.sum() / (2 * n * (n - 1))) if n > 1 else float("nan")


@dataclass(frozen=True)
class Permuted:
    """A pseudo-F and its p by permutation within blocks."""

    f: float
    p: float


def permanova(distances: Floats, cells: NDArray[np.int64], count: int = 999) -> Permuted:
    """Whether groups lie in different places (Anderson 2001), with the groups exchanged within blocks.

    F = ((SS_T - SS_W) / (a - 1)) / (SS_W / (N - a)) with SS_T = sum of squared distances over pairs / N and SS_W the
    same within groups. It also reacts to spread: beside it stands `permdisp`.

    Args:
        distances: [n, n], squared.
        cells: [blocks, groups, wordings] which of the n each is. All wordings of a block are exchanged together: they
            share their noise, and are no replicates.
    """
    groups, n = cells.shape[1], cells.size
    total = distances.sum() / (2 * n)

    def f(labels: NDArray[np.int64]) -> float:
        member = np.eye(groups)[labels]
        within = (np.einsum("ig,ij,jg->g", member, distances, member) / member.sum(0)).sum() / 2
        return float(((total - within) / (groups - 1)) / max(within / (n - groups), 1e-300))

    return _permuted(f, cells, count)


def permdisp(distances: Floats, cells: NDArray[np.int64], count: int = 999) -> Permuted:
    """Whether groups are differently spread (Anderson 2006): a one-way F on the distances to the own centroid, which
    are then exchanged within blocks. Arguments as of `permanova`."""
    groups, n = cells.shape[1], cells.size
    z = np.empty(n)
    for group in range(groups):
        own = cells[:, group].ravel()
        z[own] = to_centroid(distances[np.ix_(own, own)])

    def f(labels: NDArray[np.int64]) -> float:
        means = np.array([z[labels == group].mean() for group in range(groups)])
        between = n / groups * ((means - z.mean()) ** 2).sum() / (groups - 1)
        within = ((z - means[labels]) ** 2).sum() / (n - groups)
        return float(between / max(within, 1e-300))

    return _permuted(f, cells, count)


def _permuted(f: Callable[[NDArray[np.int64]], float], cells: NDArray[np.int64], count: int) -> Permuted:
    blocks, groups, _ = cells.shape
    hits, observed = 0, 0.0
    for turn, order in enumerate(within_seed_permutations(blocks, groups, count)):
        labels = np.empty(cells.size, dtype=np.int64)
        labels[cells] = order[:, :, None]
        found = f(labels)
        observed = found if turn == 0 else observed
        hits += found >= observed * (1 - 1e-12)
    return Permuted(observed, hits / (count + 1))


def divergence(differences: NDArray[np.floating]) -> float:
    """|mean|^2 of paired differences [n, k] without bias: |d|^2 - sum |d_s - d|^2 / (n (n - 1)). It can be negative."""
    d = np.asarray(differences, dtype=np.float64)
    n, mean = len(d), d.mean(0)
    return float(mean @ mean - ((d - mean) ** 2).sum() / (n * (n - 1)))
