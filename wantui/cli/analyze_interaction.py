"""Interaction of two factors, for `wantui analyze --compare --interaction`."""

from collections.abc import Collection
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from wantui.cli.output import echo, print_columns, print_wrapped_line

if TYPE_CHECKING:
    from wantui.analysis.interaction import Interaction, InteractionEffect


def print_interaction(
    interaction: "Interaction", has_details: bool, chosen_metrics: Collection[str] | None = None
) -> None:
    """Print a table of all or chosen effects if it is requested, then the notes, and place, room and path last."""
    from wantui.analysis.interaction import EFFECT_HEADERS
    from wantui.analysis.interaction_text import (
        UNIT_NOTES,
        describe_interaction,
        judge_declared_metric,
        list_interaction_notes,
    )

    hint = "" if has_details else " (all effects: --details)"
    print_wrapped_line(f"interaction: {interaction.question_text}{hint}")
    if has_details:
        if effects := _select_effects(interaction, chosen_metrics):
            print_columns(EFFECT_HEADERS, *(effect.format_cells() for effect in effects))
        tested_metrics = {effect.metric for effect in effects}
        if untested := [name for name in chosen_metrics or () if name not in tested_metrics]:
            print_wrapped_line(f"note: no test for an interaction in {', '.join(untested)}", indent=2)
    for note in [*(UNIT_NOTES if has_details else ()), *list_interaction_notes(interaction)]:
        print_wrapped_line(f"note: {note}", indent=2)
    if verdict := judge_declared_metric(interaction):
        print_wrapped_line(verdict, indent=2)
    echo()
    for question, text in describe_interaction(interaction).items():
        print_wrapped_line(f"{question}: {text}", indent=7)


def _select_effects(interaction: "Interaction", chosen_metrics: Collection[str] | None) -> "list[InteractionEffect]":
    """Return the effects in the chosen metrics; None chooses all."""
    return [effect for effect in interaction.effects if chosen_metrics is None or effect.metric in chosen_metrics]


def build_interaction_record(
    interaction: "Interaction | None", chosen_metrics: Collection[str] | None = None
) -> dict[str, Any] | None:
    """Return the JSON record of an interaction, with the effects in all or chosen metrics; None without one."""
    if interaction is None:
        return None
    from wantui.analysis.interaction_text import describe_interaction, judge_declared_metric

    return {
        "factors": [
            {"name": name, "values": list(values)}
            for name, values in zip(interaction.factors, interaction.levels, strict=True)
        ],
        "least_p": interaction.min_attainable_p,
        "answers": [f"{question}: {text}" for question, text in describe_interaction(interaction).items()],
        "verdict": judge_declared_metric(interaction) or None,
        "effects": [
            {
                "first": list(effect.contrast.first_levels),
                "second": list(effect.contrast.second_levels),
                "question": effect.question,
                "metric": effect.metric,
                "effect": effect.effect,
                "low": effect.low,
                "high": effect.high,
                "unit": effect.unit or None,
                "chance": effect.chance,
                "direction": None if effect.direction is None else asdict(effect.direction),
                "p": effect.p,
                "uncorrected_p": effect.uncorrected_p,
            }
            for effect in _select_effects(interaction, chosen_metrics)
        ],
        "excluded_metrics": list(interaction.excluded_metrics),
    }
