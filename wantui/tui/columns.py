"""Columns of lists: header, width, alignment and cell content of each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from rich.text import Text

from wantui.tui.wrapping import cut_middle

Row = TypeVar("Row")
COLUMN_GAP = "  "
"""Text between two columns."""


@dataclass(frozen=True)
class Column(Generic[Row]):
    """One column of a list."""

    header_text: str
    width: int | None
    """Width in cells; None uses the rest of the line (last column only)."""
    draw_cell: Callable[[Row], Text | str]
    """Function that returns the cell content for a row."""
    alignment: Literal["left", "right"] = "left"
    min_list_width: int = 0
    """Smallest list width, in cells, at which the column is shown."""
    max_list_width: int | None = None
    """Largest list width, in cells, at which the column is shown; None shows it at any larger width."""
    keeps_end: bool = False
    """Whether content that is too long loses its middle instead of its end."""
    metric: str = ""
    """Metric that the column shows; empty for other columns."""

    def fits(self, list_width: int) -> bool:
        """Return whether the column is shown in a list of this width, in cells."""
        return self.min_list_width <= list_width <= (self.max_list_width or list_width)


def append_at(line: Text, column: int, text: Text) -> None:
    """Append a text to a line, starting at a column."""
    line.append(" " * (column - line.cell_len)).append_text(text)


def draw_list_row(columns: Sequence[Column[Row]], row: Row, list_width: int) -> Text:
    """Return one row of a list that is `list_width` cells wide; content that is too long has an ellipsis."""
    return _join_cells([(column, column.draw_cell(row)) for column in columns if column.fits(list_width)], list_width)


def draw_column_headers(columns: Sequence[Column[Row]], list_width: int) -> Text:
    """Return the header line of a list that is `list_width` cells wide."""
    return _join_cells(
        [(column, Text(column.header_text)) for column in columns if column.fits(list_width)], list_width
    )


def _join_cells(cells: Sequence[tuple[Column[Row], Text | str]], list_width: int) -> Text:
    line = Text()
    for number, (column, cell) in enumerate(cells):
        text = Text(cell) if isinstance(cell, str) else cell.copy()
        if number:
            line.append(COLUMN_GAP)
        if column.keeps_end:
            text = cut_middle(text, list_width - line.cell_len if column.width is None else column.width)
        if column.width is not None:
            text.truncate(column.width, overflow="ellipsis")
            text.align(column.alignment, column.width)
        line.append_text(text)
    return line
