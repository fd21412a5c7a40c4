"""User operations on the queue. Every change is one transaction with an event for followers.

Each statement checks the expected state in its WHERE clause, so repeating a command is harmless.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from wantui.errors import UserError
from wantui.queue.claims import WorkerQueue
from wantui.queue.events import (
    BatchAdded,
    BatchMoved,
    BatchPaused,
    BatchRemoved,
    BatchResumed,
    BatchRetried,
    StepDone,
    VideoCancelled,
)
from wantui.queue.records import (
    UNFINISHED_STATES,
    WAITING_STATES,
    BatchDescription,
    NewVideo,
    RemovedBatch,
    to_display_number,
)

MoveTarget = Literal["up", "down", "top", "bottom"]


class BatchChangeError(UserError):
    """Raised for a batch that cannot be changed: it was removed, or one of its videos is running."""


class Queue(WorkerQueue):
    """The queue in a state directory, with all operations; for one thread of one process."""

    def add_batch(
        self,
        folder: Path,
        device: str,
        videos: Sequence[NewVideo],
        is_new: bool = True,
        manifest_video_count: int | None = None,
        description: BatchDescription = BatchDescription(),  # noqa: B008 - it is frozen
        gpus_per_video: int = 1,
    ) -> int:
        """Add a batch at the end of the queue; return its number.

        Args:
            is_new: whether the batch is new; otherwise the videos are added to the batch that the queue may already
                have.
            manifest_video_count: number of videos in the manifest. Rows beyond it are deleted unless they run: the
                manifest was shortened, and they could only fail.
        """
        with self._begin_transaction() as db:
            if is_new:  # an earlier batch in this folder was deleted on disk
                db.execute("DELETE FROM batch WHERE folder = ?", (str(folder),))
            row = db.execute("SELECT id FROM batch WHERE folder = ?", (str(folder),)).fetchone()
            if row is None:
                row = db.execute(
                    "INSERT INTO batch (folder, device, place, created) "
                    "VALUES (?, ?, (SELECT coalesce(max(place), 0) + 1 FROM batch), ?) RETURNING id",
                    (str(folder), device, time.time()),
                ).fetchone()
            batch_number: int = row["id"]
            db.execute(
                "UPDATE batch SET device = ?, gpus_per_video = ?, paused = 0, template = ?, model = ?, seeds = ? "
                "WHERE id = ?",
                (
                    device,
                    gpus_per_video,
                    description.template,
                    description.model,
                    description.seeds,
                    batch_number,
                ),
            )
            self._end_batch_hold(batch_number)
            if manifest_video_count is not None:
                db.execute(
                    "DELETE FROM video WHERE batch = ? AND number >= ? AND state <> 'running'",
                    (batch_number, manifest_video_count),
                )
            db.executemany(
                "INSERT INTO video (batch, number, title, recipe, steps) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (batch, number) DO UPDATE SET state = 'queued', worker_crashes = 0, cancel = 0, "
                "plan = NULL, error = NULL, seconds = NULL, "
                "recipe = excluded.recipe, title = excluded.title, steps = excluded.steps "
                "WHERE state <> 'running'",
                [
                    (batch_number, video.video_index, video.title, video.recipe_json, video.step_count)
                    for video in videos
                ],
            )
            self._store_event(BatchAdded(videos=len(videos)), batch_number)
        return batch_number

    def move_batch(self, batch_number: int, target: MoveTarget | int) -> None:
        """Move a batch past one unfinished batch, to the top or bottom, or before the batch numbered `target`.

        Raises:
            BatchChangeError: one of the batches was removed.
        """
        with self._begin_transaction() as db:
            for number in (batch_number, target):
                if isinstance(number, int):
                    self._require_batch(number)
            batch_numbers = [row["id"] for row in db.execute("SELECT id FROM batch ORDER BY place, id")]
            index = batch_numbers.index(batch_number)
            batch_numbers.remove(batch_number)
            # Skip finished batches: moving past one of them would have no visible effect.
            unfinished_numbers = {
                row["batch"]
                for row in db.execute(f"SELECT DISTINCT batch FROM video WHERE state IN {UNFINISHED_STATES}")
            }
            passable_indices = [n for n, id_ in enumerate(batch_numbers) if id_ in unfinished_numbers]
            match target:
                case "top":
                    index = 0
                case "bottom":
                    index = len(batch_numbers)
                case "up":
                    index = max((n for n in passable_indices if n < index), default=index)
                case "down":
                    index = min((n + 1 for n in passable_indices if n >= index), default=index)
                case _:
                    index = batch_numbers.index(target) if target != batch_number else index
            batch_numbers.insert(index, batch_number)
            db.executemany(
                "UPDATE batch SET place = ? WHERE id = ?", [(n, id_) for n, id_ in enumerate(batch_numbers, 1)]
            )
            self._store_event(BatchMoved(), batch_number)

    def set_batch_paused(self, batch_number: int, is_paused: bool) -> None:
        """Pause a batch (running videos stop at their next step), or resume it, which also ends its hold.

        Raises:
            BatchChangeError: the batch was removed.
        """
        with self._begin_transaction() as db:
            self._require_batch(batch_number)
            cursor = db.execute(
                "UPDATE batch SET paused = ? WHERE id = ? AND paused <> ?", (is_paused, batch_number, is_paused)
            )
            if is_paused and cursor.rowcount:
                self._store_event(BatchPaused(), batch_number)
            elif not is_paused and (self._delete_batch_hold(batch_number) or cursor.rowcount):
                self._store_event(BatchResumed(), batch_number)

    def cancel_videos(self, batch_number: int, video_index: int | None = None) -> tuple[list[int], int]:
        """Cancel all videos of a batch, or one video; running videos stop at their next step.

        Returns:
            The indices of the videos cancelled now, and the number of running videos that will stop.
        """
        with self._begin_transaction() as db:
            condition, parameters = _make_video_filter_sql(batch_number, video_index)
            running_count = db.execute(
                f"UPDATE video SET cancel = 1 WHERE {condition} AND state = 'running'", parameters
            ).rowcount
            rows = db.execute(
                f"UPDATE video SET state = 'cancelled', finished = ? WHERE {condition} AND state IN "
                f"{WAITING_STATES} "
                "RETURNING id, number, title",
                (time.time(), *parameters),
            ).fetchall()
            for row in rows:
                payload = VideoCancelled(title=row["title"], number=to_display_number(row["number"]))
                self._store_event(payload, batch_number, row["id"])
        return [row["number"] for row in rows], running_count

    def retry_videos(self, batch_number: int, video_index: int | None = None) -> int:
        """Queue the failed and cancelled videos of a batch again, and end its hold; return the number of videos.

        Raises:
            BatchChangeError: the batch was removed.
        """
        with self._begin_transaction() as db:
            self._require_batch(batch_number)
            condition, parameters = _make_video_filter_sql(batch_number, video_index)
            rows = db.execute(
                "UPDATE video SET state = 'queued', worker_crashes = 0, cancel = 0, error = NULL, plan = NULL "
                f"WHERE {condition} AND state IN ('failed', 'cancelled') RETURNING id",
                parameters,
            ).fetchall()
            if rows:
                self._end_batch_hold(batch_number)
                self._store_event(BatchRetried(videos=len(rows)), batch_number)
        return len(rows)

    def remove_batch(self, batch_number: int) -> RemovedBatch:
        """Remove a batch from the queue, and return what `restore_batch` needs; its folder stays.

        Raises:
            BatchChangeError: the batch was removed, or one of its videos is running.
        """
        with self._begin_transaction() as db:
            self._require_batch(batch_number)
            if db.execute("SELECT 1 FROM video WHERE batch = ? AND state = 'running'", (batch_number,)).fetchone():
                raise BatchChangeError(
                    f"cannot remove batch {batch_number}: one of its videos is running, or was running when the last "
                    f"engine ended. Cancel the batch first: wantui queue cancel {batch_number} (needs a running "
                    "engine: wantui engine start)"
                )
            batch_rows = db.execute("SELECT * FROM batch WHERE id = ?", (batch_number,)).fetchall()
            video_rows = db.execute("SELECT * FROM video WHERE batch = ?", (batch_number,)).fetchall()
            # A large batch has hundreds of thousands of step events, which only live views need.
            event_rows = db.execute(
                "SELECT * FROM event WHERE batch = ? AND kind <> ?", (batch_number, StepDone.kind)
            ).fetchall()
            db.execute("DELETE FROM batch WHERE id = ?", (batch_number,))
            db.execute("DELETE FROM event WHERE batch = ?", (batch_number,))
            self._store_event(BatchRemoved(), batch_number)
        tables = (("batch", batch_rows), ("video", video_rows), ("event", event_rows))
        return RemovedBatch(batch_number, tuple((table, tuple(map(dict, rows))) for table, rows in tables))

    def restore_batch(self, removed: RemovedBatch) -> None:
        """Undo the removal of a batch: restore its number, position, videos and events, but no step events.

        Raises:
            UserError: its folder was queued again in the meantime.
        """
        with self._begin_transaction() as db:
            for table, rows in removed.rows_by_table:
                for row in rows:
                    if table == "batch" and self.has_folder(row["folder"]):
                        raise UserError(
                            f"cannot restore batch {removed.batch_number}: {row['folder']} was queued again in the "
                            f"meantime"
                        )
                    names = ", ".join(row)
                    places = ", ".join("?" * len(row))
                    db.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", tuple(row.values()))
            self._store_event(BatchMoved(), removed.batch_number)

    def is_empty(self) -> bool:
        """Return whether the queue has no batch."""
        return self.db.execute("SELECT 1 FROM batch LIMIT 1").fetchone() is None

    def has_folder(self, folder: str) -> bool:
        """Return whether the batch in a folder is in the queue."""
        return self.db.execute("SELECT 1 FROM batch WHERE folder = ?", (folder,)).fetchone() is not None

    def _require_batch(self, batch_number: int) -> None:
        if self.db.execute("SELECT 1 FROM batch WHERE id = ?", (batch_number,)).fetchone() is None:
            raise BatchChangeError(f"batch {batch_number} is no longer in the queue")


def _make_video_filter_sql(batch_number: int, video_index: int | None) -> tuple[str, tuple[int, ...]]:
    return (
        ("batch = ?", (batch_number,))
        if video_index is None
        else ("batch = ? AND number = ?", (batch_number, video_index))
    )
