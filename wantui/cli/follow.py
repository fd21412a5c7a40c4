"""Follow a batch to its end; any number of commands may follow the same batch."""

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from wantui.cli.output import echo, print_json
from wantui.cli.streams import OutputClosedError, is_output_closed
from wantui.errors import UserError
from wantui.formatting import format_count

if TYPE_CHECKING:
    from wantui.cli.progress import ProgressReporter
    from wantui.queue.queue import Queue
    from wantui.queue.records import BatchRow, QueueEvent

QUEUE_POLL_SECONDS = 0.1
ENGINE_CHECK_SECONDS = 1.0
"""Seconds between two checks for a running engine."""


def follow_batch(queue: "Queue", batch: "BatchRow", last_seq: int, as_json: bool) -> "BatchRow":
    """Show the progress of a batch until all its videos have ended; return its final row.

    Raises:
        NoEngineError: no engine is running, or the batch or the queue was removed.
        KeyboardInterrupt: the user stops following.
    """
    from wantui.batches.eta import RECENT_EVENT_COUNT, BatchEta
    from wantui.cli.progress import open_progress_reporter
    from wantui.engine.control import NoEngineError
    from wantui.queue.database import BUSY_TIMEOUT_SECONDS, QueueUnavailableError, is_database_damage
    from wantui.queue.events import StepDone
    from wantui.queue.lock_holders import LOCK_NOTICE_SECONDS
    from wantui.queue.waiting import find_batch_wait

    last_check_seconds, data_version, current_row = time.monotonic(), -1, batch
    fault: str | None = None
    batch_eta = BatchEta(queue, batch.id)
    with open_progress_reporter(as_json, batch_eta.estimate_batch_seconds) as reporter:
        recent_events = queue.list_events(max(0, last_seq - RECENT_EVENT_COUNT), batch.id)
        step_by_video: dict[int | None, QueueEvent] = {}
        for event in recent_events:
            if event.seq <= last_seq:
                batch_eta.apply_event(event)
                if isinstance(event.payload, StepDone) and not as_json:
                    step_by_video[event.video_id] = event
        _show_current_state(queue, batch, last_seq, reporter, step_by_video)
        queue.db.set_wait_seconds(LOCK_NOTICE_SECONDS)  # a longer lock is reported, and waited for
        while True:
            if is_output_closed():
                raise OutputClosedError
            try:
                if (new_version := queue.read_data_version()) != data_version:
                    # Read the row before the events: a batch that has ended in `row` then has its last events below.
                    batch_row = queue.get_batch(batch.id)
                    for event in queue.list_events(last_seq, batch.id):
                        last_seq = event.seq
                        batch_eta.apply_event(event)
                        reporter.show_event(event)
                        _raise_batch_error(event, batch.id)
                    if batch_row is None:
                        raise NoEngineError(f"batch {batch.id} was removed from the queue")
                    data_version, current_row = new_version, batch_row
                    if not current_row.unfinished_count:
                        queue.db.set_wait_seconds(BUSY_TIMEOUT_SECONDS)
                        return current_row
                if time.monotonic() - last_check_seconds <= ENGINE_CHECK_SECONDS:
                    time.sleep(QUEUE_POLL_SECONDS)
                    continue
                reporter.show_wait_reason(find_batch_wait(queue, batch.id))
                _check_engine(queue, current_row)
                new_fault = queue.explain_unwritable_queue()
            except QueueUnavailableError as error:
                if is_database_damage(error):
                    raise
                new_fault = f"cannot read the queue: {error}. The engine continues as soon as the queue can be used"
                time.sleep(QUEUE_POLL_SECONDS)  # only a lock is waited for; other errors are raised at once
            if new_fault != fault:
                fault = new_fault
                reporter.show_message(fault or f"{queue.path.parent} is writable again")
            last_check_seconds = time.monotonic()


def _check_engine(queue: "Queue", batch: "BatchRow") -> None:
    """Check that an engine is running, and that it uses the queue that this command has opened.

    Raises:
        NoEngineError: no engine is running, or the queue was replaced.
    """
    from wantui.engine.control import NoEngineError
    from wantui.queue.engine_lock import read_engine_info

    if queue.is_replaced():
        raise NoEngineError(
            f"the queue {queue.path} was deleted or replaced. "
            f"Queue the missing videos again: wantui run --resume {format_relative_path(batch.folder)}"
        )
    try:
        engine_info = read_engine_info(queue.path.parent)  # of an engine that is starting, too
    except PermissionError:  # reported as a recording fault; an engine may still be running
        return
    if engine_info is None:
        raise NoEngineError(
            f"no engine is running, and {format_count(batch.unfinished_count, 'video')} of {batch.folder} "
            f"{'is' if batch.unfinished_count == 1 else 'are'} unfinished. "
            "Start an engine with `wantui engine start`. If the queue is held, also run `wantui queue resume`"
        )


