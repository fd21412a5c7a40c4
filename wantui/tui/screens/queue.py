"""Queue screen: the batches in queue order, the videos of the selected batch, and actions on both."""

from collections.abc import Callable, Mapping
from functools import cached_property

from rich.style import Style
from rich.text import Text
from textual import getters, on
from textual.app import ComposeResult
from textual.containers import Vertical

from wantui.batches.eta import format_seconds_left
from wantui.formatting import format_count
from wantui.queue.queue import MoveTarget, Queue
from wantui.queue.reader import UNFINISHED_STATES
from wantui.queue.records import BatchRow, VideoPage, VideoRow
from wantui.queue.states import STATE_WORDS, batch_state, video_state
from wantui.tui.actions import bindings
from wantui.tui.cancelling import cancel_videos
from wantui.tui.columns import Column, draw_header, draw_row
from wantui.tui.content import to_content
from wantui.tui.edit_copy import edit_copy
from wantui.tui.messages import ShowBatch
from wantui.tui.plots import bar
from wantui.tui.queue_watcher import PAGE_SIZE, QueueSnapshot, VideoPages
from wantui.tui.screens.base import BaseScreen
from wantui.tui.screens.dialogs import Confirm
from wantui.tui.state_style import state_style
from wantui.tui.widgets.diff_text import DiffText
from wantui.tui.widgets.virtual_list import VirtualList
from wantui.tui.wrapping import wrap_text

EMPTY_QUEUE = "the queue is empty; 1 composes a batch"
ETA_SECONDS, SLOW_ETA_SECONDS = 5.0, 30.0
"""Seconds between two updates of the visible ETAs: normally, and with --low-bandwidth."""
STATE_WIDTH = 2 + max(map(len, STATE_WORDS.values()))
"""Width of the state column in cells: a glyph, a space and the longest word."""


