"""Notifications of failures, holds, ended batches and an engine of another version, on every screen."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from wantui import __version__
from wantui.engine.control import Engine
from wantui.queue import events
from wantui.queue.records import QueueEvent, describe_hold_end
from wantui.tui.monitor.states import RESUME_KEY_ADVICE
from wantui.tui.queue_watcher import QueueSnapshot

if TYPE_CHECKING:
    from wantui.tui.app import WantuiApp


def announce_changes(
    app: "WantuiApp", previous: QueueSnapshot, snapshot: QueueSnapshot, new_events: Sequence[QueueEvent]
) -> None:
    """Notify of errors, another engine version and new events.

    Args:
        previous: previous snapshot.
        new_events: events of the snapshot since the application started.
    """
    if snapshot.error is not None and snapshot.error != previous.error:  # the header truncates it
        app.notify(snapshot.error, severity="error", title="queue", timeout=20)
    if snapshot.engine is not None and snapshot.engine != previous.engine:
        _announce_engine_version(app, snapshot.engine)
    for event in new_events:
        _announce_event(app, event)
    _announce_ended_batches(app, snapshot, new_events)


def _announce_engine_version(app: "WantuiApp", engine: Engine) -> None:
    if engine.version != __version__:
        app.notify(
            f"the engine runs wantui {engine.version}, but this is wantui {__version__}. To restart the engine with "
            "this version, run `wantui engine stop`, then press F6",
            title="engine of another version",
            severity="warning",
            timeout=15,
        )


def _announce_event(app: "WantuiApp", event: QueueEvent) -> None:
    match event.payload:
        case events.BatchRefused(error=error):
            app.notify(error, severity="error", title="batch failed", timeout=20)
            app.terminal_notices.notify(f"batch failed: {error}")
        case events.QueueHeld(reason=reason, hold=kind):
            app.notify(
                f"{reason}. {describe_hold_end(kind, RESUME_KEY_ADVICE)}", severity="warning", title="queue on hold"
            )
        case events.BatchHeld(reason=reason, hold=kind):
            app.notify(
                f"{reason}. {describe_hold_end(kind)}",
                severity="warning",
                title=f"batch {event.batch_number} on hold, others continue",
            )
        case events.WorkerDied(error=error):
            app.notify(error, severity="error", title="a worker died")
        case events.VideoInterrupted(worker=worker) if worker:
            app.notify(event.payload.describe(), severity="warning", title="a worker died", timeout=20)
        case events.VideoOnOneGpu(title=title, reason=reason):
            batch_reason = event.batch_number, reason
            if batch_reason not in app.announced_one_gpu:  # every video of the batch may have the event
                app.announced_one_gpu.add(batch_reason)
                app.notify(f"{title}: {reason}", severity="warning", title="on one GPU, with the same result")
        case events.VideoOutOfMemory(title=title, plan=plan):
            app.notify(f"{title}: retrying with plan {plan}", severity="warning", title="out of memory")


def _announce_ended_batches(app: "WantuiApp", snapshot: QueueSnapshot, new_events: Sequence[QueueEvent]) -> None:
    """Notify of failed videos and ended batches, once per batch."""
    failed_videos = [
        (event.batch_number, event.payload) for event in new_events if isinstance(event.payload, events.VideoFailed)
    ]
    for batch_id in dict.fromkeys(batch for batch, _ in failed_videos):
        failures = [payload for batch, payload in failed_videos if batch == batch_id]
        more_text = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        app.notify(f"{failures[0].title}: {failures[0].error}{more_text}", severity="error", title="video failed")
    ended_ids = {event.batch_number for event in new_events if isinstance(event.payload, events.ENDING_EVENTS)}
    for batch in snapshot.batches:
        if batch.id in ended_ids and not batch.unfinished_count:
            done_count = batch.counts.get("done", 0)
            text = f"{batch.name}: {done_count} of {batch.video_count} done"
            app.notify(text, title="batch ended")
            app.terminal_notices.notify(text)
            if app.settings.bell:
                app.bell()
