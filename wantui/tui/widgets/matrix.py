"""Matrix with a row per variation and a cell per seed: pictures or signs, and a cursor that moves both ways."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.events import Click
from textual.geometry import Region, Size
from textual.message import Message
from textual.strip import Strip
from textual.timer import Timer

from wantui.tui.library.thumbnails import ThumbnailRequest
from wantui.tui.library.video_matrix import MatrixCell, VideoMatrix
from wantui.tui.widgets.diff_text import make_colour_style, parse_theme_colour
from wantui.tui.widgets.matrix_cells import choose_edge, choose_sides, draw_caption, draw_placeholder, draw_symbol_cell
from wantui.tui.widgets.matrix_cursor import MatrixCursor
from wantui.tui.widgets.matrix_geometry import (
    CELL_SIZES,
    CellGeometry,
    MatrixPane,
    extend_to_whole_cells,
    find_scroll_offset,
)
from wantui.tui.widgets.matrix_labels import (
    append_hidden_count,
    draw_column_label,
    draw_corner,
    draw_hidden_rows,
    draw_row_label,
)
from wantui.tui.widgets.matrix_pictures import MatrixPictures
from wantui.tui.wrapping import wrap_cells

if TYPE_CHECKING:
    from wantui.tui.pictures import Picture

HEADER_HEIGHT = 1
MAX_MEASURED_LABELS = 500
"""Number of labels whose length determines the width of all."""
RETRY_SECONDS, MAX_RETRY_SECONDS = 5.0, 60.0
"""Seconds until pictures that could not be read are requested again."""


class Matrix(MatrixCursor, can_focus=True):
    """Matrix of videos; `show_grid` sets them. Only visible cells are drawn, and their pictures are read first.

    Args:
        cell_size: one of `CELL_SIZES`; None chooses by the size of the pane.
    """

    DEFAULT_CSS = """
    Matrix {
        height: 1fr; overflow: auto auto; scrollbar-size-vertical: 1; scrollbar-size-horizontal: 0;
    }
    """

    @dataclass
    class PictureRead(Message):
        """The requested picture; None if it cannot be read."""

        request: ThumbnailRequest
        picture: "Picture | None"

    def __init__(self, cell_size: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.set_reactive(Matrix.auto_links, False)  # else, the mouse over a picture repaints everything
        self.cell_size = cell_size
        self.empty_text = ""
        self.marked_cells: frozenset[tuple[int, int]] = frozenset()
        """Cells chosen for a comparison."""
        self.geometry = CellGeometry(0, 1, 0)
        self.planned_height = 0
        """Height for which the cells are chosen, if the pane is lower because its rows fit; 0 without such a plan."""
        self._pictures = MatrixPictures(lambda *read: self.post_message(self.PictureRead(*read)))
        self._retry_timer: Timer | None = None
        self._retry_seconds = RETRY_SECONDS

    def on_unmount(self) -> None:
        self._pictures.reader.stop()

    # Content

    def show_grid(self, grid: VideoMatrix, is_same_batch: bool) -> None:
        """Show a grid; if it belongs to the same batch, the cursor keeps its position."""
        is_rearranged = grid.arrangement != self.grid.arrangement
        self.grid = grid
        if not is_same_batch:
            self.set_reactive(Matrix.cursor, 0)
            self.set_reactive(Matrix.column, 0)
            self.marked_cells = frozenset()
            self.scroll_to(0, 0, animate=False, force=True)
        if not is_same_batch or is_rearranged:
            self._pictures.clear()
        self.set_reactive(Matrix.cursor, self.validate_cursor(self.cursor))
        self.set_reactive(Matrix.column, self.validate_column(self.column))
        self._arrange_cells(reads_again=True)

    def show_marks(self, marked_cells: frozenset[tuple[int, int]]) -> None:
        """Mark cells (row, column) as chosen for a comparison, and no others."""
        if marked_cells != self.marked_cells:
            changed_cells, self.marked_cells = self.marked_cells ^ marked_cells, marked_cells
            for place in changed_cells:
                self.update_cell(place)

    def replace_grid(self, grid: VideoMatrix) -> None:
        """Show the same videos with other marks or other progress."""
        previous, self.grid = self.grid, grid
        for place, cell in grid.cells.items():
            if (previous.cells[place].mark, previous.cells[place].running) != (cell.mark, cell.running):
                self.update_cell(place)

    def reread_pictures(self) -> None:
        """Read the pictures whose files have changed, such as pictures of running videos."""
        self._request_pictures(reads_again=True)

    def change_cell_size(self) -> None:
        """Use the next of `CELL_SIZES`."""
        current = self.cell_size or ("small" if self.geometry == self._choose_geometry("small") else "large")
        self.cell_size = CELL_SIZES[(CELL_SIZES.index(current) + 1) % len(CELL_SIZES)]
        self._arrange_cells()
        self._scroll_to_cursor()

    def _choose_geometry(self, cell_size: str | None) -> CellGeometry:
        labels = (self.grid.column_heading, *self.grid.row_labels[:MAX_MEASURED_LABELS])
        longest_label = max(map(cell_len, labels))
        pane = MatrixPane(*self._pane_size, longest_label, self.column_count, self.row_count, self.grid.aspect_ratio)
        return pane.choose_geometry(cell_size)

    @property
    def _pane_size(self) -> tuple[int, int]:
        """Return the width of the pane, and its height below the header."""
        size = self.scrollable_content_region.size
        return size.width, max(self.planned_height, size.height) - HEADER_HEIGHT

    def measure_height(self) -> int:
        """Return the height of the header and all rows, or the planned height if that is less."""
        row_height = self._choose_geometry(self.cell_size).row_height
        return min(self.planned_height, HEADER_HEIGHT + self.row_count * row_height)

    def _arrange_cells(self, reads_again: bool = False) -> None:
        """Fit the cells to the pane, and request the visible pictures.

        Args:
            reads_again: also request known pictures, because their files may have changed.
        """
        geometry = self._choose_geometry(self.cell_size)
        if geometry.pixel_size != self.geometry.pixel_size:
            self._pictures.clear()
        self.geometry = geometry
        width, free_height = self._pane_size
        rows, columns = self.count_visible_cells()
        free_width = width - geometry.label_width
        # Slack at the end, so that the last row and column can be scrolled to whole cells.
        self.virtual_size = Size(
            geometry.label_width + extend_to_whole_cells(self.column_count, columns, geometry.column_width, free_width),
            HEADER_HEIGHT + extend_to_whole_cells(self.row_count, rows, geometry.row_height, free_height),
        )
        self.refresh()
        self._request_pictures(reads_again)

    def count_visible_cells(self) -> tuple[int, int]:
        """Return the number of rows and columns that are completely visible."""
        return self.geometry.count_whole_cells(*self._pane_size)

    def on_resize(self) -> None:
        self._arrange_cells()
        self.call_after_refresh(self._scroll_to_cursor)

    # Pictures

    def _request_pictures(self, reads_again: bool = False) -> None:
        """Request the pictures of the visible cells, and then the pictures of the next rows."""
        geometry = self.geometry
        if not geometry.picture_height or not self.is_attached:
            self._pictures.reader.request([])
            return
        visible_rows, visible_columns = self.count_visible_cells()
        first_row = self.scroll_offset.y // geometry.row_height
        first_column = self.scroll_offset.x // geometry.column_width
        places = product(
            range(first_row, min(self.row_count, first_row + 2 * visible_rows + 1)),
            range(first_column, min(self.column_count, first_column + visible_columns + 1)),
        )
        self._pictures.request_cells(self.grid, places, geometry.pixel_size, reads_again)

    def on_matrix_picture_read(self, message: PictureRead) -> None:
        message.stop()
        request = message.request
        if message.picture is not None:
            self._retry_seconds = RETRY_SECONDS
        elif self._retry_timer is None:
            self._retry_timer = self.set_timer(self._retry_seconds, self._retry_pictures)
        if request.size == self.geometry.pixel_size and self._pictures.add_picture(self.grid, request, message.picture):
            self.update_cell(request.place)

    def _retry_pictures(self) -> None:
        """Request the pictures that could not be read, because their files may have appeared; wait longer each time."""
        self._retry_seconds = min(2 * self._retry_seconds, MAX_RETRY_SECONDS)
        if self.screen.is_current:
            self._retry_timer = None
            self._request_pictures()
        else:
            self._retry_timer = self.set_timer(self._retry_seconds, self._retry_pictures)

    def _draw_picture(self, place: tuple[int, int], cell: MatrixCell) -> list[list[Segment]] | None:
        """Return the lines of a cell's picture, faded if the video is rejected; None if there is no picture yet."""
        colour = parse_theme_colour(self.app.theme_variables, "background")
        background = (0, 0, 0) if colour is None else colour.rgb
        return self._pictures.draw(place, background if cell.mark.reject else None)

    # Cursor and scrolling

    def watch_cursor(self, previous: int, current: int) -> None:
        self._follow_cursor((previous, self.column))

    def watch_column(self, previous: int, current: int) -> None:
        self._follow_cursor((self.cursor, previous))

    def _follow_cursor(self, previous: tuple[int, int]) -> None:
        if previous == (self.cursor, self.column):
            return
        for place in (previous, (self.cursor, self.column)):
            self.update_cell(place)
            self._update_labels(place)
        self._scroll_to_cursor()
        self.post_message(self.Moved(self.cursor, self.column))

    def _scroll_to_cursor(self) -> None:
        """Scroll by whole cells until the cell under the cursor is completely visible."""
        geometry, (visible_rows, visible_columns) = self.geometry, self.count_visible_cells()
        y = find_scroll_offset(self.cursor, visible_rows, geometry.row_height, self.scroll_offset.y)
        x = find_scroll_offset(self.column, visible_columns, geometry.column_width, self.scroll_offset.x)
        if (x, y) != self.scroll_offset:
            self.scroll_to(x, y, animate=False, force=True)

    def watch_scroll_x(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_x(old_value, new_value)
        self._request_pictures()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self._request_pictures()

    def on_click(self, event: Click) -> None:
        """Move the cursor to the clicked cell; choose the cell if the cursor is already there."""
        offset, geometry = event.get_content_offset(self), self.geometry
        if offset is None or offset.y < HEADER_HEIGHT:
            return
        row = (offset.y - HEADER_HEIGHT + self.scroll_offset.y) // geometry.row_height
        column = self.column
        if offset.x >= geometry.label_width:
            column = (offset.x - geometry.label_width + self.scroll_offset.x) // geometry.column_width
        if row >= self.row_count or column >= self.column_count:
            return
        if (row, column) == (self.cursor, self.column):
            self.action_choose()
        self.cursor, self.column = row, column

    def on_focus(self) -> None:
        self.update_cell((self.cursor, self.column))

    on_blur = on_focus

    def update_cell(self, place: tuple[int, int]) -> None:
        """Redraw one cell, and the line above it, which has the upper edge of the cursor's frame."""
        geometry = self.geometry
        x = geometry.label_width + place[1] * geometry.column_width - self.scroll_offset.x
        y = HEADER_HEIGHT + place[0] * geometry.row_height - self.scroll_offset.y
        size = self.scrollable_content_region.size
        cells_region = Region(geometry.label_width, 0, size.width, size.height)
        region = Region(x, y - 1, geometry.column_width, geometry.row_height + 1).intersection(cells_region)
        if region:
            self.refresh(region)

    def _update_labels(self, place: tuple[int, int]) -> None:
        """Redraw the labels of a cell's row and column."""
        geometry = self.geometry
        y = HEADER_HEIGHT + place[0] * geometry.row_height - self.scroll_offset.y
        size = self.scrollable_content_region.size
        self.refresh(Region(0, 0, size.width, HEADER_HEIGHT))
        if (region := Region(0, y, geometry.label_width, geometry.row_height).intersection(size.region)) and y >= 0:
            self.refresh(region)

    # Drawing

    def make_colour_style(self, colour_name: str) -> Style:
        return make_colour_style(self.app, colour_name)

    def render_line(self, y: int) -> Strip:
        width, base_style = self.scrollable_content_region.width, self.rich_style
        if not self.row_count:
            lines = wrap_cells(self.empty_text, max(1, width))
            strip = Strip([Segment(lines[y] if y < len(lines) else "", Style(dim=True))])
        elif y < HEADER_HEIGHT:
            strip = self._draw_header(width)
        else:
            row, line = divmod(y - HEADER_HEIGHT + self.scroll_offset.y, self.geometry.row_height)
            first_row, scrolled_height = divmod(self.scroll_offset.y, self.geometry.row_height)
            next_row = first_row + self.count_visible_cells()[0]
            if not scrolled_height and row >= next_row:  # only whole rows
                hidden_rows = draw_hidden_rows(self.row_count - next_row if not line else 0)
                return Strip([hidden_rows]).apply_style(base_style).adjust_cell_length(width, base_style)
            if row >= self.row_count:
                return Strip.blank(width, base_style)
            colours = self.grid.row_colours
            style = self.make_colour_style(colours[row]) if colours else Style.null()
            label = draw_row_label(self.grid.row_labels[row], line, self.geometry, row == self.cursor, style)
            strip = self._join_line(label, lambda column: self._draw_cell_line(row, column, line))
        return strip.apply_style(base_style).adjust_cell_length(width, base_style)

    def _join_line(self, label: Segment, draw_cell: Callable[[int], list[Segment]]) -> Strip:
        """Return a line with the label, which never scrolls, and the visible part of the cells."""
        geometry = self.geometry
        cells_width = max(0, self.scrollable_content_region.width - geometry.label_width)
        first, skipped_width = divmod(self.scroll_offset.x, geometry.column_width)
        # Only whole cells, unless they are scrolled by a part of one: the header's arrow shows that there are more.
        count = self.count_visible_cells()[1] + 2 * bool(skipped_width)
        columns = range(first, min(self.column_count, first + count))
        segments = [segment for column in columns for segment in draw_cell(column)]
        return Strip([label, *Strip(segments).crop(skipped_width, skipped_width + cells_width)])

    def _draw_header(self, width: int) -> Strip:
        """Draw the column labels, with an arrow where more columns are hidden."""
        corner = draw_corner(self.grid.column_heading, self.geometry, has_hidden_columns=self.scroll_offset.x > 0)
        strip = self._join_line(corner, self._draw_column_label)
        has_more = self.scroll_offset.x < self.virtual_size.width - self.scrollable_content_region.width
        if has_more and self.column_count > self.count_visible_cells()[1]:
            last = -(-self.scroll_offset.x // self.geometry.column_width) + self.count_visible_cells()[1]
            return append_hidden_count(strip.adjust_cell_length(width), self.column_count - last)
        return strip

    def _draw_column_label(self, column: int) -> list[Segment]:
        frame_style = self._choose_cursor_style((self.scroll_offset.y // self.geometry.row_height, column))
        label, is_current = self.grid.column_labels[column], column == self.column
        return [*draw_column_label(label, self.geometry, is_current, frame_style), self.geometry.gap]

    def _choose_cursor_style(self, place: tuple[int, int]) -> Style | None:
        """Return the style of the bars around the cell under the cursor; None for other cells."""
        if place != (self.cursor, self.column):
            return None
        return self.make_colour_style("accent") + Style(bold=True) if self.has_focus else Style(dim=True)

    def _draw_cell_line(self, row: int, column: int, line: int) -> list[Segment]:
        place, geometry = (row, column), self.geometry
        cell, cursor_style = self.grid.cells.get(place), self._choose_cursor_style(place)
        is_compared = place in self.marked_cells
        if not geometry.picture_height:
            return draw_symbol_cell(cell, is_compared, cursor_style, self.make_colour_style)
        is_caption = line == geometry.picture_height
        style_below = self._choose_cursor_style((row + 1, column))
        frame = choose_edge(cursor_style, style_below) if is_caption else choose_sides(cursor_style)
        if cell is None:
            content = [Segment(frame.edge * geometry.picture_width, frame.style)]
        elif is_caption:
            content = draw_caption(cell, geometry, is_compared, frame, self.make_colour_style)
        elif (picture := self._draw_picture(place, cell)) is not None:
            content = picture[line]
        else:
            content = [
                draw_placeholder(cell, geometry, line, self._pictures.is_unreadable(place), self.make_colour_style)
            ]
        return [Segment(frame.left, frame.style), *content, Segment(frame.right, frame.style), geometry.gap]
