"""Monitor screen: running videos; preview, trajectory curves and log of the selected one."""

import math
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from rich.style import Style
from rich.text import Text
from textual import getters, on, work
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical

from wantui.batches.eta import format_seconds_left
from wantui.batches.progress import LIVE_METRIC_NAMES, VideoProgress
from wantui.formatting import format_bytes
from wantui.queue.records import VideoRow
from wantui.queue.states import find_displayed_video_state
from wantui.storage.layout import BatchFolder
from wantui.tui.actions import make_bindings
from wantui.tui.cancelling import cancel_videos
from wantui.tui.columns import Column, draw_column_headers, draw_list_row
from wantui.tui.content import make_content
from wantui.tui.monitor_data import MonitorFilesRead, explain_idle_queue, read_log_tail
from wantui.tui.pictures import read_picture
from wantui.tui.plots import draw_bar, draw_curve, draw_picture
from wantui.tui.queue_watcher import QueueSnapshot
from wantui.tui.screens.base import BaseScreen
from wantui.tui.screens.dialogs import Confirm
from wantui.tui.state_style import get_state_style
from wantui.tui.widgets.diff_text import DiffText
from wantui.tui.widgets.virtual_list import VirtualList

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
    def done_share(self) -> float:
        """Return the share of steps done, or of frames decoded, in 0 to 1."""
        if self.is_decoding:
            return self.progress.decoded_frame_count / self.progress.frame_count
        return self.progress.step_number / max(1, self.video.steps)

    @property
    def progress_text(self) -> str:
        """Return steps done and total, or frames ("fr") once the decoder reports; empty while the model loads."""
        if self.progress.is_loading:
            return ""
        if self.is_decoding:
            return f"{self.progress.decoded_frame_count}/{self.progress.frame_count} fr"
        return f"{self.progress.step_number}/{self.video.steps}"

    @property
    def memory_text(self) -> str:
        """Return the GPU memory of the worker's tensors; empty without a GPU."""
        return (
            format_bytes(self.progress.memory_bytes_by_name["allocated"]) if self.progress.memory_bytes_by_name else ""
        )


