"""Messages for a queue that cannot be changed."""

import sqlite3

from pydantic import ValidationError

from wantui.json_files import describe_first_validation_error


def describe_queue_error(error: Exception) -> str:
    """Describe why the queue was not changed, and what to do."""
    if isinstance(error, ValidationError):
        reason = describe_first_validation_error(error)
        return f"cannot change the queue: {reason}. Change the setting, or run `wantui doctor`."
    if not isinstance(error, sqlite3.OperationalError):
        return f"cannot change the queue: {error}. Run `wantui queue ls` for details."
    reason = f"another program has locked it ({error})" if "locked" in str(error) else str(error)
    return f"cannot change the queue: {reason}. Nothing was changed; try again."
