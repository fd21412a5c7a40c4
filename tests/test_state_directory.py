"""The state directory: its disk, its owner, and users without a home or a name."""

import contextlib
import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Wantui

from wantui.engine import control
from wantui.engine.control import (
    NoEngineError,
    acquire_engine_lock,
    find_engine,
    find_engine_process_id,
    publish_engine_info,
    stop_engine,
)
from wantui.engine.queue_opening import open_queue
from wantui.engine.slots import create_worker_slots
from wantui.errors import UserError
from wantui.queue import state_dir as places
from wantui.queue.database import DATABASE_FILE
from wantui.queue.queue import Queue
from wantui.queue.records import NewVideo
from wantui.queue.state_dir import StateDirectory, find_file_system_type, find_state_directory


def mounts(*lines: bytes) -> bytes:
    first = b"22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n"
    return first + b"".join(b"36 22 0:30 / " + line + b" server:/x rw\n" for line in lines)


@pytest.mark.parametrize(
    ("mounted", "path"),
    [
        ("/daten/größe".encode(), "/daten/größe/queue"),
        ("/数据".encode(), "/数据"),
        (b"/a\\040b\\011c\\134d", "/a b\tc\\d/x"),
        (b"/latin-\xfc", os.fsdecode(b"/latin-\xfc/x")),
        (b"/plain", "/plain/x"),
        (b"/carriage\rreturn", "/carriage\rreturn/x"),  # the kernel escapes only blank, tab, line feed and backslash
        (b"/vertical\x0btab\x0c", "/vertical\x0btab\x0c/x"),
    ],
)
def test_network_mounts_are_detected_whatever_their_names(
    mounted: bytes, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # A12
    table = tmp_path / "mountinfo"
    table.write_bytes(mounts(mounted + b" rw - nfs4", b"/else\xff where", b"/other rw - tmpfs", b"/home rw - "))
    monkeypatch.setattr(places, "MOUNT_TABLE", table)
    assert find_file_system_type(Path(path)) == "nfs4"
    assert find_file_system_type(Path("/home")) == "ext4"


def test_file_system_type_is_unknown_without_a_mount_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "MOUNT_TABLE", tmp_path / "none")
    assert find_file_system_type(tmp_path) == "unknown"


