"""Coverage of every 95 % interval of the analysis, on simulated values with a known truth."""

from collections.abc import Callable, Iterator
from functools import cache, partial

import numpy as np
from benchmarks.simulated_nulls import (
    COMMITMENT_SIGMAS,
    VALUE_COUNT,
    NullCase,
    draw_interaction,
    make_heavy_tails,
    make_outcomes,
    use_fewer_exchanges,
)
from numpy.typing import NDArray
from scipy import optimize

from wantui.analysis.commitment import compare_commitments, compute_kept_ranges, measure_commitment
from wantui.analysis.correlations import ACROSS_SEEDS, ACROSS_VARIATIONS, correlate_values
from wantui.analysis.decodability import HALFWAY_ACCURACY, Decodability, compute_decodability
from wantui.analysis.interaction import Contrast, _compare_places
from wantui.analysis.level_states import LevelStates
from wantui.analysis.places import compare_places
from wantui.analysis.statistics import compute_paired_effect, compute_ratio_interval

FloatArray = NDArray[np.float64]
SEED_COUNTS = (6, 10, 16, 24, 50)
DOSE_WEIGHTS = np.array([1.0, 2.0, 8.0]) - 11 / 3
PATH_SIGMAS = np.linspace(1, 0, 9)
PATH_DISTANCE = 3.5
"""Distance of the groups at the end of a path, in standard deviations of a difference."""
FEW_DIRECTIONS = "normal, few directions"
VARIANCE_RATIO = 0.6
"""Variance of a value of a state over that of the value before, in states that scatter in few directions."""
CLOSE_SIGMAS = tuple(np.arange(0.3, 1.0, 0.004).round(3).tolist())
"""Noise levels so close to each other that s50 lies between two of them with hardly any room."""

Interval = tuple[float, float]


def draw_values(random: np.random.Generator, shape: tuple[int, ...], distribution: str) -> FloatArray:
    """Return values with mean 0."""
    if distribution == "t with 3 d.f.":
        return np.asarray(random.standard_t(3, size=shape))
    if distribution == "odd video":
        return random.normal(size=shape) * np.where(random.random(shape) < 0.05, 5.0, 1.0)
    if distribution == "lognormal":
        return np.asarray(random.lognormal(0, 1, size=shape) - np.exp(0.5))
    return random.normal(size=shape)


def estimate_difference(random: np.random.Generator, seed_count: int, distribution: str) -> tuple[Interval, float]:
    """Return the interval of a mean paired difference, and its true value."""
    values = draw_values(random, (2, seed_count), distribution)
    effect = compute_paired_effect(1 + values[0] - values[1])
    return (effect.interval_low, effect.interval_high), 1.0


def estimate_ratio(random: np.random.Generator, seed_count: int, distribution: str) -> tuple[Interval, float]:
    """Return the interval of a ratio of means, whose values scatter by a fifth of the mean."""
    shared, own = draw_values(random, (1, seed_count), distribution), draw_values(random, (2, seed_count), distribution)
    values = 1 + 0.2 * np.sqrt(0.5) * (shared + own)
    return compute_ratio_interval(1.5 * values[0], values[1]), 1.5


def estimate_slope(random: np.random.Generator, seed_count: int, distribution: str) -> tuple[Interval, float]:
    """Return the interval of the slope over a setting."""
    slopes = draw_values(random, (seed_count, 3), distribution) @ DOSE_WEIGHTS
    effect = compute_paired_effect(slopes)
    return (effect.interval_low, effect.interval_high), 0.0


def change_states(random: np.random.Generator, states: FloatArray, distribution: str) -> FloatArray:
    """Return normal states [groups, seeds, k] with another distribution."""
    if distribution == "t with 3 d.f.":
        return make_heavy_tails(random, states[:, :, None])[:, :, 0]
    if distribution == FEW_DIRECTIONS:
        return np.asarray(states * np.sqrt(VARIANCE_RATIO ** np.arange(VALUE_COUNT)))
    return states


def estimate_place(
    random: np.random.Generator, seed_count: int, distribution: str, distance: float
) -> tuple[Interval, float]:
    """Return the interval of the distance between the means of two groups of states."""
    shared, own = random.normal(size=(1, seed_count, VALUE_COUNT)), random.normal(size=(2, seed_count, VALUE_COUNT))
    states = np.sqrt(0.5) * (shared + own)
    states = change_states(random, states, distribution)
    states[0, :, 0] += distance
    (place,) = compare_places(states, [(0, 1)])
    return (place.distance_low, place.distance_high), distance


