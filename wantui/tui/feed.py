"""Watches the queue from a thread of its own, and tells the application only when something is other than before."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from wantui.engine.control import Engine, find_engine
from wantui.engine.forecast import Forecast, Left
from wantui.queue.place import Place
from wantui.queue.rows import BatchRow, Event, Hold, VideoRow
from wantui.queue.view import QueueView

ENGINE_SECONDS = 1.0
ENDS = ("done", "failed", "cancelled", "refused")


@dataclass(frozen=True)
class QueueNews:
    """The queue at one moment, and what has happened since the news before."""

    batches: tuple[BatchRow, ...] = ()
    running: tuple[VideoRow, ...] = ()
    held: Hold | None = None
    engine: Engine | None = None
    left: Mapping[int, Left] = field(default_factory=dict)
    """By batch, of those that are not made yet."""
    events: tuple[Event, ...] = ()
    fault: str | None = None
    """Why the queue could not be read; the rest is then as it was."""

    @property
    def seconds_left(self) -> float | None:
        """For all that is on the queue; None where that is not known of a batch."""
        seconds = [self.left[batch.id].seconds for batch in self.batches if batch.unfinished and batch.id in self.left]
        return None if not seconds or None in seconds else sum(s for s in seconds if s is not None)


class Feed(threading.Thread):
    """Gives `QueueNews` to `tell` whenever something changed, but not more often than `interval`.

    Args:
        after: events up to this number are known already.
    """

    def __init__(self, place: Place, tell: Callable[[QueueNews], None], interval: float, after: int) -> None:
        super().__init__(name="queue feed", daemon=True)
        self.place, self.tell, self.interval, self.after = place, tell, interval, after
        self._ended, self._hurry = threading.Event(), threading.Event()

    def stop(self) -> None:
        self._ended.set()
        self._hurry.set()

    def hurry(self) -> None:
        """Look at once: a user has just changed something."""
        self._hurry.set()

    def run(self) -> None:
        news, version, looked, forecast = QueueNews(), -1, 0.0, None
        while not self._ended.is_set():
            try:
                if forecast is None:
                    forecast = Forecast(QueueView(self.place.directory))
                    forecast.look()
                engine, now = news.engine, time.monotonic()
                if now - looked >= ENGINE_SECONDS or self._hurry.is_set():
                    engine, looked = find_engine(self.place.directory), now
                self._hurry.clear()
                changed = (current := forecast.queue.version()) != version
                if changed or engine != news.engine or news.fault:
                    version = current
                    news = self._read(forecast, engine)
                    self.tell(news)
            except Exception as error:  # whatever it is, the screens must not stand still without a word
                if news.fault is None:
                    news = QueueNews(news.batches, news.running, news.held, news.engine, news.left, (), str(error))
                    self.tell(news)
                forecast = None
                self._ended.wait(1.0)
            self._hurry.wait(self.interval)

    def _read(self, forecast: Forecast, engine: Engine | None) -> QueueNews:
        queue = forecast.queue
        events = tuple(queue.events(self.after))
        if events:
            self.after = events[-1].seq
        if any(event.kind in ENDS for event in events):
            forecast.look()
        batches, running = tuple(queue.batches(-1)), tuple(queue.running())
        devices = engine.devices if engine is not None else ()
        left = {batch.id: forecast.left(batch, running, devices) for batch in batches if batch.unfinished}
        return QueueNews(batches, running, queue.held(), engine, left, events)
