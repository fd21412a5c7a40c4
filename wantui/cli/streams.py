"""Standard streams that may be closed, and errors of the operating system as sentences."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from typing import IO
from weakref import WeakSet

_closed: "WeakSet[IO[str]]" = WeakSet()
"""Streams whose reader has closed."""
WRITE_ERRORS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EEXIST, errno.ENOTEMPTY))
"""Numbers of errors that only writing can meet."""


class OutputClosedError(Exception):
    """Raised by a command that has nothing to do but print, once the reader of its output is gone."""


def prepare_streams() -> None:
    """Make sure that stdin, stdout and stderr exist and take any text.

    A process may be started with closed streams. Python then has None for them, and the next file that is opened (the
    database, say) would get the descriptor that child processes take for their output.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a locale without UTF-8 lacks most characters


@contextmanager
def discard_on_closed_pipe() -> Iterator[None]:
    """Flush the output at the end; if its reader is gone, discard the rest silently."""
    try:
        yield
        sys.stdout.flush()
        sys.stderr.flush()
    except (BrokenPipeError, OutputClosedError):
        _discard(sys.stdout)
        _discard(sys.stderr)


@contextmanager
def output_may_close(stream: IO[str]) -> Iterator[None]:
    """Let the command continue without output where its reader is gone, as in `wantui preview ... | head`.

    Its exit code then still says whether it succeeded.
    """
    try:
        yield
    except BrokenPipeError:
        _closed.add(stream)
        _discard(stream)


def is_output_closed() -> bool:
    """Return whether the reader of the output has closed it."""
    return sys.stdout in _closed


def _discard(stream: IO[str]) -> None:
    """Redirect an unwritable stream to /dev/null, so that the interpreter does not report an error at exit."""
    try:
        stream.flush()
    except OSError:
        with suppress(OSError), open(os.devnull, "w") as nothing:  # noqa: PTH123
            os.dup2(nothing.fileno(), stream.fileno())


def describe_os_error(error: OSError) -> str | None:
    """Return an error of the operating system as a sentence; None if it does not name its subject."""
    reason = error.strerror or str(error)
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes | os.PathLike) else None
    if name is None:
        if error.errno == errno.ENOENT:
            return "cannot access the working folder: it was deleted. Change to another folder."
        if error.errno in WRITE_ERRORS or error.errno == errno.EIO:
            _discard(sys.stdout)
            return f"cannot write the output: {reason}"
        return None
    return f"cannot {'write' if error.errno in WRITE_ERRORS else 'access'} {name}: {reason}"
