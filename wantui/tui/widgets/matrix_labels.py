"""Labels of the rows and columns of a matrix, as segments."""

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from wantui.formatting import escape_unprintable, format_count, shorten_middle
from wantui.tui.widgets.matrix_geometry import CellGeometry
from wantui.tui.wrapping import wrap_cells


def draw_corner(heading: str, geometry: CellGeometry, has_hidden_columns: bool) -> Segment:
    """Draw the heading of the columns above the row labels, with an arrow if columns are scrolled out of view."""
    width = geometry.label_width
    arrow = "‹" if has_hidden_columns else " "
    heading = shorten_middle(heading, lambda text: cell_len(text) < width)
    return Segment(set_cell_size(heading, width - 1) + arrow, Style(dim=True))


def draw_column_label(
    label: str, geometry: CellGeometry, is_current: bool, frame_style: Style | None = None
) -> list[Segment]:
    """Draw the label of a column; it is centred above pictures.

    Args:
        frame_style: style of the cursor frame's upper edge, which the label interrupts; None for other cells.
    """
    style = Style(bold=True) if is_current else Style(dim=True)
    width = geometry.picture_width
    text = set_cell_size(escape_unprintable(label), width)
    if not geometry.picture_height:
        return [Segment(f" {text} ", style)]
    text = text.strip()
    if frame_style is None:
        return [Segment(f" {text.center(width)} ", style)]
    text = f" {text} " if cell_len(text) + 2 <= width else text
    left_width = (width - cell_len(text)) // 2
    right_width = width - cell_len(text) - left_width
    return [
        Segment("╭" + "─" * left_width, frame_style),
        Segment(text, style),
        Segment("─" * right_width + "╮", frame_style),
    ]


def append_hidden_count(labels: Strip, hidden_count: int) -> Strip:
    """Return the labels of the columns with the number of hidden ones, if there is room, and an arrow at the end."""
    width = labels.cell_length
    text = f" +{hidden_count} ›" if hidden_count > 0 else " ›"
    if labels.crop(width - len(text)).text.strip():
        text = "›"
    return Strip([*labels.crop(0, width - len(text)), Segment(text, Style(bold=True))])


def draw_hidden_rows(hidden_count: int) -> Segment:
    """Draw the number of rows below the visible ones; a blank if there are none."""
    return Segment(f"{format_count(hidden_count, 'more row')} ↓" if hidden_count > 0 else "", Style(dim=True))


def draw_row_label(label: str, line: int, geometry: CellGeometry, is_current: bool, style: Style) -> Segment:
    """Draw one line of a row's label. The label is wrapped to fit beside the row's pictures."""
    width, height = geometry.label_width - 1, max(1, geometry.picture_height)
    label = escape_unprintable(label)
    lines = wrap_cells(label, width, max_lines=height, placeholder="…") if height > 1 else [label]
    text = lines[line] if line < len(lines) else ""
    if cell_len(text) > width:
        text = set_cell_size(text, width - 1) + "…"
    return Segment(set_cell_size(text, width + 1), style + Style(bold=True) if is_current else style)
