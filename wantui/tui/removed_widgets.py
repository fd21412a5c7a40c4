"""Mixin for screens that ignores clicks on widgets that are being removed."""

from typing import TYPE_CHECKING

from textual.geometry import Offset
from textual.screen import Screen
from textual.widget import Widget

if TYPE_CHECKING:
    _Base = Screen[object]
else:
    _Base = object


class RemovedWidgetGuardMixin(_Base):
    """Mixin for screens that ignores clicks on widgets without a parent.

    A removed toast stays under the mouse until the next redraw. Textual starts a text selection by asking the parent
    of the clicked widget for its position, and crashes if there is no parent.
    """

    def get_widget_and_offset_at(self, x: int, y: int) -> tuple[Widget | None, Offset | None]:
        """Return the widget under the mouse, or None if it is being removed."""
        widget, offset = super().get_widget_and_offset_at(x, y)
        if widget is None or isinstance(widget, Screen) or widget.parent is not None:
            return widget, offset
        return None, None
