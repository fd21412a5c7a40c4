"""Texts about metrics: what they respond to, and the sign of metrics whose percentages are not measured from 0."""

from wantui.analysis.calibrated import find_response
from wantui.analysis.metrics import get_ratio_origin
from wantui.formatting import format_count
from wantui.tui.number_formats import format_p
from wantui.tui.plain_names import replace_names

RESPONSES = {
    "both": "appearance more than frequency",
    "frequency": "frequency more than appearance",
    "appearance": "appearance, not frequency",
}
"""What a metric follows, by the response of the calibration."""
UNSETTLED_SIGN = "*"
"""Sign of a metric that has not settled, behind its name."""
UNSETTLED_NOTE = f"{UNSETTLED_SIGN} mostly the sampler's steps"
"""Note on the metrics with this sign; a low screen has it in the title."""
SHORT_UNSETTLED_NOTE = f"{UNSETTLED_SIGN} unsettled"
RATIO_SIGN = "¹"
"""Sign of metrics whose percentages are of their distance from 1, behind their names."""
RATIO_NOTE = f"{RATIO_SIGN} % of distance to 1"


def describe_least_p(least_p: float, seed_count: int) -> tuple[str, ...]:
    """Describe the smallest p that the seeds of paired groups can give, in a long and a short text."""
    p_text = format_p(least_p)
    return f"{p_text}: smallest p with {format_count(seed_count, 'seed')}", f"smallest p: {p_text}"


def label_effect(metric: str, *notes: str, is_unsettled: bool) -> str:
    """Return the label of a metric beside its effect in percent: its name and notes, with the signs that apply to it.

    Args:
        notes: texts behind the name, of which empty ones are skipped.
    """
    name = replace_names(metric) + (UNSETTLED_SIGN if is_unsettled else "")
    return " ".join(filter(None, (name, *notes, RATIO_SIGN if get_ratio_origin(metric) else "")))


def describe_metric_response(metric: str, *, is_guided: bool = True) -> str:
    """Return whether a metric follows the appearance of shapes or their frequency; empty without calibration.

    Args:
        is_guided: whether the videos have guidance; if the calibration has only one of the two responses, that response
        is used.
    """
    for condition in (is_guided, not is_guided):
        if response := RESPONSES.get(find_response(metric, is_guided=condition)):
            return f"On nano, it follows {response}."
    return ""
