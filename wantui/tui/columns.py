"""Columns of lists: each has a header, a width, an alignment and a cell, so that a new column is one line."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from rich.text import Text

Row = TypeVar("Row")
GAP = " "
"""Text between two columns."""


@dataclass(frozen=True)
class Column(Generic[Row]):
    """One column of a list."""

    header: str
    width: int | None
    """Width in cells; None takes what the line has left, and is for the last column."""
    cell: Callable[[Row], Text | str]
    align: Literal["left", "right"] = "left"
    min_room: int = 0
    """Width in cells of the list from which the column is shown."""


def draw_row(columns: Sequence[Column[Row]], row: Row, room: int) -> Text:
    """Return one row of a list that is `room` cells wide; what is too long for its column ends in an ellipsis."""
    return _join([(column, column.cell(row)) for column in columns if room >= column.min_room])


def draw_header(columns: Sequence[Column[Row]], room: int) -> Text:
    """Return the headers of the columns that a list of `room` cells shows."""
    return _join([(column, Text(column.header)) for column in columns if room >= column.min_room])


def _join(cells: Sequence[tuple[Column[Row], Text | str]]) -> Text:
    line = Text()
    for number, (column, content) in enumerate(cells):
        text = Text(content) if isinstance(content, str) else content.copy()
        if number:
            line.append(GAP)
        if column.width is not None:
            text.truncate(column.width, overflow="ellipsis")
            text.align(column.align, column.width)
        line.append_text(text)
    return line
