"""List of any length that draws only visible rows, and redraws only changed rows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.events import Click
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from wantui.tui.widgets.diff_text import find_changed_spans, make_colour_style, make_strip
from wantui.tui.wrapping import wrap_cells

CURSOR_GLYPH = "▌"
"""Sign at the left of the selected row."""
GUTTER_WIDTH = 1
"""Width in cells of the column at the left for `CURSOR_GLYPH`; in a pane, it replaces the padding."""

RowRenderer = Callable[[int, int], Text]
"""Function that returns the text of a row, given its index and the width in cells."""
HeaderRenderer = Callable[[int], Text]
"""Function that returns the text of the header, given the width in cells."""


class VirtualList(ScrollView, can_focus=True):
    """List with a cursor; `fill_rows` sets the number of rows and the function that draws a row.

    Args:
        empty_text: text shown if the list is empty.
        header_renderer: draws a fixed line above the rows, hidden if the list is empty.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("ctrl+u", "half_page(-1)", "Half a page up", show=False),
        Binding("ctrl+d", "half_page(1)", "Half a page down", show=False),
        Binding("home,g", "move(-1000000)", "First", show=False),
        Binding("end,G", "move(1000000)", "Last", show=False),
        Binding("enter", "choose", "Open", show=False),
    ]
    DEFAULT_CSS = """
    VirtualList { height: 1fr; scrollbar-size-vertical: 1; overflow-x: hidden; overflow-y: auto; }
    VirtualList.pane { padding: 0 1 0 0; }
    """

    cursor: reactive[int] = reactive(0, repaint=False)

    @dataclass
    class ListMessage(Message):
        """Base of a list's messages; handlers select them by the list's id."""

        row_list: "VirtualList"

        @property
        def control(self) -> "VirtualList":
            return self.row_list

    @dataclass
    class Highlighted(ListMessage):
        """The cursor moved to another row."""

        row_index: int

    @dataclass
    class Chosen(ListMessage):
        """The row under the cursor was chosen by enter or a click."""

        row_index: int

    @dataclass
    class VisibleRowsChanged(ListMessage):
        """The visible rows changed, by scrolling, resizing or filling."""

        first_index: int
        last_index: int
        """Index of the last visible row; less than `first_index` if no row is visible."""

    def __init__(self, *, empty_text: str = "", header_renderer: HeaderRenderer | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.header_renderer = header_renderer
        self.empty_text = empty_text
        """Text shown if the list is empty."""
        self.shows_focus = False
        """True if the cursor is drawn as with focus, because the widget with the focus moves it."""
        self.row_count = 0
        self._row_renderer: RowRenderer = lambda index, width: Text()
        self._is_laid_out = False
        self._drawn_rows: dict[int, Text] = {}
        """Text of each visible row as last drawn, by index."""

    def fill_rows(self, row_count: int, draw_row: RowRenderer, keep_cursor: bool = True) -> None:
        """Show `row_count` rows; the cursor keeps its index, or moves to the first row."""
        self.row_count, self._row_renderer, self._drawn_rows = row_count, draw_row, {}
        self._set_virtual_size()
        self.set_reactive(VirtualList.cursor, max(0, min(self.cursor if keep_cursor else 0, row_count - 1)))
        if not keep_cursor:
            self.scroll_to(y=0, animate=False, force=True)
        self.refresh()
        self._post_visible_rows()

    @property
    def header_height(self) -> int:
        """Height of the header in lines: 0 or 1."""
        return 1 if self.header_renderer is not None and self.row_count else 0

    @property
    def row_width(self) -> int:
        """Return the width in cells that rows and header are drawn for."""
        return max(0, self.scrollable_content_region.width - GUTTER_WIDTH)

    def _set_virtual_size(self) -> None:
        # One more line, because the header covers one: otherwise the last row could not be scrolled into view.
        self.virtual_size = Size(self.scrollable_content_region.width or 1, self.row_count + self.header_height)
        self.scroll_y = min(self.scroll_y, self.max_scroll_y)  # Textual limits it only if the size of the list changes

    def redraw_changed_rows(self) -> None:
        """Redraw the changed cells of the visible rows."""
        width = self.row_width
        for index, drawn in list(self._drawn_rows.items()):
            if index >= self.row_count or (row := self._row_renderer(index, width)) == drawn:
                continue
            y = index - self.scroll_offset.y + self.header_height
            spans = find_changed_spans(make_strip(drawn, width), make_strip(row, width))
            if spans and self.header_height <= y < self.size.height:
                self.refresh(*(Region(GUTTER_WIDTH + start, y, end - start, 1) for start, end in spans))

    def get_visible_range(self) -> tuple[int, int]:
        """Return the indices of the first and last visible rows."""
        first = self.scroll_offset.y
        return first, min(self.row_count, first + self.size.height - self.header_height) - 1

    def _post_visible_rows(self) -> None:
        first, last = self.get_visible_range()
        self._drawn_rows = {index: text for index, text in self._drawn_rows.items() if first <= index <= last}
        if self.is_mounted:
            self.post_message(self.VisibleRowsChanged(self, first, last))

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        if round(old_value) != round(new_value):
            self._post_visible_rows()

    def update_row(self, index: int) -> None:
        """Redraw one row."""
        y = index - self.scroll_offset.y + self.header_height
        if self.header_height <= y < self.size.height:
            self.refresh(Region(0, y, self.size.width, 1))

    def validate_cursor(self, cursor: int) -> int:
        return max(0, min(cursor, self.row_count - 1))

    def watch_cursor(self, previous: int, current: int) -> None:
        if previous == current:
            return
        self.update_row(previous)
        self.update_row(current)
        self.show_row(current)
        if self.row_count:
            self.post_message(self.Highlighted(self, current))

    def show_row(self, index: int) -> None:
        """Scroll until a row is visible."""
        if not self.size.height:  # not laid out: any row would be scrolled to the top
            return
        row = max(0, min(index, self.row_count - 1))
        self.scroll_to_region(Region(0, row, 1, 1 + self.header_height), animate=False, force=True)

    def action_move(self, rows: int) -> None:
        self.cursor += rows

    def action_page(self, pages: int) -> None:
        self.cursor += pages * max(1, self.size.height - self.header_height - 1)

    def action_half_page(self, half_pages: int) -> None:
        self.cursor += half_pages * max(1, (self.size.height - self.header_height) // 2)

    def action_choose(self) -> None:
        if self.row_count:
            self.post_message(self.Chosen(self, self.cursor))

    def on_click(self, event: Click) -> None:
        """Handle a click on a row; ignore clicks on the border and header."""
        offset = event.get_content_offset(self)
        if offset is None or offset.y < self.header_height:
            return
        if (index := offset.y - self.header_height + self.scroll_offset.y) < self.row_count:
            self.click_row(index, offset.x - GUTTER_WIDTH)

    def click_row(self, index: int, x: int) -> None:
        """Move the cursor to the row clicked at column `x`; choose the row if the cursor is already there."""
        if index == self.cursor:
            self.action_choose()
        self.cursor = index

    def on_focus(self) -> None:
        self.update_row(self.cursor)

    def on_blur(self) -> None:
        self.update_row(self.cursor)

    def render_line(self, y: int) -> Strip:
        index, width = y - self.header_height + self.scroll_offset.y, self.row_width
        if self.header_renderer is not None and y < self.header_height:
            line = self.header_renderer(width)
            line.stylize_before("bold dim")
            return self._render_text(line, " ", self.rich_style)
        if index >= self.row_count:
            empty_lines = self._wrap_empty_text(width) if self.row_count == 0 else []
            line = Text(empty_lines[y] if y < len(empty_lines) else "", style="dim")
            return self._render_text(line, " ", self.rich_style)
        drawn_row = self._drawn_rows[index] = self._row_renderer(index, width)
        if index != self.cursor:
            return self._render_text(drawn_row, " ", self.rich_style)
        return self._render_text(drawn_row, CURSOR_GLYPH, self.rich_style + self._choose_cursor_style())

    @property
    def _draws_focus(self) -> bool:
        return self.has_focus or self.shows_focus

    def _render_text(self, line: Text, gutter_text: str, base_style: Style) -> Strip:
        """Return a line of the list: the gutter and a text, drawn over a style."""
        gutter_style = (
            base_style + self.make_colour_style("accent") if self._draws_focus else base_style + Style(dim=True)
        )
        # Reversed cells of several colours would be a patchwork.
        segments = [
            Segment(s.text, base_style if base_style.reverse else base_style + (s.style or Style.null()))
            for s in make_strip(line, self.row_width)
        ]
        return Strip([Segment(gutter_text, gutter_style), *segments]).adjust_cell_length(self.size.width, base_style)

    def _wrap_empty_text(self, width: int) -> list[str]:
        """Wrap the text of an empty list."""
        return [part for line in self.empty_text.splitlines() for part in wrap_cells(line, max(1, width)) or [""]]

    def _choose_cursor_style(self) -> Style:
        """Return the style of the selected row: a tinted background; in 16 colours, reversed if the list has focus."""
        name = "cursor-background" if self._draws_focus else "cursor-blurred-background"
        background = make_colour_style(self.app, name).color
        if background is not None and background.triplet:
            return Style(bgcolor=background, bold=True if self._draws_focus else None)
        return Style(reverse=True) if self._draws_focus else Style.null()

    def on_resize(self) -> None:
        self._set_virtual_size()
        self._post_visible_rows()
        if not self._is_laid_out:
            self._is_laid_out = True
            self.show_row(self.cursor)

    def make_colour_style(self, colour_name: str) -> Style:
        return make_colour_style(self.app, colour_name)
