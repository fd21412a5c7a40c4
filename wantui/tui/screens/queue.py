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
from wantui.queue.states import WORDS_BY_STATE, find_displayed_batch_state, find_displayed_video_state
from wantui.tui.actions import make_bindings
from wantui.tui.cancelling import cancel_videos
from wantui.tui.columns import Column, draw_column_headers, draw_list_row
from wantui.tui.content import make_content
from wantui.tui.edit_copy import copy_batch_to_draft
from wantui.tui.messages import ShowBatch
from wantui.tui.plots import draw_bar
from wantui.tui.queue_watcher import VIDEOS_PER_PAGE, QueueSnapshot, VideoPages
from wantui.tui.screens.base import BaseScreen
from wantui.tui.screens.dialogs import Confirm
from wantui.tui.state_style import get_state_style
from wantui.tui.widgets.diff_text import DiffText
from wantui.tui.widgets.virtual_list import VirtualList
from wantui.tui.wrapping import wrap_text

EMPTY_QUEUE_TEXT = "the queue is empty; 1 composes a batch"
ETA_SECONDS, SLOW_ETA_SECONDS = 5.0, 30.0
"""Seconds between two updates of the visible ETAs: normally, and with --low-bandwidth."""
STATE_COLUMN_WIDTH = 2 + max(map(len, WORDS_BY_STATE.values()))
"""Width of the state column in cells: a glyph, a space and the longest word."""


