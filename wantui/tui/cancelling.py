"""Cancel videos in the queue and in the manifest of their batch, and report the result."""

from typing import TYPE_CHECKING

from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.queue.queue import Queue
from wantui.storage.manifest_store import ManifestStore

if TYPE_CHECKING:
    from wantui.tui.app import WantuiApp


def cancel_videos(app: "WantuiApp", batch: int, number: int | None = None) -> None:
    """Cancel a batch or one of its videos.

    Waiting videos are cancelled in the manifest, too; for running videos, their worker does that. The state of a video
    may have changed while the user confirmed, so that the queue decides which videos are waiting.
    """

    def cancel(queue: Queue) -> None:
        row = queue.batch(batch)
        if row is None:
            raise UserError(f"cannot cancel: batch {batch} is no longer in the queue. Nothing was changed.")
        numbers, running = queue.cancel(batch, number)
        try:
            ManifestStore.for_folder(row.folder).cancel_videos(numbers)
        except (OSError, UserError) as error:
            app.notify(f"cannot record the cancellation in the batch folder: {error}", severity="warning")
        parts = [f"{format_count(len(numbers), 'video')} cancelled"] if numbers else []
        if running:
            when = "at the next step" if app.snapshot.engine is not None else "once an engine starts (F6)"
            parts.append(f"{running} will stop {when}")
        app.notify(", ".join(parts) or "nothing to cancel: all videos have already ended")

    app.change_queue(cancel)
