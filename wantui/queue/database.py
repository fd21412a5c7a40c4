"""Opening the database: settings, migrations, and what is done about one that is newer or damaged."""

import sqlite3
import time
from importlib.resources import files
from pathlib import Path

from wantui.errors import UserError

NAME = "queue.db"
BUSY_SECONDS = 10.0


QueueError = sqlite3.DatabaseError
Unavailable = sqlite3.OperationalError
"""The database is locked for too long, or its disk is full: things that pass."""


class NewerDatabase(UserError):
    """The database was written by a later version."""


def migrations() -> list[str]:
    """The SQL that leads from each version of the schema to the next, from nothing on."""
    found = sorted((part for part in files("wantui.queue").joinpath("schema").iterdir()), key=lambda part: part.name)
    return [part.read_text(encoding="utf-8") for part in found if part.name.endswith(".sql")]


def open_database(path: Path) -> sqlite3.Connection:
    """A connection with the newest schema, for one thread of one process.

    Raises:
        NewerDatabase: a later version of wantui wrote it.
        sqlite3.DatabaseError: it is damaged.
    """
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        connection.row_factory = sqlite3.Row
        _use_write_ahead_log(connection)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
        path.chmod(0o600)
        _migrate(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """SQLite does not wait for others here as it does elsewhere, and several may open a new file at once."""
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    steps = migrations()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == len(steps):
        return
    if version > len(steps):
        raise NewerDatabase(
            f"{path} was written by a newer wantui (schema {version}, this one knows {len(steps)}); "
            "update wantui, or set XDG_STATE_HOME to another folder"
        )
    # executescript commits what is open, so that each script brings its own transaction.
    for number, script in enumerate(steps[version:], start=version + 1):
        connection.execute("BEGIN IMMEDIATE")
        (now,) = connection.execute("PRAGMA user_version").fetchone()
        if now >= number:  # another process was faster
            connection.execute("COMMIT")
            continue
        for statement in _statements(script):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {number}")
        connection.execute("COMMIT")


def _statements(script: str) -> list[str]:
    found, statement = [], ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            found.append(statement)
            statement = ""
    return found


def put_aside(path: Path) -> Path:
    """Rename a damaged database and what belongs to it, and return its new name."""
    stamp, number = f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}", 2
    aside = path.with_name(stamp)
    while aside.exists():
        aside, number = path.with_name(f"{stamp}-{number}"), number + 1
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside
