"""Control of the engine from other processes: find, start and stop it, and open the queue in any condition."""

import fcntl
import json
import os
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from wantui import __version__
from wantui.clock import boot_id, boot_seconds, seconds_since
from wantui.environment import compared_environment, differences, torch_environment
from wantui.errors import UserError
from wantui.formatting import format_count, printable
from wantui.paths import user_path
from wantui.queue.database import NAME, check_content, is_damage, quarantine
from wantui.queue.engine_lock import LOCK, published
from wantui.queue.queue import Queue
from wantui.queue.state_dir import StateDirectory, write_fault

START_SECONDS = 20.0
ADVICE = "Make room on its disk, end what keeps it locked, or have its folder made writable; then try again"


class NoEngineError(UserError):
    """There is no engine, and none could be started."""

    exit_code = 3


@dataclass(frozen=True)
class Engine:
    """The running engine, as published in its lock file."""

    process: int
    started: float
    """Seconds since 1970."""
    logs: Path
    version: str
    devices: tuple[str, ...]
    """Device names that batches may ask for."""
    boot: tuple[str, float] | None = None
    """The boot in which it started, and the seconds since then; None for an engine of an earlier version."""
    environment: Mapping[str, str | None] = field(default_factory=dict)
    """Environment variables that affect rendering."""
    notes: tuple[str, ...] = ()
    """Notes for users."""

    @property
    def uptime(self) -> float | None:
        """Return the seconds since it started, by a clock that does not jump; None where that is not known."""
        return None if self.boot is None else seconds_since(*self.boot)

    def warnings(self) -> list[str]:
        """Return how its videos would differ from those of this process, and its own warnings."""
        warnings = list(self.notes)
        restart = "To have the engine take yours: wantui engine stop, then start it again from here"
        if self.version != __version__:
            warnings.append(
                f"the engine (process {self.process}) is of wantui {self.version}, this is {__version__}. {restart}"
            )
        for difference in differences(self.environment, compared_environment()):
            warnings.append(f"the engine (process {self.process}) has another environment: {difference}. {restart}")
        return warnings


def acquire_engine_lock(directory: Path) -> int | None:
    """Acquire the engine lock of a state directory for the life of this process; None if another engine holds it.

    The kernel gives the lock back whatever happens to the process. Returns the descriptor that holds it; nobody sees
    an engine before it is given to `announce`.
    """
    descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    # A client that looks holds the lock for an instant.
    for _ in range(20):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            content = {"process": os.getpid(), "namespace": pid_namespace()}
            os.pwrite(descriptor, json.dumps(content).encode(), 0)
            return descriptor
        except BlockingIOError:
            time.sleep(0.05)
    os.close(descriptor)
    return None


def holds_lock_file(lock: int, directory: Path) -> bool:
    """Return whether the descriptor's lock is on the state directory's current lock file."""
    try:
        current, held = (directory / LOCK).stat(), os.fstat(lock)
    except PermissionError:  # the directory may not be entered now: nobody can have replaced what is in it
        return True
    except OSError:
        return False
    return (current.st_dev, current.st_ino) == (held.st_dev, held.st_ino)


def announce(lock: int, logs: Path, devices: Sequence[str], notes: Sequence[str] = ()) -> None:
    """Publish that the engine that holds the lock is ready, once it has examined interrupted work."""
    content = {
        "process": os.getpid(),
        "namespace": pid_namespace(),
        "started": time.time(),
        "logs": str(logs),
        "version": __version__,
        "devices": devices,
        "boot": [boot_id(), boot_seconds()],
        "environment": compared_environment(),
        "notes": list(notes),
    }
    text = json.dumps(content).encode()
    os.pwrite(lock, text, 0)
    os.ftruncate(lock, len(text))  # what was published before may have been longer


def find_engine(directory: Path) -> Engine | None:
    """Return the engine of a state directory, if one runs; waits for one that starts."""
    until = time.monotonic() + START_SECONDS
    while (info := published(directory)) is not None:
        try:
            return Engine(
                info["process"],
                info["started"],
                Path(info["logs"]),
                info["version"],
                tuple(info["devices"]),
                tuple(info["boot"]) if "boot" in info else None,
                info.get("environment", {}),
                tuple(info.get("notes", ())),
            )
        except KeyError:
            if time.monotonic() > until:
                return None
            time.sleep(0.02)
    return None


def logs_folder(state_dir: StateDirectory, chosen: Path | None = None) -> Path:
    """Return the folder for the logs of an engine: the chosen one, or the one beside the queue.

    Raises:
        UserError: it cannot be written; said before anything is queued for an engine that could not start.
    """
    folder = state_dir.directory / "logs" if chosen is None else Path.cwd() / user_path(chosen)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"cannot write the folder for logs {folder}: {error.strerror or error}. Choose another: --logs"
        ) from None
    return folder


def ensure_engine(
    state_dir: StateDirectory, logs: Path | None = None, workers: int | None = None
) -> tuple[Engine, bool]:
    """Return the running engine, or start one in its own session; also return whether it was started.

    Args:
        logs: folder for its log files; None: beside the queue.

    Raises:
        NoEngineError: it ended at once; the text says where to look.
        UserError: the folder for logs cannot be written.
    """
    import subprocess

    engine = find_engine(state_dir.directory)
    if engine is not None:
        return engine, False
    logs = logs_folder(state_dir, logs)
    output = state_dir.directory / "engine.out"
    command = [
        sys.executable,
        "-m",
        "wantui.engine.supervisor",
        "--state",
        str(state_dir.directory),
        "--logs",
        str(logs),
    ]
    if workers is not None:
        command += ["--workers", str(workers)]
    with output.open("ab") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd="/",
            env=torch_environment(os.environ),
            start_new_session=True,
            close_fds=True,
        )
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        engine = find_engine(state_dir.directory)
        if engine is not None:
            return engine, engine.process == process.pid
        if process.poll() is not None and find_engine(state_dir.directory) is None:
            break
        time.sleep(0.02)
    raise NoEngineError(f"the engine did not start; {output} says why:\n  {last_line(output)}")