def _show_current_state(
    queue: "Queue",
    batch: "BatchRow",
    last_seq: int,
    reporter: "ProgressReporter",
    step_by_video: "Mapping[int | None, QueueEvent]",
) -> None:
    """Show the running videos of the batch with their last steps, or the reason why the batch is waiting.

    Raises:
        UserError: no worker can be started.
    """
    from wantui.queue.events import VideoStarted
    from wantui.queue.records import QueueEvent, to_display_number

    hold = queue.read_hold()
    if hold is not None and hold.kind == "worker" and batch.unfinished_count:
        raise _make_no_worker_error(hold.reason, batch.id)
    if hold is not None:
        reporter.show_message(f"the queue is held: {hold.describe()}")
    if batch.hold is not None and batch.unfinished_count:
        reporter.show_message(f"the batch is on hold: {batch.hold.describe()}")
    running_videos = queue.list_running_videos()
    # `follow_batch` shows the events after `after`, and with them the videos that they start.
    later_started_ids = {
        event.video_id for event in queue.list_events(last_seq, batch.id) if isinstance(event.payload, VideoStarted)
    }
    for video in running_videos:
        if video.batch == batch.id and video.id not in later_started_ids:
            video_number = to_display_number(video.number)
            payload = VideoStarted(title=video.title, number=video_number, steps=video.steps, worker=video.worker)
            reporter.show_event(QueueEvent(last_seq, time.time(), batch.id, video.id, payload))
            if (step_event := step_by_video.get(video.id)) is not None and video.step:
                reporter.show_event(step_event)
    if batch.paused:
        reporter.show_message(f"the batch is paused. Resume with: wantui queue resume {batch.id}")


def _make_no_worker_error(reason: str, batch_id: int) -> UserError:
    error = UserError(f"{reason}\nFix this, run `wantui queue resume`, then `wantui watch {batch_id}`")
    error.exit_code = 3
    return error


def _raise_batch_error(event: "QueueEvent", batch_id: int) -> None:
    """Raise the error of an event that ends the batch: no worker can start, or the batch is refused."""
    from wantui.queue.events import BatchRefused, QueueHeld

    match event.payload:
        case QueueHeld(reason=reason, hold="worker"):
            raise _make_no_worker_error(reason, batch_id)
        case BatchRefused(error=error, exit_code=exit_code):
            refusal = UserError(error)
            refusal.exit_code = exit_code
            raise refusal


def report_batch_end(queue: "Queue", batch: "BatchRow", as_json: bool) -> NoReturn:
    """Print the result of a batch, with its folder on stdout; exit with code 1 if the batch is not complete.

    A batch is not complete if videos failed, or if its manifest is unreadable.
    """
    from wantui.storage.layout import BatchFolder
    from wantui.storage.manifest import read_manifest
    from wantui.storage.manifest_errors import ManifestError

    is_deleted, manifest_error = False, None
    done_indices: set[int] = set()
    try:
        # The folder may contain videos that were never on this queue, or that another queue has generated since.
        manifest = read_manifest(BatchFolder(batch.folder))
        count_by_state = manifest.count_states()
        done_indices = {index for index, entry in enumerate(manifest.videos) if entry.state == "done"}
    except ManifestError as error:
        count_by_state, is_deleted = batch.counts, not os.path.exists(batch.folder)  # noqa: PTH110 - Path.exists raises (EACCES)
        if not is_deleted:
            manifest_error = error
    unmade_videos = [video for video in queue.list_videos(batch.id) if video.number not in done_indices]
    failed_videos = [video for video in unmade_videos if video.state == "failed"]
    cancelled_count = sum(video.state == "cancelled" for video in unmade_videos)
    summary_text = f"{count_by_state.get('done', 0)} of {format_count(sum(count_by_state.values()), 'video')} done"
    if cancelled_count:
        summary_text += f", {cancelled_count} cancelled"
    shown_folder = format_relative_path(batch.folder)
    if failed_videos:
        echo(f"{summary_text}, {len(failed_videos)} failed:", err=True)
        for video in failed_videos:
            echo(f"  failed: {video.title}: {video.error}", err=True)
        if not is_deleted and manifest_error is None:
            echo(f"retry them with\n  wantui run --resume {shown_folder}", err=True)
    else:
        echo(summary_text, err=True)
    if as_json:
        print_json({"event": "end", "folder": str(shown_folder), **count_by_state}, indent=None)
    else:
        echo(shown_folder)
    if manifest_error is not None:
        echo(f"wantui: {manifest_error}", err=True)
    sys.exit(1 if failed_videos or manifest_error is not None else 0)


def report_detached(queue: "Queue", batch_id: int) -> NoReturn:
    """Report the progress so far and how to reattach; exit with code 130."""
    from wantui.engine.control import find_engine_process_id

    batch_row = queue.get_batch(batch_id)
    engine_text = (
        "the engine is still running"
        if find_engine_process_id(queue.path.parent)
        else "no engine is running (wantui engine start)"
    )
    count_by_state = batch_row.counts if batch_row is not None else {}
    videos_text = format_count(sum(count_by_state.values()), "video")
    echo(
        f"detached: {count_by_state.get('done', 0)} of {videos_text} done, and {engine_text}.\n"
        f"  wantui watch {batch_id}           reattach\n"
        f"  wantui queue cancel {batch_id}    cancel the batch",
        err=True,
    )
    sys.exit(130)


def format_relative_path(path: Path) -> Path:
    """Return a path below the working folder as a relative path; return any other path unchanged."""
    try:
        working_folder = Path.cwd()
    except FileNotFoundError:  # the working folder was deleted
        return path
    return path.relative_to(working_folder) if path.is_relative_to(working_folder) else path
