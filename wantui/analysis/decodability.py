"""Decodability of groups over the noise level: how well a linear classifier tells two groups apart.

The two videos of a seed and phrasing share their initial noise, so the classifier is trained on their difference z =
x_first - x_second. For states around the mean of their pair, linear discriminant analysis (Fisher 1936) has the
direction (S + lambda I)^-1 mean(z), with S the sum of z z' over n seeds, / n. All differences of a seed are held out
together, because a shared seed would reveal the answer. A held-out pair is sorted correctly if the product of its
difference and the direction of the other seeds is positive. The ridge lambda = gamma mu / (1 - gamma), with mu =
trace(S) / k, is that of Ledoit and Wolf (2004), with seeds as units. Exchanging the groups of a seed changes only the
signs of its differences, and neither S nor lambda, so a sign-flip test is exact.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from wantui.analysis.arrays import FloatArray
from wantui.analysis.differences import SIGNIFICANCE_LEVEL
from wantui.analysis.group_names import CannotCompareError
from wantui.analysis.level_states import LevelStates, average_over_sigma
from wantui.analysis.proportions import fit_monotonic
from wantui.analysis.statistics import (
    adjust_family_wise,
    compute_min_attainable_p,
    count_min_pairs,
    draw_sign_flips,
)
from wantui.formatting import format_count, format_share

CHANCE = 0.5
"""Accuracy of guessing which of two videos is in which group."""
HALFWAY_ACCURACY = 0.75
"""Accuracy halfway between chance and certainty."""
MIN_DECODED_SEEDS = 3
"""Minimum number of seeds: a classifier needs two, and one is held out."""
MAX_DECODED_GROUPS = 12
"""Maximum number of groups; they have 66 pairs, and each pair takes up to a second."""
MIN_SHRINKAGE, MAX_SHRINKAGE = 1e-8, 1 - 1e-8
"""Bounds of gamma, with which the system of equations stays solvable and the ridge finite."""
ROUNDING_TOLERANCE = 1e-12
"""Size of a prediction, relative to its terms, up to which it is a rounding error; the pair then counts as guessed."""
PRIOR_PAIR_COUNT = 2
"""Number of pseudo-pairs with a design effect of 1, which shrink the estimate towards 1."""
BISECTION_COUNT = 50
"""Number of bisection steps for an end of an interval."""
SQUARED_NORMAL_QUANTILE = 3.8415
"""Square of the 97.5 % quantile of the normal distribution."""


@dataclass(frozen=True)
class Decodability:
    """Accuracy with which two groups can be distinguished at each noise level."""

    first_group: str
    second_group: str
    sigmas: FloatArray
    """[L] noise levels, falling."""
    accuracy: FloatArray
    """[L] share of held-out video pairs that are sorted correctly; chance is 0.5."""
    low: FloatArray
    high: FloatArray
    """[L] ends of the 95 % interval of the accuracy."""
    chance_low: FloatArray
    chance_high: FloatArray
    """[L] central 95 % of the accuracies with the groups exchanged at random within seeds."""
    p: FloatArray
    """[L] p at each noise level alone: share of exchanges with at least this accuracy."""
    mean_accuracy: float
    """Mean accuracy over the noise level from 1 to 0: the statistic of the pair's test."""
    pair_p: float
    """p of `mean_accuracy`, corrected for the number of group pairs (Holm)."""
    halfway_sigma: float
    """Noise level at which the accuracy, made to rise as noise falls, passes HALFWAY_ACCURACY; NaN if it never does."""
    halfway_interval: tuple[float, float]
    """95 % interval of `halfway_sigma`; NaN for an end that these seeds cannot bound."""
    seed_count: int
    phrasing_count: int
    pair_count: int = 1
    """Number of group pairs that `pair_p` is corrected for."""

    def describe(self) -> str:
        """Describe the result in a sentence, the verdict first; only groups that can be told apart have a noise level.

        With a large p, the accuracy passes HALFWAY_ACCURACY somewhere by chance.
        """
        seeds = format_count(self.seed_count, "seed")
        scope = f" over {self.pair_count} pairs of groups" if self.pair_count > 1 else ""
        text = (
            f"{self.first_group} and {self.second_group}: {self.verdict}. {format_share(self.accuracy[-1])} of the "
            f"pairs of finished videos are sorted correctly (95 % interval {format_share(self.low[-1])} to "
            f"{format_share(self.high[-1])}{self._describe_end_p()}); over all noise levels "
            f"{format_share(self.mean_accuracy)}, p {self.pair_p:.3g}{scope} (smallest possible: "
            f"{self.min_attainable_p:.3g}), {seeds}"
        )
        if not self.is_decodable:
            return text
        if not math.isfinite(self.halfway_sigma):
            return f"{text}. The accuracy does not pass {format_share(HALFWAY_ACCURACY)}"
        return f"{text}. The accuracy passes {format_share(HALFWAY_ACCURACY)} {self._describe_halfway()}"

    @property
    def is_decodable(self) -> bool:
        """Return whether the test shows that the groups can be distinguished."""
        return self.pair_p <= SIGNIFICANCE_LEVEL

    @property
    def verdict(self) -> str:
        """Return whether the groups can be told apart; with too few seeds to tell, also return their number."""
        if self.is_decodable:
            return "they can be told apart (one test over all noise levels)"
        if self.min_attainable_p > SIGNIFICANCE_LEVEL:
            return (
                f"cannot tell them apart; {format_count(self.seed_count, 'seed')} cannot give a p below "
                f"{self.min_attainable_p:.3g}; generate at least {count_min_pairs(self.pair_count)}"
            )
        return "cannot tell them apart"

    @property
    def min_attainable_p(self) -> float:
        """Return the smallest `pair_p` that these seeds can give a pair."""
        return min(1.0, self.pair_count * compute_min_attainable_p(self.seed_count))

    @property
    def halfway_levels(self) -> tuple[float, float]:
        """Return the measured noise levels above and below `halfway_sigma`; both equal it if it was measured."""
        return (
            float(self.sigmas[self.sigmas >= self.halfway_sigma].min()),
            float(self.sigmas[self.sigmas <= self.halfway_sigma].max()),
        )

    def _describe_end_p(self) -> str:
        """Describe the p of the finished videos, corrected for pairs of groups (Bonferroni).

        The text is empty unless this p is not significant although the test over all noise levels is.
        """
        end_p = min(1.0, float(self.p[-1]) * self.pair_count)
        if not self.is_decodable or end_p <= SIGNIFICANCE_LEVEL:
            return ""
        return f"; this accuracy alone is not significant, p {end_p:.3g}"

    def _describe_halfway(self) -> str:
        (above, below), (low, high) = self.halfway_levels, self.halfway_interval
        if math.isfinite(low):
            interval = f"95 % interval {low:.3g} to {high:.3g}"
        elif high > self.halfway_sigma:
            interval = f"95 % interval up to {high:.3g}; too few seeds for a lower end"
        else:
            interval = "too few seeds for a 95 % interval"
        if above == below:
            return f"at the measured sigma {above:.3g} ({interval})"
        estimate = f"interpolated {self.halfway_sigma:.3g} ({interval})"
        return f"between the measured sigma {above:.3g} and {below:.3g}: {estimate}"


