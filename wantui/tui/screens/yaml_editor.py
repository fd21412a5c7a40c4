"""The config as text, checked while one types."""

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
    """The text that is edited."""


class YamlEditor(BackdropMixin, ModalScreen[str | None]):
    """Gives the edited text back, or nothing."""

    BINDINGS = [
        Binding("ctrl+s,f5", "accept", "Use it", priority=True),
        Binding("escape", "dismiss(None)", "Leave it as it was", priority=True),
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
        try:
            parse_config(self.editor.text, self.source)
        except ConfigError as error:
            return "\n".join(f"✗ {problem}" for problem in error.problems)
        return None

    def action_accept(self) -> None:
        if self.find_errors() is None:
            self.dismiss(self.editor.text)
        else:
            self.notify("Fix the errors below first, or press Esc to discard", severity="error")
