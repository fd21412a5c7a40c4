"""Dialogs: a yes/no question, an input of one line, and a viewer of long text."""

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
    """Dialog that returns one line of text, or None."""

    BINDINGS = [Binding("escape", "dismiss(None)", "Cancel")]

    def __init__(self, question: str, initial_value: str = "") -> None:
        super().__init__()
        self.question, self.initial_value = question, initial_value

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as dialog:
            dialog.border_subtitle = "enter confirm   esc close"
            yield Label(make_content(self.question, keep_lines=True))
            yield LineInput(self.initial_value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.dismiss(event.value)


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