def stop_engine(directory: Path, now: bool, wait_seconds: float = 60.0) -> int | None:
    """Ask the engine to end (`now`: without finishing the step at hand) and wait; return its process, if one ran.

    Raises:
        NoEngineError: it did not end in time, or runs where this process can send it no signal.
    """
    info = published(directory) or {}
    process: int | None = info.get("process")
    if process is None:
        return None
    if info.get("namespace", pid_namespace()) != pid_namespace():
        # Here the number is of no process, or of another one.
        raise NoEngineError(
            f"cannot stop the engine from here: it is process {process} of another container. Stop it there: "
            "wantui engine stop"
        )
    for _ in range(2 if now else 1):
        try:
            os.kill(process, signal.SIGTERM)
        except ProcessLookupError:
            return process
        time.sleep(0.1)
    until = time.monotonic() + wait_seconds
    while time.monotonic() < until:
        if engine_process(directory) != process:
            return process
        time.sleep(0.05)
    if now:
        raise NoEngineError(
            f"the engine (process {process}) does not respond: it is suspended, or waits for a disk or network. Kill "
            f"it: kill -9 {process}. Videos in progress continue from their checkpoints"
        )
    raise NoEngineError(
        f"cannot stop the engine (process {process}) yet: it is in the middle of a step. "
        "End it at once: wantui engine stop --now"
    )


def pid_namespace() -> int | None:
    """Return the number of the namespace that process numbers are of; None where the system gives none."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return None


def engine_process(directory: Path) -> int | None:
    """Return the process that is the engine of a state directory, also while it starts; None where there is none."""
    info = published(directory)
    return None if info is None else info.get("process")


def open_queue(state_dir: StateDirectory, is_engine: bool = False) -> tuple[Queue, list[str]]:
    """Return the queue, and messages about it for the user.

    A damaged database is quarantined and replaced by an empty one; finished videos are still in their folders.

    Raises:
        UserError: it cannot be opened, is of a newer version, or is damaged while an engine has it open.
    """
    notes = [state_dir.note] if state_dir.note else []
    path = state_dir.directory / NAME
    try:
        queue = _checked(state_dir, is_engine)
        try:
            return queue, notes + other_queues(state_dir, queue)
        except BaseException:
            queue.close()
            raise
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise UserError(f"the queue {path} cannot be opened: {error}. {ADVICE}") from None
        if not is_engine and find_engine(state_dir.directory) is not None:
            raise UserError(f"the queue {path} is damaged ({error}); first: wantui engine stop") from None
    # One process at a time: the next one finds it replaced.
    with (state_dir.directory / "quarantine.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return _checked(state_dir, is_engine), notes
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise UserError(f"the queue {path} cannot be opened: {error}. {ADVICE}") from None
            aside = quarantine(path)
            notes.append(
                f"the queue {path} was damaged ({error}) and is kept as {aside.name}; a new one is begun. "
                "Finished videos are in their folders; wantui run --resume FOLDER puts back what is missing of a batch"
            )
        return Queue(state_dir.directory), notes


def _checked(state_dir: StateDirectory, thoroughly: bool) -> Queue:
    queue = Queue(state_dir.directory)
    if thoroughly:
        try:
            check_content(queue.db)
        except BaseException:
            queue.close()
            raise
    return queue


def other_queues(state_dir: StateDirectory, queue: Queue) -> list[str]:
    """Report queues of other host names if this one is empty: a recreated container has a new name."""
    if queue.batches(1):
        return []
    notes = []
    for path in sorted(state_dir.directory.parent.glob(f"*/{NAME}")):
        if path.parent == state_dir.directory or not (batches := _count_batches(path)):
            continue
        host, own_host = path.parent.name, state_dir.directory.name
        notes.append(
            f"the queue of {own_host} is empty, and that of {host} has {format_count(batches, 'batch', 'batches')}: "
            f"{path.parent}. If this machine was called {host} before (as a container that is made again), "
            "give it that name again (docker run --hostname), or put its batches on this queue: "
            "wantui run --resume FOLDER"
        )
    return notes


def _count_batches(path: Path) -> int:
    """Return the number of unfinished batches in a database that belongs to another host; nothing in it is changed."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0)) as other:
            (count,) = other.execute(
                "SELECT count(DISTINCT batch) FROM video WHERE state IN ('queued', 'interrupted', 'running')"
            ).fetchone()
            return int(count)
    except (sqlite3.Error, UnicodeDecodeError):
        return 0


def last_line(path: Path, start: int = 0) -> str:
    """Return the last line of a process's output, from a byte on, without what a terminal would obey."""
    try:
        with path.open("rb") as file:
            file.seek(max(start, path.stat().st_size - 100_000))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError as error:
        return f"({path} cannot be read: {error.strerror})"
    if lines:
        return printable(lines[-1][:1000])
    reason = write_fault(path.parent)
    if reason is None:
        return "(it printed nothing)"
    return f"(its output could not be written to {path}: {reason}. Make room on its disk, or have it made writable)"
