"""ETA: estimated seconds until a batch or video is done, including the work queued before it.

The terminal application, `wantui watch`, `wantui run` and `wantui queue ls` share this model. It uses durations of
similar videos on this machine, or else the pace of a running video of the batch. Without either, the ETA is None, shown
as "?". A paused batch has no ETA, and does not delay other batches.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wantui.batches.progress import ProgressTracker
from wantui.formatting import format_duration
from wantui.gpu.nvml import query_gpus
from wantui.planning import Recipe, TimedVideo, estimate_seconds, parse_timed_videos
from wantui.queue.benchmark_store import load_throughput
from wantui.queue.engine_lock import read_engine_info
from wantui.queue.events import ENDING_EVENTS
from wantui.queue.reader import QueueReader
from wantui.queue.records import BatchRow, Event, VideoRow

REFRESH_SECONDS = 1.0
"""Seconds for which the ETA of a followed batch is cached, since ETAs are shown in whole seconds."""


RECENT_EVENTS = 500
"""Number of latest events to read, enough for the paces and curves of running videos."""


@dataclass(frozen=True)
class RemainingTime:
    """Seconds that a batch still needs without the batches before it, and per video; None if not known yet."""

    seconds: float | None
    seconds_per_video: float | None


@dataclass(frozen=True)
class QueueEtas:
    """ETAs of all unfinished batches at one moment."""

    remaining_by_batch: Mapping[int, RemainingTime]
    """Remaining times by batch, including paused batches."""
    seconds_by_batch: Mapping[int, float | None]
    """Seconds until each batch is done, in queue order, without paused batches; None if unknown."""

    @property
    def queue_seconds(self) -> float | None:
        """Return the seconds until the last batch is done; None if unknown or no batch is left."""
        return list(self.seconds_by_batch.values())[-1] if self.seconds_by_batch else None

    def estimate_video_eta(
        self, video: VideoRow, before: int, batch: BatchRow, pace: float | None = None
    ) -> float | None:
        """Return the ETA of an unfinished video of a batch, in seconds.

        Args:
            before: number of unfinished videos before it in its batch.
            pace: seconds per step of a running video.
        """
        remaining, eta = self.remaining_by_batch.get(batch.id), self.seconds_by_batch.get(batch.id)
        if video.state == "running":
            if remaining is not None and remaining.seconds_per_video is not None:
                return remaining.seconds_per_video * (1 - video.step / max(1, video.steps))
            return None if pace is None else pace * (video.steps - video.step)
        if remaining is None or remaining.seconds is None or eta is None:
            return None
        return eta - remaining.seconds * (1 - (before + 1) / max(1, batch.unfinished))


NO_ETAS = QueueEtas({}, {})
"""ETAs of an empty queue."""


def accumulate_etas(batches: Sequence[BatchRow], remaining: Mapping[int, RemainingTime]) -> QueueEtas:
    """Return the ETAs of batches in queue order: each waits for the batches before it."""
    etas: dict[int, float | None] = {}
    total: float | None = 0.0
    for batch in batches:
        if batch.paused or not batch.unfinished:
            continue
        seconds = remaining[batch.id].seconds if batch.id in remaining else None
        total = None if total is None or seconds is None else total + seconds
        etas[batch.id] = total
    return QueueEtas(remaining, etas)


def format_seconds_left(seconds: float | None) -> str:
    """Return an ETA as a column shows it: "1:05", or "?" for None."""
    return "?" if seconds is None else format_duration(seconds)


def format_eta(seconds: float | None) -> str:
    """Return an ETA as a line shows it: "ETA 1:05", or "ETA ?" for None."""
    return f"ETA {format_seconds_left(seconds)}"


class EtaModel:
    """Model of the ETAs of a queue; call `refresh` after a video is done."""

    def __init__(self, queue: QueueReader) -> None:
        self.queue = queue
        self.past_videos: list[TimedVideo] = []
        gpus = query_gpus().gpus
        self._gpu = gpus[0].name if gpus else None
        self._recipes: dict[int, Recipe] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read the durations of past videos from the queue."""
        self.past_videos = parse_timed_videos(self.queue.list_finished_videos())

    def estimate_etas(
        self,
        batches: Sequence[BatchRow],
        running: Sequence[VideoRow],
        devices: Sequence[str],
        paces: Mapping[int, float],
    ) -> QueueEtas:
        """Return the ETAs of batches in queue order.

        Args:
            devices: names of the devices of the running engine.
            paces: seconds per step of running videos, by video.
        """
        return accumulate_etas(
            batches,
            {
                batch.id: self.estimate_remaining_time(batch, running, devices, paces)
                for batch in batches
                if batch.unfinished
            },
        )

    def estimate_remaining_time(
        self, batch: BatchRow, running: Sequence[VideoRow], devices: Sequence[str], paces: Mapping[int, float]
    ) -> RemainingTime:
        """Return the time that one batch still needs, alone on an engine with these devices."""
        per_video = self._estimate_seconds_per_video(batch, running, devices, paces)
        if per_video is None:
            return RemainingTime(None, None)
        workers = max(
            1, len({video.worker for video in running}), sum(1 for name in devices if name.startswith("cuda:"))
        )
        workers = 1 if batch.device.startswith("cuda:") else max(1, min(workers, batch.unfinished))
        done = sum(video.step / max(1, video.steps) for video in running if video.batch == batch.id)
        return RemainingTime((batch.unfinished - done) * per_video / workers, per_video)

    def _estimate_seconds_per_video(
        self, batch: BatchRow, running: Sequence[VideoRow], devices: Sequence[str], paces: Mapping[int, float]
    ) -> float | None:
        recipe = self._load_first_recipe(batch)
        if recipe is not None:
            on_gpu = any(name.startswith("cuda") for name in devices) and batch.device != "cpu"
            measured = None
            if on_gpu and self._gpu is not None:
                measured = load_throughput(self.queue.path.parent, self._gpu, recipe)
            estimate = estimate_seconds(recipe, "cuda" if on_gpu else "cpu", self.past_videos, measured)
            if estimate.value is not None:
                return estimate.value
        durations = [
            paces[video.id] * video.steps for video in running if video.batch == batch.id and video.id in paces
        ]
        return sum(durations) / len(durations) if durations else None

    def _load_first_recipe(self, batch: BatchRow) -> Recipe | None:
        """Return the recipe of the batch's first video, which stands for all: they take the same time."""
        if batch.id not in self._recipes:
            first = self.queue.videos(batch.id, limit=1)
            if not first:
                return None
            try:
                self._recipes[batch.id] = Recipe.model_validate_json(self.queue.recipe(first[0].id))
            except ValueError:
                return None
        return self._recipes[batch.id]


