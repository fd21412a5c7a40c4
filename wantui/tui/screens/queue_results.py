"""Results on the Queue screen: the pictures of the selected batch below a list of videos that leaves room for them."""

from pathlib import Path

from textual import getters, on
from textual.containers import Vertical
from textual.widget import Widget

from wantui.queue.records import BatchRow, VideoRow
from wantui.storage.manifest import Manifest
from wantui.tui.content import set_titles
from wantui.tui.library.video_matrix import VideoMatrix, arrange_matrix
from wantui.tui.messages import ShowBatch
from wantui.tui.running_videos import PreviewSchedule, RunningVideo, find_running_videos
from wantui.tui.screens.queue_details import QueueDetails
from wantui.tui.widgets.diff_text import DiffText
from wantui.tui.widgets.matrix import Matrix
from wantui.tui.widgets.virtual_list import VirtualList

MIN_RESULTS_HEIGHT, MIN_VIDEO_HEIGHT = 9, 10
"""Minimum heights, in lines, of the pane (its frame, a header and a row of small pictures) and of the video list with a
picture beside it."""
LIST_FRAME_HEIGHT = 3
"""Lines of the frame and the header of a list."""
MAX_FULL_TEXT_HEIGHT = 6
"""Maximum height of the selected row's full text, in lines; the style sheet has the same limit."""


class QueueResults(QueueDetails):
    """Base of the Queue screen that shows the selected batch as a matrix in the rows that the lists leave free."""

    batch_list = getters.query_one("#batches", VirtualList)
    video_list = getters.query_one("#videos", VirtualList)
    results = getters.query_one("#results", Matrix)
    full_text = getters.query_one("#about", DiffText)

    def __init__(self) -> None:
        super().__init__()
        self._fixed_list_height: int | None = None
        """Height of the video list beside pictures, in lines; None if it has the whole height."""
        self._results_schedule = PreviewSchedule()
        self._read_batch: tuple[VideoMatrix, Manifest] | None = None
        """Matrix of the selected batch without its running videos, and its manifest; None until it is read."""

    def compose_results(self) -> Widget:
        """Return the pane of results. It never has the focus: its cursor follows the cursor of the video list."""
        results = Matrix(id="results", classes="pane")
        results.can_focus = False
        results.border_title = "Results"
        return results

    @property
    def shows_results(self) -> bool:
        """Return whether there is room for the batch's pictures below the lists."""
        return self.has_class("-with-results")

    def fit_results(self, batch: BatchRow | None) -> None:
        """Use rows that the lists leave free for pictures of the batch, if they suffice and the batch can be read."""
        list_height = (0 if batch is None else batch.video_count) + LIST_FRAME_HEIGHT
        list_height = max(list_height, MIN_VIDEO_HEIGHT) if self.shows_video else list_height
        free_height = self.query_one("#lists", Vertical).size.height - self.batch_list.outer_size.height - list_height
        if not self.shows_details:  # as high as its lines, which may not be laid out yet
            free_height -= min(MAX_FULL_TEXT_HEIGHT, max(1, len(self.full_text.shown_lines)))
        is_readable = self.facts_message is None or self.facts_message.manifest is not None
        has_room = batch is not None and is_readable and free_height >= MIN_RESULTS_HEIGHT
        has_room = has_room and not self.wantui_app.is_low_bandwidth
        fixed_height = list_height if has_room else None
        if fixed_height != self._fixed_list_height:  # Textual would arrange all widgets again for None
            self._fixed_list_height = fixed_height
            self.query_one("#videos-and-video").styles.height = fixed_height
        self.set_class(has_room, "-with-results")

    def show_results(self, batch: BatchRow | None, video: VideoRow | None) -> None:
        """Show the pictures of a batch, and mark one of its videos."""
        message = self.facts_message
        if not self.shows_results or batch is None or message is None or message.manifest is None:
            self._read_batch = None
            if self.results.row_count:
                self.results.show_grid(VideoMatrix(Path()), is_same_batch=False)
            return
        known = self._read_batch
        video_index = 0 if video is None else video.number
        if known is None or known[1] is not message.manifest or known[0].find_cell(video_index) is None:
            grid = arrange_matrix(batch.folder, message.manifest, message.marks, video_index=video_index)
            self._read_batch = grid, message.manifest
            self.results.show_grid(
                grid.replace_running(self._find_running(batch)), known is not None and known[0].folder == grid.folder
            )
            set_titles(self.results, "Results", grid.describe_page())
        else:
            self._update_running(batch, known[0])
        if (place := self.results.grid.find_cell(video_index)) is not None:
            with self.results.prevent(Matrix.Moved):
                self.results.cursor, self.results.column = place

    def _find_running(self, batch: BatchRow) -> dict[int, RunningVideo]:
        """Return the running videos by index, with previews if these are shown automatically."""
        has_previews = self.wantui_app.settings.preview_seconds > 0
        return find_running_videos(self.wantui_app.snapshot, batch.folder, has_previews=has_previews)

    def _update_running(self, batch: BatchRow, grid: VideoMatrix) -> None:
        """Show the steps of running videos, and their previews that are due."""
        running = self._find_running(batch)
        due = self._results_schedule.claim_due_previews(running, self.wantui_app.settings.preview_seconds)
        updated = grid.replace_running(running)
        if updated != self.results.grid:
            self.results.replace_grid(updated)
        if due:
            self.results.reread_pictures()

    @on(Matrix.Moved)
    def _move_to_video(self, message: Matrix.Moved) -> None:
        """Move the cursor of the list to the clicked video; focus the list, which otherwise follows a running video."""
        cell = self.results.grid.cells.get((message.row, message.column))
        if cell is not None:
            self.video_list.cursor = cell.video_index
            self.set_focus(self.video_list)

    @on(Matrix.Chosen)
    def _open_chosen_picture(self, message: Matrix.Chosen) -> None:
        """Show the clicked video in the Library."""
        cell = self.results.grid.cells.get((message.row, message.column))
        if cell is not None:
            self.post_message(ShowBatch(self.results.grid.folder, cell.video_index))
