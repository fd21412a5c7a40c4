"""Read-only queries of the queue."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from wantui.clock import compute_seconds_since, read_boot_id
from wantui.queue.batch_lookup import find_batch_number
from wantui.queue.database import (
    BUSY_TIMEOUT_SECONDS,
    DATABASE_FILE,
    QueueUnavailableError,
    open_database,
    read_supported_version,
)
from wantui.queue.lock_holders import LOCK_NOTICE_SECONDS, LockListener, describe_lock_holder, find_lock_holder_ids
from wantui.queue.records import (
    UNFINISHED_STATES,
    WAITING_STATES,
    BatchRow,
    Claim,
    Hold,
    QueueEvent,
    VideoPage,
    VideoRow,
    WorkerRow,
)
from wantui.queue.state_dir import find_write_error
from wantui.queue.state_files import find_file_write_error
from wantui.queue.stored_events import convert_payload_to_json, parse_event_payload
from wantui.queue.stored_rows import check_column_types, to_event, to_hold, to_video_row

CLAIM_ORDER_SQL = "ORDER BY batch.place, video.number LIMIT 1"
"""SQL that chooses the next of the claimable videos."""
STARTABLE_BATCH_SQL = "NOT batch.paused AND batch.id NOT IN (SELECT batch FROM batch_hold)"
"""SQL condition of a batch whose videos may start."""


def make_claimable_videos_sql(device_count: int) -> str:
    """Return the FROM and WHERE clauses that select claimable videos.

    Their parameters are `device_count` device names.
    """
    return (
        "FROM batch CROSS JOIN video ON video.batch = batch.id "
        f"WHERE video.state IN {WAITING_STATES} AND {STARTABLE_BATCH_SQL} "
        f"AND batch.device IN ({', '.join('?' * device_count)}) AND NOT EXISTS (SELECT 1 FROM hold)"
    )


class QueueReader:
    """Read-only access to the queue in a state directory, for one thread of one process. A context manager.

    Args:
        wait_seconds: seconds to wait for a locked database, on opening and in each query.
        on_locked: called with the name of a process for whose lock a query has waited two seconds.
    """

    def __init__(
        self, directory: Path, wait_seconds: float = BUSY_TIMEOUT_SECONDS, on_locked: LockListener | None = None
    ) -> None:
        self.path = directory / DATABASE_FILE
        self.db = open_database(self.path, wait_seconds, on_locked)
        self._opened_file_identities = self._read_file_identities()
        self._reported_holder_ids: frozenset[int] | None = None
        """Processes whose lock `explain_unwritable_queue` described last."""

    def close(self) -> None:
        """Close the connection; closing it again does nothing."""
        self.db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def read_snapshot(self) -> Iterator[None]:
        """Make all reads of a block see the same state of the queue; the block must not write.

        Raises:
            sqlite3.Error: the queue cannot be read.
        """
        try:
            self.db.execute("BEGIN")
            yield
        finally:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")

    def check_schema_not_newer(self) -> None:
        """Reject a database that was migrated by a later version while it was open.

        Raises:
            NewerDatabaseError: a later version of wantui has migrated it.
        """
        read_supported_version(self.db, self.path)

    def is_replaced(self) -> bool:
        """Return whether the database file or write-ahead log was deleted or replaced since it was opened.

        SQLite itself does not notice, and would write its pages into the replacement.
        """
        try:
            return self._read_file_identities() != self._opened_file_identities
        except PermissionError:  # without access to the folder, the open files are still valid
            return False

    def explain_unwritable_queue(self) -> str | None:
        """Describe why the queue cannot be written at present; None if it can.

        Clients call this every second, because an engine and workers that cannot write the queue cannot report it
        themselves. It waits two seconds for a lock, but not again for the same processes. It locks the queue itself for
        an instant, and only if the system names a process with a lock, or cannot name any.
        """
        directory = self.path.parent
        reason = find_write_error(directory) or find_file_write_error(self.path)
        if reason is None:
            holder_ids = find_lock_holder_ids(self.path)
            is_known = bool(holder_ids) and holder_ids == self._reported_holder_ids
            self._reported_holder_ids = None
            try:
                if holder_ids != frozenset() and self.db.is_write_locked(0.0 if is_known else LOCK_NOTICE_SECONDS):
                    reason = f"it is locked by {describe_lock_holder(self.path)}"
                    self._reported_holder_ids = holder_ids
            except QueueUnavailableError as error:
                reason = str(error)
        if reason is None:
            return None
        return (
            f"cannot write the queue in {directory}: {reason}. Fix this, and the engine continues by itself; until "
            f"then, no video makes progress"
        )

    def _read_file_identities(self) -> tuple[tuple[int, int] | None, ...]:
        # Use stat, never open: closing a descriptor of the files drops the locks of SQLite. The log exists, possibly
        # truncated, as long as any connection is open.
        return tuple(_read_file_identity(self.path.with_name(self.path.name + suffix)) for suffix in ("", "-wal"))

    def read_hold(self) -> Hold | None:
        row = self.db.execute("SELECT * FROM hold").fetchone()
        return None if row is None else to_hold(row)

    def is_on_hold(self) -> bool:
        """Return whether the queue is on hold, or no video can start because of batches on hold."""
        unfinished_batches = [batch for batch in self.list_batches() if batch.unfinished_count]
        has_only_stopped_batches = all(batch.is_stopped for batch in unfinished_batches)
        return self.read_hold() is not None or (
            has_only_stopped_batches and any(batch.hold is not None for batch in unfinished_batches)
        )

    def list_batches(self) -> list[BatchRow]:
        """Return the batches in queue order, with the number of videos in each state."""
        rows = self.db.execute("SELECT * FROM batch ORDER BY place, id").fetchall()
        return [self._to_batch_row(row) for row in rows]

    def list_held_batches(self) -> list[BatchRow]:
        """Return the unfinished batches that are on hold themselves, in queue order."""
        rows = self.db.execute("SELECT * FROM batch WHERE id IN (SELECT batch FROM batch_hold) ORDER BY place, id")
        return [batch for batch in map(self._to_batch_row, rows.fetchall()) if batch.unfinished_count]

    def get_batch(self, batch_number: int) -> BatchRow | None:
        row = self.db.execute("SELECT * FROM batch WHERE id = ?", (batch_number,)).fetchone()
        return None if row is None else self._to_batch_row(row)

    def _to_batch_row(self, row: sqlite3.Row) -> BatchRow:
        check_column_types(row)
        state_counts = self.db.execute("SELECT state, count(*) FROM video WHERE batch = ? GROUP BY state", (row["id"],))
        hold_row = self.db.execute("SELECT * FROM batch_hold WHERE batch = ?", (row["id"],)).fetchone()
        return BatchRow(
            id=row["id"],
            folder=Path(row["folder"]),
            device=row["device"],
            paused=bool(row["paused"]),
            created=row["created"],
            counts=dict(map(tuple, state_counts)),
            template=row["template"],
            model=row["model"],
            seeds=row["seeds"],
            gpus_per_video=row["gpus_per_video"],
            hold=None if hold_row is None else to_hold(hold_row),
        )

    def find_batch(self, word: str) -> BatchRow:
        """Return the batch with the given number, folder name or path.

        Raises:
            UnknownBatchError: suggests the most similar name.
            UserError: several batches have the name.
        """
        batches_by_number = {batch.id: batch for batch in self.list_batches()}
        return batches_by_number[
            find_batch_number(word, {number: batch.folder for number, batch in batches_by_number.items()})
        ]

    def list_videos(self, batch_number: int, limit: int = -1, offset: int = 0) -> list[VideoRow]:
        """Return the videos of a batch in order."""
        rows = self.db.execute(
            "SELECT * FROM video WHERE batch = ? ORDER BY number LIMIT ? OFFSET ?", (batch_number, limit, offset)
        )
        return [to_video_row(row) for row in rows]

    def list_recent_durations(self, batch_number: int, count: int) -> list[float]:
        """Return the seconds of the last attempt, for the batch's `count` completed videos that started last."""
        rows = self.db.execute(
            "SELECT seconds FROM video WHERE batch = ? AND state = 'done' AND seconds IS NOT NULL "
            # The wall clock may be set back meanwhile; it orders only the videos of earlier boots.
            "ORDER BY CASE WHEN boot_id = ? THEN boot_seconds END DESC, finished DESC LIMIT ?",
            (batch_number, read_boot_id(), count),
        )
        return [float(row["seconds"]) for row in rows]

    def count_unfinished_videos_before(self, batch_number: int, video_index: int) -> int:
        """Return how many unfinished videos precede a video of the batch."""
        (count,) = self.db.execute(
            f"SELECT count(*) FROM video WHERE batch = ? AND number < ? AND state IN {UNFINISHED_STATES}",
            (batch_number, video_index),
        ).fetchone()
        return int(count)

    def read_video_page(self, batch_number: int, limit: int, offset: int) -> VideoPage:
        """Return a range of videos of a batch, each with the number of unfinished videos before it."""
        videos = self.list_videos(batch_number, limit, offset)
        counts_before, count = [], self.count_unfinished_videos_before(batch_number, videos[0].number) if videos else 0
        for video in videos:
            counts_before.append(count)
            count += video.state in UNFINISHED_STATES
        return VideoPage(tuple(videos), tuple(counts_before))

    def list_unfinished_batches_before(self, batch_number: int) -> list[BatchRow]:
        """Return the unfinished batches before this one, in queue order, without batches that are paused or on hold."""
        rows = self.db.execute(
            f"SELECT * FROM batch WHERE place < (SELECT place FROM batch WHERE id = ?) AND {STARTABLE_BATCH_SQL} "
            "AND EXISTS (SELECT 1 FROM video WHERE batch = batch.id "
            f"AND state IN {UNFINISHED_STATES}) ORDER BY place, id",
            (batch_number,),
        )
        return [self._to_batch_row(row) for row in rows.fetchall()]

    def list_workers(self) -> list[WorkerRow]:
        """Return the worker processes of the engine, by name."""
        workers = []
        for row in self.db.execute("SELECT * FROM worker ORDER BY name").fetchall():
            check_column_types(row)
            seconds = compute_seconds_since(row["boot_id"], row["boot_seconds"])
            workers.append(WorkerRow(row["name"], row["state"], row["device"], seconds))
        return workers

    def list_running_videos(self) -> list[VideoRow]:
        return [to_video_row(row) for row in self.db.execute("SELECT * FROM video WHERE state = 'running'")]

    def get_video(self, video_id: int) -> VideoRow:
        return to_video_row(self.db.execute("SELECT * FROM video WHERE id = ?", (video_id,)).fetchone())

    def find_video(self, batch_number: int, video_index: int) -> VideoRow | None:
        """Return the video with an index (from 0) in its batch; None if the queue does not have it."""
        row = self.db.execute(
            "SELECT * FROM video WHERE batch = ? AND number = ?", (batch_number, video_index)
        ).fetchone()
        return None if row is None else to_video_row(row)

    def read_last_event_seq(self) -> int:
        """Return the number of the latest event."""
        (seq,) = self.db.execute("SELECT coalesce(max(seq), 0) FROM event").fetchone()
        return int(seq)

    def list_events(self, after_seq: int, batch_number: int | None = None) -> list[QueueEvent]:
        """Return the events after number `after_seq`, of all batches or of one batch and the queue."""
        batch_condition = "" if batch_number is None else "AND (batch = ? OR batch IS NULL)"
        rows = self.db.execute(
            f"SELECT * FROM event WHERE seq > ? {batch_condition} ORDER BY seq",
            (after_seq, *([] if batch_number is None else [batch_number])),
        )
        return [to_event(row) for row in rows]

    def list_finished_videos(self, limit: int = 200) -> list[tuple[str, dict[str, Any]]]:
        """Return the recipe (JSON) and the `done` event of each of the latest finished videos, newest first."""
        rows = self.db.execute(
            "SELECT video.recipe, event.data FROM event JOIN video ON video.id = event.video "
            "WHERE event.kind = 'done' ORDER BY event.seq DESC LIMIT ?",
            (limit,),
        )
        return [(row["recipe"], convert_payload_to_json(parse_event_payload("done", row["data"]))) for row in rows]

    def read_recipe(self, video_id: int) -> str:
        """Return the recipe of a video, as JSON."""
        (recipe,) = self.db.execute("SELECT recipe FROM video WHERE id = ?", (video_id,)).fetchone()
        return str(recipe)

    def read_data_version(self) -> int:
        """Return a number that changes when another connection changes the database; takes microseconds."""
        (version,) = self.db.execute("PRAGMA data_version").fetchone()
        return int(version)

    def has_claimable_video(self, devices: Iterable[str]) -> bool:
        """Return whether a video is claimable for a worker with these devices."""
        return self.find_next_gpu_count(devices) is not None

    def find_next_gpu_count(self, devices: Iterable[str]) -> int | None:
        """Return the number of GPUs for the next video that a worker of these devices can claim, or None."""
        names = list(devices)
        sql = f"SELECT batch.gpus_per_video {make_claimable_videos_sql(len(names))} {CLAIM_ORDER_SQL}"
        row = self.db.execute(sql, names).fetchone()
        return None if row is None else int(row[0])

    def list_cancelling_workers(self) -> set[str]:
        """Return the workers whose video a user has cancelled.

        A worker may still write the final files of the video before; signals would stop its last started video.
        """
        rows = self.db.execute(
            "SELECT worker FROM (SELECT worker, cancel, max(boot_seconds) FROM video WHERE state = 'running' "
            "GROUP BY worker) WHERE cancel"
        )
        return {row["worker"] for row in rows}

    def is_cancelled(self, claim: Claim) -> bool:
        """Return whether a user has cancelled this video."""
        row = self.db.execute("SELECT cancel FROM video WHERE id = ? AND attempt = ?", (claim.video_id, claim.attempt))
        return bool((row.fetchone() or (True,))[0])


def _read_file_identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except PermissionError:
        raise
    except OSError:
        return None
    return status.st_dev, status.st_ino
