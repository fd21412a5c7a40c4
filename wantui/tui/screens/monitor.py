"""Monitor screen: running videos; preview, trajectory curves and log of the selected one."""

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
"""Seconds between redraws; with --low-bandwidth."""
CURVE_BOUNDS: dict[str, tuple[float, float]] = {"turning": (0.0, math.pi), "straightness": (0.0, 1.0)}
"""Vertical ranges of the curves with a fixed range; all others start at 0 to 1 and only widen."""
LOG_BYTES = 20_000
"""Bytes read from the end of a log."""


@dataclass(frozen=True)
class LogTail:
    """Last lines of a log."""

    version: tuple[Path, int, int]
    """Path, size in bytes and modification time in nanoseconds of the file."""
    lines: list[str]


@dataclass
class MonitorFilesRead(Message):
    """A preview or a changed log was read."""

    video: int
    step: int
    picture: "NDArray[np.uint8] | None"
    """Preview picture; None if missing or deleted."""
    tail: LogTail | None


def read_log_tail(path: Path, known_version: tuple[Path, int, int] | None) -> LogTail | None:
    """Read the last lines of a log; return None if it is unchanged, missing or not a regular file."""
    try:
        if not path.is_file():  # opening a pipe would never return
            return None
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
            if (path, stat.st_size, stat.st_mtime_ns) == known_version:
                return None
            file.seek(max(0, stat.st_size - LOG_BYTES))
            text = file.read(LOG_BYTES).decode(errors="replace")
    except OSError:
        return None
    return LogTail((path, stat.st_size, stat.st_mtime_ns), text.splitlines())


def explain_idle(snapshot: QueueSnapshot, is_starting_engine: bool) -> str:
    """Return why no video is running, and what will happen next or which key to press."""
    waiting = sum(batch.unfinished for batch in snapshot.batches if not batch.paused)
    suffix = f"; {format_count(waiting, 'video')} waiting" if waiting else ""
    if snapshot.held is not None:
        return f"no video is running: the queue is on hold ({snapshot.held.reason})\n\nPress F7 to resume the queue"
    if snapshot.engine is None:
        if is_starting_engine:
            return "no video is running yet: the engine is starting"
        return f"no video is running: there is no engine{suffix}\n\nF6 starts the engine, 1 composes a batch"
    starting = [worker for worker in snapshot.workers if worker.state == "starting"]
    if starting:
        return "no video is running yet" + "".join(f"\n\n{_describe_starting_worker(worker)}" for worker in starting)
    if waiting:
        return f"no video is running{suffix}\n\na worker will start the next video"
    if any(batch.unfinished for batch in snapshot.batches):
        return "no video is running: every unfinished batch is paused\n\nPress 2, then p to resume a batch"
    return "no video is running: the queue is empty\n\n1 composes a batch"


def _describe_starting_worker(worker: WorkerRow) -> str:
    elapsed = "" if worker.seconds is None else f" ({format_duration(worker.seconds)} so far)"
    return f"{worker.name.partition(':')[0]} is starting: loading PyTorch takes seconds to minutes{elapsed}"


