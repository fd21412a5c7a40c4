"""Show progress in one line of the terminal, and erase the line when the work ends."""

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from wantui.cli.output import echo, erase_progress, print_progress

MIN_SECONDS_BETWEEN_UPDATES = 0.1


class ProgressLine:
    """Line on stderr that shows what the command is doing, if stderr is a terminal."""

    def __init__(self) -> None:
        self.shown_width, self.update_seconds = 0, 0.0

    def show_phase(self, text: str) -> None:
        """Show a new phase of the work, even directly after the last update."""
        self._replace(text)

    def show_count(self, text: str) -> None:
        """Show the progress, unless the line was updated a moment ago."""
        if time.monotonic() - self.update_seconds >= MIN_SECONDS_BETWEEN_UPDATES:
            self._replace(text)

    def erase(self) -> None:
        """Erase the line, so that a message can be printed in its place."""
        if self.shown_width:
            erase_progress(self.shown_width)
            self.shown_width = 0

    def print_message(self, text: str) -> None:
        """Print a message on stderr in place of the line."""
        self.erase()
        echo(text, err=True)

    def print_left_out(self, name: str, reason: str) -> None:
        """Print that an item is left out, and why."""
        self.print_message(f"left out: {name}: {reason}")

    def _replace(self, text: str) -> None:
        if not sys.stderr.isatty():
            return
        text = text[: shutil.get_terminal_size().columns - 1]  # a wrapped line could not be replaced
        print_progress(text.ljust(self.shown_width))
        self.shown_width, self.update_seconds = len(text), time.monotonic()


@contextmanager
def open_progress_line() -> Iterator[ProgressLine]:
    """Yield a line of progress, and erase it at the end."""
    line = ProgressLine()
    try:
        yield line
    finally:
        line.erase()
