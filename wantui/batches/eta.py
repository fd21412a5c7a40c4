"""ETA: estimated seconds until a batch or video is done, including the work queued before it.

The terminal application, `wantui watch`, `wantui run` and `wantui queue ls` share this model. It uses the steps and the
decoding of similar videos on this machine, or else the pace of a running video of the batch. Finished videos of the
batch itself correct the ETA: they show how long a video takes with its text, its captures and its files, under the
present load. Without any of these, the ETA is None, shown as "?". A batch that is paused or on hold has no ETA, and
does not delay other batches.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from wantui.batches.batch_gpus import choose_device_gpus, read_visible_devices
from wantui.batches.progress import ProgressTracker
from wantui.formatting import format_duration
from wantui.gpu.nvml import Gpu, query_gpus
from wantui.queue.engine_lock import read_engine_info
from wantui.queue.events import ENDING_EVENTS
from wantui.queue.reader import QueueReader
from wantui.queue.records import BatchRow, QueueEvent, VideoRow

if TYPE_CHECKING:
    from wantui.planning import Recipe, TimedVideo  # slow to import, and not needed before the first paint

ETA_CACHE_SECONDS = 1.0
"""Seconds for which the ETA of a followed batch is cached, since ETAs are shown in whole seconds."""
MAX_DURATION_COUNT = 9
"""Maximum number of done videos of a batch whose durations are read."""
RECENT_EVENT_COUNT = 500
"""Number of latest events to read, enough for the paces and curves of running videos."""


@dataclass(frozen=True)
class RemainingTime:
    """Seconds that a batch still needs, excluding earlier batches, and seconds per video; None if not known yet."""

    batch_seconds: float | None
    video_seconds: float | None


@dataclass(frozen=True)
class QueueEtas:
    """ETAs of all unfinished batches at one moment."""

    remaining_by_batch: Mapping[int, RemainingTime]
    """Remaining times by batch, including paused batches."""
    seconds_by_batch: Mapping[int, float | None]
    """Seconds until each batch is done, in queue order, without batches that are paused or on hold; None if unknown."""

    @property
    def queue_seconds(self) -> float | None:
        """Return the seconds until the last batch is done; None if unknown or no batch is left."""
        return list(self.seconds_by_batch.values())[-1] if self.seconds_by_batch else None

    def estimate_video_eta(
        self, video: VideoRow, earlier_videos: int, batch: BatchRow, pace_seconds: float | None = None
    ) -> float | None:
        """Return the ETA of an unfinished video of a batch, in seconds.

        Args:
            earlier_videos: number of unfinished videos before it in its batch.
            pace_seconds: seconds per step of a running video.
        """
        remaining_time, batch_eta = self.remaining_by_batch.get(batch.id), self.seconds_by_batch.get(batch.id)
        if video.state == "running":
            if remaining_time is not None and remaining_time.video_seconds is not None:
                return remaining_time.video_seconds * (1 - video.step / max(1, video.steps))
            return None if pace_seconds is None else pace_seconds * (video.steps - video.step)
        if remaining_time is None or remaining_time.batch_seconds is None or batch_eta is None:
            return None
        return batch_eta - remaining_time.batch_seconds * (1 - (earlier_videos + 1) / max(1, batch.unfinished_count))


EMPTY_QUEUE_ETAS = QueueEtas({}, {})
"""ETAs of an empty queue."""


def accumulate_queue_etas(batches: Sequence[BatchRow], remaining_by_batch: Mapping[int, RemainingTime]) -> QueueEtas:
    """Return the ETAs of batches in queue order; each batch waits for the earlier batches."""
    eta_by_batch: dict[int, float | None] = {}
    total_seconds: float | None = 0.0
    for batch in batches:
        if batch.is_stopped or not batch.unfinished_count:
            continue
        batch_seconds = remaining_by_batch[batch.id].batch_seconds if batch.id in remaining_by_batch else None
        total_seconds = None if total_seconds is None or batch_seconds is None else total_seconds + batch_seconds
        eta_by_batch[batch.id] = total_seconds
    return QueueEtas(remaining_by_batch, eta_by_batch)


def format_seconds_left(seconds: float | None) -> str:
    """Format an ETA for a column: "1:05", at least "0:01", or "?" for None."""
    return "?" if seconds is None else format_duration(max(1.0, seconds))


def format_eta(seconds: float | None) -> str:
    """Format an ETA for a line of text: "ETA 1:05", or "ETA ?" for None."""
    return f"ETA {format_seconds_left(seconds)}"


def count_usable_gpus(gpus_per_video: int, device_names: Sequence[str]) -> int:
    """Return the number of GPUs that an engine with these devices gives to one video."""
    return min(gpus_per_video, max(1, sum(1 for name in device_names if name.startswith("cuda:"))))


class EtaModel:
    """Model of the ETAs of a queue; call `reload_past_videos` after a video is done."""

    def __init__(self, queue: QueueReader) -> None:
        self.queue = queue
        self.past_videos: list[TimedVideo] = []
        self._gpus = query_gpus().gpus
        self._first_recipe_by_batch: dict[int, Recipe] = {}
        self.reload_past_videos()

    def reload_past_videos(self) -> None:
        """Read the durations of past videos from the queue."""
        from wantui.planning import parse_timed_videos

        self.past_videos = parse_timed_videos(self.queue.list_finished_videos())

    def estimate_etas(
        self,
        batches: Sequence[BatchRow],
        running_videos: Sequence[VideoRow],
        device_names: Sequence[str],
        pace_by_video: Mapping[int, float],
    ) -> QueueEtas:
        """Return the ETAs of batches in queue order.

        Args:
            device_names: device names of the running engine.
            pace_by_video: seconds per step of running videos, by video.
        """
        return accumulate_queue_etas(
            batches,
            {
                batch.id: self.estimate_remaining_time(batch, running_videos, device_names, pace_by_video)
                for batch in batches
                if batch.unfinished_count
            },
        )

    def estimate_remaining_time(
        self,
        batch: BatchRow,
        running_videos: Sequence[VideoRow],
        device_names: Sequence[str],
        pace_by_video: Mapping[int, float],
    ) -> RemainingTime:
        """Return the time that one batch still needs if it runs alone on an engine with these devices."""
        video_seconds = self._estimate_video_seconds(batch, running_videos, device_names, pace_by_video)
        if video_seconds is None:
            return RemainingTime(None, None)
        # A video takes at least its steps and its decoding, which `video_seconds` counts.
        video_seconds = max(video_seconds, self._measure_video_seconds(batch))
        worker_count = max(
            1,
            len({video.worker for video in running_videos}),
            sum(1 for name in device_names if name.startswith("cuda:")) // batch.gpus_per_video,
        )
        worker_count = 1 if batch.device.startswith("cuda:") else max(1, min(worker_count, batch.unfinished_count))
        done_videos = sum(video.step / max(1, video.steps) for video in running_videos if video.batch == batch.id)
        return RemainingTime((batch.unfinished_count - done_videos) * video_seconds / worker_count, video_seconds)

    def _measure_video_seconds(self, batch: BatchRow) -> float:
        """Return the median duration of the later half of the batch's done videos; 0.0 with fewer than two.

        The first video of a worker also loads the model, so it does not represent the waiting videos.
        """
        count = min(MAX_DURATION_COUNT, batch.counts.get("done", 0) // 2)
        durations = self.queue.list_recent_durations(batch.id, count) if count else []
        return median(durations) if durations else 0.0

    def _estimate_video_seconds(
        self,
        batch: BatchRow,
        running_videos: Sequence[VideoRow],
        device_names: Sequence[str],
        pace_by_video: Mapping[int, float],
    ) -> float | None:
        from wantui.planning import estimate_video_seconds
        from wantui.planning.time_estimate import select_gpu_videos
        from wantui.queue.benchmark_store import load_throughput

        recipe = self._load_first_recipe(batch)
        if recipe is not None:
            is_on_gpu = any(name.startswith("cuda") for name in device_names) and batch.device != "cpu"
            throughput, past_videos = None, self.past_videos
            if is_on_gpu and (gpus := self._list_batch_gpus(batch)):
                past_videos = select_gpu_videos(past_videos, gpus[0].name)
                throughput = load_throughput(self.queue.path.parent, gpus[0].name, recipe)
            estimate = estimate_video_seconds(
                recipe,
                "cuda" if is_on_gpu else "cpu",
                past_videos,
                throughput,
                gpu_count=count_usable_gpus(batch.gpus_per_video, device_names),
            )
            if estimate.value is not None:
                return estimate.value
        running_durations = [
            pace_by_video[video.id] * video.steps
            for video in running_videos
            if video.batch == batch.id and video.id in pace_by_video
        ]
        return sum(running_durations) / len(running_durations) if running_durations else None

    def _list_batch_gpus(self, batch: BatchRow) -> list[Gpu]:
        return choose_device_gpus(self._gpus, read_visible_devices(self.queue.path.parent), batch.device)

    def _load_first_recipe(self, batch: BatchRow) -> "Recipe | None":
        """Return the recipe of the batch's first video, which represents all videos: they take equally long."""
        if batch.id not in self._first_recipe_by_batch:
            first_videos = self.queue.list_videos(batch.id, limit=1)
            if not first_videos:
                return None

            from wantui.planning import Recipe

            try:
                self._first_recipe_by_batch[batch.id] = Recipe.model_validate_json(
                    self.queue.read_recipe(first_videos[0].id)
                )
            except ValueError:
                return None
        return self._first_recipe_by_batch[batch.id]