def estimate_queue_etas(queue: QueueReader) -> QueueEtas:
    """Return the current ETAs of a queue, from past videos and the progress of running ones."""
    tracker = ProgressTracker()
    tracker.apply(queue.events(max(0, queue.read_last_seq() - RECENT_EVENTS)))
    devices = _read_engine_devices(queue.path.parent)
    return EtaModel(queue).estimate_etas(queue.batches(-1), queue.list_running_videos(), devices, tracker.paces())


def _read_engine_devices(state_dir: Path) -> tuple[str, ...]:
    """Return the devices of the running engine, without waiting for an engine that is starting."""
    return tuple((read_engine_info(state_dir) or {}).get("devices", ()))


class BatchEta:
    """ETA of one batch for a client that follows its events."""

    def __init__(self, queue: QueueReader, batch: int) -> None:
        self.batch = batch
        self._model, self._tracker = EtaModel(queue), ProgressTracker()
        self._seconds: float | None = None
        self._computed_at: float | None = None
        self._has_ended = False
        """True if a video ended since past videos were read. Reading them after each video could take minutes."""

    def apply(self, event: Event) -> None:
        """Update the progress and ETA with an event of the batch."""
        self._tracker.apply([event])
        if isinstance(event.payload, ENDING_EVENTS):
            self._has_ended, self._computed_at = True, None

    def estimate_seconds(self) -> float | None:
        """Return the seconds until the batch is done, at most `REFRESH_SECONDS` old; None if unknown."""
        now = time.monotonic()
        if self._computed_at is None or now - self._computed_at >= REFRESH_SECONDS:
            queue = self._model.queue
            try:
                devices = _read_engine_devices(queue.path.parent)
            except PermissionError:  # without access to the state directory, keep the last ETA
                return self._seconds
            if self._has_ended:
                self._model.refresh()
                self._has_ended = False
            etas = self._model.estimate_etas(
                queue.batches(-1), queue.list_running_videos(), devices, self._tracker.paces()
            )
            self._seconds, self._computed_at = etas.seconds_by_batch.get(self.batch), now
        return self._seconds
