"""Pane below the table of trajectories: one of several views, with their titles as tabs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual import getters
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.message import Message

from wantui.tui.analysis.views import VIEW_TITLES, Canvas
from wantui.tui.content import set_titles
from wantui.tui.widgets.diff_text import DiffText
from wantui.tui.wrapping import wrap_text


class TrajectoryDetails(VerticalScroll):
    """Pane with one view of a trajectory, its attention, or the groups."""

    class Resized(Message):
        """The pane has another size, and its view must be drawn again."""

    @dataclass
    class MovedOn(Message):
        """A key for scrolling was pressed, but all of the view is visible."""

        count: int

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("k", "scroll_up", "Up", show=False),
        Binding("j", "scroll_down", "Down", show=False),
        Binding("ctrl+u", "page_up", "Page up", show=False),
        Binding("ctrl+d", "page_down", "Page down", show=False),
        Binding("g", "scroll_home", "First", show=False),
        Binding("G", "scroll_end", "Last", show=False),
    ]

    details_text = getters.query_one("#curve-cells", DiffText)

    def compose(self) -> ComposeResult:
        yield DiffText(id="curve-cells")

    def get_canvas(self) -> Canvas:
        """Return the size of the pane and its colours."""
        width = self.scrollable_content_region.width - 1  # keeps numbers apart from the scroll bar
        return Canvas(max(20, width), max(4, self.size.height), self.details_text.make_colour_style)

    def on_resize(self) -> None:
        self.post_message(self.Resized())

    def action_scroll_up(self) -> None:
        self._scroll_or_move_on(-1)

    def action_scroll_down(self) -> None:
        self._scroll_or_move_on(1)

    def _scroll_or_move_on(self, count: int) -> None:
        if self.max_scroll_y:
            self.scroll_relative(y=count, animate=False)
        else:
            self.post_message(self.MovedOn(count))

    def show_tabs(self, views: Sequence[str], active_view: str, hint: str) -> None:
        """Show the titles of the views, and a hint on the keys of the active view."""
        parts: list[Content | tuple[str, str]] = []
        for view in views:
            title = f" {VIEW_TITLES[view]} "
            parts.append((title, "bold reverse") if view == active_view else (title, "not bold"))
        set_titles(self, Content.assemble(*parts), hint)

    def show_lines(self, lines: Sequence[Text]) -> None:
        """Show drawn lines."""
        self.details_text.show_lines(lines or [Text("")])

    def show_message(self, text: str) -> None:
        """Show a text, wrapped."""
        width = self.get_canvas().width
        self.show_lines([line for part in text.splitlines() for line in wrap_text(part, width) or [Text("")]])
