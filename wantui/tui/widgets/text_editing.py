"""Common behaviour of the multi-line editors."""

from typing import TYPE_CHECKING

from textual.events import Paste
from textual.widgets import TextArea

from wantui.tui.widgets.pasting import refuse_large_paste
from wantui.tui.widgets.printable_lines import PrintableLinesMixin

if TYPE_CHECKING:
    _Base = TextArea
else:
    _Base = object


class TextEditorMixin(PrintableLinesMixin, _Base):
    """Behaviour common to all text areas of the application; a plain class, see `LineInputMixin`."""

    async def _on_paste(self, event: Paste) -> None:
        """Let the text area take the paste, unless it is too large."""
        refuse_large_paste(self, event)
