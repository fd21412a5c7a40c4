"""Read UTF-8 text files of limited size that users name or write, without blocking on pipes that nobody asked for."""

import os
import re
import stat
from pathlib import Path

from wantui.errors import UserError
from wantui.formatting import escape_unprintable, format_bytes

_UTF_16_OR_32_PATTERN = re.compile(rb"\xff\xfe|(\x00\x00)?\xfe\xff|\x00{0,3}[\x09-\x7e]\x00|\x00{1,3}[\x09-\x7e]")
"""Start of a text in UTF-16 or UTF-32: a byte order mark, or an ASCII character with zero bytes beside it."""


class TextFileError(UserError):
    """Raised for a text file that cannot be read; `reason` is the reason without the path."""

    def __init__(self, path: Path, reason: str) -> None:
        self.reason = reason
        super().__init__(f"{escape_unprintable(str(path))} {reason}")


def read_text_file(path: Path, max_bytes: int, *, may_be_pipe: bool = False) -> str:
    """Return the text of a file of at most `max_bytes` bytes, without a byte order mark.

    Args:
        may_be_pipe: accept a pipe, such as `<(command)` in a shell, and wait for its end. Only for paths from the
            command line: elsewhere, a FIFO without a writer would block the program.

    Raises:
        TextFileError: the file is unreadable, too large, not UTF-8, or neither a file nor an accepted pipe.
    """
    try:
        # Check before opening, because opening some devices has effects; check again, in case the file was replaced.
        _check_file_type(path, path.stat().st_mode, may_be_pipe)
        nonblock_flag = 0 if may_be_pipe else os.O_NONBLOCK
        descriptor = os.open(path, os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC | nonblock_flag)
        with os.fdopen(descriptor, "rb") as file:
            _check_file_type(path, os.fstat(descriptor).st_mode, may_be_pipe)
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise TextFileError(path, f"cannot be read: {error.strerror or error}") from error
    if len(content) > max_bytes:
        raise TextFileError(path, f"is too large: more than {format_bytes(max_bytes)}")
    if _UTF_16_OR_32_PATTERN.match(content):
        raise TextFileError(path, "cannot be read: it is UTF-16 or UTF-32. Save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TextFileError(path, f"cannot be read: it is not UTF-8 ({error.reason}). Save it as UTF-8") from None


def is_pipe(path: Path) -> bool:
    """Return whether a path is a FIFO or a pipe; False if it cannot be examined."""
    try:
        return stat.S_ISFIFO(path.stat().st_mode)
    except OSError:
        return False


def _check_file_type(path: Path, file_mode: int, may_be_pipe: bool) -> None:
    if stat.S_ISREG(file_mode) or (may_be_pipe and stat.S_ISFIFO(file_mode)):
        return
    kind_text = (
        "a folder" if stat.S_ISDIR(file_mode) else "a pipe" if stat.S_ISFIFO(file_mode) else "a device or a socket"
    )
    raise TextFileError(path, f"cannot be read: it is {kind_text}, not a file")
