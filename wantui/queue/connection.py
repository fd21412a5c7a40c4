"""A connection to the queue database that reports a long wait for a lock, and raises only sqlite3 errors."""

import math
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wantui.formatting import escape_unprintable

LOCK_NOTICE_SECONDS = 2.0
"""Seconds of waiting for a locked database before `on_locked` is called."""
LOCK_POLL_SECONDS = 0.5
"""Longest wait inside SQLite, in seconds: between two, signals such as Ctrl-C are handled."""
LOCK_RECHECK_SECONDS = 1.0
"""Seconds after which a process that still has the lock is taken to keep it."""
RETRIED_ERROR_CODES = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY_RECOVERY)
"""Codes of errors after which the same statement may succeed later."""
LOCK_TABLE = Path("/proc/locks")
MAX_NAMED_PROCESSES = 3
"""Maximum number of processes that a message names."""

LockListener = Callable[[str], None]
"""Function that is called with the name of the process that has locked the database."""


class _Cursor(sqlite3.Cursor):
    """A cursor that raises only sqlite3 errors, even for messages about damage that are not UTF-8."""

    connection: "QueueConnection"

    def execute(self, *arguments: Any) -> "_Cursor":
        began_at, has_reported = time.monotonic(), False
        while True:
            try:
                with convert_decode_errors():
                    super().execute(*arguments)
                return self
            except sqlite3.OperationalError as error:
                waited_seconds = time.monotonic() - began_at
                if getattr(error, "sqlite_errorcode", None) not in RETRIED_ERROR_CODES:
                    raise
                if waited_seconds >= self.connection.wait_seconds:
                    error.args = (f"database is locked by {describe_lock_holder(self.connection.path)}",)
                    raise
            if waited_seconds >= LOCK_NOTICE_SECONDS and not has_reported and self.connection.on_locked is not None:
                has_reported = True
                self.connection.on_locked(describe_lock_holder(self.connection.path))

    def fetchone(self) -> Any:
        with convert_decode_errors():
            return super().fetchone()

    def fetchall(self) -> list[Any]:
        with convert_decode_errors():
            return super().fetchall()

    def __next__(self) -> Any:
        with convert_decode_errors():
            return super().__next__()


class QueueConnection(sqlite3.Connection):
    """A connection whose statements wait for a locked database, and report it after LOCK_NOTICE_SECONDS."""

    path = Path()
    wait_seconds = 0.0
    """Seconds for which a statement waits for a locked database."""
    on_locked: LockListener | None = None

    def execute(self, *arguments: Any) -> Any:
        return self.cursor(_Cursor).execute(*arguments)

    def set_wait_seconds(self, wait_seconds: float) -> None:
        """Change the seconds for which each later statement waits."""
        self.wait_seconds = wait_seconds
        super().execute(f"PRAGMA busy_timeout = {_to_poll_milliseconds(wait_seconds)}").close()

    def is_write_locked(self, wait_seconds: float) -> bool:
        """Return whether another process prevents writing for `wait_seconds`.

        Raises:
            sqlite3.Error: the database cannot be used for another reason.
        """
        usual_wait_seconds, usual_listener = self.wait_seconds, self.on_locked
        self.set_wait_seconds(wait_seconds)
        self.on_locked = None
        try:
            self.execute("BEGIN IMMEDIATE")
            self.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            return True
        finally:
            self.set_wait_seconds(usual_wait_seconds)
            self.on_locked = usual_listener
        return False


def connect_to_queue(path: Path, wait_seconds: float, on_locked: LockListener | None = None) -> QueueConnection:
    """Return a connection in autocommit mode, without checks of the database.

    Args:
        wait_seconds: seconds for which each statement waits for a locked database.
        on_locked: called once in each statement that waits for LOCK_NOTICE_SECONDS.

    Raises:
        sqlite3.DatabaseError: the file cannot be opened.
    """
    connection = sqlite3.connect(
        path, timeout=_to_poll_milliseconds(wait_seconds) / 1000, isolation_level=None, factory=QueueConnection
    )
    connection.path, connection.wait_seconds, connection.on_locked = path, wait_seconds, on_locked
    return connection


