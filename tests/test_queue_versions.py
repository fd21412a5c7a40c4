"""A queue of an earlier version: commands migrate it, but never while an engine of that version runs."""

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Wantui

from wantui.engine.control import acquire_engine_lock
from wantui.queue import database
from wantui.queue.database import DATABASE_FILE, OlderEngineError, load_migrations
from wantui.queue.queue import Queue
from wantui.queue.state_dir import find_state_directory

OLD_ENGINE = """
import fcntl, json, os, sys, time
lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX)
os.write(lock, json.dumps({"process": os.getpid(), **json.loads(sys.argv[2])}).encode())
print("locked", flush=True)
time.sleep(1000)
"""
ANNOUNCED = '{"started": 0, "logs": "logs", "version": "0.1.0", "devices": ["auto", "cpu"]}'
StartEngine = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def directory() -> Path:
    """A state directory with the queue of an earlier version."""
    result = find_state_directory().directory
    with sqlite3.connect(result / DATABASE_FILE) as old:
        old.executescript((Path(__file__).parent / "data" / "queue-3.sql").read_text())
        old.execute("PRAGMA journal_mode = WAL")
    old.close()
    return result


@pytest.fixture
def start_engine(directory: Path) -> Iterator[StartEngine]:
    """Start a process that holds the engine's lock and has published something."""
    engines = []

    def start(published: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", OLD_ENGINE, str(directory / "engine.lock"), published]
        engines.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert engines[-1].stdout is not None
        assert engines[-1].stdout.readline() == "locked\n"
        return engines[-1]

    yield start
    for engine in engines:
        engine.kill()
        engine.communicate()


def schema(directory: Path) -> int:
    with sqlite3.connect(directory / DATABASE_FILE) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.close()
    return int(version)


@pytest.mark.processes
def test_commands_do_not_migrate_the_queue_of_a_running_earlier_engine(
    directory: Path, start_engine: StartEngine, wantui: Wantui
) -> None:
    engine = start_engine(ANNOUNCED)
    for command in (["queue", "ls"], ["engine", "status"], ["run", "-t", "a star"]):
        result = wantui(*command)
        assert result.code == 2
        assert f"a running engine of wantui 0.1.0 (process {engine.pid})" in result.err
        assert "Stop it first: wantui engine stop" in result.err
    assert schema(directory) == 3
    assert wantui("engine", "stop").code == 0
    assert wantui("queue", "ls").code == 0
    assert schema(directory) == len(load_migrations())


@pytest.mark.processes
def test_starting_engine_is_waited_for_and_can_migrate_the_queue(
    directory: Path, start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_engine("{}")
    waited = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:  # it has come so far
            with sqlite3.connect(directory / DATABASE_FILE) as connection:
                for script in load_migrations()[3:]:
                    connection.executescript(script)
                connection.execute(f"PRAGMA user_version = {len(load_migrations())}")
            connection.close()

    monkeypatch.setattr(time, "sleep", wait)
    Queue(directory).close()
    assert len(waited) == 3


@pytest.mark.processes
def test_engine_without_a_version_is_waited_for_with_a_timeout(
    directory: Path, start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_engine("{}")
    monkeypatch.setattr(database, "ENGINE_START_TIMEOUT_SECONDS", -1.0)
    with pytest.raises(OlderEngineError, match="wantui unknown"):
        Queue(directory)


def test_engine_migrates_the_queue(directory: Path) -> None:
    lock = acquire_engine_lock(directory)
    assert lock is not None
    Queue(directory).close()
    os.close(lock)
    assert schema(directory) == len(load_migrations())


@pytest.mark.processes
@pytest.mark.usefixtures("torch_not_imported")
def test_doctor_checks_a_queue_of_an_earlier_version_without_changing_it(
    directory: Path, start_engine: StartEngine, wantui: Wantui
) -> None:
    before = (directory / DATABASE_FILE).read_bytes()
    on_hold = "problem queue on hold: no room is left in /data"  # as the stored sample is
    assert on_hold in " ".join(wantui("doctor").out.split())
    start_engine(ANNOUNCED)
    assert on_hold in " ".join(wantui("doctor").out.split())
    assert (directory / DATABASE_FILE).read_bytes() == before
