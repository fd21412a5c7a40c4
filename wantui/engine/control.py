"""Find, start and stop the engine from another process."""

import fcntl
import json
import os
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from wantui import __version__
from wantui.clock import compute_seconds_since, read_boot_id, read_boot_seconds
from wantui.engine.process_output import read_last_line
from wantui.environment import (
    build_python_command,
    build_torch_environment,
    describe_environment_differences,
    read_rendering_environment,
)
from wantui.errors import UserError
from wantui.paths import expand_user_path
from wantui.process_exits import describe_exit
from wantui.queue.database import DATABASE_FILE
from wantui.queue.engine_lock import ENGINE_LOCK_FILE, read_engine_info
from wantui.queue.lock_holders import LockListener, LockWatch
from wantui.queue.state_dir import StateDirectory
from wantui.queue.state_files import open_state_file

if TYPE_CHECKING:
    import subprocess

START_TIMEOUT_SECONDS = 20.0
"""Longest wait for an engine that is starting."""
OUTPUT_FILE_NAME = "engine.out"
"""Name of the file in the state directory with the output of an engine in the background."""


class NoEngineError(UserError):
    """Raised if no engine runs and none could be started, or if the engine cannot be stopped."""

    exit_code = 3


@dataclass(frozen=True)
class Engine:
    """The running engine, as published in its lock file."""

    process_id: int
    """Process ID."""
    started_at: float
    """Start time in seconds since 1970."""
    logs_folder: Path
    version: str
    device_names: tuple[str, ...]
    """Device names that batches may request."""
    boot_id_and_seconds: tuple[str, float] | None = None
    """Boot ID and seconds since boot when the engine started; None for an engine of an earlier version."""
    environment: Mapping[str, str | None] = field(default_factory=dict)
    """Environment variables that affect generation."""
    notes: tuple[str, ...] = ()
    """Warnings for users."""

    @property
    def uptime_seconds(self) -> float | None:
        """Return the seconds since the engine started, by a monotonic clock; None if unknown."""
        return None if self.boot_id_and_seconds is None else compute_seconds_since(*self.boot_id_and_seconds)

    def list_warnings(self) -> list[str]:
        """Return the engine's notes, and a warning for each difference between its environment and this process's."""
        warnings = list(self.notes)
        restart_advice = "To use this version and environment: wantui engine stop, then start the engine from here"
        if self.version != __version__:
            warnings.append(
                f"the engine (process {self.process_id}) runs wantui {self.version}, but this is wantui {__version__}. "
                f"{restart_advice}"
            )
        for difference in describe_environment_differences(self.environment, read_rendering_environment()):
            warnings.append(
                f"the engine (process {self.process_id}) has a different environment: {difference}. {restart_advice}"
            )
        return warnings


