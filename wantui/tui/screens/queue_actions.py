"""Actions of the Queue screen: on the marked batches, the batch under the cursor, or the focused video."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.queue.queue import BatchChangeError, MoveTarget, Queue
from wantui.queue.records import UNFINISHED_STATES, BatchRow, RemovedBatch, VideoPage, VideoRow
from wantui.tui.cancelling import cancel_videos
from wantui.tui.edit_copy import copy_batch_to_draft
from wantui.tui.messages import AnalyseBatch, ShowBatch
from wantui.tui.queue_watcher import VIDEOS_PER_PAGE
from wantui.tui.screens.dialogs import Confirm
from wantui.tui.screens.queue_results import QueueResults
from wantui.tui.state_style import get_state_style

Result = TypeVar("Result")


class QueueActions(QueueResults):
    """Base of the Queue screen that marks rows, and runs actions on the marked rows or the row under the cursor."""

    def __init__(self) -> None:
        super().__init__()
        self.visible_batches: list[BatchRow] = []
        self.marked_ids: set[int] = set()
        """Numbers of the batches on which the next action acts, instead of the batch under the cursor."""
        self.removed_batches: list[RemovedBatch] = []
        """Batches of the last removal, for undo."""
        self.shows_ended = True
        self.pages_by_number: Mapping[int, VideoPage] = {}
        """Videos of the selected batch read so far, by page number."""

    def get_current_batch(self) -> BatchRow | None:
        index = self.batch_list.cursor
        return self.visible_batches[index] if index < len(self.visible_batches) else None

    def get_video_at(self, index: int) -> VideoRow | None:
        """Return a video of the selected batch, or None if it has not been read yet."""
        page, offset = divmod(index, VIDEOS_PER_PAGE)
        videos = self.pages_by_number[page].videos if page in self.pages_by_number else ()
        return videos[offset] if offset < len(videos) else None

    def _act_on_batch(self, act_on_batch: Callable[[BatchRow], None]) -> None:
        batch = self.get_current_batch()
        if batch is None:
            self.notify("no batch is selected")
        else:
            act_on_batch(batch)

    def _list_target_batches(self) -> list[BatchRow]:
        """Return the marked batches, or the batch under the cursor; notify if there is none."""
        current_batch = self.get_current_batch()
        batches = [batch for batch in self.wantui_app.snapshot.batches if batch.id in self.marked_ids]
        if not batches and current_batch is not None:
            batches = [current_batch]
        if not batches:
            self.notify("no batch is selected")
        return batches

    def _change_batches(
        self,
        batches: Sequence[BatchRow],
        change: Callable[[Queue, BatchRow], Result],
        report: Callable[[Sequence[tuple[BatchRow, Result]]], None],
    ) -> None:
        """Change each batch in the queue; report the changed ones with their results, and the errors of the others."""

        def change_each(queue: Queue) -> None:
            results, errors = [], []
            for batch in batches:
                try:
                    results.append((batch, change(queue, batch)))
                except BatchChangeError as error:
                    errors.append(str(error))
            report(results)
            if errors:
                raise UserError("\n".join(errors))

        self.wantui_app.change_queue(change_each)

    def get_focused_video(self) -> VideoRow | None:
        """Return the selected video if the video list has the focus, else None."""
        return self.get_video_at(self.video_list.cursor) if self.video_list.has_focus else None

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
        self._update_from_snapshot(self.wantui_app.snapshot)

    def action_move(self, target: MoveTarget) -> None:
        self._act_on_batch(lambda batch: self.wantui_app.change_queue(lambda queue: queue.move_batch(batch.id, target)))

    def action_pause_batch(self) -> None:
        batches = self._list_target_batches()
        is_pausing = not all(batch.is_stopped for batch in batches)

        def report(results: Sequence[tuple[BatchRow, None]]) -> None:
            if results:
                verb = "paused" if is_pausing else "resumed"
                self.notify(f"{verb}: {_name_batches([batch for batch, _ in results])}")

        if batches:
            self._change_batches(batches, lambda queue, batch: queue.set_batch_paused(batch.id, is_pausing), report)

    def _is_focused_video_unread(self) -> bool:
        """Return whether the cursor is on a video that has not been read yet; then notify.

        Without this, an action on the video would apply to the marked batches.
        """
        is_unread = self.video_list.has_focus and self.get_focused_video() is None
        if is_unread:
            self.notify("the video is being read. Try again")
        return is_unread

    def action_cancel(self) -> None:
        if self._is_focused_video_unread():
            return
        video = self.get_focused_video()
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
        if self._is_focused_video_unread():
            return
        video = self.get_focused_video()
        batches = [] if video is not None else self._list_target_batches()

        def report(count: int) -> None:
            queued_text = f"{format_count(count, 'video')} queued again"
            self.notify(queued_text if count else "nothing to retry: no failed or cancelled videos")
            if count and self.wantui_app.snapshot.engine is None:
                self.app.call_later(self.wantui_app.action_start_engine)

        def report_batches(results: Sequence[tuple[BatchRow, int]]) -> None:
            self.marked_ids.clear()
            count = sum(count for _, count in results)
            if count or len(results) == len(batches):  # otherwise an error says why nothing was queued
                report(count)

        if video is not None:
            self.wantui_app.change_queue(lambda queue: report(queue.retry_videos(video.batch, video.number)))
        elif batches:
            self._change_batches(batches, lambda queue, batch: queue.retry_videos(batch.id), report_batches)

    def action_remove(self) -> None:
        batches = self._list_target_batches()
        if not batches:
            return
        unfinished_count = sum(batch.unfinished_count for batch in batches)
        loss_note = f" {format_count(unfinished_count, 'video')} not generated yet." if unfinished_count else ""

        def report(results: Sequence[tuple[BatchRow, RemovedBatch]]) -> None:
            if results:
                self.removed_batches = [removed_batch for _, removed_batch in results]
                self.marked_ids -= {batch.id for batch, _ in results}
                self.notify(f"removed: {_name_batches([batch for batch, _ in results])}. Press u to undo")

        def remove_if_confirmed(is_confirmed: bool | None) -> None:
            if is_confirmed:
                self._change_batches(batches, lambda queue, batch: queue.remove_batch(batch.id), report)

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
            video = self.get_focused_video()
            self.post_message(ShowBatch(batch.folder, video.number if video else None))

        self._act_on_batch(show_batch)

    def action_analyse(self) -> None:
        def analyse_batch(batch: BatchRow) -> None:
            video = self.get_focused_video()
            self.post_message(AnalyseBatch(batch.folder, video.number if video else None))

        self._act_on_batch(analyse_batch)

    def action_toggle_ended(self) -> None:
        self.shows_ended = not self.shows_ended
        self._update_from_snapshot(self.wantui_app.snapshot)


def _name_batches(batches: Sequence[BatchRow]) -> str:
    """Return a single batch's number and name, or how many batches there are."""
    if len(batches) == 1:
        return f"batch {batches[0].id}, {batches[0].name}"
    return format_count(len(batches), "batch", "batches")
