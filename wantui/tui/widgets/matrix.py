"""Matrix with a row per variation, a cell per seed, and a cursor that moves in both directions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from rich.style import Style
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.reactive import reactive

from wantui.tui.state_style import state_style
from wantui.tui.widgets.virtual_list import VirtualList

CELL_WIDTH = 3
"""Width of a cell in characters."""


class Matrix(VirtualList):
    """List of rows of cells with a two-dimensional cursor; `show` sets names, columns and states."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "move_column(-1)", "Left", show=False),
        Binding("right", "move_column(1)", "Right", show=False),
    ]

    column: reactive[int] = reactive(0)

    @dataclass
    class Moved(Message):
        """The cursor moved to another cell."""

        row: int
        column: int

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.names: list[str] = []
        self.columns = 0
        self.state: Callable[[int, int], str | None] = lambda row, column: None
        self.marked: tuple[int, int] | None = None

    def show(self, names: list[str], columns: int, state: Callable[[int, int], str | None], same: bool) -> None:
        """Show cells.

        Args:
            names: names of the rows.
            state: returns the state of a cell by row and column; None if the cell has no video.
            same: keep cursor and mark, because the cells are those of the same batch.
        """
        self.names, self.columns, self.state = names, columns, state
        if not same:
            self.set_reactive(Matrix.column, 0)
            self.marked = None
        self.fill(len(names), self._draw_row, keep_cursor=same)

    def validate_column(self, column: int) -> int:
        return max(0, min(column, self.columns - 1))

    def watch_column(self) -> None:
        self.refresh()
        self.post_message(self.Moved(self.cursor, self.column))

    def watch_cursor(self, before: int, now: int) -> None:
        super().watch_cursor(before, now)
        if before != now:
            self.post_message(self.Moved(self.cursor, self.column))

    def action_move_column(self, step: int) -> None:
        self.column += step

    def _first_column(self, room: int) -> int:
        """Return the first visible column if `room` columns fit and the cursor must be visible."""
        return max(0, self.column - room + 1)

    def _widths(self, width: int) -> tuple[int, int]:
        """Return the width of the names, and the number of cells that fit."""
        names = min(30, max([len(name) for name in self.names[:500]] + [4]) + 1, max(8, width // 2))
        return names, max(1, (width - names) // CELL_WIDTH)

    def _draw_row(self, row: int, width: int) -> Text:
        names, room = self._widths(width)
        line = Text(f"{self.names[row]:<{names}.{names - 1}}")
        first = self._first_column(room)
        for column in range(first, min(self.columns, first + room)):
            state = self.state(row, column)
            appearance = state_style(state) if state is not None else None
            style = self.colour(appearance.colour) if appearance else Style(dim=True)
            has_cursor = row == self.cursor and column == self.column
            glyph = appearance.glyph if appearance else " "
            left, right = ("[", "]") if has_cursor else ("*", " ") if self.marked == (row, column) else (" ", " ")
            line.append(left, Style(bold=True))
            line.append(glyph, style + Style(bold=has_cursor))
            line.append(right, Style(bold=True))
        return line

    def handle_click(self, index: int, x: int) -> None:
        """Move the cursor to the clicked cell; choose the cell if the cursor is already there."""
        names, room = self._widths(self.size.width)
        before = self.column
        if x >= names:
            self.column = (x - names) // CELL_WIDTH + self._first_column(room)
        if self.column == before:
            super().handle_click(index, x)
        else:
            self.cursor = index
