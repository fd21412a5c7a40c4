"""Search input that is hidden while unused."""

from wantui.tui.widgets.line_input import HiddenLineInput


class Search(HiddenLineInput):
    """Search input; hidden and empty until `open` and after `close`."""

    DEFAULT_CSS = """
    Search { display: none; padding: 0 1; }
    Search.-open { display: block; }
    """

    def __init__(self, placeholder: str) -> None:
        super().__init__(placeholder=placeholder, id="search", compact=True)

    def open(self) -> None:
        """Show and focus the input."""
        self.add_class("-open")
        self.screen.set_focus(self)

    def close(self) -> None:
        """Clear and hide the input."""
        self.value = ""
        self.remove_class("-open")
