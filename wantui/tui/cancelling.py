"""Cancel videos in the queue and in the manifest of their batch, and report the result."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.queue.queue import Queue
from wantui.storage.manifest_store import ManifestStore

if TYPE_CHECKING:
    from wantui.tui.app import WantuiApp


def cancel_videos(app: "WantuiApp", batch_ids: Sequence[int], video_index: int | None = None) -> None:
    """Cancel batches, or one video of a batch.

    Waiting videos are cancelled in the manifest, too; for running videos, their worker does that. The state of a video
    may have changed while the user confirmed, so that the queue decides which videos are waiting.
    """

    def cancel(queue: Queue) -> None:
        cancelled_count = running_count = 0
        for batch_id in batch_ids:
            cancelled_indices, running_of_batch = _cancel_videos_of_batch(app, queue, batch_id, video_index)
            cancelled_count += len(cancelled_indices)
            running_count += running_of_batch
        parts = [f"{format_count(cancelled_count, 'video')} cancelled"] if cancelled_count else []
        if running_count:
            stop_time = "at the next step" if app.snapshot.engine is not None else "once an engine starts (F6)"
            parts.append(f"{format_count(running_count, 'running video')} will stop {stop_time}")
        app.notify(", ".join(parts) or "nothing to cancel: all videos have already ended")

    app.change_queue(cancel)


def _cancel_videos_of_batch(
    app: "WantuiApp", queue: Queue, batch_id: int, video_index: int | None
) -> tuple[list[int], int]:
    """Cancel a batch, or one of its videos; return the indices of the cancelled videos, and the running ones' number.

    Raises:
        UserError: the batch is no longer in the queue.
    """
    batch = queue.get_batch(batch_id)
    if batch is None:
        raise UserError(f"cannot cancel: batch {batch_id} is no longer in the queue. Nothing of it was changed.")
    cancelled_indices, running_count = queue.cancel_videos(batch_id, video_index)
    try:
        ManifestStore.for_folder(batch.folder).cancel_videos(cancelled_indices)
    except (OSError, UserError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        app.notify(
            f"cannot record the cancellation in the batch folder {batch.folder}: {reason}. Once this is fixed, "
            f"run: wantui queue cancel {batch.id}",
            severity="warning",
        )
    return cancelled_indices, running_count
