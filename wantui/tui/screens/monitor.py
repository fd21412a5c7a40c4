"""Monitor screen: workers and their videos; previews, trajectory curves and log of the selected one."""

from collections.abc import Iterator
from dataclasses import replace

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text
from textual import getters, on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical

from wantui.batches.eta import format_seconds_left
from wantui.batches.progress import FinishedVideo, VideoProgress
from wantui.formatting import escape_unprintable, format_count
from wantui.queue.records import VideoRow
from wantui.tui.actions import make_bindings
from wantui.tui.cancelling import cancel_videos
from wantui.tui.columns import Column, draw_column_headers, draw_list_row
from wantui.tui.content import set_titles
from wantui.tui.messages import ShowBatch
from wantui.tui.monitor.columns import RowContext, make_monitor_columns
from wantui.tui.monitor.data import ShownPictures
from wantui.tui.monitor.log_lines import draw_log_lines
from wantui.tui.monitor.states import (
    MonitorRow,
    WorkerClock,
    describe_interruption,
    describe_row,
    explain_idle_queue,
    list_monitor_rows,
)
from wantui.tui.pane_titles import find_key
from wantui.tui.plain_names import replace_names
from wantui.tui.queue_watcher import QueueSnapshot
from wantui.tui.screens.dialogs import Confirm
from wantui.tui.screens.monitor_files import MonitorFiles
from wantui.tui.widgets.curve_pane import CurvePane
from wantui.tui.widgets.diff_text import DiffText
from wantui.tui.widgets.picture_loop import PictureLoop
from wantui.tui.widgets.preview_strip import PreviewStrip
from wantui.tui.widgets.virtual_list import VirtualList

REDRAW_SECONDS, SLOW_REDRAW_SECONDS = 1.0, 5.0
"""Seconds between redraws; with --low-bandwidth."""
PREVIEW_FPS = 2.0
"""Frames per second of a preview, which has few frames."""
MAX_SMALL_LOG_LINES = 4
"""Maximum lines of the log unless it is enlarged."""


