"""Common behaviour of multi-line editors."""

from typing import TYPE_CHECKING

from textual.events import Paste
from textual.widgets import TextArea

from wantui.tui.widgets.ordered_keys import OrderedKeysMixin
from wantui.tui.widgets.pasting import discard_large_paste
from wantui.tui.widgets.printable_lines import PrintableLinesMixin

LARGE_TEXT_REMEDY = "paste less, or pass a file on the command line: wantui run --template-file, --config"

if TYPE_CHECKING:
    _Base = TextArea
else:
    _Base = object


class TextEditorMixin(OrderedKeysMixin, PrintableLinesMixin, _Base):
    """Mixin for all text areas: keeps keys in order, omits control characters when drawing, rejects large pastes."""

    def _on_resize(self) -> None:
        """Draw the text again: Textual wraps it anew, but draws only the part that became visible."""
        self.refresh()

    async def _on_paste(self, event: Paste) -> None:
        """Reject a paste that is too large; Textual's handler inserts others."""
        discard_large_paste(self, event, LARGE_TEXT_REMEDY)
