"""Data of the Monitor screen: what it reads from files, and why nothing runs."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from textual.message import Message

from wantui.formatting import format_count, format_duration
from wantui.queue.records import WorkerRow
from wantui.tui.queue_watcher import QueueSnapshot

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_LOG_TAIL_BYTES = 20_000
"""Bytes read from the end of a log."""


@dataclass(frozen=True)
class LogTail:
    """Last lines of a log."""

    file_version: tuple[Path, int, int]
    """Path, size in bytes and modification time in nanoseconds of the file."""
    lines: list[str]


@dataclass
class MonitorFilesRead(Message):
    """A preview or a changed log was read."""

    video_id: int
    preview_step: int
    preview_picture: "NDArray[np.uint8] | None"
    """Preview picture; None if missing or deleted."""
    log_tail: LogTail | None


def read_log_tail(path: Path, known_version: tuple[Path, int, int] | None) -> LogTail | None:
    """Read the last lines of a log; return None if it is unchanged, missing or not a regular file."""
    try:
        if not path.is_file():  # opening a pipe would never return
            return None
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
            if (path, stat.st_size, stat.st_mtime_ns) == known_version:
                return None
            file.seek(max(0, stat.st_size - MAX_LOG_TAIL_BYTES))
            text = file.read(MAX_LOG_TAIL_BYTES).decode(errors="replace")
    except OSError:
        return None
    return LogTail((path, stat.st_size, stat.st_mtime_ns), text.splitlines())


def explain_idle_queue(snapshot: QueueSnapshot, is_starting_engine: bool) -> str:
    """Return why no video is running, and what will happen next or which key to press."""
    waiting_count = sum(batch.unfinished_count for batch in snapshot.batches if not batch.paused)
    suffix = f"; {format_count(waiting_count, 'video')} waiting" if waiting_count else ""
    if snapshot.hold is not None:
        return f"no video is running: the queue is on hold ({snapshot.hold.reason})\n\nPress F7 to resume the queue"
    if snapshot.engine is None:
        if is_starting_engine:
            return "no video is running yet: the engine is starting"
        return f"no video is running: there is no engine{suffix}\n\nF6 starts the engine, 1 composes a batch"
    starting_workers = [worker for worker in snapshot.workers if worker.state == "starting"]
    if starting_workers:
        return "no video is running yet" + "".join(
            f"\n\n{_describe_starting_worker(worker)}" for worker in starting_workers
        )
    if waiting_count:
        return f"no video is running{suffix}\n\na worker will start the next video"
    if any(batch.unfinished_count for batch in snapshot.batches):
        return "no video is running: every unfinished batch is paused\n\nPress 2, then p to resume a batch"
    return "no video is running: the queue is empty\n\n1 composes a batch"


def _describe_starting_worker(worker: WorkerRow) -> str:
    elapsed = "" if worker.seconds is None else f" ({format_duration(worker.seconds)} so far)"
    return f"{worker.name.partition(':')[0]} is starting: loading PyTorch takes seconds to minutes{elapsed}"
