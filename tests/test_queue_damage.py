"""Queue databases with damage that SQLite's own checks do not report."""

import errno
import os
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Wantui, batch, deny, only_queued

from wantui.cli.doctor_engine import check_queue_database
from wantui.engine.control import acquire_engine_lock, is_lock_file_in_place
from wantui.engine.queue_opening import open_queue
from wantui.errors import UserError
from wantui.queue import connection, database
from wantui.queue.connection import QueueConnection
from wantui.queue.database import DATABASE_FILE, is_database_damage, open_database
from wantui.queue.engine_lock import ENGINE_LOCK_FILE
from wantui.queue.events import QueueResumed
from wantui.queue.lock_holders import LockListener
from wantui.queue.queue import Queue
from wantui.queue.records import NewVideo
from wantui.queue.state_dir import StateDirectory, find_state_directory
from wantui.queue.waiting import find_batch_wait
from wantui.storage.manifest import read_manifest

Damage = Callable[[Path], object]


def run(path: Path, *statements: str) -> None:
    with sqlite3.connect(path) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def run_on_new(path: Path, *statements: str) -> None:
    path.unlink()
    run(path, *statements)


def not_utf8_schema(path: Path) -> None:
    run(path, "PRAGMA wal_checkpoint(TRUNCATE)", "PRAGMA journal_mode = DELETE")
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE event (", b"CREATE \xff\xfeBLE event ("))


def not_utf8_title(path: Path) -> None:
    run(path, "UPDATE video SET title = CAST(x'ff41' AS TEXT)")


def unreadable_format(path: Path) -> None:
    run(path, "PRAGMA wal_checkpoint(TRUNCATE)", "PRAGMA journal_mode = DELETE")
    content = bytearray(path.read_bytes())
    content[47] = 7  # the number of the schema's format
    path.write_bytes(bytes(content))


DAMAGES: dict[str, Damage] = {
    "format unknown": unreadable_format,
    "schema is not UTF-8": not_utf8_schema,
    "table missing": lambda path: run(path, "DROP TABLE event"),
    "later table missing": lambda path: run(path, "DROP TABLE worker"),
    "column missing": lambda path: run(path, "ALTER TABLE video RENAME COLUMN plan TO other"),
    "version 0": lambda path: run(path, "PRAGMA user_version = 0"),
    "version of an earlier schema": lambda path: run(path, "PRAGMA user_version = 2"),
    "version negative": lambda path: run(path, "PRAGMA user_version = -3"),
    "empty with a version": lambda path: run_on_new(path, "PRAGMA user_version = 4"),
    "other program's": lambda path: run_on_new(path, "CREATE TABLE song (name)"),
    "no database": lambda path: path.write_bytes(b"not a database" * 1000),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:5000]),
}


@pytest.fixture
def damaged(request: pytest.FixtureRequest) -> Path:
    directory = find_state_directory().directory
    queue = Queue(directory)
    queue.add_batch(Path("/outputs/a"), "auto", [NewVideo(0, "red", "{}", 20)])
    queue.close()
    DAMAGES[request.param](directory / DATABASE_FILE)
    return directory


@pytest.mark.slow
@pytest.mark.usefixtures("torch_not_imported")
@pytest.mark.parametrize("damaged", DAMAGES, indirect=True)
def test_damaged_queue_is_reported_by_doctor_and_quarantined_by_the_next_command(
    damaged: Path, wantui: Wantui
) -> None:  # R8, C7
    actual = " ".join(wantui("doctor").out.split())
    assert f"problem queue cannot open {damaged / DATABASE_FILE}: " in actual
    assert "`wantui engine start` renames it" in actual
    assert not list(damaged.glob("*.damaged-*"))  # a check changes nothing
    result = wantui("queue", "ls")
    assert result.code == 0, result.err
    assert "was damaged" in result.err
    assert list(damaged.glob("queue.db.damaged-*"))
    assert wantui("queue", "ls").err == "the queue has no unfinished batches; --all lists finished batches\n"
    assert "ok queue in" in " ".join(wantui("doctor").out.split())


