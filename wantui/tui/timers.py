"""One-shot timers that fire even if the process was suspended while they were started."""

from typing import TYPE_CHECKING

from textual.message_pump import MessagePump
from textual.timer import Timer, TimerCallback

if TYPE_CHECKING:
    _Base = MessagePump
else:
    _Base = object


class OneShotTimersMixin(_Base):
    """Mixin for the application and for all screens, dialogs included, whose one-shot timers are never dropped.

    A timer of Textual skips the moments that have passed when its task starts to wait. A one-shot timer has only one
    moment: on a busy machine, it was dropped if the process had to wait for longer than the delay. After a dropped
    timer of `App.delay_update`, which every switch of the screen starts, nothing was drawn any more.
    """

    def set_timer(
        self, delay: float, callback: TimerCallback | None = None, *, name: str | None = None, pause: bool = False
    ) -> Timer:
        """Call a function once after `delay` seconds, or later if the process was busy."""
        timer = super().set_timer(delay, callback, name=name, pause=pause)
        timer._skip = False  # its task reads this when it starts, after this call
        return timer
