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
        parts.append(
            f"{escape_special_characters(prompt[position:start])}({escape_special_characters(prompt[start:end])}{weight_text})"
        )
        position = end
    return "".join(parts) + escape_special_characters(prompt[position:])


def escape_special_characters(text: str) -> str:
    """Return the template text that reads as this literal text."""
    return _SPECIAL_PATTERN.sub(lambda match: f"\\{match[0]}", text)
