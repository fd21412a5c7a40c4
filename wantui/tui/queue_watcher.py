"""Thread that reads the queue for the screens and publishes immutable values."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from wantui.batches.eta import NO_ETAS, EtaModel, QueueEtas
from wantui.batches.progress import ProgressTracker, VideoProgress
from wantui.engine.control import Engine, find_engine
from wantui.queue.events import ENDING_EVENTS, BatchRefused
from wantui.queue.reader import QueueReader
from wantui.queue.records import BatchRow, Event, Hold, VideoPage, VideoRow, WorkerRow
from wantui.queue.state_dir import StateDirectory, describe_recording_fault

ENGINE_SECONDS = 1.0
"""Seconds between two checks for the engine."""
PAGE_SIZE = 200
"""Number of videos per page; pages are read as a whole."""
BATCH_END_EVENTS = (*ENDING_EVENTS, BatchRefused)
"""Event types after which a batch may have ended."""


@dataclass(frozen=True)
class QueueSnapshot:
    """State of the queue, and the events since the previous snapshot."""

    batches: tuple[BatchRow, ...] = ()
    running: tuple[VideoRow, ...] = ()
    held: Hold | None = None
    engine: Engine | None = None
    etas: QueueEtas = NO_ETAS
    progress: Mapping[int, VideoProgress] = field(default_factory=dict)
    """Progress by id of the running video."""
    events: tuple[Event, ...] = ()
    error: str | None = None
    """Reason why the queue cannot be read (the other fields are then outdated) or written."""
    workers: tuple[WorkerRow, ...] = ()
    """Workers of the engine, including those that are starting."""


@dataclass(frozen=True)
class VideoPages:
    """Videos of one batch, by page number."""

    batch: int
    pages: Mapping[int, VideoPage]


@dataclass(frozen=True)
class WatchRequest:
    """Pages of one batch that a screen watches; `batch` None watches none."""

    batch: int | None
    pages: frozenset[int]
    generation: int
    """Number of the request. Each request is answered, because a screen drops its pages when it changes the batch."""


class QueueWatcher(threading.Thread):
    """Thread that reads the queue, so that screens never wait for the database.

    Args:
        publish: called with a snapshot after each change, at most once per `interval`.
        publish_pages: called with the watched videos after each request and each change.
        interval: seconds between two polls.
        last_seq: sequence number of the last event to skip.
    """

    def __init__(
        self,
        state_dir: StateDirectory,
        publish: Callable[[QueueSnapshot], None],
        publish_pages: Callable[[VideoPages], None],
        interval: float,
        last_seq: int,
    ) -> None:
        super().__init__(name="queue watcher", daemon=True)
        self.state_dir, self.publish, self.publish_pages = state_dir, publish, publish_pages
        self.interval, self.last_seq = interval, last_seq
        self._stop_requested, self._poll_requested = threading.Event(), threading.Event()
        self._tracker = ProgressTracker()
        self._request = WatchRequest(None, frozenset(), 0)
        self._published: tuple[int, VideoPages] | None = None
        """Generation of the last answered request, and the pages published last."""

    def stop(self) -> None:
        self._stop_requested.set()
        self._poll_requested.set()

    def poll_now(self) -> None:
        """Poll immediately, because the user changed the queue."""
        self._poll_requested.set()

    def watch(self, batch: int | None, pages: Iterable[int] = ()) -> None:
        """Watch these pages of a batch instead of the previous ones; None watches no batch."""
        before, numbers = self._request, frozenset(pages)
        if (batch, numbers) != (before.batch, before.pages):
            self._request = WatchRequest(batch, numbers, before.generation + 1)
            self._poll_requested.set()

    def run(self) -> None:
        snapshot, version, engine_checked_at, model = QueueSnapshot(), -1, 0.0, None
        write_error: str | None = None
        while not self._stop_requested.is_set():
            try:
                if model is not None and model.queue.is_replaced():
                    model.queue.close()
                    model = None
                if model is None:
                    model = EtaModel(QueueReader(self.state_dir.directory))
                    version, self.last_seq = -1, min(self.last_seq, model.queue.read_last_seq())
                engine, now = snapshot.engine, time.monotonic()
                if now - engine_checked_at >= ENGINE_SECONDS or self._poll_requested.is_set():
                    engine, engine_checked_at = find_engine(self.state_dir.directory), now
                    write_error = describe_recording_fault(self.state_dir.directory)
                self._poll_requested.clear()
                changed = (current := model.queue.read_data_version()) != version
                if changed or engine != snapshot.engine or write_error != snapshot.error:
                    version = current
                    snapshot = replace(self._read_snapshot(model, engine), error=write_error)
                    self.publish(snapshot)
                self._read_pages(model.queue, changed)
            except Exception as error:  # any error must reach the screens, which would silently freeze otherwise
                message = f"cannot read the queue: {error}"
                if snapshot.error != message:
                    snapshot = replace(snapshot, events=(), error=message)
                    self.publish(snapshot)
                if model is not None:
                    model.queue.close()
                model = None
                self._stop_requested.wait(1.0)
            self._poll_requested.wait(self.interval)
        if model is not None:
            model.queue.close()

    def _read_snapshot(self, model: EtaModel, engine: Engine | None) -> QueueSnapshot:
        queue = model.queue
        queue.check_not_newer()
        events = tuple(queue.events(self.last_seq))
        if events:
            self.last_seq = events[-1].seq
        if any(isinstance(event.payload, BATCH_END_EVENTS) for event in events):
            model.reload_past_videos()
        batches, running = tuple(queue.batches(-1)), tuple(queue.list_running_videos())
        devices = engine.devices if engine is not None else ()
        self._tracker.apply_events(events)
        etas = model.estimate_etas(batches, running, devices, self._tracker.collect_paces())
        return QueueSnapshot(
            batches,
            running,
            queue.read_hold(),
            engine,
            etas,
            self._tracker.copy_progress(),
            events,
            None,
            tuple(queue.workers()),
        )

    def _read_pages(self, queue: QueueReader, changed: bool) -> None:
        """Read the watched pages if they may have changed, and publish them if they did."""
        request, published = self._request, self._published
        batch, is_new = request.batch, published is None or published[0] != request.generation
        if batch is None or not (changed or is_new):
            return
        pages = VideoPages(
            batch, {number: queue.read_page(batch, PAGE_SIZE, number * PAGE_SIZE) for number in sorted(request.pages)}
        )
        if is_new or published is None or published[1] != pages:
            self._published = request.generation, pages
            self.publish_pages(pages)
