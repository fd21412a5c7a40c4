"""How far apart the videos of a group lie, and whether groups differ in that or in where they lie.

The states are compared at one noise level, from their squared distances; squared distances in a projection are the true
ones within about 2 % each. This, PERMDISP, is the test for "A takes more room than B".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.statistics import within_seed_permutations

Floats = NDArray[np.float64]


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
    if n < 2:
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


def permanova(distances: Floats, groups: Sequence[int], blocks: Sequence[int], count: int = 999) -> Permuted:
    """Whether groups lie in different places (Anderson 2001), with labels permuted within blocks.

    F = ((SS_T - SS_W) / (a - 1)) / (SS_W / (N - a)) with SS_T = sum of squared distances over pairs / N and SS_W the
    same within groups. It also reacts to spread: beside it stands `permdisp`.
    """
    labels = np.asarray(groups)
    a, n = int(labels.max()) + 1, len(labels)
    total = distances.sum() / (2 * n)

    def f(given: NDArray[np.int64]) -> float:
        member = np.eye(a)[given]
        within = (np.einsum("ig,ij,jg->g", member, distances, member) / member.sum(0)).sum() / 2
        return float(((total - within) / (a - 1)) / max(within / (n - a), 1e-300))

    return _permuted(f, labels, blocks, count)


def permdisp(distances: Floats, groups: Sequence[int], blocks: Sequence[int], count: int = 999) -> Permuted:
    """Whether groups are differently spread (Anderson 2006): a one-way F on the distances to the own centroid, which
    are then permuted within blocks."""
    labels = np.asarray(groups)
    a, n = int(labels.max()) + 1, len(labels)
    z = np.empty(n)
    for group in range(a):
        own = np.flatnonzero(labels == group)
        z[own] = to_centroid(distances[np.ix_(own, own)])

    def f(given: NDArray[np.int64]) -> float:
        means = np.array([z[given == group].mean() for group in range(a)])
        counts = np.bincount(given, minlength=a)
        between = (counts * (means - z.mean()) ** 2).sum() / (a - 1)
        within = ((z - means[given]) ** 2).sum() / (n - a)
        return float(between / max(within, 1e-300))

    return _permuted(f, labels, blocks, count)


def _permuted(
    f: Callable[[NDArray[np.int64]], float], labels: NDArray[np.int64], blocks: Sequence[int], count: int
) -> Permuted:
    observed, members = f(labels), [np.flatnonzero(np.asarray(blocks) == block) for block in sorted(set(blocks))]
    sizes = {len(own) for own in members}
    if len(sizes) != 1:
        raise ValueError("blocks of different sizes: take only what all groups have")
    hits = 1
    for order in within_seed_permutations(len(members), sizes.pop(), count)[1:]:
        given = labels.copy()
        for own, places in zip(members, order, strict=True):
            given[own] = labels[own[places]]
        hits += f(given) >= observed * (1 - 1e-12)
    return Permuted(observed, hits / (count + 1))


def divergence(differences: NDArray[np.floating]) -> float:
    """|mean|^2 of paired differences [n, k] without bias: |d|^2 - sum |d_s - d|^2 / (n (n - 1)). It can be negative."""
    d = np.asarray(differences, dtype=np.float64)
    n, mean = len(d), d.mean(0)
    return float(mean @ mean - ((d - mean) ** 2).sum() / (n * (n - 1)))