def acquire_engine_lock(directory: Path) -> int | None:
    """Acquire the engine lock of a state directory for the life of this process; None if another engine holds it.

    Return the locked file descriptor. The kernel releases the lock however the process ends. `find_engine` returns
    the engine only after `publish_engine_info`.
    """
    lock_descriptor = open_state_file(directory / ENGINE_LOCK_FILE, os.O_RDWR | os.O_CREAT)
    # A client that checks for an engine holds the lock for an instant: retry.
    for _ in range(20):
        try:
            fcntl.flock(lock_descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(lock_descriptor, 0)
            engine_info = {"process": os.getpid(), "namespace": read_pid_namespace()}
            os.pwrite(lock_descriptor, json.dumps(engine_info).encode(), 0)
            return lock_descriptor
        except BlockingIOError:
            time.sleep(0.05)
    os.close(lock_descriptor)
    return None


def is_lock_file_in_place(lock_descriptor: int, directory: Path) -> bool:
    """Return whether the locked descriptor still refers to the lock file in the state directory."""
    try:
        current_status, locked_status = (directory / ENGINE_LOCK_FILE).stat(), os.fstat(lock_descriptor)
    except PermissionError:  # the directory is unreadable now, so nobody can have replaced the file
        return True
    except OSError:
        return False
    return (current_status.st_dev, current_status.st_ino) == (locked_status.st_dev, locked_status.st_ino)


def publish_engine_info(
    lock_descriptor: int, logs_folder: Path, device_names: Sequence[str], notes: Sequence[str] = ()
) -> None:
    """Write the engine's details into its lock file: clients then see it as ready."""
    engine_info = {
        "process": os.getpid(),
        "namespace": read_pid_namespace(),
        "started": time.time(),
        "logs": str(logs_folder),
        "version": __version__,
        "devices": device_names,
        "boot": [read_boot_id(), read_boot_seconds()],
        "environment": read_rendering_environment(),
        "notes": list(notes),
    }
    info_json = json.dumps(engine_info).encode()
    os.pwrite(lock_descriptor, info_json, 0)
    os.ftruncate(lock_descriptor, len(info_json))  # the earlier content may have been longer


def find_engine(directory: Path, on_locked: LockListener = lambda _: None) -> Engine | None:
    """Return the running engine of a state directory, or None; wait for an engine that is starting.

    Args:
        on_locked: called with the name of a process for whose lock of the queue that engine has waited two seconds.
    """
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    lock_watch = LockWatch(directory / DATABASE_FILE, on_locked)
    while (engine_info := read_engine_info(directory)) is not None:
        if (engine := find_published_engine(directory)) is not None:
            return engine
        if time.monotonic() > deadline:
            return None
        lock_watch.poll(engine_info.get("process"))
        time.sleep(0.02)
    return None


def find_published_engine(directory: Path) -> Engine | None:
    """Return the running engine of a state directory; None if no engine has published its details."""
    engine_info = read_engine_info(directory)
    try:
        return (
            None
            if engine_info is None
            else Engine(
                engine_info["process"],
                engine_info["started"],
                Path(engine_info["logs"]),
                engine_info["version"],
                tuple(engine_info["devices"]),
                tuple(engine_info["boot"]) if "boot" in engine_info else None,
                engine_info.get("environment", {}),
                tuple(engine_info.get("notes", ())),
            )
        )
    except KeyError:
        return None


def create_logs_folder(state_dir: StateDirectory, chosen_folder: Path | None = None) -> Path:
    """Create and return the folder for engine logs: the chosen one, or `logs` next to the queue database.

    Raises:
        UserError: an engine could not write its logs or its output. Call this before queueing; otherwise, the batch
        would wait for an engine that cannot start.
    """
    output_path = state_dir.directory / OUTPUT_FILE_NAME
    if os.path.lexists(output_path) and not output_path.is_file():
        raise UserError(f"cannot use {output_path}: it is not a regular file. Remove it, and try again")
    logs_folder = (
        state_dir.directory / "logs" if chosen_folder is None else Path.cwd() / expand_user_path(chosen_folder)
    )
    try:
        logs_folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=logs_folder):
            pass
    except OSError as error:
        reason = "it is not a folder" if isinstance(error, FileExistsError) else error.strerror or error
        raise UserError(f"cannot write the log folder {logs_folder}: {reason}. Choose another with --logs") from None
    return logs_folder


def ensure_engine(
    state_dir: StateDirectory,
    logs_folder: Path | None = None,
    worker_count: int | None = None,
    on_locked: LockListener = lambda _: None,
) -> tuple[Engine, bool]:
    """Return the running engine, or start one in a new session; also return whether this call started it.

    Args:
        logs_folder: folder for log files; None means next to the queue database.
        worker_count: number of CPU workers; None means one worker per GPU.
        on_locked: called with the name of a process for whose lock of the queue the engine has waited two seconds.

    Raises:
        NoEngineError: the engine cannot be started, ended at once, or is still waiting for the queue.
        UserError: the log folder cannot be written.
    """
    import subprocess

    if read_engine_info(state_dir.directory) is not None:
        engine = _wait_for_engine(state_dir.directory, None, on_locked)
        if engine is not None:
            return engine, False
    logs_folder = create_logs_folder(state_dir, logs_folder)
    output_path = state_dir.directory / OUTPUT_FILE_NAME
    command = build_python_command("-m", "wantui.engine.process")
    command += ["--state", str(state_dir.directory), "--logs", str(logs_folder)]
    if worker_count is not None:
        command += ["--workers", str(worker_count)]
    try:
        with output_path.open("ab") as output_file:
            start_byte = output_file.tell()
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output_file,
                stderr=output_file,
                cwd="/",
                env=build_torch_environment(os.environ),
                start_new_session=True,
                close_fds=True,
            )
    except OSError as error:  # too many processes or open files, no memory, an unwritable file
        file_text = f": {error.filename}" if error.filename else ""
        raise NoEngineError(
            f"the engine cannot be started: {error.strerror or error}{file_text}. "
            "Queued batches stay in the queue; fix this, and start it: wantui engine start"
        ) from None
    engine = _wait_for_engine(state_dir.directory, process, on_locked)
    if engine is None:
        exit_text, last_line = describe_exit(process.wait()), read_last_line(output_path, start_byte)
        raise NoEngineError(f"the engine did not start: {exit_text}. Last line of {output_path}:\n  {last_line}")
    return engine, engine.process_id == process.pid


