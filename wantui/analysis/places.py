"""Places of groups: how far the means of two groups lie apart in latent space, with interval and test, paired by seed.

For each seed, d_s is the difference between the final states of two groups, averaged over phrasings. All results are
functions of the inner products K_st = <d_s, d_t> / D.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.arrays import FloatArray, split_rows
from wantui.analysis.dispersion import STATE_ROUNDING_TOLERANCE
from wantui.analysis.distance_intervals import estimate_distance_interval, estimate_squared_distance
from wantui.analysis.permutation_p import compute_family_wise_p
from wantui.analysis.statistics import (
    MEAN_ROUNDING_TOLERANCE,
    compute_min_attainable_p,
    draw_sign_flips,
    draw_within_seed_permutations,
)


@dataclass(frozen=True)
class PlaceDifference:
    """Distance between the mean final states of two groups. Distances are root mean squares over latent values."""

    squared_distance: float
    """Unbiased estimate of the squared distance; chance can make it negative."""
    distance_low: float
    distance_high: float
    """95 % interval of the distance (`estimate_distance_interval`), which contains 0 exactly if `p` is above
    SIGNIFICANCE_LEVEL."""
    chance_distance: float
    """95 % quantile of the distance if the groups are exchanged at random within seeds."""
    seed_distance: float
    """Typical distance (root mean square) between the videos of two seeds within a group, averaged over phrasings."""
    p: float
    """Sign-flip p of the pair alone."""
    family_p: float
    """p over all compared pairs of groups; never below the p of the pair alone."""
    min_attainable_p: float
    """Smallest p that this number of seeds can give."""

    @property
    def distance(self) -> float:
        """Return the estimated distance; 0 if the estimate of its square is negative."""
        return math.sqrt(max(self.squared_distance, 0.0))


def compare_places(seed_states: NDArray[np.floating], group_pairs: Sequence[tuple[int, int]]) -> list[PlaceDifference]:
    """Return the distance between each pair of groups.

    Args:
        seed_states: [groups, seeds, k] final states / sqrt(D), averaged over the phrasings of each seed. The rows may
            also be phrasings, averaged over seeds.
    """
    states = np.asarray(seed_states, dtype=np.float64)
    group_count, seed_count, _ = states.shape
    flat_states = states.reshape(group_count * seed_count, -1)
    gram = (flat_states @ flat_states.T).reshape(group_count, seed_count, group_count, seed_count)
    difference_grams = [compute_difference_gram(gram, i, j) for i, j in group_pairs]
    pair_p = np.array([run_place_test(difference_gram) for difference_gram in difference_grams])
    family_p = pair_p if len(group_pairs) == 1 else np.maximum(pair_p, _compute_family_p(gram, group_pairs))
    seed_distances = [_compute_seed_distance(gram[i, :, i]) for i in range(group_count)]
    return [
        PlaceDifference(
            estimate_squared_distance(difference_gram),
            *estimate_distance_interval(difference_gram, float(pair_p[k])),
            compute_chance_distance(difference_gram),
            math.sqrt((seed_distances[i] ** 2 + seed_distances[j] ** 2) / 2),
            float(pair_p[k]),
            float(family_p[k]),
            compute_min_attainable_p(seed_count),
        )
        for k, ((i, j), difference_gram) in enumerate(zip(group_pairs, difference_grams, strict=True))
    ]


@dataclass(frozen=True)
class ContrastDistance:
    """Length of a contrast of the groups' mean final states: a weighted sum, such as a slope over a setting."""

    distance: float
    """Estimated length; 0 if the unbiased estimate of its square is negative."""
    low: float
    high: float
    """95 % interval of the length."""
    chance_distance: float
    """95 % quantile of the length under random sign flips of the seeds."""
    p: float
    """Sign-flip p of this contrast alone."""


def compute_contrast_gram(seed_states: NDArray[np.floating], weights: FloatArray) -> FloatArray:
    """Return the inner products [seeds, seeds] of a weighted sum of states; 0 instead of rounding errors.

    Args:
        seed_states: [groups, seeds, k] final states / sqrt(D).
        weights: [groups] weights of the groups, which sum to 0.
    """
    states = np.asarray(seed_states, dtype=np.float64)
    contrasts = np.einsum("g,gsk->sk", weights, states)
    gram = contrasts @ contrasts.T
    norms = weights**2 @ np.einsum("gsk,gsk->gs", states, states)
    is_rounding = np.diagonal(gram) <= STATE_ROUNDING_TOLERANCE * norms
    return np.where(is_rounding[:, None] | is_rounding[None, :], 0.0, gram)


def measure_contrast(gram: FloatArray) -> ContrastDistance:
    """Return the length of a contrast from the inner products [seeds, seeds] of its values."""
    p = run_place_test(gram)
    low, high = estimate_distance_interval(gram, p)
    distance = math.sqrt(max(estimate_squared_distance(gram), 0.0))
    return ContrastDistance(distance, low, high, compute_chance_distance(gram), p)


def run_omnibus_place_test(seed_states: NDArray[np.floating]) -> float:
    """Test whether all groups lie in one place, and return p, from states [groups, seeds, k].

    The statistic is the sum of the squared distances of the groups' means from their common mean. A flip changes the
    sign of all deviations of a seed from the seed's mean. Unlike exchanges of groups within seeds (PERMANOVA), flips
    keep the spread of each group, so groups of unequal spread are not called different. For two groups, both tests are
    equal.
    """
    states = np.asarray(seed_states, dtype=np.float64)
    deviations = states - states.mean(0)
    deviation_gram = np.einsum("gsk,gtk->st", deviations, deviations, optimize=True)
    norms = np.einsum("gsk,gsk->s", states, states)
    is_rounding = np.diagonal(deviation_gram) <= STATE_ROUNDING_TOLERANCE * norms
    return run_place_test(np.where(is_rounding[:, None] | is_rounding[None, :], 0.0, deviation_gram))


