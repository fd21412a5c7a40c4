"""Progress of the running videos in the matrix of the Library screen."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from textual import getters

from wantui.tui.facts import Fact
from wantui.tui.library.batch_facts import BatchFacts
from wantui.tui.library.video_matrix import MatrixCell, VideoMatrix
from wantui.tui.queue_watcher import QueueSnapshot
from wantui.tui.running_videos import PreviewSchedule, RunningVideo, find_running_videos
from wantui.tui.screens.library_axes import LibraryAxes
from wantui.tui.widgets.batch_details import BatchDetails
from wantui.tui.widgets.matrix import Matrix
from wantui.tui.widgets.video_details import VideoDetails


class LibraryRunning(LibraryAxes):
    """Base of the Library screen that shows steps and previews of the videos that are being generated."""

    matrix = getters.query_one(Matrix)
    details = getters.query_one(VideoDetails)
    batch_details = getters.query_one(BatchDetails)

    def __init__(self) -> None:
        super().__init__()
        self.running_by_index: Mapping[int, RunningVideo] = {}
        """Running videos of the shown batch by index in the manifest."""
        self.shown_facts: BatchFacts | None = None
        """Facts about the shown batch, as its manifest has them."""
        self._hold_text = ""
        """Reason why no video of the shown batch starts; empty if it is not on hold."""
        self._preview_schedule = PreviewSchedule()

    def get_current_cell(self) -> MatrixCell | None:
        return self.matrix.grid.cells.get((self.matrix.cursor, self.matrix.column))

    def add_running_videos(self, grid: VideoMatrix) -> VideoMatrix:
        """Return a grid of the shown batch with the progress of its running videos."""
        self.running_by_index = self._find_running_videos(self.wantui_app.snapshot)
        return grid.replace_running(self.running_by_index)

    def show_running_videos(self, snapshot: QueueSnapshot) -> None:
        """Update the cells of running videos, and their previews that are due."""
        running_by_index = self._find_running_videos(snapshot)
        preview_seconds = self.wantui_app.settings.preview_seconds
        due = self._preview_schedule.claim_due_previews(running_by_index, preview_seconds)
        if self._find_hold_text(snapshot) != self._hold_text:
            self.show_batch_facts()
        if running_by_index == self.running_by_index and not due:
            return
        self.running_by_index = running_by_index
        self.show_batch_facts()
        previous_cell = self.get_current_cell()
        self.matrix.replace_grid(self.matrix.grid.replace_running(running_by_index))
        if due:
            self.matrix.reread_pictures()
        cell = self.get_current_cell()
        if cell is not None and self.shown_folder is not None and (cell != previous_cell or cell.video_index in due):
            self.details.show_cell(cell, self.shown_folder, reads_preview=cell.video_index in due)

    def show_batch_facts(self) -> None:
        """Show the facts about the shown batch, with running videos counted separately and the reason for its hold.

        The manifest lists running videos as waiting.
        """
        self._hold_text = self._find_hold_text(self.wantui_app.snapshot)
        if self.shown_facts is None or self.shown_folder is None:
            return
        counts = Counter(dict(self.shown_facts.state_counts))
        for video in self.running_by_index.values():
            if counts["queued"]:  # a manifest that was read later may know the end of the video
                counts["queued"] -= 1
                counts[video.state] += 1
        state_counts = tuple((state, count) for state, count in counts.items() if count)
        hold_facts = (Fact("on hold", self._hold_text),) if self._hold_text else ()
        facts = replace(self.shown_facts, state_counts=state_counts, facts=(*hold_facts, *self.shown_facts.facts))
        self.batch_details.show_facts(self.shown_folder.name, facts)

    def _find_hold_text(self, snapshot: QueueSnapshot) -> str:
        """Return the reason for the hold of the shown batch and what ends it; empty if it is not on hold."""
        for batch in snapshot.batches:
            if batch.folder == self.shown_folder and batch.hold is not None and batch.unfinished_count:
                return batch.hold.describe()
        return ""

    def _find_running_videos(self, snapshot: QueueSnapshot) -> dict[int, RunningVideo]:
        has_previews = self.wantui_app.settings.preview_seconds > 0 and not self.wantui_app.is_low_bandwidth
        return find_running_videos(snapshot, self.shown_folder, has_previews=has_previews)
