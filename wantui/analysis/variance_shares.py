"""Variance shares of states along the path: seed, wording, group, and their interactions.

An analysis of variance in distances (Anderson 2001) with three crossed factors and one video in each cell. Let Q_A be
the sum over all videos of |m_A - m|^2, where m is the mean of all videos, and m_A the mean of those with the video's
levels of the factors A. The sum of squares of the effect of the factors A is Q_A minus the sums of squares of all
effects of fewer of these factors. All effects are orthogonal, and their sums of squares add up to the total.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.arrays import FloatArray
from wantui.analysis.differences import SIGNIFICANCE_LEVEL
from wantui.analysis.dispersion import CANCELLATION_TOLERANCE
from wantui.analysis.level_states import LevelStates, average_over_sigma
from wantui.analysis.permutation_p import compare_with_observed
from wantui.analysis.statistics import (
    RESAMPLE_COUNT,
    compute_min_attainable_p,
    count_min_pairs,
    draw_sign_flips,
    draw_within_seed_permutations,
)
from wantui.formatting import format_count, format_share

SHARE_NAMES = ("seed", "wording", "group", "seed_group", "wording_group", "rest")
"""Effects, in the order of tables: `seed_group` is the interaction of seed and group, `rest` the interactions of seed
and wording and of all three."""
MIN_RESAMPLE_COUNT = 499
"""Minimum number of random permutations for a test."""
MAX_PERMUTATION_PRODUCTS = 4e10
"""Number of products for the permutations of all noise levels, some 10 seconds, above which fewer are drawn."""


@dataclass(frozen=True)
class VarianceShares:
    """Shares of the variance of all states at each noise level."""

    group_names: tuple[str, ...]
    sigmas: FloatArray
    """[L] noise levels, falling."""
    total: FloatArray
    """[L] variance of a latent value: mean square of the states' values around the mean of all states."""
    shares_by_effect: Mapping[str, FloatArray]
    """[L] share of each effect in SHARE_NAMES; their sum is 1. NaN where all states are equal."""
    chance_mean: FloatArray
    chance_high: FloatArray
    """[L] mean and 95 % quantile of the group's share with groups exchanged at random within seeds."""
    p: FloatArray
    """[L] p of the group's share at each noise level alone."""
    mean_group_share: float
    """Mean of the group's share over the noise level from 1 to 0: the statistic of the test."""
    mean_p: float
    """p of `mean_group_share`."""
    seed_count: int
    phrasing_count: int
    permutation_count: int

    @property
    def min_attainable_p(self) -> float:
        """Return the smallest p that the permutations and sign flips of these seeds and groups can give."""
        return max(1 / self.permutation_count, compute_min_attainable_p(self.seed_count))

    @property
    def varying_effects(self) -> tuple[str, ...]:
        """Return the effects of this design; effects of wordings are absent if there is only one wording."""
        return SHARE_NAMES if self.phrasing_count > 1 else ("seed", "group", "seed_group")

    @property
    def effect_titles(self) -> tuple[str, ...]:
        """Return the effect titles of this design, such as "seed x group"."""
        return tuple(name.replace("_", " x ") for name in self.varying_effects)

    def describe(self) -> str:
        """Describe the group's share in a sentence, with the verdict."""
        final_share, final_chance = self.shares_by_effect["group"][-1], self.chance_mean[-1]
        final_text = (
            f"{format_share(final_share, 1)} of the variance of the finished videos "
            f"({format_share(final_chance, 1)} by chance)"
        )
        if math.isnan(final_share):
            final_text = "the finished videos are equal"
        return (
            f"variance between {', '.join(self.group_names)}: {final_text}; over all noise levels "
            f"{format_share(self.mean_group_share, 1)}, p {self.mean_p:.3g} "
            f"(smallest possible: {self.min_attainable_p:.3g}), {format_count(self.seed_count, 'seed')}, "
            f"{format_count(self.phrasing_count, 'wording')}: {self.verdict}"
        )

    @property
    def verdict(self) -> str:
        """Return whether the group's share exceeds chance; with too few seeds to tell, also return their number."""
        if self.mean_p <= SIGNIFICANCE_LEVEL:
            return "the groups' share is larger than expected by chance"
        has_few_seeds = self.min_attainable_p > SIGNIFICANCE_LEVEL
        advice = f"; generate at least {count_min_pairs()} seeds" if has_few_seeds else ""
        return f"cannot distinguish the groups' share from chance{advice}"


