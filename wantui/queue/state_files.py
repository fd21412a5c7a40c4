"""Open files of the state directory without blocking, and refuse anything but regular files by name."""

import errno
import os
import stat
from pathlib import Path

from wantui.errors import UserError

DATABASE_SUFFIXES = ("", "-wal", "-shm", "-journal")
"""Suffixes of the files that SQLite keeps for a database."""


def open_state_file(path: Path, flags: int, mode: int = 0o600) -> int:
    """Open a file with the flags and mode of `os.open`; return its descriptor.

    Raises:
        UserError: something else than a regular file has its name.
        OSError: it cannot be opened.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO would block forever.
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, mode)
    except OSError as error:
        # A folder, a socket or a FIFO without a reader, a loop of links, or a link to a missing folder.
        is_odd = error.errno in (errno.EISDIR, errno.ENXIO, errno.ELOOP)
        if is_odd or (error.errno == errno.ENOENT and path.is_symlink()):
            raise _odd_file_error(path) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _odd_file_error(path)
    return descriptor


def refuse_odd_database(path: Path) -> None:
    """Refuse a database of which a file is not a regular file: SQLite would block, or report an error of the disk.

    Raises:
        UserError: names the file.
    """
    real = Path(os.path.realpath(path))  # SQLite keeps its log files beside the target of a link
    if path.is_symlink() and not real.parent.is_dir():
        raise _odd_file_error(path)
    for suffix in DATABASE_SUFFIXES:
        file = real.with_name(real.name + suffix)
        try:
            is_regular = stat.S_ISREG(file.lstat().st_mode)
        except OSError:  # it is missing, or SQLite reports the error
            continue
        if not is_regular:
            raise _odd_file_error(file if suffix else path)  # never advise to remove the target of a link


def _odd_file_error(path: Path) -> UserError:
    return UserError(f"cannot use {path}: it is not a regular file. Remove it, and try again")
