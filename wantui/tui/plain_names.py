"""Names of metrics, curves and settings for people: "cfg scale"; files and commands use `cfg_scale`."""

import re
from functools import cache
from typing import TYPE_CHECKING, get_args

from wantui.config.fields import list_form_fields
from wantui.metric_names import CURVE_NAMES, MetricName

if TYPE_CHECKING:
    from wantui.planning import Recipe

KEPT_TEXT = r"""`[^`]*`|"[^"\n]*"|(?<!\w)'[^'\n]*'(?!\w)|--[a-z][\w-]*[ =][^\s;)]+"""
"""Pattern of a command in backticks, a quoted text, or an option with its value."""
GUIDANCE_PREFIX = r"(?:(?<=\bat )|(?<=\bfor )|(?<=\bhave )|(?<=, )|(?<=; ))"
"""Pattern of what is before the guidance of a video in sentences of wantui; prompts may have the word elsewhere."""


def replace_names(text: str) -> str:
    """Return a text with the names of metrics, curves and settings for people.

    Commands, options with their values, quoted texts, paths, config keys and assignments keep theirs.
    """

    def replace(match: re.Match[str]) -> str:
        return "cfg scale " if match[2] else match[1].replace("_", " ") if match[1] else match[0]

    return _make_name_pattern().sub(replace, text)


def describe_cfg_scale(recipe: "Recipe") -> str:
    """Return scale or schedule, and rule, of the guidance of a recipe: "4", or "0: 7.5, 50%: 3"."""
    from wantui.planning.guidance_plan import describe_guidance  # slow to import

    return describe_guidance(recipe).removeprefix("guidance ")


def describe_grouping(grouping: str) -> str:
    """Return the name of a grouping for people, such as "bracket 1" or "bracket 1 x bracket 2"."""
    return " x ".join(f"bracket {part}" if part[:1].isdigit() else replace_names(part) for part in grouping.split(","))


@cache
def _make_name_pattern() -> re.Pattern[str]:
    """Return the pattern of a text to keep, of a name (group 1), or of "guidance" before a scale (group 2)."""
    setting_names = [field.name for field in list_form_fields()]
    names = sorted(
        {name for name in (*get_args(MetricName), *CURVE_NAMES, *setting_names) if "_" in name}, key=len, reverse=True
    )
    return re.compile(
        rf"{KEPT_TEXT}|(?<![\w/.=:-])({'|'.join(names)})(?![\w/=]|[.:-]\w)|{GUIDANCE_PREFIX}(guidance )(?=\d)"
    )
