"""Cancel videos in the queue and in the manifest of their batch, and report the result."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.queue.queue import Queue
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest_store import ManifestStore

if TYPE_CHECKING:
    from wantui.tui.app import WantuiApp


def cancel_videos(app: "WantuiApp", batch_ids: Sequence[int], video_index: int | None = None) -> None:
    """Cancel batches, or one video of a batch.

    Waiting videos are cancelled in the manifest, too, on a background thread; for running videos, their worker does
    that. The state of a video may have changed while the user confirmed, so the queue decides which videos are
    waiting. An error in one batch does not hide what was cancelled in the others.
    """

    def cancel(queue: Queue) -> None:
        cancelled_count = running_count = 0
        missing_ids: list[int] = []
        is_complete = False
        try:
            for batch_id in batch_ids:
                batch = queue.get_batch(batch_id)
                if batch is None:
                    missing_ids.append(batch_id)
                    continue
                cancelled_indices, running_of_batch = queue.cancel_videos(batch_id, video_index)
                cancelled_count += len(cancelled_indices)
                running_count += running_of_batch
                if cancelled_indices:
                    _record_in_background(app, batch_id, batch.folder, cancelled_indices)
            is_complete = not missing_ids
        finally:
            _report_cancelled_videos(app, cancelled_count, running_count, is_complete)
        if missing_ids:
            names = ", ".join(str(batch_id) for batch_id in missing_ids)
            subject = f"batch {names} is" if len(missing_ids) == 1 else f"batches {names} are"
            is_unchanged = not (cancelled_count or running_count)
            raise UserError(
                f"cannot cancel: {subject} no longer in the queue.{' Nothing was changed.' if is_unchanged else ''}"
            )

    app.change_queue(cancel)


def _report_cancelled_videos(app: "WantuiApp", cancelled_count: int, running_count: int, is_complete: bool) -> None:
    parts = [f"{format_count(cancelled_count, 'video')} cancelled"] if cancelled_count else []
    if running_count:
        start_text = "once the engine has started" if app.is_engine_starting else "once an engine starts (F6)"
        stop_time = "at the next step" if app.snapshot.engine is not None else start_text
        parts.append(f"{format_count(running_count, 'running video')} will stop {stop_time}")
    if parts:
        app.notify(", ".join(parts))
    elif is_complete:  # otherwise the error is reported
        app.notify("nothing to cancel: all videos have already ended")


def _record_in_background(app: "WantuiApp", batch_id: int, folder: Path, video_indices: Sequence[int]) -> None:
    record = partial(_record_cancelled_videos, app, batch_id, folder, video_indices)
    name = "record cancelled videos"
    app.run_worker(record, name, thread=True, group="cancelling", exit_on_error=False)


def _record_cancelled_videos(app: "WantuiApp", batch_id: int, folder: Path, video_indices: Sequence[int]) -> None:
    """Cancel videos in the manifest of their batch; report an error."""
    try:
        ManifestStore(BatchFolder(folder)).end_videos(video_indices, "cancelled")
    except (OSError, UserError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        app.notify(
            f"cannot record the cancellation in the batch folder {folder}: {reason}. Once this is fixed, "
            f"run: wantui queue cancel {batch_id}",
            severity="warning",
        )
