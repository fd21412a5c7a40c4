"""The library: all batch folders, newest first; one of them as a matrix of variations by seeds; one cell in detail."""

import json
from dataclasses import dataclass
from pathlib import Path

from rich.style import Style
from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.widgets import Input
from textual.worker import get_current_worker

from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.queue.events import BatchAdded
from wantui.queue.queue import Queue
from wantui.queue.states import state_of_counts
from wantui.storage.batch_index import BatchSummary, find_batches
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import Manifest, VideoEntry, read_manifest
from wantui.tui.actions import bindings
from wantui.tui.edit_copy import edit_copy
from wantui.tui.plain import plain
from wantui.tui.queue_watcher import ENDS, QueueSnapshot
from wantui.tui.screens.dialogs import Confirm, TextViewer
from wantui.tui.screens.library_jobs import LibraryJobs
from wantui.tui.screens.player import Player
from wantui.tui.state_style import state_style
from wantui.tui.widgets.matrix import Matrix
from wantui.tui.widgets.search import Search
from wantui.tui.widgets.video_details import VideoDetails
from wantui.tui.widgets.virtual_list import VirtualList

NONE = "no batch is here yet; 1 composes one"
FILTERS = ("all", "failures", "unfinished")


@dataclass
class BatchesFound(Message):
    """The folders were looked through."""

    batches: list[BatchSummary]


@dataclass
class BatchLoaded(Message):
    """A batch was read, or could not be."""

    folder: Path
    manifest: Manifest | None
    fault: str
    pick: int | None
    """Index of the video to put the cursor on."""


