"""Processes that have locked the queue database, by the lock table of the kernel."""

import math
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from wantui.formatting import escape_unprintable

LOCK_NOTICE_SECONDS = 2.0
"""Seconds of waiting for a locked database before `on_locked` is called."""
LOCK_RECHECK_SECONDS = 1.0
"""Seconds after which a process that still has the lock counts as a lasting holder."""
LOCK_TABLE = Path("/proc/locks")
MAX_NAMED_PROCESSES = 3
"""Maximum number of processes that a message names."""

LockListener = Callable[[str], None]
"""Function that is called with the name of the process that has locked the database."""


def describe_lock_holder(path: Path) -> str:
    """Describe who has locked a database, as in "process 812 (python3)"."""
    return find_lock_holder(path) or "another process"


def find_lock_holder(path: Path) -> str | None:
    """Return a description of other processes with a write lock on a database; None if none is known."""
    return _describe_processes(find_lock_holder_ids(path) or frozenset())


def find_lock_holder_ids(path: Path) -> frozenset[int] | None:
    """Return the process IDs of other processes with a write lock on a database; None if unknown.

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

    A process that writes only for an instant, as each client does, does not count: a holder must have the lock in two
    polls that are LOCK_RECHECK_SECONDS apart.

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
        """Describe the processes that had the lock in the last two polls and have it now; None if there are none."""
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
