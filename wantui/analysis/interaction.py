"""Interaction of two factors: whether the effect of one word or setting depends on another, paired by seed.

For each seed, the contrast of two levels a1, a2 of the first factor and b1, b2 of the second one is the difference of
differences (a1 b1 - a2 b1) - (a1 b2 - a2 b2). Tests flip the signs of whole seeds.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from wantui.analysis.answer_evidence import DISTANCE, FAMILIES_BY_METRIC, PATH, PLACE, QUESTIONS, ROOM, ROOM_METRICS
from wantui.analysis.arrays import FloatArray
from wantui.analysis.declaration import Declaration, choose_primary_metric
from wantui.analysis.differences import ROUNDING_TOLERANCE, SIGNIFICANCE_LEVEL, remove_rounding_differences
from wantui.analysis.final_states import SPREAD_METRIC, FinalStates
from wantui.analysis.group_names import CannotCompareError, name_groups
from wantui.analysis.groups import MatchedGroups, find_factors
from wantui.analysis.matching import match_comparable_groups
from wantui.analysis.metrics import METRICS, get_metric_unit
from wantui.analysis.places import STATE_ROUNDING_TOLERANCE, estimate_distance_interval, run_place_test
from wantui.analysis.statistics import (
    ROUNDED_MEAN,
    compute_min_attainable_p,
    compute_paired_effect,
    count_min_pairs,
    draw_sign_flips,
    run_max_t_test,
)
from wantui.analysis.trajectory import NoGeometryError
from wantui.analysis.unguided import split_by_guidance
from wantui.analysis.video import Video
from wantui.formatting import format_count

EFFECT_HEADERS = ("difference of differences", "answer", "metric", "effect", "95 %", "p")
"""Columns of a table of effects."""
FOUND_VERDICT, UNKNOWN_VERDICT = "the effect depends on the other factor", "cannot tell whether the effect depends"


@dataclass(frozen=True)
class Contrast:
    """Levels of a difference of differences."""

    first_levels: tuple[str, str]
    second_levels: tuple[str, str]

    @property
    def name(self) -> str:
        """Return the contrast in words, such as "red - blue, circle against ring"."""
        return f"{' - '.join(self.first_levels)}, {' against '.join(self.second_levels)}"


@dataclass(frozen=True)
class InteractionEffect:
    """Difference of differences of one metric, or of the final states."""

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

    @property
    def is_found(self) -> bool:
        """Return whether p is small and the interval excludes 0."""
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
    """Metrics without a value in some videos, or that depend on the steps."""
    declaration: Declaration | None = None
    """The metric that decides alone, without correction over other metrics."""

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
    """Return the interaction of two factors, such as "1,2"; guided videos only, if there are both.

    Args:
        declaration: the metric that decides alone; by default, that of the batches.

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
        raise CannotCompareError(
            f"cannot test the interaction by {grouping}: each factor needs two values. Choose another --by"
        )
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
    weights = np.zeros((len(contrasts), len(matched_groups.groups)))
    for row, contrast in zip(weights, contrasts, strict=True):
        for i, j in itertools.product(range(2), range(2)):
            row[group_indices[contrast.first_levels[i], contrast.second_levels[j]]] = (-1) ** (i + j)
    effects, excluded_metrics = _compute_effects(matched_groups, contrasts, weights)
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
    matched_groups: MatchedGroups, contrasts: Sequence[Contrast], weights: FloatArray
) -> tuple[list[InteractionEffect], list[str]]:
    """Return the effects of all contrasts, and the metrics that are excluded.

    Args:
        weights: [contrasts, groups] weights of the groups, 1, -1 or 0.
    """
    try:
        final_states = FinalStates.load(matched_groups.groups)
    except NoGeometryError:
        final_states = None
    values, names, excluded_metrics = _collect_seed_values(matched_groups, final_states)
    effects: list[InteractionEffect] = []
    if final_states is not None:
        state_size = final_states.scaled_states.shape[2]
        states = final_states.scaled_states.reshape(
            len(matched_groups.groups), len(matched_groups.seeds), -1, state_size
        )
        effects += _compare_places(states.mean(2), weights, contrasts)
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
        raise CannotCompareError(
            f"cannot test the interaction by {grouping!r}: it needs two factors. Name two brackets or settings, "
            "such as --by 1,2"
        )
    return parts[0], parts[1]


