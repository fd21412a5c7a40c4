"""Progress of a batch: bars on a terminal, plain lines elsewhere, or one JSON object per line."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from wantui.cli.output import echo, print_json
from wantui.formatting import escape_unprintable

if TYPE_CHECKING:
    from rich.progress import TaskID

    from wantui.queue.records import QueueEvent
    from wantui.queue.waiting import BatchWait

SECONDS_BETWEEN_PROGRESS_LINES = 10.0
"""Seconds between two lines about the progress of a video."""
NUMBERS_COLUMN_WIDTH = 50
"""Columns of a terminal for bar, steps, pace and time left; the title gets the others."""


EtaFunction = Callable[[], float | None]
"""Function that returns the predicted seconds until the batch is done; None if unknown."""


class ProgressReporter(Protocol):
    """Object that shows the events of a batch, other messages, and the reason for waiting."""

    def show_event(self, event: "QueueEvent") -> None: ...
    def show_message(self, text: str) -> None: ...
    def show_wait_reason(self, batch_wait: "BatchWait") -> None: ...


@contextmanager
def open_progress_reporter(as_json: bool, get_eta: EtaFunction) -> Iterator[ProgressReporter]:
    """Yield a reporter: JSON lines, bars on a terminal, or plain lines."""
    if as_json:
        yield JsonLinesReporter()
    elif sys.stderr.isatty():
        bar_reporter = BarReporter(get_eta)
        with bar_reporter.progress:
            yield bar_reporter
    else:
        yield PlainReporter(get_eta)


def format_event_line(event: "QueueEvent") -> str | None:
    """Return the line that describes an event; None for an event without a line."""
    from wantui.queue import events
    from wantui.queue.records import describe_hold

    match event.payload:
        case events.VideoDone(title=title, seconds=seconds, files=files):
            total_seconds = sum(seconds.get(phase, 0.0) for phase in ("denoise", "decode"))
            return f"done: {title}, {total_seconds:.1f} s, {files.get('clip', '')}"
        case events.VideoInterrupted():
            return f"interrupted: {event.payload.describe()}"
        case events.VideoCancelled(title=title):
            return f"cancelled: {title}"
        case events.VideoFailed(title=title, error=error):
            return f"failed: {title}: {error}"
        case events.VideoRestarted(title=title, reason=reason):
            return f"restarted: {title}: {reason}"
        case events.VideoLockedElsewhere(title=title):
            return f"waiting for {title}: another engine, here or on another machine, is generating it"
        case events.VideoOnOneGpu(title=title, reason=reason):
            return f"using one GPU, with the same result: {title}: {reason}"
        case events.VideoOutOfMemory(title=title, plan=plan):
            return f"out of memory: {title}; retrying with memory plan {plan} or a smaller one"
        case events.QueueHeld(reason=reason, hold=kind):
            return f"the queue is held: {describe_hold(kind, reason)}"
        case events.QueueResumed():
            return "queue resumed"
        case events.BatchPaused():
            return "batch paused"
        case events.BatchHeld(reason=reason, hold=kind):
            return f"the batch is on hold: {describe_hold(kind, reason)}"
        case events.BatchResumed():
            return "batch resumed"
        case events.WorkerDied(error=error):
            return f"a worker died: {error}"
        case events.ModelLoading(model=model, plan=plan, reason=reason):
            return f"loading {model}: {plan} ({reason})"
    return None


class BarReporter:
    """Reporter with a Rich progress bar on stderr for each running video, and a line for each finished video."""

    def __init__(self, get_eta: EtaFunction) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        console = Console(stderr=True, highlight=False)
        title_width = max(console.width - NUMBERS_COLUMN_WIDTH, 12)
        title_column = Column(no_wrap=True, overflow="ellipsis", max_width=title_width)
        self.progress = Progress(
            TextColumn("{task.description}", markup=False, table_column=title_column),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[count]}", table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[pace]}", table_column=Column(no_wrap=True)),
            console=console,
            transient=True,
        )
        self.task_by_video: dict[int, TaskID] = {}
        self.waiting_task: TaskID | None = None
        self.shown_batch_ids: tuple[int, ...] = ()
        self.get_eta = get_eta

    def show_message(self, text: str) -> None:
        self.progress.console.print(escape_unprintable(text), markup=False, soft_wrap=True)

    def show_event(self, event: "QueueEvent") -> None:
        from wantui.batches.eta import format_eta
        from wantui.queue import events

        video_id, payload = event.video_id or 0, event.payload
        match payload:
            case events.VideoStarted(title=title, steps=steps):
                self._remove_task(video_id)
                self.task_by_video[video_id] = self.progress.add_task(
                    escape_unprintable(title), total=steps, pace="starting", count=""
                )
            case events.StepDone(step=step, steps=steps, seconds=seconds) if video_id in self.task_by_video:
                pace_text = f"{seconds:.2f} s/step, {format_eta(self.get_eta())}"
                self._update_task(video_id, step, steps, pace_text)
            case events.FramesDecoded(frames=frames, count=count) if video_id in self.task_by_video:
                self._update_task(
                    video_id, frames, count, "frames decoded" if frames < count else "finishing its files"
                )
        if isinstance(payload, events.STOPPING_EVENTS):
            self._remove_task(video_id)
        if (event_line := format_event_line(event)) is not None:
            self.show_message(event_line)

    def show_wait_reason(self, batch_wait: "BatchWait") -> None:
        waiting_text = escape_unprintable(batch_wait.describe())
        if self.waiting_task is not None and not waiting_text:
            self.progress.remove_task(self.waiting_task)
            self.waiting_task = None
        elif self.waiting_task is None and waiting_text:
            self.waiting_task = self.progress.add_task(waiting_text, total=None, pace="", count="")
        elif self.waiting_task is not None:
            self.progress.update(self.waiting_task, description=waiting_text)
        earlier_batch_ids = tuple(batch.id for batch in batch_wait.earlier_batches)
        if (
            earlier_batch_ids and earlier_batch_ids != self.shown_batch_ids
        ):  # once in full: the bar may truncate the text
            self.show_message(batch_wait.describe(shows_seconds=False))
        self.shown_batch_ids = earlier_batch_ids

    def _update_task(self, video_id: int, completed_count: int, total_count: int, pace_text: str) -> None:
        count_text = f"{completed_count}/{total_count}"
        self.progress.update(
            self.task_by_video[video_id], completed=completed_count, total=total_count, pace=pace_text, count=count_text
        )

    def _remove_task(self, video_id: int) -> None:
        task_id = self.task_by_video.pop(video_id, None)
        if task_id is not None:
            self.progress.remove_task(task_id)


class PlainReporter:
    """Reporter with lines on stderr: starts and ends of videos, the first step, then the progress every ten seconds."""

    def __init__(self, get_eta: EtaFunction) -> None:
        self.get_eta, self.last_line_seconds = get_eta, -math.inf  # the first step has a line, with the ETA
        self.shown_wait_key: tuple[object, ...] = ()

    def show_message(self, text: str) -> None:
        echo(text, err=True)

    def show_wait_reason(self, batch_wait: "BatchWait") -> None:
        """Print the reason for waiting when it changes, and again every ten seconds."""
        wait_key = (
            *(batch.id for batch in batch_wait.earlier_batches),
            *(worker.name for worker in batch_wait.starting_workers),
        )
        is_due = time.monotonic() - self.last_line_seconds >= SECONDS_BETWEEN_PROGRESS_LINES
        if batch_wait and (wait_key != self.shown_wait_key or is_due):
            self.last_line_seconds = time.monotonic()
            self.show_message(batch_wait.describe())
        self.shown_wait_key = wait_key

    def show_event(self, event: "QueueEvent") -> None:
        from wantui.batches.eta import format_eta
        from wantui.queue import events

        payload, has_ended = event.payload, isinstance(event.payload, events.ENDING_EVENTS)
        match payload:
            case events.VideoStarted(title=title, attempt=attempt):
                self.show_message(f"started: {title}" + (f" (attempt {attempt})" if attempt > 1 else ""))
            case events.StepDone(step=step, steps=steps, seconds=seconds):
                if time.monotonic() - self.last_line_seconds >= SECONDS_BETWEEN_PROGRESS_LINES:
                    self.last_line_seconds = time.monotonic()
                    self.show_message(f"  step {step}/{steps}, {seconds:.2f} s/step, {format_eta(self.get_eta())}")
        if (event_line := format_event_line(event)) is not None:
            self.show_message(f"  {event_line}" if has_ended else event_line)


class JsonLinesReporter:
    """Reporter with a line of JSON on stdout for each event; `video` is the VIDEO of `wantui queue cancel`."""

    def show_message(self, text: str) -> None:
        echo(text, err=True)

    def show_wait_reason(self, batch_wait: "BatchWait") -> None:
        """Print nothing, because events report the reason.

        The events are `worker_starting` and `worker_ready`, and `wantui queue ls --json` prints the order.
        """

    def show_event(self, event: "QueueEvent") -> None:
        print_json(event.as_json(), indent=None)