def estimate_correlation(
    random: np.random.Generator, seed_count: int, distribution: str, correlation: float, variation_count: int
) -> tuple[Interval, float]:
    """Return the interval of Spearman's rho across seeds, and its true value for normal values of this correlation."""
    values, others = random.normal(size=(2, variation_count, seed_count))
    others = correlation * values + np.sqrt(1 - correlation**2) * others
    (result,) = correlate_values({"metric": values}, {"other": others}, ACROSS_SEEDS)
    return (result.low, result.high), 6 / np.pi * np.arcsin(correlation / 2)


def estimate_correlation_across_variations(
    random: np.random.Generator, variation_count: int, distribution: str, correlation: float
) -> tuple[Interval, float]:
    """Return the interval of Spearman's rho across variations of 6 seeds, most of whose variance is between prompts."""
    values, others = random.normal(size=(2, variation_count, 6)) + 1.5 * random.normal(size=(2, variation_count, 1))
    others = correlation * values + np.sqrt(1 - correlation**2) * others
    (result,) = correlate_values({"metric": values}, {"other": others}, ACROSS_VARIATIONS)
    return (result.low, result.high), 6 / np.pi * np.arcsin(correlation / 2)


def estimate_interaction_distance(
    random: np.random.Generator, seed_count: int, distribution: str
) -> tuple[Interval, float]:
    """Return the interval of the length of a difference of differences of final states."""
    states, weights = draw_interaction(NullCase("", 2, 1), random, seed_count)
    states = change_states(random, states, distribution)
    states[0, :, 0] += 1
    (effect,) = _compare_places(states, weights, [Contrast(("", ""), ("", ""))])
    return (effect.low, effect.high), 1.0


def estimate_kept_range(random: np.random.Generator, seed_count: int, distribution: str) -> tuple[Interval, float]:
    """Return the interval of a difference of kept ranges, and its expected value by many seeds."""
    first, second = (
        make_outcomes(name, mean + 0.1 * draw_values(random, (seed_count,), distribution))
        for name, mean in (("a", 0.75), ("b", 0.65))
    )
    (commitment_difference,) = compare_commitments([measure_commitment(first), measure_commitment(second)])
    return (
        commitment_difference.kept_range.interval_low,
        commitment_difference.kept_range.interval_high,
    ), _expect_kept_range(distribution, 0.75) - _expect_kept_range(distribution, 0.65)


def estimate_mean_kept_range(random: np.random.Generator, seed_count: int, distribution: str) -> tuple[Interval, float]:
    """Return the interval of a mean kept range, and its expected value by many seeds."""
    levels = 0.72 + 0.1 * draw_values(random, (seed_count,), distribution)
    return measure_commitment(make_outcomes("a", levels)).kept_range_interval, _expect_kept_range(distribution, 0.72)


@cache
def _expect_kept_range(distribution: str, mean: float) -> float:
    levels = mean + 0.1 * draw_values(np.random.default_rng(1), (20_000,), distribution)
    return float(compute_kept_ranges(COMMITMENT_SIGMAS, make_outcomes("a", levels).stays).mean())


def estimate_half_share_level(
    random: np.random.Generator, seed_count: int, distribution: str, sigmas: tuple[float, ...]
) -> tuple[Interval, float]:
    """Return the interval of s50 of a concept that half of the seeds keep up to 0.72."""
    levels = 0.72 + 0.1 * draw_values(random, (seed_count,), distribution)
    half_share_level = measure_commitment(make_outcomes("a", levels, sigmas)).half_share_level
    return (half_share_level.low, min(half_share_level.high, 1.0)), 0.72


INTERVALS: dict[str, Callable[[np.random.Generator, int, str], tuple[Interval, float]]] = {
    "mean difference, slope or curve (Student)": estimate_difference,
    "ratio of means (Fieller)": estimate_ratio,
    "slope over an uneven setting (Student)": estimate_slope,
    "distance between groups 3 apart": partial(estimate_place, distance=3.0),
    "distance between groups 1 apart": partial(estimate_place, distance=1.0),
    "distance between groups 0.3 apart": partial(estimate_place, distance=0.3),
    "rank correlation of 0, 4 variations": partial(estimate_correlation, correlation=0.0, variation_count=4),
    "rank correlation of 0.58, 4 variations": partial(estimate_correlation, correlation=0.6, variation_count=4),
    "rank correlation of 0.58, 1 variation": partial(estimate_correlation, correlation=0.6, variation_count=1),
    "rank correlation of 0 across variations": partial(estimate_correlation_across_variations, correlation=0.0),
    "rank correlation of 0.58 across variations": partial(estimate_correlation_across_variations, correlation=0.6),
    "distance of an interaction of 1": estimate_interaction_distance,
    "mean kept range (Student)": estimate_mean_kept_range,
    "difference of kept ranges (Student)": estimate_kept_range,
    "s50, levels 0.05 apart": partial(estimate_half_share_level, sigmas=COMMITMENT_SIGMAS),
    "s50, levels 0.004 apart": partial(estimate_half_share_level, sigmas=CLOSE_SIGMAS),
}
"""Function that returns an interval and the true value, by name."""
DISTRIBUTIONS = ("normal", "t with 3 d.f.", "odd video", "lognormal")
STATE_DISTRIBUTIONS = ("normal", "t with 3 d.f.", FEW_DIRECTIONS)
"""Distributions of the intervals of distances."""


