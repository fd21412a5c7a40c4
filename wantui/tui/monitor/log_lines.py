"""Lines of a log as the Monitor screen shows them: the date if it is not today, the time, and levels above INFO."""

import re
from collections.abc import Callable, Sequence
from datetime import date

from rich.style import Style
from rich.text import Text

LINE_PATTERN = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d),\d{3} ([A-Z]+) +(.*)")
"""A line of a log: date, time, level and message; further lines of a message have no time."""
COLOUR_BY_LEVEL = {"WARNING": "warning", "ERROR": "error", "CRITICAL": "error"}
"""Theme colour by level."""


def draw_log_lines(lines: Sequence[str], make_style: Callable[[str], Style]) -> list[Text]:
    """Return lines of a log; those of today without the date."""
    today = date.today().isoformat()
    return [draw_log_line(line, today, make_style) for line in lines]


def draw_log_line(line: str, today: str, make_style: Callable[[str], Style]) -> Text:
    """Return a line of a log.

    Args:
        today: date as in the log, which lines of this day omit.
        make_style: function that returns the style of a theme colour.
    """
    if (match := LINE_PATTERN.fullmatch(line)) is None:
        return Text(line)
    day, time_text, level, message = match.groups()
    text = Text.assemble((f"{time_text}  " if day == today else f"{day} {time_text}  ", Style(dim=True)))
    if level in COLOUR_BY_LEVEL:
        text.append(f"{level}  ", make_style(COLOUR_BY_LEVEL[level]) + Style(bold=True))
    return text.append(message)
