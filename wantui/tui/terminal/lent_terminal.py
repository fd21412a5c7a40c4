"""Lend the terminal to another program, such as an editor, and take it back."""

import signal
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from textual.app import App, SuspendNotSupported

from wantui.errors import UserError
from wantui.stop_signals import STOP_SIGNALS


class TerminalNotLentError(UserError):
    """Raised if the application has no terminal to lend (in a browser), or was asked to exit."""


class _ExitRequested(BaseException):
    """Raised by one of `EXIT_SIGNALS` inside the block, to interrupt its waiting for a key or a program."""


@contextmanager
def _preserve_terminal_modes() -> Iterator[None]:
    """Restore the terminal modes (echo, line mode, ...), which a killed program leaves changed."""
    try:
        modes = termios.tcgetattr(0)
    except termios.error:  # no terminal, as in tests
        yield
        return
    yield  # the block raises nothing
    with suppress(termios.error):  # the terminal may be gone
        termios.tcsetattr(0, termios.TCSADRAIN, modes)


EXIT_SIGNALS: tuple[signal.Signals, ...] = (
    *(number for number in STOP_SIGNALS if number != signal.SIGQUIT),
    signal.SIGALRM,
)
"""Signals that ask the application to exit, besides the signals of keys; without a handler, they would end it with a
broken terminal."""


@contextmanager
def lend_terminal(app: App[Any]) -> Iterator[None]:
    """Lend the terminal to the block, and always take it back.

    `App.suspend` does not restore the terminal after an exception. The exception is therefore stored, and raised once
    the terminal is restored. Ctrl-C and Ctrl-\\ reach the other program only. `EXIT_SIGNALS` end the block first, so
    that the application can restore the terminal before it exits.

    Raises:
        TerminalNotLentError: the application has no terminal to lend, or was asked to exit.
    """
    failure: BaseException | None = None
    received_signals: list[int] = []

    def request_exit(signal_number: int, _: FrameType | None) -> None:
        if not received_signals:  # a second signal must not interrupt restoring the terminal
            received_signals.append(signal_number)
            raise _ExitRequested

    handlers_by_signal = {signal_number: signal.signal(signal_number, request_exit) for signal_number in EXIT_SIGNALS}
    for signal_number in (signal.SIGINT, signal.SIGQUIT):
        handlers_by_signal[signal_number] = signal.signal(signal_number, lambda *_: None)
    try:
        with app.suspend(), _preserve_terminal_modes():
            try:
                yield
            except _ExitRequested:
                failure = TerminalNotLentError("the other program was interrupted: wantui was asked to exit")
            except BaseException as error:
                failure = error
    except SuspendNotSupported:
        raise TerminalNotLentError("cannot lend the terminal to another program: no terminal is attached") from None
    finally:
        for signal_number, handler in handlers_by_signal.items():
            signal.signal(signal_number, handler)
    if received_signals and callable(handler := handlers_by_signal[signal.Signals(received_signals[0])]):
        handler(received_signals[0], None)
    if failure is not None:
        raise failure
