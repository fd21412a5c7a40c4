"""Videos of a batch that are being generated: their steps, and when to read their next preview."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wantui.queue.states import find_displayed_state
from wantui.tui.queue_watcher import QueueSnapshot

MIN_PREVIEWS_PER_VIDEO = 10
"""Minimum number of automatic previews per video: short videos have more than one per `preview_seconds`."""


@dataclass(frozen=True)
class RunningVideo:
    """A video that a worker is generating, or was generating until the engine stopped."""

    video_id: int
    """Number of the video in the queue database."""
    state: str
    """`running`, or `interrupted` without an engine."""
    step_number: int
    step_count: int
    preview_path: Path | None
    """Latest strip of the predicted video; None before the first one."""
    preview_step: int
    """Step of the latest strip; 0 before the first one."""

    @property
    def steps_text(self) -> str:
        return f"{self.step_number}/{self.step_count}"


def find_running_videos(
    snapshot: QueueSnapshot, folder: Path | None, *, has_previews: bool = True
) -> dict[int, RunningVideo]:
    """Return the running videos of the batch in a folder by their index in the manifest.

    Args:
        has_previews: whether they have their previews; these are left out if they are not shown automatically.
    """
    batch_id = next((batch.id for batch in snapshot.batches if batch.folder == folder), None)
    running_videos = {}
    for video in snapshot.running_videos:
        if video.batch != batch_id:
            continue
        progress = snapshot.progress_by_video.get(video.id)
        preview_text = None if progress is None or not has_previews else progress.preview_path
        running_videos[video.number] = RunningVideo(
            video.id,
            find_displayed_state(video.state, snapshot.engine is not None),
            max(video.step, 0 if progress is None else progress.step_number),
            video.steps,
            None if preview_text is None else Path(preview_text),
            0 if progress is None else progress.preview_step,
        )
    return running_videos


def is_preview_due(new_step_count: int, step_count: int, seconds_since_last: float, preview_seconds: float) -> bool:
    """Return whether to read the next automatic preview of a video.

    Args:
        new_step_count: number of steps since the most recently read preview.
        preview_seconds: wanted seconds between two previews; 0 allows no automatic preview.
    """
    if not preview_seconds or new_step_count <= 0:
        return False
    return seconds_since_last >= preview_seconds or new_step_count * MIN_PREVIEWS_PER_VIDEO >= step_count


class PreviewSchedule:
    """Steps and times of the most recently read previews, by video number."""

    def __init__(self) -> None:
        self._last_read_by_video: dict[int, tuple[int, float]] = {}

    def claim_due_previews(self, running_by_index: Mapping[int, RunningVideo], preview_seconds: float) -> set[int]:
        """Return the indices of the videos whose previews are to be read now; record that they are read."""
        return {index for index, video in running_by_index.items() if self.claim_due_preview(video, preview_seconds)}

    def claim_due_preview(self, video: RunningVideo, preview_seconds: float) -> bool:
        """Return whether to read the preview of a video now; if so, record that it is read."""
        if video.preview_path is None:
            return False
        read_step, read_at = self._last_read_by_video.get(video.video_id, (0, -float("inf")))
        if read_step > video.preview_step:  # the video was resumed from an earlier step
            read_step, read_at = 0, -float("inf")
        now = time.monotonic()
        if not is_preview_due(video.preview_step - read_step, video.step_count, now - read_at, preview_seconds):
            return False
        self._last_read_by_video[video.video_id] = video.preview_step, now
        return True
