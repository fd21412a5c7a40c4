"""From outside the engine: is there one, start it, stop it; and opening the queue, whatever state it is in."""

import fcntl
import json
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wantui.errors import UserError
from wantui.queue.database import NAME, put_aside
from wantui.queue.place import Place
from wantui.queue.queue import Queue

LOCK = "engine.lock"
START_SECONDS = 20.0


class NoEngine(UserError):
    """There is no engine, and none could be started."""

    exit_code = 3


@dataclass(frozen=True)
class Engine:
    """The engine that runs, as it said of itself."""

    process: int
    started: float
    """Seconds since 1970."""
    logs: Path
    version: str
    devices: tuple[str, ...]
    """What a batch may call the devices of its workers."""


def hold_lock(directory: Path) -> int | None:
    """Become the engine of a state directory for as long as this process lives; None where there is one already.

    The kernel gives the lock back whatever happens to the process. Returns the descriptor that holds it; nobody sees
    an engine before it is given to `announce`.
    """
    descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    # A client that looks holds the lock for an instant.
    for _ in range(20):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            return descriptor
        except BlockingIOError:
            time.sleep(0.05)
    os.close(descriptor)
    return None


def announce(lock: int, logs: Path, version: str, devices: Sequence[str]) -> None:
    """Say that the engine that holds the lock is ready: it has taken stock of what was interrupted."""
    said = {"process": os.getpid(), "started": time.time(), "logs": str(logs), "version": version, "devices": devices}
    os.pwrite(lock, json.dumps(said).encode(), 0)


def find_engine(directory: Path) -> Engine | None:
    """The engine of a state directory, if one runs; one that starts is waited for."""
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            descriptor = os.open(directory / LOCK, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
        except BlockingIOError:
            said = os.pread(descriptor, 4096, 0)
        finally:
            os.close(descriptor)
        try:
            values = json.loads(said)
            devices = tuple(values["devices"])
            return Engine(values["process"], values["started"], Path(values["logs"]), values["version"], devices)
        except (ValueError, KeyError):
            if time.monotonic() > until:
                return None
            time.sleep(0.02)


def ensure_engine(place: Place, logs: Path, workers: int | None = None) -> tuple[Engine, bool]:
    """The engine that runs, or one that is started now, in an OS session of its own; and whether it was started.

    Raises:
        NoEngine: it ended at once; the text says where to look.
    """
    import subprocess

    found = find_engine(place.directory)
    if found is not None:
        return found, False
    output = place.directory / "engine.out"
    command = [sys.executable, "-m", "wantui.engine.supervisor", "--state", str(place.directory), "--logs", str(logs)]
    if workers is not None:
        command += ["--workers", str(workers)]
    with output.open("ab") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd="/", start_new_session=True, close_fds=True
        )
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        found = find_engine(place.directory)
        if found is not None:
            return found, found.process == process.pid
        if process.poll() is not None and find_engine(place.directory) is None:
            break
        time.sleep(0.02)
    raise NoEngine(f"the engine did not start; {output} says why:\n  {_last_line(output)}")


def stop_engine(directory: Path, now: bool, wait_seconds: float = 60.0) -> Engine | None:
    """Ask the engine to end (`now`: without finishing the step at hand) and wait; the engine that ended, if one ran.

    Raises:
        NoEngine: it did not end in time.
    """
    engine = find_engine(directory)
    if engine is None:
        return None
    for _ in range(2 if now else 1):
        try:
            os.kill(engine.process, signal.SIGTERM)
        except ProcessLookupError:
            return engine
        time.sleep(0.1)
    until = time.monotonic() + wait_seconds
    while time.monotonic() < until:
        if find_engine(directory) is None:
            return engine
        time.sleep(0.05)
    raise NoEngine(f"the engine (process {engine.process}) goes on with its step; wantui engine stop --now ends it")


def open_queue(place: Place, is_engine: bool = False) -> tuple[Queue, list[str]]:
    """The queue, and what a user has to be told about it.

    A damaged database is put aside and a new one begun: what was made is in its folders.

    Raises:
        UserError: it cannot be opened, is of a newer version, or is damaged while an engine has it open.
    """
    notes = [place.note] if place.note else []
    path = place.directory / NAME
    try:
        return _checked(place, is_engine), notes
    except sqlite3.OperationalError as error:
        raise UserError(f"the queue {path} cannot be opened: {error}") from None
    except sqlite3.DatabaseError as error:
        if not is_engine and find_engine(place.directory) is not None:
            raise UserError(f"the queue {path} is damaged ({error}); first: wantui engine stop") from None
    # One at a time: the next one finds it mended.
    with (place.directory / "mending.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return _checked(place, is_engine), notes
        except sqlite3.DatabaseError as error:
            aside = put_aside(path)
            notes.append(
                f"the queue {path} was damaged ({error}) and is kept as {aside.name}; a new one is begun. "
                "Finished videos are in their folders; wantui run --resume FOLDER puts back what is missing of a batch"
            )
        return Queue(place.directory), notes


def _checked(place: Place, thoroughly: bool) -> Queue:
    queue = Queue(place.directory)
    if thoroughly:
        (found,) = queue.db.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            queue.close()
            raise sqlite3.DatabaseError(found)
    return queue


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "(nothing)"