def compute_difference_gram(gram: FloatArray, first_group: int, second_group: int) -> FloatArray:
    """Return the inner products [seeds, seeds] of the paired differences of two groups; 0 instead of rounding errors.

    Args:
        gram: [groups, seeds, groups, seeds] inner products of the states.
    """
    i, j = first_group, second_group
    cross = gram[i, :, j]
    difference_gram = gram[i, :, i] + gram[j, :, j] - cross - cross.T
    norms = np.diagonal(gram[i, :, i]) + np.diagonal(gram[j, :, j])
    is_rounding = np.diagonal(difference_gram) <= STATE_ROUNDING_TOLERANCE * norms
    return np.where(is_rounding[:, None] | is_rounding[None, :], 0.0, difference_gram)


def run_place_test(difference_gram: FloatArray) -> float:
    """Return the p of a sign-flip test of the mean of n paired differences.

    It is the share of sign flips whose mean is at least as long.

    The test assumes that the differences are symmetric about their mean. Groups of different spread have symmetric
    differences if each group is symmetric, so spread alone does not make it significant. For two groups, it is equal to
    PERMANOVA within seeds, because the total sum of squares does not change. The test is exact with up to
    MAX_EXACT_PAIRS seeds.
    """
    flips, _ = draw_sign_flips(len(difference_gram))
    squared_lengths = ((flips @ difference_gram) * flips).sum(1)
    tolerance = MEAN_ROUNDING_TOLERANCE * float(np.abs(difference_gram).sum())
    return float(np.mean(squared_lengths >= squared_lengths[0] - tolerance))


def compute_chance_distance(difference_gram: FloatArray) -> float:
    """Return the 95 % quantile of the distance under random sign flips of n paired differences."""
    n = len(difference_gram)
    flips, _ = draw_sign_flips(n)
    squared_lengths = (((flips @ difference_gram) * flips).sum(1) - np.trace(difference_gram)) / (n * (n - 1))
    return math.sqrt(max(float(np.quantile(squared_lengths, 0.95)), 0.0))


def _compute_seed_distance(group_gram: FloatArray) -> float:
    """Return the root mean square distance between states of different seeds, from inner products [n, n]."""
    n = len(group_gram)
    return math.sqrt(max(2 * (n * float(np.trace(group_gram)) - float(group_gram.sum())) / (n * (n - 1)), 0.0))


def _compute_family_p(gram: FloatArray, group_pairs: Sequence[tuple[int, int]]) -> FloatArray:
    """Return p [pairs] over all pairs: the share of within-seed permutations that put any pair at least as far apart.

    The statistic of a pair is |sum_s d_s|^2 / sum_s |d_s|^2, which is comparable between pairs of different scatter.
    """
    group_count, seed_count = gram.shape[:2]
    flat_gram = gram.reshape(group_count * seed_count, -1)
    by_seed = np.stack([gram[:, s, :, s] for s in range(seed_count)])
    norms = np.diagonal(by_seed, axis1=1, axis2=2)
    # A state rounded to float32 is not the state: squared distances of this size are 0, like those of run_place_test.
    squared_distances = norms[:, :, None] + norms[:, None, :] - 2 * by_seed
    tolerance = STATE_ROUNDING_TOLERANCE * (norms[:, :, None] + norms[:, None, :])
    squared_distances = np.where(squared_distances > tolerance, squared_distances, 0.0)
    orders = draw_within_seed_permutations(seed_count, group_count)
    return compute_family_wise_p(
        _compute_pair_statistics(flat_gram, squared_distances, chunk, group_pairs)
        for chunk in split_rows(orders, group_count * group_count * seed_count)
    )


def _compute_pair_statistics(
    flat_gram: FloatArray,
    squared_distances: FloatArray,
    orders: NDArray[np.int64],
    group_pairs: Sequence[tuple[int, int]],
) -> FloatArray:
    """Return |sum_s d_s|^2 / sum_s |d_s|^2 of each pair, [permutations, pairs].

    Args:
        flat_gram: [groups * seeds, groups * seeds] inner products.
        squared_distances: [seeds, groups, groups] squared distances within each seed.
        orders: [permutations, seeds, groups] group whose state each group gets.
    """
    count, seed_count, group_count = orders.shape
    indices = orders * seed_count + np.arange(seed_count)[None, :, None]
    members = np.zeros((group_count, count, len(flat_gram)))
    for group in range(group_count):
        np.put_along_axis(members[group], indices[:, :, group], 1.0, axis=1)
    products = members @ flat_gram
    sums = np.einsum("imx,jmx->mij", products, members, optimize=True)
    statistics = np.empty((count, len(group_pairs)))
    seeds = np.arange(seed_count)[None, :]
    for k, (i, j) in enumerate(group_pairs):
        squared_sum = sums[:, i, i] + sums[:, j, j] - 2 * sums[:, i, j]
        squared_lengths = squared_distances[seeds, orders[:, :, i], orders[:, :, j]].sum(1)
        is_equal = squared_lengths == 0
        statistics[:, k] = np.where(is_equal, 0.0, squared_sum / np.where(is_equal, 1.0, squared_lengths))
    return statistics
