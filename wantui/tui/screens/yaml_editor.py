"""YAML editor of a config, which is checked while the user types."""

from textual import getters, on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static, TextArea

from wantui.config import ConfigError, parse_config
from wantui.tui.backdrop import BackdropMixin
from wantui.tui.content import make_content
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

    text_area = getters.query_one(TextArea)
    error_line = getters.query_one(".error", Static)

    def __init__(self, yaml_text: str, source_name: str) -> None:
        super().__init__()
        self.yaml_text, self.source_name = yaml_text, source_name

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as dialog:
            dialog.border_title = make_content(self.source_name)
            yield YamlText(self.yaml_text, show_line_numbers=True, tab_behavior="indent")
            yield Static("", markup=False, classes="error")
        yield KeyFooter()

    def on_mount(self) -> None:
        self.text_area.cursor_blink = False
        self.show_errors()

    @on(TextArea.Changed)
    def show_errors(self) -> None:
        """Show the errors, with their lines."""
        self.error_line.update(make_content(self.find_errors() or "", keep_lines=True))

    def find_errors(self) -> str | None:
        """Return the errors in the text, one per line; None if the text is valid."""
        try:
            parse_config(self.text_area.text, self.source_name)
        except ConfigError as error:
            return "\n".join(f"✗ {problem}" for problem in error.problems)
        return None

    def action_accept(self) -> None:
        if self.find_errors() is None:
            self.dismiss(self.text_area.text)
        else:
            self.notify("fix the errors below first, or press escape to discard", severity="error")
