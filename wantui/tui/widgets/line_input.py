"""One-line inputs that accept pastes of several lines and draw nothing while idle."""

from typing import TYPE_CHECKING, Any

from textual.events import Paste
from textual.widgets import Input

from wantui.tui.widgets.ordered_keys import OrderedKeysMixin
from wantui.tui.widgets.pasting import MAX_INPUT_LENGTH, discard_large_paste, notify_refusal
from wantui.tui.widgets.printable_lines import PrintableLinesMixin


def join_lines(text: str) -> str:
    """Join the non-blank lines of a text with spaces."""
    return " ".join(line for line in text.splitlines() if line.strip())


if TYPE_CHECKING:
    _Base = Input
else:
    _Base = object


class LineInputMixin(OrderedKeysMixin, PrintableLinesMixin, _Base):
    """Mixin for all inputs of the application.

    The mixins are not Textual classes, because Textual looks up styles by the first base class only.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.set_reactive(Input.cursor_blink, False)  # blinking sends 3 kB/s

    def _on_paste(self, event: Paste) -> None:
        """Insert all pasted lines; Textual would insert only the first."""
        kept_length = len(self.value) - len(self.selected_text)
        if discard_large_paste(self, event, "paste less", kept_length + len(join_lines(event.text))):
            return
        event.prevent_default()
        event.stop()
        self.replace(event.text, *self.selection)

    def restricted(self) -> None:
        """Tell the user that the input is full."""
        notify_refusal(self, f"cannot insert this: the limit of a line is {MAX_INPUT_LENGTH:,} characters. Shorten it")

    def replace(self, text: str, start: int, end: int) -> None:
        """Replace a range with a text; join its lines into one, because Textual's clipboard may contain several.

        Refuse a value that would exceed the limit and be longer than the current value.
        """
        if "\n" in text or "\r" in text:
            text = join_lines(text)
        first, last = sorted((max(0, start), min(len(self.value), end)))
        new_length = len(self.value) - (last - first) + len(text)
        if new_length > max(MAX_INPUT_LENGTH, len(self.value)):  # a value of a config may be longer already
            self.restricted()
            return
        super().replace(text, start, end)


class LineInput(LineInputMixin, Input):
    """One-line input."""


class HiddenLineInput(LineInput):
    """One-line input that can have the focus only while it has the class `-open`."""

    def allow_focus(self) -> bool:
        return super().allow_focus() and self.has_class("-open")


class ValueInput(HiddenLineInput):
    """Input of a setting; if its suggestions end in an equals sign, a second equals sign typed after one is ignored."""

    def replace(self, text: str, start: int, end: int) -> None:
        if self.suggester is None or text != "=" or not self.value[:start].endswith("="):
            super().replace(text, start, end)