def test_invalid_utf8_in_the_queue_is_found_on_engine_start(tmp_path: Path) -> None:  # R8
    queue = Queue(tmp_path)
    queue.add_batch(Path("/outputs/a"), "auto", [NewVideo(0, "red", "{}", 20)])
    queue.close()
    not_utf8_title(tmp_path / DATABASE_FILE)
    with pytest.raises(sqlite3.DatabaseError) as error:
        Queue(tmp_path).list_videos(1)
    assert is_database_damage(error.value)
    queue, notes = open_queue(StateDirectory(tmp_path), is_engine=True)
    assert "was damaged" in notes[0]
    assert queue.list_batches() == []


def test_locked_or_full_queue_is_not_treated_as_damaged(tmp_path: Path) -> None:
    Queue(tmp_path).close()
    for code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR):
        error = sqlite3.OperationalError("for now")
        error.sqlite_errorcode = code
        assert not is_database_damage(error)
    message = r"cannot be opened: unable to open database file \(No such file or directory\)\. Free disk space, end"
    with pytest.raises(UserError, match=message):
        open_queue(StateDirectory(tmp_path / "missing"))
    assert not (tmp_path / "missing").exists()


def test_deleted_or_replaced_queue_file_is_detected(tmp_path: Path) -> None:  # R8
    queue = Queue(tmp_path)
    assert not queue.is_replaced()
    (tmp_path / DATABASE_FILE).unlink()
    assert queue.is_replaced()
    open_database(tmp_path / DATABASE_FILE).close()
    assert queue.is_replaced()


def test_inaccessible_state_directory_is_not_treated_as_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Queue(tmp_path) as queue:
        lock = acquire_engine_lock(tmp_path)
        assert lock is not None
        with monkeypatch.context() as patch:
            deny(patch, tmp_path)
            assert not queue.is_replaced()
            assert is_lock_file_in_place(lock, tmp_path)
        (tmp_path / ENGINE_LOCK_FILE).unlink()
        assert not is_lock_file_in_place(lock, tmp_path)
        os.close(lock)


def test_queue_overwritten_with_garbage_is_detected_and_quarantined(tmp_path: Path) -> None:  # R8
    queue, other = Queue(tmp_path), Queue(tmp_path)
    for number in range(300):
        queue.add_batch(Path(f"/outputs/{number}"), "auto", [NewVideo(0, "red" * 100, "{}", 20)])
    queue.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    queue.emit_event(QueueResumed())
    other.close()
    assert not queue.is_replaced()
    (tmp_path / DATABASE_FILE).write_bytes(b"\xa5" * (tmp_path / DATABASE_FILE).stat().st_size)
    (tmp_path / f"{DATABASE_FILE}-wal").unlink()
    assert queue.is_replaced()
    queue.close()
    again, notes = open_queue(StateDirectory(tmp_path), is_engine=True)
    assert "was damaged" in notes[0]
    assert again.list_batches() == []
    assert list(tmp_path.glob(f"{DATABASE_FILE}.damaged-*"))
    again.close()


@pytest.mark.parametrize("word", ["99", "9" * 5000, "\u0663", "a\0b", "x" * 300, "~nobody/x", "", " ", "cat", "1:2"])
def test_unknown_batch_error_suggests_no_dissimilar_name(wantui: Wantui, word: str) -> None:  # C8
    queue = Queue(find_state_directory().directory)
    for name in "abde":
        queue.add_batch(Path("/outputs") / f"kiss_{name}", "auto", [NewVideo(0, "red", "{}", 20)])
    queue.remove_batch(3)
    result = wantui("queue", "cancel", word)
    assert result.code == 2
    assert "did you mean" not in result.err
    if word == "99":
        assert "is in the queue, only 1 to 2, 4. List them: wantui queue ls --all" in result.err


