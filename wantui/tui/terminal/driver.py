"""Textual driver that survives being stopped and continued at any time."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress

from textual.app import App
from textual.drivers.linux_driver import LinuxDriver


def count_pending_writes(app: "App[object]") -> int:
    """Return the number of updates that the terminal of an application has not taken yet; 0 with another driver."""
    return getattr(app._driver, "pending_write_count", 0)


class TerminalDriver(LinuxDriver):
    """Driver that takes the terminal again each time the process continues after a stop (ctrl+z).

    Textual's driver has four faults, which this class avoids:

    * After SIGSTOP and SIGCONT, it starts a second time without having ended: it then stores the raw terminal modes as
      those to restore at the exit, and two threads compete for the keys.
    * After Ctrl-Z and `fg`, nothing is drawn until something changes.
    * It leaves a terminal that reports the mouse in pixels (Kitty, Ghostty, foot) in that mode.
    * Its signal handlers write to a queue whose lock the interrupted code may hold, which blocks forever.
    """

    _is_stop_requested = False
    _is_suspended = False
    """True from leaving the terminal for a stop until taking it back."""

    @property
    def pending_write_count(self) -> int:
        """Return the number of updates that the terminal has not taken yet; over a slow link, updates accumulate."""
        return self._writer_thread._queue.qsize() if self._writer_thread is not None else 0

    def _disable_mouse_support(self) -> None:
        super()._disable_mouse_support()
        if self._mouse_pixels:
            self._mouse_pixels = False  # until the terminal is asked again after a restart
            self.write("\x1b[?1016l")

    def _sigtstp_application(self, *_: object) -> None:
        """Stop the process; first return the terminal, unless another program uses it."""
        self._is_stop_requested = True
        if not (self._auto_restart and self._call_soon(self._stop)):
            os.kill(os.getpid(), signal.SIGSTOP)

    def _sigcont_application(self, *_: object) -> None:
        """Take the terminal again, unless another program uses it."""
        self._is_stop_requested = False
        if self._auto_restart:
            self._call_soon(self._restart)

    def _call_soon(self, function: Callable[[], None]) -> bool:
        """Schedule a call in the event loop; return False if the loop is closed."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function)
            return True
        return False

    @property
    def _is_started(self) -> bool:
        return self._writer_thread is not None and self._writer_thread.is_alive()

    def _is_in_background(self) -> bool:
        try:
            return os.tcgetpgrp(self.fileno) != os.getpgrp()
        except OSError:  # no controlling terminal
            return False

    def _stop(self) -> None:
        if not self._is_stop_requested:  # continued meanwhile
            return
        if self._is_started:
            self.suspend_application_mode()
            self._is_suspended = True
        os.kill(os.getpid(), signal.SIGSTOP)

    def _restart(self) -> None:
        if self._is_in_background():
            os.kill(os.getpid(), signal.SIGSTOP)
            return
        if self._is_started:
            self.suspend_application_mode()  # restores the modes from before the start, which the next start reads
        elif not self._is_suspended:
            return  # the application is exiting
        self._is_suspended = False
        self._must_signal_resume = True
        self.resume_application_mode()
        self._app.refresh(layout=True)
