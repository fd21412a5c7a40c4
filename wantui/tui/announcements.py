"""What a user hears of on whichever screen: failures, holds, batches that ended, an engine of another version."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from wantui import __version__
from wantui.engine.control import Engine
from wantui.queue.rows import Event
from wantui.tui.feed import QueueNews

if TYPE_CHECKING:
    from wantui.tui.app import WantuiApp


def announce(app: "WantuiApp", before: Engine | None, news: QueueNews, fresh: Sequence[Event]) -> None:
    """Notify of what is new.

    Args:
        before: engine of the news before.
        fresh: events of the news that happened since the application was started.
    """
    if news.engine is not None and news.engine != before:
        _announce_version(app, news.engine)
    for event in fresh:
        _announce_event(app, event)
    _announce_ends(app, news, fresh)


def _announce_version(app: "WantuiApp", engine: Engine) -> None:
    if engine.version != __version__:
        app.notify(
            f"the engine is wantui {engine.version}, and this is {__version__}; to bring them together: "
            "wantui engine stop, then F6",
            title="another version",
            severity="warning",
            timeout=15,
        )


def _announce_event(app: "WantuiApp", event: Event) -> None:
    title, error = event.data.get("title", ""), str(event.data.get("error", ""))
    if event.kind == "refused":
        app.notify(error, severity="error", title="the batch cannot be made", timeout=20)
    elif event.kind == "held":
        app.notify(f"{event.data.get('reason', '')}; F7 continues it", severity="warning", title="queue held")
    elif event.kind == "worker died":
        app.notify(error, severity="error", title="a worker died")
    elif event.kind == "out of memory":
        text = f"{title}: tries {event.data.get('plan', '')}"
        app.notify(text, severity="warning", title="out of memory")


def _announce_ends(app: "WantuiApp", news: QueueNews, events: Sequence[Event]) -> None:
    """Notify of failures, and of batches that ended: once for each batch, however many videos it has."""
    failed = [event for event in events if event.kind == "failed"]
    for batch_id in dict.fromkeys(event.batch for event in failed):
        own = [event for event in failed if event.batch == batch_id]
        more = f" (and {len(own) - 1} more)" if len(own) > 1 else ""
        text = f"{own[0].data.get('title', '')}: {own[0].data.get('error', '')}{more}"
        app.notify(text, severity="error", title="failed")
    ended = {event.batch for event in events if event.kind in ("done", "failed", "cancelled")}
    for batch in news.batches:
        if batch.id in ended and not batch.unfinished:
            done = batch.counts.get("done", 0)
            app.notify(f"{batch.name}: {done} of {batch.total} done", title="batch ended")
            if app.settings.bell:
                app.bell()
