"""Library screen: batch folders, newest first; one batch as a matrix of variations by seeds; one video in detail."""

import json
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
from wantui.queue.states import find_batch_state
from wantui.storage.batch_index import BatchSummary, find_batches
from wantui.storage.manifest import Manifest, VideoEntry
from wantui.tui.actions import bindings
from wantui.tui.columns import Column, draw_header, draw_row
from wantui.tui.content import to_content
from wantui.tui.edit_copy import edit_copy
from wantui.tui.library_data import (
    STATE_FILTERS,
    BatchFoldersScanned,
    BatchLoaded,
    explain_empty_list,
    filter_batches,
    read_batch,
)
from wantui.tui.queue_watcher import BATCH_END_EVENTS, QueueSnapshot
from wantui.tui.screens.dialogs import Confirm, TextViewer
from wantui.tui.screens.library_jobs import LibraryJobs
from wantui.tui.screens.player import Player
from wantui.tui.state_style import state_style
from wantui.tui.widgets.matrix import Matrix
from wantui.tui.widgets.search import Search
from wantui.tui.widgets.video_details import VideoDetails
from wantui.tui.widgets.virtual_list import VirtualList


class LibraryScreen(LibraryJobs):
    """Batch folders on the left; matrix and video details on the right."""

    NAME = "library"
    BINDINGS = [*bindings("library")]

    rows = getters.query_one("#batches", VirtualList)
    matrix = getters.query_one(Matrix)
    details = getters.query_one(VideoDetails)
    search = getters.query_one(Search)

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[BatchSummary] = []
        self.visible_rows: list[BatchSummary] = []
        """Batches that match search and filter."""
        self.state_filter = "all"
        self.folder: Path | None = None
        """Folder of the batch shown in the matrix."""
        self.manifest: Manifest | None = None
        self.video_indices: dict[tuple[int, int], int] = {}
        """Index of each video in the manifest, by row and column of the matrix."""
        self.marked_clip: tuple[Path, str] | None = None
        """Clip to compare with, and its title."""
        self._pending_selection: tuple[Path, int | None] | None = None
        """Batch folder, and index of the video, to select after the next scan."""

    def compose_body(self) -> ComposeResult:
        with Horizontal():
            with Vertical(id="left"):
                yield Search("name, prompt or model")
                batches = VirtualList(id="batches", classes="pane", empty="reading ...", header=self._draw_header)
                batches.border_title = "Batches"
                yield batches
            with Vertical(id="right"):
                matrix = Matrix(id="matrix", classes="pane")
                matrix.border_title = "Variations by seeds"
                yield matrix
                yield VideoDetails(with_sheets=not self.wantui_app.low_bandwidth)

    def on_mount(self) -> None:
        self.set_focus(self.rows)

    def focus_default(self) -> None:
        self.search.close()
        self.set_focus(self.rows)

    def on_shown(self) -> None:
        self.scan_folders()

    def show_snapshot(self, snapshot: QueueSnapshot) -> None:
        if any(isinstance(event.payload, (*BATCH_END_EVENTS, BatchAdded)) for event in snapshot.events):
            self.scan_folders()

    # Folders

    @work(thread=True, exclusive=True, group="scan", exit_on_error=False)
    def scan_folders(self) -> None:
        """Scan the batch folders on a background thread."""
        worker, batches = get_current_worker(), find_batches(self.wantui_app.library_roots())
        if not worker.is_cancelled:
            self.post_message(BatchFoldersScanned(batches))

    @on(BatchFoldersScanned)
    def _show_scanned_batches(self, message: BatchFoldersScanned) -> None:
        if message.batches == self.batches and self.folder is not None:
            self.load_batch(self.folder, None)  # a regenerated video leaves all counts unchanged
            return
        self.batches = message.batches
        self._apply_filter()

    def _apply_filter(self) -> None:
        """Show the batches that match search and filter; keep the cursor on its batch."""
        words = self.search.value
        self.visible_rows = filter_batches(self.batches, words, self.state_filter)
        folders = [batch.folder for batch in self.visible_rows]
        self.rows.empty = explain_empty_list(len(self.batches), words, self.state_filter)
        self.rows.fill(len(self.visible_rows), self._draw_batch)
        suffix = f", {self.state_filter}" if self.state_filter != "all" else ""
        self.rows.border_title = to_content(f"Batches: {len(self.visible_rows)} of {len(self.batches)}{suffix}")
        folder, video = self._pending_selection or (self.folder, None)
        if folder in folders:
            self.rows.set_reactive(VirtualList.cursor, folders.index(folder))
            self.rows.refresh()
            self._pending_selection = None
        else:
            video = None
        if self.visible_rows:
            self.load_batch(self.visible_rows[self.rows.cursor].folder, video)
        else:
            self._clear_details()

    def _clear_details(self) -> None:
        """Clear the right side, so that no key acts on an invisible batch."""
        if self._pending_selection is None and self.folder is not None:
            self._pending_selection = (self.folder, None)  # the cursor returns here
        self.folder = self.manifest = None
        self.video_indices = {}
        self.matrix.show([], 0, lambda row, column: None, same=False)
        self.matrix.border_title = "Variations by seeds"
        self.details.show_message("")

    def select_batch(self, folder: Path, video: int | None) -> None:
        """Select a batch, and optionally one of its videos."""
        self._pending_selection = (folder.resolve(), video)
        self.state_filter = "all"
        self.batches = []
        if self.is_mounted:  # otherwise the screen is about to be shown, and scans then
            self.search.close()
            self.scan_folders()

    @cached_property
    def _columns(self) -> list[Column[BatchSummary]]:
        rows = self.rows

        def state(batch: BatchSummary) -> Text:
            style = state_style(find_batch_state(dict(batch.counts)))
            return Text(style.glyph, rows.colour(style.colour))

        def name(batch: BatchSummary) -> Text:
            return Text.assemble((batch.folder.name, "bold"), (f"  {batch.template}", "dim"))

        return [
            Column("", 1, state),
            Column("done", 9, lambda batch: f"{batch.count_videos('done')}/{batch.total}", "right"),
            Column("batch", None, name),
        ]

    def _draw_header(self, width: int) -> Text:
        return draw_header(self._columns, width)

    def _draw_batch(self, index: int, width: int) -> Text:
        batch, rows = self.visible_rows[index], self.rows
        if batch.fault:
            reason = batch.fault.replace(f"{batch.folder}/", "")  # a long path would push the reason out of sight
            return Text.assemble(("✗ unreadable ", rows.colour("error")), batch.folder.name, "  ", (reason, "dim"))
        return draw_row(self._columns, batch, width)

    @on(VirtualList.Highlighted, "#batches")
    def _load_highlighted_batch(self) -> None:
        if self.rows.cursor < len(self.visible_rows):
            self.load_batch(self.visible_rows[self.rows.cursor].folder, None)

    @on(VirtualList.Chosen, "#batches")
    def _focus_matrix(self) -> None:
        self.set_focus(self.matrix)

    @on(Input.Changed, "#search")
    def _filter_while_typing(self) -> None:
        self._apply_filter()

    @on(Input.Submitted, "#search")
    def _focus_batch_list(self) -> None:
        self.set_focus(self.rows)

    # One batch

    @work(thread=True, exclusive=True, group="load", exit_on_error=False)
    def load_batch(self, folder: Path, video: int | None) -> None:
        """Read a manifest on a background thread; `video` is the index of the video to select."""
        worker, message = get_current_worker(), read_batch(folder, video)
        if not worker.is_cancelled:
            self.post_message(message)

    @on(BatchLoaded)
    def _show_batch(self, message: BatchLoaded) -> None:
        if not self.visible_rows or self.visible_rows[self.rows.cursor].folder != message.folder:
            return  # the cursor has moved to another batch, or the list is empty
        same, before = message.folder == self.folder, self.current_entry()
        if same and message.video is None and message.manifest is not None and message.manifest == self.manifest:
            return
        self.folder, self.manifest = message.folder, message.manifest
        manifest = message.manifest
        if manifest is None:
            self.matrix.show([], 0, lambda row, column: None, same=False)
            self.details.show_message(f"✗ {message.error}")
            return
        numbers = sorted({video.number for video in manifest.videos})
        self.video_indices = {
            (video.variation, numbers.index(video.number)): index for index, video in enumerate(manifest.videos)
        }
        names = [variation.id for variation in manifest.variations]
        self.matrix.show(names, len(numbers), self._cell_state, same)
        seeds = sorted({video.seed for video in manifest.videos})
        seeds_shown = f"seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"seed {seeds[0]}"
        title = f"{message.folder.name}: {format_count(len(names), 'variation')} by {seeds_shown}"
        self.matrix.border_title = to_content(title)
        if message.video is not None and message.video < len(manifest.videos):
            video = manifest.videos[message.video]
            self.matrix.cursor = video.variation
            self.matrix.column = numbers.index(video.number)
        if (
            not same or before is None or self.current_entry() != before
        ):  # a contact sheet is drawn only where it may be new
            self._show_current_video()

    def _cell_state(self, row: int, column: int) -> str | None:
        index = self.video_indices.get((row, column))
        return None if index is None or self.manifest is None else self.manifest.videos[index].state

    def current_entry(self) -> VideoEntry | None:
        """Return the manifest entry of the video under the cursor, or None."""
        index = self.video_indices.get((self.matrix.cursor, self.matrix.column))
        return None if index is None or self.manifest is None else self.manifest.videos[index]

    def current_clip(self) -> tuple[VideoEntry, Path] | None:
        """Return the video under the cursor and its clip; notify and return None if the clip is missing."""
        entry = self.current_entry()
        if entry is None or self.folder is None:
            self.notify("no video is selected")
            return None
        path = self.folder / entry.files.get("clip", "?")
        if "clip" not in entry.files or not path.is_file():
            self.notify(
                f"this video has no clip: {entry.state}{f', {entry.error}' if entry.error else ''}", severity="warning"
            )
            return None
        return entry, path

    @on(Matrix.Moved)
    def _show_highlighted_video(self) -> None:
        self._show_current_video()

    @on(VirtualList.Chosen, "#matrix")
    def _play_chosen_video(self) -> None:
        self.action_play()

    def _show_current_video(self) -> None:
        entry = self.current_entry()
        if entry is None or self.folder is None or self.manifest is None:
            self.details.show_message("")
        else:
            self.details.show(self.manifest.variations[entry.variation].id, entry, self.folder)

    # Actions

    def action_search(self) -> None:
        self.search.open()

    def action_filter(self) -> None:
        self.state_filter = STATE_FILTERS[(STATE_FILTERS.index(self.state_filter) + 1) % len(STATE_FILTERS)]
        self._apply_filter()

    def action_reload(self) -> None:
        self.batches = []
        self.scan_folders()

    def rescan_folders(self) -> None:
        self.folder = None
        self.action_reload()

    def action_play(self) -> None:
        if (chosen := self.current_clip()) is not None:
            entry, path = chosen
            self.app.push_screen(Player([(path, self._video_title(entry))], entry.recipe.fps))

    def action_play_pixels(self) -> None:
        from wantui.tui.graphics import require_protocol

        try:
            protocol = require_protocol()
        except UserError as error:
            self.notify(str(error), severity="error", timeout=12)
            return
        if (chosen := self.current_clip()) is not None:
            entry, path = chosen
            self.decode_for_pixels(path, entry.recipe.fps, self._video_title(entry), protocol)

    def action_mark(self) -> None:
        if (chosen := self.current_clip()) is not None:
            entry, path = chosen
            self.marked_clip = (path, self._video_title(entry))
            self.matrix.marked = (self.matrix.cursor, self.matrix.column)
            self.matrix.refresh()
            self.notify(f"marked {self._video_title(entry)}; select another video and press c to compare")

    def action_compare(self) -> None:
        if self.marked_clip is None:
            self.notify("mark a video first (m)", severity="warning")
        elif (chosen := self.current_clip()) is not None:
            entry, path = chosen
            self.app.push_screen(Player([self.marked_clip, (path, self._video_title(entry))], entry.recipe.fps))

    def _video_title(self, entry: VideoEntry) -> str:
        assert self.manifest is not None
        return f"{self.manifest.variations[entry.variation].id} seed {entry.seed}"

    def action_recipe(self) -> None:
        entry = self.current_entry()
        if entry is not None:
            text = json.dumps(entry.model_dump(mode="json"), indent=2, ensure_ascii=False)
            self.app.push_screen(TextViewer(f"Recipe of {self._video_title(entry)}", text))

    def action_copy_path(self) -> None:
        entry = self.current_entry()
        if entry is None or self.folder is None:
            self.notify("no video is selected")
            return
        path = self.folder / entry.files.get("clip", "")
        self.app.copy_to_clipboard(str(path))
        self.notify(f"{path}\n(in tmux: set -g set-clipboard on)", title="copied")

    def action_edit_copy(self) -> None:
        if self.folder is not None:
            edit_copy(self, self.folder)

    def action_rerun(self) -> None:
        if (chosen := self.current_clip()) is not None:
            self.notify("generating the video again in the background; the result will appear here")
            self.rerun(chosen[1])

    def action_resume(self) -> None:
        if self.folder is not None and self.manifest is not None:
            self.queue_missing(self.folder, self.manifest)

    def action_trash(self) -> None:
        folder = self.visible_rows[self.rows.cursor].folder if self.rows.cursor < len(self.visible_rows) else None
        if folder is None:
            self.notify("no batch is selected")
            return
        queued = next((batch for batch in self.wantui_app.snapshot.batches if batch.folder == folder), None)
        if queued is not None and queued.unfinished:
            self.notify(f"cannot trash {folder.name}: it is on the queue. Cancel it there first", severity="error")
            return

        def remove_and_trash(queue: Queue) -> None:
            # While the dialog was open, the batch may have been queued again.
            row = next((batch for batch in queue.batches(-1) if batch.folder == folder), None)
            if row is not None and row.unfinished:
                raise UserError(f"cannot trash {folder.name}: it is on the queue again. Cancel it there first")
            if row is not None:
                queue.remove(row.id)
            self.move_folder_to_trash(folder)

        def act(confirmed: bool | None) -> None:
            if confirmed:
                self.wantui_app.change_queue(remove_and_trash)

        self.app.push_screen(Confirm(f"Move {folder.name} with all its videos to the trash?", "Move"), act)
