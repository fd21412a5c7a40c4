"""Whether a process runs."""

import psutil


def has_ended(process_id: int) -> bool:
    """Return whether a process has ended, even if its parent has not waited for it."""
    try:
        return psutil.Process(process_id).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
