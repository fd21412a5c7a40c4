"""Progress of a batch: bars on a terminal, plain lines elsewhere, or one JSON object a line."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from wantui.cli.tables import echo, print_json
from wantui.formatting import format_duration, printable

if TYPE_CHECKING:
    from rich.progress import TaskID

    from wantui.queue.rows import Event
    from wantui.queue.waiting import Waiting

SECONDS_BETWEEN_LINES = 10.0
WIDTH_OF_NUMBERS = 50
"""What bar, steps, pace and time left need on a line; the title gets the rest."""
NEWS = {
    "interrupted": "interrupted: {title}: {error}",
    "cancelled": "cancelled: {title}",
    "started again": "starts again: {title}: {reason}",
    "elsewhere": "{title} is being made by another engine, on this machine or another one: waiting for it",
    "out of memory": "out of memory: {title}; trying {plan}, or what needs less",
    "held": "the queue is held: {reason}. Resume with: wantui queue resume",
    "resumed": "queue resumed",
    "batch paused": "the batch is paused",
    "batch resumed": "batch resumed",
    "worker died": "a worker died: {error}",
    "loading": "loading {model}: {plan} ({reason})",
    "failed": "failed: {title}: {error}",
}
"""What is said of an event, beside progress."""


class Reporter(Protocol):
    """Is told of every event of a batch."""

    def show(self, event: "Event") -> None: ...
    def say(self, text: str) -> None: ...
    def wait(self, waiting: "Waiting") -> None: ...


@contextmanager
def reporter(as_json: bool, videos: int) -> Iterator[Reporter]:
    """The reporter that fits where the output goes; `videos` are to be made."""
    if as_json:
        yield JsonLines()
    elif sys.stderr.isatty():
        bars = Bars(videos)
        with bars.progress:
            yield bars
    else:
        yield PlainLines(videos)


def news(event: "Event") -> str | None:
    """What happened, on one line, if it is worth one."""
    if event.kind == "done":
        seconds = sum(event.data.get("seconds", {}).get(part, 0.0) for part in ("denoise", "decode"))
        return f"done: {event.data['title']}, {seconds:.1f} s, {event.data.get('files', {}).get('clip', '')}"
    template = NEWS.get(event.kind)
    if template is None:
        return None
    words = {"title": "", "error": "", "reason": "", "model": "", "plan": "", **event.data}
    return template.format_map(words)


class Eta:
    """Time to the end of the batch, from the time between ends so far and the steps of the videos that run."""

    def __init__(self, videos: int) -> None:
        self.left, self.ended = videos, 0
        self.began: float | None = None
        self.shares: dict[int, float] = {}

    def step(self, event: "Event") -> None:
        if self.began is None:
            # What came before the first step is loading, and happens once.
            self.began = time.monotonic() - event.data["seconds"]
        self.shares[event.video or 0] = event.data["step"] / event.data["steps"]

    def video_ended(self, video: int) -> None:
        self.shares.pop(video, None)
        self.ended += 1
        self.left = max(self.left - 1, 0)

    def seconds(self) -> float:
        done = self.ended + sum(self.shares.values())
        if self.began is None or not done:
            return 0.0
        return (time.monotonic() - self.began) / done * max(self.left - sum(self.shares.values()), 0.0)


class Bars:
    """A Rich progress bar for each video that runs, on stderr; finished videos become lines."""

    def __init__(self, videos: int) -> None:
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
        self.eta = Eta(videos)

    def say(self, text: str) -> None:
        self.progress.console.print(printable(text), markup=False, soft_wrap=True)

    def show(self, event: "Event") -> None:
        video = event.video or 0
        if event.kind == "started":
            self._remove(video)
            self.tasks[video] = self.progress.add_task(
                printable(event.data["title"]), total=event.data["steps"], pace="starts", count=""
            )
        elif event.kind == "step" and video in self.tasks:
            self.eta.step(event)
            pace = f"{event.data['seconds']:.2f} s/step, all in {format_duration(self.eta.seconds())}"
            self._advance(video, event.data["step"], event.data["steps"], pace)
        elif event.kind == "decoded" and video in self.tasks:
            frames, count = event.data["frames"], event.data["count"]
            pace = "frames decoded" if frames < count else "ends its files"
            self._advance(video, frames, count, pace)
        elif event.kind in ("done", "failed", "cancelled"):
            self.eta.video_ended(video)
            self._remove(video)
        elif event.kind in ("released", "interrupted", "out of memory"):
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

    def __init__(self, videos: int) -> None:
        self.eta, self.last = Eta(videos), time.monotonic()
        self.waits_for: tuple[object, ...] = ()

    def say(self, text: str) -> None:
        echo(text, err=True)

    def wait(self, waiting: "Waiting") -> None:
        """Say what is waited for when it changes, and every ten seconds."""
        now_for = (*(batch.id for batch in waiting.before), *(worker.name for worker in waiting.starting))
        is_due = time.monotonic() - self.last >= SECONDS_BETWEEN_LINES
        if waiting and (now_for != self.waits_for or is_due):
            self.last = time.monotonic()
            self.say(waiting.text())
        self.waits_for = now_for

    def show(self, event: "Event") -> None:
        data = event.data
        if event.kind == "started":
            attempt = data.get("attempt", 1)  # events of earlier versions do not tell it
            self.say(f"started: {data['title']}" + (f" (attempt {attempt})" if attempt > 1 else ""))
        elif event.kind == "step":
            self.eta.step(event)
            if time.monotonic() - self.last >= SECONDS_BETWEEN_LINES:
                self.last = time.monotonic()
                left = format_duration(self.eta.seconds())
                self.say(f"  step {data['step']}/{data['steps']}, {data['seconds']:.2f} s/step, all in {left}")
        elif event.kind in ("done", "failed", "cancelled"):
            self.eta.video_ended(event.video or 0)
        if (text := news(event)) is not None:
            self.say(f"  {text}" if event.kind in ("done", "failed", "cancelled") else text)


class JsonLines:
    """One JSON object a line on stdout; `video` is the number that `wantui queue cancel BATCH VIDEO` takes."""

    def say(self, text: str) -> None:
        echo(text, err=True)

    def wait(self, waiting: "Waiting") -> None:
        """Nothing: `worker_starting` and `worker_ready` are events, and `wantui queue ls --json` has the order."""

    def show(self, event: "Event") -> None:
        number = event.data.get("number")
        line = {"event": event.kind, "seq": event.seq, "batch": event.batch, "video": number, **event.data}
        print_json(line, indent=None)
