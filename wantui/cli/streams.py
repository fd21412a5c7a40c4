"""Handle closed standard streams, and describe errors of the operating system."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from typing import IO
from weakref import WeakSet

from wantui.errors import SHORTAGE_ADVICE, SHORTAGE_ERROR_NUMBERS

_closed_streams: WeakSet[IO[str]] = WeakSet()
"""Output streams whose reader has closed them."""
WRITE_ERROR_CODES = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EEXIST, errno.ENOTEMPTY))
"""Values of errno that only occur when a file is written."""


class OutputClosedError(Exception):
    """Raised by a command that only prints, when nobody reads its output any more."""


class OutputWriteError(Exception):
    """Raised when stdout cannot be written, for example on a full disk; the message is the system's reason.

    It is not an OSError, because the commands would then blame the files that they write at the same time.
    """


def prepare_standard_streams() -> None:
    """Open missing standard streams on /dev/null, and let stdout and stderr accept any text.

    A process may start with closed streams. Python then sets them to None, and the next opened file (the database, say)
    would get their descriptor, to which child processes write.
    """
    for descriptor_number, stream_name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, stream_name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != descriptor_number:
                os.dup2(descriptor, descriptor_number)
                os.close(descriptor)
            setattr(
                sys,
                stream_name,
                open(descriptor_number, "w" if descriptor_number else "r", encoding="utf-8", closefd=False),  # noqa: SIM115
            )
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a locale without UTF-8 lacks most characters


@contextmanager
def discard_output_on_closed_pipe() -> Iterator[None]:
    """Flush the output at the end; if its reader is gone, discard the remaining output silently."""
    try:
        yield
        sys.stdout.flush()
        sys.stderr.flush()
    except (BrokenPipeError, OutputClosedError):
        _discard_stream(sys.stdout)
        _discard_stream(sys.stderr)


@contextmanager
def allow_closed_output(stream: IO[str]) -> Iterator[None]:
    """Let a command continue when the reader of its output ends, as in `wantui preview ... | head`; discard the output.

    The exit code still reports whether the command succeeded. Messages that a full disk or a closed terminal (EIO)
    cannot take are discarded too: a command must not end between two changes because nobody can read its messages.

    Raises:
        OutputWriteError: stdout cannot be written.
    """
    try:
        yield
    except BrokenPipeError:
        _closed_streams.add(stream)
        _discard_stream(stream)
    except OSError as error:
        _discard_stream(stream)
        if stream is not sys.stderr:
            raise OutputWriteError(error.strerror or str(error)) from None


def is_output_closed() -> bool:
    """Return whether the reader of stdout has closed it."""
    return sys.stdout in _closed_streams


def _discard_stream(stream: IO[str]) -> None:
    """Redirect an unwritable stream to /dev/null; otherwise Python would print an error at exit."""
    try:
        stream.flush()
    except OSError:
        with suppress(OSError), open(os.devnull, "w") as null_file:  # noqa: PTH123
            os.dup2(null_file.fileno(), stream.fileno())


def describe_os_error(error: OSError) -> str | None:
    """Return the message for an error of the operating system; None if the error names no file."""
    reason = error.strerror or str(error)
    file_name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes | os.PathLike) else None
    if file_name is None:
        if error.errno == errno.ENOENT and "temporary directory" in reason:  # of tempfile
            return f"cannot write temporary files: {reason}. Set TMPDIR to a folder with free space."
        if error.errno == errno.ENOENT:
            return "cannot access the working folder: it was deleted. Change to another folder."
        if error.errno in WRITE_ERROR_CODES or error.errno == errno.EIO:
            _discard_stream(sys.stdout)
            return f"cannot write the output: {reason}"
        return f"{reason}. {SHORTAGE_ADVICE}" if error.errno in SHORTAGE_ERROR_NUMBERS else None
    return f"cannot {'write' if error.errno in WRITE_ERROR_CODES else 'access'} {file_name}: {reason}"