class MonitorScreen(MonitorFiles):
    """Screen with one row per worker and, below, the video under the cursor or the video that was finished last."""

    SCREEN_NAME = "monitor"
    CSS_PATH = "monitor.tcss"
    BINDINGS = [*make_bindings("monitor")]

    running_list = getters.query_one("#running", VirtualList)
    preview_pane = getters.query_one("#preview", Vertical)
    picture = getters.query_one(PictureLoop)
    caption_text = getters.query_one("#caption", DiffText)
    strip = getters.query_one(PreviewStrip)
    curve_pane = getters.query_one(CurvePane)
    log_text = getters.query_one("#log DiffText", DiffText)

    def __init__(self) -> None:
        super().__init__()
        self.worker_clock = WorkerClock()
        self._shown: ShownPictures | None = None
        """Preview or clip that is on the screen, or was until its video ended."""
        self._has_memory = False
        """True if a worker reports GPU memory, which then has a column."""
        self._has_stages = True
        """True if a row shows a stage of the start-up instead of steps."""

    def compose_body(self) -> ComposeResult:
        with Vertical():
            running = VirtualList(id="running", classes="pane", header_renderer=self._draw_header)
            running.border_title = "Running"
            yield running
            with Horizontal(id="middle"):
                with Vertical(id="preview", classes="pane") as preview:
                    preview.border_title = "Predicted video"
                    yield PictureLoop()
                    yield DiffText(id="caption")
                    yield PreviewStrip()
                with Vertical(id="right"):
                    with Vertical(id="curves", classes="pane") as curves:
                        curves.border_title = "Trajectory so far"
                        yield CurvePane()
                    with Vertical(id="log", classes="pane") as log:
                        log.border_title = "Log"
                        yield DiffText()

    def on_mount(self) -> None:
        self.set_focus(self.running_list)
        self.apply_preview_seconds()
        self.set_interval(
            SLOW_REDRAW_SECONDS if self.wantui_app.is_low_bandwidth else REDRAW_SECONDS, self._redraw_if_shown
        )

    def focus_main_widget(self) -> None:
        self.set_focus(self.running_list)

    def _redraw_if_shown(self) -> None:
        if self.is_current:
            self._show_idle_reason(self.wantui_app.snapshot)
            self._draw_details()

    def _show_idle_reason(self, snapshot: QueueSnapshot) -> None:
        """Show why no worker is running, if so."""
        is_interrupted = snapshot.engine is None and any(row.video is not None for row in self.rows)
        interruption = describe_interruption(self.wantui_app.is_engine_starting)
        set_titles(self.running_list, f"Interrupted: {interruption}" if is_interrupted else "Running")
        text = "" if self.rows else explain_idle_queue(snapshot, self.wantui_app.is_engine_starting)[0]
        if text != self.running_list.empty_text:
            self.running_list.empty_text = text
            self.running_list.refresh()

    def on_shown(self) -> None:
        self.call_after_refresh(self._draw_details)

    def on_resize(self) -> None:
        super().on_resize()
        self.call_after_refresh(self._draw_details)

    def show_snapshot(self, snapshot: QueueSnapshot) -> None:
        """Update the list at once if its videos changed; `_redraw_if_shown` draws their progress."""
        self.worker_clock.update_start_times(snapshot.workers)
        previous_rows, self.rows = self.rows, list_monitor_rows(snapshot)
        self._show_idle_reason(snapshot)
        if [row.key for row in previous_rows] != [row.key for row in self.rows]:
            self.running_list.fill_rows(len(self.rows), self._draw_row)
            self.call_after_refresh(self._draw_details)

    # Rows

    def _draw_header(self, width: int) -> Text:
        return draw_column_headers(self._make_columns(width), width)

    def _draw_row(self, index: int, width: int) -> Text:
        return draw_list_row(self._make_columns(width), self.rows[index], width)

    def _make_columns(self, width: int) -> list[Column[MonitorRow]]:
        context = RowContext(
            self.running_list.make_colour_style,
            self._format_row_eta,
            lambda row: 0.0 if row.worker is None else self.worker_clock.get_age_seconds(row.worker),
            lambda: self.wantui_app.snapshot.engine is not None,
            lambda video: self.find_colour_name(video.batch, video.number),
        )
        longest_title = max((cell_len(row.title) for row in self.rows), default=0)
        return make_monitor_columns(width, self._has_memory, self._has_stages, longest_title, context)

    def _format_row_eta(self, row: MonitorRow) -> str:
        seconds = None if row.video is None else self._estimate_video_eta(row.video, row.progress)
        return "" if seconds is None else format_seconds_left(seconds)

    def _estimate_video_eta(self, video: VideoRow, progress: VideoProgress | None) -> float | None:
        snapshot = self.wantui_app.snapshot
        batch = next((row for row in snapshot.batches if row.id == video.batch), None)
        if batch is None or snapshot.engine is None:  # without an engine, the video is interrupted
            return None
        step_number, pace_seconds = (0, None) if progress is None else (progress.step_number, progress.pace_seconds)
        current_video = replace(video, step=max(video.step, step_number))
        return snapshot.etas.estimate_video_eta(current_video, 0, batch, pace_seconds)

    # Details

    def _draw_details(self) -> None:
        has_memory = any(row.memory_text for row in self.rows)
        has_stages = any(row.has_stage for row in self.rows)
        if (has_memory, has_stages) != (self._has_memory, self._has_stages):
            self._has_memory, self._has_stages = has_memory, has_stages
            self.running_list.refresh()
        self.running_list.redraw_changed_rows()
        row = self.get_current_row()
        progress = self.get_current_progress()
        if row is not None and row.video is not None:
            self.follow_video(row.video.id, progress)
        self._draw_curves(progress)
        self.draw_pictures()
        self.draw_log()
        self.request_files(is_automatic=True)

    def draw_pictures(self) -> None:
        """Show the previews of the selected video, or else the finished clip.

        Until the finished clip is read, show its previews.
        """
        row, finished, progress = self.get_current_row(), self.finished_video, self.get_current_progress()
        self.previews.last_known_step = None if progress is None else progress.step_number
        step = self._find_shown_step(row, finished)
        shown, error = self._choose_pictures(step, row, finished)
        set_titles(self.preview_pane, "Predicted video" if shown is None else shown.title)
        other_caption = Text("") if finished is None else self._make_finished_caption(finished, names_video=True)
        self.caption_text.show_lines([other_caption if shown is None else shown.caption])
        if shown is None:
            error_text = Text(escape_unprintable(error), self.caption_text.make_colour_style("error"))
            error_lines = [error_text, Text("")] if error else []
            self.picture.show_text([*error_lines, *self._describe_stage(row)])
        elif self._shown is None or shown.pictures is not self._shown.pictures:
            self.picture.play_pictures(shown.pictures, shown.fps, plays=not self.wantui_app.is_low_bandwidth)
        self._shown = shown
        is_clip_of_previews = finished is not None and finished.video_id == self.previews.video_id
        steps = self.previews.step_numbers if step is not None or is_clip_of_previews else []
        self.strip.display = bool(steps)
        pictures = {}
        for number in steps:
            frames = self.previews.frames_by_step[number]
            pictures[number] = frames[len(frames) // 2]
        self.strip.show_steps(pictures, step)
        self.update_footer()

    def _choose_pictures(
        self, step: int | None, row: MonitorRow | None, finished: FinishedVideo | None
    ) -> tuple[ShownPictures | None, str]:
        """Return the pictures to show, or None; also return the reason if the finished clip cannot be shown."""
        if step is not None:
            done_title = "" if finished is None else replace_names(finished.done_event.title)
            video_title = row.title if row is not None and row.video is not None else done_title
            title, caption = f"Predicted video: {video_title}", self._make_preview_caption(step)
            frames = self.previews.frames_by_step[step]
            return ShownPictures(self.previews.video_id, frames, PREVIEW_FPS, title, caption), ""
        if finished is None or (row is not None and row.video is not None):
            return self._keep_pictures(row, finished), ""
        if self.clip is None or self.clip[0] != finished.video_id:
            keeps_pictures = self._shown is not None and self._shown.video_id == finished.video_id
            # Reading the clip takes seconds on a busy machine.
            return (self._shown if keeps_pictures and self.expects_clip(finished) else None), ""
        return self._make_clip_pictures(finished), self.clip[1].error

    def _make_clip_pictures(self, finished: FinishedVideo | None) -> ShownPictures | None:
        """Return the clip of the finished video; None if it is not read or cannot be read."""
        if finished is None or self.clip is None or self.clip[0] != finished.video_id or not self.clip[1].frames:
            return None
        clip, title = self.clip[1], f"Finished: {replace_names(finished.done_event.title)}"
        return ShownPictures(finished.video_id, clip.frames, clip.fps, title, self._make_finished_caption(finished))

    def _keep_pictures(self, row: MonitorRow | None, finished: FinishedVideo | None) -> ShownPictures | None:
        """Return the finished clip, or else the pictures on the screen, until the selected video has previews.

        Their title names their video, and their caption tells what the worker is doing.
        """
        pictures = self._make_clip_pictures(finished) or self._shown
        if pictures is None or row is None or row.video is None or not self.is_auto_preview:
            return None
        return replace(pictures, caption=Text(" ".join(line.plain for line in self._describe_stage(row))))

    def _find_shown_step(self, row: MonitorRow | None, finished: FinishedVideo | None) -> int | None:
        """Return the step whose preview is shown; None for the finished clip, or without previews."""
        if row is not None and row.video is not None:
            return self.previews.shown_step
        is_clip_of_previews = finished is not None and finished.video_id == self.previews.video_id
        return self.previews.picked_step if is_clip_of_previews else None

    def _make_preview_caption(self, step: int) -> Text:
        progress = self.get_current_progress()
        step_count = 0 if progress is None else progress.step_count
        steps_text = f"{step} of {step_count} steps" if step_count else format_count(step, "step")
        accent, dim = self.caption_text.make_colour_style("accent"), Style(dim=True)
        if self.previews.picked_step is not None:
            step_style, key, hint = accent, f"   {find_key(self, 'monitor.latest')}", " latest"
        elif progress is None or step >= progress.step_number:
            step_style, key, hint = dim, f"   {find_key(self, 'monitor.earlier')}", " earlier"
        else:  # the worker skips slow previews
            step_style, key, hint = dim, "", ", latest preview"
        return Text.assemble((f"after {steps_text}", step_style), (key, accent + Style(bold=True)), (hint, dim))

    def _make_finished_caption(self, finished: FinishedVideo, *, names_video: bool = False) -> Text:
        subject = f"{replace_names(finished.done_event.title)} " if names_video else ""
        seconds_text = "" if finished.seconds is None else f" in {finished.seconds:.1f} s"
        return Text.assemble(
            (f"✓ {subject}done{seconds_text}", self.caption_text.make_colour_style("success")),
            f"   {find_key(self, 'monitor.open')} open",
        )

    def _describe_stage(self, row: MonitorRow | None) -> list[Text]:
        """Return what the selected worker is doing, or what the user can do."""
        snapshot = self.wantui_app.snapshot
        if row is None:
            parts = filter(None, explain_idle_queue(snapshot, self.wantui_app.is_engine_starting))
            return [Text(line) for line in "\n\n".join(parts).splitlines()]
        if row.video is not None and snapshot.engine is None:
            return [Text(describe_interruption(self.wantui_app.is_engine_starting))]
        has_waiting_videos = any(batch.unfinished_count for batch in snapshot.batches if not batch.is_stopped)
        lines = [Text(line) for line in describe_row(row, self.worker_clock, has_waiting_videos).splitlines()]
        if row.progress is not None and row.progress.step_number and not self.is_auto_preview:
            lines += [
                Text(""),
                Text("press v to show the latest preview, V to show previews automatically", Style(dim=True)),
            ]
        return lines

    def _draw_curves(self, progress: VideoProgress | None) -> None:
        """Show the curves of the selected video in front of the finished video's, or only the finished video's."""
        row, finished = self.get_current_row(), self.finished_video
        finished_progress = None if finished is None else finished.progress
        is_running = row is not None and row.video is not None
        set_titles(self.query_one("#curves"), "Trajectory so far" if is_running or finished is None else "Trajectory")
        if row is not None and row.video is not None:
            colour_name = self.find_colour_name(row.video.batch, row.video.number)
            self.curve_pane.show_curves(row.title, progress, finished_progress, colour_name)
        else:
            title, colour_name = "", None
            if finished is not None:
                title, number = replace_names(finished.done_event.title), finished.done_event.number
                colour_name = None if number is None else self.find_colour_name(finished.batch_id, number - 1)
            self.curve_pane.show_curves(title, finished_progress, None, colour_name)

    def draw_log(self) -> None:
        """Show the last lines that fit; an empty log has no pane, and a low terminal has its last line in a frame."""
        self.set_class(not self.log_lines, "-no-log")
        log_text = self.log_text
        line_count = max(1, log_text.size.height) if self.has_class("-large-log") else MAX_SMALL_LOG_LINES
        lines = draw_log_lines(self.log_lines[-line_count:], log_text.make_colour_style)
        set_titles(self.query_one("#curves"), subtitle=lines[-1].plain if lines and self.has_class("-low") else "")
        if self.log_version is not None:
            log_text.show_lines(lines)
            set_titles(self.query_one("#log"), f"Log: {self.log_version[0].name}")

    @on(VirtualList.Highlighted, "#running")
    def _show_highlighted_video(self) -> None:
        self.log_version, self.log_lines = None, []
        self._draw_details()

    def list_idle_actions(self) -> Iterator[str]:
        if self.get_current_progress() is None:
            if self.finished_video is None:
                yield "preview"
            if (row := self.get_current_row()) is None or row.video is None:
                yield "cancel"
        if not self.previews.step_numbers:
            yield "pick_step(-1)"
        if self.finished_video is None:
            yield "open_finished"

    # Actions

    def action_preview(self) -> None:
        progress = self.get_current_progress()
        if progress is None and self.finished_video is None:
            self.notify("no video is running")
        elif progress is not None and progress.preview_path is None:
            self.notify("no preview yet: the first step writes the first preview")
        else:
            self.request_files(is_automatic=False)

    def action_auto_preview(self) -> None:
        self.is_auto_preview = not self.is_auto_preview
        self.notify(
            "automatic previews are on" if self.is_auto_preview else "automatic previews are off; press v to show one"
        )

    def action_pick_step(self, offset: int) -> None:
        self.previews.move(offset)
        self.draw_pictures()

    def action_follow_latest(self) -> None:
        self.previews.picked_step = None
        self.draw_pictures()

    @on(PreviewStrip.Picked)
    def _pick_clicked_step(self, message: PreviewStrip.Picked) -> None:
        steps, step = self.previews.step_numbers, message.step_number
        if step in steps:
            self.previews.picked_step = None if step == steps[-1] else step
            self.draw_pictures()

    def action_open_finished(self) -> None:
        """Show the latest finished video in the library."""
        finished, snapshot = self.finished_video, self.wantui_app.snapshot
        batch = next((row for row in snapshot.batches if finished is not None and row.id == finished.batch_id), None)
        if finished is None or batch is None:
            self.notify("no video is finished yet")
            return
        number = finished.done_event.number
        self.post_message(ShowBatch(batch.folder, None if number is None else number - 1))

    def action_cancel(self) -> None:
        row = self.get_current_row()
        if row is None or row.video is None:
            self.notify("no video is running")
            return
        video = row.video

        def cancel_if_confirmed(is_confirmed: bool | None) -> None:
            if is_confirmed:
                cancel_videos(self.wantui_app, [video.batch], video.number)

        text = f"Cancel {row.title}? Its progress will be lost."
        self.app.push_screen(Confirm(text, "Cancel video"), cancel_if_confirmed)

    def action_toggle_log(self) -> None:
        self.toggle_class("-large-log")
        self.call_after_refresh(self._draw_details)