def compute_decodability(level_states: LevelStates) -> list[Decodability]:
    """Return the decodability of each group pair.

    Raises:
        CannotCompareError: there are too few seeds, or too many groups.
    """
    seed_count, names = len(level_states.seeds), level_states.group_names
    if seed_count < MIN_DECODED_SEEDS:
        raise CannotCompareError(
            f"cannot measure how well groups can be distinguished: they share {format_count(seed_count, 'seed')}, but "
            f"{MIN_DECODED_SEEDS} are needed, and {count_min_pairs()} for p of {SIGNIFICANCE_LEVEL:g}. Generate more "
            "seeds (videos_per_variation)"
        )
    if len(names) > MAX_DECODED_GROUPS:
        raise CannotCompareError(
            f"cannot distinguish {len(names)} groups: the maximum is {MAX_DECODED_GROUPS}. Group by a bracket with "
            "fewer options, or choose fewer videos"
        )
    flips, _ = draw_sign_flips(seed_count)
    results = []
    for i, j in itertools.combinations(range(len(names)), 2):
        seed_accuracies = np.stack(
            [
                score_held_out_seeds(
                    level_states.states[i, :, :, level].astype(np.float64) - level_states.states[j, :, :, level], flips
                )
                for level in range(len(level_states.sigmas))
            ],
            axis=2,
        )
        results.append(_summarise_pair(level_states, names[i], names[j], seed_accuracies))
    return _adjust_pair_p(results)


