"""User operations on the queue. Every change is one transaction with an event for followers.

Each statement checks the expected state in its WHERE clause, so that repeating a command is harmless.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from wantui.errors import UserError
from wantui.queue.claims import ClaimQueue
from wantui.queue.events import (
    BatchAdded,
    BatchMoved,
    BatchPaused,
    BatchRemoved,
    BatchResumed,
    BatchRetried,
    VideoCancelled,
)
from wantui.queue.reader import UNFINISHED_STATES, WAITING_STATES_SQL
from wantui.queue.records import NewVideo, display_number

MoveTarget = Literal["up", "down", "top", "bottom"]


class Queue(ClaimQueue):
    """The queue in a state directory, with all operations; for one thread of one process."""

    def add(
        self,
        folder: Path,
        device: str,
        videos: Sequence[NewVideo],
        new: bool = True,
        manifest_videos: int | None = None,
    ) -> int:
        """Add a batch at the end of the queue; return its number.

        Args:
            new: whether the batch is new; otherwise the videos are added to the batch that the queue may already have.
            manifest_videos: number of videos in the manifest. Rows beyond it are deleted unless they run: the manifest
                was shortened, and they could only fail.
        """
        with self._begin_change() as db:
            if new:  # an earlier batch in this folder was deleted on disk
                db.execute("DELETE FROM batch WHERE folder = ?", (str(folder),))
            row = db.execute("SELECT id FROM batch WHERE folder = ?", (str(folder),)).fetchone()
            if row is None:
                row = db.execute(
                    "INSERT INTO batch (folder, device, place, created) "
                    "VALUES (?, ?, (SELECT coalesce(max(place), 0) + 1 FROM batch), ?) RETURNING id",
                    (str(folder), device, time.time()),
                ).fetchone()
            batch: int = row["id"]
            db.execute("UPDATE batch SET device = ?, paused = 0 WHERE id = ?", (device, batch))
            if manifest_videos is not None:
                db.execute(
                    "DELETE FROM video WHERE batch = ? AND number >= ? AND state <> 'running'", (batch, manifest_videos)
                )
            db.executemany(
                "INSERT INTO video (batch, number, title, recipe, steps) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (batch, number) DO UPDATE SET state = 'queued', worker_crashes = 0, cancel = 0, "
                "plan = NULL, error = NULL, seconds = NULL, "
                "recipe = excluded.recipe, title = excluded.title, steps = excluded.steps "
                "WHERE state <> 'running'",
                [(batch, video.number, video.title, video.recipe, video.steps) for video in videos],
            )
            self._emit(BatchAdded(videos=len(videos)), batch)
        return batch

    def move(self, batch: int, to: MoveTarget | int) -> None:
        """Move a batch past one unfinished batch, to the top or bottom, or before the batch with the number `to`."""
        with self._begin_change() as db:
            order = [row["id"] for row in db.execute("SELECT id FROM batch ORDER BY place, id")]
            if batch not in order:
                raise UserError(f"batch {batch} is no longer on the queue")
            index = order.index(batch)
            order.remove(batch)
            # Skip finished batches: moving past one of them would have no visible effect.
            unfinished = {
                row["batch"]
                for row in db.execute(f"SELECT DISTINCT batch FROM video WHERE state IN {UNFINISHED_STATES}")
            }
            passable = [n for n, id_ in enumerate(order) if id_ in unfinished]
            match to:
                case "top":
                    index = 0
                case "bottom":
                    index = len(order)
                case "up":
                    index = max((n for n in passable if n < index), default=index)
                case "down":
                    index = min((n + 1 for n in passable if n >= index), default=index)
                case _:
                    index = order.index(to) if to != batch else index
            order.insert(index, batch)
            db.executemany("UPDATE batch SET place = ? WHERE id = ?", [(n, id_) for n, id_ in enumerate(order, 1)])
            self._emit(BatchMoved(), batch)

    def pause_batch(self, batch: int, paused: bool) -> None:
        """Pause a batch (running videos stop at their next step), or resume it."""
        with self._begin_change() as db:
            changed = db.execute("UPDATE batch SET paused = ? WHERE id = ? AND paused <> ?", (paused, batch, paused))
            if changed.rowcount:
                self._emit(BatchPaused() if paused else BatchResumed(), batch)

    def cancel(self, batch: int, number: int | None = None) -> tuple[list[int], int]:
        """Cancel all videos of a batch, or one video; running videos stop at their next step.

        Returns:
            The numbers of the videos cancelled now, and the number of running videos that will stop.
        """
        with self._begin_change() as db:
            which, arguments = _make_video_filter_sql(batch, number)
            running = db.execute(f"UPDATE video SET cancel = 1 WHERE {which} AND state = 'running'", arguments).rowcount
            rows = db.execute(
                f"UPDATE video SET state = 'cancelled', finished = ? WHERE {which} AND state IN {WAITING_STATES_SQL} "
                "RETURNING id, number, title",
                (time.time(), *arguments),
            ).fetchall()
            for row in rows:
                payload = VideoCancelled(title=row["title"], number=display_number(row["number"]))
                self._emit(payload, batch, row["id"])
        return [row["number"] for row in rows], running

    def retry(self, batch: int, number: int | None = None) -> int:
        """Queue the failed and cancelled videos of a batch again; return their number."""
        with self._begin_change() as db:
            which, arguments = _make_video_filter_sql(batch, number)
            rows = db.execute(
                "UPDATE video SET state = 'queued', worker_crashes = 0, cancel = 0, error = NULL, plan = NULL "
                f"WHERE {which} AND state IN ('failed', 'cancelled') RETURNING id",
                arguments,
            ).fetchall()
            if rows:
                self._emit(BatchRetried(videos=len(rows)), batch)
        return len(rows)

    def remove(self, batch: int) -> None:
        """Remove a batch from the queue; its folder stays.

        Raises:
            UserError: one of its videos is running.
        """
        with self._begin_change() as db:
            if db.execute("SELECT 1 FROM video WHERE batch = ? AND state = 'running'", (batch,)).fetchone():
                raise UserError(
                    f"cannot remove batch {batch}: one of its videos is running, or was running when the last "
                    f"engine ended. Cancel it: wantui queue cancel {batch}. If no engine is running, start one first: "
                    "wantui engine start"
                )
            db.execute("DELETE FROM batch WHERE id = ?", (batch,))
            db.execute("DELETE FROM event WHERE batch = ?", (batch,))
            self._emit(BatchRemoved())


def _make_video_filter_sql(batch: int, number: int | None) -> tuple[str, tuple[int, ...]]:
    return ("batch = ?", (batch,)) if number is None else ("batch = ? AND number = ?", (batch, number))
