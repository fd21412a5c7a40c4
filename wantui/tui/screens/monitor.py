"""The monitor: what runs now, step by step, with what it will look like, how its path bends, and the worker's log."""

import math
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.message import Message

from wantui.batches.eta import format_eta
from wantui.batches.progress import CURVES, VideoProgress
from wantui.formatting import format_bytes, format_count, format_duration
from wantui.queue.records import VideoRow, WorkerRow
from wantui.queue.states import video_state
from wantui.storage.layout import BatchFolder
from wantui.tui.actions import bindings
from wantui.tui.cancelling import cancel_videos
from wantui.tui.pictures import read_picture
from wantui.tui.plain import plain
from wantui.tui.plots import bar, braille, half_blocks
from wantui.tui.queue_watcher import QueueSnapshot
from wantui.tui.screens.base import BaseScreen
from wantui.tui.screens.dialogs import Confirm
from wantui.tui.state_style import state_style
from wantui.tui.widgets.diff_text import DiffText
from wantui.tui.widgets.virtual_list import VirtualList

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

REDRAW_SECONDS, SLOW_REDRAW_SECONDS = 1.0, 5.0
BOUNDS: dict[str, tuple[float, float]] = {"turning": (0.0, math.pi), "straightness": (0.0, 1.0)}
"""Curves whose range is known before; the others have bounds that only widen."""
LOG_BYTES = 20_000


@dataclass(frozen=True)
class Tail:
    """The last lines of a log."""

    known: tuple[Path, int, int]
    """Path of the file, its size in bytes and modification time in nanoseconds."""
    lines: list[str]


@dataclass
class FilesRead(Message):
    """A preview was read, or a log that changed."""

    video: int
    step: int
    picture: "NDArray[np.uint8] | None"
    """Preview picture; None if there is none, or none any more."""
    tail: Tail | None


def read_tail(path: Path, known: tuple[Path, int, int] | None) -> Tail | None:
    """Read the last lines of a log; None where it is as it was, not there, or no regular file."""
    try:
        if not path.is_file():  # opening a pipe would never return
            return None
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
            if (path, stat.st_size, stat.st_mtime_ns) == known:
                return None
            file.seek(max(0, stat.st_size - LOG_BYTES))
            text = file.read(LOG_BYTES).decode(errors="replace")
    except OSError:
        return None
    return Tail((path, stat.st_size, stat.st_mtime_ns), text.splitlines())


def why_idle(news: QueueSnapshot, is_starting_engine: bool) -> str:
    """Return the text for no running video: what is awaited, or which key continues."""
    waiting = sum(batch.unfinished for batch in news.batches if not batch.paused)
    waits = f"; {format_count(waiting, 'video')} waiting" if waiting else ""
    starting = [worker for worker in news.workers if worker.state == "starting"] if news.engine is not None else []
    if news.held is not None:
        return f"nothing runs: the queue is held: {news.held.reason}\n\nPress F7 to resume the queue"
    if news.engine is None:
        if is_starting_engine:
            return "nothing runs yet: the engine is starting"
        return f"nothing runs: there is no engine{waits}\n\nF6 starts the engine, 1 composes a batch"
    if starting:
        return "nothing runs yet" + "".join(f"\n\n{_loading(worker)}" for worker in starting)
    if waiting:
        return f"nothing runs{waits}\n\na worker will take the next video"
    if any(batch.unfinished for batch in news.batches):
        return "nothing runs: every unfinished batch is paused\n\n2, then p, continues one"
    return "nothing runs: the queue is empty\n\n1 composes a batch"


def _loading(worker: WorkerRow) -> str:
    so_far = "" if worker.seconds is None else f", {format_duration(worker.seconds)} so far"
    return f"{worker.name.partition(':')[0]} is starting: it loads PyTorch, which takes seconds to minutes{so_far}"


