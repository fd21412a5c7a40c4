"""Text of the interaction of two factors, for the command line, the screen and the report."""

import math
from dataclasses import replace

from wantui.analysis.answer_evidence import PLACE, QUESTIONS
from wantui.analysis.differences import SIGNIFICANCE_LEVEL
from wantui.analysis.interaction import Contrast, Interaction, InteractionEffect, PlaceDirection
from wantui.analysis.statistics import count_min_pairs
from wantui.formatting import format_count, format_interval, join_and_shorten

UNIT_NOTES = (
    "p is corrected for the metrics of its answer and for all differences of differences; the size by chance is the "
    "95 % quantile of one test under sign flips, without correction, so a larger effect can still have a large p",
    "effects have the unit of the metric: distances and lengths are root mean squares over latent values, velocities "
    "are per unit of noise level, and ratios have no unit",
)
"""Sentences on the figures of an interaction."""


def describe_interaction(interaction: Interaction) -> dict[str, str]:
    """Return the answers on place, room and path by question.

    Each answer names the metrics whose effect depends on the other factor, or says that there are none.
    """
    answers = {}
    for question in QUESTIONS:
        effects = [effect for effect in interaction.effects if effect.question == question]
        if not effects:
            answers[question] = "not measured"
            continue
        found = [effect for effect in effects if effect.is_found]
        shown = sorted(found or effects, key=lambda effect: effect.p)[:3]
        verdict = _describe_dependence(interaction, bool(found))
        more_text = f" and {len(found) - len(shown)} more" if len(found) > len(shown) else ""
        details = "; ".join(_describe_effect(effect) for effect in (shown if found else shown[:1]))
        correction = f"p corrected for {len(effects)} tests, " if len(effects) > 1 else ""
        limit_text = f"smallest possible p {interaction.min_attainable_p:.3g}"
        answers[question] = f"{verdict}. {details}{more_text}; {correction}{limit_text}"
    return answers


def _describe_dependence(interaction: Interaction, is_found: bool) -> str:
    first, second = map(join_and_shorten, interaction.levels)
    subject = f"the difference between {first}"
    return f"{subject} depends on {second}" if is_found else f"cannot tell whether {subject} depends on {second}"


def judge_declared_metric(interaction: Interaction) -> str:
    """Return the verdict on the declared metric alone, with p over the pairs of levels; empty if none is known."""
    if interaction.declaration is None:
        return ""
    metric = interaction.declaration.metric
    heading = f"verdict on a single metric: {interaction.declaration.text}:"
    effects = [effect for effect in interaction.effects if effect.metric == metric]
    if not effects:
        return f"{heading} it is not tested for interactions"
    judged = [replace(effect, p=effect.contrast_p) for effect in effects]
    clearest = min(judged, key=lambda effect: (not effect.is_found, effect.p))
    verdict = _describe_dependence(interaction, clearest.is_found)
    scope = " of this metric alone"
    scope += f", corrected for {len(effects)} pairs of levels" if len(effects) > 1 else ""
    return f"{heading} {verdict}. {_describe_effect(clearest)}{scope}"


def list_interaction_notes(interaction: Interaction) -> list[str]:
    """Return sentences on the number of seeds, averaged phrasings and the metrics that are not tested."""
    notes = []
    if interaction.min_attainable_p > SIGNIFICANCE_LEVEL:
        seeds_text = format_count(interaction.seed_count, "seed")
        notes.append(f"{seeds_text} cannot give a p of {SIGNIFICANCE_LEVEL:g}: generate at least {count_min_pairs()}")
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
    ranges = [f"95 %: {format_interval(effect.low, effect.high, f'{sign}.3g')}"] if math.isfinite(effect.low) else []
    ranges += [f"by chance up to {effect.chance:.3g} in this test alone"] if math.isfinite(effect.chance) else []
    range_text = f" ({'; '.join(ranges)})" if ranges else ""
    text = f"{effect.metric} of {effect.contrast.name}: {effect.effect:{sign}.3g}{unit}{range_text}, p {effect.p:.3g}"
    return text if effect.direction is None else f"{text}; {describe_direction(effect.direction, effect.contrast)}"


def describe_direction(direction: PlaceDirection, contrast: Contrast) -> str:
    """Return distances in words, such as "red and blue: 0.98 apart with cross, not measurably apart with square"."""
    distances, ps = (direction.first_distance, direction.second_distance), (direction.first_p, direction.second_p)
    texts = [
        f"{f'{distance:.3g}' if p <= SIGNIFICANCE_LEVEL and distance > 0 else 'not measurably'} apart with {level}"
        for distance, p, level in zip(distances, ps, contrast.second_levels, strict=True)
    ]
    turn_text = f" (cosine of the two differences {direction.cosine:.2f})" if math.isfinite(direction.cosine) else ""
    return f"{' and '.join(contrast.first_levels)}: {', '.join(texts)}{turn_text}"
