"""Texts about metrics: what they respond to, and the sign of those whose percentages do not count from 0."""

from wantui.analysis.calibrated import find_response
from wantui.analysis.metrics import get_ratio_origin

RESPONSES = {"both": "appearance and frequency", "frequency": "frequency", "appearance": "appearance"}
"""What a metric responds to, by the response of the calibration."""
RATIO_SIGN = "¹"
"""Sign of metrics whose percentages are of their distance from 1, behind their names."""
RATIO_NOTE, SHORT_RATIO_NOTE = f"{RATIO_SIGN} percent of the distance from 1", f"{RATIO_SIGN} % of distance to 1"


def mark_ratio(metric: str, label: str) -> str:
    """Return the label of a metric beside percentages, with a sign if these do not count from 0."""
    return f"{label} {RATIO_SIGN}" if get_ratio_origin(metric) else label


def describe_metric_response(metric: str) -> str:
    """Return whether a metric responds to the appearance of shapes or to their frequency; empty without calibration."""
    guided, unguided = (RESPONSES.get(find_response(metric, is_guided=is_guided), "") for is_guided in (True, False))
    if guided in ("", unguided):
        return f"on nano, responds to {unguided}" if unguided else ""
    return f"on nano, responds to {guided}; at cfg scale 1, {unguided or 'nothing'}"