def test_batch_wait_names_earlier_batches_unless_held_or_paused(tmp_path: Path) -> None:  # C11
    queue = Queue(tmp_path)
    first, second = (
        queue.add_batch(Path("/outputs") / name, "auto", [NewVideo(i, "red", "{}", 20) for i in range(2)])
        for name in "ab"
    )
    queue.record_starting_worker("worker-0:7", "cpu")
    assert find_batch_wait(queue, second).describe(shows_seconds=False) == (
        "worker-0: loading torch; position 2 in the queue: waiting for 2 videos of batch 1 (a)"
    )
    queue.record_ready_worker("worker-0:7")
    queue.claim_next_video("worker-0:7", ("auto",))
    assert not find_batch_wait(queue, first)
    assert find_batch_wait(queue, second).describe() == "position 2 in the queue: waiting for 2 videos of batch 1 (a)"
    queue.hold_queue("paused", "it was paused")
    assert not find_batch_wait(queue, second)
    queue.resume_queue()
    queue.set_batch_paused(second, True)
    assert not find_batch_wait(queue, second)
    assert not find_batch_wait(queue, 99)


@pytest.mark.usefixtures("torch_not_imported")
def test_doctor_and_detached_run_report_a_held_queue(wantui: Wantui, small: list[str]) -> None:  # C7
    queue = Queue(find_state_directory().directory)
    queue.hold_queue("paused", "it was paused")
    result = wantui("run", "--detach", "-t", "a star", *small)
    assert result.code == 0
    assert "the queue is held: " in result.err
    assert "on hold: " in " ".join(wantui("doctor").out.split())


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE video SET seconds = 'x'",
        "UPDATE video SET steps = x'00'",
        "UPDATE worker SET boot_seconds = '[]'",
        "UPDATE event SET data = '{'",
        "UPDATE event SET time = 'x'",
        "UPDATE event SET kind = x'00'",
        "UPDATE event SET data = '[1]'",
        "UPDATE batch SET folder = x'ff00'",
    ],
)
def test_queue_with_values_of_a_wrong_type_is_quarantined_by_the_engine(wantui: Wantui, statement: str) -> None:  # R8
    place = find_state_directory()
    with Queue(place.directory) as queue:
        queue.add_batch(Path("/outputs/a"), "auto", [NewVideo(0, "red", "{}", 20)])
        claim = queue.claim_next_video("worker-0:1", ("auto",))
        assert claim is not None
        queue.record_done(claim)
        queue.record_starting_worker("worker-0:1", "cpu")
    run(place.directory / DATABASE_FILE, statement)
    for command in (
        ["queue", "show", "1"],
        ["queue", "ls", "--all"],
        ["preview", "-t", "a star"],
        ["engine", "status"],
    ):
        wantui(*command)  # raises whatever it has no sentence for
    queue, notes = open_queue(place, is_engine=True)
    assert "was damaged" in notes[0]
    queue.close()


@pytest.mark.parametrize("value", ["time = 'x'", "time = x'00'", "kind = x'00'", "batch = 'x'"])
def test_event_with_a_value_of_a_wrong_type_is_damage(tmp_path: Path, value: str) -> None:
    with Queue(tmp_path) as queue:
        queue.add_batch(Path("/outputs/a"), "auto", [NewVideo(0, "red", "{}", 20)])
        run(tmp_path / DATABASE_FILE, f"UPDATE event SET {value}")
        with pytest.raises(sqlite3.DatabaseError, match=f"a value in column {value.split()[0]} has the type"):
            queue.list_events(0)


def test_cancelling_again_records_a_cancellation_that_a_full_disk_prevented(
    wantui: Wantui, monkeypatch: pytest.MonkeyPatch
) -> None:
    with only_queued():
        folder = batch(wantui("run", "--detach", "-t", "a [red|blue] star", "--videos-per-variation", 2))
    real = os.fsync

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    result = wantui("queue", "cancel", 1)
    assert "4 videos cancelled\n" in result.err
    assert (
        f"warning: cannot record the cancellation in the batch folder {folder.root.resolve()}: No space left on "
        "device. Once this is fixed, repeat the command: wantui queue cancel 1\n"
    ) in result.err
    monkeypatch.setattr(os, "fsync", real)
    assert read_manifest(folder).count_states() == {"queued": 4}
    assert wantui("queue", "cancel", 1, 2).code == 0
    assert read_manifest(folder).count_states() == {"queued": 3, "cancelled": 1}
    assert "0 videos cancelled\n" in wantui("queue", "cancel", 1).err
    assert read_manifest(folder).count_states() == {"cancelled": 4}


