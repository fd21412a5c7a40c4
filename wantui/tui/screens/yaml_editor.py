"""YAML editor of a config, which is checked while the user types."""

from textual import getters, on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static, TextArea

from wantui.config import ConfigError, parse_config
from wantui.tui.backdrop import BackdropMixin
from wantui.tui.content import to_content
from wantui.tui.widgets.footer import KeyFooter
from wantui.tui.widgets.text_editing import TextEditorMixin


class YamlText(TextEditorMixin, TextArea):
    """Text area of the YAML editor."""


class YamlEditor(BackdropMixin, ModalScreen[str | None]):
    """Dialog that returns the edited text, or None."""

    BINDINGS = [
        Binding("ctrl+s,f5", "accept", "Apply", priority=True),
        Binding("escape", "dismiss(None)", "Discard", priority=True),
    ]

    editor = getters.query_one(TextArea)
    error_line = getters.query_one(".error", Static)

    def __init__(self, text: str, name: str) -> None:
        super().__init__()
        self.text, self.source = text, name

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as dialog:
            dialog.border_title = to_content(self.source)
            yield YamlText(self.text, show_line_numbers=True, tab_behavior="indent")
            yield Static("", markup=False, classes="error")
        yield KeyFooter()

    def on_mount(self) -> None:
        self.editor.cursor_blink = False
        self.check()

    @on(TextArea.Changed)
    def check(self) -> None:
        """Show the errors, with their lines."""
        self.error_line.update(to_content(self.find_errors() or "", keep_lines=True))

    def find_errors(self) -> str | None:
        """Return the errors of the text, one per line; None if it is valid."""
        try:
            parse_config(self.editor.text, self.source)
        except ConfigError as error:
            return "\n".join(f"✗ {problem}" for problem in error.problems)
        return None

    def action_accept(self) -> None:
        if self.find_errors() is None:
            self.dismiss(self.editor.text)
        else:
            self.notify("fix the errors below first, or press escape to discard", severity="error")
