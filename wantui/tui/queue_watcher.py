"""Thread that reads the queue for the screens and publishes immutable values."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from wantui.batches.eta import EMPTY_QUEUE_ETAS, EtaModel, QueueEtas
from wantui.batches.progress import FinishedVideo, ProgressTracker, VideoProgress
from wantui.engine.control import Engine, find_engine_process_id, find_published_engine
from wantui.queue.events import ENDING_EVENTS, BatchRefused
from wantui.queue.reader import QueueReader
from wantui.queue.records import BatchRow, Hold, QueueEvent, VideoPage, VideoRow, WorkerRow
from wantui.queue.state_dir import StateDirectory

ENGINE_CHECK_SECONDS = 1.0
"""Seconds between two checks for the engine."""
VIDEOS_PER_PAGE = 200
"""Number of videos per page; pages are read as a whole."""
BATCH_END_EVENTS = (*ENDING_EVENTS, BatchRefused)
"""Event types after which a batch may have ended."""


@dataclass(frozen=True)
class QueueSnapshot:
    """State of the queue, and the events since the previous snapshot."""

    batches: tuple[BatchRow, ...] = ()
    running_videos: tuple[VideoRow, ...] = ()
    hold: Hold | None = None
    engine: Engine | None = None
    etas: QueueEtas = EMPTY_QUEUE_ETAS
    progress_by_video: Mapping[int, VideoProgress] = field(default_factory=dict)
    """Progress of running videos, by video id."""
    events: tuple[QueueEvent, ...] = ()
    error: str | None = None
    """Reason why the queue cannot be read (the other fields are then outdated) or written."""
    workers: tuple[WorkerRow, ...] = ()
    """Workers of the engine, including those that are starting."""
    finished_video: FinishedVideo | None = None
    """Video that was finished last."""
    starting_process_id: int | None = None
    """Process of an engine that is starting, and has not published its details yet; None otherwise."""


@dataclass(frozen=True)
class VideoPages:
    """Videos of one batch, by page number."""

    batch_id: int
    pages_by_number: Mapping[int, VideoPage]


@dataclass(frozen=True)
class WatchRequest:
    """Pages of one batch that a screen watches; a `batch_id` of None watches no batch."""

    batch_id: int | None
    page_numbers: frozenset[int]
    request_number: int
    """Number of the request. Each request is answered, because a screen drops its pages when it changes the batch."""


class QueueWatcher(threading.Thread):
    """Thread that reads the queue, so that screens never wait for the database.

    Args:
        publish_snapshot: called with a snapshot after each change, at most once per `poll_seconds`.
        publish_pages: called with the watched videos after each request and each change.
        poll_seconds: seconds between two polls.
        last_seq: sequence number of the last event to skip.
    """

    def __init__(
        self,
        state_dir: StateDirectory,
        publish_snapshot: Callable[[QueueSnapshot], None],
        publish_pages: Callable[[VideoPages], None],
        poll_seconds: float,
        last_seq: int,
    ) -> None:
        super().__init__(name="queue watcher", daemon=True)
        self.state_dir, self.publish_snapshot, self.publish_pages = state_dir, publish_snapshot, publish_pages
        self.poll_seconds, self.last_seq = poll_seconds, last_seq
        self._stop_requested, self._poll_requested = threading.Event(), threading.Event()
        self._tracker = ProgressTracker()
        self._request = WatchRequest(None, frozenset(), 0)
        self._last_published: tuple[int, VideoPages] | None = None
        """Number of the last answered request, and the pages published last."""

    def stop(self) -> None:
        self._stop_requested.set()
        self._poll_requested.set()

    def poll_now(self) -> None:
        """Poll immediately, because the user changed the queue."""
        self._poll_requested.set()

    def set_watched_pages(self, batch_id: int | None, page_numbers: Iterable[int] = ()) -> None:
        """Watch these pages of a batch instead of the previous pages; None watches no batch."""
        previous_request, requested_numbers = self._request, frozenset(page_numbers)
        if (batch_id, requested_numbers) != (previous_request.batch_id, previous_request.page_numbers):
            self._request = WatchRequest(batch_id, requested_numbers, previous_request.request_number + 1)
            self._poll_requested.set()

    def run(self) -> None:
        snapshot, data_version, engine_checked_at, eta_model = QueueSnapshot(), -1, 0.0, None
        starting_id: int | None = None
        write_error: str | None = None
        while not self._stop_requested.is_set():
            try:
                if eta_model is not None and eta_model.queue.is_replaced():
                    eta_model.queue.close()
                    eta_model = None
                if eta_model is None:
                    eta_model = EtaModel(QueueReader(self.state_dir.directory))
                    data_version, self.last_seq = -1, min(self.last_seq, eta_model.queue.read_last_event_seq())
                engine, now = snapshot.engine, time.monotonic()
                if now - engine_checked_at >= ENGINE_CHECK_SECONDS or self._poll_requested.is_set():
                    engine, engine_checked_at = find_published_engine(self.state_dir.directory), now
                    starting_id = find_engine_process_id(self.state_dir.directory) if engine is None else None
                    write_error = eta_model.queue.explain_unwritable_queue()
                self._poll_requested.clear()
                has_changed = (current_version := eta_model.queue.read_data_version()) != data_version
                known_status = snapshot.engine, snapshot.starting_process_id, snapshot.error
                if has_changed or (engine, starting_id, write_error) != known_status:
                    data_version = current_version
                    snapshot = self._read_queue_snapshot(eta_model, engine)
                    snapshot = replace(snapshot, error=write_error, starting_process_id=starting_id)
                    self.publish_snapshot(snapshot)
                self._publish_changed_pages(eta_model.queue, has_changed)
            except Exception as error:  # any error must reach the screens, which would silently freeze otherwise
                message = f"cannot read the queue: {error}"
                if snapshot.error != message:
                    snapshot = replace(snapshot, events=(), error=message)
                    self.publish_snapshot(snapshot)
                if eta_model is not None:
                    eta_model.queue.close()
                eta_model = None
                self._stop_requested.wait(1.0)
            self._poll_requested.wait(self.poll_seconds)
        if eta_model is not None:
            eta_model.queue.close()

    def _read_queue_snapshot(self, eta_model: EtaModel, engine: Engine | None) -> QueueSnapshot:
        queue = eta_model.queue
        queue.check_schema_not_newer()
        events = tuple(queue.list_events(self.last_seq))
        if events:
            self.last_seq = events[-1].seq
        if any(isinstance(event.payload, BATCH_END_EVENTS) for event in events):
            eta_model.reload_past_videos()
        batches, running_videos = tuple(queue.list_batches()), tuple(queue.list_running_videos())
        self._tracker.apply_events(events)
        etas = EMPTY_QUEUE_ETAS  # without an engine, nothing ends, and its devices are unknown
        if engine is not None:
            paces = self._tracker.collect_paces()
            etas = eta_model.estimate_etas(batches, running_videos, engine.device_names, paces)
        return QueueSnapshot(
            batches,
            running_videos,
            queue.read_hold(),
            engine,
            etas,
            self._tracker.copy_progress(),
            events,
            None,
            tuple(queue.list_workers()),
            self._tracker.finished_video,
        )

    def _publish_changed_pages(self, queue: QueueReader, has_changed: bool) -> None:
        """Read the watched pages if they may have changed; publish them if they have changed."""
        request, last_published = self._request, self._last_published
        batch_id, is_new = request.batch_id, last_published is None or last_published[0] != request.request_number
        if batch_id is None or not (has_changed or is_new):
            return
        pages = VideoPages(
            batch_id,
            {
                number: queue.read_video_page(batch_id, VIDEOS_PER_PAGE, number * VIDEOS_PER_PAGE)
                for number in sorted(request.page_numbers)
            },
        )
        if is_new or last_published is None or last_published[1] != pages:
            self._last_published = request.request_number, pages
            self.publish_pages(pages)
