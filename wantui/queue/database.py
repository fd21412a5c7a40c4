"""Open the queue database: settings, migrations, and errors for a newer or damaged database."""

import os
import sqlite3
import time
from contextlib import closing
from functools import cache
from pathlib import Path

from wantui.errors import UserError
from wantui.queue.connection import QueueConnection, connect_to_queue, convert_decode_errors
from wantui.queue.engine_lock import prevent_engine_start
from wantui.queue.lock_holders import LockListener
from wantui.queue.records import UNFINISHED_STATES, describe_hold
from wantui.queue.state_files import make_database_writable, reject_irregular_database

DATABASE_FILE = "queue.db"
BUSY_TIMEOUT_SECONDS = 10.0


QueueError = sqlite3.DatabaseError
QueueUnavailableError = sqlite3.OperationalError
"""Error of a database that is locked for too long or on a full disk; `is_database_damage` tells if it is damaged."""


ENGINE_START_TIMEOUT_SECONDS = 20.0
"""Seconds to wait for a starting engine, which may be about to migrate the database."""


class OlderEngineError(UserError):
    """Raised if a running engine of an earlier version prevents a migration, because the migration would break it."""


class NewerDatabaseError(UserError):
    """Raised for a database that a later version of wantui wrote."""


def is_database_damage(error: sqlite3.Error) -> bool:
    """Return whether an error means a damaged database, not a temporary condition such as a lock or a full disk."""
    if isinstance(error, sqlite3.OperationalError):
        # A missing table or column is SQLITE_ERROR; text that cannot be decoded has no code.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        return code & 0xFF == sqlite3.SQLITE_ERROR
    return isinstance(error, sqlite3.DatabaseError)


@cache
def load_migrations() -> tuple[str, ...]:
    """Return the SQL scripts that migrate each schema version to the next, starting from an empty database."""
    script_paths = sorted(Path(__file__).with_name("schema").glob("*.sql"))
    return tuple(path.read_text(encoding="utf-8") for path in script_paths)


