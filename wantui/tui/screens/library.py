"""Library screen: batch folders, newest first; one batch as a matrix of variations by seeds; one video in detail."""

from functools import cached_property
from pathlib import Path

from rich.text import Text
from textual import getters, on, work
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import Input
from textual.worker import get_current_worker

from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.queue.events import BatchAdded
from wantui.queue.queue import Queue
from wantui.queue.states import derive_batch_state
from wantui.storage.batch_index import BatchSummary, find_batches
from wantui.storage.manifest import VideoEntry
from wantui.tui.actions import make_bindings
from wantui.tui.columns import Column, draw_column_headers, draw_list_row
from wantui.tui.content import make_content
from wantui.tui.edit_copy import copy_batch_to_draft
from wantui.tui.library_data import (
    STATE_FILTERS,
    BatchFoldersScanned,
    BatchLoaded,
    explain_empty_batch_list,
    filter_batches,
    load_batch_manifest,
)
from wantui.tui.queue_watcher import BATCH_END_EVENTS, QueueSnapshot
from wantui.tui.screens.dialogs import Confirm
from wantui.tui.screens.library_playback import LibraryPlayback
from wantui.tui.state_style import get_state_style
from wantui.tui.widgets.matrix import Matrix
from wantui.tui.widgets.search import Search
from wantui.tui.widgets.video_details import VideoDetails
from wantui.tui.widgets.virtual_list import VirtualList