def _to_poll_milliseconds(wait_seconds: float) -> int:
    return math.ceil(min(wait_seconds, LOCK_POLL_SECONDS) * 1000)


@contextmanager
def convert_decode_errors() -> Iterator[None]:
    """Raise sqlite3.DatabaseError inside the block for stored text that is not UTF-8."""
    try:
        yield
    except UnicodeDecodeError:
        raise sqlite3.DatabaseError("its text is not UTF-8") from None


def describe_lock_holder(path: Path) -> str:
    """Describe who has locked a database, as in "process 812 (python3)"."""
    return find_lock_holder(path) or "another process"


def find_lock_holder(path: Path) -> str | None:
    """Return a description of other processes with a write lock on a database; None if none is known."""
    return _describe_processes(find_lock_holder_ids(path) or frozenset())


def find_lock_holder_ids(path: Path) -> frozenset[int] | None:
    """Return the process IDs of other processes with a write lock on a database; None if the system does not tell.

    The kernel's table names them. Opening the files instead, to ask for their locks, would drop the locks of this
    process when they are closed.
    """
    identities = set()
    for suffix in ("", "-shm"):
        try:
            status = path.with_name(path.name + suffix).stat()
        except OSError:
            continue
        identities.add(f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}")
    try:
        lines = LOCK_TABLE.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    process_ids = set()
    for line in lines:
        words = line.split()  # 1: POSIX ADVISORY WRITE 812 08:01:131 120 120
        if len(words) == 8 and words[1] == "POSIX" and words[3] == "WRITE" and words[5] in identities:
            process_ids.add(int(words[4]))
    return frozenset(process_id for process_id in process_ids - {os.getpid()} if process_id > 0)


class LockWatch:
    """Watch for processes that keep a database locked while another process, such as a starting engine, waits for it.

    A process that writes for an instant, as each client does, is none: a process must have the lock in two polls that
    are LOCK_RECHECK_SECONDS apart.

    Args:
        on_locked: called once for each process that keeps the lock, at the earliest after LOCK_NOTICE_SECONDS.
    """

    def __init__(self, path: Path, on_locked: LockListener) -> None:
        self.path, self.on_locked = path, on_locked
        self._began_at, self._polled_at = time.monotonic(), -math.inf
        self._holder_ids, self._lasting_ids, self._reported_ids = frozenset[int](), frozenset[int](), frozenset[int]()

    def poll(self, waiting_process_id: int | None) -> None:
        """Read the lock table if LOCK_RECHECK_SECONDS have passed; call this often.

        Args:
            waiting_process_id: process that waits for the lock, and may have it for a moment.
        """
        now = time.monotonic()
        if now - self._polled_at < LOCK_RECHECK_SECONDS:
            return
        holder_ids = (find_lock_holder_ids(self.path) or frozenset()) - {waiting_process_id}
        self._lasting_ids = holder_ids & self._holder_ids
        self._polled_at, self._holder_ids = now, holder_ids
        new_ids = self._lasting_ids - self._reported_ids
        if now - self._began_at >= LOCK_NOTICE_SECONDS and (description := _describe_processes(new_ids)) is not None:
            self._reported_ids |= new_ids
            self.on_locked(description)

    def find_lasting_holder(self) -> str | None:
        """Return a description of the processes that kept the lock in the last two polls and have it now, or None."""
        return _describe_processes(self._lasting_ids & (find_lock_holder_ids(self.path) or frozenset()))


def _describe_processes(process_ids: Iterable[int]) -> str | None:
    names = [_describe_process(process_id) for process_id in sorted(process_ids)]
    return " and ".join(names[:MAX_NAMED_PROCESSES]) or None


def _describe_process(process_id: int) -> str:
    try:
        name = Path(f"/proc/{process_id}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return f"process {process_id}"
    return f"process {process_id} ({escape_unprintable(name)})"