def test_trash_error_names_the_reason_without_its_number(
    wantui: Wantui, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with only_queued():
        folder = batch(wantui("run", "--detach", "-t", "a star"))
    assert wantui("queue", "cancel", 1).code == 0
    (tmp_path / "full").write_text("")

    def move_to_a_trash_that_is_a_file(path: str) -> None:
        (tmp_path / "full" / "Trash").mkdir()

    monkeypatch.setattr("send2trash.send2trash", move_to_a_trash_that_is_a_file)
    result = wantui("library", "trash", folder.root)
    assert result.code == 2
    assert "cannot be moved to the trash: Not a directory: " in result.err
    assert "Errno" not in result.err
    assert folder.manifest_path.exists()


def test_read_only_files_of_the_queue_are_made_writable_before_sqlite_opens_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / DATABASE_FILE
    modes: list[int] = []
    connect = connection.connect_to_queue

    def record(path: Path, wait_seconds: float, on_locked: LockListener | None) -> QueueConnection:
        modes.extend(stat.S_IMODE(file.stat().st_mode) for file in tmp_path.glob(f"{DATABASE_FILE}*"))
        return connect(path, wait_seconds, on_locked)

    monkeypatch.setattr(database, "connect_to_queue", record)
    with Queue(tmp_path):
        for suffix in ("", "-wal", "-shm"):
            path.with_name(DATABASE_FILE + suffix).chmod(0o444)
        Queue(tmp_path).close()
    assert modes == [0o600] * 3
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(("is_foreign", "reason"), [(False, "is read-only"), (True, "belongs to another user")])
@pytest.mark.parametrize("suffix", ["", "-wal"])
def test_file_of_the_queue_that_cannot_be_written_is_reported(
    wantui: Wantui, monkeypatch: pytest.MonkeyPatch, suffix: str, is_foreign: bool, reason: str
) -> None:
    directory = find_state_directory().directory
    path = directory / DATABASE_FILE
    with Queue(directory) as queue:
        assert queue.explain_unwritable_queue() is None
        read_only_path, check_access, user = path.with_name(DATABASE_FILE + suffix), os.access, os.geteuid()
        monkeypatch.setattr(
            os,
            "access",
            lambda file, mode: check_access(file, mode) and not (file == read_only_path and mode & os.W_OK),
        )
        monkeypatch.setattr(os, "geteuid", lambda: user + is_foreign)
        fault = queue.explain_unwritable_queue()
        assert fault is not None
        assert fault.startswith(f"cannot write the queue in {directory}: {read_only_path.name} {reason}. Fix this")
        remedy = "Give your user permission to write this file"
        expected = f"cannot write the queue {path}: {read_only_path.name} {reason}. {remedy}"
        assert expected in wantui("queue", "ls").err
        finding = check_queue_database(StateDirectory(directory))
        assert (finding.state, finding.result) == ("problem", f"cannot write {path}: {read_only_path.name} {reason}")


@pytest.mark.usefixtures("torch_not_imported")
@pytest.mark.parametrize(
    ("kind", "end"),
    [
        ("disk", "It resumes automatically once that is fixed"),
        ("folder", "It resumes automatically once that is fixed"),
        ("worker", "Resume with: wantui queue resume"),
    ],
)
def test_doctor_says_how_a_hold_ends(wantui: Wantui, kind: str, end: str) -> None:
    Queue(find_state_directory().directory).hold_queue(kind, "no space is left")
    assert f"problem queue on hold: no space is left. {end}" in " ".join(wantui("doctor").out.split())
