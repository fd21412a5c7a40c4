"""Matrix with a row per variation, a cell per seed, and a cursor that moves in both directions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from rich.style import Style
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.reactive import reactive

from wantui.tui.state_style import get_state_style
from wantui.tui.widgets.virtual_list import VirtualList

CELL_WIDTH = 3
"""Width of a cell in characters."""


class Matrix(VirtualList):
    """List of rows of cells with a two-dimensional cursor; `show_cells` sets names, columns and states."""

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
        self.row_names: list[str] = []
        self.column_count = 0
        self.get_state: Callable[[int, int], str | None] = lambda row, column: None
        self.marked_cells: frozenset[tuple[int, int]] = frozenset()

    def show_cells(
        self, row_names: list[str], column_count: int, get_state: Callable[[int, int], str | None], is_same_batch: bool
    ) -> None:
        """Show cells.

        Args:
            row_names: names of the rows.
            get_state: returns the state of a cell by row and column; None if the cell has no video.
            is_same_batch: keep cursor and marks, because the cells are those of the same batch.
        """
        self.row_names, self.column_count, self.get_state = row_names, column_count, get_state
        if not is_same_batch:
            self.set_reactive(Matrix.column, 0)
            self.marked_cells = frozenset()
        self.fill_rows(len(row_names), self._draw_row, keep_cursor=is_same_batch)

    def show_marks(self, marked_cells: frozenset[tuple[int, int]]) -> None:
        """Mark cells (row, column), and no others."""
        if marked_cells != self.marked_cells:
            self.marked_cells = marked_cells
            self.refresh()

    def validate_column(self, column: int) -> int:
        return max(0, min(column, self.column_count - 1))

    def watch_column(self) -> None:
        self.refresh()
        self.post_message(self.Moved(self.cursor, self.column))

    def watch_cursor(self, before: int, now: int) -> None:
        super().watch_cursor(before, now)
        if before != now:
            self.post_message(self.Moved(self.cursor, self.column))

    def action_move_column(self, step: int) -> None:
        self.column += step

    def _find_first_column(self, visible_columns: int) -> int:
        """Return the first visible column if `visible_columns` columns fit and the cursor must be visible."""
        return max(0, self.column - visible_columns + 1)

    def _fit_widths(self, width: int) -> tuple[int, int]:
        """Return the width of the names, and the number of cells that fit."""
        name_width = min(30, max([len(name) for name in self.row_names[:500]] + [4]) + 1, max(8, width // 2))
        return name_width, max(1, (width - name_width) // CELL_WIDTH)

    def _draw_row(self, row: int, width: int) -> Text:
        name_width, visible_columns = self._fit_widths(width)
        line = Text(f"{self.row_names[row]:<{name_width}.{name_width - 1}}")
        first = self._find_first_column(visible_columns)
        for column in range(first, min(self.column_count, first + visible_columns)):
            state = self.get_state(row, column)
            state_style = get_state_style(state) if state is not None else None
            style = self.make_colour_style(state_style.colour_name) if state_style else Style(dim=True)
            has_cursor = row == self.cursor and column == self.column
            glyph = state_style.glyph if state_style else " "
            left, right = ("[", "]") if has_cursor else ("*", " ") if (row, column) in self.marked_cells else (" ", " ")
            line.append(left, Style(bold=True))
            line.append(glyph, style + Style(bold=has_cursor))
            line.append(right, Style(bold=True))
        return line

    def handle_click(self, index: int, x: int) -> None:
        """Move the cursor to the clicked cell; choose the cell if the cursor is already there."""
        name_width, visible_columns = self._fit_widths(self.row_width)
        previous_column = self.column
        if x >= name_width:
            self.column = (x - name_width) // CELL_WIDTH + self._find_first_column(visible_columns)
        if self.column == previous_column:
            super().handle_click(index, x)
        else:
            self.cursor = index
