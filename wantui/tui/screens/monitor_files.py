"""Files of the Monitor screen: which it needs, and reading them on a background thread."""

import time
from dataclasses import replace
from pathlib import Path

from textual import getters, on, work

from wantui.batches.progress import FinishedVideo, VideoProgress
from wantui.file_state import FileState
from wantui.storage.layout import BatchFolder
from wantui.tui.monitor.data import (
    ClipFrames,
    MonitorFilesRead,
    MonitorFilesRequest,
    PreviewHistory,
    read_requested_files,
)
from wantui.tui.monitor.states import MonitorRow
from wantui.tui.running_videos import is_preview_due
from wantui.tui.screens.base import BaseScreen
from wantui.tui.widgets.virtual_list import VirtualList


class MonitorFiles(BaseScreen):
    """Base of the Monitor screen that reads the previews and log of the selected row, and the last finished clip."""

    running_list = getters.query_one("#running", VirtualList)

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[MonitorRow] = []
        self.previews = PreviewHistory()
        self.clip: tuple[int, ClipFrames] | None = None
        """Id and clip of the video that was finished last."""
        self.is_auto_preview = False
        self.log_version: tuple[Path, FileState] | None = None
        """Version of the log on the screen, as in `LogTail`."""
        self.log_lines: list[str] = []
        self._colours_by_batch: dict[int, tuple[str | None, ...]] = {}
        """Theme colours of each batch's videos, by index in its manifest."""
        self._request: MonitorFilesRequest | None = None
        """Files that are being read."""
        self._preview_request: tuple[int, float] = (0, 0.0)
        """Step and time (monotonic, seconds) of this video's most recently requested preview."""
        self._has_waiting_key = False
        """Whether a key that asks for files was pressed while files were being read."""

    def draw_pictures(self) -> None:
        """Draw previews or clip."""
        raise NotImplementedError

    def draw_log(self) -> None:
        """Draw the last lines of the log."""
        raise NotImplementedError

    def get_current_row(self) -> MonitorRow | None:
        """Return the row under the cursor, or None."""
        return self.rows[self.running_list.cursor] if self.running_list.cursor < len(self.rows) else None

    def get_current_progress(self) -> VideoProgress | None:
        """Return the progress of the video under the cursor, or None."""
        return row.progress if (row := self.get_current_row()) is not None else None

    @property
    def finished_video(self) -> FinishedVideo | None:
        """Return the video that was finished last, or None."""
        return self.wantui_app.snapshot.finished_video

    def find_colour_name(self, batch_id: int, number: int) -> str | None:
        """Return the theme colour of a video's variation; None until the colour is read, or if there is none.

        Args:
            number: index of the video in its manifest.
        """
        colour_names = self._colours_by_batch.get(batch_id, ())
        return colour_names[number] if number < len(colour_names) else None

    def apply_preview_seconds(self) -> None:
        """Switch automatic previews on or off, as the settings say."""
        self.is_auto_preview = self.wantui_app.settings.preview_seconds > 0 and not self.wantui_app.is_low_bandwidth

    def follow_video(self, video_id: int, progress: VideoProgress | None) -> None:
        """Forget the previews of another video, and of steps that are rendered again."""
        if self.previews.video_id != video_id:
            self._preview_request = (0, 0.0)
        self.previews.show_video(video_id)
        if progress is not None:
            self.previews.drop_steps_after(progress.step_number)

    def request_files(self, *, is_automatic: bool) -> None:
        """Start reading the log, new previews and the finished clip; a key press during a read is served after it."""
        if self._request is not None:
            self._has_waiting_key |= not is_automatic
            return
        self._has_waiting_key = False
        request = self._make_request(is_automatic)
        if request != MonitorFilesRequest():
            self._request = request
            self.read_monitor_files(request)

    def _make_request(self, is_automatic: bool) -> MonitorFilesRequest:
        """Return a request for the log, and for the previews and the clip that are due.

        After a key press, all that are not yet shown are due.
        """
        log_path = self._find_log()
        missing_ids = {row.video.batch for row in self.rows if row.video is not None} - self._colours_by_batch.keys()
        unread_batches = (batch for batch in self.wantui_app.snapshot.batches if batch.id in missing_ids)
        folders = tuple((batch.id, batch.folder) for batch in unread_batches)
        request = MonitorFilesRequest(log_path, None if log_path is None else self.log_version, batch_folders=folders)
        if not self.is_auto_preview and is_automatic:
            return request
        progress = self.get_current_progress()
        if progress is not None and self._is_preview_due(progress, is_automatic):
            self._preview_request = progress.preview_step, time.monotonic()
            request = replace(
                request,
                video_id=progress.video_id,
                preview_path=Path(progress.preview_path or ""),
                preview_step=progress.preview_step,
                known_steps=frozenset(self.previews.step_numbers),
            )
        finished = self.finished_video
        if finished is not None and (self.clip is None or self.clip[0] != finished.video_id):
            request = replace(request, clip_path=self._find_clip(finished), clip_video_id=finished.video_id)
        return request

    def _find_log(self) -> Path | None:
        """Return the batch log of the selected video, otherwise the engine log; None without an engine."""
        row, snapshot = self.get_current_row(), self.wantui_app.snapshot
        folders_by_batch = {batch.id: batch.folder for batch in snapshot.batches}
        if row is not None and row.video is not None and row.video.batch in folders_by_batch:
            return BatchFolder(folders_by_batch[row.video.batch]).log_path
        return None if snapshot.engine is None else snapshot.engine.logs_folder / "engine.log"

    def expects_clip(self, finished: FinishedVideo) -> bool:
        """Return whether the clip of a finished video is being read, or will be read without a key press."""
        is_requested = self._request is not None and self._request.clip_video_id == finished.video_id
        return (is_requested or self.is_auto_preview) and self._find_clip(finished) is not None

    def _find_clip(self, finished: FinishedVideo) -> Path | None:
        """Return the path of the clip; None if the video has no clip, or if its batch is no longer in the queue."""
        clip_name = finished.done_event.files.get("clip")
        batches = self.wantui_app.snapshot.batches
        folder = next((batch.folder for batch in batches if batch.id == finished.batch_id), None)
        return None if clip_name is None or folder is None else folder / clip_name

    def _is_preview_due(self, progress: VideoProgress, is_automatic: bool) -> bool:
        """Return whether to read previews that are not on the screen yet."""
        if progress.preview_path is None or progress.preview_step in self.previews.frames_by_step:
            return False
        return (
            not is_automatic
            or not self.previews.frames_by_step
            or progress.preview_step == progress.step_count
            or is_preview_due(
                progress.preview_step - self._preview_request[0],
                progress.step_count,
                time.monotonic() - self._preview_request[1],
                self.wantui_app.settings.preview_seconds,
            )
        )

    @work(thread=True, group="files", exit_on_error=False)
    def read_monitor_files(self, request: MonitorFilesRequest) -> None:
        """Read files on a background thread."""
        message = MonitorFilesRead(request, {}, None, None)
        try:
            message = read_requested_files(request)
        finally:  # the handler resets `_request`; without it no file would ever be read again
            self.post_message(message)

    @on(MonitorFilesRead)
    def _show_monitor_files(self, message: MonitorFilesRead) -> None:
        self._request = None
        if message.log_tail is not None:
            self.log_version = message.log_tail.version
            self.log_lines = message.log_tail.lines
            self.draw_log()
        self._colours_by_batch |= message.colours_by_batch
        if message.clip is not None:
            self.clip = message.request.clip_video_id, message.clip
        if message.frames_by_step and message.request.video_id == self.previews.video_id:
            self.previews.add_frames(message.frames_by_step)
        if message.clip is not None or message.frames_by_step:
            self.draw_pictures()
        if self._has_waiting_key:
            self.request_files(is_automatic=False)
