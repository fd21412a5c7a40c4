"""Estimated completion times of batches and videos, shared by all screens.

ETA is the time until it is made, after all that is before it in the queue. Batches that are paused have none, and no
batch waits for them. Where nothing like a video was made yet, the ETA is None and is shown as "?".
"""

from collections.abc import Mapping, Sequence

from wantui.batches.eta import Remaining
from wantui.formatting import format_duration
from wantui.queue.records import BatchRow, VideoRow


def batch_etas(batches: Sequence[BatchRow], left: Mapping[int, Remaining]) -> dict[int, float | None]:
    """Return the ETA of each unfinished batch that is not paused, in seconds, in the order of the queue."""
    etas: dict[int, float | None] = {}
    total: float | None = 0.0
    for batch in batches:
        if batch.paused or not batch.unfinished:
            continue
        seconds = left[batch.id].seconds if batch.id in left else None
        total = None if total is None or seconds is None else total + seconds
        etas[batch.id] = total
    return etas


def queue_eta(etas: Mapping[int, float | None]) -> float | None:
    """Return the ETA of all that is on the queue: that of its last batch."""
    return list(etas.values())[-1] if etas else None


def video_eta(
    video: VideoRow, before: int, batch: BatchRow, left: Remaining | None, eta: float | None, pace: float | None = None
) -> float | None:
    """Return the ETA of a video in seconds.

    Args:
        before: number of unfinished videos before it in its batch.
        eta: of its batch.
        pace: seconds a step of the video, if it runs; what is known before a first video was made.
    """
    if video.state == "running":
        if left is not None and left.per_video is not None:
            return left.per_video * (1 - video.step / max(1, video.steps))
        return None if pace is None else pace * (video.steps - video.step)
    if left is None or left.seconds is None or eta is None:
        return None
    return eta - left.seconds * (1 - (before + 1) / max(1, batch.unfinished))


def eta_text(seconds: float | None) -> str:
    """Return an ETA as it is shown."""
    return f"ETA {'?' if seconds is None else format_duration(seconds)}"
