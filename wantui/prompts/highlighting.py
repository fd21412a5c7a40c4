"""Syntax highlighting of templates, including templates that do not parse."""

import re
from collections.abc import Iterator
from typing import Literal

from wantui.prompts.parse import SPECIAL_CHARACTERS

TokenKind = Literal["bracket", "bar", "mark", "weight", "escape"]
_WEIGHT_PATTERN = re.compile(r":[^()\[\]|:]*(?=\))")


def highlight_template(source: str) -> Iterator[tuple[int, int, TokenKind]]:
    """Yield (start, end, kind) of each span that is not plain text, in order."""
    mark_start: int | None = None
    position = 0
    while position < len(source):
        character = source[position]
        if (
            character == "\\"
            and source[position + 1 : position + 2] in SPECIAL_CHARACTERS
            and position + 1 < len(source)
        ):
            yield position, position + 2, "escape"
            position += 2
            continue
        if character in "[]":
            yield position, position + 1, "bracket"
        elif character == "|":
            yield position, position + 1, "bar"
        elif character == "(":
            mark_start = position
            yield position, position + 1, "mark"
        elif character == ")":
            mark_start = None
            yield position, position + 1, "mark"
        elif character == ":" and mark_start is not None and (weight := _WEIGHT_PATTERN.match(source, position)):
            yield position, weight.end(), "weight"
            position = weight.end()
            continue
        elif mark_start is not None:
            yield position, position + 1, "mark"
        position += 1