class QueueScreen(BaseScreen):
    """Batches above, videos of the selected batch below; keys act on the row under the cursor."""

    NAME = "queue"
    BINDINGS = [*bindings("queue")]

    batch_rows = getters.query_one("#batches", VirtualList)
    video_rows = getters.query_one("#videos", VirtualList)
    about = getters.query_one("#about", DiffText)

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[BatchRow] = []
        self.selected_batch: int | None = None
        self.shows_ended = True
        self._has_engine = False
        self.pages: Mapping[int, VideoPage] = {}
        """Videos of the selected batch read so far, by page number."""

    def compose_body(self) -> ComposeResult:
        with Vertical():
            batches = VirtualList(id="batches", classes="pane", empty=EMPTY_QUEUE, header=self._draw_batch_header)
            batches.border_title = "Batches"
            yield batches
            videos = VirtualList(id="videos", classes="pane", header=self._draw_video_header)
            videos.border_title = "Videos"
            yield videos
            yield DiffText(id="about")

    def on_mount(self) -> None:
        self.set_focus(self.batch_rows)
        self.wantui_app.pages_signal.subscribe(self, self._handle_pages)
        self.set_interval(SLOW_ETA_SECONDS if self.wantui_app.low_bandwidth else ETA_SECONDS, self._tick)

    def focus_default(self) -> None:
        self.set_focus(self.batch_rows)

    # Drawing

    def on_screen_suspend(self) -> None:
        self.wantui_app.queue_watcher.watch(None)

    def on_shown(self) -> None:
        """Watch the visible rows again."""
        self._watch_visible_videos()

    def show_snapshot(self, snapshot: QueueSnapshot) -> None:
        before = self.batches
        if self._has_engine != (snapshot.engine is not None):  # running videos become interrupted, or vice versa
            self._has_engine = snapshot.engine is not None
            self.video_rows.redraw()
        self.batches = [batch for batch in snapshot.batches if self.shows_ended or batch.unfinished]
        hidden = len(snapshot.batches) - len(self.batches)
        ended = format_count(hidden, "ended batch", "ended batches")
        self.batch_rows.empty = f"{ended} hidden; a shows all" if hidden else EMPTY_QUEUE
        if [batch.id for batch in before] != [batch.id for batch in self.batches]:
            self.batch_rows.fill(len(self.batches), self._draw_batch)
            ids = [batch.id for batch in self.batches]
            if self.selected_batch in ids:
                self.batch_rows.cursor = ids.index(self.selected_batch)
        else:
            self.batch_rows.redraw()
        hold = snapshot.held
        title = f"Batches: {len(self.batches)}"
        self.batch_rows.border_title = to_content(f"{title}, on hold: {hold.reason}" if hold else title)
        is_idle = snapshot.engine is None and any(batch.unfinished for batch in snapshot.batches)
        self.batch_rows.border_subtitle = to_content("no engine is running: F6 starts one" if is_idle else "")
        self._show_selected_batch()
        self._show_full_text()

    def _current_batch(self) -> BatchRow | None:
        index = self.batch_rows.cursor
        return self.batches[index] if index < len(self.batches) else None

    def _show_selected_batch(self) -> None:
        """Show the videos of the batch under the cursor."""
        batch = self._current_batch()
        chosen = batch.id if batch is not None else None
        if chosen != self.selected_batch or batch is None or batch.total != self.video_rows.count:
            same = chosen == self.selected_batch
            self.selected_batch = chosen
            if not same:
                self.pages = {}  # the watcher publishes the pages of the newly watched batch
            self.video_rows.fill(batch.total if batch else 0, self._draw_video, keep_cursor=same)
        self.video_rows.border_title = to_content(f"Videos of {batch.name}" if batch else "Videos")

    @on(VirtualList.VisibleRowsChanged, "#videos")
    def _watch_visible_videos(self) -> None:
        """Watch the visible videos and those around the cursor; `_handle_pages` receives them."""
        if self.is_current:
            first, last = self.video_rows.visible_range()
            indices = (first, max(first, last), self.video_rows.cursor)
            self.wantui_app.queue_watcher.watch(self.selected_batch, {index // PAGE_SIZE for index in indices})

    def _handle_pages(self, videos: VideoPages) -> None:
        """Redraw the videos that changed."""
        if videos.batch == self.selected_batch:
            self.pages = videos.pages
            self.video_rows.redraw()
            self._show_full_text()

    def _tick(self) -> None:
        """Redraw the ETAs of the visible videos."""
        if self.is_current:
            self.video_rows.redraw()

    def _video_at(self, index: int) -> VideoRow | None:
        """Return a video of the selected batch, or None if it has not been read yet."""
        page, offset = divmod(index, PAGE_SIZE)
        videos = self.pages[page].videos if page in self.pages else ()
        return videos[offset] if offset < len(videos) else None

    @cached_property
    def _batch_columns(self) -> list[Column[BatchRow]]:
        rows = self.batch_rows

        def eta(batch: BatchRow) -> str:
            etas = self.wantui_app.snapshot.etas.seconds_by_batch
            return format_seconds_left(etas[batch.id]) if batch.id in etas else ""

        def failed(batch: BatchRow) -> Text:
            return Text(str(batch.counts.get("failed") or ""), rows.colour("error"))

        return [
            Column("#", 4, lambda batch: str(batch.id), "right"),
            Column("state", STATE_WIDTH, lambda batch: _state_cell(rows, batch_state(batch, self._has_engine))),
            Column(
                "progress",
                12,
                lambda batch: _bar_cell(rows, _count_done(batch) / max(1, batch.total), 12),
                min_list_width=90,
            ),
            Column("videos", 11, lambda batch: f"{_count_done(batch)}/{batch.total}", "right"),
            Column("failed", 6, failed, "right"),
            Column("ETA", 8, eta, "right"),
            Column("name", None, lambda batch: Text(batch.name, Style(bold=True))),
        ]

    @cached_property
    def _video_columns(self) -> list[Column[tuple[int, VideoRow]]]:
        rows = self.video_rows

        def steps(video: VideoRow) -> str:
            return f"{video.step}/{video.steps}" if video.state == "running" else ""

        def eta(index: int, video: VideoRow) -> str:
            left = self._estimate_eta(index, video) if video.state in UNFINISHED_STATES else None
            return "" if left is None else format_seconds_left(left)

        def took(video: VideoRow) -> str:
            return f"{video.seconds:.1f} s" if video.state == "done" and video.seconds is not None else ""

        def title(video: VideoRow) -> Text:
            text = Text(video.title, Style(bold=True))
            return text.append(f"  {video.error}", rows.colour("error")) if video.error else text

        def progress(video: VideoRow) -> Text | str:
            return _bar_cell(rows, video.step / max(1, video.steps), 10) if video.state == "running" else ""

        return [
            Column("#", 6, lambda row: str(row[1].number + 1), "right"),
            Column("state", STATE_WIDTH, lambda row: _state_cell(rows, video_state(row[1], self._has_engine))),
            Column("progress", 10, lambda row: progress(row[1]), min_list_width=90),
            Column("steps", 9, lambda row: steps(row[1]), "right"),
            Column("ETA", 8, lambda row: eta(*row), "right"),
            Column("took", 9, lambda row: took(row[1]), "right"),
            Column("video", None, lambda row: title(row[1])),
        ]

    def _draw_batch_header(self, width: int) -> Text:
        return draw_header(self._batch_columns, width)

    def _draw_video_header(self, width: int) -> Text:
        return draw_header(self._video_columns, width)

    def _draw_batch(self, index: int, width: int) -> Text:
        return draw_row(self._batch_columns, self.batches[index], width)

    def _draw_video(self, index: int, width: int) -> Text:
        video = self._video_at(index)
        if video is None:
            return Text(f"{index + 1:>6} ...", "dim")
        return draw_row(self._video_columns, (index, video), width)

    def _estimate_eta(self, index: int, video: VideoRow) -> float | None:
        snapshot = self.wantui_app.snapshot
        batch = next((row for row in self.batches if row.id == video.batch), None)
        if batch is None or (batch.paused and video.state != "running"):
            return None
        if video.state == "running" and snapshot.engine is None:  # interrupted, but still recorded as running
            return None
        before = self.pages[index // PAGE_SIZE].unfinished_before[index % PAGE_SIZE]
        progress = snapshot.progress.get(video.id)
        return snapshot.etas.estimate_video_eta(
            video, before, batch, None if progress is None else progress.pace_seconds
        )

    def _show_full_text(self) -> None:
        """Show the full text of the selected row below the list."""
        batch = self._current_batch()
        if batch is None:
            self.about.show([Text("")])
            return
        lines = [Text(str(batch.folder), "dim")]
        width = max(20, self.about.content_size.width)
        if self.video_rows.has_focus and (video := self._video_at(self.video_rows.cursor)) is not None:
            state = video_state(video, self._has_engine)
            worker = f"on {video.worker}" if video.worker and state == "running" else ""
            lines = wrap_text(f"{video.title}: {video.error or worker or state_style(state).word}", width)
        self.about.show(lines)

    def on_descendant_focus(self) -> None:
        self._show_full_text()

    @on(VirtualList.Highlighted, "#batches")
    def _show_highlighted_batch(self) -> None:
        self._show_selected_batch()
        self._show_full_text()

    @on(VirtualList.Highlighted, "#videos")
    def _show_highlighted_video(self) -> None:
        self._show_full_text()

    @on(VirtualList.Chosen, "#batches")
    def _focus_videos(self) -> None:
        self.set_focus(self.video_rows)
        self._show_full_text()

    @on(VirtualList.Chosen, "#videos")
    def _open_chosen_video(self) -> None:
        self.action_open_library()

    # Actions

    def _act_on_batch(self, act: Callable[[BatchRow], None]) -> None:
        batch = self._current_batch()
        if batch is None:
            self.notify("no batch is selected")
        else:
            act(batch)

    def _focused_video(self) -> VideoRow | None:
        """Return the selected video if the video list has the focus, else None."""
        return self._video_at(self.video_rows.cursor) if self.video_rows.has_focus else None

    def action_move(self, to: MoveTarget) -> None:
        self._act_on_batch(lambda batch: self.wantui_app.change_queue(lambda queue: queue.move(batch.id, to)))

    def action_pause_batch(self) -> None:
        def act(batch: BatchRow) -> None:
            def pause(queue: Queue) -> None:
                queue.pause_batch(batch.id, not batch.paused)
                self.notify(f"batch {batch.id} {'continues' if batch.paused else 'is paused'}")

            self.wantui_app.change_queue(pause)

        self._act_on_batch(act)

    def action_cancel(self) -> None:
        def act(batch: BatchRow) -> None:
            video = self._focused_video()
            target = (
                f"video {video.title}"
                if video
                else f"{format_count(batch.unfinished, 'video')} of batch {batch.id}, {batch.name}"
            )
            running = (video.state == "running") if video else bool(batch.counts.get("running"))
            if video is not None and video.state not in ("queued", "interrupted", "running"):
                self.notify(f"{video.title} is already {state_style(video.state).word}")
                return
            if video is None and not batch.unfinished:
                self.notify(f"batch {batch.id} has already ended")
                return
            loss = " The progress of the running video is lost." if running else ""

            def cancel(confirmed: bool | None) -> None:
                if confirmed:
                    cancel_videos(self.wantui_app, batch.id, None if video is None else video.number)

            self.app.push_screen(Confirm(f"Cancel {target}?{loss}", "Cancel"), cancel)

        self._act_on_batch(act)

    def action_retry(self) -> None:
        def act(batch: BatchRow) -> None:
            video = self._focused_video()

            def retry(queue: Queue) -> None:
                count = queue.retry(batch.id, None if video is None else video.number)
                queued = f"{format_count(count, 'video')} queued again"
                self.notify(queued if count else "nothing to retry: no failed or cancelled videos")
                if count and self.wantui_app.snapshot.engine is None:
                    self.app.call_later(self.wantui_app.action_start_engine)

            self.wantui_app.change_queue(retry)

        self._act_on_batch(act)

    def action_remove(self) -> None:
        def act(batch: BatchRow) -> None:
            loss = f" {format_count(batch.unfinished, 'video')} not generated yet." if batch.unfinished else ""

            def remove(confirmed: bool | None) -> None:
                if confirmed:
                    self.wantui_app.change_queue(lambda queue: queue.remove(batch.id))

            question = f"Remove batch {batch.id}, {batch.name}, from the queue?{loss} Its folder stays."
            self.app.push_screen(Confirm(question, "Remove"), remove)

        self._act_on_batch(act)

    def action_edit_copy(self) -> None:
        self._act_on_batch(lambda batch: edit_copy(self, batch.folder))

    def action_open_library(self) -> None:
        def show(batch: BatchRow) -> None:
            video = self._focused_video()
            self.post_message(ShowBatch(batch.folder, video.number if video else None))

        self._act_on_batch(show)

    def action_toggle_ended(self) -> None:
        self.shows_ended = not self.shows_ended
        self.show_snapshot(self.wantui_app.snapshot)


def _count_done(batch: BatchRow) -> int:
    return batch.counts.get("done", 0)


def _state_cell(rows: VirtualList, name: str) -> Text:
    state = state_style(name)
    return Text(f"{state.glyph} {state.word}", rows.colour(state.colour))


def _bar_cell(rows: VirtualList, share: float, width: int) -> Text:
    return Text(bar(share, width), rows.colour("success"))
