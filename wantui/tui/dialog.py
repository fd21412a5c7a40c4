"""Mixin of all modal screens."""

from wantui.tui.dismissing import DismissOnceMixin
from wantui.tui.selection import RemovedWidgetGuardMixin
from wantui.tui.timers import OneShotTimersMixin


class DialogMixin(OneShotTimersMixin, DismissOnceMixin, RemovedWidgetGuardMixin):
    """Mixin for modal screens that avoids faults of Textual in timers, quick answers and selections."""
