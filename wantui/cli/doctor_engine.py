"""Checks of `wantui doctor` for the queue, the engine, and whether the engine survives a logout."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from wantui.cli.doctor_finding import Finding

if TYPE_CHECKING:
    from wantui.queue.state_dir import StateDirectory


def check_queue_database(state_dir: "StateDirectory") -> Finding:
    """Check the queue database without changing it; only the engine may rename a damaged database."""
    import sqlite3

    from wantui.engine.queue_opening import DATABASE_ADVICE
    from wantui.errors import UserError
    from wantui.queue.database import DATABASE_FILE, check_database, is_database_damage
    from wantui.queue.state_dir import find_write_error
    from wantui.queue.state_files import find_file_write_error

    database_path = state_dir.directory / DATABASE_FILE
    hold_description = None
    try:
        if os.path.lexists(database_path):
            hold_description = check_database(database_path)
    except sqlite3.DatabaseError as error:
        advice = (
            "`wantui engine start` renames it and creates a new one" if is_database_damage(error) else DATABASE_ADVICE
        )
        return Finding("problem", "queue", f"cannot open {database_path}: {error}", advice)
    except UserError as error:
        return Finding("problem", "queue", str(error))
    if (reason := find_write_error(state_dir.directory)) is not None:
        return Finding("problem", "queue", f"cannot write {state_dir.directory}: {reason}", "free disk space")
    if (reason := find_file_write_error(database_path)) is not None:
        advice = "give your user permission to write this file"
        return Finding("problem", "queue", f"cannot write {database_path}: {reason}", advice)
    if hold_description is not None:
        return Finding("problem", "queue", f"on hold: {hold_description}")
    return Finding("note" if state_dir.note else "ok", "queue", state_dir.note or f"in {state_dir.directory}")


def check_engine_state() -> Iterator[Finding]:
    """Check the queue and the engine, and whether the engine survives a logout."""
    from wantui.engine.control import find_engine_process_id, find_published_engine
    from wantui.engine.logind import read_logout_effect
    from wantui.engine.notices import find_settings_error
    from wantui.errors import UserError
    from wantui.queue.state_dir import find_state_directory

    try:
        state_dir = find_state_directory()
    except UserError as error:
        yield Finding("problem", "queue", str(error))
        return
    yield check_queue_database(state_dir)
    engine, process_id = find_published_engine(state_dir.directory), find_engine_process_id(state_dir.directory)
    status_text = "not running" if process_id is None else f"process {process_id} is starting"
    yield Finding(
        "ok", "engine", f"process {engine.process_id}, logs in {engine.logs_folder}" if engine else status_text
    )
    for warning in engine.list_warnings() if engine else ():
        yield Finding("note", "engine", warning)
    if (fault := find_settings_error()) is not None:
        yield Finding("problem", "notices", fault)
    logind_state = read_logout_effect()
    if logind_state.engine_survives:
        yield Finding("ok", "logout", f"the engine survives a logout ({logind_state.explanation})")
    else:
        yield Finding(
            "problem",
            "logout",
            f"logging out stops the engine ({logind_state.explanation})",
            "run loginctl enable-linger, and run the engine as a systemd unit: wantui doctor --systemd-unit",
        )
