"""Transactions on the queue: each change is stored together with an event for followers."""

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from wantui.formatting import escape_unprintable
from wantui.queue.events import (
    BatchHeld,
    BatchResumed,
    EventPayload,
    QueueHeld,
    QueueResumed,
    VideoEventPayload,
)
from wantui.queue.reader import QueueReader
from wantui.queue.records import Claim, Hold, to_display_number
from wantui.queue.stored_events import convert_payload_to_json

RAISE_NEEDED_BYTES_SQL = "SET reason = ?, needed = ? WHERE kind = ? AND folder = ? AND needed < ?"
"""SQL that changes a hold if a further video needs more free bytes in the same folder."""


class QueueWriter(QueueReader):
    """The queue with transactions, events and holds; for one thread of one process."""

    @contextmanager
    def _begin_transaction(self) -> Iterator[sqlite3.Connection]:
        try:  # a signal may interrupt BEGIN after SQLite has begun
            self.db.execute("BEGIN IMMEDIATE")
            self.check_schema_not_newer()  # inside the transaction no other process can migrate it
            yield self.db
            self.db.execute("COMMIT")
        except BaseException:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            raise

    def _store_event(self, payload: EventPayload, batch_number: int | None = None, video_id: int | None = None) -> None:
        self.db.execute(
            "INSERT INTO event (time, batch, video, kind, data) VALUES (?, ?, ?, ?, ?)",
            (time.time(), batch_number, video_id, payload.kind, json.dumps(convert_payload_to_json(payload))),
        )

    def emit_event(self, payload: EventPayload, batch_number: int | None = None, video_id: int | None = None) -> None:
        """Store an event without a change of the queue."""
        with self._begin_transaction():
            self._store_event(payload, batch_number, video_id)

    def emit_video_event(self, claim: Claim, payload: VideoEventPayload) -> None:
        """Store an event of a claimed video without a change of the queue; title and number are filled in."""
        with self._begin_transaction():
            self._store_video_event(claim, payload)

    def _store_video_event(self, claim: Claim, payload: VideoEventPayload) -> None:
        self._store_event(
            replace(payload, title=claim.title, number=to_display_number(claim.video_index)),
            claim.batch_number,
            claim.video_id,
        )

    def hold_queue(self, kind: str, reason: str, folder: Path | None = None, needed_bytes: int | None = None) -> None:
        """Put the queue on hold: no video starts. A user's pause replaces an existing hold; other holds do not.

        Args:
            needed_bytes: bytes that must be free to end a hold of kind `disk`; None if it needs free inodes instead.
        """
        with self._begin_transaction():
            self._store_hold(kind, reason, folder, needed_bytes)

    def _store_hold(self, kind: str, reason: str, folder: Path | None = None, needed_bytes: int | None = None) -> None:
        reason = to_storable_text(reason)
        folder_text = None if folder is None else str(folder)
        # Not OR IGNORE, which would also ignore an unknown kind.
        or_replace, on_conflict = ("OR REPLACE", "") if kind == "paused" else ("", "ON CONFLICT (only_one) DO NOTHING")
        cursor = self.db.execute(
            f"INSERT {or_replace} INTO hold VALUES (1, ?, ?, ?, ?) {on_conflict}",
            (kind, reason, folder_text, needed_bytes),
        )
        if cursor.rowcount:
            self._store_event(QueueHeld(reason=reason, hold=kind))
        else:
            self.db.execute(
                f"UPDATE hold {RAISE_NEEDED_BYTES_SQL}", (reason, needed_bytes, kind, folder_text, needed_bytes)
            )

    def resume_queue(self, kind: str | None = None, reason: str | None = None) -> None:
        """End the holds of the queue and of its batches.

        Args:
            kind: if given, end only a hold of the queue of that kind.
            reason: if given, end only a hold with this reason: another one may have taken its place.
        """
        with self._begin_transaction() as db:
            if db.execute(
                "DELETE FROM hold WHERE kind = coalesce(?, kind) AND reason = coalesce(?, reason)", (kind, reason)
            ).rowcount:
                self._store_event(QueueResumed())
            if kind is None:
                for row in db.execute("SELECT batch FROM batch_hold").fetchall():
                    self._end_batch_hold(row["batch"])

    def hold_batch(
        self, batch_number: int, kind: str, reason: str, folder: Path, needed_bytes: int | None = None
    ) -> None:
        """Put a batch on hold until `folder` can be written, unless it is on hold; other batches continue.

        Args:
            needed_bytes: bytes that must be free to end a hold of kind `disk`; None if it needs free inodes instead.
                Of several needs in one folder, the largest counts.
        """
        reason = to_storable_text(reason)
        with self._begin_transaction() as db:
            cursor = db.execute(  # WHERE: a removed batch has no hold
                "INSERT INTO batch_hold SELECT id, ?, ?, ?, ? FROM batch WHERE id = ? ON CONFLICT (batch) DO NOTHING",
                (kind, reason, str(folder), needed_bytes, batch_number),
            )
            if cursor.rowcount:
                self._store_event(BatchHeld(reason=reason, hold=kind), batch_number)
            else:
                db.execute(
                    f"UPDATE batch_hold {RAISE_NEEDED_BYTES_SQL} AND batch = ?",
                    (reason, needed_bytes, kind, str(folder), needed_bytes, batch_number),
                )

    def end_batch_hold(self, batch_number: int, hold: Hold) -> bool:
        """End this hold of a batch, unless another one has taken its place; return whether it ended.

        A paused batch stays paused.
        """
        with self._begin_transaction():
            return self._end_batch_hold(batch_number, hold)

    def _end_batch_hold(self, batch_number: int, hold: Hold | None = None) -> bool:
        """End the hold of a batch, or only the given one; return whether one ended."""
        if not self._delete_batch_hold(batch_number, hold):
            return False
        if self.db.execute("SELECT 1 FROM batch WHERE id = ? AND NOT paused", (batch_number,)).fetchone():
            self._store_event(BatchResumed(), batch_number)
        return True

    def _delete_batch_hold(self, batch_number: int, hold: Hold | None = None) -> bool:
        kind, reason = (None, None) if hold is None else (hold.kind, hold.reason)
        cursor = self.db.execute(
            "DELETE FROM batch_hold WHERE batch = ? AND kind = coalesce(?, kind) AND reason = coalesce(?, reason)",
            (batch_number, kind, reason),
        )
        return bool(cursor.rowcount)


def to_storable_text(text: str) -> str:
    """Return an error text that SQLite and JSON can encode: paths in it may contain bytes that are not UTF-8."""
    return escape_unprintable(text, keep_lines=True)