@pytest.mark.parametrize("planted", ["link", "file"])
def test_planted_fallback_directory_is_refused_and_left_unchanged(
    planted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # R10
    local, victim = tmp_path / "local", tmp_path / "victim"
    local.mkdir()
    victim.mkdir(mode=0o755)
    own = local / f"wantui-{os.getuid()}"
    if planted == "link":
        own.symlink_to(victim)
    else:
        own.touch()
    monkeypatch.setattr(places, "find_file_system_type", lambda path: "nfs4")
    monkeypatch.setattr(places, "LOCAL_DISK_FOLDER", local)
    with pytest.raises(UserError, match=f"cannot use the state directory {own}: .*Set XDG_STATE_HOME"):
        find_state_directory()
    assert victim.stat().st_mode & 0o777 == 0o755
    assert not list(victim.iterdir())


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to another user")
def test_fallback_directory_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / f"wantui-{os.getuid()}"
    own.mkdir(mode=0o777)
    os.chown(own, 65534, 65534)
    monkeypatch.setattr(places, "find_file_system_type", lambda path: "nfs4")
    monkeypatch.setattr(places, "LOCAL_DISK_FOLDER", tmp_path)
    with pytest.raises(UserError, match="it belongs to another user"):
        find_state_directory()


@pytest.mark.parametrize(
    ("host_name", "folder_name"),
    [("gpu-1.example.org", "gpu-1.example.org"), ("", "localhost"), ("..", "localhost"), ("../../x", ".._.._x")],
)
def test_state_directory_is_one_folder_for_each_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host_name: str, folder_name: str
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("platform.node", lambda: host_name)
    monkeypatch.setattr(places, "find_file_system_type", lambda _: "ext4")
    assert find_state_directory().directory == tmp_path / "wantui" / folder_name


def test_user_link_to_another_disk_is_followed(tmp_path: Path) -> None:
    target = tmp_path / "disk"
    target.mkdir()
    directory = find_state_directory().directory
    directory.rmdir()
    directory.symlink_to(target)
    assert find_state_directory().directory == directory


NOBODY = """
import os, sys
import wantui.cli, wantui.cli.queue, wantui.cli.doctor, wantui.cli.engine
import wantui.queue.state_dir as places
import wantui.engine.control, wantui.engine.logind, wantui.gpu.nvml, wantui.queue.queue
import pynvml, platformdirs, sqlite3, tempfile, packaging.requirements, encodings.ascii
from pathlib import Path
from wantui.cli.doctor_finding import Finding
from wantui.queue.state_dir import find_state_directory
wantui.queue.database._list_expected_columns()
wantui.queue.database.load_migrations()
wantui.cli.doctor._check_torch_import = lambda: (Finding("ok", "torch", "2.13.0"), None)
shown, sys.stdout, sys.stderr = sys.stdout, open(os.devnull, "w"), open(os.devnull, "w")
try:
    wantui.cli.main(["doctor"])  # as root, so that all modules are imported while they can be read
except SystemExit:
    pass
sys.stdout, sys.stderr = shown, sys.__stderr__
for name in ("HOME", "LOGNAME", "XDG_STATE_HOME"):
    os.environ.pop(name, None)
if sys.argv[2] != "unset":
    os.environ["HOME"] = sys.argv[2]
os.setgroups([])
os.setresgid(54321, 54321, 54321)
os.setresuid(54321, 54321, 54321)
os.chdir("/")
places.LOCAL_DISK_FOLDER = Path(sys.argv[1])
wantui.cli.main(sys.argv[3:])
"""


@pytest.mark.processes
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become a user who has no name")
@pytest.mark.parametrize(
    ("home", "command"),
    [
        ("unset", ["queue", "ls"]),
        ("", ["queue", "ls"]),
        ("/", ["queue", "ls"]),
        ("//", ["queue", "ls"]),
        ("unset", ["engine", "status"]),
        ("unset", ["doctor"]),
    ],
)
def test_user_without_name_or_home_gets_a_local_fallback_directory(
    home: str, command: list[str], tmp_path: Path
) -> None:  # B7
    import shutil
    import tempfile

    local = Path(tempfile.mkdtemp(prefix="wantui-local-"))
    local.chmod(0o1777)
    try:
        env = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
        for name in ("HOME", "USER", "LOGNAME"):
            env.pop(name, None)
        env["XDG_STATE_HOME"] = str(tmp_path)
        ended = subprocess.run(
            [sys.executable, "-c", NOBODY, local, home, *command], env=env, capture_output=True, text=True, check=False
        )
        assert "Traceback" not in ended.stderr, ended.stderr
        assert ended.returncode in (0, 1, 3)
        output = " ".join((ended.stdout + ended.stderr).split())
        assert f"there is no home folder: {local}/wantui-54321 is used instead" in output
        assert list((local / "wantui-54321").rglob("wantui"))
        assert not Path("/~").exists()
    finally:
        shutil.rmtree(local)


def test_empty_queue_reports_unfinished_queue_of_another_host_name(tmp_path: Path) -> None:  # C15
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / DATABASE_FILE).write_bytes(b"no database")
    old = Queue(tmp_path / "old")
    batch = old.add_batch(Path("/outputs/kiss"), "auto", [NewVideo(0, "red", "{}", 20)])
    queue, notes = open_queue(StateDirectory(tmp_path / "new"))
    (note,) = notes
    assert f"the queue of new is empty, but the queue of old has 1 batch: {tmp_path / 'old'}" in note
    assert "wantui run --resume FOLDER" in note
    queue.add_batch(Path("/outputs/b"), "auto", [NewVideo(0, "red", "{}", 20)])
    assert open_queue(StateDirectory(tmp_path / "new"))[1] == []
    queue.remove_batch(queue.list_batches()[0].id)
    old.cancel_videos(batch)
    assert open_queue(StateDirectory(tmp_path / "new"))[1] == []  # nothing is left to make there


def test_republished_engine_info_replaces_longer_earlier_info(tmp_path: Path) -> None:  # R8
    lock = acquire_engine_lock(tmp_path)
    assert lock is not None
    assert find_engine_process_id(tmp_path) == os.getpid()  # before it is ready
    publish_engine_info(lock, tmp_path, ["auto", "cpu"], ["a remark that makes it longer"])
    publish_engine_info(lock, tmp_path, ["auto"])
    result = find_engine(tmp_path)
    assert result is not None
    assert (result.device_names, result.notes, result.list_warnings()) == (("auto",), (), [])
    assert result.uptime_seconds is not None
    assert 0 <= result.uptime_seconds < 60
    os.close(lock)
    assert find_engine(tmp_path) is None


@pytest.mark.torch
@pytest.mark.usefixtures("torch_not_imported")
@pytest.mark.parametrize("call", ["flock", "lockf"])
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_state_directory_without_file_locks_is_an_error_message(
    wantui: Wantui, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: str, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, call, refuse)
    result = wantui("queue", "ls")
    assert result.code == 2
    assert result.err.endswith(
        f"its file system has no locks ({os.strerror(number)}). Set XDG_STATE_HOME to a folder on a local disk.\n"
    )
    assert f"problem queue cannot store the queue in the state directory {tmp_path / 'state'}" in (
        " ".join(wantui("doctor").out.split())
    )


def test_engine_in_another_container_receives_no_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = acquire_engine_lock(tmp_path)
    assert lock is not None
    signals: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda process, number: signals.append((process, number)))
    with pytest.raises(NoEngineError, match="in the middle of a step"):
        stop_engine(tmp_path, is_immediate=False, wait_seconds=0.0)
    with pytest.raises(NoEngineError, match=f"it is waiting for a disk or the network. Kill it: kill -9 {os.getpid()}"):
        stop_engine(tmp_path, is_immediate=True, wait_seconds=0.0)
    sent = [signal.SIGTERM, signal.SIGCONT, signal.SIGTERM, signal.SIGINT, signal.SIGCONT]
    assert signals == [(os.getpid(), number) for number in sent]
    monkeypatch.setattr(control, "read_pid_namespace", lambda: 1)
    with pytest.raises(NoEngineError, match=f"it is process {os.getpid()} in another container"):
        stop_engine(tmp_path, is_immediate=True, wait_seconds=0.0)
    assert len(signals) == 5
    os.close(lock)


