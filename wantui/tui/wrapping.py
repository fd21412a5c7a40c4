"""Line wrapping for widgets that draw lines."""

import re
from collections.abc import Iterable, Sequence
from textwrap import wrap
from typing import Any

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from wantui.formatting import NO_BREAK_SPACE, find_middle, join_units

_NUMBER_SPACE_PATTERN = re.compile(
    r"(?<=\d) (?=(?:s|ms|min|h|fps|rad|steps?|frames?|seeds?|videos?|values?|SD|cells?|variations?|groups?|[kMGT]?B)\b)"
    r"|(?<=\bx) (?=\d)|(?<=\b(?:scale|frame|group)) (?=\d)|(?<=\bcfg) (?=scale)"
    r"|(?<=\bp) (?=\d)|(?<=\bguidance) (?=\d)|(?<=\bbracket) (?=\d)"
)
"""Space between a number and its unit or name: "5 s", "x 6 seeds", "cfg scale 4", "p 0.03"."""
_PATH_PART_PATTERN, _NAME_PART_PATTERN = re.compile(r"[^/]*/|[^/]+"), re.compile(r"[^_]*_|[^_]+")

_SECOND_CELL = "\0"
"""Character that stands for the second cell of a wide character; displayed text never contains it."""


def wrap_cells(text: str, width: int, **options: Any) -> list[str]:
    """Wrap a text into lines of at most `width` cells, like `textwrap.wrap`, which counts characters.

    Args:
        options: options of `textwrap.wrap`.
    """
    if text.isascii() or all(cell_len(character) <= 1 for character in text):
        return wrap(text, width, **options)
    filled = "".join(character + _SECOND_CELL * (cell_len(character) - 1) for character in text)
    # A line may break between the two cells of a character, which then takes one cell more.
    return [line.replace(_SECOND_CELL, "") for line in wrap(filled, max(1, width - 1), **options)]


def wrap_text(text: str, width: int, style: Style | None = None, indent: str = "  ") -> list[Text]:
    """Wrap a text into lines of at most `width` cells; all lines but the first are indented.

    A number stays in one line with its unit or name; a path that is longer than a line is broken after `/`, and
    after `_` in a name that is longer than a line.
    """
    joined = _NUMBER_SPACE_PATTERN.sub(NO_BREAK_SPACE, join_units(text))
    joined = " ".join(_split_path(word, width - len(indent)) for word in joined.split(" "))
    lines = wrap_cells(joined, width, subsequent_indent=indent, break_on_hyphens=False)
    return [Text(line.replace(NO_BREAK_SPACE, " "), style or Style.null()) for line in lines]


def cut_lines(lines: Sequence[Text], max_count: int, width: int) -> list[Text]:
    """Return the first lines of a wrapped text.

    If there are more lines, the last one is filled with whole words and ends in an ellipsis.
    """
    if len(lines) <= max_count:
        return list(lines)
    rest = Text(" ").join([lines[max_count - 1], *(Text(line.plain.strip(), line.style) for line in lines[max_count:])])
    if rest.cell_len > width and (end := rest.plain.rfind(" ", 0, max(1, width - 1))) > 0:
        rest = rest[:end].append(" …")
    rest.truncate(max(1, width), overflow="ellipsis")
    return [*lines[: max_count - 1], rest]


def cut_middle(text: Text, width: int) -> Text:
    """Return a text of at most `width` cells that keeps its ends and their styles, as in "red seed 42…g scale 3"."""
    if text.cell_len <= width:
        return text
    middle = find_middle(text.plain, lambda part: cell_len(part) <= width)
    return Text() if middle is None else text[: middle.start].append("…").append_text(text[middle.stop :])


def append_right(line: Text, notes: Iterable[str], width: int, gap: int, style: Style) -> bool:
    """Append the first note that fits at the right end of a line of `width` cells; return whether one fits.

    Args:
        notes: texts of which empty ones are skipped.
        gap: least number of cells between the line and the note.
    """
    for note in notes:
        if note and line.cell_len + gap + cell_len(note) <= width:
            line.append(" " * (width - line.cell_len - cell_len(note)) + note, style)
            return True
    return False


def join_texts(texts: Sequence[Text], width: int, gap: str = "  ") -> list[Text]:
    """Return texts side by side, in as many lines of at most `width` cells as they need."""
    lines: list[Text] = []
    for text in texts:
        if lines and lines[-1].cell_len + len(gap) + text.cell_len <= width:
            lines[-1].append(gap).append_text(text)
        else:
            lines.append(Text().append_text(text))
    return lines


def _split_path(word: str, width: int) -> str:
    """Return a word with spaces where a path that is longer than `width` is best broken."""
    if len(word) <= width:
        return word
    lines = [""]
    names = _PATH_PART_PATTERN.findall(word)
    parts = [part for name in names for part in ([name] if len(name) <= width else _NAME_PART_PATTERN.findall(name))]
    for part in parts:
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return " ".join(lines)