class MonitorScreen(BaseScreen):
    """One row for each running video; below, the one under the cursor."""

    NAME = "monitor"
    BINDINGS = [*bindings("monitor")]

    def __init__(self) -> None:
        super().__init__()
        self.running: list[VideoRow] = []
        self.bounds: dict[tuple[int, str], tuple[float, float]] = {}
        self.auto: bool | None = None
        self.previewed: tuple[int, int] | None = None
        """Video and step of the preview that is shown."""
        self._previewed_at = 0.0
        self._drawn_at = 0.0
        self._log: tuple[Path, int, int] | None = None
        """Log that is shown, with its size and its time of change when it was read."""
        self._log_lines: list[str] = []
        self._reading = False

    def body(self) -> ComposeResult:
        with Vertical():
            running = VirtualList(id="running", classes="pane")
            running.border_title = "Running"
            yield running
            with Horizontal(id="middle"):
                with Vertical(id="preview", classes="pane") as preview:
                    preview.border_title = "Predicted video"
                    yield DiffText()
                with Vertical(id="curves", classes="pane") as curves:
                    curves.border_title = "Path so far"
                    yield DiffText()
            with Vertical(id="log", classes="pane") as log:
                log.border_title = "Log"
                yield DiffText()

    @property
    def rows(self) -> VirtualList:
        return self.query_one("#running", VirtualList)

    def on_mount(self) -> None:
        self.set_focus(self.rows)
        self.auto = self.wantui.settings.preview_seconds > 0 and not self.wantui.low_bandwidth
        self.set_interval(SLOW_REDRAW_SECONDS if self.wantui.low_bandwidth else REDRAW_SECONDS, self._tick)

    def rest(self) -> None:
        self.set_focus(self.rows)

    def _tick(self) -> None:
        if self.is_current:
            self._say_idle(self.wantui.news)
            if self.running:
                self._draw_all()

    def _say_idle(self, news: QueueSnapshot) -> None:
        """Show why nothing runs, if nothing does."""
        has_ended = bool(self.running) and news.engine is None
        title = "Running" if not has_ended else "Interrupted: the engine has ended; F6 starts it again"
        if title != str(self.rows.border_title):  # to set it draws all rows
            self.rows.border_title = plain(title)
        text = "" if self.running else why_idle(news, self.wantui.is_starting_engine)
        if text != self.rows.empty:
            self.rows.empty = text
            self.rows.refresh()

    def on_shown(self) -> None:
        self.call_after_refresh(self._draw_all)

    def show_news(self, news: QueueSnapshot) -> None:
        """Show at once who runs; how far they are is drawn once a second."""
        self._say_idle(news)
        if [video.id for video in news.running] != [video.id for video in self.running]:
            self.running = list(news.running)
            self.rows.fill(len(self.running), self._draw_running)
            self.call_after_refresh(self._draw_all)
        else:
            self.running = list(news.running)

    def current(self) -> VideoProgress | None:
        """Return the progress of the video under the cursor."""
        index = self.rows.cursor
        return self.wantui.news.progress.get(self.running[index].id) if index < len(self.running) else None

    def _draw_all(self) -> None:
        for index in range(len(self.running)):
            self.rows.update_row(index)
        progress = self.current()
        self._draw_curves(progress)
        wait = self.wantui.settings.preview_seconds
        is_due = progress is not None and (
            time.monotonic() - self._previewed_at >= wait or (self.previewed or (None,))[0] != progress.video
        )
        if progress is None and not self.running:
            self.query_one("#preview DiffText", DiffText).show([Text("")])
            self.query_one("#preview").border_title = "Predicted video"
            self.previewed = None
        self._draw_log()
        self._want_files(progress, with_preview=bool(self.auto) and is_due)

    def _draw_running(self, index: int, width: int) -> Text:
        video, rows = self.running[index], self.rows
        progress = self.wantui.news.progress.get(video.id, VideoProgress(video.batch, video.id, video.title))
        state = state_style(video_state(video, self.wantui.news.engine is not None))
        worker = (video.worker or "").partition(":")[0]
        line = Text.assemble((f"{state.glyph} {worker:<9} ", rows.colour(state.colour)))
        line.append(f"{video.title}  ", Style(bold=True))
        if progress.loading:
            return line.append("loads its model")
        line.append(f"{bar(progress.step / max(1, video.steps), 16 if width >= 100 else 8)} ", rows.colour("success"))
        line.append(f"{progress.step}/{video.steps}")
        if progress.step == video.steps:
            if progress.frames and progress.decoded == progress.frames:
                return line.append("  ends its files")
            return line.append(
                f"  decodes frame {progress.decoded}/{progress.frames}" if progress.frames else "  decodes"
            )
        if progress.sigma is not None:
            line.append(f"  σ {progress.sigma:.3f}")
        if progress.pace is not None:
            line.append(f"  {progress.pace:.2f} s/step")
        if (eta := self._eta(video, progress)) is not None:
            line.append(f"  {format_eta(eta)}")
        if progress.memory:
            line.append(f"  {format_bytes(progress.memory['allocated'])}")
        return line

    def _eta(self, video: VideoRow, progress: VideoProgress) -> float | None:
        news = self.wantui.news
        batch = next((row for row in news.batches if row.id == video.batch), None)
        if batch is None or news.engine is None:  # without an engine it was running, and is no more
            return None
        now = replace(video, step=max(video.step, progress.step))
        return news.etas.video(now, 0, batch, progress.pace)

    def _draw_curves(self, progress: VideoProgress | None) -> None:
        cells = self.query_one("#curves DiffText", DiffText)
        width, height = cells.size.width, cells.parent.size.height if cells.parent else 0  # type: ignore[attr-defined]
        if progress is None or not width:
            cells.show([Text("")])
            return
        names = CURVES if height >= 4 else CURVES[:1]
        each = max(1, (height - len(names)) // len(names))
        lines: list[Text] = []
        for name in names:
            values = progress.curves[name]
            low, high = self._bounds(progress.video, name, values)
            last = next((value for value in reversed(values) if value is not None), None)
            lines.append(
                Text.assemble(
                    (f"{name:<13}", Style(bold=True)),
                    "" if last is None else f"{last:.4g}",
                    (f" [{low:.3g}, {'π' if high == math.pi else f'{high:.3g}'}]", Style(dim=True)),
                )
            )
            if height >= 8:
                steps = max(progress.steps, 1)
                stretched = _stretch(values, steps, 2 * width)
                lines += [Text(row, cells.colour("accent")) for row in braille(stretched, width, each, low, high)]
        cells.show(lines[:height])

    def _bounds(self, video: int, name: str, values: list[float | None]) -> tuple[float, float]:
        """Fixed where the range is known; otherwise they widen in steps and never shrink, so that nothing jumps."""
        if name in BOUNDS:
            return BOUNDS[name]
        known = [value for value in values if value is not None]
        _, high = self.bounds.get((video, name), (0.0, 1.0))
        while known and max(known) > high:
            high *= 2
        self.bounds = {(video, other): bound for (id_, other), bound in self.bounds.items() if id_ == video}
        self.bounds[video, name] = 0.0, high
        return 0.0, high

    # Files are read by a thread: a network file system may take its time.

    def _want_files(self, progress: VideoProgress | None, with_preview: bool) -> None:
        """Have the log read if it changed, and the newest preview, unless a read is under way."""
        if self._reading:
            return
        batch = next((row for row in self.wantui.news.batches if progress and row.id == progress.batch), None)
        engine = self.wantui.news.engine
        log = BatchFolder(batch.folder).log if batch is not None else engine.logs / "engine.log" if engine else None
        preview = None
        is_new = progress is not None and (progress.video, progress.preview_step) != self.previewed
        if with_preview and is_new and progress is not None and progress.preview is not None:
            preview = (progress.video, progress.preview_step, progress.preview)
        if log is not None or preview is not None:
            self._reading = True
            self.read_files(log, self._log, preview)

    @work(thread=True, group="files", exit_on_error=False)
    def read_files(
        self, log: Path | None, known: tuple[Path, int, int] | None, preview: tuple[int, int, str] | None
    ) -> None:
        """Read the end of a log that is not known yet, and a preview, off the thread that draws."""
        picture, tail = None, None
        video, step = (0, 0) if preview is None else preview[:2]
        try:
            picture = None if preview is None else read_picture(Path(preview[2]))
            tail = None if log is None else read_tail(log, known)
        finally:  # without it no file would be read again
            self.post_message(FilesRead(video, step, picture, tail))

    @on(FilesRead)
    def _files_read(self, message: FilesRead) -> None:
        self._reading = False
        if message.tail is not None:
            self._log = message.tail.known
            self._log_lines = message.tail.lines
            self._draw_log()
        progress = self.current()
        if message.picture is not None and progress is not None and progress.video == message.video:
            cells = self.query_one("#preview DiffText", DiffText)
            room = cells.parent.size if cells.parent else cells.size  # type: ignore[attr-defined]
            cells.show(half_blocks(message.picture, room.width, max(1, room.height)))
            self.previewed, self._previewed_at = (message.video, message.step), time.monotonic()
            self.query_one("#preview").border_title = plain(f"Predicted video, after step {message.step}")

    def _draw_log(self) -> None:
        """Show the last lines that there is room for."""
        if self._log is not None:
            cells = self.query_one("#log DiffText", DiffText)
            room = cells.parent.size.height if cells.parent else 1  # type: ignore[attr-defined]
            cells.show([Text(line) for line in self._log_lines[-max(1, room) :]])
            self.query_one("#log").border_title = plain(f"Log: {self._log[0].name}")

    @on(VirtualList.Highlighted, "#running")
    def _other(self) -> None:
        self.previewed, self._log, self._log_lines = None, None, []
        self._draw_all()

    def action_preview(self) -> None:
        progress = self.current()
        if progress is None:
            self.notify("nothing runs")
        elif progress.preview is None:
            self.notify("no preview yet: the first comes with the first step")
        else:
            self._want_files(progress, with_preview=True)

    def action_auto_preview(self) -> None:
        self.auto = not self.auto
        self.notify("previews come by themselves" if self.auto else "previews come when asked for: v")

    def action_cancel(self) -> None:
        index = self.rows.cursor
        if index >= len(self.running):
            self.notify("nothing runs")
            return
        video = self.running[index]

        def cancel(sure: bool | None) -> None:
            if sure:
                cancel_videos(self.wantui, video.batch, video.number)

        self.app.push_screen(Confirm(f"Give up {video.title}? What is done of it is lost.", "Give up"), cancel)

    def action_toggle_log(self) -> None:
        self.toggle_class("-large-log")
        self.call_after_refresh(self._draw_all)


def _stretch(values: list[float | None], steps: int, width: int) -> list[float | None]:
    """Return the values of the steps so far, spread so that all steps together take `width` points."""
    points = max(1, round(width * len(values) / max(steps, len(values), 1)))
    if not values:
        return []
    return [values[min(len(values) - 1, i * len(values) // points)] for i in range(points)]
