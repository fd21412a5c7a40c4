"""Dismissal of a dialog, once."""

from typing import TYPE_CHECKING, Any

from textual.await_complete import AwaitComplete
from textual.screen import Screen

if TYPE_CHECKING:
    _Base = Screen[Any]
else:
    _Base = object


class DismissOnceMixin(_Base):
    """A dialog that takes the first answer only; a plain class.

    Keys that come quickly can answer twice before the dialog is gone: enter on a button and then n, say. Textual fails
    over the second answer, or takes the screen below off.
    """

    _is_dismissed = False

    def dismiss(self, result: Any = None) -> AwaitComplete:
        """Leave the dialog with an answer, and those that were opened over it; a second answer changes nothing."""
        if self._is_dismissed:
            return AwaitComplete()
        self._is_dismissed = True
        if self.app.screen is not self and self in self.app.screen_stack:
            self.pop_until_active()  # else Textual would take the one in front away, in the place of this one
        leaving: AwaitComplete = super().dismiss(result)
        return leaving