def open_database(
    path: Path, wait_seconds: float = BUSY_TIMEOUT_SECONDS, on_locked: LockListener | None = None
) -> QueueConnection:
    """Return a connection with the newest schema, for one thread of one process.

    Args:
        wait_seconds: seconds to wait for a locked database, on opening and in each later statement.
        on_locked: called with the name of a process for whose lock a statement has waited two seconds.

    Raises:
        NewerDatabaseError: a later version of wantui wrote it.
        OlderEngineError: the database must be migrated, but a running engine of an earlier version uses it.
        UserError: one of its files is not a regular file, or cannot be written.
        sqlite3.DatabaseError: it is damaged.
    """
    reject_irregular_database(path)
    make_database_writable(path)
    connection = connect_to_queue(path, wait_seconds, on_locked)
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
        path.chmod(0o600)  # a new file, which SQLite has just created
        _migrate_database(connection, path)
        _check_schema(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def check_database(path: Path) -> str | None:
    """Check that the database can be opened and migrated, without changing it.

    Returns:
        Reason for the hold of the queue, and how the hold ends. If the queue is not on hold, the same for its first
        batch on hold; None without a hold.

    Raises:
        NewerDatabaseError: a later version of wantui wrote it.
        UserError: one of its files is not a regular file.
        sqlite3.DatabaseError: it is damaged.
    """
    reject_irregular_database(path)
    with (
        closing(connect_to_queue(path, BUSY_TIMEOUT_SECONDS, is_read_only=True)) as stored_connection,
        closing(sqlite3.connect(":memory:", isolation_level=None, factory=QueueConnection)) as memory_copy,
        convert_decode_errors(),
    ):
        stored_connection.execute("BEGIN")
        stored_connection.execute("SELECT count(*) FROM sqlite_master")  # `backup` would wait for a lock without limit
        stored_connection.backup(memory_copy)
        _apply_migrations(memory_copy, read_supported_version(memory_copy, path))
        _check_schema(memory_copy)
        hold_row = (
            memory_copy.execute("SELECT kind, reason, '' FROM hold").fetchone()
            or memory_copy.execute(
                "SELECT kind, reason, printf('batch %d: ', batch) FROM batch_hold WHERE EXISTS (SELECT 1 FROM video "
                f"WHERE video.batch = batch_hold.batch AND state IN {UNFINISHED_STATES}) ORDER BY batch LIMIT 1"
            ).fetchone()
        )
    return None if hold_row is None else str(hold_row[2]) + describe_hold(str(hold_row[0]), str(hold_row[1]))


def read_supported_version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the schema version of the database.

    Raises:
        NewerDatabaseError: a later version of wantui wrote or migrated it.
        sqlite3.DatabaseError: the database is damaged.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    known_version = len(load_migrations())
    if version < 0:
        raise sqlite3.DatabaseError(f"its schema version is {version}")
    if version > known_version:
        raise NewerDatabaseError(
            f"cannot open {path}: a newer wantui wrote it (schema {version}; this version has {known_version}). "
            "Update wantui, or set XDG_STATE_HOME to another folder"
        )
    return int(version)


def _migrate_database(connection: sqlite3.Connection, path: Path) -> None:
    deadline = time.monotonic() + ENGINE_START_TIMEOUT_SECONDS
    while (schema_version := read_supported_version(connection, path)) < len(load_migrations()):
        with prevent_engine_start(path.parent) as engine_info:
            # Never migrate while an engine runs: it can use only its own schema.
            if schema_version == 0 or engine_info is None or engine_info.get("process") == os.getpid():
                _apply_migrations(connection, schema_version)
                return
        # An engine of this version migrates the database before it publishes its version.
        has_started = "version" in engine_info or time.monotonic() > deadline
        if has_started and read_supported_version(connection, path) == schema_version:
            raise OlderEngineError(
                f"cannot open the queue {path}: a running engine of wantui {engine_info.get('version', 'unknown')} "
                f"(process {engine_info.get('process', 'unknown')}) cannot use a queue of this version. Stop it first: "
                "wantui engine stop"
            )
        time.sleep(0.02)


def _apply_migrations(connection: sqlite3.Connection, version: int) -> None:
    """Migrate the database from a schema version to the newest."""
    scripts = load_migrations()
    # Statement by statement, because executescript would commit the transaction.
    for number, script in enumerate(scripts[version:], start=version + 1):
        connection.execute("BEGIN IMMEDIATE")
        (current_version,) = connection.execute("PRAGMA user_version").fetchone()
        if current_version >= number:  # another process has applied this migration
            connection.execute("COMMIT")
            continue
        if current_version == 0 and connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise sqlite3.DatabaseError("it has tables but no schema version")
        try:
            for statement in _split_statements(script):
                connection.execute(statement)
        except sqlite3.OperationalError as error:
            if is_database_damage(error):  # the tables do not match the schema version
                raise sqlite3.DatabaseError(
                    f"schema {current_version} cannot be migrated to {number}: {error}"
                ) from None
            raise
        connection.execute(f"PRAGMA user_version = {number}")
        connection.execute("COMMIT")


def _check_schema(connection: sqlite3.Connection) -> None:
    """Check that every table and column exists.

    Raises:
        sqlite3.DatabaseError: names the missing table or columns.
    """
    stored_columns_by_table = _read_columns(connection)
    for table, columns in _list_expected_columns().items():
        if table not in stored_columns_by_table:
            raise sqlite3.DatabaseError(f"its table {table} is missing")
        if missing := columns - stored_columns_by_table[table]:
            raise sqlite3.DatabaseError(f"columns of its table {table} are missing: {', '.join(sorted(missing))}")


@cache
def _list_expected_columns() -> dict[str, set[str]]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as empty_database:
        for script in load_migrations():
            empty_database.executescript(script)
        return _read_columns(empty_database)


def _read_columns(connection: sqlite3.Connection) -> dict[str, set[str]]:
    rows = connection.execute(
        "SELECT t.name, c.name FROM sqlite_master AS t, pragma_table_info(t.name) AS c "
        "WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%'"
    )
    columns_by_table: dict[str, set[str]] = {}
    for table, column in rows.fetchall():
        columns_by_table.setdefault(table, set()).add(column)
    return columns_by_table


STORED_TYPES_BY_COLUMN_TYPE = {"INTEGER": ("integer",), "REAL": ("real", "integer"), "TEXT": ("text",)}
"""SQLite value types allowed for each declared column type; SQLite itself accepts any value in any column."""


def check_database_content(connection: sqlite3.Connection) -> None:
    """Read and check the complete database, which takes a second for a million events.

    Raises:
        sqlite3.DatabaseError: describes the damage.
    """
    (result,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if result != "ok":
        raise sqlite3.DatabaseError(result)
    for table in _list_expected_columns():
        for _ in connection.execute(f"SELECT * FROM {table}"):  # reading finds invalid text, which quick_check accepts
            pass
        for column in connection.execute(f"PRAGMA table_info({table})").fetchall():
            allowed_types = STORED_TYPES_BY_COLUMN_TYPE[column["type"]] + (() if column["notnull"] else ("null",))
            placeholders = ", ".join("?" * len(allowed_types))
            name = column["name"]
            wrong_type_row = connection.execute(
                f"SELECT typeof({name}) FROM {table} WHERE typeof({name}) NOT IN ({placeholders}) LIMIT 1",
                allowed_types,
            ).fetchone()
            if wrong_type_row is not None:
                raise sqlite3.DatabaseError(
                    f"column {name} of its table {table} contains a value of type {wrong_type_row[0]}"
                )
    if connection.execute("SELECT 1 FROM event WHERE NOT json_valid(data) OR json_type(data) <> 'object'").fetchone():
        raise sqlite3.DatabaseError("the data of an event are not a JSON object")


def _split_statements(script: str) -> list[str]:
    statements, statement = [], ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            statements.append(statement)
            statement = ""
    return statements


def quarantine_database(path: Path) -> Path:
    """Rename a damaged database with its log files; return the new path."""
    quarantine_name, suffix_number = f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}", 2
    quarantine_path = path.with_name(quarantine_name)
    while quarantine_path.exists():
        quarantine_path, suffix_number = path.with_name(f"{quarantine_name}-{suffix_number}"), suffix_number + 1
    for suffix in ("", "-wal", "-shm"):
        database_file = path.with_name(path.name + suffix)
        if database_file.exists():
            database_file.rename(quarantine_path.with_name(quarantine_path.name + suffix))
    return quarantine_path
