"""Interaction of two factors: whether the effect of one word or setting depends on another, paired by seed.

For each seed, the contrast of two levels a1, a2 of the first factor and b1, b2 of the second one is the difference of
differences (a1 b1 - a2 b1) - (a1 b2 - a2 b2). Tests flip the signs of whole seeds.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wantui.analysis.answer_evidence import DISTANCE, FAMILIES_BY_METRIC, PATH, PLACE, QUESTIONS, ROOM, ROOM_METRICS
from wantui.analysis.arrays import FloatArray
from wantui.analysis.comparison import Comparison
from wantui.analysis.differences import SIGNIFICANCE_LEVEL, remove_rounding_differences
from wantui.analysis.final_states import SPREAD_METRIC, FinalStates
from wantui.analysis.group_names import CannotCompareError, name_groups
from wantui.analysis.metrics import METRICS, get_metric_unit
from wantui.analysis.places import estimate_squared_distance, run_place_test
from wantui.analysis.statistics import compute_min_attainable_p, compute_paired_effect, draw_sign_flips, run_max_t_test
from wantui.analysis.trajectory import NoGeometryError
from wantui.formatting import format_count


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

    @property
    def is_found(self) -> bool:
        """Return whether p is small and the interval excludes 0."""
        return self.p <= SIGNIFICANCE_LEVEL and not self.low <= 0 <= self.high


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


def compute_interaction(comparison: Comparison) -> Interaction:
    """Return the interaction of the two factors that form the groups of a comparison.

    Raises:
        CannotCompareError: the groups are not formed by two factors, or not all combinations exist.
    """
    factors = _split_grouping(comparison.grouping)
    levels = [name_groups([group.videos[0] for group in comparison.groups], factor) for factor in factors]
    group_indices = {pair: index for index, pair in enumerate(zip(*levels, strict=True))}
    first_levels, second_levels = (list(dict.fromkeys(factor_levels)) for factor_levels in levels)
    if len(first_levels) < 2 or len(second_levels) < 2:
        raise CannotCompareError(
            f"cannot test the interaction by {comparison.grouping}: each factor needs two values. Choose another --by"
        )
    if missing := [pair for pair in itertools.product(first_levels, second_levels) if pair not in group_indices]:
        raise CannotCompareError(
            f"cannot test the interaction by {comparison.grouping}: no videos of {' with '.join(missing[0])}. "
            "Generate all combinations"
        )
    contrasts = [
        Contrast(first, second)
        for first in itertools.combinations(first_levels, 2)
        for second in itertools.combinations(second_levels, 2)
    ]
    weights = np.zeros((len(contrasts), len(comparison.groups)))
    for row, contrast in zip(weights, contrasts, strict=True):
        for i, j in itertools.product(range(2), range(2)):
            row[group_indices[contrast.first_levels[i], contrast.second_levels[j]]] = (-1) ** (i + j)
    effects, excluded_metrics = _compute_effects(comparison, contrasts, weights)
    return Interaction(
        factors,
        (tuple(first_levels), tuple(second_levels)),
        len(comparison.seeds),
        comparison.matched_groups.phrasing_count,
        tuple(effects),
        compute_min_attainable_p(len(comparison.seeds)),
        tuple(excluded_metrics),
    )


def _compute_effects(
    comparison: Comparison, contrasts: Sequence[Contrast], weights: FloatArray
) -> tuple[list[InteractionEffect], list[str]]:
    """Return the effects of all contrasts, and the metrics that are excluded.

    Args:
        weights: [contrasts, groups] weights of the groups, 1, -1 or 0.
    """
    try:
        final_states = FinalStates.load(comparison.groups)
    except NoGeometryError:
        final_states = None
    values, names, excluded_metrics = _collect_seed_values(comparison, final_states)
    effects: list[InteractionEffect] = []
    if final_states is not None:
        state_size = final_states.scaled_states.shape[2]
        states = final_states.scaled_states.reshape(len(comparison.groups), len(comparison.seeds), -1, state_size)
        effects += _compare_places(np.einsum("cg,gsk->csk", weights, states.mean(2), optimize=True), contrasts)
    metrics_by_question = {ROOM: ROOM_METRICS, PATH: tuple(FAMILIES_BY_METRIC)}
    for question, metrics in metrics_by_question.items():
        if columns := [m for m, name in enumerate(names) if name in metrics]:
            differences = np.einsum("cg,sgm->scm", weights, values[..., columns])
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
    comparison: Comparison, final_states: FinalStates | None
) -> tuple[FloatArray, list[str], list[str]]:
    """Return values [seeds, groups, metrics] averaged over phrasings, their metrics, and the excluded metrics."""
    matched_groups = comparison.matched_groups
    unsettled = set(comparison.groups[0].videos[0].unsettled_metrics)
    columns, names, excluded = [], [], []
    for name in (*METRICS, SPREAD_METRIC):
        if name == SPREAD_METRIC and final_states is None:
            continue
        group_values = [
            final_states.spread_by_group[group.name].tolist()
            if name == SPREAD_METRIC and final_states is not None
            else [video.compute_metric(name) for video in group.videos]
            for group in comparison.groups
        ]
        column = np.stack([matched_groups.arrange_values_by_cell(values).mean(1) for values in group_values], axis=1)
        if name in unsettled or not np.isfinite(column).all():
            excluded.append(name)
            continue
        columns.append(column)
        names.append(name)
    return remove_rounding_differences(np.stack(columns, axis=2)), names, excluded


def _compare_places(states: FloatArray, contrasts: Sequence[Contrast]) -> list[InteractionEffect]:
    """Return the effects on the final states, with p over all contrasts.

    Args:
        states: [contrasts, seeds, k] differences of differences / sqrt(D).
    """
    grams = [difference @ difference.T for difference in states]
    flips, _ = draw_sign_flips(states.shape[1])
    shares = np.stack([((flips @ gram) * flips).sum(1) / (np.trace(gram) or 1.0) for gram in grams], axis=1)
    largest = shares.max(1)
    effects = []
    for k, (contrast, gram) in enumerate(zip(contrasts, grams, strict=True)):
        squared_distance, low, high = estimate_squared_distance(gram)
        effects.append(
            InteractionEffect(
                contrast,
                PLACE,
                DISTANCE,
                float(np.sqrt(max(squared_distance, 0.0))),
                low,
                high,
                "",
                run_place_test(gram),
                float(np.mean(largest >= shares[0, k] * (1 - 1e-9))),
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
        verdict = "the effect depends on the other factor" if found else "cannot tell whether the effect depends"
        more_text = f" and {len(found) - len(shown)} more" if len(found) > len(shown) else ""
        details = "; ".join(_describe_effect(effect) for effect in (shown if found else shown[:1]))
        lines.append(
            f"{question}: {verdict}. {details}{more_text}; p over {format_count(len(effects), 'test')}, "
            f"least {interaction.min_attainable_p:.3g}"
        )
    return lines


def _describe_effect(effect: InteractionEffect) -> str:
    sign = "" if effect.question == PLACE else "+"
    unit = f" {effect.unit}" if effect.unit else ""
    interval = f" (95 %: {effect.low:{sign}.3g} to {effect.high:{sign}.3g})" if math.isfinite(effect.low) else ""
    return f"{effect.metric} of {effect.contrast.name}: {effect.effect:{sign}.3g}{unit}{interval}, p {effect.p:.3g}"
