"""Widgets of Textual's that show text of any origin: nothing in it reaches the terminal as a command."""

from typing import TYPE_CHECKING

from rich.segment import Segment
from textual.strip import Strip
from textual.widget import Widget

from wantui.formatting import UNPRINTABLE

if TYPE_CHECKING:
    _Base = Widget
else:
    _Base = object


class PrintableLinesMixin(_Base):
    """Leaves out of what is drawn, not of what is edited, each character that a terminal would obey.

    Such characters have no width, so that everything else stays where it is. A plain class: see `LineInputMixin`.
    """

    def render_line(self, y: int) -> Strip:
        strip: Strip = super().render_line(y)
        if not UNPRINTABLE.search(strip.text):
            return strip
        segments = [Segment(UNPRINTABLE.sub("", text), style, control) for text, style, control in strip]
        return Strip(segments).adjust_cell_length(strip.cell_length)
