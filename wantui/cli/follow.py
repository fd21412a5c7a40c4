"""Follow a batch to its end; any number of commands may follow the same batch."""

import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from wantui.cli.output import echo, print_json
from wantui.cli.streams import OutputClosedError, is_output_closed
from wantui.errors import UserError
from wantui.formatting import format_count

if TYPE_CHECKING:
    from wantui.cli.progress import ProgressReporter
    from wantui.queue.queue import Queue
    from wantui.queue.records import BatchRow, Event

POLL_SECONDS = 0.1
ENGINE_SECONDS = 1.0
"""Seconds between two checks for a running engine."""


def follow(queue: "Queue", batch: "BatchRow", after: int, as_json: bool) -> "BatchRow":
    """Show the progress of a batch until all its videos have ended; return its final row.

    Raises:
        NoEngineError: no engine is running, or the batch or the queue was removed.
        KeyboardInterrupt: the user stops following.
    """
    from wantui.batches.eta import BatchEta
    from wantui.cli.progress import open_reporter
    from wantui.engine.control import NoEngineError, find_engine
    from wantui.queue.state_dir import describe_recording_fault
    from wantui.queue.waiting import find_batch_wait

    last_check, directory = time.monotonic(), queue.path.parent
    recording_error: str | None = None
    version, current, is_engine_gone = -1, batch, False
    eta = BatchEta(queue, batch.id)
    with open_reporter(as_json, eta.estimate_seconds) as reporter:
        _show_current(queue, batch, after, reporter)
        while True:
            if is_output_closed():
                raise OutputClosedError
            if (now := queue.read_data_version()) != version:
                version = now
                # Read the row before the events: a batch that has ended in `row` then has its last events below.
                row = queue.batch(batch.id)
                for event in queue.events(after, batch.id):
                    after = event.seq
                    eta.apply(event)
                    reporter.show_event(event)
                    _raise_refusal(event, batch.id)
                if row is None:
                    raise NoEngineError(f"batch {batch.id} was removed from the queue")
                current = row
                if not current.unfinished:
                    return current
            if time.monotonic() - last_check > ENGINE_SECONDS:
                last_check = time.monotonic()
                reporter.show_waiting(find_batch_wait(queue, batch.id))
                if queue.is_replaced():
                    raise NoEngineError(
                        f"the queue {queue.path} was deleted or replaced. "
                        f"Queue the missing videos again: wantui run --resume {format_path(batch.folder)}"
                    )
                if (reason := describe_recording_fault(directory)) != recording_error:
                    recording_error = reason
                    reporter.show_message(reason or f"{directory} can be written again")
                with suppress(PermissionError):  # reported above; an engine may still be running
                    is_engine_gone = find_engine(directory) is None
                if is_engine_gone:
                    raise NoEngineError(
                        f"no engine is running, and {format_count(current.unfinished, 'video')} of {batch.folder} "
                        f"{'is' if current.unfinished == 1 else 'are'} missing. "
                        "Run wantui engine start, and wantui queue resume if the queue is held"
                    )
            time.sleep(POLL_SECONDS)


def _show_current(queue: "Queue", batch: "BatchRow", after: int, reporter: "ProgressReporter") -> None:
    """Show why the batch waits, if it does, and its running videos.

    Raises:
        UserError: no worker can be started.
    """
    from wantui.queue.events import VideoStarted
    from wantui.queue.records import Event, display_number

    held = queue.read_hold()
    if held is not None and held.kind == "worker" and batch.unfinished:
        raise _no_worker_error(held.reason, batch.id)
    if held is not None:
        reporter.show_message(f"the queue is held: {held.reason}. Resume with: wantui queue resume")
    running = queue.list_running_videos()
    # `follow` shows the events after `after`, and with them the videos that they start.
    started_later = {event.video for event in queue.events(after, batch.id) if isinstance(event.payload, VideoStarted)}
    for video in running:
        if video.batch == batch.id and video.id not in started_later:
            number = display_number(video.number)
            payload = VideoStarted(title=video.title, number=number, steps=video.steps, worker=video.worker)
            reporter.show_event(Event(after, time.time(), batch.id, video.id, payload))
    if batch.paused:
        reporter.show_message(f"the batch is paused. Resume with: wantui queue resume {batch.id}")


def _no_worker_error(reason: str, batch: int) -> UserError:
    error = UserError(f"{reason}\nFix that, then run: wantui queue resume, and wantui watch {batch}")
    error.exit_code = 3
    return error


def _raise_refusal(event: "Event", batch: int) -> None:
    """Raise the error of an event that ends the batch: no worker can start, or the batch is refused."""
    from wantui.queue.events import BatchRefused, QueueHeld

    match event.payload:
        case QueueHeld(reason=reason, hold="worker"):
            raise _no_worker_error(reason, batch)
        case BatchRefused(error=error, exit_code=exit_code):
            refusal = UserError(error)
            refusal.exit_code = exit_code
            raise refusal


def report_end(queue: "Queue", batch: "BatchRow", as_json: bool) -> NoReturn:
    """Print the result of a batch, its folder on stdout; exit with code 1 if videos failed or its manifest is
    unreadable."""
    from wantui.storage.layout import BatchFolder
    from wantui.storage.manifest import ManifestError, read_manifest

    is_deleted, fault = False, None
    try:
        # The folder may contain videos that were never on this queue.
        counts = read_manifest(BatchFolder(batch.folder)).count_states()
    except ManifestError as error:
        counts, is_deleted = batch.counts, not os.path.exists(batch.folder)  # noqa: PTH110 - Path.exists raises (EACCES)
        if not is_deleted:
            fault = error
    failed = [video for video in queue.videos(batch.id) if video.state == "failed"]
    summary = f"{counts.get('done', 0)} of {format_count(sum(counts.values()), 'video')} done"
    if batch.counts.get("cancelled"):
        summary += f", {batch.counts['cancelled']} cancelled"
    folder = format_path(batch.folder)
    if failed:
        echo(f"{summary}, {len(failed)} failed:", err=True)
        for video in failed:
            echo(f"  failed: {video.title}: {video.error}", err=True)
        if not is_deleted and fault is None:
            echo(f"retry them with\n  wantui run --resume {folder}", err=True)
    else:
        echo(summary, err=True)
    if as_json:
        print_json({"event": "end", "folder": str(folder), **counts}, indent=None)
    else:
        echo(folder)
    if fault is not None:
        echo(f"wantui: {fault}", err=True)
    sys.exit(1 if failed or fault is not None else 0)


def report_detached(queue: "Queue", batch: int) -> NoReturn:
    """Report the progress so far and how to reattach; exit with code 130."""
    from wantui.engine.control import find_engine_process

    row = queue.batch(batch)
    engine = (
        "the engine is still running"
        if find_engine_process(queue.path.parent)
        else "no engine is running (wantui engine start)"
    )
    counts = row.counts if row is not None else {}
    videos = format_count(sum(counts.values()), "video")
    echo(
        f"detached: {counts.get('done', 0)} of {videos} done, and {engine}.\n"
        f"  wantui watch {batch}           reattach\n"
        f"  wantui queue cancel {batch}    cancel the batch",
        err=True,
    )
    sys.exit(130)


def format_path(path: Path) -> Path:
    """Return a path below the working folder as a relative one, and any other path unchanged."""
    try:
        here = Path.cwd()
    except FileNotFoundError:  # the working folder was deleted
        return path
    return path.relative_to(here) if path.is_relative_to(here) else path
