"""Open the queue database, replace a damaged one, and describe the queues of other hosts."""

import fcntl
import os
import sqlite3
from contextlib import closing
from pathlib import Path

from wantui.engine.control import find_engine
from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.queue.connection import connect_to_queue
from wantui.queue.database import (
    DATABASE_FILE,
    check_database_content,
    is_database_damage,
    quarantine_database,
)
from wantui.queue.lock_holders import LockListener
from wantui.queue.new_folders import describe_unqueued_folders
from wantui.queue.queue import Queue
from wantui.queue.records import UNFINISHED_STATES
from wantui.queue.state_dir import StateDirectory, find_write_error
from wantui.queue.state_files import open_state_file, reject_irregular_database

QUARANTINE_LOCK = "quarantine.lock"
"""Name of the file that a process locks while it replaces a damaged database."""
DATABASE_ADVICE = "Free disk space, end the process that is locking the queue, or make its folder writable. Try again"
"""Remedies for a queue database that cannot be opened."""


def open_queue(
    state_dir: StateDirectory, is_engine: bool = False, on_locked: LockListener | None = None
) -> tuple[Queue, list[str]]:
    """Open the queue database; return the queue and messages for the user.

    A damaged database is quarantined and replaced by an empty one; finished videos stay in their folders.

    Args:
        is_engine: True to check the whole database, which takes seconds; only the engine does.
        on_locked: called with the name of a process for whose lock the queue has waited two seconds.

    Raises:
        UserError: the database cannot be opened, has a newer version, or is damaged while an engine uses it.
    """
    messages = [state_dir.note] if state_dir.note else []
    database_path = state_dir.directory / DATABASE_FILE
    try:
        queue = _open_checked_queue(state_dir, is_engine, on_locked)
        try:
            messages += describe_queues_of_other_hosts(state_dir, queue)
            messages += describe_unqueued_folders(state_dir.directory, queue.list_batches)
            return queue, messages
        except BaseException:
            queue.close()
            raise
    except sqlite3.DatabaseError as error:
        if not is_database_damage(error):
            raise _make_opening_error(database_path, error) from None
        if not is_engine and find_engine(state_dir.directory) is not None:
            raise UserError(
                f"the queue {database_path} is damaged ({error}). Stop the engine: wantui engine stop"
            ) from None
    # One process at a time: the next process opens the replaced database.
    quarantine_lock = open_state_file(state_dir.directory / QUARANTINE_LOCK, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(quarantine_lock, fcntl.LOCK_EX)
        try:
            return _open_checked_queue(state_dir, is_engine, on_locked), messages
        except sqlite3.DatabaseError as error:
            if not is_database_damage(error):
                raise _make_opening_error(database_path, error) from None
            quarantine_path = quarantine_database(database_path)
            messages.append(
                f"the queue {database_path} was damaged ({error}): it was renamed to {quarantine_path.name}, and an "
                "empty queue was created. Finished videos are in their folders; to queue the missing videos of a "
                "batch: wantui run --resume FOLDER"
            )
        return Queue(state_dir.directory, on_locked=on_locked), messages
    finally:
        os.close(quarantine_lock)


def _make_opening_error(database_path: Path, error: sqlite3.Error) -> UserError:
    """Return the error for a queue that cannot be opened now; SQLite calls a full disk an I/O error."""
    reason = f"{error} ({fault})" if (fault := find_write_error(database_path.parent)) else str(error)
    return UserError(f"the queue {database_path} cannot be opened: {reason}. {DATABASE_ADVICE}")


def _open_checked_queue(state_dir: StateDirectory, checks_content: bool, on_locked: LockListener | None) -> Queue:
    queue = Queue(state_dir.directory, on_locked=on_locked)
    if checks_content:
        try:
            check_database_content(queue.db)
        except BaseException:
            queue.close()
            raise
    return queue


def describe_queues_of_other_hosts(state_dir: StateDirectory, queue: Queue) -> list[str]:
    """Return notes on queues of other host names if this queue is empty: a recreated container has a new host name."""
    if not queue.is_empty():
        return []
    messages = []
    for database_path in sorted(state_dir.directory.parent.glob(f"*/{DATABASE_FILE}")):
        if database_path.parent == state_dir.directory or not (
            unfinished_count := _count_unfinished_batches(database_path)
        ):
            continue
        host, this_host = database_path.parent.name, state_dir.directory.name
        messages.append(
            f"the queue of {this_host} is empty, but the queue of {host} has "
            f"{format_count(unfinished_count, 'batch', 'batches')}: {database_path.parent}. If {host} was the earlier "
            "name of this machine (a recreated container), restore the name (docker run --hostname), or queue its "
            "batches here: wantui run --resume FOLDER"
        )
    return messages


def _count_unfinished_batches(database_path: Path) -> int:
    """Return the number of unfinished batches in another host's database, opened read-only."""
    try:
        reject_irregular_database(database_path)
        with closing(connect_to_queue(database_path, wait_seconds=1.0, is_read_only=True)) as connection:
            (count,) = connection.execute(
                f"SELECT count(DISTINCT batch) FROM video WHERE state IN {UNFINISHED_STATES}"
            ).fetchone()
            return int(count)
    except (sqlite3.Error, UserError):
        return 0
