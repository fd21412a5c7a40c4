"""Cursor of a matrix of videos: its keys, messages and limits."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView

from wantui.tui.library.video_matrix import VideoMatrix

MAX_ROW_MOVE = 1_000_000
"""Number of rows that home and end move by, more than any matrix has; the cursor stops at the first or last row."""


class MatrixCursor(ScrollView):
    """Base of the matrix: a cursor that moves both ways over the cells of its grid."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("left,h", "move_column(-1)", "Left", show=False),
        Binding("right,l", "move_column(1)", "Right", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home,g", f"move(-{MAX_ROW_MOVE})", "First row", show=False),
        Binding("end,G", f"move({MAX_ROW_MOVE})", "Last row", show=False),
        Binding("enter", "choose", "Open", show=False),
    ]

    cursor: reactive[int] = reactive(0, repaint=False)
    """Row under the cursor."""
    column: reactive[int] = reactive(0, repaint=False)

    @dataclass
    class Moved(Message):
        """The cursor moved to another cell."""

        row: int
        column: int

    @dataclass
    class Chosen(Message):
        """The cell under the cursor was chosen by enter or a click."""

        row: int
        column: int

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.grid = VideoMatrix(Path())

    @property
    def row_count(self) -> int:
        return len(self.grid.row_labels)

    @property
    def column_count(self) -> int:
        return len(self.grid.column_labels)

    def count_visible_cells(self) -> tuple[int, int]:
        """Return the number of rows and columns that are completely visible."""
        raise NotImplementedError

    def validate_cursor(self, cursor: int) -> int:
        return max(0, min(cursor, self.row_count - 1))

    def validate_column(self, column: int) -> int:
        return max(0, min(column, self.column_count - 1))

    def action_move(self, rows: int) -> None:
        self.cursor += rows

    def action_move_column(self, columns: int) -> None:
        self.column += columns

    def action_page(self, pages: int) -> None:
        self.cursor += pages * self.count_visible_cells()[0]

    def action_choose(self) -> None:
        if self.row_count:
            self.post_message(self.Chosen(self.cursor, self.column))
