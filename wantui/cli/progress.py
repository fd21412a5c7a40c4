"""Progress of a batch: bars on a terminal, plain lines elsewhere, or one JSON object per line."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from wantui.cli.output import echo, print_json
from wantui.formatting import escape_unprintable

if TYPE_CHECKING:
    from rich.progress import TaskID

    from wantui.queue.records import Event
    from wantui.queue.waiting import BatchWait

SECONDS_BETWEEN_LINES = 10.0
"""Seconds between two lines about the progress of a video."""
NUMBERS_WIDTH = 50
"""Columns of a terminal for bar, steps, pace and time left; the title gets the others."""


EtaSource = Callable[[], float | None]
"""Function that returns the predicted seconds until the batch is done; None if unknown."""


class ProgressReporter(Protocol):
    """Object that shows the events of a batch, other messages, and the reason for waiting."""

    def show_event(self, event: "Event") -> None: ...
    def show_message(self, text: str) -> None: ...
    def show_waiting(self, waiting: "BatchWait") -> None: ...


@contextmanager
def open_reporter(as_json: bool, eta: "EtaSource") -> Iterator[ProgressReporter]:
    """Yield a reporter: JSON lines, bars on a terminal, or plain lines."""
    if as_json:
        yield JsonLinesReporter()
    elif sys.stderr.isatty():
        bars = BarReporter(eta)
        with bars.progress:
            yield bars
    else:
        yield PlainReporter(eta)


def format_event(event: "Event") -> str | None:
    """Return the line that describes an event; None for an event without a line."""
    from wantui.queue import events

    match event.payload:
        case events.VideoDone(title=title, seconds=seconds, files=files):
            total = sum(seconds.get(part, 0.0) for part in ("denoise", "decode"))
            return f"done: {title}, {total:.1f} s, {files.get('clip', '')}"
        case events.VideoInterrupted(title=title, error=error):
            return f"interrupted: {title}: {error}"
        case events.VideoCancelled(title=title):
            return f"cancelled: {title}"
        case events.VideoFailed(title=title, error=error):
            return f"failed: {title}: {error}"
        case events.VideoRestarted(title=title, reason=reason):
            return f"restarted: {title}: {reason}"
        case events.VideoLockedElsewhere(title=title):
            return f"waiting for {title}: another engine, here or on another machine, is generating it"
        case events.VideoOutOfMemory(title=title, plan=plan):
            return f"out of memory: {title}; retrying with memory plan {plan} or a smaller one"
        case events.QueueHeld(reason=reason):
            return f"the queue is held: {reason}. Resume with: wantui queue resume"
        case events.QueueResumed():
            return "the queue is resumed"
        case events.BatchPaused():
            return "the batch is paused"
        case events.BatchResumed():
            return "the batch is resumed"
        case events.WorkerDied(error=error):
            return f"a worker died: {error}"
        case events.ModelLoading(model=model, plan=plan, reason=reason):
            return f"loading {model}: {plan} ({reason})"
    return None


class BarReporter:
    """Reporter with a Rich progress bar on stderr for each running video, and a line for each finished one."""

    def __init__(self, eta: EtaSource) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        console = Console(stderr=True, highlight=False)
        width = max(console.width - NUMBERS_WIDTH, 12)
        title = Column(no_wrap=True, overflow="ellipsis", max_width=width)
        self.progress = Progress(
            TextColumn("{task.description}", markup=False, table_column=title),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[count]}", table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[pace]}", table_column=Column(no_wrap=True)),
            console=console,
            transient=True,
        )
        self.tasks: dict[int, TaskID] = {}
        self.waiting_task: TaskID | None = None
        self.waited_for: tuple[int, ...] = ()
        self.eta = eta

    def show_message(self, text: str) -> None:
        self.progress.console.print(escape_unprintable(text), markup=False, soft_wrap=True)

    def show_event(self, event: "Event") -> None:
        from wantui.batches.eta import format_eta
        from wantui.queue import events

        video, payload = event.video or 0, event.payload
        match payload:
            case events.VideoStarted(title=title, steps=steps):
                self._remove(video)
                self.tasks[video] = self.progress.add_task(
                    escape_unprintable(title), total=steps, pace="starting", count=""
                )
            case events.StepDone(step=step, steps=steps, seconds=seconds) if video in self.tasks:
                pace = f"{seconds:.2f} s/step, {format_eta(self.eta())}"
                self._advance(video, step, steps, pace)
            case events.FramesDecoded(frames=frames, count=count) if video in self.tasks:
                self._advance(video, frames, count, "frames decoded" if frames < count else "finishing its files")
        if isinstance(payload, events.STOPPING_EVENTS):
            self._remove(video)
        if (text := format_event(event)) is not None:
            self.show_message(text)

    def show_waiting(self, waiting: "BatchWait") -> None:
        text = escape_unprintable(waiting.describe())
        if self.waiting_task is not None and not text:
            self.progress.remove_task(self.waiting_task)
            self.waiting_task = None
        elif self.waiting_task is None and text:
            self.waiting_task = self.progress.add_task(text, total=None, pace="", count="")
        elif self.waiting_task is not None:
            self.progress.update(self.waiting_task, description=text)
        earlier = tuple(batch.id for batch in waiting.earlier_batches)
        if earlier and earlier != self.waited_for:  # once in full: the bar may truncate the text
            self.show_message(waiting.describe(with_seconds=False))
        self.waited_for = earlier

    def _advance(self, video: int, completed: int, total: int, pace: str) -> None:
        count = f"{completed}/{total}"
        self.progress.update(self.tasks[video], completed=completed, total=total, pace=pace, count=count)

    def _remove(self, video: int) -> None:
        task = self.tasks.pop(video, None)
        if task is not None:
            self.progress.remove_task(task)


class PlainReporter:
    """Reporter with lines on stderr: the start and end of each video, and its progress every ten seconds."""

    def __init__(self, eta: EtaSource) -> None:
        self.eta, self.last = eta, time.monotonic()
        self.waited_for: tuple[object, ...] = ()

    def show_message(self, text: str) -> None:
        echo(text, err=True)

    def show_waiting(self, waiting: "BatchWait") -> None:
        """Print the reason for waiting when it changes, and again every ten seconds."""
        waits_for = (
            *(batch.id for batch in waiting.earlier_batches),
            *(worker.name for worker in waiting.starting_workers),
        )
        is_due = time.monotonic() - self.last >= SECONDS_BETWEEN_LINES
        if waiting and (waits_for != self.waited_for or is_due):
            self.last = time.monotonic()
            self.show_message(waiting.describe())
        self.waited_for = waits_for

    def show_event(self, event: "Event") -> None:
        from wantui.batches.eta import format_eta
        from wantui.queue import events

        payload, has_ended = event.payload, isinstance(event.payload, events.ENDING_EVENTS)
        match payload:
            case events.VideoStarted(title=title, attempt=attempt):
                self.show_message(f"started: {title}" + (f" (attempt {attempt})" if attempt > 1 else ""))
            case events.StepDone(step=step, steps=steps, seconds=seconds):
                if time.monotonic() - self.last >= SECONDS_BETWEEN_LINES:
                    self.last = time.monotonic()
                    self.show_message(f"  step {step}/{steps}, {seconds:.2f} s/step, {format_eta(self.eta())}")
        if (text := format_event(event)) is not None:
            self.show_message(f"  {text}" if has_ended else text)


class JsonLinesReporter:
    """Reporter with a line of JSON on stdout for each event; `video` is the VIDEO of `wantui queue cancel`."""

    def show_message(self, text: str) -> None:
        echo(text, err=True)

    def show_waiting(self, waiting: "BatchWait") -> None:
        """Print nothing: the events `worker_starting` and `worker_ready` report it, and `wantui queue ls --json` prints
        the order."""

    def show_event(self, event: "Event") -> None:
        print_json(event.as_json(), indent=None)
