"""Monitor screen: running videos; preview, trajectory curves and log of the selected one."""

import math
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text
from textual import getters, on, work
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical

from wantui.batches.eta import format_seconds_left
from wantui.batches.progress import LIVE_METRIC_NAMES, VideoProgress
from wantui.formatting import format_bytes
from wantui.queue.records import VideoRow
from wantui.queue.states import video_state
from wantui.storage.layout import BatchFolder
from wantui.tui.actions import bindings
from wantui.tui.cancelling import cancel_videos
from wantui.tui.columns import Column, draw_header, draw_row
from wantui.tui.content import to_content
from wantui.tui.monitor_data import MonitorFilesRead, explain_idle, read_log_tail
from wantui.tui.pictures import read_picture
from wantui.tui.plots import bar, braille, half_blocks
from wantui.tui.queue_watcher import QueueSnapshot
from wantui.tui.screens.base import BaseScreen
from wantui.tui.screens.dialogs import Confirm
from wantui.tui.state_style import state_style
from wantui.tui.widgets.diff_text import DiffText
from wantui.tui.widgets.virtual_list import VirtualList

if TYPE_CHECKING:
    pass

REDRAW_SECONDS, SLOW_REDRAW_SECONDS = 1.0, 5.0
"""Seconds between redraws; with --low-bandwidth."""
CURVE_BOUNDS: dict[str, tuple[float, float]] = {"turning": (0.0, math.pi), "straightness": (0.0, 1.0)}
"""Vertical ranges of the curves with a fixed range; all others start at 0 to 1 and only widen."""


@dataclass(frozen=True)
class RunningVideo:
    """Row of the list of running videos."""

    video: VideoRow
    progress: VideoProgress

    @property
    def is_decoding(self) -> bool:
        """Return whether the decoder has reported its progress."""
        return self.progress.step_number == self.video.steps and bool(self.progress.frame_count)

    @property
    def share(self) -> float:
        """Return the share of steps done, or of frames decoded, in 0 to 1."""
        if self.is_decoding:
            return self.progress.decoded_frame_count / self.progress.frame_count
        return self.progress.step_number / max(1, self.video.steps)

    @property
    def count_done(self) -> str:
        """Return steps done and total, or frames ("fr") once the decoder reports; empty while the model loads."""
        if self.progress.is_loading:
            return ""
        if self.is_decoding:
            return f"{self.progress.decoded_frame_count}/{self.progress.frame_count} fr"
        return f"{self.progress.step_number}/{self.video.steps}"

    @property
    def memory(self) -> str:
        """Return the GPU memory of the worker's tensors; empty without a GPU."""
        return (
            format_bytes(self.progress.memory_bytes_by_name["allocated"]) if self.progress.memory_bytes_by_name else ""
        )


