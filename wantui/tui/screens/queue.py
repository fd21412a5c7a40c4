"""Queue screen: the batches in queue order, the videos of the selected batch, and actions on both."""

from collections.abc import Callable, Mapping, Sequence

from rich.text import Text
from textual import getters, on
from textual.app import ComposeResult
from textual.containers import Vertical

from wantui.batches.eta import format_seconds_left
from wantui.formatting import format_count
from wantui.queue.queue import MoveTarget, Queue
from wantui.queue.reader import UNFINISHED_STATES
from wantui.queue.records import BatchRow, RemovedBatch, VideoPage, VideoRow
from wantui.queue.states import find_displayed_video_state
from wantui.tui.actions import make_bindings
from wantui.tui.cancelling import cancel_videos
from wantui.tui.columns import Column, draw_column_headers, draw_list_row
from wantui.tui.content import make_content
from wantui.tui.edit_copy import copy_batch_to_draft
from wantui.tui.messages import ShowBatch
from wantui.tui.queue_columns import BatchWidths, format_batch_eta, make_batch_columns, make_video_columns
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
        self.marked_ids: set[int] = set()
        """Numbers of the batches on which the next action acts, instead of the batch under the cursor."""
        self.removed_batches: list[RemovedBatch] = []
        """Batches of the last removal, for undo."""
        self.shows_ended = True
        self._has_engine = False
        self._batch_columns: list[Column[BatchRow]] = []
        self._batch_widths: BatchWidths | None = None
        self._video_columns: list[Column[tuple[int, VideoRow]]] = []
        self._has_unfinished: bool | None = None
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
        self._fit_batch_columns()
        hidden_count = len(snapshot.batches) - len(self.visible_batches)
        ended_text = format_count(hidden_count, "ended batch", "ended batches")
        self.batch_list.empty_text = f"{ended_text} hidden; a shows all" if hidden_count else EMPTY_QUEUE_TEXT
        # The frame and the header take three lines; the style sheet limits the height.
        self.batch_list.styles.height = max(1, len(self.visible_batches)) + 3
        if [batch.id for batch in previous_batches] != [batch.id for batch in self.visible_batches]:
            self.batch_list.fill_rows(len(self.visible_batches), self._draw_batch)
            ids = [batch.id for batch in self.visible_batches]
            if self.selected_batch_id in ids:
                self.batch_list.cursor = ids.index(self.selected_batch_id)
        else:
            self.batch_list.redraw_changed_rows()
        hold = snapshot.hold
        self.marked_ids &= {batch.id for batch in snapshot.batches}
        marked_text = f", {len(self.marked_ids)} marked" if self.marked_ids else ""
        title = f"Batches: {len(self.visible_batches)}{marked_text}"
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
        self._fit_video_columns(batch is not None and batch.unfinished_count > 0)
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

    def _fit_batch_columns(self) -> None:
        """Make the columns of the batch list as wide as their content."""
        widths = BatchWidths.measure(self.visible_batches)
        if widths != self._batch_widths:
            self._batch_widths = widths

            def format_eta(batch: BatchRow) -> str:
                return format_batch_eta(batch, self.wantui_app.snapshot.etas.seconds_by_batch)

            self._batch_columns = make_batch_columns(
                self.batch_list, self.marked_ids, lambda: self._has_engine, format_eta, widths
            )
            self.batch_list.refresh()

    def _fit_video_columns(self, has_unfinished: bool) -> None:
        """Leave out the columns of progress and ETA for a batch whose videos have all ended."""
        if has_unfinished != self._has_unfinished:
            self._has_unfinished = has_unfinished

            def format_eta(index: int, video: VideoRow) -> str:
                seconds_left = self._estimate_video_eta(index, video) if video.state in UNFINISHED_STATES else None
                return "" if seconds_left is None else format_seconds_left(seconds_left)

            self._video_columns = make_video_columns(
                self.video_list, lambda: self._has_engine, format_eta, has_unfinished
            )
            self.video_list.refresh()

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

    def _list_target_batches(self) -> list[BatchRow]:
        """Return the marked batches, or the batch under the cursor; notify if there is none."""
        current_batch = self._get_current_batch()
        batches = [batch for batch in self.wantui_app.snapshot.batches if batch.id in self.marked_ids]
        if not batches and current_batch is not None:
            batches = [current_batch]
        if not batches:
            self.notify("no batch is selected")
        return batches

    def _get_focused_video(self) -> VideoRow | None:
        """Return the selected video if the video list has the focus, else None."""
        return self._get_video_at(self.video_list.cursor) if self.video_list.has_focus else None

    def action_mark(self) -> None:
        def mark_or_unmark(batch: BatchRow) -> None:
            self.marked_ids ^= {batch.id}
            self.batch_list.cursor += 1
            self._show_marked_count()

        self._act_on_batch(mark_or_unmark)

    def action_unmark_all(self) -> None:
        self.marked_ids.clear()
        self._show_marked_count()

    def _show_marked_count(self) -> None:
        self.batch_list.redraw_changed_rows()
        self.show_snapshot(self.wantui_app.snapshot)

    def action_move(self, target: MoveTarget) -> None:
        self._act_on_batch(lambda batch: self.wantui_app.change_queue(lambda queue: queue.move_batch(batch.id, target)))

    def action_pause_batch(self) -> None:
        batches = self._list_target_batches()
        is_pausing = not all(batch.paused for batch in batches)

        def pause(queue: Queue) -> None:
            for batch in batches:
                if batch.paused != is_pausing:
                    queue.set_batch_paused(batch.id, is_pausing)
            self.notify(f"{'paused' if is_pausing else 'resumed'}: {_name_batches(batches)}")

        if batches:
            self.wantui_app.change_queue(pause)

    def action_cancel(self) -> None:
        video = self._get_focused_video()
        if video is not None:
            self._cancel_video(video)
            return
        batches = [batch for batch in self._list_target_batches() if batch.unfinished_count]
        if not batches:
            self.notify("nothing to cancel: all videos have already ended")
            return
        video_count = format_count(sum(batch.unfinished_count for batch in batches), "video")
        self._confirm_cancel(
            f"{video_count} of {_name_batches(batches)}",
            any(batch.counts.get("running") for batch in batches),
            [batch.id for batch in batches],
        )

    def _cancel_video(self, video: VideoRow) -> None:
        if video.state in UNFINISHED_STATES:
            self._confirm_cancel(f"video {video.title}", video.state == "running", [video.batch], video.number)
        else:
            self.notify(f"{video.title} is already {get_state_style(video.state).state_word}")

    def _confirm_cancel(
        self, target: str, is_running: bool, batch_ids: Sequence[int], video_index: int | None = None
    ) -> None:
        loss_note = " The progress of running videos is lost." if is_running else ""

        def cancel_if_confirmed(is_confirmed: bool | None) -> None:
            if is_confirmed:
                if video_index is None:
                    self.marked_ids.clear()
                cancel_videos(self.wantui_app, batch_ids, video_index)

        self.app.push_screen(Confirm(f"Cancel {target}?{loss_note}", "Cancel"), cancel_if_confirmed)

    def action_retry(self) -> None:
        video = self._get_focused_video()
        batches = [] if video is not None else self._list_target_batches()

        def retry(queue: Queue) -> None:
            if video is not None:
                count = queue.retry_videos(video.batch, video.number)
            else:
                count = sum(queue.retry_videos(batch.id) for batch in batches)
                self.marked_ids.clear()
            queued_text = f"{format_count(count, 'video')} queued again"
            self.notify(queued_text if count else "nothing to retry: no failed or cancelled videos")
            if count and self.wantui_app.snapshot.engine is None:
                self.app.call_later(self.wantui_app.action_start_engine)

        if batches or video is not None:
            self.wantui_app.change_queue(retry)

    def action_remove(self) -> None:
        batches = self._list_target_batches()
        if not batches:
            return
        unfinished_count = sum(batch.unfinished_count for batch in batches)
        loss_note = f" {format_count(unfinished_count, 'video')} not generated yet." if unfinished_count else ""

        def remove(queue: Queue) -> None:
            self.removed_batches = []
            for batch in batches:
                self.removed_batches.append(queue.remove_batch(batch.id))
            self.marked_ids.clear()
            self.notify(f"removed: {_name_batches(batches)}. Press u to undo")

        def remove_if_confirmed(is_confirmed: bool | None) -> None:
            if is_confirmed:
                self.wantui_app.change_queue(remove)

        folders = "Its folder stays." if len(batches) == 1 else "Their folders stay."
        question = f"Remove {_name_batches(batches)} from the queue?{loss_note} {folders}"
        self.app.push_screen(Confirm(question, "Remove"), remove_if_confirmed)

    def action_restore(self) -> None:
        if not self.removed_batches:
            self.notify("nothing to restore: no batch was removed since the application started")
            return

        def restore(queue: Queue) -> None:
            count = 0
            while self.removed_batches:
                queue.restore_batch(self.removed_batches[-1])
                self.removed_batches.pop()  # only now: after an error, another key press tries again
                count += 1
            self.notify(f"{format_count(count, 'batch', 'batches')} restored")

        self.wantui_app.change_queue(restore)

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


def _name_batches(batches: Sequence[BatchRow]) -> str:
    """Return the number and name of one batch, or the number of several batches."""
    if len(batches) == 1:
        return f"batch {batches[0].id}, {batches[0].name}"
    return format_count(len(batches), "batch", "batches")
