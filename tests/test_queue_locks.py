"""A queue database that another process has locked: who is named, when, and what goes on afterwards."""

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Wantui

from wantui.cli import follow
from wantui.cli.follow import follow_batch
from wantui.engine import control
from wantui.engine.control import (
    NoEngineError,
    acquire_engine_lock,
    ensure_engine,
    publish_engine_info,
    stop_engine,
)
from wantui.queue import connection, reader
from wantui.queue.database import DATABASE_FILE
from wantui.queue.queue import Queue
from wantui.queue.records import NewVideo
from wantui.queue.state_dir import StateDirectory, find_state_directory

pytestmark = pytest.mark.processes
LOCKER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=20)
database.execute(f"PRAGMA locking_mode = {sys.argv[2]}")
database.execute("BEGIN IMMEDIATE")
database.execute("UPDATE video SET step = step")
print("locked", flush=True)
sys.stdin.readline()
"""
MODES = ["NORMAL", "EXCLUSIVE"]
"""Locking modes of SQLite: others can read, others can neither read nor write."""


@contextmanager
def locked_by_a_process(directory: Path, mode: str = "NORMAL") -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", LOCKER, str(directory / DATABASE_FILE), mode]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(connection, "LOCK_NOTICE_SECONDS", 0.2)
    monkeypatch.setattr(connection, "LOCK_POLL_SECONDS", 0.1)
    monkeypatch.setattr(reader, "LOCK_NOTICE_SECONDS", 0.2)
    return find_state_directory().directory


@pytest.mark.parametrize("mode", MODES)
def test_a_long_lock_is_reported_once_and_then_waited_for(directory: Path, mode: str) -> None:
    Queue(directory).close()
    holders: list[str] = []
    with locked_by_a_process(directory, mode) as process:

        def release(holder: str) -> None:
            holders.append(holder)
            threading.Timer(0.5, process.kill).start()

        with Queue(directory, 30.0, release) as queue:
            batch = queue.add_batch(directory, "cpu", [NewVideo(0, "red", "{}", 20)])
    assert len(holders) == 1
    assert holders[0].startswith(f"process {process.pid} (python")
    with Queue(directory) as queue:
        assert queue.get_batch(batch) is not None


def test_an_error_about_a_lock_names_the_process(directory: Path) -> None:
    with Queue(directory, 0.3) as queue, locked_by_a_process(directory) as process:
        with pytest.raises(sqlite3.OperationalError, match=rf"database is locked by process {process.pid} \(python"):
            queue.hold_queue("paused", "by a test")
        fault = queue.describe_recording_fault()
        assert fault is not None
        assert f"it is locked by process {process.pid} (" in fault
    with Queue(directory) as queue:
        assert queue.read_hold() is None
        assert queue.describe_recording_fault() is None


def test_an_unknown_locking_process_is_called_another_process(
    directory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(connection, "LOCK_TABLE", tmp_path / "none")
    with (
        Queue(directory, 0.1) as queue,
        locked_by_a_process(directory),
        pytest.raises(sqlite3.OperationalError, match="database is locked by another process"),
    ):
        queue.hold_queue("paused", "by a test")


@pytest.mark.parametrize("command", [["queue", "ls"], ["engine", "status"]])
def test_commands_name_the_process_that_prevents_recording(directory: Path, command: list[str], wantui: Wantui) -> None:
    with Queue(directory) as queue:
        queue.add_batch(directory, "cpu", [NewVideo(0, "red", "{}", 20)])
    with locked_by_a_process(directory) as process:
        result = wantui(*command)
    assert f"it is locked by process {process.pid} (" in result.out + result.err


def test_follower_reports_a_lock_and_continues_after_it(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(follow, "ENGINE_CHECK_SECONDS", 0.0)
    monkeypatch.setattr(follow, "_show_current_state", lambda *_: None)  # reads before the loop
    engine_lock = acquire_engine_lock(directory)
    assert engine_lock is not None
    publish_engine_info(engine_lock, directory, ["cpu"])
    with Queue(directory) as queue:
        number = queue.add_batch(directory, "cpu", [NewVideo(0, "red", "{}", 20)])
        batch = queue.get_batch(number)
        assert batch is not None

        def end() -> None:
            process.kill()
            process.wait()
            with Queue(directory) as other:
                other.cancel_videos(number)

        with locked_by_a_process(directory) as process:
            timer = threading.Timer(1.5, end)
            timer.start()
            ended = follow_batch(queue, batch, 0, as_json=False)
            timer.join()
        assert ended.counts == {"cancelled": 1}
    os.close(engine_lock)
    assert f"it is locked by process {process.pid} (" in capsys.readouterr().err


@pytest.mark.torch
def test_predicted_cost_of_score_does_without_a_locked_queue(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wantui.batches import score

    monkeypatch.setattr(score, "MAX_QUEUE_WAIT_SECONDS", 0.1)
    Queue(directory).close()
    with locked_by_a_process(directory, "EXCLUSIVE"):
        assert score.load_past_videos() == []


def test_start_of_an_engine_names_the_process_that_it_waits_for(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "LOCK_NOTICE_SECONDS", 0.2)
    monkeypatch.setattr(control, "START_TIMEOUT_SECONDS", 8.0)
    Queue(directory).close()
    holders: list[str] = []
    with locked_by_a_process(directory) as process:
        with pytest.raises(NoEngineError, match=rf"engine \(process \d+\) waits .* locked by process {process.pid} "):
            ensure_engine(StateDirectory(directory), on_locked=holders.append)
        assert [holder.split(" (")[0] for holder in holders] == [f"process {process.pid}"]
    assert stop_engine(directory, is_immediate=True) is not None
