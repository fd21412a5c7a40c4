"""Cluster-based permutation tests of differences between curves (Maris and Oostenveld 2007, doi
10.1016/j.jneumeth.2007.03.024).

Neighbouring noise levels at which |t| exceeds a threshold form a cluster; its mass is the sum of its t. The largest
|mass| on a curve is compared with its distribution under exchanges of groups within seeds. All noise levels of a curve
therefore count as one test. The curve of a seed is exchanged as a whole, so its levels may be correlated.

The test shows *that* two curves differ. It does not show where: the ends of a cluster have no error rate, and the
difference may begin before the cluster or end after it (Sassenhagen and Draschkow 2019, doi 10.1111/psyp.13335).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wantui.analysis.arrays import CACHED_CHUNK_VALUES, FloatArray, split_rows
from wantui.analysis.permuted_differences import PermutedDifferences
from wantui.analysis.statistics import compute_t_quantile, draw_within_seed_permutations, iterate_flipped_t

THRESHOLD_P = 0.05
"""Two-sided p below which a noise level can belong to a cluster, from the t of that level. This threshold is fixed
beforehand. It determines which differences the test finds best, but not the false-positive rate."""
FAMILY_PERMUTATION_COUNT = 1999
"""Number of random permutations for the p over all curves and pairs, with three or more groups."""
TIE_TOLERANCE = 1e-9
"""Relative difference up to which two masses count as equal, because their terms are rounded."""


@dataclass(frozen=True)
class Cluster:
    """Neighbouring noise levels at which two curves differ in one direction."""

    first_level: int
    """Index of the first noise level."""
    last_level: int
    mass: float
    """Sum of t over the levels; negative if the first group is below the second."""
    p: float
    """Share of sign flips whose largest |mass| on this curve is at least |mass|."""
    family_p: float
    """The same over all curves and pairs of groups; at least `p`."""


@dataclass(frozen=True)
class ClusterTest:
    """Clusters of one curve's difference between two groups, and the null distribution of the largest |mass|."""

    t_values: FloatArray
    """[s] t of the paired differences; 0 where they have no value."""
    clusters: tuple[Cluster, ...]
    null_masses: FloatArray
    """[flips] largest |mass| of each sign flip; the first flips nothing."""


def run_cluster_test(differences: FloatArray) -> ClusterTest:
    """Test whether a curve of paired differences [n, s] of n seeds is 0, by sign flips of whole curves.

    With up to MAX_EXACT_PAIRS seeds, all 2^n flips are tried; with more seeds, RESAMPLE_COUNT random flips. A level
    with values that are not finite belongs to no cluster. `family_p` of the result is its `p`.

    Raises:
        ValueError: there are fewer than two seeds.
    """
    seed_count = len(differences)
    if seed_count < 2:
        raise ValueError(f"cannot test clusters: at least two seeds are needed, but there are {seed_count}")
    values = np.where(np.isfinite(differences).all(0), differences, 0.0)
    threshold = compute_threshold(seed_count)
    mass_chunks: list[FloatArray] = []
    observed_t = np.zeros(values.shape[1])
    for t_values in iterate_flipped_t(values):
        observed_t = observed_t if mass_chunks else t_values[0].copy()  # a view would keep the chunk
        mass_chunks.append(compute_largest_masses(t_values.T, threshold))
    null_masses = np.concatenate(mass_chunks)
    clusters = tuple(
        Cluster(first, last, mass, p := compute_mass_p(mass, null_masses), p)
        for first, last, mass in find_clusters(observed_t, threshold)
    )
    return ClusterTest(observed_t, clusters, null_masses)


def compute_threshold(seed_count: int) -> float:
    """Return the |t| above which a noise level can belong to a cluster."""
    return compute_t_quantile(1 - THRESHOLD_P / 2, seed_count - 1)


def find_clusters(t_values: FloatArray, threshold: float) -> list[tuple[int, int, float]]:
    """Return first level, last level and mass of each cluster in t [s].

    A cluster is a run of neighbouring levels whose t has one sign and exceeds the threshold.
    """
    signs = np.where(np.abs(t_values) > threshold, np.sign(t_values), 0)
    starts = [level for level in range(len(signs)) if signs[level] and (level == 0 or signs[level - 1] != signs[level])]
    clusters = []
    for start in starts:
        end = start
        while end + 1 < len(signs) and signs[end + 1] == signs[start]:
            end += 1
        clusters.append((start, end, float(t_values[start : end + 1].sum())))
    return clusters


def compute_largest_masses(t_by_level: FloatArray, threshold: float) -> FloatArray:
    """Return the largest |mass| of the clusters of each of m curves of t [s, m]; 0 for a curve without clusters."""
    t_by_level = np.ascontiguousarray(t_by_level)
    largest = np.zeros(t_by_level.shape[1])
    for signed_t in (t_by_level, -t_by_level):
        mass = np.zeros(t_by_level.shape[1])
        for t in signed_t:
            mass = np.where(t > threshold, mass + t, 0.0)
            np.maximum(largest, mass, out=largest)
    return largest


def compute_family_mass_p(
    mass: float, tests: Sequence[ClusterTest], permuted_masses: FloatArray | None = None
) -> float:
    """Return the p of a cluster, corrected for all curves and pairs of groups.

    For two groups, sign flips of all curves together give p. For more groups, it is the larger of this p and the p that
    permutations of the groups give: flips are reliable for groups of unequal scatter, and permutations for skewed
    distributions.

    Args:
        tests: test of each curve and pair, with the same seeds.
        permuted_masses: result of `compute_family_masses`; None for two groups.
    """
    p = compute_mass_p(mass, np.max([test.null_masses for test in tests], axis=0))
    return p if permuted_masses is None else max(p, compute_mass_p(mass, permuted_masses))


def compute_mass_p(mass: float, null_masses: FloatArray) -> float:
    """Return the fraction of the largest |mass| values under the null hypothesis that are at least |mass|."""
    return float(np.mean(null_masses >= abs(mass) * (1 - TIE_TOLERANCE)))


def compute_family_masses(curve_values: Sequence[FloatArray], group_pairs: Sequence[tuple[int, int]]) -> FloatArray:
    """Return the largest |mass| over all curves and pairs, for each within-seed permutation of three or more groups.

    Args:
        curve_values: values [n, groups, s] of each curve.
        group_pairs: indices of the two groups of each pair.
    """
    seed_count, group_count, _ = curve_values[0].shape
    orders = draw_within_seed_permutations(seed_count, group_count, FAMILY_PERMUTATION_COUNT)
    threshold, largest = compute_threshold(seed_count), np.zeros(len(orders))
    for values in curve_values:
        permuted = PermutedDifferences(np.where(np.isfinite(values).all((0, 1)), values, 0.0), group_pairs)
        chunks = []
        for order_chunk in split_rows(orders, permuted.values_per_order, CACHED_CHUNK_VALUES):
            t_values = permuted.compute_t(order_chunk)
            masses = compute_largest_masses(t_values.reshape(-1, values.shape[2]).T, threshold)
            chunks.append(masses.reshape(len(order_chunk), -1).max(1))
        largest = np.maximum(largest, np.concatenate(chunks))
    return largest