def _collect_seed_values(
    matched_groups: MatchedGroups, final_states: FinalStates | None
) -> tuple[FloatArray, list[str], list[str]]:
    """Return values [seeds, groups, metrics] averaged over phrasings, their metrics, and the excluded metrics."""
    unsettled = set(matched_groups.groups[0].videos[0].unsettled_metrics)
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
    norms = np.abs(weights) @ np.einsum("gsk,gsk->gs", states, states)
    grams = []
    for difference, squares in zip(np.einsum("cg,gsk->csk", weights, states, optimize=True), norms, strict=True):
        gram = difference @ difference.T
        is_rounding = np.diagonal(gram) <= STATE_ROUNDING_TOLERANCE * squares  # states are float32
        grams.append(np.where(is_rounding[:, None] | is_rounding[None, :], 0.0, gram))
    flips, _ = draw_sign_flips(states.shape[1])
    shares = np.stack([((flips @ gram) * flips).sum(1) / (np.trace(gram) or 1.0) for gram in grams], axis=1)
    largest = shares.max(1)
    effects = []
    for k, (contrast, gram) in enumerate(zip(contrasts, grams, strict=True)):
        uncorrected_p = run_place_test(gram)
        squared_distance, low, high = estimate_distance_interval(gram, uncorrected_p)
        # Flips of differences that cancel sum to rounding of their terms, not of their own size.
        tolerance = ROUNDED_MEAN * float(np.abs(gram).sum()) / (np.trace(gram) or 1.0)
        family_p = float(np.mean(largest >= shares[0, k] * (1 - 1e-9) - tolerance))
        effects.append(
            InteractionEffect(
                contrast,
                PLACE,
                DISTANCE,
                float(np.sqrt(max(squared_distance, 0.0))),
                low,
                high,
                "",
                uncorrected_p,
                max(family_p, uncorrected_p),
                max(family_p, uncorrected_p),
            )
        )
    return effects


def _compare_metrics(
    differences: FloatArray, contrasts: Sequence[Contrast], question: str, names: Sequence[str]
) -> list[InteractionEffect]:
    """Return the effects on metrics, with max-T p over the metrics and contrasts.

    Args:
        differences: [seeds, contrasts, metrics] differences of differences.
    """
    family_p = run_max_t_test(differences.reshape(len(differences), -1)).reshape(len(contrasts), len(names))
    contrast_p = [run_max_t_test(differences[:, :, m]) for m in range(len(names))]
    effects = []
    for k, m in itertools.product(range(len(contrasts)), range(len(names))):
        effect = compute_paired_effect(differences[:, k, m])
        effects.append(
            InteractionEffect(
                contrasts[k],
                question,
                names[m],
                effect.mean,
                effect.interval_low,
                effect.interval_high,
                get_metric_unit(names[m]),
                effect.p,
                float(family_p[k, m]),
                float(contrast_p[m][k]),
            )
        )
    return effects


def describe_interaction(interaction: Interaction) -> list[str]:
    """Return a line each for place, room and path: the metrics whose effect depends on the other factor, or none."""
    lines = []
    for question in QUESTIONS:
        effects = [effect for effect in interaction.effects if effect.question == question]
        if not effects:
            lines.append(f"{question}: not measured")
            continue
        found = [effect for effect in effects if effect.is_found]
        shown = sorted(found or effects, key=lambda effect: effect.p)[:3]
        verdict = FOUND_VERDICT if found else UNKNOWN_VERDICT
        more_text = f" and {len(found) - len(shown)} more" if len(found) > len(shown) else ""
        details = "; ".join(_describe_effect(effect) for effect in (shown if found else shown[:1]))
        lines.append(
            f"{question}: {verdict}. {details}{more_text}; p over {format_count(len(effects), 'test')}, "
            f"least {interaction.min_attainable_p:.3g}"
        )
    return lines


def judge_declared_metric(interaction: Interaction) -> str:
    """Return the verdict on the declared metric alone, with p over the pairs of levels; empty if none is known."""
    if interaction.declaration is None:
        return ""
    metric = interaction.declaration.metric
    heading = f"verdict on one metric alone: {interaction.declaration.text}:"
    effects = [effect for effect in interaction.effects if effect.metric == metric]
    if not effects:
        return f"{heading} it is not tested for interactions"
    judged = [replace(effect, p=effect.contrast_p) for effect in effects]
    clearest = min(judged, key=lambda effect: (not effect.is_found, effect.p))
    verdict = FOUND_VERDICT if clearest.is_found else UNKNOWN_VERDICT
    scope = f" over {len(effects)} pairs of levels" if len(effects) > 1 else ""
    return f"{heading} {verdict}. {_describe_effect(clearest)}{scope}"


def list_interaction_notes(interaction: Interaction) -> list[str]:
    """Return sentences on the number of seeds, p, units, averaged phrasings and the metrics that are not tested."""
    notes = []
    if interaction.min_attainable_p > SIGNIFICANCE_LEVEL:
        seeds_text = format_count(interaction.seed_count, "seed")
        notes.append(f"{seeds_text} cannot give p of {SIGNIFICANCE_LEVEL:g}: generate at least {count_min_pairs()}")
    notes.append("p is corrected over the metrics of its answer and over all differences of differences")
    notes.append(
        "effects have the unit of the metric: distances and lengths are root mean squares over latent values, "
        "velocities are per unit of noise level, and ratios have no unit"
    )
    if interaction.phrasing_count > 1:
        count_text = format_count(interaction.phrasing_count, "phrasing")
        notes.append(f"averaged over {count_text}: the result applies to these sentences only")
    if interaction.excluded_metrics:
        names = ", ".join(interaction.excluded_metrics)
        notes.append(f"not tested, because they depend on the steps or have no value: {names}")
    return notes


def _describe_effect(effect: InteractionEffect) -> str:
    sign = "" if effect.question == PLACE else "+"
    unit = f" {effect.unit}" if effect.unit else ""
    interval = f" (95 %: {effect.low:{sign}.3g} to {effect.high:{sign}.3g})" if math.isfinite(effect.low) else ""
    return f"{effect.metric} of {effect.contrast.name}: {effect.effect:{sign}.3g}{unit}{interval}, p {effect.p:.3g}"
