"""Progress of a batch: a bar on a terminal, plain lines elsewhere, or one JSON object a line."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import click

from wantui.cli.tables import duration_in_words

if TYPE_CHECKING:
    from rich.progress import TaskID

    from wantui.engine.run import Event
    from wantui.storage.manifest import VideoEntry

SECONDS_BETWEEN_LINES = 10.0
WIDTH_OF_NUMBERS = 50
"""What bar, steps, pace and time left need on a line; the title gets the rest."""


class Reporter(Protocol):
    """Is told of every event of a batch."""

    def show(self, event: "Event") -> None: ...


@contextmanager
def reporter(as_json: bool, names: list[str]) -> Iterator[Reporter]:
    """The reporter that fits where the output goes; `names` are the ids of the variations."""
    if as_json:
        yield JsonLines(names)
    elif sys.stderr.isatty():
        bars = Bars(names)
        with bars.progress:
            yield bars
    else:
        yield PlainLines(names)


def _title(names: list[str], video: "VideoEntry") -> str:
    return f"{names[video.variation]} seed {video.seed}"


class Eta:
    """Time to the end of the batch, from the seconds of the videos done and of the steps of this one."""

    def __init__(self) -> None:
        self.videos: list[float] = []
        self.started = 0.0
        self.left = 0

    def video_started(self, position: int, total: int) -> None:
        self.started = time.monotonic()
        self.left = total - position

    def video_ended(self) -> None:
        self.videos.append(time.monotonic() - self.started)

    def seconds(self, done: float) -> float:
        """`done` is the share of this video's steps."""
        spent = time.monotonic() - self.started
        mean = sum(self.videos) / len(self.videos) if self.videos else spent / max(done, 1e-6)
        return max(mean - spent, 0.0) + self.left * mean


class Bars:
    """A Rich progress bar for the video at hand, on stderr; finished videos become lines."""

    def __init__(self, names: list[str]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        self.names, self.eta = names, Eta()
        console = Console(stderr=True, highlight=False)
        title_width = max(16, console.width - WIDTH_OF_NUMBERS)
        self.progress = Progress(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, max_width=title_width)),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:.0f}/{task.total:.0f}", table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[pace]}", table_column=Column(no_wrap=True)),
            console=console,
            refresh_per_second=4,
            transient=True,
        )
        self.task: TaskID | None = None

    def show(self, event: "Event") -> None:
        from wantui.engine.run import Loading, StepDone, VideoDone, VideoFailed, VideoStarted

        match event:
            case Loading(model):
                self.progress.console.print(f"loading {model}", markup=False)
            case VideoStarted(video, position, total):
                self.eta.video_started(position, total)
                title = f"{position}/{total}  {_title(self.names, video)}"
                self.task = self.progress.add_task(title, total=video.recipe.steps, pace="")
            case StepDone(_, index, count, seconds, _) if self.task is not None:
                left = duration_in_words(self.eta.seconds((index + 1) / count))
                pace = f"{seconds:.2f} s/step, all in {left}"
                self.progress.update(self.task, completed=index + 1, total=count, pace=pace)
            case VideoDone(video) | VideoFailed(video) if self.task is not None:
                self.eta.video_ended()
                self.progress.remove_task(self.task)
                self.progress.console.print(summary(self.names, video), markup=False, soft_wrap=True)


class PlainLines:
    """Lines on stderr: each video's start and end, and its progress every ten seconds."""

    def __init__(self, names: list[str]) -> None:
        self.names, self.eta, self.last = names, Eta(), 0.0

    def show(self, event: "Event") -> None:
        from wantui.engine.run import Loading, StepDone, VideoDone, VideoFailed, VideoStarted

        match event:
            case Loading(model):
                click.echo(f"loading {model}", err=True)
            case VideoStarted(video, position, total):
                self.eta.video_started(position, total)
                self.last = time.monotonic()
                click.echo(f"{position}/{total} {_title(self.names, video)}", err=True)
            case StepDone(_, index, count, seconds, _):
                if time.monotonic() - self.last >= SECONDS_BETWEEN_LINES:
                    self.last = time.monotonic()
                    left = duration_in_words(self.eta.seconds((index + 1) / count))
                    click.echo(f"  step {index + 1}/{count}, {seconds:.2f} s/step, all in {left}", err=True)
            case VideoDone(video) | VideoFailed(video):
                self.eta.video_ended()
                click.echo(f"  {summary(self.names, video)}", err=True)


class JsonLines:
    """One JSON object a line on stdout."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def show(self, event: "Event") -> None:
        from wantui.engine.run import Loading, StepDone, VideoDone, VideoFailed, VideoStarted

        line: dict[str, object]
        match event:
            case Loading(model):
                line = {"event": "loading", "model": model}
            case VideoStarted(video, position, total):
                line = {"event": "started", **self._video(video), "position": position, "total": total}
            case StepDone(video, index, count, seconds, sigma):
                line = {"event": "step", "id": video.id, "step": index + 1, "of": count, "sigma": sigma}
                line["seconds"] = round(seconds, 4)
            case VideoDone(video):
                line = {"event": "done", **self._video(video), "files": video.files, "seconds": video.seconds}
            case VideoFailed(video):
                line = {"event": "failed", **self._video(video), "error": video.error}
        click.echo(json.dumps(line))

    def _video(self, video: "VideoEntry") -> dict[str, object]:
        return {"id": video.id, "variation": self.names[video.variation], "seed": video.seed, "number": video.number}


def summary(names: list[str], video: "VideoEntry") -> str:
    """What came of a video, on one line."""
    if video.state == "failed":
        return f"failed: {_title(names, video)}: {video.error}"
    return f"done: {_title(names, video)}, {sum(video.seconds.values()):.1f} s, {video.files['clip']}"
