"""Progress of the unfinished batches, as the header and the terminal's taskbar show it."""

from dataclasses import dataclass

from wantui.tui.queue_watcher import QueueSnapshot


@dataclass(frozen=True)
class QueueProgress:
    """Videos of all unfinished batches."""

    ended_count: int
    """Number of videos that are done, failed or cancelled."""
    video_count: int
    completed_fraction: float
    """Share of the work that is done, from 0 to 1; the steps of running videos count."""


def measure_queue_progress(snapshot: QueueSnapshot) -> QueueProgress | None:
    """Return the progress of the unfinished batches; None if there are none."""
    batches = [batch for batch in snapshot.batches if batch.unfinished_count]
    if not batches:
        return None
    video_count = sum(batch.video_count for batch in batches)
    ended_count = video_count - sum(batch.unfinished_count for batch in batches)
    running_share = sum(min(1.0, video.step / max(1, video.steps)) for video in snapshot.running_videos)
    return QueueProgress(ended_count, video_count, min(1.0, (ended_count + running_share) / video_count))
