"""A connection to the queue database that reports a long wait for a lock, and raises only sqlite3 errors."""

import math
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wantui.queue.lock_holders import LOCK_NOTICE_SECONDS, LockListener, describe_lock_holder

LOCK_POLL_SECONDS = 0.5
"""Longest wait inside SQLite, in seconds; signals such as Ctrl-C are handled between two waits."""
IMMEDIATE_RETRY_SECONDS = 0.02
"""Seconds between two tries of a statement for which SQLite itself does not wait, such as PRAGMA journal_mode."""
RETRIED_ERROR_CODES = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY_RECOVERY)
"""Codes of errors after which the same statement may succeed later."""


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
            time.sleep(IMMEDIATE_RETRY_SECONDS)

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
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            return True
        finally:
            if self.in_transaction:
                self.execute("ROLLBACK")
            self.set_wait_seconds(usual_wait_seconds)
            self.on_locked = usual_listener
        return False


def connect_to_queue(
    path: Path, wait_seconds: float, on_locked: LockListener | None = None, is_read_only: bool = False
) -> QueueConnection:
    """Return a connection in autocommit mode, without checks of the database.

    Args:
        wait_seconds: seconds for which each statement waits for a locked database.
        on_locked: called once in each statement that waits for LOCK_NOTICE_SECONDS.
        is_read_only: whether to refuse changes; the database must exist.

    Raises:
        sqlite3.DatabaseError: the file cannot be opened.
    """
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={'ro' if is_read_only else 'rwc'}",
        uri=True,
        timeout=_to_poll_milliseconds(wait_seconds) / 1000,
        isolation_level=None,
        factory=QueueConnection,
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
