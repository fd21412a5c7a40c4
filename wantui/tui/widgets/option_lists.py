"""Lists of options that can be paged through before there is room for them."""

from typing import TYPE_CHECKING

from textual.command import CommandList
from textual.widgets import OptionList, SelectionList

if TYPE_CHECKING:
    _Base = OptionList
else:
    _Base = object


class PagingMixin(_Base):
    """An option list that does not page where no line of it is shown, as in a very low terminal; a plain class.

    Textual looks for the line of the highlighted option, and has none as long as the list has no room.
    """

    def action_page_up(self) -> None:
        """Move one page up."""
        if self.scrollable_content_region:
            super().action_page_up()  # type: ignore[no-untyped-call]

    def action_page_down(self) -> None:
        """Move one page down."""
        if self.scrollable_content_region:
            super().action_page_down()  # type: ignore[no-untyped-call]


class PagedOptionList(PagingMixin, OptionList):
    """An option list for terminals of any size."""


class PagedSelectionList(PagingMixin, SelectionList[int]):
    """A list of options that can be marked, for terminals of any size."""


class PagedCommandList(PagingMixin, CommandList):
    """The list of the command palette, for terminals of any size."""
