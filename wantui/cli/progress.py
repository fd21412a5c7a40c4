"""Progress of a batch: bars on a terminal, plain lines elsewhere, or one JSON object a line."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from wantui.cli.output import echo, print_json
from wantui.formatting import printable

if TYPE_CHECKING:
    from rich.progress import TaskID

    from wantui.queue.records import Event
    from wantui.queue.waiting import Waiting

SECONDS_BETWEEN_LINES = 10.0
WIDTH_OF_NUMBERS = 50
"""Columns of bar, steps, pace and time left; the title gets the rest."""


EtaSource = Callable[[], float | None]
"""Returns the seconds until the followed batch is done; None where that is not known."""


class Reporter(Protocol):
    """Receives every event of a batch."""

    def show(self, event: "Event") -> None: ...
    def say(self, text: str) -> None: ...
    def wait(self, waiting: "Waiting") -> None: ...


@contextmanager
def reporter(as_json: bool, eta: "EtaSource") -> Iterator[Reporter]:
    """Yield the reporter that fits where the output goes."""
    if as_json:
        yield JsonLines()
    elif sys.stderr.isatty():
        bars = Bars(eta)
        with bars.progress:
            yield bars
    else:
        yield PlainLines(eta)


def news(event: "Event") -> str | None:
    """Return the event as one line, or None if it is not worth one."""
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
            return f"starts again: {title}: {reason}"
        case events.VideoLockedElsewhere(title=title):
            return f"{title} is being made by another engine, on this machine or another one: waiting for it"
        case events.VideoOutOfMemory(title=title, plan=plan):
            return f"out of memory: {title}; trying {plan}, or what needs less"
        case events.QueueHeld(reason=reason):
            return f"the queue is held: {reason}. Resume with: wantui queue resume"
        case events.QueueResumed():
            return "queue resumed"
        case events.BatchPaused():
            return "the batch is paused"
        case events.BatchResumed():
            return "batch resumed"
        case events.WorkerDied(error=error):
            return f"a worker died: {error}"
        case events.ModelLoading(model=model, plan=plan, reason=reason):
            return f"loading {model}: {plan} ({reason})"
    return None


class Bars:
    """A Rich progress bar for each video that runs, on stderr; finished videos become lines."""

    def __init__(self, eta: EtaSource) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        console = Console(stderr=True, highlight=False)
        width = max(console.width - WIDTH_OF_NUMBERS, 12)
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
        self.waiting: TaskID | None = None
        self.waits_for: tuple[int, ...] = ()
        self.eta = eta

    def say(self, text: str) -> None:
        self.progress.console.print(printable(text), markup=False, soft_wrap=True)

    def show(self, event: "Event") -> None:
        from wantui.batches.eta import format_eta
        from wantui.queue import events

        video, payload = event.video or 0, event.payload
        match payload:
            case events.VideoStarted(title=title, steps=steps):
                self._remove(video)
                self.tasks[video] = self.progress.add_task(printable(title), total=steps, pace="starts", count="")
            case events.StepDone(step=step, steps=steps, seconds=seconds) if video in self.tasks:
                pace = f"{seconds:.2f} s/step, {format_eta(self.eta())}"
                self._advance(video, step, steps, pace)
            case events.FramesDecoded(frames=frames, count=count) if video in self.tasks:
                self._advance(video, frames, count, "frames decoded" if frames < count else "ends its files")
        if isinstance(payload, events.STOPPED):
            self._remove(video)
        if (text := news(event)) is not None:
            self.say(text)

    def wait(self, waiting: "Waiting") -> None:
        text = printable(waiting.text())
        if self.waiting is not None and not text:
            self.progress.remove_task(self.waiting)
            self.waiting = None
        elif self.waiting is None and text:
            self.waiting = self.progress.add_task(text, total=None, pace="", count="")
        elif self.waiting is not None:
            self.progress.update(self.waiting, description=text)
        before = tuple(batch.id for batch in waiting.before)
        if before and before != self.waits_for:  # once in full: the line of the bar may be too short
            self.say(waiting.text(with_seconds=False))
        self.waits_for = before

    def _advance(self, video: int, completed: int, total: int, pace: str) -> None:
        count = f"{completed}/{total}"
        self.progress.update(self.tasks[video], completed=completed, total=total, pace=pace, count=count)

    def _remove(self, video: int) -> None:
        task = self.tasks.pop(video, None)
        if task is not None:
            self.progress.remove_task(task)


class PlainLines:
    """Lines on stderr: each video's start and end, and its progress every ten seconds."""

    def __init__(self, eta: EtaSource) -> None:
        self.eta, self.last = eta, time.monotonic()
        self.waits_for: tuple[object, ...] = ()

    def say(self, text: str) -> None:
        echo(text, err=True)

    def wait(self, waiting: "Waiting") -> None:
        """Print the reason for waiting when it changes, and every ten seconds."""
        now_for = (*(batch.id for batch in waiting.before), *(worker.name for worker in waiting.starting))
        is_due = time.monotonic() - self.last >= SECONDS_BETWEEN_LINES
        if waiting and (now_for != self.waits_for or is_due):
            self.last = time.monotonic()
            self.say(waiting.text())
        self.waits_for = now_for

    def show(self, event: "Event") -> None:
        from wantui.batches.eta import format_eta
        from wantui.queue import events

        payload, has_ended = event.payload, isinstance(event.payload, events.ENDED)
        match payload:
            case events.VideoStarted(title=title, attempt=attempt):
                self.say(f"started: {title}" + (f" (attempt {attempt})" if attempt > 1 else ""))
            case events.StepDone(step=step, steps=steps, seconds=seconds):
                if time.monotonic() - self.last >= SECONDS_BETWEEN_LINES:
                    self.last = time.monotonic()
                    self.say(f"  step {step}/{steps}, {seconds:.2f} s/step, {format_eta(self.eta())}")
        if (text := news(event)) is not None:
            self.say(f"  {text}" if has_ended else text)


class JsonLines:
    """One JSON object a line on stdout; `video` is the number that `wantui queue cancel BATCH VIDEO` takes."""

    def say(self, text: str) -> None:
        echo(text, err=True)

    def wait(self, waiting: "Waiting") -> None:
        """Print nothing: `worker_starting` and `worker_ready` are events, and `wantui queue ls --json` has the
        order."""

    def show(self, event: "Event") -> None:
        print_json(event.as_json(), indent=None)
