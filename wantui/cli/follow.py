"""Following a batch to its end, from wherever and as often as one likes."""

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
    from wantui.cli.progress import Reporter
    from wantui.queue.queue import Queue
    from wantui.queue.records import BatchRow, Event

POLL_SECONDS = 0.1
ENGINE_SECONDS = 1.0
"""Seconds between two checks for a running engine."""


def follow(queue: "Queue", batch: "BatchRow", after: int, as_json: bool) -> "BatchRow":
    """Show the progress of a batch until no video of it is left to render; return its final state.

    Raises:
        NoEngineError: nothing is being made, and nothing will be.
        KeyboardInterrupt: the user has seen enough.
    """
    from wantui.batches.eta import BatchEta
    from wantui.cli.progress import reporter
    from wantui.engine.control import NoEngineError, find_engine
    from wantui.queue.state_dir import recording_fault
    from wantui.queue.waiting import waiting_for

    looked, directory = time.monotonic(), queue.path.parent
    unwritable: str | None = None
    version, current, is_engine_gone = -1, batch, False
    eta = BatchEta(queue, batch.id)
    with reporter(as_json, eta.seconds) as shown:
        _show_current(queue, batch, after, shown)
        while True:
            if is_output_closed():
                raise OutputClosedError
            if (now := queue.version()) != version:
                version = now
                # In this order: what ended the batch is then among the events.
                row = queue.batch(batch.id)
                for event in queue.events(after, batch.id):
                    after = event.seq
                    eta.apply(event)
                    shown.show(event)
                    _raise_refusal(event, batch.id)
                if row is None:
                    raise NoEngineError(f"batch {batch.id} was removed from the queue")
                current = row
                if not current.unfinished:
                    return current
            if time.monotonic() - looked > ENGINE_SECONDS:
                looked = time.monotonic()
                shown.wait(waiting_for(queue, batch.id))
                if queue.is_replaced():
                    raise NoEngineError(
                        f"the queue {queue.path} was deleted or replaced. "
                        f"To make what is missing: wantui run --resume {shown_path(batch.folder)}"
                    )
                if (reason := recording_fault(directory)) != unwritable:
                    unwritable = reason
                    shown.say(reason or f"{directory} can be written again")
                with suppress(PermissionError):  # the directory may not be entered, as was said: an engine may run
                    is_engine_gone = find_engine(directory) is None
                if is_engine_gone:
                    raise NoEngineError(
                        f"no engine is running, and {format_count(current.unfinished, 'video')} of {batch.folder} "
                        f"{'is' if current.unfinished == 1 else 'are'} missing; "
                        "continue with: wantui engine start, and wantui queue resume if the queue is held"
                    )
            time.sleep(POLL_SECONDS)


def _show_current(queue: "Queue", batch: "BatchRow", after: int, shown: "Reporter") -> None:
    """Show what holds the batch now, and the videos of it that run already.

    Raises:
        UserError: no worker can be started.
    """
    from wantui.queue.events import VideoStarted
    from wantui.queue.records import Event, shown_number

    held = queue.held()
    if held is not None and held.kind == "worker" and batch.unfinished:
        raise _no_worker(held.reason, batch.id)
    if held is not None:
        shown.say(f"the queue is held: {held.reason}. Resume with: wantui queue resume")
    running = queue.running()
    # Videos that started after `after` have an event, which is shown later.
    fresh = {event.video for event in queue.events(after, batch.id) if isinstance(event.payload, VideoStarted)}
    for video in running:
        if video.batch == batch.id and video.id not in fresh:
            number = shown_number(video.number)
            payload = VideoStarted(title=video.title, number=number, steps=video.steps, worker=video.worker)
            shown.show(Event(after, time.time(), batch.id, video.id, payload))
    if batch.paused:
        shown.say(f"the batch is paused. Resume with: wantui queue resume {batch.id}")


def _no_worker(reason: str, batch: int) -> UserError:
    error = UserError(f"{reason}\nWhen that is corrected: wantui queue resume, and wantui watch {batch}")
    error.exit_code = 3
    return error


def _raise_refusal(event: "Event", batch: int) -> None:
    from wantui.queue.events import BatchRefused, QueueHeld

    match event.payload:
        case QueueHeld(reason=reason, hold="worker"):
            raise _no_worker(reason, batch)
        case BatchRefused(error=error, exit_code=exit_code):
            refusal = UserError(error)
            refusal.exit_code = exit_code
            raise refusal


def report_end(queue: "Queue", batch: "BatchRow", as_json: bool) -> NoReturn:
    """Print how a batch ended: its folder on stdout; exit with code 1 if videos failed or its manifest is
    unreadable."""
    from wantui.storage.layout import BatchFolder
    from wantui.storage.manifest import ManifestError, read_manifest

    gone, fault = False, None
    try:
        # The folder may hold videos that this queue never knew.
        counts = read_manifest(BatchFolder(batch.folder)).counts()
    except ManifestError as error:
        counts, gone = batch.counts, not os.path.exists(batch.folder)  # noqa: PTH110 - Path.exists raises (EACCES)
        if not gone:
            fault = error
    failed = [video for video in queue.videos(batch.id) if video.state == "failed"]
    summary = f"{counts.get('done', 0)} of {format_count(sum(counts.values()), 'video')} done"
    if batch.counts.get("cancelled"):
        summary += f", {batch.counts['cancelled']} cancelled"
    folder = shown_path(batch.folder)
    if failed:
        echo(f"{summary}, {len(failed)} failed:", err=True)
        for video in failed:
            echo(f"  failed: {video.title}: {video.error}", err=True)
        if not gone and fault is None:
            echo(f"try those again with\n  wantui run --resume {folder}", err=True)
    else:
        echo(summary, err=True)
    if as_json:
        print_json({"event": "end", "folder": str(folder), **counts}, indent=None)
    else:
        echo(folder)
    if fault is not None:
        echo(f"wantui: {fault}", err=True)
    sys.exit(1 if failed or fault is not None else 0)


def leave(queue: "Queue", batch: int) -> NoReturn:
    """Report that the engine continues without this command, and how to reattach."""
    from wantui.engine.control import engine_process

    row = queue.batch(batch)
    engine = (
        "the engine keeps running"
        if engine_process(queue.path.parent)
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


def shown_path(path: Path) -> Path:
    """Return a path relative to the working folder if it is below it."""
    try:
        here = Path.cwd()
    except FileNotFoundError:  # it was deleted
        return path
    return path.relative_to(here) if path.is_relative_to(here) else path
