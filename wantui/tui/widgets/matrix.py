"""Variations step seeds: one row for each variation, one cell for each seed, and a cursor that moves both ways."""

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


class Matrix(VirtualList):
    """Matrix of cells; `show` sets the rows, the columns, and the state of each cell."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "move_column(-1)", "Left", show=False),
        Binding("right", "move_column(1)", "Right", show=False),
    ]

    column: reactive[int] = reactive(0)

    @dataclass
    class Moved(Message):
        """The cursor is on another cell."""

        row: int
        column: int

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.names: list[str] = []
        self.columns = 0
        self.state: Callable[[int, int], str | None] = lambda row, column: None
        self.marked: tuple[int, int] | None = None

    def show(self, names: list[str], columns: int, state: Callable[[int, int], str | None], same: bool) -> None:
        """Show other cells; `same` keeps the cursor where it is."""
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
        """Return the first visible column, so that the cursor's is visible."""
        return max(0, self.column - room + 1)

    def _widths(self, width: int) -> tuple[int, int]:
        """Return the width of the names, and how many cells fit."""
        names = min(30, max([len(name) for name in self.names[:500]] + [4]) + 1, max(8, width // 2))
        return names, max(1, (width - names) // CELL_WIDTH)

    def _draw_row(self, row: int, width: int) -> Text:
        names, room = self._widths(width)
        line = Text(f"{self.names[row]:<{names}.{names - 1}}")
        first = self._first_column(room)
        for column in range(first, min(self.columns, first + room)):
            state = self.state(row, column)
            shown = state_style(state) if state is not None else None
            style = self.colour(shown.colour) if shown else Style(dim=True)
            here = row == self.cursor and column == self.column
            glyph = shown.glyph if shown else " "
            left, right = ("[", "]") if here else ("*", " ") if self.marked == (row, column) else (" ", " ")
            line.append(left, Style(bold=True))
            line.append(glyph, style + Style(bold=here))
            line.append(right, Style(bold=True))
        return line

    def handle_click(self, index: int, x: int) -> None:
        """Move the cursor to the cell that was clicked, or choose it where the cursor is on it already."""
        names, room = self._widths(self.size.width)
        before = self.column
        if x >= names:
            self.column = (x - names) // CELL_WIDTH + self._first_column(room)
        if self.column == before:
            super().handle_click(index, x)
        else:
            self.cursor = index
