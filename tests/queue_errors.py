"""Errors that a queue raises."""

import sqlite3

from wantui.queue.database import QueueUnavailableError


def make_lock_error() -> QueueUnavailableError:
    """Return the error of a queue that another process has locked."""
    error = QueueUnavailableError("database is locked")
    error.sqlite_errorcode = sqlite3.SQLITE_BUSY
    return error