class MonitorScreen(BaseScreen):
    """One row per running video; below, details of the video under the cursor."""

    NAME = "monitor"
    BINDINGS = [*bindings("monitor")]

    def __init__(self) -> None:
        super().__init__()
        self.running_videos: list[VideoRow] = []
        self._curve_ranges: dict[tuple[int, str], tuple[float, float]] = {}
        """Vertical range of each curve, by video and curve."""
        self.auto_preview: bool | None = None
        self.shown_preview: tuple[int, int] | None = None
        """Video and step of the preview on the screen."""
        self._preview_shown_at = 0.0
        self._drawn_at = 0.0
        self._log_version: tuple[Path, int, int] | None = None
        """Version of the log on the screen, as in `LogTail`."""
        self._log_lines: list[str] = []
        self._is_reading_files = False

    def compose_body(self) -> ComposeResult:
        with Vertical():
            running = VirtualList(id="running", classes="pane")
            running.border_title = "Running"
            yield running
            with Horizontal(id="middle"):
                with Vertical(id="preview", classes="pane") as preview:
                    preview.border_title = "Predicted video"
                    yield DiffText()
                with Vertical(id="curves", classes="pane") as curves:
                    curves.border_title = "Trajectory so far"
                    yield DiffText()
            with Vertical(id="log", classes="pane") as log:
                log.border_title = "Log"
                yield DiffText()

    @property
    def rows(self) -> VirtualList:
        return self.query_one("#running", VirtualList)

    def on_mount(self) -> None:
        self.set_focus(self.rows)
        self.auto_preview = self.wantui_app.settings.preview_seconds > 0 and not self.wantui_app.low_bandwidth
        self.set_interval(SLOW_REDRAW_SECONDS if self.wantui_app.low_bandwidth else REDRAW_SECONDS, self._tick)

    def focus_default(self) -> None:
        self.set_focus(self.rows)

    def _tick(self) -> None:
        if self.is_current:
            self._show_idle_reason(self.wantui_app.snapshot)
            if self.running_videos:
                self._draw_all()

    def _show_idle_reason(self, snapshot: QueueSnapshot) -> None:
        """Show why no video is running, if so."""
        is_interrupted = bool(self.running_videos) and snapshot.engine is None
        title = "Running" if not is_interrupted else "Interrupted: the engine stopped; F6 starts it again"
        if title != str(self.rows.border_title):  # setting the title redraws all rows
            self.rows.border_title = plain(title)
        text = "" if self.running_videos else explain_idle(snapshot, self.wantui_app.is_starting_engine)
        if text != self.rows.empty:
            self.rows.empty = text
            self.rows.refresh()

    def on_shown(self) -> None:
        self.call_after_refresh(self._draw_all)

    def show_snapshot(self, snapshot: QueueSnapshot) -> None:
        """Update the list of running videos at once; `_tick` draws their progress."""
        self._show_idle_reason(snapshot)
        if [video.id for video in snapshot.running] != [video.id for video in self.running_videos]:
            self.running_videos = list(snapshot.running)
            self.rows.fill(len(self.running_videos), self._draw_running_video)
            self.call_after_refresh(self._draw_all)
        else:
            self.running_videos = list(snapshot.running)

    def current_progress(self) -> VideoProgress | None:
        """Return the progress of the video under the cursor, or None."""
        if (index := self.rows.cursor) >= len(self.running_videos):
            return None
        return self.wantui_app.snapshot.progress.get(self.running_videos[index].id)

    def _draw_all(self) -> None:
        for index in range(len(self.running_videos)):
            self.rows.update_row(index)
        progress = self.current_progress()
        self._draw_curves(progress)
        wait = self.wantui_app.settings.preview_seconds
        is_due = progress is not None and (
            time.monotonic() - self._preview_shown_at >= wait or (self.shown_preview or (None,))[0] != progress.video
        )
        if progress is None and not self.running_videos:
            self.query_one("#preview DiffText", DiffText).show([Text("")])
            self.query_one("#preview").border_title = "Predicted video"
            self.shown_preview = None
        self._draw_log()
        self._request_files(progress, with_preview=bool(self.auto_preview) and is_due)

    def _draw_running_video(self, index: int, width: int) -> Text:
        video, rows = self.running_videos[index], self.rows
        progress = self.wantui_app.snapshot.progress.get(video.id, VideoProgress(video.batch, video.id, video.title))
        state = state_style(video_state(video, self.wantui_app.snapshot.engine is not None))
        worker = (video.worker or "").partition(":")[0]
        line = Text.assemble((f"{state.glyph} {worker:<9} ", rows.colour(state.colour)))
        line.append(f"{video.title}  ", Style(bold=True))
        if progress.loading:
            return line.append("loading the model")
        line.append(f"{bar(progress.step / max(1, video.steps), 16 if width >= 100 else 8)} ", rows.colour("success"))
        line.append(f"{progress.step}/{video.steps}")
        if progress.step == video.steps:
            if progress.frames and progress.decoded == progress.frames:
                return line.append("  finishing files")
            return line.append(
                f"  decoding frame {progress.decoded}/{progress.frames}" if progress.frames else "  decoding"
            )
        if progress.sigma is not None:
            line.append(f"  σ {progress.sigma:.3f}")
        if progress.pace is not None:
            line.append(f"  {progress.pace:.2f} s/step")
        if (eta := self._estimate_eta(video, progress)) is not None:
            line.append(f"  {format_eta(eta)}")
        if progress.memory:
            line.append(f"  {format_bytes(progress.memory['allocated'])}")
        return line

    def _estimate_eta(self, video: VideoRow, progress: VideoProgress) -> float | None:
        snapshot = self.wantui_app.snapshot
        batch = next((row for row in snapshot.batches if row.id == video.batch), None)
        if batch is None or snapshot.engine is None:  # without an engine, the video is interrupted
            return None
        now = replace(video, step=max(video.step, progress.step))
        return snapshot.etas.video(now, 0, batch, progress.pace)

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
            low, high = self._curve_range(progress.video, name, values)
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

    def _curve_range(self, video: int, name: str, values: list[float | None]) -> tuple[float, float]:
        """Return the fixed range of a curve, or one that doubles when exceeded and never shrinks, so nothing jumps."""
        if name in CURVE_BOUNDS:
            return CURVE_BOUNDS[name]
        known = [value for value in values if value is not None]
        _, high = self._curve_ranges.get((video, name), (0.0, 1.0))
        while known and max(known) > high:
            high *= 2
        self._curve_ranges = {key: limits for key, limits in self._curve_ranges.items() if key[0] == video}
        self._curve_ranges[video, name] = 0.0, high
        return 0.0, high

    # Files are read on a background thread: a network file system may be slow.

    def _request_files(self, progress: VideoProgress | None, with_preview: bool) -> None:
        """Start reading the log, and the newest preview if asked to, unless a read is in progress."""
        if self._is_reading_files:
            return
        batch = next((row for row in self.wantui_app.snapshot.batches if progress and row.id == progress.batch), None)
        engine = self.wantui_app.snapshot.engine
        log = BatchFolder(batch.folder).log if batch is not None else engine.logs / "engine.log" if engine else None
        preview = None
        is_new = progress is not None and (progress.video, progress.preview_step) != self.shown_preview
        if with_preview and is_new and progress is not None and progress.preview is not None:
            preview = (progress.video, progress.preview_step, progress.preview)
        if log is not None or preview is not None:
            self._is_reading_files = True
            self.read_files(log, self._log_version, preview)

    @work(thread=True, group="files", exit_on_error=False)
    def read_files(
        self, log: Path | None, known_version: tuple[Path, int, int] | None, preview: tuple[int, int, str] | None
    ) -> None:
        """Read the end of a log if it changed, and a preview, on a background thread.

        Args:
            known_version: version of the log on the screen.
            preview: video, step and path of the preview.
        """
        picture, tail = None, None
        video, step = (0, 0) if preview is None else preview[:2]
        try:
            picture = None if preview is None else read_picture(Path(preview[2]))
            tail = None if log is None else read_log_tail(log, known_version)
        finally:  # the handler resets `_is_reading_files`; without it no file would ever be read again
            self.post_message(MonitorFilesRead(video, step, picture, tail))

    @on(MonitorFilesRead)
    def _show_files(self, message: MonitorFilesRead) -> None:
        self._is_reading_files = False
        if message.tail is not None:
            self._log_version = message.tail.version
            self._log_lines = message.tail.lines
            self._draw_log()
        progress = self.current_progress()
        if message.picture is not None and progress is not None and progress.video == message.video:
            cells = self.query_one("#preview DiffText", DiffText)
            room = cells.parent.size if cells.parent else cells.size  # type: ignore[attr-defined]
            cells.show(half_blocks(message.picture, room.width, max(1, room.height)))
            self.shown_preview, self._preview_shown_at = (message.video, message.step), time.monotonic()
            self.query_one("#preview").border_title = plain(f"Predicted video, after step {message.step}")

    def _draw_log(self) -> None:
        """Show the last lines that fit."""
        if self._log_version is not None:
            cells = self.query_one("#log DiffText", DiffText)
            room = cells.parent.size.height if cells.parent else 1  # type: ignore[attr-defined]
            cells.show([Text(line) for line in self._log_lines[-max(1, room) :]])
            self.query_one("#log").border_title = plain(f"Log: {self._log_version[0].name}")

    @on(VirtualList.Highlighted, "#running")
    def _show_highlighted_video(self) -> None:
        self.shown_preview, self._log_version, self._log_lines = None, None, []
        self._draw_all()

    def action_preview(self) -> None:
        progress = self.current_progress()
        if progress is None:
            self.notify("no video is running")
        elif progress.preview is None:
            self.notify("no preview yet: the first step writes the first one")
        else:
            self._request_files(progress, with_preview=True)

    def action_auto_preview(self) -> None:
        self.auto_preview = not self.auto_preview
        self.notify("automatic previews on" if self.auto_preview else "automatic previews off (v shows one)")

    def action_cancel(self) -> None:
        index = self.rows.cursor
        if index >= len(self.running_videos):
            self.notify("no video is running")
            return
        video = self.running_videos[index]

        def cancel(confirmed: bool | None) -> None:
            if confirmed:
                cancel_videos(self.wantui_app, video.batch, video.number)

        self.app.push_screen(Confirm(f"Cancel {video.title}? Its progress will be lost.", "Cancel video"), cancel)

    def action_toggle_log(self) -> None:
        self.toggle_class("-large-log")
        self.call_after_refresh(self._draw_all)


def _stretch(values: list[float | None], steps: int, width: int) -> list[float | None]:
    """Resample the values so far to their share of a curve in which `steps` steps take `width` points."""
    points = max(1, round(width * len(values) / max(steps, len(values), 1)))
    if not values:
        return []
    return [values[min(len(values) - 1, i * len(values) // points)] for i in range(points)]
