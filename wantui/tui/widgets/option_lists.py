"""Option lists that survive page keys in a terminal too low to show them."""

from typing import TYPE_CHECKING

from textual.widgets import OptionList

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
