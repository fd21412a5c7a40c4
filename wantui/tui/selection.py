"""Clicks on widgets that are being removed, which would end the application."""

from typing import TYPE_CHECKING

from textual.geometry import Offset
from textual.screen import Screen
from textual.widget import Widget

if TYPE_CHECKING:
    _Base = Screen[object]
else:
    _Base = object


class SafeSelectionMixin(_Base):
    """A screen on which a click never begins a selection in a widget without a parent; a plain class.

    A toast that has just been removed is under the mouse until the screen is drawn again. Textual asks the parent of
    what is clicked where it is on the screen, and fails over a widget that has none.
    """

    def get_widget_and_offset_at(self, x: int, y: int) -> tuple[Widget | None, Offset | None]:
        """Return the widget under the mouse; none where it is being removed."""
        widget, offset = super().get_widget_and_offset_at(x, y)
        if widget is None or isinstance(widget, Screen) or widget.parent is not None:
            return widget, offset
        return None, None
