"""Names of metrics, curves and settings for people: "cfg scale"; files and commands use `cfg_scale`."""

import re
from functools import cache
from typing import get_args

from wantui.config.fields import list_form_fields
from wantui.metric_names import CURVE_NAMES, MetricName

KEPT_TEXT = r"""`[^`]*`|"[^"\n]*"|(?<!\w)'[^'\n]*'(?!\w)|--[a-z][\w-]*[ =][^\s;)]+"""
"""Pattern of a command in backticks, a quoted text, or an option with its value."""


def replace_names(text: str) -> str:
    """Return a text in which metrics, curves and settings have their display names.

    Commands, options with their values, quoted texts, paths, config keys and assignments stay unchanged.
    """

    def replace(match: re.Match[str]) -> str:
        return match[1].replace("_", " ") if match[1] else match[0]

    return _make_name_pattern().sub(replace, text)


def describe_grouping(grouping: str) -> str:
    """Return the name of a grouping for people, such as "bracket 1" or "bracket 1 x bracket 2"."""
    return " x ".join(f"bracket {part}" if part[:1].isdigit() else replace_names(part) for part in grouping.split(","))


@cache
def _make_name_pattern() -> re.Pattern[str]:
    """Return the pattern of a text to keep, or of a name (group 1)."""
    setting_names = [field.name for field in list_form_fields()]
    names = sorted(
        {name for name in (*get_args(MetricName), *CURVE_NAMES, *setting_names) if "_" in name}, key=len, reverse=True
    )
    return re.compile(rf"{KEPT_TEXT}|(?<![\w/.=:-])({'|'.join(names)})(?![\w/=]|[.:-]\w)")
