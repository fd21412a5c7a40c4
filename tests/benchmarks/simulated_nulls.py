"""Simulated videos without a difference between groups, and every test of the analysis that could report one."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from unittest.mock import patch

import numpy as np
from benchmarks.simulated_answers import simulate_trend_answer
from numpy.typing import NDArray

from wantui.analysis import clusters, correlations, statistics, variance_shares
from wantui.analysis.answer_evidence import DIFFERS, PATH, QUESTIONS
from wantui.analysis.clusters import compute_family_mass_p, compute_family_masses, run_cluster_test
from wantui.analysis.commitment import ConceptOutcomes, compare_commitments, measure_commitment
from wantui.analysis.correlations import ACROSS_SEEDS, ACROSS_VARIATIONS, correlate_values
from wantui.analysis.decodability import compute_decodability
from wantui.analysis.differences import SIGNIFICANCE_LEVEL, compute_family_p
from wantui.analysis.dispersion import (
    compute_distances_to_median,
    compute_squared_distances,
    run_permanova,
    run_permdisp,
)
from wantui.analysis.information_gap import InformationGap, ScoredVideo, build_information_table
from wantui.analysis.interaction import Contrast, _compare_metrics, _compare_places
from wantui.analysis.level_states import LevelStates
from wantui.analysis.metrics import METRICS
from wantui.analysis.places import compare_places, run_omnibus_place_test
from wantui.analysis.statistics import compute_omnibus_p, compute_paired_effect, run_sign_flip_test, run_trend_test
from wantui.analysis.variance_shares import compute_variance_shares

FloatArray = NDArray[np.float64]
VALUE_COUNT = 20
"""Values of a state."""
METRIC_COUNT = 12
"""Metrics of a family."""
RANDOM_EXCHANGES = 999
"""Random exchanges of a test; fewer than in the product give p a coarser resolution, and the same rate."""
DOSE_WEIGHTS = np.array([1.0, 2.0, 8.0]) - 11 / 3
CURVE_MEMORY = 0.8
"""Correlation of neighbouring noise levels of a curve."""
PATH_LEVEL_COUNT = 4
"""Noise levels of states without equal noise."""
COMMITMENT_SIGMAS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
"""Noise levels from which the generic prompt holds."""


@dataclass(frozen=True)
class NullCase:
    """A way to draw videos of groups that do not differ."""

    name: str
    group_count: int
    phrasing_count: int
    change: Callable[[np.random.Generator, FloatArray], FloatArray] = lambda random, states: states
    """Function that changes states [groups, seeds, phrasings, k]."""

    def draw(self, random: np.random.Generator, seed_count: int, phrasing_count: int = 0) -> FloatArray:
        """Return states [groups, seeds, phrasings, k]; half the variance is shared by the videos of a seed."""
        shape = (self.group_count, seed_count, phrasing_count or self.phrasing_count, VALUE_COUNT)
        shared = random.normal(size=(1, seed_count, 1, VALUE_COUNT))
        return self.change(random, np.sqrt(0.5) * (shared + random.normal(size=shape)))


def make_heavy_tails(random: np.random.Generator, states: FloatArray) -> FloatArray:
    """Return states of a multivariate t distribution with 3 degrees of freedom."""
    return states / np.sqrt(random.chisquare(3, size=(*states.shape[:3], 1)) / 3)


def make_odd_videos(random: np.random.Generator, states: FloatArray) -> FloatArray:
    """Move one video in twenty five times as far from the mean as is typical."""
    return states * np.where(random.random((*states.shape[:3], 1)) < 0.05, 5.0, 1.0)


def make_unequal_wordings(random: np.random.Generator, states: FloatArray) -> FloatArray:
    """Give every wording a mean of its own, and two to four times the scatter of the first one."""
    offsets = 2 * random.normal(size=(1, 1, *states.shape[2:]))
    return states * np.linspace(1, 4, states.shape[2])[None, None, :, None] + offsets


def make_unequal_spread(random: np.random.Generator, states: FloatArray) -> FloatArray:
    """Give the first group three times the scatter of the others; all have the same mean."""
    return states * np.where(np.arange(len(states)) == 0, 3.0, 1.0)[:, None, None, None]


NULL_CASES = (
    NullCase("normal", 2, 1),
    NullCase("t with 3 d.f.", 2, 1, make_heavy_tails),
    NullCase("odd video", 2, 1, make_odd_videos),
    NullCase("unequal wordings", 2, 3, make_unequal_wordings),
    NullCase("3 groups", 3, 1),
    NullCase("6 groups", 6, 1),
    NullCase("3 groups, unequal spread", 3, 1, make_unequal_spread),
)
CORRELATION_ACROSS_VARIATIONS = "correlation across variations"
INFORMATION = "information of words, both forms: max-T"
TESTS_OF_SPREAD = ("spread", "PERMDISP", INFORMATION)
"""Tests without a rate for groups of unequal spread, which differ in it; so do their squares."""


def list_pairs(states: FloatArray) -> list[tuple[int, int]]:
    """Return the pairs of groups."""
    return list(itertools.combinations(range(len(states)), 2))


def compute_metric_p(values: FloatArray) -> float:
    """Return the smallest p over all pairs and metrics, corrected as in a comparison.

    Args:
        values: [seeds, groups, metrics].
    """
    pairs = list(itertools.combinations(range(values.shape[1]), 2))
    pairwise_p = np.array(
        [[compute_paired_effect(values[:, i, m] - values[:, j, m]).p for m in range(values.shape[2])] for i, j in pairs]
    )
    return float(np.maximum(compute_family_p(values, pairs, pairwise_p), pairwise_p).min())


def collect_metrics(states: FloatArray, metric_count: int) -> FloatArray:
    """Return metrics [seeds, groups, m]: values of the states that resemble each other, averaged over phrasings."""
    values: FloatArray = states[..., :metric_count].mean(2).transpose(1, 0, 2)
    return np.asarray(values + values[..., :1])


def compute_one_metric_p(states: FloatArray) -> float:
    return compute_metric_p(collect_metrics(states, 1))


def compute_family_of_metrics_p(states: FloatArray) -> float:
    return compute_metric_p(collect_metrics(states, METRIC_COUNT))


def compute_any_group_p(states: FloatArray) -> float:
    return compute_omnibus_p(collect_metrics(states, 1)[..., 0])


def compute_phrasing_p(case: NullCase, random: np.random.Generator, seed_count: int) -> float:
    """Return the larger p by seeds and by eight phrasings, of a word whose effect varies between sentences."""
    values = case.draw(random, seed_count, phrasing_count=8)[..., 0]
    values += random.normal(size=(case.group_count, 1, 8))
    by_seed = compute_metric_p(values.mean(2).T[..., None])
    return max(by_seed, compute_metric_p(values.mean(1).T[..., None]))


def compute_slope_p(case: NullCase, random: np.random.Generator, seed_count: int) -> float:
    """Return p of a slope over three values of a setting."""
    values = replace(case, group_count=3).draw(random, seed_count)[..., 0].mean(2).T
    return max(run_sign_flip_test(values @ DOSE_WEIGHTS), run_trend_test(values, DOSE_WEIGHTS))


def compute_spread_p(states: FloatArray) -> float:
    spreads = [
        compute_distances_to_median(compute_squared_distances(group.reshape(-1, group.shape[-1]))).reshape(
            group.shape[:2]
        )
        for group in states
    ]
    return compute_metric_p(np.stack(spreads).mean(2).T[..., None])


def list_cells(states: FloatArray) -> tuple[FloatArray, NDArray[np.int64]]:
    """Return squared distances and the indices [seeds, groups, phrasings] of the states."""
    indices = np.arange(states[..., 0].size).reshape(states.shape[:3]).transpose(1, 0, 2)
    return compute_squared_distances(states.reshape(-1, states.shape[-1])), indices


def compute_permdisp_p(states: FloatArray) -> float:
    return run_permdisp(*list_cells(states)).p_value


def compute_permanova_p(states: FloatArray) -> float:
    return run_permanova(*list_cells(states)).p_value


def compute_place_p(states: FloatArray) -> float:
    return min(place.family_p for place in compare_places(states.mean(2), list_pairs(states)))


def compute_any_place_p(states: FloatArray) -> float:
    return run_omnibus_place_test(states.mean(2))


def compute_curve_p(states: FloatArray) -> float:
    """Return the smallest p of the clusters of a curve whose neighbouring noise levels resemble each other."""
    curves = states.mean(2).copy()
    for level in range(1, states.shape[-1]):
        curves[..., level] = CURVE_MEMORY * curves[..., level - 1] + 0.6 * curves[..., level]
    pairs = list_pairs(states)
    tests = [run_cluster_test(curves[i] - curves[j]) for i, j in pairs]
    permuted_masses = None if len(pairs) == 1 else compute_family_masses([curves.transpose(1, 0, 2)], pairs)
    p = [max(c.p, compute_family_mass_p(c.mass, tests, permuted_masses)) for test in tests for c in test.clusters]
    return min(p, default=1.0)


def build_level_states(states: FloatArray) -> LevelStates:
    """Return level states of equal noise, then of PATH_LEVEL_COUNT levels of which each has its share of the values and
    resembles the level before it.
    """
    levels = states.reshape(*states.shape[:3], PATH_LEVEL_COUNT, -1).copy()
    for level in range(1, PATH_LEVEL_COUNT):
        levels[..., level, :] = CURVE_MEMORY * levels[..., level - 1, :] + 0.6 * levels[..., level, :]
    levels = np.concatenate([np.zeros_like(levels[..., :1, :]), levels], axis=3)
    sigmas = np.linspace(1.0, 0.0, PATH_LEVEL_COUNT + 1)
    return LevelStates(
        tuple(map(str, range(len(states)))), tuple(range(states.shape[1])), sigmas, levels, levels.shape[-1]
    )


def compute_decodability_p(states: FloatArray) -> float:
    return min(pair.pair_p for pair in compute_decodability(build_level_states(states)))


def compute_share_p(states: FloatArray) -> float:
    return compute_variance_shares(build_level_states(states)).mean_p


STATE_TESTS: dict[str, Callable[[FloatArray], float]] = {
    "spread": compute_spread_p,
    "PERMDISP": compute_permdisp_p,
    "PERMANOVA": compute_permanova_p,
    "place": compute_place_p,
    "any group differs in place": compute_any_place_p,
    "decodability; over pairs: Holm": compute_decodability_p,
    "variance share of the group": compute_share_p,
}
"""Function that returns p from final states [groups, seeds, phrasings, k], by name of the test."""
VALUE_TESTS: dict[str, Callable[[FloatArray], float]] = {
    "one metric: sign flips; over pairs: max-T": compute_one_metric_p,
    f"{METRIC_COUNT} metrics: max-T": compute_family_of_metrics_p,
    "any group differs in a metric": compute_any_group_p,
    "curve: clusters": compute_curve_p,
}
"""Functions that take values of the states for metrics, or for noise levels of a curve."""


def compute_correlation_p(case: NullCase, random: np.random.Generator, seed_count: int, across: str) -> float:
    """Return the smallest p over two metrics of their correlation with an independent value of the same videos."""
    metrics = case.draw(random, seed_count).mean(2)
    covariate = case.draw(random, seed_count).mean(2)[..., 0]
    results = correlate_values({"a": metrics[..., 0], "b": metrics[..., 1]}, {"c": covariate}, across)
    return min(result.family_p for result in results)


def draw_interaction(case: NullCase, random: np.random.Generator, seed_count: int) -> tuple[FloatArray, FloatArray]:
    """Return states [groups, seeds, k] of two factors that have effects, but no interaction, and contrast weights.

    The second factor has two levels. The groups of its first level come first.
    """
    count = case.group_count
    states = np.concatenate([case.draw(random, seed_count).mean(2) for _ in range(2)])
    states[:count] += 2
    states += np.tile(np.arange(count), 2)[:, None, None]
    pairs = list(itertools.combinations(range(count), 2))
    weights = np.zeros((len(pairs), 2 * count))
    for row, (i, j) in zip(weights, pairs, strict=True):
        row[[i, j + count]], row[[j, i + count]] = 1, -1
    return states, weights


def compute_interaction_p(case: NullCase, random: np.random.Generator, seed_count: int, metric_count: int) -> float:
    """Return the smallest p of an interaction in metrics; in place without metrics."""
    states, weights = draw_interaction(case, random, seed_count)
    contrasts = [Contrast((str(k), ""), ("", "")) for k in range(len(weights))]
    if metric_count == 0:
        return min(effect.p for effect in _compare_places(states, weights, contrasts))
    values = collect_metrics(states[:, :, None], metric_count)
    names = list(METRICS)[:metric_count]
    differences = np.einsum("cg,sgm->scm", weights, values)
    return min(effect.p for effect in _compare_metrics(differences, contrasts, PATH, names))


def compute_information_p(case: NullCase, random: np.random.Generator, seed_count: int) -> float:
    """Return the smallest p of a difference between words of equal information, which is skewed as squares are."""
    values = case.draw(random, seed_count).mean(2)[..., :2] ** 2
    videos = [
        ScoredVideo(str(word), "", "", seed, InformationGap(pointwise, gap, 0.0, 0.0))
        for word, seed_values in enumerate(values.tolist())
        for seed, (pointwise, gap) in enumerate(seed_values)
    ]
    return min(difference.family_p for difference in build_information_table(videos).differences)


def compute_commitment_p(case: NullCase, random: np.random.Generator, seed_count: int) -> float:
    """Return the smallest p of a difference between concepts that are kept up to equally distributed noise levels."""
    kept_levels = 0.7 + 0.1 * case.draw(random, seed_count).mean(2)[..., 0]
    commitments = [
        measure_commitment(make_outcomes(f"concept {number}", levels)) for number, levels in enumerate(kept_levels)
    ]
    return min(commitment_difference.family_p for commitment_difference in compare_commitments(commitments))


def make_outcomes(
    concept: str, kept_levels: FloatArray, sigmas: tuple[float, ...] = COMMITMENT_SIGMAS
) -> ConceptOutcomes:
    """Return the outcomes of seeds that keep a concept up to a noise level each."""
    labels = tuple(tuple(concept if sigma <= level else "other" for sigma in sigmas) for level in kept_levels)
    return ConceptOutcomes(concept, sigmas, tuple(range(len(labels))), labels)


def compute_trend_answer_p(case: NullCase, random: np.random.Generator, seed_count: int, question: str) -> float:
    """Return the smallest p of a metric that the answer on slopes counts as a difference; 1 if it counts none."""
    states = replace(case, group_count=max(3, case.group_count)).draw(random.spawn(1)[0], seed_count)
    answer = simulate_trend_answer(states, collect_metrics(states, METRIC_COUNT), question)
    return min(answer.p_by_metric.values()) if answer.kind == DIFFERS else 1.0


DRAWING_TESTS: dict[str, Callable[[NullCase, np.random.Generator, int], float]] = {
    "one metric, over seeds and 8 phrasings": compute_phrasing_p,
    "slope over a setting": compute_slope_p,
    **{f"slopes: answer on {name}": partial(compute_trend_answer_p, question=name) for name in QUESTIONS},
    "correlation across seeds": partial(compute_correlation_p, across=ACROSS_SEEDS),
    CORRELATION_ACROSS_VARIATIONS: partial(compute_correlation_p, across=ACROSS_VARIATIONS),
    "interaction: one metric": partial(compute_interaction_p, metric_count=1),
    f"interaction: {METRIC_COUNT} metrics": partial(compute_interaction_p, metric_count=METRIC_COUNT),
    "interaction: place": partial(compute_interaction_p, metric_count=0),
    INFORMATION: compute_information_p,
    "kept range of concepts: max-T": compute_commitment_p,
}
"""Functions that draw their own values, of more phrasings or groups, for a number of seeds."""


def has_rate(case: NullCase, name: str) -> bool:
    """Return whether a test has a rate of false positives: its null hypothesis holds, and it can be significant."""
    if name == CORRELATION_ACROSS_VARIATIONS:
        return case.group_count > 4  # the smallest p of four variations is 2 / 4!
    return not (case.change is make_unequal_spread and name in TESTS_OF_SPREAD)


COUNTS_BY_CONSTANT = {
    (statistics, "RESAMPLE_COUNT"): RANDOM_EXCHANGES,
    (statistics, "MAX_EXACT_PERMUTATIONS"): RANDOM_EXCHANGES + 1,
    (statistics, "MAX_EXACT_PAIRS"): 10,
    (variance_shares, "RESAMPLE_COUNT"): RANDOM_EXCHANGES,
    (clusters, "FAMILY_PERMUTATION_COUNT"): RANDOM_EXCHANGES,
    (correlations, "RESAMPLE_COUNT"): RANDOM_EXCHANGES,
    (correlations, "MAX_EXACT_PERMUTATIONS"): RANDOM_EXCHANGES + 1,
}
"""Constants of the analysis that `use_fewer_exchanges` changes."""


@contextmanager
def use_fewer_exchanges() -> Iterator[None]:
    """Draw RANDOM_EXCHANGES exchanges where not all can be tried, so that simulations take minutes."""
    draw_permutations = statistics.draw_within_seed_permutations
    defaults = draw_permutations.__defaults__
    with ExitStack() as stack:
        for (module, name), count in COUNTS_BY_CONSTANT.items():
            stack.enter_context(patch.object(module, name, count))
        draw_permutations.__defaults__ = (RANDOM_EXCHANGES,)
        statistics.draw_sign_flips.cache_clear()
        try:
            yield
        finally:
            draw_permutations.__defaults__ = defaults
            statistics.draw_sign_flips.cache_clear()


def compute_false_positive_rates(case: NullCase, seed_count: int, run_count: int) -> dict[str, float]:
    """Return the share of runs in which each test has p up to 0.05."""
    random = np.random.default_rng([seed_count, len(case.name), case.group_count])
    significant: dict[str, list[bool]] = {}
    with use_fewer_exchanges():
        for _ in range(run_count):
            states = case.draw(random, seed_count)
            p_by_test = {name: compute_p(states) for name, compute_p in (VALUE_TESTS | STATE_TESTS).items()}
            p_by_test |= {name: compute_p(case, random, seed_count) for name, compute_p in DRAWING_TESTS.items()}
            for name, p in p_by_test.items():
                if has_rate(case, name):
                    significant.setdefault(name, []).append(p <= SIGNIFICANCE_LEVEL)
    return {name: float(np.mean(calls)) for name, calls in significant.items()}