def score_held_out_seeds(differences: FloatArray, flips: FloatArray) -> FloatArray:
    """Return the fraction of each held-out seed's pairs that are sorted correctly, [seeds, flips].

    Each flip changes the signs of some seeds' differences.

    The direction is a ridge regression of 1 on z. The products of the pairs of a held-out seed s with the direction of
    the other seeds t follow from the smoother H = Z (Z'Z + n lambda)^-1 Z': they are (I - H_ss)^-1 sum_t H_st.
    A product of 0, as between states of equal noise, counts as half: accuracy is exactly 0.5 there.

    Args:
        differences: [seeds, phrasings, k] first minus second state.
        flips: [flips, seeds] signs.
    """
    seed_count, phrasing_count, value_count = differences.shape
    flat = differences.reshape(-1, value_count)
    gram = flat @ flat.T
    trace = np.trace(gram)
    if trace == 0:
        return np.full((seed_count, len(flips)), CHANCE)
    scatter = gram / (trace / seed_count)  # trace(S) = sum of variances is 1
    gamma = compute_seed_shrinkage(scatter, seed_count, value_count)
    ridged = (1 - gamma) * scatter / seed_count
    smoother = ridged.copy()
    ridged[np.diag_indices_from(ridged)] += gamma / value_count
    smoother = np.linalg.solve(ridged, smoother).T
    blocks = smoother.reshape(seed_count, phrasing_count, seed_count, phrasing_count)
    seed_indices = np.arange(seed_count)
    own_blocks = blocks[seed_indices, :, seed_indices, :]
    other_sums = blocks.sum(3)
    other_sums[seed_indices, :, seed_indices] = 0
    weights = np.linalg.solve(np.eye(phrasing_count) - own_blocks, other_sums)
    tolerance = ROUNDING_TOLERANCE * np.abs(weights).sum(2)[..., None]
    products = (weights @ flips.T) * flips.T[:, None, :]
    return np.asarray(((products > tolerance) + CHANCE * (np.abs(products) <= tolerance)).mean(1))


