"""A line to search by, which is there only while it is used."""

from wantui.tui.widgets.line_input import HiddenLineInput


class Search(HiddenLineInput):
    """Hidden and empty until `open`; `close` makes it so again."""

    DEFAULT_CSS = """
    Search { display: none; margin: 0 1; }
    Search.-open { display: block; }
    """

    def __init__(self, placeholder: str) -> None:
        super().__init__(placeholder=placeholder, id="search", compact=True)

    def open(self) -> None:
        """Show it and type into it."""
        self.add_class("-open")
        self.screen.set_focus(self)

    def close(self) -> None:
        """Search for nothing any more."""
        self.value = ""
        self.remove_class("-open")
