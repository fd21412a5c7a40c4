"""The reverse of parsing: a prompt and its marks as a template of one variation."""

import re
from collections.abc import Iterable

from wantui.prompts.parse import SPECIAL_CHARACTERS

_SPECIAL_PATTERN = re.compile(f"[{re.escape(''.join(sorted(SPECIAL_CHARACTERS)))}]")


def format_as_template(prompt: str, marks: Iterable[tuple[int, int, float]] = ()) -> str:
    """Return the template whose only variation is this prompt with these marks.

    Args:
        marks: start, end and weight of marked text; marks that overlap an earlier one are left out.
    """
    parts, position = [], 0
    for start, end, weight in sorted(marks):
        if start < position or end > len(prompt):
            continue
        weight_text = "" if weight == 1 else f":{weight:g}"
        parts.append(f"{_escape(prompt[position:start])}({_escape(prompt[start:end])}{weight_text})")
        position = end
    return "".join(parts) + _escape(prompt[position:])


def _escape(text: str) -> str:
    return _SPECIAL_PATTERN.sub(lambda match: f"\\{match[0]}", text)
