"""Interaction of two factors: whether the effect of one word or setting depends on another, paired by seed.

For each seed, the contrast of two levels a1, a2 of the first factor and b1, b2 of the second one is the difference of
differences (a1 b1 - a2 b1) - (a1 b2 - a2 b2). Tests flip the signs of whole seeds.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from wantui.analysis.advice import Advice, AdviceKind, AdvisedText
from wantui.analysis.answer_evidence import DISTANCE, FAMILIES_BY_METRIC, PATH, PLACE, ROOM, ROOM_METRICS
from wantui.analysis.arrays import FloatArray
from wantui.analysis.declaration import Declaration, choose_primary_metric
from wantui.analysis.differences import P_HEADER, ROUNDING_TOLERANCE, SIGNIFICANCE_LEVEL, remove_rounding_differences
from wantui.analysis.dispersion import STATE_ROUNDING_TOLERANCE
from wantui.analysis.final_states import SPREAD_METRIC, FinalStates
from wantui.analysis.group_names import CannotCompareError, name_groups
from wantui.analysis.groups import MatchedGroups, find_factors
from wantui.analysis.matching import match_comparable_groups
from wantui.analysis.metrics import METRICS, get_metric_unit
from wantui.analysis.permutation_p import TIE_FACTOR
from wantui.analysis.places import compute_contrast_gram, measure_contrast, run_place_test
from wantui.analysis.statistics import (
    MEAN_ROUNDING_TOLERANCE,
    compute_min_attainable_p,
    compute_paired_effect,
    draw_sign_flips,
    run_max_t_test,
)
from wantui.analysis.strides import find_unsettled_metrics
from wantui.analysis.trajectory import NoGeometryError
from wantui.analysis.unguided import split_by_guidance
from wantui.analysis.video import Video
from wantui.formatting import format_count

MAX_COSINE_ESTIMATE = 1.05
"""Largest ratio of unbiased products that counts as a cosine of 1. Scatter can give parallel differences a ratio
slightly above 1; a larger ratio is mostly scatter."""
CHANCE_HEADER = "by chance, alone"
"""Header of the `InteractionEffect.chance` column, which is not corrected for other tests."""
EFFECT_HEADERS = ("difference of differences", "answer", "metric", "effect", "95 %", P_HEADER, CHANCE_HEADER)
"""Columns of an effect table."""


@dataclass(frozen=True)
class Contrast:
    """Factor levels between which a difference of differences is computed."""

    first_levels: tuple[str, str]
    second_levels: tuple[str, str]

    @property
    def name(self) -> str:
        """Return the contrast in words, such as "red - blue, circle against ring"."""
        return f"{' - '.join(self.first_levels)}, {' against '.join(self.second_levels)}"


@dataclass(frozen=True)
class PlaceDirection:
    """The two mean differences of final states that an interaction effect on place compares."""

    first_distance: float
    second_distance: float
    """Unbiased distances between the two first levels, with each of the second levels; root mean squares."""
    first_p: float
    second_p: float
    """Sign-flip p of each distance alone."""
    cosine: float
    """Cosine of the angle between the two differences; NaN unless both distances are shown, or if its estimate is above
    MAX_COSINE_ESTIMATE."""


@dataclass(frozen=True)
class InteractionEffect:
    """Difference of two differences, in one metric or in the final states."""

    contrast: Contrast
    question: str
    """place, room or path."""
    metric: str
    effect: float
    low: float
    high: float
    """Effect with its 95 % interval, in the unit of the metric; for place, the length of the difference."""
    unit: str
    uncorrected_p: float
    p: float
    """p over the metrics of the question and all contrasts."""
    contrast_p: float
    """p over all contrasts, of this metric alone."""
    chance: float = math.nan
    """95 % quantile of the effect in this one test, with the signs of whole seeds flipped at random."""
    direction: PlaceDirection | None = None
    """Direction of an effect on place; None for metrics, whose effects have a sign."""

    @property
    def is_found(self) -> bool:
        """Return whether p is significant and the interval excludes 0."""
        return self.p <= SIGNIFICANCE_LEVEL and not self.low <= 0 <= self.high

    def format_cells(self) -> tuple[str, ...]:
        """Return the cells of the effect under EFFECT_HEADERS."""
        return (
            self.contrast.name,
            self.question,
            self.metric,
            f"{self.effect:.3g} {self.unit}".rstrip(),
            f"{self.low:.3g} to {self.high:.3g}" if math.isfinite(self.low) else "-",
            f"{self.p:.3g}",
            f"{self.chance:.3g}" if math.isfinite(self.chance) else "-",
        )


@dataclass(frozen=True)
class Interaction:
    """Interaction of two factors in place, room and path."""

    factors: tuple[str, str]
    levels: tuple[tuple[str, ...], tuple[str, ...]]
    """Values of each factor."""
    seed_count: int
    phrasing_count: int
    """Number of other phrasings, over which each seed is averaged; they are not tested."""
    effects: tuple[InteractionEffect, ...]
    min_attainable_p: float
    excluded_metrics: tuple[str, ...] = ()
    """Metrics that lack a value in some videos, or that depend on the steps."""
    declaration: Declaration | None = None
    """The metric that decides alone, without correction for other metrics."""

    @property
    def question_text(self) -> str:
        """Return the question that the interaction answers, and the number of seeds."""
        first, second = (", ".join(levels) for levels in self.levels)
        return (
            f"does the difference between {first} depend on {second}? Differences of differences, "
            f"{format_count(self.seed_count, 'seed')}"
        )


def find_factor_pairs(videos: Sequence[Video]) -> list[str]:
    """Return the pairs of brackets and settings that divide the videos, as groupings such as "1,2"."""
    return [",".join(pair) for pair in itertools.combinations(find_factors(videos), 2)]


def measure_interaction(videos: Sequence[Video], grouping: str, declaration: Declaration | None = None) -> Interaction:
    """Return the interaction of two factors, such as "1,2".

    If there are guided and unguided videos, only the guided videos are used.

    Args:
        declaration: the metric that decides alone; by default, the one that the batches declared.

    Raises:
        CannotCompareError: the videos cannot be compared, or not all combinations of the factors exist.
    """
    guided_videos, _ = split_by_guidance(videos, grouping)
    matched_groups, _ = match_comparable_groups(guided_videos, grouping)
    return compute_interaction(matched_groups, grouping, declaration or choose_primary_metric(guided_videos))


def compute_interaction(
    matched_groups: MatchedGroups, grouping: str, declaration: Declaration | None = None
) -> Interaction:
    """Return the interaction of the two factors that form the groups.

    Raises:
        CannotCompareError: the groups are not formed by two factors, or not all combinations exist.
    """
    factors = _split_grouping(grouping)
    levels = [name_groups([group.videos[0] for group in matched_groups.groups], factor) for factor in factors]
    group_indices = {pair: index for index, pair in enumerate(zip(*levels, strict=True))}
    first_levels, second_levels = (list(dict.fromkeys(factor_levels)) for factor_levels in levels)
    if len(first_levels) < 2 or len(second_levels) < 2:
        reason = f"cannot test the interaction by {grouping}: each factor needs two values"
        raise CannotCompareError(AdvisedText(reason, Advice(AdviceKind.CHOOSE_GROUPING)))
    if missing := [pair for pair in itertools.product(first_levels, second_levels) if pair not in group_indices]:
        raise CannotCompareError(
            f"cannot test the interaction by {grouping}: no videos of {' with '.join(missing[0])}. "
            "Generate all combinations"
        )
    contrasts = [
        Contrast(first, second)
        for first in itertools.combinations(first_levels, 2)
        for second in itertools.combinations(second_levels, 2)
    ]
    halves = np.zeros((len(contrasts), 2, len(matched_groups.groups)))
    for rows, contrast in zip(halves, contrasts, strict=True):
        for i, j in itertools.product(range(2), range(2)):
            rows[j, group_indices[contrast.first_levels[i], contrast.second_levels[j]]] = (-1) ** i
    effects, excluded_metrics = _compute_effects(matched_groups, contrasts, halves)
    return Interaction(
        factors,
        (tuple(first_levels), tuple(second_levels)),
        len(matched_groups.seeds),
        matched_groups.phrasing_count,
        tuple(effects),
        compute_min_attainable_p(len(matched_groups.seeds)),
        tuple(excluded_metrics),
        declaration,
    )


def _compute_effects(
    matched_groups: MatchedGroups, contrasts: Sequence[Contrast], halves: FloatArray
) -> tuple[list[InteractionEffect], list[str]]:
    """Return the effects of all contrasts, and the metrics that are excluded.

    Args:
        halves: [contrasts, 2, groups] weights of the groups in the two differences of each contrast: 1, -1 or 0.
    """
    weights = halves[:, 0] - halves[:, 1]
    try:
        final_states = FinalStates.load(matched_groups.groups)
    except NoGeometryError:
        final_states = None
    values, names, excluded_metrics = _collect_seed_values(matched_groups, final_states)
    effects: list[InteractionEffect] = []
    if final_states is not None:
        seed_states = final_states.group_by_seed(len(matched_groups.seeds)).mean(2)
        sizes = np.einsum("gsk,gsk->gs", seed_states, seed_states)
        place_effects = _compare_places(seed_states, weights, contrasts)
        effects += [
            replace(effect, direction=_measure_direction(np.tensordot(half, seed_states, 1), np.abs(half) @ sizes))
            for effect, half in zip(place_effects, halves, strict=True)
        ]
    metrics_by_question = {ROOM: ROOM_METRICS, PATH: tuple(FAMILIES_BY_METRIC)}
    for question, metrics in metrics_by_question.items():
        if columns := [m for m, name in enumerate(names) if name in metrics]:
            differences = np.einsum("cg,sgm->scm", weights, values[..., columns])
            sizes = np.einsum("cg,sgm->scm", np.abs(weights), np.abs(values[..., columns]))
            differences[np.abs(differences) <= ROUNDING_TOLERANCE * sizes] = 0
            effects += _compare_metrics(differences, contrasts, question, [names[m] for m in columns])
    return effects, excluded_metrics


def _split_grouping(grouping: str) -> tuple[str, str]:
    parts = [part.strip() for part in grouping.split(",")]
    if len(parts) != 2:
        reason = f"cannot test the interaction by {grouping!r}: it needs two factors"
        raise CannotCompareError(AdvisedText(reason, Advice(AdviceKind.CHOOSE_FACTOR_PAIR)))
    return parts[0], parts[1]


def _collect_seed_values(
    matched_groups: MatchedGroups, final_states: FinalStates | None
) -> tuple[FloatArray, list[str], list[str]]:
    """Return values [seeds, groups, metrics] averaged over phrasings, their metrics, and the excluded metrics."""
    unsettled = find_unsettled_metrics([video for group in matched_groups.groups for video in group.videos])
    columns, names, excluded = [], [], []
    for name in (*METRICS, SPREAD_METRIC):
        if name == SPREAD_METRIC and (final_states is None or final_states.no_spread_reason):
            excluded.append(name)
            continue
        group_values = [
            final_states.spread_by_group[group.name].tolist()
            if name == SPREAD_METRIC and final_states is not None
            else [video.compute_metric(name) for video in group.videos]
            for group in matched_groups.groups
        ]
        column = np.stack([matched_groups.arrange_values_by_cell(values).mean(1) for values in group_values], axis=1)
        if name in unsettled or not np.isfinite(column).all():
            excluded.append(name)
            continue
        columns.append(column)
        names.append(name)
    return remove_rounding_differences(np.stack(columns, axis=2)), names, excluded


def _compare_places(states: FloatArray, weights: FloatArray, contrasts: Sequence[Contrast]) -> list[InteractionEffect]:
    """Return the effects on the final states, with p over all contrasts.

    Args:
        states: [groups, seeds, k] final states / sqrt(D).
        weights: [contrasts, groups] weights of the groups.
    """
    grams = [compute_contrast_gram(states, contrast_weights) for contrast_weights in weights]
    flips, _ = draw_sign_flips(states.shape[1])
    shares = np.stack([((flips @ gram) * flips).sum(1) / (np.trace(gram) or 1.0) for gram in grams], axis=1)
    largest = shares.max(1)
    effects = []
    for k, (contrast, gram) in enumerate(zip(contrasts, grams, strict=True)):
        measured = measure_contrast(gram)
        # Flips of differences that cancel sum to rounding of their terms, not of their own size.
        tolerance = MEAN_ROUNDING_TOLERANCE * float(np.abs(gram).sum()) / (np.trace(gram) or 1.0)
        family_p = float(np.mean(largest >= shares[0, k] * TIE_FACTOR - tolerance))
        effects.append(
            InteractionEffect(
                contrast=contrast,
                question=PLACE,
                metric=DISTANCE,
                effect=measured.distance,
                low=measured.low,
                high=measured.high,
                unit="",
                uncorrected_p=measured.p,
                p=max(family_p, measured.p),
                contrast_p=max(family_p, measured.p),
                chance=measured.chance_distance,
            )
        )
    return effects


def _measure_direction(differences: FloatArray, squares: FloatArray) -> PlaceDirection:
    """Return the lengths of two mean differences and the cosine between them, without the bias of seeds.

    All products are means over pairs of different seeds, as in `estimate_squared_distance`.

    Args:
        differences: [2, seeds, k] differences of final states / sqrt(D).
        squares: [2, seeds] sums of squares of each difference's states, a share of which is rounding.
    """
    seed_count = differences.shape[1]
    grams = np.einsum("isk,jtk->ijst", differences, differences, optimize=True)
    is_rounding = np.einsum("iiss->is", grams) <= STATE_ROUNDING_TOLERANCE * squares
    grams = np.where(is_rounding[:, None, :, None] | is_rounding[None, :, None, :], 0.0, grams)
    products = (grams.sum((2, 3)) - np.trace(grams, axis1=2, axis2=3)) / (seed_count * (seed_count - 1))
    squared_distances = np.diagonal(products)
    first_p, second_p = (run_place_test(grams[i, i]) for i in range(2))
    cosine = math.nan
    if (squared_distances > 0).all() and max(first_p, second_p) <= SIGNIFICANCE_LEVEL:
        ratio = float(products[0, 1] / math.sqrt(squared_distances[0] * squared_distances[1]))
        cosine = min(1.0, max(-1.0, ratio)) if abs(ratio) <= MAX_COSINE_ESTIMATE else math.nan
    first, second = np.sqrt(np.maximum(squared_distances, 0)).tolist()
    return PlaceDirection(first, second, first_p, second_p, cosine)


def _compare_metrics(
    differences: FloatArray, contrasts: Sequence[Contrast], question: str, names: Sequence[str]
) -> list[InteractionEffect]:
    """Return the effects on metrics, with max-T p over the metrics and contrasts.

    Args:
        differences: [seeds, contrasts, metrics] differences of differences.
    """
    family_p = run_max_t_test(differences.reshape(len(differences), -1)).reshape(len(contrasts), len(names))
    contrast_p = [run_max_t_test(differences[:, :, m]) for m in range(len(names))]
    flips, _ = draw_sign_flips(len(differences))
    chances = np.stack(  # one metric at a time, to save memory
        [np.quantile(np.abs(flips @ differences[:, :, m]), 0.95, axis=0) for m in range(len(names))], axis=1
    ) / len(differences)
    effects = []
    for k, m in itertools.product(range(len(contrasts)), range(len(names))):
        effect = compute_paired_effect(differences[:, k, m])
        effects.append(
            InteractionEffect(
                contrast=contrasts[k],
                question=question,
                metric=names[m],
                effect=effect.mean,
                low=effect.interval_low,
                high=effect.interval_high,
                unit=get_metric_unit(names[m]),
                uncorrected_p=effect.p,
                p=float(family_p[k, m]),
                contrast_p=float(contrast_p[m][k]),
                chance=float(chances[k, m]),
            )
        )
    return effects