@pytest.mark.processes
def test_suspended_engine_is_stopped(tmp_path: Path) -> None:
    program = "import sys, time, pathlib; from wantui.engine.control import acquire_engine_lock as lock;"
    program += "_ = lock(pathlib.Path(sys.argv[1])); print(flush=True); time.sleep(60)"
    engine = subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE)
    assert engine.stdout is not None
    engine.stdout.readline()
    engine.send_signal(signal.SIGSTOP)  # as ctrl+z suspends `wantui engine run`
    try:
        assert stop_engine(tmp_path, is_immediate=False, wait_seconds=10.0) == engine.pid
        assert engine.wait(10) == -signal.SIGTERM
    finally:
        engine.kill()
        engine.communicate()


def make_odd_file(path: Path, kind: str) -> None:
    """Create something else than a regular file."""
    match kind:
        case "fifo":
            os.mkfifo(path)  # opening it would block forever
        case "folder":
            path.mkdir()
        case "socket":
            with socket.socket(socket.AF_UNIX) as bound, contextlib.chdir(path.parent):  # its paths are short
                bound.bind(path.name)
        case "loop":
            path.symlink_to(path.name)
        case "dangling":
            path.symlink_to(path.with_name("missing") / "x")
        case _:
            path.symlink_to("/dev/null")


ODD_KINDS = ["fifo", "folder", "socket", "loop", "dangling", "device"]


@pytest.mark.parametrize("name", ["queue.db", "queue.db-wal", "queue.db-shm", "queue.db-journal", "quarantine.lock"])
@pytest.mark.parametrize("kind", ODD_KINDS)
def test_queue_file_that_is_not_a_regular_file_is_refused_by_name(
    wantui: Wantui, torch_not_imported: None, name: str, kind: str
) -> None:
    directory = find_state_directory().directory
    if name == "quarantine.lock":
        (directory / "queue.db").write_bytes(b"no database" * 1000)
    elif name != "queue.db":
        Queue(directory).close()
    make_odd_file(directory / name, kind)
    reason = f"cannot use {directory / name}: it is not a regular file. Remove it, and try again\n"
    result = wantui("queue", "ls")
    assert (result.code, result.err) == (2, f"wantui: {reason}")
    if name != "quarantine.lock":
        assert reason in wantui("doctor").out


def test_queue_behind_a_link_to_a_file_is_used(tmp_path: Path) -> None:
    for name in ("disk", "state/host"):
        (tmp_path / name).mkdir(parents=True)
    state_dir = StateDirectory(tmp_path / "state" / "host")
    (state_dir.directory / "queue.db").symlink_to(tmp_path / "disk" / "queue.db")
    for _ in range(2):  # a new database, and an existing one
        queue, notes = open_queue(state_dir)
        assert notes == []
        queue.close()
    assert (tmp_path / "disk" / "queue.db").is_file()


@pytest.mark.parametrize("kind", ODD_KINDS)
def test_worker_output_that_is_not_a_regular_file_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    (slot,) = create_worker_slots((), 1)
    path = slot.find_output_path(tmp_path)
    make_odd_file(path, kind)
    reason = f"cannot use {path}: it is not a regular file. Remove it, and try again"
    with pytest.raises(UserError, match=re.escape(reason)):
        slot.start_process(tmp_path, tmp_path)
    assert slot.read_last_output_line(tmp_path) == f"({reason})"


def test_log_that_is_not_a_regular_file_does_not_block_the_others(wantui: Wantui, tmp_path: Path) -> None:
    make_odd_file(tmp_path / "engine.log", "fifo")
    (tmp_path / "worker-0.log").write_text("worker-0 ends\n")
    assert wantui("logs", "--logs", tmp_path).out == "worker-0 ends\n"


@pytest.mark.parametrize("kind", ODD_KINDS)
def test_engine_lock_that_is_not_a_regular_file_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    lock = tmp_path / "engine.lock"
    make_odd_file(lock, kind)
    reason = f"cannot use {lock}: it is not a regular file. Remove it, and try again"
    with pytest.raises(UserError) as refused:
        control.find_engine(tmp_path)
    assert str(refused.value) == reason
    with pytest.raises(UserError) as refused:
        control.acquire_engine_lock(tmp_path)
    assert str(refused.value) == reason


@pytest.mark.parametrize("kind", ["fifo", "folder"])
def test_engine_output_that_is_not_a_regular_file_is_refused_before_queueing(wantui: Wantui, kind: str) -> None:
    directory = find_state_directory().directory
    make = os.mkfifo if kind == "fifo" else os.mkdir
    make(directory / "engine.out")
    result = wantui("run", "-t", "a star", "--detach")
    assert result.code == 2
    assert f"cannot use {directory / 'engine.out'}: it is not a regular file. Remove it" in result.err
    assert not Path("outputs").exists()
