"""Find a batch by number, folder name or path, also in a queue that the command does not otherwise use."""

import difflib
import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from wantui.errors import UserError
from wantui.formatting import format_number_ranges
from wantui.queue.connection import connect_to_queue
from wantui.queue.database import BUSY_TIMEOUT_SECONDS, DATABASE_FILE, read_supported_version
from wantui.queue.lock_holders import LockListener
from wantui.queue.state_files import reject_irregular_database

MAX_NUMBER_DIGITS = 15
"""Maximum digits of a word that is looked up as a batch number."""


class UnknownBatchError(UserError):
    """Raised if no batch has the given number, name or path."""


def read_batch_folders(
    directory: Path, wait_seconds: float = BUSY_TIMEOUT_SECONDS, on_locked: LockListener | None = None
) -> dict[int, Path]:
    """Return the folder of each batch by number, in queue order; do not create, migrate or replace the queue.

    Args:
        directory: the state directory, which may be missing.
        wait_seconds: seconds to wait for a locked database.
        on_locked: called with the name of a process for whose lock the query has waited two seconds.

    Raises:
        UserError: a later version of wantui wrote the queue, or one of its files is not a regular file.
        sqlite3.Error: the queue cannot be read.
    """
    path = directory / DATABASE_FILE
    if not os.path.lexists(path):
        return {}
    reject_irregular_database(path)
    # Not read-only: then SQLite would leave its log files behind.
    with closing(connect_to_queue(path, wait_seconds, on_locked)) as connection:
        connection.execute("PRAGMA query_only = ON")
        if read_supported_version(connection, path) == 0:  # another process is creating the queue
            return {}
        rows = connection.execute("SELECT id, folder FROM batch ORDER BY place, id").fetchall()
    return {number: Path(folder) for number, folder in rows}


def find_batch_folder(word: str, directory: Path, on_locked: LockListener | None = None) -> Path:
    """Return the folder of the batch with the given number, folder name or path; the queue stays unchanged.

    Raises:
        UnknownBatchError: suggests the most similar name.
        UserError: several batches have the name, or the queue cannot be read.
    """
    try:
        folders_by_number = read_batch_folders(directory, on_locked=on_locked)
    except sqlite3.Error as error:
        queue_path = directory / DATABASE_FILE
        raise UserError(
            f"cannot look up {word} in the queue {queue_path}: {error}. Give the path of the batch folder"
        ) from None
    return folders_by_number[find_batch_number(word, folders_by_number)]


def find_batch_number(word: str, folders_by_number: Mapping[int, Path]) -> int:
    """Return the number of the batch with the given number, folder name or path.

    Raises:
        UnknownBatchError: suggests the most similar name.
        UserError: several batches have the name.
    """
    if word.isascii() and word.isdecimal() and len(word) <= MAX_NUMBER_DIGITS and int(word) in folders_by_number:
        return int(word)
    batch_path = _resolve_path(word)
    matches = [number for number, folder in folders_by_number.items() if folder == batch_path] or [
        number for number, folder in folders_by_number.items() if folder.name == word
    ]
    if len(matches) > 1:
        numbers = ", ".join(map(str, matches))
        raise UserError(f"several batches are named {word!r}; give the number of one: {numbers}")
    if matches:
        return matches[0]
    if not folders_by_number:
        raise UnknownBatchError(f"no batch {word!r}: the queue is empty")
    similar_names: list[str] = []
    if word.strip() and not word.isdecimal():  # a similar number is not a likely typo
        names = [folder.name for folder in folders_by_number.values()]
        similar_names = [name for name in names if name.startswith(word)] or difflib.get_close_matches(
            word, names, 1, 0.5
        )
    if similar_names:
        raise UnknownBatchError(
            f"no batch {word!r} is in the queue; did you mean {similar_names[0]}? `wantui queue ls` lists all"
        )
    quoted_word = word if word.isdecimal() else repr(word)
    numbers = format_number_ranges(list(folders_by_number))
    raise UnknownBatchError(f"no batch {quoted_word} is in the queue, only {numbers}. List them: wantui queue ls --all")


def _resolve_path(word: str) -> Path | None:
    try:
        return Path(os.path.realpath(word))
    except ValueError:  # no path can hold such a character
        return None