class LibraryScreen(LibraryPlayback):
    """Batch folders on the left; matrix and video details on the right."""

    SCREEN_NAME = "library"
    BINDINGS = [*make_bindings("library")]

    batch_list = getters.query_one("#batches", VirtualList)
    matrix = getters.query_one(Matrix)
    details = getters.query_one(VideoDetails)
    search_input = getters.query_one(Search)

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[BatchSummary] = []
        self.visible_batches: list[BatchSummary] = []
        """Batches that match search and filter."""
        self.state_filter = "all"
        self._pending_selection: tuple[Path, int | None] | None = None
        """Batch folder, and index of the video, to select after the next scan."""

    def compose_body(self) -> ComposeResult:
        with Horizontal():
            with Vertical(id="left"):
                yield Search("name, prompt or model")
                batches = VirtualList(
                    id="batches", classes="pane", empty_text="reading ...", header_renderer=self._draw_header
                )
                batches.border_title = "Batches"
                yield batches
            with Vertical(id="right"):
                matrix = Matrix(id="matrix", classes="pane")
                matrix.border_title = "Variations by seeds"
                yield matrix
                yield VideoDetails(draws_sheets=not self.wantui_app.is_low_bandwidth)

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

    # Folders

    @work(thread=True, exclusive=True, group="scan", exit_on_error=False)
    def scan_folders(self) -> None:
        """Scan the batch folders on a background thread."""
        worker, batches = get_current_worker(), find_batches(self.wantui_app.list_library_roots())
        if not worker.is_cancelled:
            self.post_message(BatchFoldersScanned(batches))

    @on(BatchFoldersScanned)
    def _show_scanned_batches(self, message: BatchFoldersScanned) -> None:
        if message.batch_summaries == self.batches and self.shown_folder is not None:
            self.load_batch(self.shown_folder, None)  # a regenerated video leaves all counts unchanged
            return
        self.batches = message.batch_summaries
        self._update_batch_list()

    def _update_batch_list(self) -> None:
        """Show the batches that match search and filter; keep the cursor on its batch."""
        search_words = self.search_input.value
        self.visible_batches = filter_batches(self.batches, search_words, self.state_filter)
        folders = [batch.folder for batch in self.visible_batches]
        self.batch_list.empty_text = explain_empty_batch_list(len(self.batches), search_words, self.state_filter)
        self.batch_list.fill_rows(len(self.visible_batches), self._draw_batch)
        suffix = f", {self.state_filter}" if self.state_filter != "all" else ""
        self.batch_list.border_title = make_content(
            f"Batches: {len(self.visible_batches)} of {len(self.batches)}{suffix}"
        )
        selected_folder, video_index = self._pending_selection or (self.shown_folder, None)
        if selected_folder in folders:
            self.batch_list.set_reactive(VirtualList.cursor, folders.index(selected_folder))
            self.batch_list.refresh()
            self._pending_selection = None
        else:
            video_index = None
        if self.visible_batches:
            self.load_batch(self.visible_batches[self.batch_list.cursor].folder, video_index)
        else:
            self._clear_details()

    def _clear_details(self) -> None:
        """Clear the right side, so that no key acts on an invisible batch."""
        if self._pending_selection is None and self.shown_folder is not None:
            self._pending_selection = (self.shown_folder, None)  # the cursor returns here
        self.shown_folder = self.shown_manifest = None
        self.video_indices = {}
        self.matrix.show_cells([], 0, lambda row, column: None, is_same_batch=False)
        self.matrix.border_title = "Variations by seeds"
        self.details.show_message("")

    def select_batch(self, folder: Path, video_index: int | None) -> None:
        """Select a batch, and optionally one of its videos."""
        self._pending_selection = (folder.resolve(), video_index)
        self.state_filter = "all"
        self.batches = []
        if self.is_mounted:  # otherwise the screen is about to be shown, and scans then
            self.search_input.close()
            self.scan_folders()

    @cached_property
    def _batch_columns(self) -> list[Column[BatchSummary]]:
        batch_list = self.batch_list

        def draw_state(batch: BatchSummary) -> Text:
            style = get_state_style(derive_batch_state(dict(batch.counts_by_state)))
            return Text(style.glyph, batch_list.make_colour_style(style.colour_name))

        def draw_name(batch: BatchSummary) -> Text:
            return Text.assemble((batch.folder.name, "bold"), (f"  {batch.template}", "dim"))

        return [
            Column("", 1, draw_state),
            Column("done", 9, lambda batch: f"{batch.count_videos('done')}/{batch.video_count}", "right"),
            Column("batch", None, draw_name),
        ]

    def _draw_header(self, width: int) -> Text:
        return draw_column_headers(self._batch_columns, width)

    def _draw_batch(self, index: int, width: int) -> Text:
        batch, batch_list = self.visible_batches[index], self.batch_list
        if batch.fault:
            reason = batch.fault.replace(f"{batch.folder}/", "")  # a long path would push the reason out of sight
            return Text.assemble(
                ("✗ unreadable ", batch_list.make_colour_style("error")), batch.folder.name, "  ", (reason, "dim")
            )
        return draw_list_row(self._batch_columns, batch, width)

    @on(VirtualList.Highlighted, "#batches")
    def _load_highlighted_batch(self) -> None:
        if self.batch_list.cursor < len(self.visible_batches):
            self.load_batch(self.visible_batches[self.batch_list.cursor].folder, None)

    @on(VirtualList.Chosen, "#batches")
    def _focus_matrix(self) -> None:
        self.set_focus(self.matrix)

    @on(Input.Changed, "#search")
    def _filter_while_typing(self) -> None:
        self._update_batch_list()

    @on(Input.Submitted, "#search")
    def _focus_batch_list(self) -> None:
        self.set_focus(self.batch_list)

    # One batch

    @work(thread=True, exclusive=True, group="load", exit_on_error=False)
    def load_batch(self, folder: Path, video_index: int | None) -> None:
        """Read a manifest on a background thread; `video_index` is the index of the video to select."""
        worker, message = get_current_worker(), load_batch_manifest(folder, video_index)
        if not worker.is_cancelled:
            self.post_message(message)

    @on(BatchLoaded)
    def _show_batch(self, message: BatchLoaded) -> None:
        if not self.visible_batches or self.visible_batches[self.batch_list.cursor].folder != message.folder:
            return  # the cursor has moved to another batch, or the list is empty
        is_same_batch, previous_entry = message.folder == self.shown_folder, self.get_current_entry()
        if (
            is_same_batch
            and message.video_index is None
            and message.manifest is not None
            and message.manifest == self.shown_manifest
        ):
            return
        self.shown_folder, self.shown_manifest = message.folder, message.manifest
        manifest = message.manifest
        if manifest is None:
            self.matrix.show_cells([], 0, lambda row, column: None, is_same_batch=False)
            self.details.show_message(f"✗ {message.error}")
            return
        video_numbers = sorted({video.number for video in manifest.videos})
        self.video_indices = {
            (video.variation, video_numbers.index(video.number)): index for index, video in enumerate(manifest.videos)
        }
        variation_ids = [variation.id for variation in manifest.variations]
        self.matrix.show_cells(variation_ids, len(video_numbers), self._get_cell_state, is_same_batch)
        self.update_marked_cells()
        seeds = sorted({video.seed for video in manifest.videos})
        seed_text = f"seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"seed {seeds[0]}"
        title = f"{message.folder.name}: {format_count(len(variation_ids), 'variation')} by {seed_text}"
        self.matrix.border_title = make_content(title)
        if message.video_index is not None and message.video_index < len(manifest.videos):
            video = manifest.videos[message.video_index]
            self.matrix.cursor = video.variation
            self.matrix.column = video_numbers.index(video.number)
        if (
            not is_same_batch or previous_entry is None or self.get_current_entry() != previous_entry
        ):  # a contact sheet is drawn only where it may be new
            self._show_current_video()

    def _get_cell_state(self, row: int, column: int) -> str | None:
        index = self.video_indices.get((row, column))
        return None if index is None or self.shown_manifest is None else self.shown_manifest.videos[index].state

    def get_current_entry(self) -> VideoEntry | None:
        """Return the manifest entry of the video under the cursor, or None."""
        index = self.video_indices.get((self.matrix.cursor, self.matrix.column))
        return None if index is None or self.shown_manifest is None else self.shown_manifest.videos[index]

    def show_marked_cells(self, marked_cells: frozenset[tuple[int, int]]) -> None:
        self.matrix.show_marks(marked_cells)

    def select_cell(self, row: int, column: int) -> None:
        self.matrix.cursor, self.matrix.column = row, column

    @on(Matrix.Moved)
    def _show_highlighted_video(self) -> None:
        self._show_current_video()

    @on(VirtualList.Chosen, "#matrix")
    def _play_chosen_video(self) -> None:
        self.action_play()

    def _show_current_video(self) -> None:
        entry = self.get_current_entry()
        if entry is None or self.shown_folder is None or self.shown_manifest is None:
            self.details.show_message("")
        else:
            self.details.show_entry(self.shown_manifest.variations[entry.variation].id, entry, self.shown_folder)

    # Actions

    def action_search(self) -> None:
        self.search_input.open()

    def action_filter(self) -> None:
        self.state_filter = STATE_FILTERS[(STATE_FILTERS.index(self.state_filter) + 1) % len(STATE_FILTERS)]
        self._update_batch_list()

    def action_reload(self) -> None:
        self.batches = []
        self.scan_folders()

    def rescan_folders(self) -> None:
        self.shown_folder = None
        self.action_reload()

    def action_copy_path(self) -> None:
        if (clip := self.find_current_clip()) is not None:
            self.app.copy_to_clipboard(str(clip.path))
            self.notify(f"{clip.path}\n(in tmux: set -g set-clipboard on)", title="path copied")

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
        folder = (
            self.visible_batches[self.batch_list.cursor].folder
            if self.batch_list.cursor < len(self.visible_batches)
            else None
        )
        if folder is None:
            self.notify("no batch is selected")
            return
        queued_batch = next((batch for batch in self.wantui_app.snapshot.batches if batch.folder == folder), None)
        if queued_batch is not None and queued_batch.unfinished_count:
            self.notify(f"cannot trash {folder.name}: it is on the queue. Cancel it there first", severity="error")
            return

        def remove_and_trash(queue: Queue) -> None:
            # While the dialog was open, the batch may have been queued again.
            batch = next((batch for batch in queue.list_batches(-1) if batch.folder == folder), None)
            if batch is not None and batch.unfinished_count:
                raise UserError(f"cannot trash {folder.name}: it is on the queue again. Cancel it there first")
            if batch is not None:
                queue.remove_batch(batch.id)
            self.move_folder_to_trash(folder)

        def trash_if_confirmed(is_confirmed: bool | None) -> None:
            if is_confirmed:
                self.wantui_app.change_queue(remove_and_trash)

        self.app.push_screen(
            Confirm(f"Move {folder.name} with all its videos to the trash?", "Move"), trash_if_confirmed
        )
