"""Cancel videos on the queue and in the manifest of their batch, and report the result."""

from typing import TYPE_CHECKING

from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.queue.queue import Queue
from wantui.storage.manifest_store import ManifestStore

if TYPE_CHECKING:
    from wantui.tui.app import WantuiApp


def cancel_videos(app: "WantuiApp", batch: int, number: int | None = None) -> None:
    """Cancel a batch, or one video of it; waiting videos are also cancelled in the manifest, at once.

    A worker writes the manifest for a video that it makes. Whether one does is known only after the queue has
    changed: while the question was open, the video may have ended or have been queued again.
    """

    def cancel(queue: Queue) -> None:
        row = queue.batch(batch)
        if row is None:
            raise UserError(f"batch {batch} is no longer on the queue. Nothing was changed.")
        numbers, running = queue.cancel(batch, number)
        try:
            ManifestStore.for_folder(row.folder).cancel(numbers)
        except (OSError, UserError) as error:
            app.notify(f"the batch folder does not say so: {error}", severity="warning")
        parts = [f"{format_count(len(numbers), 'video')} cancelled"] if numbers else []
        if running:
            when = "at the next step" if app.snapshot.engine is not None else "once an engine starts (F6)"
            parts.append(f"{running} will stop {when}")
        app.notify(", ".join(parts) or "nothing to cancel: it has already finished")

    app.change_queue(cancel)
