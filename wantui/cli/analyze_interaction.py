"""Interaction of two factors, for `wantui analyze --compare --interaction`."""

import math
from typing import TYPE_CHECKING, Any

from wantui.cli.output import print_columns, print_wrapped_line
from wantui.formatting import format_count

if TYPE_CHECKING:
    from wantui.analysis.interaction import Interaction


def print_interaction(interaction: "Interaction") -> None:
    """Print place, room and path of an interaction, and a table of all effects."""
    from wantui.analysis.interaction import describe_interaction

    first, second = (", ".join(levels) for levels in interaction.levels)
    print_wrapped_line(
        f"interaction: does the difference between {first} depend on {second}? Differences of differences, "
        f"{format_count(interaction.seed_count, 'seed')}"
    )
    for line in describe_interaction(interaction):
        print_wrapped_line(f"  {line}", indent=4)
    rows = [
        (
            effect.contrast.name,
            effect.question,
            effect.metric,
            f"{effect.effect:.3g} {effect.unit}".rstrip(),
            f"{effect.low:.3g} to {effect.high:.3g}" if math.isfinite(effect.low) else "-",
            f"{effect.p:.3g}",
        )
        for effect in interaction.effects
    ]
    print_columns(("difference of differences", "answer", "metric", "effect", "95 %", "p"), *rows)
    print_wrapped_line("note: p is corrected over the metrics of its answer and over all differences of differences")
    if interaction.phrasing_count > 1:
        count_text = format_count(interaction.phrasing_count, "other phrasing")
        print_wrapped_line(f"note: averaged over {count_text}: the result applies to these sentences")
    if interaction.excluded_metrics:
        names = ", ".join(interaction.excluded_metrics)
        print_wrapped_line(f"note: not tested, because they depend on the steps or have no value: {names}")


def build_interaction_record(interaction: "Interaction | None") -> dict[str, Any] | None:
    """Return the JSON record of an interaction; None without one."""
    if interaction is None:
        return None
    from wantui.analysis.interaction import describe_interaction

    return {
        "factors": [
            {"name": name, "values": list(values)}
            for name, values in zip(interaction.factors, interaction.levels, strict=True)
        ],
        "least_p": interaction.min_attainable_p,
        "answers": describe_interaction(interaction),
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
                "p": effect.p,
                "uncorrected_p": effect.uncorrected_p,
            }
            for effect in interaction.effects
        ],
        "excluded_metrics": list(interaction.excluded_metrics),
    }
