"""Watcher of the queue for the screens: reads it on a separate thread, publishes immutable values."""

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
"""Seconds between two looks for the engine."""
PAGE_SIZE = 200
"""Videos of a batch that are read at a time."""
BATCH_END_EVENTS = (*ENDING_EVENTS, BatchRefused)
"""Events after which a batch may have ended."""


@dataclass(frozen=True)
class QueueSnapshot:
    """The queue at one moment, and the events since the previous snapshot."""

    batches: tuple[BatchRow, ...] = ()
    running: tuple[VideoRow, ...] = ()
    held: Hold | None = None
    engine: Engine | None = None
    etas: QueueEtas = NO_ETAS
    progress: Mapping[int, VideoProgress] = field(default_factory=dict)
    """Progress of the running videos, by video."""
    events: tuple[Event, ...] = ()
    error: str | None = None
    """Sentence on a queue that cannot be read (the rest is then as it was) or written; None if both work."""

    workers: tuple[WorkerRow, ...] = ()
    """Processes of the engine that make videos, or will once they have started."""


@dataclass(frozen=True)
class VideoPages:
    """Videos of one batch, by the number of their page."""

    batch: int
    pages: Mapping[int, VideoPage]


@dataclass(frozen=True)
class WatchRequest:
    """Videos that a screen wants to be read."""

    batch: int | None
    pages: frozenset[int]
    generation: int
    """Number of requests by the screen: a screen that left a batch and returned has dropped its data."""


class QueueWatcher(threading.Thread):
    """Reads the queue for the screens, which never ask the database while they draw.

    Args:
        publish: called with `QueueSnapshot` whenever something changed, but not more often than `interval`.
        publish_pages: called with the videos that are watched, when they were read first and when they changed.
        after: events up to this number are known already.
    """

    def __init__(
        self,
        state_dir: StateDirectory,
        publish: Callable[[QueueSnapshot], None],
        publish_pages: Callable[[VideoPages], None],
        interval: float,
        after: int,
    ) -> None:
        super().__init__(name="queue watcher", daemon=True)
        self.state_dir, self.publish, self.publish_pages = state_dir, publish, publish_pages
        self.interval, self.after = interval, after
        self._stop_requested, self._poll_requested = threading.Event(), threading.Event()
        self._tracker = ProgressTracker()
        self._request = WatchRequest(None, frozenset(), 0)
        self._published: tuple[int, VideoPages] | None = None
        """Pages that the screen got last, and the generation of what was watched then."""

    def stop(self) -> None:
        self._stop_requested.set()
        self._poll_requested.set()

    def poll_now(self) -> None:
        """Look at once: a user has just changed something."""
        self._poll_requested.set()

    def watch(self, batch: int | None, pages: Iterable[int] = ()) -> None:
        """Read these pages of a batch's videos from now on, and no others; with None, read no videos."""
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
                    version, self.after = -1, min(self.after, model.queue.last_seq())
                engine, now = snapshot.engine, time.monotonic()
                if now - engine_checked_at >= ENGINE_SECONDS or self._poll_requested.is_set():
                    engine, engine_checked_at = find_engine(self.state_dir.directory), now
                    write_error = describe_recording_fault(self.state_dir.directory)
                self._poll_requested.clear()
                changed = (current := model.queue.version()) != version
                if changed or engine != snapshot.engine or write_error != snapshot.error:
                    version = current
                    snapshot = replace(self._read_snapshot(model, engine), error=write_error)
                    self.publish(snapshot)
                self._read_pages(model.queue, changed)
            except Exception as error:  # whatever it is, the screens must not stand still without a word
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
        events = tuple(queue.events(self.after))
        if events:
            self.after = events[-1].seq
        if any(isinstance(event.payload, BATCH_END_EVENTS) for event in events):
            model.refresh()
        batches, running = tuple(queue.batches(-1)), tuple(queue.running())
        devices = engine.devices if engine is not None else ()
        self._tracker.apply(events)
        etas = model.etas(batches, running, devices, self._tracker.paces())
        return QueueSnapshot(
            batches, running, queue.held(), engine, etas, self._tracker.snapshot(), events, None, tuple(queue.workers())
        )

    def _read_pages(self, queue: QueueReader, changed: bool) -> None:
        """Read the watched pages where they may have changed, and publish them if they have."""
        request, published = self._request, self._published
        batch, is_new = request.batch, published is None or published[0] != request.generation
        if batch is None or not (changed or is_new):
            return
        pages = VideoPages(
            batch, {number: queue.page(batch, PAGE_SIZE, number * PAGE_SIZE) for number in sorted(request.pages)}
        )
        if is_new or published is None or published[1] != pages:
            self._published = request.generation, pages
            self.publish_pages(pages)
