"""Names of metrics and curves for people: "log volume" instead of `log_volume`, which files and commands use."""

import re

from wantui.analysis.calibrated import find_response
from wantui.analysis.metrics import CURVES, METRICS, get_ratio_origin

RESPONSES = {"both": "appearance and frequency", "frequency": "frequency", "appearance": "appearance"}
"""What a metric responds to, by the response of the calibration."""
RATIO_SIGN = "¹"
"""Sign of metrics whose percentages are of their distance from 1, behind their names."""
RATIO_NOTE = f"{RATIO_SIGN} percent of the distance from 1"
_NAMES = sorted((name for name in (*METRICS, *CURVES) if "_" in name), key=len, reverse=True)
_NAME_PATTERN = re.compile(rf"`[^`]*`|\b({'|'.join(_NAMES)})\b")
"""Pattern of a command in backticks, or of a name, which is group 1."""


def name_metrics(text: str) -> str:
    """Return a text with the names of metrics and curves for people; commands in backticks keep theirs."""
    return _NAME_PATTERN.sub(lambda match: match[1].replace("_", " ") if match[1] else match[0], text)


def mark_ratio(metric: str, label: str) -> str:
    """Return the label of a metric beside percentages, with a sign if these do not count from 0."""
    return f"{label} {RATIO_SIGN}" if get_ratio_origin(metric) else label


def describe_metric_response(metric: str) -> str:
    """Return whether a metric responds to the appearance of shapes or to their frequency; empty without calibration."""
    guided, unguided = (RESPONSES.get(find_response(metric, is_guided=is_guided), "") for is_guided in (True, False))
    if guided in ("", unguided):
        return f"on nano, responds to {unguided}" if unguided else ""
    return f"on nano, responds to {guided} (guidance 4), {unguided} (1)"