class LibraryScreen(LibraryJobs):
    """Folders on the left, matrix and cell on the right."""

    NAME = "library"
    BINDINGS = [*bindings("library")]

    def __init__(self) -> None:
        super().__init__()
        self.found: list[BatchSummary] = []
        self.shown: list[BatchSummary] = []
        self.filter = "all"
        self.folder: Path | None = None
        self.manifest: Manifest | None = None
        self.by_place: dict[tuple[int, int], int] = {}
        self.marked: tuple[Path, str] | None = None
        """Clip to compare with, and its name."""
        self._wanted: tuple[Path, int | None] | None = None

    def body(self) -> ComposeResult:
        with Horizontal():
            with Vertical(id="left"):
                yield Search("name, prompt or model")
                batches = VirtualList(id="batches", classes="pane", empty="reading ...")
                batches.border_title = "Batches"
                yield batches
            with Vertical(id="right"):
                matrix = Matrix(id="matrix", classes="pane")
                matrix.border_title = "Variations by seeds"
                yield matrix
                yield VideoDetails(with_sheets=not self.wantui.low_bandwidth)

    @property
    def rows(self) -> VirtualList:
        return self.query_one("#batches", VirtualList)

    @property
    def matrix(self) -> Matrix:
        return self.query_one(Matrix)

    def on_mount(self) -> None:
        self.set_focus(self.rows)

    def rest(self) -> None:
        self.query_one(Search).close()
        self.set_focus(self.rows)

    def on_shown(self) -> None:
        self.look()

    def show_news(self, news: QueueSnapshot) -> None:
        if any(isinstance(event.payload, (*ENDS, BatchAdded)) for event in news.events):
            self.look()

    # Folders

    @work(thread=True, exclusive=True, group="look", exit_on_error=False)
    def look(self) -> None:
        """Look through the folders, off the thread that draws."""
        worker, batches = get_current_worker(), find_batches(self.wantui.library_roots())
        if not worker.is_cancelled:
            self.post_message(BatchesFound(batches))

    @on(BatchesFound)
    def _batches_found(self, message: BatchesFound) -> None:
        if message.batches == self.found and self.folder is not None:
            self.read(self.folder, None)  # a video that was made again leaves all counts as they were
            return
        self.found = message.batches
        self._apply_filter()

    def _apply_filter(self) -> None:
        """Show what search and filter leave, with the cursor where it was."""
        words = self.query_one(Search).value
        self.shown = [
            batch
            for batch in self.found
            if batch.holds(words)
            and (self.filter != "failures" or batch.count("failed") or batch.fault)
            and (self.filter != "unfinished" or batch.count("done") < batch.total)
        ]
        folders = [batch.folder for batch in self.shown]
        self.rows.empty = self._why_empty(words)
        self.rows.fill(len(self.shown), self._draw_batch)
        more = f", {self.filter}" if self.filter != "all" else ""
        self.rows.border_title = plain(f"Batches: {len(self.shown)} of {len(self.found)}{more}")
        wanted, pick = self._wanted or (self.folder, None)
        if wanted in folders:
            self.rows.set_reactive(VirtualList.cursor, folders.index(wanted))
            self.rows.refresh()
            self._wanted = None
        else:
            pick = None
        if self.shown:
            self.read(self.shown[self.rows.cursor].folder, pick)
        else:
            self._show_nothing()

    def _show_nothing(self) -> None:
        """Clear the right side, so that no key acts on an unseen batch."""
        if self._wanted is None and self.folder is not None:
            self._wanted = (self.folder, None)  # where the cursor returns to
        self.folder = self.manifest = None
        self.by_place = {}
        self.matrix.show([], 0, lambda row, column: None, same=False)
        self.matrix.border_title = "Variations by seeds"
        self.query_one(VideoDetails).say("")

    def _why_empty(self, words: str) -> str:
        """Return the text that replaces an empty list of batches."""
        if not self.found:
            return NONE
        hidden = format_count(len(self.found), "batch", "batches")
        if words:
            return f"no batch matches {words!r}; escape ends the search ({hidden} in all)"
        return f"no batch is among: {self.filter}; f shows others ({hidden} in all)"

    def open_batch(self, folder: Path, video: int | None) -> None:
        """Put the cursor on a batch, and on one of its videos."""
        self._wanted = (folder.resolve(), video)
        self.filter = "all"
        self.found = []
        if self.is_mounted:  # otherwise it is shown for the first time, and looks by itself
            self.query_one(Search).close()
            self.look()

    def _draw_batch(self, index: int, width: int) -> Text:
        batch, rows = self.shown[index], self.rows
        if batch.fault:
            fault = batch.fault.replace(f"{batch.folder}/", "")  # a long path would leave no room for the reason
            return Text.assemble(("✗ unreadable ", rows.colour("error")), batch.folder.name, "  ", (fault, "dim"))
        state = state_style(state_of_counts(dict(batch.counts)))
        line = Text.assemble((f"{state.glyph} {batch.count('done')}/{batch.total} ", rows.colour(state.colour)))
        line.append(batch.folder.name, Style(bold=True))
        line.append(f"  {batch.template}", Style(dim=True))
        return line

    @on(VirtualList.Highlighted, "#batches")
    def _moved(self) -> None:
        if self.rows.cursor < len(self.shown):
            self.read(self.shown[self.rows.cursor].folder, None)

    @on(VirtualList.Chosen, "#batches")
    def _chosen(self) -> None:
        self.set_focus(self.matrix)

    @on(Input.Changed, "#search")
    def _searching(self) -> None:
        self._apply_filter()

    @on(Input.Submitted, "#search")
    def _searched(self) -> None:
        self.set_focus(self.rows)

    # One batch

    @work(thread=True, exclusive=True, group="read", exit_on_error=False)
    def read(self, folder: Path, pick: int | None) -> None:
        """Read a manifest, off the thread that draws."""
        worker = get_current_worker()
        try:
            message = BatchLoaded(folder, read_manifest(BatchFolder(folder)), "", pick)
        except UserError as error:
            message = BatchLoaded(folder, None, str(error), pick)
        if not worker.is_cancelled:
            self.post_message(message)

    @on(BatchLoaded)
    def _opened(self, message: BatchLoaded) -> None:
        if not self.shown or self.shown[self.rows.cursor].folder != message.folder:
            return  # another batch is under the cursor by now, or none
        same, before = message.folder == self.folder, self.entry()
        if same and message.pick is None and message.manifest is not None and message.manifest == self.manifest:
            return
        self.folder, self.manifest = message.folder, message.manifest
        manifest = message.manifest
        if manifest is None:
            self.matrix.show([], 0, lambda row, column: None, same=False)
            self.query_one(VideoDetails).say(f"✗ {message.fault}")
            return
        numbers = sorted({video.number for video in manifest.videos})
        self.by_place = {
            (video.variation, numbers.index(video.number)): index for index, video in enumerate(manifest.videos)
        }
        names = [variation.id for variation in manifest.variations]
        self.matrix.show(names, len(numbers), self._state_of, same)
        seeds = sorted({video.seed for video in manifest.videos})
        seeds_shown = f"seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"seed {seeds[0]}"
        title = f"{message.folder.name}: {format_count(len(names), 'variation')} by {seeds_shown}"
        self.matrix.border_title = plain(title)
        if message.pick is not None and message.pick < len(manifest.videos):
            video = manifest.videos[message.pick]
            self.matrix.cursor = video.variation
            self.matrix.column = numbers.index(video.number)
        if not same or before is None or self.entry() != before:  # a contact sheet is drawn only where it may be new
            self._show_cell()

    def _state_of(self, row: int, column: int) -> str | None:
        index = self.by_place.get((row, column))
        return None if index is None or self.manifest is None else self.manifest.videos[index].state

    def entry(self) -> VideoEntry | None:
        """Return the video under the cursor."""
        index = self.by_place.get((self.matrix.cursor, self.matrix.column))
        return None if index is None or self.manifest is None else self.manifest.videos[index]

    def clip(self) -> tuple[VideoEntry, Path] | None:
        """Return the video under the cursor and its clip; notify if there is none."""
        entry = self.entry()
        if entry is None or self.folder is None:
            self.notify("there is no video here")
            return None
        path = self.folder / entry.files.get("clip", "?")
        if "clip" not in entry.files or not path.is_file():
            self.notify(f"it has no clip: {entry.state}{f', {entry.error}' if entry.error else ''}", severity="warning")
            return None
        return entry, path

    @on(Matrix.Moved)
    def _cell_moved(self) -> None:
        self._show_cell()

    @on(VirtualList.Chosen, "#matrix")
    def _cell_chosen(self) -> None:
        self.action_play()

    def _show_cell(self) -> None:
        details, entry = self.query_one(VideoDetails), self.entry()
        if entry is None or self.folder is None or self.manifest is None:
            details.say("")
        else:
            details.show(self.manifest.variations[entry.variation].id, entry, self.folder)

    # Actions

    def action_search(self) -> None:
        self.query_one(Search).open()

    def action_filter(self) -> None:
        self.filter = FILTERS[(FILTERS.index(self.filter) + 1) % len(FILTERS)]
        self._apply_filter()

    def action_reload(self) -> None:
        self.found = []
        self.look()

    def look_again(self) -> None:
        self.folder = None
        self.action_reload()

    def action_play(self) -> None:
        if (chosen := self.clip()) is not None:
            entry, path = chosen
            self.app.push_screen(Player([(path, self._title_of(entry))], entry.recipe.fps))

    def action_play_pixels(self) -> None:
        from wantui.tui.graphics import terminal_protocol

        try:
            protocol = terminal_protocol()
        except UserError as error:
            self.notify(str(error), severity="error", timeout=12)
            return
        if (chosen := self.clip()) is not None:
            entry, path = chosen
            self.decode_for_pixels(path, entry.recipe.fps, self._title_of(entry), protocol)

    def action_mark(self) -> None:
        if (chosen := self.clip()) is not None:
            entry, path = chosen
            self.marked = (path, self._title_of(entry))
            self.matrix.marked = (self.matrix.cursor, self.matrix.column)
            self.matrix.refresh()
            self.notify(f"marked: {self._title_of(entry)}; c on another video compares")

    def action_compare(self) -> None:
        if self.marked is None:
            self.notify("mark a video first: m", severity="warning")
        elif (chosen := self.clip()) is not None:
            entry, path = chosen
            self.app.push_screen(Player([self.marked, (path, self._title_of(entry))], entry.recipe.fps))

    def _title_of(self, entry: VideoEntry) -> str:
        assert self.manifest is not None
        return f"{self.manifest.variations[entry.variation].id} seed {entry.seed}"

    def action_recipe(self) -> None:
        entry = self.entry()
        if entry is not None:
            text = json.dumps(entry.model_dump(mode="json"), indent=2, ensure_ascii=False)
            self.app.push_screen(TextViewer(f"Recipe of {self._title_of(entry)}", text))

    def action_copy_path(self) -> None:
        entry = self.entry()
        if entry is None or self.folder is None:
            self.notify("there is no video here")
            return
        path = self.folder / entry.files.get("clip", "")
        self.app.copy_to_clipboard(str(path))
        self.notify(f"{path}\n(in tmux: set -g set-clipboard on)", title="copied")

    def action_edit_copy(self) -> None:
        if self.folder is not None:
            edit_copy(self, self.folder)

    def action_rerun(self) -> None:
        if (chosen := self.clip()) is not None:
            self.notify("Rendering again in the background; the result will appear here")
            self.rerun(chosen[1])

    def action_resume(self) -> None:
        if self.folder is not None and self.manifest is not None:
            self.queue_missing(self.folder, self.manifest)

    def action_trash(self) -> None:
        folder = self.shown[self.rows.cursor].folder if self.rows.cursor < len(self.shown) else None
        if folder is None:
            self.notify("there is no batch here")
            return
        queued = next((batch for batch in self.wantui.news.batches if batch.folder == folder), None)
        if queued is not None and queued.unfinished:
            self.notify(f"{folder.name} is on the queue; cancel it there first", severity="error")
            return

        def forget(queue: Queue) -> None:
            # The question may have been there for long, and the batch queued again.
            now = next((batch for batch in queue.batches(-1) if batch.folder == folder), None)
            if now is not None and now.unfinished:
                raise UserError(f"{folder.name} is on the queue again; cancel it there first")
            if now is not None:
                queue.remove(now.id)
            self.trash(folder)

        def trash(sure: bool | None) -> None:
            if sure:
                self.wantui.change_queue(forget)

        self.app.push_screen(Confirm(f"Move {folder.name} with all its videos to the trash?", "Move"), trash)
