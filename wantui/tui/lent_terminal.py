"""The one way to leave the terminal to another program and to take it back."""

import signal
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from textual.app import App, SuspendNotSupported

from wantui.errors import UserError


class TerminalNotLentError(UserError):
    """Raised if the application has no terminal of its own, as in a browser."""


class _ExitRequested(BaseException):
    """Raised inside the block by SIGTERM or SIGHUP, which a block that waits for a key or a program would not see."""


@contextmanager
def _preserve_terminal_modes() -> Iterator[None]:
    """Restore echo, line mode and the like after another program, which may have been killed before it did so."""
    try:
        modes = termios.tcgetattr(0)
    except termios.error:  # no terminal, as in tests
        yield
        return
    yield  # the block raises nothing
    with suppress(termios.error):  # the terminal may be gone
        termios.tcsetattr(0, termios.TCSADRAIN, modes)


EXIT_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def lend_terminal(app: App[Any]) -> Iterator[None]:
    """Lend the terminal to the block, and take it back however the block ends.

    `App.suspend` takes the terminal back only if nothing is raised inside it: an exception would leave the screen of
    the other program, without a reader of keys. The exception is therefore kept until the terminal is ours again.
    Ctrl-C and Ctrl-\\ are for the other program. A signal to leave ends the block first, so that the terminal is given
    back in the state that it had before the application.

    Raises:
        TerminalNotLentError: the application has no terminal to lend, or was told to leave.
    """
    failure: BaseException | None = None
    told: list[int] = []

    def leave(number: int, _: FrameType | None) -> None:
        if not told:  # a second one must not interrupt taking the terminal back
            told.append(number)
            raise _ExitRequested

    before = {number: signal.signal(number, leave) for number in EXIT_SIGNALS}
    for number in (signal.SIGINT, signal.SIGQUIT):
        before[number] = signal.signal(number, lambda *_: None)
    try:
        with app.suspend(), _preserve_terminal_modes():
            try:
                yield
            except _ExitRequested:
                failure = TerminalNotLentError("the other program was ended: wantui was told to leave")
            except BaseException as error:
                failure = error
    except SuspendNotSupported:
        raise TerminalNotLentError("cannot leave the terminal to another program: no terminal is attached") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if told and callable(handler := before[signal.Signals(told[0])]):
        handler(told[0], None)
    if failure is not None:
        raise failure
