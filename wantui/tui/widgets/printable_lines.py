"""Mixin for Textual widgets with untrusted text: control characters do not reach the terminal."""

from typing import TYPE_CHECKING

from rich.segment import Segment
from textual.strip import Strip
from textual.widget import Widget

from wantui.formatting import UNPRINTABLE_PATTERN

if TYPE_CHECKING:
    _Base = Widget
else:
    _Base = object


class PrintableLinesMixin(_Base):
    """Mixin that omits control characters when drawing, but keeps them in the edited text.

    Control characters have no width, so the layout does not change.
    """

    def render_line(self, y: int) -> Strip:
        strip: Strip = super().render_line(y)
        if not UNPRINTABLE_PATTERN.search(strip.text):
            return strip
        segments = [Segment(UNPRINTABLE_PATTERN.sub("", text), style, control) for text, style, control in strip]
        return Strip(segments).adjust_cell_length(strip.cell_length)
