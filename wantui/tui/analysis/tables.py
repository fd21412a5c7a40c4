"""Tables in the views of the Analysis screen, drawn as lines."""

from collections.abc import Sequence

from rich.style import Style
from rich.text import Text

from wantui.tui.analysis.views import Canvas
from wantui.tui.plain_names import replace_names

ROW_INDENT = 2
"""Indent of the rows below their heading, in cells."""


def draw_rows(
    headers: Sequence[str], rows_by_heading: dict[str, list[tuple[tuple[str, ...], bool]]], canvas: Canvas
) -> list[Text]:
    """Return a header, and below each heading its rows in aligned columns, cut to the width.

    Cells have display names; headings, which may be names of groups, stay unchanged.

    Args:
        rows_by_heading: cells of each row, and whether it is highlighted.
    """
    rows_by_heading = {
        heading: [(tuple(map(replace_names, cells)), is_found) for cells, is_found in rows]
        for heading, rows in rows_by_heading.items()
    }
    all_rows = [headers, *(cells for rows in rows_by_heading.values() for cells, _ in rows)]
    widths = [max(map(len, column)) for column in zip(*all_rows, strict=True)]

    def draw_cells(cells: Sequence[str], style: Style) -> Text:
        text = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        return Text(" " * ROW_INDENT + text, style)

    lines = [draw_cells(headers, Style(bold=True, dim=True))]
    highlight = canvas.get_style("found") + Style(bold=True)
    for heading, rows in rows_by_heading.items():
        lines.append(Text(heading, Style(bold=True)))
        lines += [draw_cells(cells, highlight if is_highlighted else Style()) for cells, is_highlighted in rows]
    for line in lines:
        line.truncate(canvas.width, overflow="ellipsis")
    return lines
