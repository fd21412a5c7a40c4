"""Dialogs: a yes/no question, an input of one line, and a viewer of long text."""

from collections.abc import Callable

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label, Static

from wantui.tui.backdrop import BackdropMixin
from wantui.tui.content import make_content
from wantui.tui.widgets.line_input import LineInput


class Confirm(BackdropMixin, ModalScreen[bool]):
    """Dialog that confirms a destructive action; No has the focus."""

    BINDINGS = [
        Binding("y", "answer(True)", "Yes"),
        Binding("n,escape", "answer(False)", "No"),
        Binding("left,right", "app.focus_next", "Other button", show=False),
    ]

    def __init__(self, question: str, yes_label: str) -> None:
        super().__init__()
        self.question, self.yes_label = question, yes_label

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as dialog:
            dialog.border_title = "Confirm"
            dialog.border_subtitle = "← → choose   enter confirm   esc close"
            yield Label(make_content(self.question, keep_lines=True))
            with Horizontal(classes="buttons"):
                yield Button("No (n)", id="no")
                yield Button(f"{self.yes_label} (y)", id="yes", variant="error")

    def on_mount(self) -> None:
        self.set_focus(self.query_one("#no"))

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id == "yes")

    def action_answer(self, is_confirmed: bool) -> None:
        self.dismiss(is_confirmed)


class InputDialog(BackdropMixin, ModalScreen[str | None]):
    """Dialog that returns one line of text, or None.

    Args:
        submit: called with the dialog and its text when the user presses enter; it calls `dismiss`, or it calls
            `show_error` and keeps the dialog open. None dismisses the dialog.
    """

    BINDINGS = [Binding("escape", "dismiss(None)", "Cancel")]

    def __init__(
        self, question: str, initial_value: str = "", submit: "Callable[[InputDialog, str], None] | None" = None
    ) -> None:
        super().__init__()
        self.question, self.initial_value, self.submit = question, initial_value, submit

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as dialog:
            dialog.border_subtitle = "enter confirm   esc close"
            yield Label(make_content(self.question, keep_lines=True))
            yield LineInput(self.initial_value)
            yield Static("", id="input-error", markup=False)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.show_error("")
        if self.submit is None:
            self.dismiss(event.value)
        else:
            self.submit(self, event.value)

    def show_error(self, error: str) -> None:
        """Show why the text cannot be used; an empty text removes the error."""
        error_line = self.query_one("#input-error", Static)
        error_line.display = bool(error)
        error_line.update(make_content(f"✗ {error}" if error else "", keep_lines=True))


class TextViewer(BackdropMixin, ModalScreen[None]):
    """Dialog that shows a long text."""

    BINDINGS = [Binding("escape,q,enter", "dismiss", "Close")]

    def __init__(self, title: str, text: str) -> None:
        super().__init__()
        self.heading, self.text = title, text

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog reader") as scroll:
            scroll.border_title = make_content(self.heading)
            scroll.border_subtitle = "↑ ↓ scroll   esc close"
            yield Static(make_content(self.text, keep_lines=True))

    def on_mount(self) -> None:
        self.set_focus(self.query_one(VerticalScroll))
