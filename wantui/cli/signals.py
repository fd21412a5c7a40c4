"""End a command on a stop signal as on Ctrl-C, so that it removes its unfinished files and reports what remains."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from wantui.stop_signals import STOP_SIGNALS

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

REDELIVERY_SECONDS = 0.01
"""Seconds until a signal is sent again after Python dropped its exception."""


class TerminatedError(KeyboardInterrupt):
    """Raised in the main thread on the first stop signal; the text is the name of the signal."""


@contextmanager
def raise_on_termination() -> Iterator[None]:
    """Raise TerminatedError inside the block on a stop signal; after the block, end this process by that signal.

    An ignored signal (nohup) stays ignored, and a second SIGQUIT ends the process at once. Commands may install their
    own handlers inside the block. Python drops exceptions of destructors and callbacks, even if a signal causes them:
    such a signal is sent again.
    """
    received_signals: list[int] = []
    handled_signals: list[int] = []
    previous_hook = sys.unraisablehook

    def resend_signal(dropped: "UnraisableHookArgs") -> None:
        if not isinstance(dropped.exc_value, KeyboardInterrupt):
            previous_hook(dropped)
            return
        signal_number: int = signal.SIGINT
        if isinstance(dropped.exc_value, TerminatedError):
            signal_number = received_signals.pop()
            handle_sigquit_again()
        hook_ended, handled_count = threading.Event(), len(received_signals)
        try:
            threading.Thread(target=_send_signal_after, args=(hook_ended, signal_number), daemon=True).start()
        except KeyboardInterrupt:  # Python would drop it too: the signal that is sent again stands for both
            pass
        finally:
            del received_signals[handled_count:]
            handle_sigquit_again()
            hook_ended.set()

    def handle_sigquit_again() -> None:
        """Handle SIGQUIT unless a signal has taken effect: the default would end the process before its cleanup."""
        if not received_signals and signal.SIGQUIT in handled_signals:
            signal.signal(signal.SIGQUIT, raise_terminated)

    def raise_terminated(signal_number: int, _: FrameType | None) -> None:
        # A closing terminal sends SIGHUP twice: the second must not interrupt the removal of files.
        if not received_signals:
            received_signals.append(signal_number)
            if signal.getsignal(signal.SIGQUIT) is raise_terminated:
                signal.signal(signal.SIGQUIT, signal.SIG_DFL)
            raise TerminatedError(signal.Signals(signal_number).name)

    if threading.current_thread() is threading.main_thread():
        for signal_number in STOP_SIGNALS:
            if signal.getsignal(signal_number) is signal.SIG_DFL:
                signal.signal(signal_number, raise_terminated)
                handled_signals.append(signal_number)
    sys.unraisablehook = resend_signal
    try:
        yield
    finally:
        sys.unraisablehook = previous_hook
        for signal_number in STOP_SIGNALS:
            if signal.getsignal(signal_number) is raise_terminated:
                signal.signal(signal_number, signal.SIG_DFL)
        if received_signals:  # the parent process must see that a signal ended this one
            os.kill(os.getpid(), received_signals[0])


def _send_signal_after(event: threading.Event, signal_number: int) -> None:
    event.wait()
    time.sleep(REDELIVERY_SECONDS)
    os.kill(os.getpid(), signal_number)