def compute_seed_shrinkage(gram: FloatArray, seed_count: int, value_count: int) -> float:
    """Return Ledoit and Wolf's shrinkage gamma of S = mean over seeds of B_s, B_s = sum of z z' over phrasings.

    gamma = mean |B_s - S|^2 / n / |S - mu I|^2, at most 1, with mu = trace(S) / k. Frobenius norms follow from the
    inner products: <B_s, B_t> is the sum of squares of their block.

    Args:
        gram: [seeds * phrasings, seeds * phrasings] inner products of the differences.
        value_count: k, values per state.
    """
    squares = gram**2
    blocks = squares.reshape(seed_count, len(gram) // seed_count, seed_count, -1).sum((1, 3))
    squared_norm = blocks.sum() / seed_count**2
    scatter_of_seeds = (np.trace(blocks) / seed_count - squared_norm) / seed_count
    distance_to_sphere = squared_norm - (np.trace(gram) / seed_count) ** 2 / value_count
    if distance_to_sphere <= ROUNDING_TOLERANCE * squared_norm:
        return MAX_SHRINKAGE  # S is a multiple of I, and any shrinkage gives S again
    return float(np.clip(scatter_of_seeds / distance_to_sphere, MIN_SHRINKAGE, MAX_SHRINKAGE))


def compute_accuracy_interval(seed_accuracies: FloatArray, phrasing_count: int) -> tuple[FloatArray, FloatArray]:
    """Return the ends of the 95 % interval of accuracies [L], with seeds as units.

    Score interval: the accuracies p with (accuracy - p)^2 <= z^2 V / m, V = p (1 - p) (1 + 4 p (1 - p)). The second
    factor covers the dependence of the folds, whose classifiers share seeds. m is the effective number of seeds n / d,
    where the design effect d is the variance of the seeds' accuracies divided by accuracy (1 - accuracy) (Korn and
    Graubard 1998): phrasings make it smaller than 1, down to 1 / phrasing_count. It is estimated from the pairs that
    are sorted wrongly (or rightly, if those are fewer); with few of them, it is drawn towards 1. Simulations of its
    coverage are in docs/analysis.md.

    Args:
        seed_accuracies: [seeds, L] share of each seed's pairs that is sorted correctly.
        phrasing_count: number of pairs per seed.
    """
    accuracy, seed_count = seed_accuracies.mean(0), len(seed_accuracies)
    binomial_variance = accuracy * (1 - accuracy)
    is_varied = binomial_variance > ROUNDING_TOLERANCE
    design_effect = np.where(is_varied, seed_accuracies.var(0, ddof=1) / np.where(is_varied, binomial_variance, 1), 1)
    rarer_count = seed_count * phrasing_count * np.minimum(accuracy, 1 - accuracy)
    design_effect = np.clip(design_effect, 1 / phrasing_count, 1)
    design_effect = (rarer_count * design_effect + PRIOR_PAIR_COUNT) / (rarer_count + PRIOR_PAIR_COUNT)
    effective_count = seed_count / design_effect
    return (
        _find_score_interval_end(accuracy, np.zeros_like(accuracy), effective_count),
        _find_score_interval_end(accuracy, np.ones_like(accuracy), effective_count),
    )


def _find_score_interval_end(accuracy: FloatArray, bound: FloatArray, effective_count: FloatArray) -> FloatArray:
    """Return the end of the score interval between an accuracy and a bound, by bisection."""
    inside, outside = accuracy, bound
    for _ in range(BISECTION_COUNT):
        middle = (inside + outside) / 2
        variance = middle * (1 - middle)
        is_inside = (accuracy - middle) ** 2 * effective_count <= SQUARED_NORMAL_QUANTILE * variance * (
            1 + 4 * variance
        )
        inside, outside = np.where(is_inside, middle, inside), np.where(is_inside, outside, middle)
    return inside


def _find_crossing(sigmas: FloatArray, values: FloatArray) -> float:
    """Return the noise level at which values, made monotonic, exceed HALFWAY_ACCURACY; NaN if they never do.

    The crossing is interpolated between noise levels.
    """
    above = np.flatnonzero(values >= HALFWAY_ACCURACY)
    if not len(above):
        return math.nan
    first = above[0]
    if first == 0:
        return float(sigmas[0])
    share = (HALFWAY_ACCURACY - values[first - 1]) / (values[first] - values[first - 1])
    return float(sigmas[first - 1] + share * (sigmas[first] - sigmas[first - 1]))


def _summarise_pair(
    level_states: LevelStates, first_group: str, second_group: str, seed_accuracies: FloatArray
) -> Decodability:
    """Return the decodability of a pair from accuracies [seeds, flips, L]; the first flip is the observed order.

    The interval of the halfway level ends where the interval of the accuracy passes HALFWAY_ACCURACY: its lower end for
    the last time, and its upper end for the first time.
    """
    sigmas, accuracies = level_states.sigmas, seed_accuracies.mean(0)
    accuracy = accuracies[0]
    low, high = compute_accuracy_interval(seed_accuracies[:, 0], level_states.phrasing_count)
    # Where the states of a pair are equal, the accuracy is not estimated: nothing can distinguish them.
    is_equal = (accuracies == CHANCE).all(0)
    low, high = np.where(is_equal, CHANCE, low), np.where(is_equal, CHANCE, high)
    mean_accuracies = average_over_sigma(accuracies, sigmas)
    chance_low, chance_high = np.quantile(accuracies, [0.025, 0.975], axis=0)
    lasting_low = np.minimum.accumulate(low[::-1])[::-1]
    return Decodability(
        first_group=first_group,
        second_group=second_group,
        sigmas=sigmas,
        accuracy=accuracy,
        low=low,
        high=high,
        chance_low=chance_low,
        chance_high=chance_high,
        p=(accuracies >= accuracy - ROUNDING_TOLERANCE).mean(0),
        mean_accuracy=float(mean_accuracies[0]),
        pair_p=float((mean_accuracies >= mean_accuracies[0] - ROUNDING_TOLERANCE).mean()),
        halfway_sigma=_find_crossing(sigmas, fit_monotonic(accuracy, is_increasing=True)),
        halfway_interval=(_find_crossing(sigmas, lasting_low), _find_crossing(sigmas, np.maximum.accumulate(high))),
        seed_count=len(level_states.seeds),
        phrasing_count=level_states.phrasing_count,
    )


def _adjust_pair_p(results: Sequence[Decodability]) -> list[Decodability]:
    """Return the results with their p over all noise levels corrected for the number of pairs (Holm 1979)."""
    adjusted = adjust_family_wise(np.array([result.pair_p for result in results]))
    return [
        replace(result, pair_p=float(p), pair_count=len(results)) for result, p in zip(results, adjusted, strict=True)
    ]
