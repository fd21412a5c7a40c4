"""Exit of the application after a signal, or after the loss of its terminal."""

import os
import select
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from textual.app import App

from wantui.tui.terminal.lent_terminal import EXIT_SIGNALS

MAX_EXIT_SECONDS = 2.0
"""Maximum seconds of a regular exit without a terminal; then the process is ended."""


class ExitWatcher:
    """Let an application exit after a signal or the loss of its terminal.

    Args:
        save: saves what must survive; called before the application exits.
    """

    def __init__(self, app: App[Any], save: Callable[[], None]) -> None:
        self.app, self.save = app, save

    def start(self) -> None:
        """Handle signals, and watch the terminal; do nothing outside of the main thread, as in tests."""
        if threading.current_thread() is not threading.main_thread():
            return
        for signal_number in (*EXIT_SIGNALS, signal.SIGINT, signal.SIGQUIT):
            signal.signal(signal_number, self._exit)
        if not self.app.is_headless and os.isatty(0):
            threading.Thread(target=self._watch_terminal, name="terminal", daemon=True).start()

    def _exit(self, *_: object) -> None:
        """Exit after a signal or the loss of the terminal; force the exit after `MAX_EXIT_SECONDS`."""
        timer = threading.Timer(MAX_EXIT_SECONDS, os._exit, (1,))
        timer.daemon = True
        timer.start()
        self.save()
        self.app.exit()

    def _watch_terminal(self) -> None:
        """Exit if the terminal disappears without a signal; otherwise reading from it would loop forever."""
        poll = select.poll()
        poll.register(0, 0)  # no events requested: poll always reports a hang-up
        poll.poll()
        self.app.call_later(self._exit)
        time.sleep(MAX_EXIT_SECONDS)
        os._exit(1)
