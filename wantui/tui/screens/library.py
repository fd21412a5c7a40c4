"""Library screen: batch folders, newest first; one batch as a matrix of variations by seeds; one video in detail."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from textual import getters, on, work
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.timer import Timer
from textual.widgets import Input
from textual.worker import get_current_worker

from wantui.errors import UserError
from wantui.queue.events import BatchAdded
from wantui.queue.queue import Queue
from wantui.storage.batch_index import BatchSummary, find_batches
from wantui.storage.manifest import VideoEntry
from wantui.storage.marks import BatchMarks, VideoMark
from wantui.tui.actions import make_bindings
from wantui.tui.content import set_titles
from wantui.tui.edit_copy import copy_batch_to_draft
from wantui.tui.library.data import (
    STATE_FILTERS,
    BatchFoldersScanned,
    BatchLoaded,
    LibraryRow,
    VideosFound,
    arrange_rows,
    count_stars,
    explain_empty_batch_list,
    find_row,
    load_batch,
)
from wantui.tui.library.search import FoundVideo, find_videos
from wantui.tui.library.video_matrix import VIDEO_FILTERS, VideoMatrix
from wantui.tui.queue_watcher import BATCH_END_EVENTS, QueueSnapshot
from wantui.tui.screens.dialogs import Confirm
from wantui.tui.screens.library_layout import LibraryLayout
from wantui.tui.widgets.batch_details import BatchDetails
from wantui.tui.widgets.batch_list import BatchList
from wantui.tui.widgets.matrix import Matrix
from wantui.tui.widgets.search import Search
from wantui.tui.widgets.video_details import VideoDetails, VideoFacts
from wantui.tui.widgets.virtual_list import VirtualList

LIST_FRAME_HEIGHT, EMPTY_LIST_HEIGHT = 3, 6
"""Lines of the batch list besides its rows, and the height in lines of an empty list, which says why it is empty."""
SEARCH_DELAY_SECONDS = 0.15
"""Time in seconds without typing before a search starts."""
TITLE_MARGIN = 2
"""Cells within the frame of the matrix that its title does not take."""
MATRIX_TITLE = "Variations by seeds"
EMPTY_MATRIX_TEXT = "The videos of the selected batch appear here: a row for each variation, a column for each seed."
EMPTY_BATCH_TEXT = "Template, settings and counts of the selected batch appear here."


class LibraryScreen(LibraryLayout):
    """Batch folders on the left; matrix and video details on the right."""

    SCREEN_NAME = "library"
    CSS_PATH = "library.tcss"
    BINDINGS = [*make_bindings("library")]

    batch_list = getters.query_one(BatchList)
    search_input = getters.query_one(Search)

    def __init__(self) -> None:
        super().__init__()
        self.star_counts: Mapping[Path, int] = {}
        """Number of starred videos by batch folder."""
        self.state_filter = "all"
        self._found_videos: list[FoundVideo] = []
        self._search_timer: Timer | None = None
        """Timer that starts a search, unless the user types on."""
        self._pending_selection: tuple[Path, int | None] | None = None
        """Batch folder, and index of the video, to select after the next scan."""

    def compose_body(self) -> ComposeResult:
        is_slow, facts = self.wantui_app.is_low_bandwidth, VideoFacts()
        with Horizontal():
            with Vertical(id="left"):
                yield Search("batch, prompt, seed or note")
                batches = BatchList(id="batches", classes="pane", empty_text="reading ...")
                batches.border_title = "Batches"
                yield batches
                yield BatchDetails()
                yield facts
            with Vertical(id="right"):
                matrix = Matrix("signs" if is_slow else None, id="matrix", classes="pane")
                matrix.border_title = MATRIX_TITLE
                yield matrix
                yield VideoDetails(facts, draws_sheets=not is_slow)

    def on_mount(self) -> None:
        self.set_focus(self.batch_list)

    def focus_main_widget(self) -> None:
        self.search_input.close()
        self.set_focus(self.batch_list)

    def on_shown(self) -> None:
        self.scan_folders()

    def show_snapshot(self, snapshot: QueueSnapshot) -> None:
        if any(isinstance(event.payload, (*BATCH_END_EVENTS, BatchAdded)) for event in snapshot.events):
            self.scan_folders()
        self.show_running_videos(snapshot)

    # Folders

    @work(thread=True, exclusive=True, group="scan", exit_on_error=False)
    def scan_folders(self) -> None:
        """Scan the batch folders on a background thread."""
        worker, batches = get_current_worker(), find_batches(self.wantui_app.list_library_roots())
        star_counts = count_stars(batches)
        if not worker.is_cancelled:
            self.post_message(BatchFoldersScanned(batches, star_counts))

    @on(BatchFoldersScanned)
    def _show_scanned_batches(self, message: BatchFoldersScanned) -> None:
        is_same_list = (message.batch_summaries, message.star_counts) == (self.batches, self.star_counts)
        if is_same_list and self.shown_folder is not None:
            self.reload_batch()  # a regenerated video leaves all counts unchanged
            return
        self.batches, self.star_counts = message.batch_summaries, message.star_counts
        self._update_batch_list()

    def _update_batch_list(self) -> None:
        """Show the batches that match search and filter; keep the cursor on its batch."""
        search_words, previous_row = self.search_input.value, self.get_current_row()
        rows = arrange_rows(self.batches, self.star_counts, search_words, self.state_filter, self._found_videos)
        self.batch_list.empty_text = explain_empty_batch_list(len(self.batches), search_words, self.state_filter)
        self.batch_list.show_rows(rows, self.star_counts)
        # The details get the rest.
        self.batch_list.styles.max_height = len(rows) + LIST_FRAME_HEIGHT if rows else EMPTY_LIST_HEIGHT
        suffix = f", {self.state_filter}" if self.state_filter != "all" else ""
        set_titles(self.batch_list, f"Batches: {len(self.visible_batches)} of {len(self.batches)}{suffix}")
        selected_folder, video_index = self._pending_selection or (self.shown_folder, None)
        found_index = video_index
        if found_index is None and previous_row is not None and previous_row.batch.folder == selected_folder:
            found_index = previous_row.found_video.video_index if previous_row.found_video else None
        row_index = find_row(rows, selected_folder, found_index)
        if row_index is not None:
            self.batch_list.set_reactive(BatchList.cursor, row_index)
            self.batch_list.refresh()
            self._pending_selection = None
        else:
            video_index = None
        if rows:
            self.load_batch(rows[self.batch_list.cursor].batch.folder, video_index)
        else:
            self._clear_details()

    @property
    def visible_batches(self) -> list[BatchSummary]:
        """Return the batches that match search and filter."""
        return [row.batch for row in self.batch_list.rows if row.found_video is None]

    def get_current_row(self) -> LibraryRow | None:
        """Return the row under the cursor of the batch list, or None."""
        rows = self.batch_list.rows
        return rows[self.batch_list.cursor] if self.batch_list.cursor < len(rows) else None

    def _clear_details(self) -> None:
        """Clear the right side, so that no key acts on an invisible batch."""
        if self._pending_selection is None and self.shown_folder is not None:
            self._pending_selection = (self.shown_folder, None)  # the cursor returns here
        self.shown_folder = self.shown_manifest = None
        self._clear_matrix("")
        self.batch_details.show_message(EMPTY_BATCH_TEXT)

    def _clear_matrix(self, message: str) -> None:
        self.video_indices, self.matrix.empty_text = {}, EMPTY_MATRIX_TEXT
        self.matrix.show_grid(VideoMatrix(Path()), is_same_batch=False)
        self.share_height()
        set_titles(self.matrix, MATRIX_TITLE, "")
        self.details.show_message(message)
        self.update_footer()

    def select_batch(self, folder: Path, video_index: int | None) -> None:
        """Select a batch, and optionally one of its videos."""
        self._pending_selection = (folder.resolve(), video_index)
        self.state_filter, self.batches = "all", []
        if self.is_mounted:  # otherwise the screen is about to be shown, and scans then
            self.search_input.close()
            self.scan_folders()

    @on(VirtualList.Highlighted, "#batches")
    def _load_highlighted_batch(self) -> None:
        if (row := self.get_current_row()) is not None:
            self.load_batch(row.batch.folder, row.found_video.video_index if row.found_video else None)

    @on(VirtualList.Chosen, "#batches")
    def _focus_matrix(self) -> None:
        self.set_focus(self.matrix)

    # Search

    @on(Input.Changed, "#search")
    def _filter_while_typing(self) -> None:
        self._found_videos = []
        self._update_batch_list()
        self.workers.cancel_group(self, "search")
        if self._search_timer is not None:
            self._search_timer.stop()
        self._search_timer = self.set_timer(SEARCH_DELAY_SECONDS, self._start_search)

    def _start_search(self) -> None:
        if self.search_input.value.split():
            self.search_videos(self.search_input.value, self.batches)

    @work(thread=True, exclusive=True, group="search", exit_on_error=False)
    def search_videos(self, search_words: str, batches: Sequence[BatchSummary]) -> None:
        """Find videos on a background thread; another search cancels this one."""
        worker = get_current_worker()
        videos = list(find_videos(search_words, batches, lambda: worker.is_cancelled))
        if not worker.is_cancelled:
            self.post_message(VideosFound(search_words, videos))

    @on(VideosFound)
    def _show_found_videos(self, message: VideosFound) -> None:
        if message.search_words == self.search_input.value and message.videos != self._found_videos:
            self._found_videos = message.videos
            self._update_batch_list()

    @on(Input.Submitted, "#search")
    def _focus_batch_list(self) -> None:
        self.set_focus(self.batch_list)

    # One batch

    @work(thread=True, exclusive=True, group="load", exit_on_error=False)
    def load_batch(self, folder: Path, video_index: int | None) -> None:
        """Read a batch on a background thread; `video_index` is the index of the video to select."""
        worker = get_current_worker()
        message = load_batch(folder, video_index, self.state_filter, self.get_view(folder))
        if not worker.is_cancelled:
            self.post_message(message)

    def reload_batch(self) -> None:
        if self.shown_folder is not None:
            self.load_batch(self.shown_folder, None)

    @on(BatchLoaded)
    def _show_batch(self, message: BatchLoaded) -> None:
        row = self.get_current_row()
        if row is None or row.batch.folder != message.folder:
            return  # the cursor has moved to another batch, or the list is empty
        is_same_batch, previous_cell = message.folder == self.shown_folder, self.get_current_cell()
        if is_same_batch and message.video_index is None and message.manifest is not None:
            shown = self.shown_manifest, self.shown_marks, self.shown_filter, self.shown_facts, self.shown_similarity
            if shown == (message.manifest, message.marks, message.state_filter, message.facts, message.similarity):
                return
        self.shown_folder, self.shown_manifest = message.folder, message.manifest
        self.shown_marks, self.shown_filter = message.marks, message.state_filter
        self.shown_facts, self.shown_similarity = message.facts, message.similarity
        if message.manifest is None or message.grid is None or message.facts is None:
            self._clear_matrix(f"✗ {message.error}")
            self.batch_details.show_message(f"✗ {message.error}")
            return
        self.remember_view(message.grid)
        self.show_grid(message.grid, is_same_batch)
        self.show_batch_facts()
        if message.video_index is not None and (place := message.grid.find_cell(message.video_index)):
            self.matrix.cursor, self.matrix.column = place
        if not is_same_batch or previous_cell is None or self.get_current_cell() != previous_cell:
            self.show_current_video()  # a contact sheet is drawn only where it may be new

    def show_grid(self, grid: VideoMatrix, is_same_batch: bool) -> None:
        """Show videos in the matrix; the cursor keeps its position if they belong to the same batch."""
        self.video_indices = {place: cell.video_index for place, cell in grid.cells.items()}
        self.matrix.empty_text = f"no {self.shown_filter} videos in this batch; press f to change the filter"
        shown_grid = self.add_running_videos(grid)
        self.plan_heights(shown_grid)
        self.matrix.show_grid(shown_grid, is_same_batch)
        self.share_height()
        self.update_marked_cells()
        self._show_matrix_title()
        set_titles(self.matrix, subtitle=self.describe_page(grid))

    def on_resize(self) -> None:
        if self.matrix.grid.cells:
            self.call_after_refresh(self._fit_matrix)

    def _fit_matrix(self) -> None:
        """Fit the matrix and its title to a new terminal size."""
        self.fit_heights()
        self._show_matrix_title()

    def _show_matrix_title(self) -> None:
        suffix = f", {self.shown_filter}" if self.shown_filter in VIDEO_FILTERS else ""
        max_width = max(0, self.matrix.size.width - TITLE_MARGIN - len(suffix))
        set_titles(self.matrix, f"{self.matrix.grid.describe_axes(max_width)}{suffix}")

    def get_current_entry(self) -> VideoEntry | None:
        """Return the manifest entry of the video under the cursor, or None."""
        cell = self.get_current_cell()
        return None if cell is None else cell.entry

    def show_mark(self, video_id: str, mark: VideoMark) -> None:
        self._show_marks(BatchMarks({**self.shown_marks.marks_by_video, video_id: mark}))

    def show_written_marks(self, folder: Path, marks: BatchMarks) -> None:
        if folder == self.shown_folder:
            self._show_marks(marks)
            self.reload_batch()  # updates the counts of the batch
        star_counts = {**self.star_counts, folder: marks.count_stars()}
        self.star_counts = {path: count for path, count in star_counts.items() if count}
        self.batch_list.show_rows(self.batch_list.rows, self.star_counts)

    def _show_marks(self, marks: BatchMarks) -> None:
        previous_cell, self.shown_marks = self.get_current_cell(), marks
        self.matrix.replace_grid(self.matrix.grid.replace_marks(marks))
        if self.get_current_cell() != previous_cell:
            self.show_current_video()

    def show_marked_cells(self, marked_cells: frozenset[tuple[int, int]]) -> None:
        self.matrix.show_marks(marked_cells)

    def select_cell(self, row: int, column: int) -> None:
        self.matrix.cursor, self.matrix.column = row, column

    @on(Matrix.Chosen)
    def _play_chosen_video(self) -> None:
        self.action_play()

    @on(Matrix.Moved)
    def show_current_video(self) -> None:
        cell = self.get_current_cell()
        if cell is None or self.shown_folder is None:
            self.details.show_message("")
        else:
            self.details.show_cell(cell, self.shown_folder)
        self.update_footer()

    # Actions

    def action_search(self) -> None:
        self.search_input.open()

    def action_filter(self) -> None:
        self.state_filter = STATE_FILTERS[(STATE_FILTERS.index(self.state_filter) + 1) % len(STATE_FILTERS)]
        self._update_batch_list()

    def action_cell_size(self) -> None:
        self.matrix.change_cell_size()
        self.share_height()

    def action_reload(self) -> None:
        self.batches = []
        self.scan_folders()

    def rescan_folders(self) -> None:
        self.shown_folder = None
        self.action_reload()

    def action_copy_path(self) -> None:
        if (clip := self.find_current_clip()) is not None:
            self.app.copy_to_clipboard(str(clip.path))
            self.notify(f"{clip.path}\nIf pasting fails in tmux: set -g set-clipboard on", title="path copied")

    def action_edit_copy(self) -> None:
        if self.shown_folder is not None:
            copy_batch_to_draft(self, self.shown_folder)

    def action_rerun(self) -> None:
        if (clip := self.find_current_clip()) is not None:
            self.notify("generating the video again in the background; the result will appear here")
            self.rerun_clip(clip.path)

    def action_resume(self) -> None:
        if self.shown_folder is not None and self.shown_manifest is not None:
            self.queue_missing_videos(self.shown_folder, self.shown_manifest)

    def action_trash(self) -> None:
        if (row := self.get_current_row()) is None:
            self.notify("no batch is selected")
            return
        folder = row.batch.folder
        queued_batch = next((batch for batch in self.wantui_app.snapshot.batches if batch.folder == folder), None)
        if queued_batch is not None and queued_batch.unfinished_count:
            self.notify(f"cannot trash {folder.name}: it is in the queue. Cancel it there first", severity="error")
            return

        def remove_and_trash(queue: Queue) -> None:
            # While the dialog was open, the batch may have been queued again.
            batch = next((batch for batch in queue.list_batches() if batch.folder == folder), None)
            if batch is not None and batch.unfinished_count:
                raise UserError(f"cannot trash {folder.name}: it is in the queue again. Cancel it there first")
            if batch is not None:
                queue.remove_batch(batch.id)
            self.move_folder_to_trash(folder)

        def trash_if_confirmed(is_confirmed: bool | None) -> None:
            if is_confirmed:
                self.wantui_app.change_queue(remove_and_trash)

        self.app.push_screen(
            Confirm(f"Move {folder.name} with all its videos to the trash?", "Move"), trash_if_confirmed
        )