class MonitorScreen(BaseScreen):
    """One row per running video; below, details of the video under the cursor."""

    SCREEN_NAME = "monitor"
    BINDINGS = [*make_bindings("monitor")]

    running_list = getters.query_one("#running", VirtualList)
    preview_pane = getters.query_one("#preview", Vertical)
    preview_text = getters.query_one("#preview DiffText", DiffText)
    curve_text = getters.query_one("#curves DiffText", DiffText)
    log_pane = getters.query_one("#log", Vertical)
    log_text = getters.query_one("#log DiffText", DiffText)

    def __init__(self) -> None:
        super().__init__()
        self.running_videos: list[VideoRow] = []
        self._ranges_by_curve: dict[tuple[int, str], tuple[float, float]] = {}
        """Vertical range of each curve, by video and curve."""
        self.is_auto_preview: bool | None = None
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
            running = VirtualList(id="running", classes="pane", header_renderer=self._draw_header)
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
        self.set_focus(self.running_list)
        self.is_auto_preview = self.wantui_app.settings.preview_seconds > 0 and not self.wantui_app.is_low_bandwidth
        self.set_interval(
            SLOW_REDRAW_SECONDS if self.wantui_app.is_low_bandwidth else REDRAW_SECONDS, self._redraw_running_videos
        )

    def focus_main_widget(self) -> None:
        self.set_focus(self.running_list)

    def _redraw_running_videos(self) -> None:
        if self.is_current:
            self._show_idle_reason(self.wantui_app.snapshot)
            if self.running_videos:
                self._draw_details()

    def _show_idle_reason(self, snapshot: QueueSnapshot) -> None:
        """Show why no video is running, if so."""
        is_interrupted = bool(self.running_videos) and snapshot.engine is None
        title = "Running" if not is_interrupted else "Interrupted: the engine stopped; F6 starts it again"
        if title != str(self.running_list.border_title):  # setting the title redraws all rows
            self.running_list.border_title = make_content(title)
        text = "" if self.running_videos else explain_idle_queue(snapshot, self.wantui_app.is_starting_engine)
        if text != self.running_list.empty_text:
            self.running_list.empty_text = text
            self.running_list.refresh()

    def on_shown(self) -> None:
        self.call_after_refresh(self._draw_details)

    def show_snapshot(self, snapshot: QueueSnapshot) -> None:
        """Update the list of running videos at once; `_redraw_running_videos` draws their progress."""
        self._show_idle_reason(snapshot)
        if [video.id for video in snapshot.running_videos] != [video.id for video in self.running_videos]:
            self.running_videos = list(snapshot.running_videos)
            self.running_list.fill_rows(len(self.running_videos), self._draw_running_video)
            self.call_after_refresh(self._draw_details)
        else:
            self.running_videos = list(snapshot.running_videos)

    def get_current_progress(self) -> VideoProgress | None:
        """Return the progress of the video under the cursor, or None."""
        if (index := self.running_list.cursor) >= len(self.running_videos):
            return None
        return self.wantui_app.snapshot.progress_by_video.get(self.running_videos[index].id)

    def _draw_details(self) -> None:
        for index in range(len(self.running_videos)):
            self.running_list.update_row(index)
        progress = self.get_current_progress()
        self._draw_curves(progress)
        preview_seconds = self.wantui_app.settings.preview_seconds
        is_preview_due = progress is not None and (
            time.monotonic() - self._preview_shown_at >= preview_seconds
            or (self.shown_preview or (None,))[0] != progress.video_id
        )
        if progress is None and not self.running_videos:
            self.preview_text.show_lines([Text("")])
            self.preview_pane.border_title = "Predicted video"
            self.shown_preview = None
        self._draw_log()
        self._request_monitor_files(progress, with_preview=bool(self.is_auto_preview) and is_preview_due)

    @cached_property
    def _running_columns(self) -> list[Column[RunningVideo]]:
        running_list = self.running_list

        def draw_state(running: RunningVideo) -> Text:
            name = find_displayed_video_state(running.video, self.wantui_app.snapshot.engine is not None)
            style = get_state_style(name)
            text = running.progress.describe_phase(running.video.steps) if name == "running" else style.state_word
            return Text(f"{style.glyph} {text}", running_list.make_colour_style(style.colour_name))

        def format_eta(running: RunningVideo) -> str:
            seconds = self._estimate_video_eta(running.video, running.progress)
            return "" if seconds is None else format_seconds_left(seconds)

        return [
            Column("worker", 9, lambda running: (running.video.worker or "").partition(":")[0]),
            Column("state", 13, draw_state),
            Column(
                "progress",
                8,
                lambda running: Text(draw_bar(running.done_share, 8), running_list.make_colour_style("success")),
            ),
            Column("step", 8, lambda running: running.progress_text, "right"),
            Column("σ", 5, lambda running: _format_decimals(running.progress.sigma, 3), "right", min_list_width=90),
            Column("s/step", 6, lambda running: _format_decimals(running.progress.pace_seconds, 2), "right"),
            Column("ETA", 7, format_eta, "right"),
            Column("memory", 8, lambda running: running.memory_text, "right", min_list_width=110),
            Column("video", None, lambda running: Text(running.video.title, Style(bold=True))),
        ]

    def _draw_header(self, width: int) -> Text:
        return draw_column_headers(self._running_columns, width)

    def _draw_running_video(self, index: int, width: int) -> Text:
        video = self.running_videos[index]
        progress = self.wantui_app.snapshot.progress_by_video.get(
            video.id, VideoProgress(video.batch, video.id, video.title)
        )
        return draw_list_row(self._running_columns, RunningVideo(video, progress), width)

    def _estimate_video_eta(self, video: VideoRow, progress: VideoProgress) -> float | None:
        snapshot = self.wantui_app.snapshot
        batch = next((row for row in snapshot.batches if row.id == video.batch), None)
        if batch is None or snapshot.engine is None:  # without an engine, the video is interrupted
            return None
        current_video = replace(video, step=max(video.step, progress.step_number))
        return snapshot.etas.estimate_video_eta(current_video, 0, batch, progress.pace_seconds)

    def _draw_curves(self, progress: VideoProgress | None) -> None:
        curve_text = self.curve_text
        width, height = curve_text.size.width, curve_text.parent.size.height if curve_text.parent else 0  # type: ignore[attr-defined]
        if progress is None or not width:
            curve_text.show_lines([Text("")])
            return
        curve_names = LIVE_METRIC_NAMES if height >= 4 else LIVE_METRIC_NAMES[:1]
        curve_height = max(1, (height - len(curve_names)) // len(curve_names))
        lines: list[Text] = []
        for name in curve_names:
            values = progress.curve_by_metric[name]
            lowest, highest = self._update_curve_range(progress.video_id, name, values)
            last_value = next((value for value in reversed(values) if value is not None), None)
            lines.append(
                Text.assemble(
                    (f"{name:<13}", Style(bold=True)),
                    "" if last_value is None else f"{last_value:.4g}",
                    (f" [{lowest:.3g}, {'π' if highest == math.pi else f'{highest:.3g}'}]", Style(dim=True)),
                )
            )
            if height >= 8:
                steps = max(progress.step_count, 1)
                stretched = _resample_curve(values, steps, 2 * width)
                lines += [
                    Text(row, curve_text.make_colour_style("accent"))
                    for row in draw_curve(stretched, width, curve_height, lowest, highest)
                ]
        curve_text.show_lines(lines[:height])

    def _update_curve_range(self, video_id: int, name: str, values: list[float | None]) -> tuple[float, float]:
        """Return the fixed range of a curve, or one that doubles when exceeded and never shrinks, so nothing jumps."""
        if name in CURVE_BOUNDS:
            return CURVE_BOUNDS[name]
        known_values = [value for value in values if value is not None]
        _, high = self._ranges_by_curve.get((video_id, name), (0.0, 1.0))
        while known_values and max(known_values) > high:
            high *= 2
        self._ranges_by_curve = {key: limits for key, limits in self._ranges_by_curve.items() if key[0] == video_id}
        self._ranges_by_curve[video_id, name] = 0.0, high
        return 0.0, high

    # Files are read on a background thread: a network file system may be slow.

    def _request_monitor_files(self, progress: VideoProgress | None, with_preview: bool) -> None:
        """Start reading the log, and the newest preview if asked to, unless a read is in progress."""
        if self._is_reading_files:
            return
        batch = next(
            (row for row in self.wantui_app.snapshot.batches if progress and row.id == progress.batch_id), None
        )
        engine = self.wantui_app.snapshot.engine
        log_path = (
            BatchFolder(batch.folder).log_path
            if batch is not None
            else engine.logs_folder / "engine.log"
            if engine
            else None
        )
        preview = None
        is_new = progress is not None and (progress.video_id, progress.preview_step) != self.shown_preview
        if with_preview and is_new and progress is not None and progress.preview_path is not None:
            preview = (progress.video_id, progress.preview_step, progress.preview_path)
        if log_path is not None or preview is not None:
            self._is_reading_files = True
            self.read_monitor_files(log_path, self._log_version, preview)

    @work(thread=True, group="files", exit_on_error=False)
    def read_monitor_files(
        self, log_path: Path | None, known_version: tuple[Path, int, int] | None, preview: tuple[int, int, str] | None
    ) -> None:
        """Read the end of a log if it changed, and a preview, on a background thread.

        Args:
            known_version: version of the log on the screen.
            preview: video, step and path of the preview.
        """
        preview_picture, log_tail = None, None
        video_id, preview_step = (0, 0) if preview is None else preview[:2]
        try:
            preview_picture = None if preview is None else read_picture(Path(preview[2]))
            log_tail = None if log_path is None else read_log_tail(log_path, known_version)
        finally:  # the handler resets `_is_reading_files`; without it no file would ever be read again
            self.post_message(MonitorFilesRead(video_id, preview_step, preview_picture, log_tail))

    @on(MonitorFilesRead)
    def _show_monitor_files(self, message: MonitorFilesRead) -> None:
        self._is_reading_files = False
        if message.log_tail is not None:
            self._log_version = message.log_tail.file_version
            self._log_lines = message.log_tail.lines
            self._draw_log()
        progress = self.get_current_progress()
        if message.preview_picture is not None and progress is not None and progress.video_id == message.video_id:
            preview_text = self.preview_text
            pane_size = preview_text.parent.size if preview_text.parent else preview_text.size  # type: ignore[attr-defined]
            preview_text.show_lines(draw_picture(message.preview_picture, pane_size.width, max(1, pane_size.height)))
            self.shown_preview, self._preview_shown_at = (message.video_id, message.preview_step), time.monotonic()
            self.preview_pane.border_title = make_content(f"Predicted video, after step {message.preview_step}")

    def _draw_log(self) -> None:
        """Show the last lines that fit."""
        if self._log_version is not None:
            log_text = self.log_text
            pane_height = log_text.parent.size.height if log_text.parent else 1  # type: ignore[attr-defined]
            log_text.show_lines([Text(line) for line in self._log_lines[-max(1, pane_height) :]])
            self.log_pane.border_title = make_content(f"Log: {self._log_version[0].name}")

    @on(VirtualList.Highlighted, "#running")
    def _show_highlighted_video(self) -> None:
        self.shown_preview, self._log_version, self._log_lines = None, None, []
        self._draw_details()

    def action_preview(self) -> None:
        progress = self.get_current_progress()
        if progress is None:
            self.notify("no video is running")
        elif progress.preview_path is None:
            self.notify("no preview yet: the first step writes the first preview")
        else:
            self._request_monitor_files(progress, with_preview=True)

    def action_auto_preview(self) -> None:
        self.is_auto_preview = not self.is_auto_preview
        self.notify(
            "automatic previews are on" if self.is_auto_preview else "automatic previews are off; v shows a preview"
        )

    def action_cancel(self) -> None:
        index = self.running_list.cursor
        if index >= len(self.running_videos):
            self.notify("no video is running")
            return
        video = self.running_videos[index]

        def cancel_if_confirmed(is_confirmed: bool | None) -> None:
            if is_confirmed:
                cancel_videos(self.wantui_app, [video.batch], video.number)

        self.app.push_screen(
            Confirm(f"Cancel {video.title}? Its progress will be lost.", "Cancel video"), cancel_if_confirmed
        )

    def action_toggle_log(self) -> None:
        self.toggle_class("-large-log")
        self.call_after_refresh(self._draw_details)


def _resample_curve(values: list[float | None], step_count: int, full_width: int) -> list[float | None]:
    """Resample the values so far to their share of a curve in which `step_count` steps take `full_width` points."""
    point_count = max(1, round(full_width * len(values) / max(step_count, len(values), 1)))
    if not values:
        return []
    return [values[min(len(values) - 1, i * len(values) // point_count)] for i in range(point_count)]


def _format_decimals(value: float | None, decimals: int) -> str:
    """Return a number with fixed decimals; empty for None."""
    return "" if value is None else f"{value:.{decimals}f}"
