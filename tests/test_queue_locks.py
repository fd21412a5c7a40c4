"""A queue database that another process has locked: what commands report, when, and how they continue."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Wantui

from wantui.cli import follow
from wantui.cli.follow import follow_batch
from wantui.cli.progress import PlainReporter
from wantui.engine import control
from wantui.engine.control import (
    NoEngineError,
    acquire_engine_lock,
    ensure_engine,
    find_engine,
    publish_engine_info,
    stop_engine,
)
from wantui.queue import connection, database, lock_holders, reader
from wantui.queue.database import DATABASE_FILE
from wantui.queue.engine_lock import read_engine_info
from wantui.queue.lock_holders import LockWatch
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
    for module in (connection, lock_holders, reader):
        monkeypatch.setattr(module, "LOCK_NOTICE_SECONDS", 0.2)
    monkeypatch.setattr(connection, "LOCK_POLL_SECONDS", 0.1)
    monkeypatch.setattr(lock_holders, "LOCK_RECHECK_SECONDS", 0.1)
    return find_state_directory().directory


@pytest.mark.parametrize("mode", MODES)
def test_a_long_lock_is_reported_once_and_then_waited_for(directory: Path, mode: str) -> None:
    Queue(directory).close()
    holders: list[str] = []
    with locked_by_a_process(directory, mode) as process:

        def release(holder: str) -> None:
            holders.append(holder)
            process.kill()

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
        fault = queue.explain_unwritable_queue()
        assert fault is not None
        assert f"it is locked by process {process.pid} (" in fault
    with Queue(directory) as queue:
        assert queue.read_hold() is None
        assert queue.explain_unwritable_queue() is None


def test_an_unknown_locking_process_is_called_another_process(
    directory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(lock_holders, "LOCK_TABLE", tmp_path / "none")
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


def test_follower_reports_a_lock_and_continues_after_it(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "ENGINE_CHECK_SECONDS", 0.0)
    monkeypatch.setattr(follow, "_show_current_state", lambda *_: None)  # reads before the loop
    engine_lock = acquire_engine_lock(directory)
    assert engine_lock is not None
    publish_engine_info(engine_lock, directory, ["cpu"])
    with Queue(directory) as queue:
        number = queue.add_batch(directory, "cpu", [NewVideo(0, "red", "{}", 20)])
        batch = queue.get_batch(number)
        assert batch is not None

        def show_message(_: PlainReporter, text: str) -> None:
            messages.append(text)
            if f"it is locked by process {process.pid} (" in text:
                process.kill()
                process.wait()
                with Queue(directory) as other:
                    other.cancel_videos(number)

        messages: list[str] = []
        monkeypatch.setattr(PlainReporter, "show_message", show_message)
        with locked_by_a_process(directory) as process:
            ended = follow_batch(queue, batch, 0, as_json=False)
        assert ended.counts == {"cancelled": 1}
    os.close(engine_lock)
    assert sum("it is locked by" in message for message in messages) == 1


@pytest.mark.torch
def test_score_predicts_its_cost_even_if_the_queue_is_locked(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wantui.batches import score

    monkeypatch.setattr(score, "MAX_QUEUE_WAIT_SECONDS", 0.1)
    Queue(directory).close()
    with locked_by_a_process(directory, "EXCLUSIVE"):
        assert score.load_past_videos() == []


@pytest.mark.parametrize("starts_second", [False, True], ids=["first client", "second client"])
def test_start_of_an_engine_names_the_process_that_it_waits_for(
    directory: Path, monkeypatch: pytest.MonkeyPatch, starts_second: bool
) -> None:
    Queue(directory).close()
    holders: list[str] = []

    def give_up(holder: str) -> None:
        while not read_engine_info(directory):  # the engine is still loading its modules
            time.sleep(0.02)
        holders.append(holder)
        monkeypatch.setattr(control, "START_TIMEOUT_SECONDS", 0.0)

    monkeypatch.setattr(control, "START_TIMEOUT_SECONDS", 600.0)
    with locked_by_a_process(directory) as process:
        pattern = rf"engine \(process (\d+)\) is waiting .* locked by process {process.pid} "
        with pytest.raises(NoEngineError, match=pattern) as first_error:
            ensure_engine(StateDirectory(directory), on_locked=give_up)
        if starts_second:
            monkeypatch.setattr(control, "START_TIMEOUT_SECONDS", 600.0)
            with pytest.raises(NoEngineError) as second_error:
                ensure_engine(StateDirectory(directory), on_locked=give_up)
            assert str(second_error.value) == str(first_error.value), "it waits for the same engine"
        names = [holder.split(" (")[0] for holder in holders]
        assert names == [f"process {process.pid}"] * (1 + starts_second)
    assert stop_engine(directory, is_immediate=True) is not None


def test_search_for_an_engine_names_the_process_that_it_waits_for(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Queue(directory).close()
    engine_lock = acquire_engine_lock(directory)
    assert engine_lock is not None
    holders: list[str] = []

    def publish(holder: str) -> None:
        holders.append(holder)
        publish_engine_info(engine_lock, directory, ["cpu"])

    monkeypatch.setattr(control, "START_TIMEOUT_SECONDS", 600.0)
    with locked_by_a_process(directory) as process:
        assert find_engine(directory, publish) is not None
    os.close(engine_lock)
    assert [holder.split(" (")[0] for holder in holders] == [f"process {process.pid}"]


def test_process_that_locks_for_an_instant_is_not_named(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, engine = 1 << 30, (1 << 30) + 1, (1 << 30) + 2  # above the largest process ID of Linux
    seconds, holder_ids = [0.0], frozenset[int]()
    reports: list[str] = []
    monkeypatch.setattr(lock_holders, "LOCK_NOTICE_SECONDS", 2.0)
    monkeypatch.setattr(lock_holders, "LOCK_RECHECK_SECONDS", 1.0)
    monkeypatch.setattr("wantui.queue.lock_holders.time.monotonic", lambda: seconds[0])
    monkeypatch.setattr(lock_holders, "find_lock_holder_ids", lambda path: holder_ids)
    watch = LockWatch(directory / DATABASE_FILE, reports.append)
    samples = (
        *(frozenset({first, engine}) for _ in range(3)),  # within a second
        *(frozenset({second, engine}), frozenset({first}), frozenset(), frozenset({first, engine})),
    )
    for sample in samples:
        holder_ids = sample
        watch.poll(engine)
        seconds[0] += 0.4 if seconds[0] < 0.8 else 1.0
    assert (reports, watch.find_lasting_holder()) == ([], None)
    watch.poll(engine)
    assert (reports, watch.find_lasting_holder()) == ([f"process {first}"], f"process {first}")
    seconds[0] += 1.0
    watch.poll(engine)
    assert reports == [f"process {first}"], "once"
    holder_ids = frozenset({second})
    assert watch.find_lasting_holder() is None, "it has ended"


@pytest.mark.parametrize("has_table", [True, False])
def test_check_of_recording_locks_the_queue_only_if_another_process_may(
    directory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, has_table: bool
) -> None:
    if not has_table:
        monkeypatch.setattr(lock_holders, "LOCK_TABLE", tmp_path / "none")
    waits: list[float] = []
    is_write_locked = connection.QueueConnection.is_write_locked

    def record(database: connection.QueueConnection, wait_seconds: float) -> bool:
        waits.append(wait_seconds)
        return is_write_locked(database, wait_seconds)

    monkeypatch.setattr(connection.QueueConnection, "is_write_locked", record)
    with Queue(directory) as queue:
        assert queue.explain_unwritable_queue() is None
        assert waits == ([] if has_table else [0.2])
        for _ in range(2):
            waits.clear()
            with locked_by_a_process(directory):
                faults = [queue.explain_unwritable_queue() for _ in range(3)]
            assert None not in faults
            assert waits == [0.2, *([0.0] * 2 if has_table else [0.2] * 2)], "a known lock is not waited for again"
            assert queue.explain_unwritable_queue() is None


def test_check_of_a_locked_queue_ends(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Queue(directory).close()
    monkeypatch.setattr(database, "BUSY_TIMEOUT_SECONDS", 0.2)
    with (
        locked_by_a_process(directory, "EXCLUSIVE"),
        pytest.raises(sqlite3.OperationalError, match="locked by process"),
    ):
        database.check_database(directory / DATABASE_FILE)


def test_immediate_stop_sends_two_signals_that_cannot_merge(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Queue(directory).close()
    engine_lock = acquire_engine_lock(directory)
    assert engine_lock is not None
    publish_engine_info(engine_lock, directory, ["cpu"])
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda process, number: sent.append(number))
    with pytest.raises(NoEngineError):
        stop_engine(directory, is_immediate=True, wait_seconds=0.0)
    os.close(engine_lock)
    assert sent == [signal.SIGTERM, signal.SIGINT, signal.SIGCONT], "SIGCONT wakes a suspended engine"