def draw_decodability(random: np.random.Generator, seed_count: int, phrasing_count: int) -> Decodability:
    """Return the decodability of groups that separate along a path."""
    noise = random.normal(size=(2, seed_count, 1, VALUE_COUNT)) + random.normal(size=(2, seed_count, 3, VALUE_COUNT))
    noise = noise[:, :, :phrasing_count] / np.sqrt(2 if phrasing_count > 1 else 1)
    states = np.repeat(noise[:, :, :, None] / np.sqrt(2), len(PATH_SIGMAS), axis=3)
    states[0, ..., 0] += PATH_DISTANCE * (1 - PATH_SIGMAS)
    states[..., 0, :] = states[:1, ..., 0, :]
    level_states = LevelStates(("first", "second"), tuple(range(seed_count)), PATH_SIGMAS, states, states.shape[-1])
    (pair,) = compute_decodability(level_states)
    return pair


def find_halfway_sigma(accuracy: FloatArray) -> float:
    """Return the noise level at which a curve of accuracies passes 75 %."""
    rising = optimize.isotonic_regression(accuracy).x
    return float(np.interp(HALFWAY_ACCURACY, rising, PATH_SIGMAS))


def compute_decodability_coverage(seed_count: int, phrasing_count: int, run_count: int) -> tuple[float, float]:
    """Return in what share of runs the intervals of accuracy and of the halfway level contain the true value.

    The true accuracy is the mean over all runs. Coverage of accuracy is the mean over the noise levels below 1.
    """
    random = np.random.default_rng([seed_count, phrasing_count])
    with use_fewer_exchanges():
        pairs = [draw_decodability(random, seed_count, phrasing_count) for _ in range(run_count)]
    accuracy = np.mean([pair.accuracy for pair in pairs], axis=0)
    halfway_sigma = find_halfway_sigma(accuracy)
    is_covered = [(pair.low <= accuracy) & (accuracy <= pair.high) for pair in pairs]
    ends = [pair.halfway_interval for pair in pairs]
    is_halfway_covered = [not (low > halfway_sigma or high < halfway_sigma) for low, high in ends]
    return float(np.mean(np.array(is_covered)[:, 1:])), float(np.mean(is_halfway_covered))


def _choose_distributions(name: str) -> tuple[str, ...]:
    if name.startswith("rank correlation"):
        return ("normal",)
    if "s50" in name or "kept range" in name:
        return DISTRIBUTIONS[:2]  # the others have medians that are not their means
    return STATE_DISTRIBUTIONS if name.startswith("distance") else DISTRIBUTIONS


def list_coverages(run_count: int) -> Iterator[tuple[str, str, list[float]]]:
    """Yield name of the interval, case, and coverage for each of SEED_COUNTS."""
    for name, estimate in INTERVALS.items():
        for distribution in _choose_distributions(name):
            coverages = []
            for seed_count in SEED_COUNTS:
                random = np.random.default_rng(seed_count)
                with use_fewer_exchanges():
                    estimates = [estimate(random, seed_count, distribution) for _ in range(run_count)]
                # Without an interval, as of a ratio whose denominator may be 0, none is shown.
                # An interval without an upper end is one.
                hits = [low <= truth <= high for (low, high), truth in estimates if np.isfinite(low)]
                coverages.append(float(np.mean(hits)))
            yield name, distribution, coverages
    for phrasing_count in (1, 3):
        pairs = [compute_decodability_coverage(seed_count, phrasing_count, run_count) for seed_count in SEED_COUNTS]
        case = f"normal, {phrasing_count} phrasing{'s' if phrasing_count > 1 else ''}"
        yield "accuracy of decodability", case, [accuracy for accuracy, _ in pairs]
        yield "halfway level of decodability", case, [halfway for _, halfway in pairs]
