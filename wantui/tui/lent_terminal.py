"""The one way to leave the terminal to another program and to take it back."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from textual.app import App, SuspendNotSupported

from wantui.errors import UserError


class TerminalNotLentError(UserError):
    """Raised where the application is not on a terminal of its own, as in a browser."""


@contextmanager
def lent_terminal(app: App[Any]) -> Iterator[None]:
    """Leave the terminal to the block, and take it back however the block ends.

    `App.suspend` takes the terminal back only if nothing is raised inside it: an exception would leave the screen of
    the other program, without a reader of keys. The exception is therefore kept until the terminal is ours again.
    Ctrl-C is for the other program.

    Raises:
        TerminalNotLentError: the application has no terminal to lend.
    """
    failure: BaseException | None = None
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        with app.suspend():
            try:
                yield
            except BaseException as error:
                failure = error
    except SuspendNotSupported:
        raise TerminalNotLentError("cannot leave the terminal to another program: no terminal is attached") from None
    finally:
        signal.signal(signal.SIGINT, before)
    if failure is not None:
        raise failure
