"""Rows of the effect table, for the command line and the report."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from wantui.analysis.calibrated import find_response
from wantui.analysis.comparison import Comparison
from wantui.analysis.differences import Difference, format_difference_parts
from wantui.analysis.p_values import find_decisive_p, find_question
from wantui.analysis.training_frequency import describe_uniform_words
from wantui.analysis.unguided import find_unguided_difference
from wantui.formatting import format_percent

UNGUIDED_HEADER = "at cfg_scale 1"
RESPONSE_HEADER = "responds to"
NO_VALUE = "-"


@dataclass(frozen=True)
class EffectRow:
    """Cells of one difference."""

    difference: Difference
    groups: str
    metric: str
    """Name of the metric with the mark of its stride."""
    question: str
    """Answer that counts the metric: place, room or path."""
    change: str
    interval: str
    unguided_change: str
    """Difference of the same prompts and seeds at cfg_scale 1."""
    d_z: str
    p: float
    """p that decides, as `find_decisive_p`."""
    response: str
    """What the metric responded to in calibration."""


def build_effect_rows(comparison: Comparison, differences: Sequence[Difference]) -> list[EffectRow]:
    """Return the rows of some of a comparison's differences, in their order."""
    return [_build_row(comparison, difference) for difference in differences]


def _build_row(comparison: Comparison, difference: Difference) -> EffectRow:
    effect = difference.paired_effect
    unguided_difference = find_unguided_difference(comparison, difference)
    change, low, high = format_difference_parts(difference)
    return EffectRow(
        difference=difference,
        groups=f"{difference.first_group} - {difference.second_group}",
        metric=comparison.groups[0].label_metric(difference.metric),
        question=find_question(comparison, difference.metric) or NO_VALUE,
        change=change,
        interval=f"{low} to {high}" if low else NO_VALUE,
        unguided_change=format_difference_parts(unguided_difference)[0] if unguided_difference else NO_VALUE,
        d_z=f"{effect.d_z:.2f}" if math.isfinite(effect.d_z) else NO_VALUE,
        p=find_decisive_p(comparison, difference),
        response=find_response(difference.metric, is_guided=comparison.is_guided) or NO_VALUE,
    )


def describe_response_column(comparison: Comparison) -> str:
    """Return the meaning of the column RESPONSE_HEADER."""
    guidance = "with" if comparison.is_guided else "without"
    texts = [
        f"{RESPONSE_HEADER}: frequency in training, appearance, or both, by the calibration on nano {guidance} "
        "guidance",
        describe_uniform_words(comparison),
    ]
    return ". ".join(filter(None, texts))


def describe_needed_seeds(equivalence_margin: float) -> str:
    """Return the meaning of the column with the number of seeds."""
    return (
        f"seeds to detect {format_percent(equivalence_margin)}: seeds needed to detect a true difference of "
        f"{format_percent(equivalence_margin)} with 80 % power (for metrics without percentages, a difference of "
        f"{equivalence_margin:g} in their unit, such as nats); the number does not depend on the observed difference"
    )
