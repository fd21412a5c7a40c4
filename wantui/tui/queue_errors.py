"""Sentences on a queue that cannot be changed."""

import sqlite3


def describe_queue_error(error: Exception) -> str:
    """Return why the queue was not changed, and what to do."""
    if not isinstance(error, sqlite3.OperationalError):
        return f"cannot change the queue: {error}. wantui queue ls says more."
    reason = f"another program holds it ({error})" if "locked" in str(error) else str(error)
    return f"cannot change the queue: {reason}. Nothing was changed; try again."
