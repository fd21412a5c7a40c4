"""Mixins of all modal screens."""

from typing import TYPE_CHECKING, Any

from textual.await_complete import AwaitComplete
from textual.screen import Screen

from wantui.tui.removed_widgets import RemovedWidgetGuardMixin
from wantui.tui.timers import OneShotTimersMixin

if TYPE_CHECKING:
    _Base = Screen[Any]
else:
    _Base = object


class DismissOnceMixin(_Base):
    """Mixin that makes a dialog accept only its first answer.

    Quick key presses can answer twice before the dialog closes, such as enter on a button and then n. Textual would
    raise an error for the second answer, or close the screen below.
    """

    _is_dismissed = False

    def dismiss(self, result: Any = None) -> AwaitComplete:
        """Close the dialog, and dialogs above it, with a result; ignore further calls."""
        if self._is_dismissed:
            return AwaitComplete()
        self._is_dismissed = True
        if self.app.screen is not self and self in self.app.screen_stack:
            self.pop_until_active()  # Textual would close the front dialog instead of this one
        dismissal: AwaitComplete = super().dismiss(result)
        return dismissal


class DialogMixin(OneShotTimersMixin, DismissOnceMixin, RemovedWidgetGuardMixin):
    """Mixin for modal screens that avoids Textual's faults in timers, quick answers and selections."""
