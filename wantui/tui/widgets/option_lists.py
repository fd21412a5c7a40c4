"""Option lists that survive page keys in a terminal too low to show them."""

from typing import TYPE_CHECKING

from rich.segment import Segment
from textual.strip import Strip
from textual.widgets import OptionList, SelectionList

if TYPE_CHECKING:
    _Base = OptionList
else:
    _Base = object


class PagingMixin(_Base):
    """Mixin that ignores page keys while no line of the list is visible.

    Textual would look up the line of the highlighted option, and crash because there is none.
    """

    def action_page_up(self) -> None:
        """Move one page up, if any line is visible."""
        if self.scrollable_content_region:
            super().action_page_up()  # type: ignore[no-untyped-call]

    def action_page_down(self) -> None:
        """Move one page down, if any line is visible."""
        if self.scrollable_content_region:
            super().action_page_down()  # type: ignore[no-untyped-call]


class PagedOptionList(PagingMixin, OptionList):
    """Option list for terminals of any size."""


class PagedSelectionList(PagingMixin, SelectionList[int]):
    """Option list with multiple selection, for terminals of any size."""

    def render_line(self, y: int) -> Strip:
        """Draw a line with an empty box if it is not selected; Textual would draw the same box in another colour."""
        strip, index = super().render_line(y), self.scroll_offset.y + y
        if not 0 <= index < self.option_count or self.get_option_at_index(index).value in self.selected:
            return strip
        segments = list(strip)
        segments[1] = Segment(" ", segments[1].style)
        return Strip(segments)