class QueueScreen(BaseScreen):
    """Batches above, videos of the selected batch below; keys act on the row under the cursor."""

    SCREEN_NAME = "queue"
    BINDINGS = [*make_bindings("queue")]

    batch_list = getters.query_one("#batches", VirtualList)
    video_list = getters.query_one("#videos", VirtualList)
    full_text = getters.query_one("#about", DiffText)

    def __init__(self) -> None:
        super().__init__()
        self.visible_batches: list[BatchRow] = []
        self.selected_batch_id: int | None = None
        self.shows_ended = True
        self._has_engine = False
        self.pages_by_number: Mapping[int, VideoPage] = {}
        """Videos of the selected batch read so far, by page number."""

    def compose_body(self) -> ComposeResult:
        with Vertical():
            batches = VirtualList(
                id="batches", classes="pane", empty_text=EMPTY_QUEUE_TEXT, header_renderer=self._draw_batch_header
            )
            batches.border_title = "Batches"
            yield batches
            videos = VirtualList(id="videos", classes="pane", header_renderer=self._draw_video_header)
            videos.border_title = "Videos"
            yield videos
            yield DiffText(id="about")

    def on_mount(self) -> None:
        self.set_focus(self.batch_list)
        self.wantui_app.pages_signal.subscribe(self, self._show_changed_pages)
        self.set_interval(SLOW_ETA_SECONDS if self.wantui_app.is_low_bandwidth else ETA_SECONDS, self._redraw_etas)

    def focus_main_widget(self) -> None:
        self.set_focus(self.batch_list)

    # Drawing

    def on_screen_suspend(self) -> None:
        self.wantui_app.queue_watcher.watch_pages(None)

    def on_shown(self) -> None:
        """Watch the visible rows again."""
        self._watch_visible_videos()

    def show_snapshot(self, snapshot: QueueSnapshot) -> None:
        previous_batches = self.visible_batches
        if self._has_engine != (snapshot.engine is not None):  # running videos become interrupted, or vice versa
            self._has_engine = snapshot.engine is not None
            self.video_list.redraw_changed_rows()
        self.visible_batches = [batch for batch in snapshot.batches if self.shows_ended or batch.unfinished_count]
        hidden_count = len(snapshot.batches) - len(self.visible_batches)
        ended_text = format_count(hidden_count, "ended batch", "ended batches")
        self.batch_list.empty_text = f"{ended_text} hidden; a shows all" if hidden_count else EMPTY_QUEUE_TEXT
        if [batch.id for batch in previous_batches] != [batch.id for batch in self.visible_batches]:
            self.batch_list.fill_rows(len(self.visible_batches), self._draw_batch)
            ids = [batch.id for batch in self.visible_batches]
            if self.selected_batch_id in ids:
                self.batch_list.cursor = ids.index(self.selected_batch_id)
        else:
            self.batch_list.redraw_changed_rows()
        hold = snapshot.hold
        title = f"Batches: {len(self.visible_batches)}"
        self.batch_list.border_title = make_content(f"{title}, on hold: {hold.reason}" if hold else title)
        is_idle = snapshot.engine is None and any(batch.unfinished_count for batch in snapshot.batches)
        self.batch_list.border_subtitle = make_content("no engine is running: F6 starts one" if is_idle else "")
        self._show_selected_batch()
        self._show_full_text()

    def _get_current_batch(self) -> BatchRow | None:
        index = self.batch_list.cursor
        return self.visible_batches[index] if index < len(self.visible_batches) else None

    def _show_selected_batch(self) -> None:
        """Show the videos of the batch under the cursor."""
        batch = self._get_current_batch()
        chosen_id = batch.id if batch is not None else None
        if chosen_id != self.selected_batch_id or batch is None or batch.video_count != self.video_list.row_count:
            is_same_batch = chosen_id == self.selected_batch_id
            self.selected_batch_id = chosen_id
            if not is_same_batch:
                self.pages_by_number = {}  # the watcher publishes the pages of the newly watched batch
            self.video_list.fill_rows(batch.video_count if batch else 0, self._draw_video, keep_cursor=is_same_batch)
        self.video_list.border_title = make_content(f"Videos of {batch.name}" if batch else "Videos")

    @on(VirtualList.VisibleRowsChanged, "#videos")
    def _watch_visible_videos(self) -> None:
        """Watch the visible videos and those around the cursor; `_show_changed_pages` receives them."""
        if self.is_current:
            first, last = self.video_list.get_visible_range()
            indices = (first, max(first, last), self.video_list.cursor)
            self.wantui_app.queue_watcher.watch_pages(
                self.selected_batch_id, {index // VIDEOS_PER_PAGE for index in indices}
            )

    def _show_changed_pages(self, videos: VideoPages) -> None:
        """Redraw the videos that changed."""
        if videos.batch_id == self.selected_batch_id:
            self.pages_by_number = videos.pages_by_number
            self.video_list.redraw_changed_rows()
            self._show_full_text()

    def _redraw_etas(self) -> None:
        """Redraw the ETAs of the visible videos."""
        if self.is_current:
            self.video_list.redraw_changed_rows()

    def _get_video_at(self, index: int) -> VideoRow | None:
        """Return a video of the selected batch, or None if it has not been read yet."""
        page, offset = divmod(index, VIDEOS_PER_PAGE)
        videos = self.pages_by_number[page].videos if page in self.pages_by_number else ()
        return videos[offset] if offset < len(videos) else None

    @cached_property
    def _batch_columns(self) -> list[Column[BatchRow]]:
        batch_list = self.batch_list

        def format_eta(batch: BatchRow) -> str:
            seconds_by_batch = self.wantui_app.snapshot.etas.seconds_by_batch
            return format_seconds_left(seconds_by_batch[batch.id]) if batch.id in seconds_by_batch else ""

        def draw_failed_count(batch: BatchRow) -> Text:
            return Text(str(batch.counts.get("failed") or ""), batch_list.make_colour_style("error"))

        return [
            Column("#", 4, lambda batch: str(batch.id), "right"),
            Column(
                "state",
                STATE_COLUMN_WIDTH,
                lambda batch: _draw_state(batch_list, find_displayed_batch_state(batch, self._has_engine)),
            ),
            Column(
                "progress",
                12,
                lambda batch: _draw_progress(batch_list, _count_done_videos(batch) / max(1, batch.video_count), 12),
                min_list_width=90,
            ),
            Column("videos", 11, lambda batch: f"{_count_done_videos(batch)}/{batch.video_count}", "right"),
            Column("failed", 6, draw_failed_count, "right"),
            Column("ETA", 8, format_eta, "right"),
            Column("name", None, lambda batch: Text(batch.name, Style(bold=True))),
        ]

    @cached_property
    def _video_columns(self) -> list[Column[tuple[int, VideoRow]]]:
        video_list = self.video_list

        def format_steps(video: VideoRow) -> str:
            return f"{video.step}/{video.steps}" if video.state == "running" else ""

        def format_eta(index: int, video: VideoRow) -> str:
            seconds_left = self._estimate_video_eta(index, video) if video.state in UNFINISHED_STATES else None
            return "" if seconds_left is None else format_seconds_left(seconds_left)

        def format_duration(video: VideoRow) -> str:
            return f"{video.seconds:.1f} s" if video.state == "done" and video.seconds is not None else ""

        def draw_title(video: VideoRow) -> Text:
            text = Text(video.title, Style(bold=True))
            return text.append(f"  {video.error}", video_list.make_colour_style("error")) if video.error else text

        def draw_progress(video: VideoRow) -> Text | str:
            return _draw_progress(video_list, video.step / max(1, video.steps), 10) if video.state == "running" else ""

        return [
            Column("#", 6, lambda row: str(row[1].number + 1), "right"),
            Column(
                "state",
                STATE_COLUMN_WIDTH,
                lambda row: _draw_state(video_list, find_displayed_video_state(row[1], self._has_engine)),
            ),
            Column("progress", 10, lambda row: draw_progress(row[1]), min_list_width=90),
            Column("steps", 9, lambda row: format_steps(row[1]), "right"),
            Column("ETA", 8, lambda row: format_eta(*row), "right"),
            Column("took", 9, lambda row: format_duration(row[1]), "right"),
            Column("video", None, lambda row: draw_title(row[1])),
        ]

    def _draw_batch_header(self, width: int) -> Text:
        return draw_column_headers(self._batch_columns, width)

    def _draw_video_header(self, width: int) -> Text:
        return draw_column_headers(self._video_columns, width)

    def _draw_batch(self, index: int, width: int) -> Text:
        return draw_list_row(self._batch_columns, self.visible_batches[index], width)

    def _draw_video(self, index: int, width: int) -> Text:
        video = self._get_video_at(index)
        if video is None:
            return Text(f"{index + 1:>6} ...", "dim")
        return draw_list_row(self._video_columns, (index, video), width)

    def _estimate_video_eta(self, index: int, video: VideoRow) -> float | None:
        snapshot = self.wantui_app.snapshot
        batch = next((row for row in self.visible_batches if row.id == video.batch), None)
        if batch is None or (batch.paused and video.state != "running"):
            return None
        if video.state == "running" and snapshot.engine is None:  # interrupted, but still recorded as running
            return None
        page = self.pages_by_number[index // VIDEOS_PER_PAGE]
        unfinished_before = page.unfinished_counts_before[index % VIDEOS_PER_PAGE]
        progress = snapshot.progress_by_video.get(video.id)
        return snapshot.etas.estimate_video_eta(
            video, unfinished_before, batch, None if progress is None else progress.pace_seconds
        )

    def _show_full_text(self) -> None:
        """Show the full text of the selected row below the list."""
        batch = self._get_current_batch()
        if batch is None:
            self.full_text.show_lines([Text("")])
            return
        lines = [Text(str(batch.folder), "dim")]
        width = max(20, self.full_text.content_size.width)
        if self.video_list.has_focus and (video := self._get_video_at(self.video_list.cursor)) is not None:
            state = find_displayed_video_state(video, self._has_engine)
            worker = f"on {video.worker}" if video.worker and state == "running" else ""
            lines = wrap_text(f"{video.title}: {video.error or worker or get_state_style(state).state_word}", width)
        self.full_text.show_lines(lines)

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
        self.set_focus(self.video_list)
        self._show_full_text()

    @on(VirtualList.Chosen, "#videos")
    def _open_chosen_video(self) -> None:
        self.action_open_library()

    # Actions

    def _act_on_batch(self, act_on_batch: Callable[[BatchRow], None]) -> None:
        batch = self._get_current_batch()
        if batch is None:
            self.notify("no batch is selected")
        else:
            act_on_batch(batch)

    def _get_focused_video(self) -> VideoRow | None:
        """Return the selected video if the video list has the focus, else None."""
        return self._get_video_at(self.video_list.cursor) if self.video_list.has_focus else None

    def action_move(self, target: MoveTarget) -> None:
        self._act_on_batch(lambda batch: self.wantui_app.change_queue(lambda queue: queue.move_batch(batch.id, target)))

    def action_pause_batch(self) -> None:
        def pause_or_resume(batch: BatchRow) -> None:
            def pause(queue: Queue) -> None:
                queue.set_batch_paused(batch.id, not batch.paused)
                self.notify(f"batch {batch.id} {'is resumed' if batch.paused else 'is paused'}")

            self.wantui_app.change_queue(pause)

        self._act_on_batch(pause_or_resume)

    def action_cancel(self) -> None:
        def cancel_batch_or_video(batch: BatchRow) -> None:
            video = self._get_focused_video()
            target = (
                f"video {video.title}"
                if video
                else f"{format_count(batch.unfinished_count, 'video')} of batch {batch.id}, {batch.name}"
            )
            is_running = (video.state == "running") if video else bool(batch.counts.get("running"))
            if video is not None and video.state not in ("queued", "interrupted", "running"):
                self.notify(f"{video.title} is already {get_state_style(video.state).state_word}")
                return
            if video is None and not batch.unfinished_count:
                self.notify(f"batch {batch.id} has already ended")
                return
            loss_note = " The progress of the running video is lost." if is_running else ""

            def cancel_if_confirmed(is_confirmed: bool | None) -> None:
                if is_confirmed:
                    cancel_videos(self.wantui_app, batch.id, None if video is None else video.number)

            self.app.push_screen(Confirm(f"Cancel {target}?{loss_note}", "Cancel"), cancel_if_confirmed)

        self._act_on_batch(cancel_batch_or_video)

    def action_retry(self) -> None:
        def retry_batch_or_video(batch: BatchRow) -> None:
            video = self._get_focused_video()

            def retry(queue: Queue) -> None:
                count = queue.retry_videos(batch.id, None if video is None else video.number)
                queued_text = f"{format_count(count, 'video')} queued again"
                self.notify(queued_text if count else "nothing to retry: no failed or cancelled videos")
                if count and self.wantui_app.snapshot.engine is None:
                    self.app.call_later(self.wantui_app.action_start_engine)

            self.wantui_app.change_queue(retry)

        self._act_on_batch(retry_batch_or_video)

    def action_remove(self) -> None:
        def remove_batch(batch: BatchRow) -> None:
            loss_note = (
                f" {format_count(batch.unfinished_count, 'video')} not generated yet." if batch.unfinished_count else ""
            )

            def remove_if_confirmed(is_confirmed: bool | None) -> None:
                if is_confirmed:
                    self.wantui_app.change_queue(lambda queue: queue.remove_batch(batch.id))

            question = f"Remove batch {batch.id}, {batch.name}, from the queue?{loss_note} Its folder stays."
            self.app.push_screen(Confirm(question, "Remove"), remove_if_confirmed)

        self._act_on_batch(remove_batch)

    def action_edit_copy(self) -> None:
        self._act_on_batch(lambda batch: copy_batch_to_draft(self, batch.folder))

    def action_open_library(self) -> None:
        def show_batch(batch: BatchRow) -> None:
            video = self._get_focused_video()
            self.post_message(ShowBatch(batch.folder, video.number if video else None))

        self._act_on_batch(show_batch)

    def action_toggle_ended(self) -> None:
        self.shows_ended = not self.shows_ended
        self.show_snapshot(self.wantui_app.snapshot)


def _count_done_videos(batch: BatchRow) -> int:
    return batch.counts.get("done", 0)


def _draw_state(row_list: VirtualList, state: str) -> Text:
    style = get_state_style(state)
    return Text(f"{style.glyph} {style.state_word}", row_list.make_colour_style(style.colour_name))


def _draw_progress(row_list: VirtualList, done_share: float, width: int) -> Text:
    return Text(draw_bar(done_share, width), row_list.make_colour_style("success"))