def _wait_for_engine(
    directory: Path, process: "subprocess.Popen[bytes] | None", on_locked: LockListener
) -> Engine | None:
    """Return the engine once it is ready; None if it ended.

    Args:
        process: process that was started as the engine, or None if another process has started one.

    Raises:
        NoEngineError: the engine runs, but is not ready after START_TIMEOUT_SECONDS.
    """
    began_at, lock_watch = time.monotonic(), LockWatch(directory / DATABASE_FILE, on_locked)
    engine_id: int | None = None
    while time.monotonic() - began_at < START_TIMEOUT_SECONDS:
        if (engine := find_published_engine(directory)) is not None:
            return engine
        engine_info = read_engine_info(directory)
        if engine_info is None and (process is None or process.poll() is not None):
            return None
        engine_id = (engine_info or {}).get("process", None if process is None else process.pid)
        lock_watch.poll(engine_id)
        time.sleep(0.02)
    output_path = directory / OUTPUT_FILE_NAME
    if (lock_holder := lock_watch.find_lasting_holder()) is not None:
        raise NoEngineError(
            f"the engine (process {engine_id}) is waiting for the queue, which is locked by {lock_holder}. End that "
            "process; queued batches stay in the queue. Follow them with: wantui watch"
        )
    raise NoEngineError(
        f"the engine (process {engine_id}) is not ready after {START_TIMEOUT_SECONDS:.0f} s. "
        f"Last line of {output_path}:\n  {read_last_line(output_path)}"
    )


def stop_engine(directory: Path, is_immediate: bool, wait_seconds: float = 60.0) -> int | None:
    """Stop the engine and wait for its end; return its process ID, or None if no engine ran.

    Args:
        is_immediate: True to abort the current step instead of finishing it.

    Raises:
        NoEngineError: the engine did not end in time, or runs in another container.
    """
    engine_info = read_engine_info(directory) or {}
    process_id: int | None = engine_info.get("process")
    if process_id is None:
        return None
    if engine_info.get("namespace", read_pid_namespace()) != read_pid_namespace():
        # In this namespace the process ID belongs to no process, or to an unrelated one.
        raise NoEngineError(
            f"cannot stop the engine from here: it is process {process_id} in another container. Stop it there: "
            "wantui engine stop"
        )
    # Different signals: while the engine waits in SQLite, two equal ones reach its handler as one. A suspended engine
    # handles them when it continues.
    stop_signals = (signal.SIGTERM, signal.SIGINT) if is_immediate else (signal.SIGTERM,)
    for signal_number in (*stop_signals, signal.SIGCONT):
        try:
            os.kill(process_id, signal_number)
        except ProcessLookupError:
            return process_id
        time.sleep(0.1)
    deadline = time.monotonic() + wait_seconds
    while time.monotonic() < deadline:
        if find_engine_process_id(directory) != process_id:
            return process_id
        time.sleep(0.05)
    if is_immediate:
        raise NoEngineError(
            f"cannot stop the engine (process {process_id}): it is waiting for a disk or the network. Kill it: "
            f"kill -9 {process_id}. Videos in progress continue from their checkpoints"
        )
    raise NoEngineError(
        f"cannot stop the engine (process {process_id}) yet: it is in the middle of a step. "
        "End it at once: wantui engine stop --now"
    )


def read_pid_namespace() -> int | None:
    """Return the inode of this process's PID namespace; None if the system reports none."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return None


def find_engine_process_id(directory: Path) -> int | None:
    """Return the process ID of a state directory's engine, even while it starts; None if no engine runs."""
    engine_info = read_engine_info(directory)
    return None if engine_info is None else engine_info.get("process")
