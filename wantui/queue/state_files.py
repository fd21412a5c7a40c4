"""Open files of the state directory without blocking, and report unusable files by name."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
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
            raise _make_irregular_file_error(path) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _make_irregular_file_error(path)
    return descriptor


def reject_irregular_database(path: Path) -> None:
    """Reject a database with an irregular file: SQLite would block, or report a disk error.

    Raises:
        UserError: names the file.
    """
    if path.is_symlink() and not Path(os.path.realpath(path)).parent.is_dir():
        raise _make_irregular_file_error(path)
    for file, status in _read_database_statuses(path):
        if not stat.S_ISREG(status.st_mode):
            is_database = file.name == Path(os.path.realpath(path)).name
            # never advise to remove the target of a link
            raise _make_irregular_file_error(path if is_database else file)


def make_database_writable(path: Path) -> None:
    """Give read and write access to the files of a database to the user only; call this before SQLite opens them.

    SQLite opens a read-only file without an error, fails at the first write, and creates read-only log files.

    Raises:
        UserError: names the file that this user cannot write.
    """
    for file, _ in _read_database_statuses(path):
        with suppress(OSError):  # the check below has a reason
            file.chmod(0o600)
    if (reason := find_file_write_error(path)) is not None:
        raise UserError(
            f"cannot write the queue {path}: {reason}. Give your user permission to write this file, or set "
            "XDG_STATE_HOME to another folder"
        )


def find_file_write_error(path: Path) -> str | None:
    """Return why a file of a database cannot be written; None if all files can be written.

    A file that its owner may not write is not a fault: open descriptors can still write, and `make_database_writable`
    restores the permission. SQLite may remove its log files at any time.
    """
    for file, status in _read_database_statuses(path):
        if status.st_uid == os.geteuid() and not status.st_mode & stat.S_IWUSR:
            continue
        if not os.access(file, os.W_OK) and file.exists():
            return f"{file.name} {'is read-only' if status.st_uid == os.geteuid() else 'belongs to another user'}"
    return None


def _read_database_statuses(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Read the status of each existing database file."""
    real = Path(os.path.realpath(path))  # SQLite keeps its log files next to the target of a link
    for suffix in DATABASE_SUFFIXES:
        file = real.with_name(real.name + suffix)
        with suppress(OSError):  # it is missing, or SQLite reports the error
            yield file, file.lstat()


def _make_irregular_file_error(path: Path) -> UserError:
    return UserError(f"cannot use {path}: it is not a regular file. Remove it, and try again")