class MonitorScreen(BaseScreen):
    """One row per running video; below, details of the video under the cursor."""

    NAME = "monitor"
    BINDINGS = [*bindings("monitor")]

    rows = getters.query_one("#running", VirtualList)
    preview = getters.query_one("#preview", Vertical)
    preview_cells = getters.query_one("#preview DiffText", DiffText)
    curve_cells = getters.query_one("#curves DiffText", DiffText)
    log_pane = getters.query_one("#log", Vertical)
    log_cells = getters.query_one("#log DiffText", DiffText)

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
            running = VirtualList(id="running", classes="pane", header=self._draw_header)
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
            self.rows.border_title = to_content(title)
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
            time.monotonic() - self._preview_shown_at >= wait or (self.shown_preview or (None,))[0] != progress.video_id
        )
        if progress is None and not self.running_videos:
            self.preview_cells.show([Text("")])
            self.preview.border_title = "Predicted video"
            self.shown_preview = None
        self._draw_log()
        self._request_files(progress, with_preview=bool(self.auto_preview) and is_due)

    @cached_property
    def _columns(self) -> list[Column[RunningVideo]]:
        rows = self.rows

        def state(running: RunningVideo) -> Text:
            name = video_state(running.video, self.wantui_app.snapshot.engine is not None)
            style = state_style(name)
            text = running.progress.describe_phase(running.video.steps) if name == "running" else style.word
            return Text(f"{style.glyph} {text}", rows.colour(style.colour))

        def eta(running: RunningVideo) -> str:
            seconds = self._estimate_eta(running.video, running.progress)
            return "" if seconds is None else format_seconds_left(seconds)

        return [
            Column("worker", 9, lambda running: (running.video.worker or "").partition(":")[0]),
            Column("state", 13, state),
            Column("progress", 8, lambda running: Text(bar(running.share, 8), rows.colour("success"))),
            Column("step", 8, lambda running: running.count_done, "right"),
            Column("σ", 5, lambda running: _format_number(running.progress.sigma, 3), "right", min_list_width=90),
            Column("s/step", 6, lambda running: _format_number(running.progress.pace_seconds, 2), "right"),
            Column("ETA", 7, eta, "right"),
            Column("memory", 8, lambda running: running.memory, "right", min_list_width=110),
            Column("video", None, lambda running: Text(running.video.title, Style(bold=True))),
        ]

    def _draw_header(self, width: int) -> Text:
        return draw_header(self._columns, width)

    def _draw_running_video(self, index: int, width: int) -> Text:
        video = self.running_videos[index]
        progress = self.wantui_app.snapshot.progress.get(video.id, VideoProgress(video.batch, video.id, video.title))
        return draw_row(self._columns, RunningVideo(video, progress), width)

    def _estimate_eta(self, video: VideoRow, progress: VideoProgress) -> float | None:
        snapshot = self.wantui_app.snapshot
        batch = next((row for row in snapshot.batches if row.id == video.batch), None)
        if batch is None or snapshot.engine is None:  # without an engine, the video is interrupted
            return None
        now = replace(video, step=max(video.step, progress.step_number))
        return snapshot.etas.estimate_video_eta(now, 0, batch, progress.pace_seconds)

    def _draw_curves(self, progress: VideoProgress | None) -> None:
        cells = self.curve_cells
        width, height = cells.size.width, cells.parent.size.height if cells.parent else 0  # type: ignore[attr-defined]
        if progress is None or not width:
            cells.show([Text("")])
            return
        names = LIVE_METRIC_NAMES if height >= 4 else LIVE_METRIC_NAMES[:1]
        each = max(1, (height - len(names)) // len(names))
        lines: list[Text] = []
        for name in names:
            values = progress.curve_by_metric[name]
            low, high = self._curve_range(progress.video_id, name, values)
            last = next((value for value in reversed(values) if value is not None), None)
            lines.append(
                Text.assemble(
                    (f"{name:<13}", Style(bold=True)),
                    "" if last is None else f"{last:.4g}",
                    (f" [{low:.3g}, {'π' if high == math.pi else f'{high:.3g}'}]", Style(dim=True)),
                )
            )
            if height >= 8:
                steps = max(progress.step_count, 1)
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
        batch = next(
            (row for row in self.wantui_app.snapshot.batches if progress and row.id == progress.batch_id), None
        )
        engine = self.wantui_app.snapshot.engine
        log = BatchFolder(batch.folder).log if batch is not None else engine.logs / "engine.log" if engine else None
        preview = None
        is_new = progress is not None and (progress.video_id, progress.preview_step) != self.shown_preview
        if with_preview and is_new and progress is not None and progress.preview_path is not None:
            preview = (progress.video_id, progress.preview_step, progress.preview_path)
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
        if message.picture is not None and progress is not None and progress.video_id == message.video:
            cells = self.preview_cells
            room = cells.parent.size if cells.parent else cells.size  # type: ignore[attr-defined]
            cells.show(half_blocks(message.picture, room.width, max(1, room.height)))
            self.shown_preview, self._preview_shown_at = (message.video, message.step), time.monotonic()
            self.preview.border_title = to_content(f"Predicted video, after step {message.step}")

    def _draw_log(self) -> None:
        """Show the last lines that fit."""
        if self._log_version is not None:
            cells = self.log_cells
            room = cells.parent.size.height if cells.parent else 1  # type: ignore[attr-defined]
            cells.show([Text(line) for line in self._log_lines[-max(1, room) :]])
            self.log_pane.border_title = to_content(f"Log: {self._log_version[0].name}")

    @on(VirtualList.Highlighted, "#running")
    def _show_highlighted_video(self) -> None:
        self.shown_preview, self._log_version, self._log_lines = None, None, []
        self._draw_all()

    def action_preview(self) -> None:
        progress = self.current_progress()
        if progress is None:
            self.notify("no video is running")
        elif progress.preview_path is None:
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


def _format_number(value: float | None, decimals: int) -> str:
    """Return a number with fixed decimals; empty for None."""
    return "" if value is None else f"{value:.{decimals}f}"
