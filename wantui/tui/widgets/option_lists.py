"""Option list that survives page keys in a terminal too low to show it."""

from textual.widgets import OptionList


class PagedOptionList(OptionList):
    """Option list that ignores page keys while no line of it is visible.

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
