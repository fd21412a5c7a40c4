"""Line wrapping for widgets that draw lines."""

import re
from textwrap import wrap

from rich.style import Style
from rich.text import Text

from wantui.formatting import NO_BREAK_SPACE, join_units

_NUMBER_SPACE_PATTERN = re.compile(
    r"(?<=\d) (?=(?:s|ms|min|h|fps|rad|steps?|frames?|seeds?|videos?|cells?|variations?|[kMGT]?B)\b)"
    r"|(?<=\bx) (?=\d)|(?<=\bguidance) (?=\d)|(?<=\bbracket) (?=\d)"
)
"""Space between a number and its unit or name: "5 s", "x 6 seeds", "guidance 4"."""


def wrap_text(text: str, width: int, style: Style | None = None, indent: str = "  ") -> list[Text]:
    """Wrap a text into lines of at most `width` characters; all lines but the first are indented.

    A number stays in one line with its unit or name.
    """
    joined = _NUMBER_SPACE_PATTERN.sub(NO_BREAK_SPACE, join_units(text))
    lines = wrap(joined, width, subsequent_indent=indent, break_on_hyphens=False)
    return [Text(line.replace(NO_BREAK_SPACE, " "), style or Style.null()) for line in lines]
