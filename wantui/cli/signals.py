"""End a command on a stop signal as on Ctrl-C, so that it removes its unfinished files and reports what remains."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from wantui.stop_signals import STOP_SIGNALS


class TerminatedError(KeyboardInterrupt):
    """Raised in the main thread on the first stop signal; the text is the name of the signal."""


@contextmanager
def raise_on_termination() -> Iterator[None]:
    """Raise TerminatedError inside the block on a stop signal; after the block, end this process by that signal.

    An ignored signal (nohup) stays ignored, and a second SIGQUIT ends the process at once. Commands may install their
    own handlers inside the block.
    """
    received_signals: list[int] = []

    def raise_terminated(signal_number: int, _: FrameType | None) -> None:
        if (
            not received_signals
        ):  # a closing terminal sends SIGHUP twice: the second must not interrupt the removal of files
            received_signals.append(signal_number)
            if signal.getsignal(signal.SIGQUIT) is raise_terminated:
                signal.signal(signal.SIGQUIT, signal.SIG_DFL)
            raise TerminatedError(signal.Signals(signal_number).name)

    if threading.current_thread() is threading.main_thread():
        for signal_number in STOP_SIGNALS:
            if signal.getsignal(signal_number) is signal.SIG_DFL:
                signal.signal(signal_number, raise_terminated)
    try:
        yield
    finally:
        for signal_number in STOP_SIGNALS:
            if signal.getsignal(signal_number) is raise_terminated:
                signal.signal(signal_number, signal.SIG_DFL)
        if received_signals:  # the parent process must see that a signal ended this one
            os.kill(os.getpid(), received_signals[0])
