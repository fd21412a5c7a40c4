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

    A Textual timer skips moments that have already passed when its task starts. A one-shot timer has only one
    moment, so Textual drops it if the process is busy for longer than the delay. Every change of the screen starts such
    a timer (`App.delay_update`); if it is dropped, nothing is drawn any more.
    """

    def set_timer(
        self, delay: float, callback: TimerCallback | None = None, *, name: str | None = None, pause: bool = False
    ) -> Timer:
        """Call a function once after `delay` seconds, or later if the process was busy."""
        timer = super().set_timer(delay, callback, name=name, pause=pause)
        timer._skip = False  # its task reads this when it starts, after this call
        return timer
