"""A one-line input that loses nothing from pasted text and draws nothing while idle."""

from typing import TYPE_CHECKING, Any

from textual.events import Paste
from textual.widgets import Input

from wantui.tui.widgets.pasting import refuse_large_paste
from wantui.tui.widgets.printable_lines import PrintableLinesMixin


def join_lines(text: str) -> str:
    """Return text of several lines as one, with a space where a line ended."""
    return " ".join(line for line in text.splitlines() if line.strip())


if TYPE_CHECKING:
    _Base = Input
else:
    _Base = object


class LineInputMixin(PrintableLinesMixin, _Base):
    """Behaviour common to all inputs of the application; a plain class, since Textual looks up styles by the first base
    only."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.set_reactive(Input.cursor_blink, False)  # a blink is 3 kB a second over a slow link

    def _on_paste(self, event: Paste) -> None:
        """Take all pasted lines, where Textual takes the first and drops the others."""
        if refuse_large_paste(self, event):
            return
        event.prevent_default()
        event.stop()
        self.replace(event.text, *self.selection)

    def replace(self, text: str, start: int, end: int) -> None:
        """Replace a stretch; also what Textual's own clipboard holds may be of several lines."""
        super().replace(join_lines(text) if "\n" in text or "\r" in text else text, start, end)


class LineInput(LineInputMixin, Input):
    """A line of text to type in."""


class HiddenLineInput(LineInput):
    """A line of text that is there only while it has the class `-open`; keys never go into it unseen."""

    def allow_focus(self) -> bool:
        return super().allow_focus() and self.has_class("-open")
