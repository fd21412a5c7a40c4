"""Messages for a queue that cannot be changed."""

import sqlite3


def describe_queue_error(error: Exception) -> str:
    """Describe why the queue was not changed, and what to do."""
    if not isinstance(error, sqlite3.OperationalError):
        return f"cannot change the queue: {error}. Run `wantui queue ls` for details."
    reason = f"another program has locked it ({error})" if "locked" in str(error) else str(error)
    return f"cannot change the queue: {reason}. Nothing was changed; try again."