def compute_variance_shares(level_states: LevelStates) -> VarianceShares:
    """Return the shares of variance at each noise level, with a test of the group's share.

    The test exchanges groups within seeds, all phrasings of a seed together. An exchange changes only how a fixed sum
    of squares is divided between `group` and `seed_group`, so a test of the group's share is a test of their ratio.
    With three or more groups, a sign-flip test is run too, and the larger p counts: flips change the signs of all
    deviations of a seed from its mean, and keep the spread of each group, whereas exchanges mix the spreads.
    """
    group_count, seed_count, phrasing_count, level_count, _ = level_states.states.shape
    orders, (flips, _) = _draw_orders(seed_count, group_count, level_count), draw_sign_flips(seed_count)
    shares = np.full((len(SHARE_NAMES), level_count), math.nan)
    totals, group_shares = np.zeros(level_count), np.zeros((len(orders), level_count))
    flipped_shares = np.zeros((len(flips), level_count))
    for level in range(level_count):
        cell_means, within = separate_cell_means(level_states.states[:, :, :, level])
        squares = decompose_squares(cell_means, within)
        totals[level] = sum(squares.values())
        if totals[level] == 0:
            continue
        shares[:, level] = [squares[name] / totals[level] for name in SHARE_NAMES]
        group_squares = phrasing_count * _permute_group_squares(within.mean(2), orders)
        group_shares[:, level] = group_squares / totals[level]
        flipped_shares[:, level] = phrasing_count * _flip_group_squares(within.mean(2), flips) / totals[level]
    mean_shares = average_over_sigma(group_shares, level_states.sigmas)
    p, mean_p = compare_with_observed(group_shares).mean(0), float(compare_with_observed(mean_shares).mean())
    if group_count > 2:
        p = np.maximum(p, compare_with_observed(flipped_shares).mean(0))
        flipped_mean_shares = average_over_sigma(flipped_shares, level_states.sigmas)
        mean_p = max(mean_p, float(compare_with_observed(flipped_mean_shares).mean()))
    return VarianceShares(
        group_names=level_states.group_names,
        sigmas=level_states.sigmas,
        total=totals / (group_count * seed_count * phrasing_count * level_states.dimension),
        shares_by_effect=dict(zip(SHARE_NAMES, shares, strict=True)),
        chance_mean=group_shares.mean(0),
        chance_high=np.quantile(group_shares, 0.95, axis=0),
        p=p,
        mean_group_share=abs(float(mean_shares[0])),  # the average of zeros may be -0
        mean_p=mean_p,
        seed_count=seed_count,
        phrasing_count=phrasing_count,
        permutation_count=len(orders),
    )


def separate_cell_means(states: NDArray[np.floating]) -> tuple[FloatArray, FloatArray]:
    """Return the means [s, p, k] of states [g, s, p, k] over groups, centred, and the states minus these means.

    Groups with equal states get differences of exactly 0; the mean of three equal numbers can differ from them by
    rounding.
    """
    first, differences = np.asarray(states[0], dtype=np.float64), np.asarray(states, dtype=np.float64) - states[:1]
    mean_differences = differences.mean(0)
    cell_means = first + mean_differences
    return cell_means - cell_means.mean((0, 1)), differences - mean_differences


def decompose_squares(cell_means: FloatArray, within: FloatArray) -> dict[str, float]:
    """Return the sum of squares of each effect in SHARE_NAMES.

    Args:
        cell_means: [s, p, k] means over groups, around the mean of all.
        within: [g, s, p, k] states minus these means.
    """
    group_count, seed_count, phrasing_count, _ = within.shape
    seed = group_count * phrasing_count * _sum_squares(cell_means.mean(1))
    wording = group_count * seed_count * _sum_squares(cell_means.mean(0))
    group = seed_count * phrasing_count * _sum_squares(within.mean((1, 2)))
    seed_group = phrasing_count * _sum_squares(within.mean(2)) - group
    wording_group = seed_count * _sum_squares(within.mean(1)) - group
    seed_wording = group_count * _sum_squares(cell_means) - seed - wording
    three_way = _sum_squares(within) - group - seed_group - wording_group
    effects = (seed, wording, group, seed_group, wording_group, seed_wording + three_way)
    total = group_count * _sum_squares(cell_means) + _sum_squares(within)
    return {
        name: value if value > CANCELLATION_TOLERANCE * total else 0.0
        for name, value in zip(SHARE_NAMES, effects, strict=True)
    }


def _sum_squares(values: FloatArray) -> float:
    return float(np.vdot(values, values))


def _draw_orders(seed_count: int, group_count: int, level_count: int) -> NDArray[np.int64]:
    """Return orders of the groups within seeds: all orders, or as many random orders as can be computed in time."""
    products = level_count * (seed_count * group_count) ** 2 * group_count
    random_count = min(RESAMPLE_COUNT, max(MIN_RESAMPLE_COUNT, int(MAX_PERMUTATION_PRODUCTS / products)))
    return draw_within_seed_permutations(seed_count, group_count, random_count)


def _flip_group_squares(seed_values: FloatArray, flips: FloatArray) -> FloatArray:
    """Return n sum over groups of |mean of the group|^2 for each sign flip [m, s], from deviations [g, s, k]."""
    gram = np.einsum("gsk,gtk->st", seed_values, seed_values, optimize=True)
    squares = ((flips @ gram) * flips).sum(1) / len(gram)
    return np.where(squares > CANCELLATION_TOLERANCE * np.trace(gram), squares, 0.0)


def _permute_group_squares(seed_values: FloatArray, orders: NDArray[np.int64]) -> FloatArray:
    """Return n sum over groups of |mean of the group|^2 for each order [m, s, g], from values [g, s, k]."""
    group_count, seed_count, _ = seed_values.shape
    flat = seed_values.transpose(1, 0, 2).reshape(seed_count * group_count, -1)  # a seed's groups side by side
    gram = flat @ flat.T
    squares = np.zeros(len(orders))
    chunk_size = max(1, 4_000_000 // len(gram))
    for start in range(0, len(orders), chunk_size):
        chunk = orders[start : start + chunk_size]
        for group in range(group_count):
            is_member = (np.arange(group_count) == chunk[:, :, group, None]).reshape(len(chunk), -1).astype(np.float64)
            squares[start : start + chunk_size] += ((is_member @ gram) * is_member).sum(1) / seed_count
    return np.where(squares > CANCELLATION_TOLERANCE * np.trace(gram), squares, 0.0)