def estimate_queue_etas(queue: QueueReader) -> QueueEtas:
    """Return the current ETAs of a queue, from past videos and the progress of running videos."""
    tracker = ProgressTracker()
    tracker.apply_events(queue.list_events(max(0, queue.read_last_event_seq() - RECENT_EVENT_COUNT)))
    devices = _read_engine_devices(queue.path.parent)
    return EtaModel(queue).estimate_etas(
        queue.list_batches(), queue.list_running_videos(), devices, tracker.collect_paces()
    )


def _read_engine_devices(state_dir: Path) -> tuple[str, ...]:
    """Return the devices of the running engine, without waiting for an engine that is starting."""
    return tuple((read_engine_info(state_dir) or {}).get("devices", ()))


class BatchEta:
    """ETA of one batch for a client that follows its events."""

    def __init__(self, queue: QueueReader, batch_id: int) -> None:
        self.batch_id = batch_id
        self._model, self._tracker = EtaModel(queue), ProgressTracker()
        self._cached_seconds: float | None = None
        self._computed_at_seconds: float | None = None
        self._must_reload = False
        """True if a video ended since past videos were read. Reading them after each video could take minutes."""

    def apply_event(self, event: QueueEvent) -> None:
        """Update the progress and ETA with an event of the batch."""
        self._tracker.apply_events([event])
        if isinstance(event.payload, ENDING_EVENTS):
            self._must_reload, self._computed_at_seconds = True, None

    def estimate_batch_seconds(self) -> float | None:
        """Return the seconds until the batch is done, cached for `ETA_CACHE_SECONDS`; None if unknown."""
        now_seconds = time.monotonic()
        if self._computed_at_seconds is None or now_seconds - self._computed_at_seconds >= ETA_CACHE_SECONDS:
            queue = self._model.queue
            try:
                devices = _read_engine_devices(queue.path.parent)
            except PermissionError:  # without access to the state directory, keep the last ETA
                return self._cached_seconds
            if self._must_reload:
                self._model.reload_past_videos()
                self._must_reload = False
            queue_etas = self._model.estimate_etas(
                queue.list_batches(), queue.list_running_videos(), devices, self._tracker.collect_paces()
            )
            self._cached_seconds = queue_etas.seconds_by_batch.get(self.batch_id)
            self._computed_at_seconds = now_seconds
        return self._cached_seconds
