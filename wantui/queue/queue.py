"""What can be done with the queue. Every change is one transaction, with an event for those who follow.

A command compares the state that it expects in its WHERE, so that it does no harm when it is given twice.
"""

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from wantui.clock import boot_id, boot_seconds, seconds_since
from wantui.errors import UserError
from wantui.formatting import format_count, printable
from wantui.queue.events import (
    BatchAdded,
    BatchMoved,
    BatchPaused,
    BatchRefused,
    BatchRemoved,
    BatchResumed,
    BatchRetried,
    FramesDecoded,
    Payload,
    QueueHeld,
    QueueResumed,
    StepDone,
    VideoCancelled,
    VideoDone,
    VideoFailed,
    VideoInterrupted,
    VideoOutOfMemory,
    VideoPayload,
    VideoReleased,
    VideoStarted,
    WorkerEnded,
    WorkerReady,
    WorkerStarting,
)
from wantui.queue.reader import UNFINISHED, WAITING, QueueReader, claimable
from wantui.queue.records import Claim, NewVideo, VideoRow, shown_number

MAX_CRASHES = 2
"""A video over which so many workers died is not tried again."""
STEPS_KEPT = 20_000
"""Events back from the newest, beyond which steps are forgotten; whoever follows has seen them long since."""
UserRequest = Literal["go on", "cancel", "pause"]
Move = Literal["up", "down", "top", "bottom"]


ENDED = "finished = ?, seconds = max(0, ? - boot_seconds)"
"""SQL that ends a video; its parameters are `_ended()`."""


class LostClaimError(Exception):
    """The video is not this worker's any more."""


class Queue(QueueReader):
    """The queue in a directory, for one thread of one process, with all that changes it."""

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield self.db
            self.db.execute("COMMIT")
        except BaseException:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            raise

    def _emit(self, payload: Payload, batch: int | None = None, video: int | None = None) -> None:
        self.db.execute(
            "INSERT INTO event (time, batch, video, kind, data) VALUES (?, ?, ?, ?, ?)",
            (time.time(), batch, video, payload.kind, json.dumps(payload.as_json())),
        )

    def emit(self, payload: Payload, batch: int | None = None, video: int | None = None) -> None:
        """Append an event that changes nothing by itself."""
        with self._change():
            self._emit(payload, batch, video)

    def emit_of(self, claim: Claim, payload: VideoPayload) -> None:
        """Append an event of a claimed video that changes nothing by itself; title and number are filled in."""
        with self._change():
            self._emit_of(claim, payload)

    def _emit_of(self, claim: Claim, payload: VideoPayload) -> None:
        self._emit(replace(payload, title=claim.title, number=shown_number(claim.number)), claim.batch, claim.video)

    # What users ask for

    def add(self, folder: Path, device: str, videos: Sequence[NewVideo], new: bool = True) -> int:
        """Put a batch at the end; or (`new` false) have those videos of a batch made that may be here already."""
        with self._change() as db:
            if new:  # what was in a folder of this name is not there any more
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
            db.executemany(
                "INSERT INTO video (batch, number, title, recipe, steps) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (batch, number) DO UPDATE SET state = 'queued', deaths = 0, cancel = 0, plan = NULL, "
                "error = NULL, seconds = NULL, "
                "recipe = excluded.recipe, title = excluded.title, steps = excluded.steps "
                "WHERE state <> 'running'",
                [(batch, video.number, video.title, video.recipe, video.steps) for video in videos],
            )
            self._emit(BatchAdded(videos=len(videos)), batch)
        return batch

    def move(self, batch: int, to: Move | int) -> None:
        """Move a batch past one unfinished batch, to an end, or before another batch (its number)."""
        with self._change() as db:
            order = [row["id"] for row in db.execute("SELECT id FROM batch ORDER BY place, id")]
            if batch not in order:
                raise UserError(f"batch {batch} is not on the queue any more")
            place = order.index(batch)
            order.remove(batch)
            # Ended batches keep their places: to pass one of them would change nothing that anybody sees.
            unfinished = {
                row["batch"] for row in db.execute(f"SELECT DISTINCT batch FROM video WHERE state IN {UNFINISHED}")
            }
            passable = [n for n, id_ in enumerate(order) if id_ in unfinished]
            match to:
                case "top":
                    place = 0
                case "bottom":
                    place = len(order)
                case "up":
                    place = max((n for n in passable if n < place), default=place)
                case "down":
                    place = min((n + 1 for n in passable if n >= place), default=place)
                case _:
                    place = order.index(to) if to != batch else place
            order.insert(place, batch)
            db.executemany("UPDATE batch SET place = ? WHERE id = ?", [(n, id_) for n, id_ in enumerate(order, 1)])
            self._emit(BatchMoved(), batch)

    def hold(self, kind: str, reason: str, folder: Path | None = None, needed: int | None = None) -> None:
        """Let no video start. A hold that is there already stays, but for a user's pause, which takes its place."""
        reason = _storable(reason)
        or_else = "REPLACE" if kind == "paused" else "IGNORE"
        with self._change() as db:
            added = db.execute(
                f"INSERT OR {or_else} INTO hold VALUES (1, ?, ?, ?, ?)",
                (kind, reason, None if folder is None else str(folder), needed),
            )
            if added.rowcount:
                self._emit(QueueHeld(reason=reason, hold=kind))

    def resume(self, kind: str | None = None) -> None:
        """End whatever holds the queue, or only a hold of one kind."""
        with self._change() as db:
            if db.execute("DELETE FROM hold WHERE kind = coalesce(?, kind)", (kind,)).rowcount:
                self._emit(QueueResumed())

    def pause_batch(self, batch: int, paused: bool) -> None:
        """Let no video of a batch start (and stop the one that runs at its next step), or let them again."""
        with self._change() as db:
            changed = db.execute("UPDATE batch SET paused = ? WHERE id = ? AND paused <> ?", (paused, batch, paused))
            if changed.rowcount:
                self._emit(BatchPaused() if paused else BatchResumed(), batch)

    def cancel(self, batch: int, number: int | None = None) -> tuple[list[int], int]:
        """Give up a batch's videos, or one; those that run stop at their next step.

        Returns the numbers of those that are given up now, and how many will stop.
        """
        with self._change() as db:
            which, arguments = _which(batch, number)
            running = db.execute(f"UPDATE video SET cancel = 1 WHERE {which} AND state = 'running'", arguments).rowcount
            rows = db.execute(
                f"UPDATE video SET state = 'cancelled', finished = ? WHERE {which} AND state IN {WAITING} "
                "RETURNING id, number, title",
                (time.time(), *arguments),
            ).fetchall()
            for row in rows:
                payload = VideoCancelled(title=row["title"], number=shown_number(row["number"]))
                self._emit(payload, batch, row["id"])
        return [row["number"] for row in rows], running

    def retry(self, batch: int, number: int | None = None) -> int:
        """Queue again what failed or was cancelled; returns how many."""
        with self._change() as db:
            which, arguments = _which(batch, number)
            rows = db.execute(
                "UPDATE video SET state = 'queued', deaths = 0, cancel = 0, error = NULL, plan = NULL "
                f"WHERE {which} AND state IN ('failed', 'cancelled') RETURNING id",
                arguments,
            ).fetchall()
            if rows:
                self._emit(BatchRetried(videos=len(rows)), batch)
        return len(rows)

    def remove(self, batch: int) -> None:
        """Forget a batch; its folder stays.

        Raises:
            UserError: a video of it runs.
        """
        with self._change() as db:
            if db.execute("SELECT 1 FROM video WHERE batch = ? AND state = 'running'", (batch,)).fetchone():
                raise UserError(
                    f"cannot remove batch {batch}: a video of it is being made, or was when the last engine ended. "
                    f"Cancel it: wantui queue cancel {batch}. Without an engine it ends when one starts: "
                    "wantui engine start"
                )
            db.execute("DELETE FROM batch WHERE id = ?", (batch,))
            db.execute("DELETE FROM event WHERE batch = ?", (batch,))
            self._emit(BatchRemoved())

    # What workers do

    def claim(self, worker: str, devices: Iterable[str]) -> Claim | None:
        """The next video that this worker is to make; no other worker gets it.

        Args:
            devices: the values of a batch's device that this worker serves.
        """
        names = list(devices)
        with self._change() as db:
            row = db.execute(
                "UPDATE video SET state = 'running', worker = ?, attempt = attempt + 1, step = 0, started = ?, "
                "finished = NULL, error = NULL, boot_id = ?, boot_seconds = ?, seconds = NULL WHERE id = ("
                f"SELECT video.id {claimable(len(names))} ORDER BY batch.place, video.number LIMIT 1"
                ") RETURNING *",
                (worker, time.time(), boot_id(), boot_seconds(), *names),
            ).fetchone()
            if row is None:
                return None
            db.execute(
                "DELETE FROM event WHERE kind = 'step' AND seq < (SELECT max(seq) FROM event) - ?", (STEPS_KEPT,)
            )
            batch = db.execute("SELECT folder, device FROM batch WHERE id = ?", (row["batch"],)).fetchone()
            payload = VideoStarted(
                title=row["title"],
                number=shown_number(row["number"]),
                steps=row["steps"],
                worker=worker,
                attempt=row["attempt"],
            )
            self._emit(payload, row["batch"], row["id"])
        return Claim(
            row["id"],
            row["batch"],
            row["attempt"],
            Path(batch["folder"]),
            batch["device"],
            row["number"],
            row["title"],
            row["recipe"],
            row["plan"],
        )

    def step(self, claim: Claim, done: StepDone) -> UserRequest:
        """Record that a step is done; return what users want to happen now.

        Raises:
            LostClaimError: the video is not this claim's any more.
        """
        with self._change() as db:
            self._set(claim, "step = ?, steps = ?", (done.step, done.steps))
            # Without the title, which would make most of the bytes of a long denoising.
            self._emit(replace(done, number=shown_number(claim.number)), claim.batch, claim.video)
            return _wish(db, claim)

    def decoded(self, claim: Claim, frames: int, count: int) -> UserRequest:
        """Say that so many frames are decoded; returns what users want to happen now."""
        with self._change() as db:
            self._set(claim, "worker = worker", ())
            self._emit_of(claim, FramesDecoded(frames=frames, count=count))
            return _wish(db, claim)

    def check(self, claim: Claim) -> UserRequest:
        """Make sure that a video is still this claim's; returns what users want to happen now.

        Raises:
            LostClaimError: it is not.
        """
        with self._change() as db:
            self._set(claim, "worker = worker", ())
            return _wish(db, claim)

    def done(self, claim: Claim, done: VideoDone = VideoDone()) -> None:  # noqa: B008 - it is frozen
        """Record that a video and its manifest entry are on disk."""
        self._end(claim, "done", None, done)

    def failed(self, claim: Claim, error: str) -> None:
        """Record that a video cannot be made."""
        error = _storable(error)
        self._end(claim, "failed", error, VideoFailed(error=error))

    def cancelled(self, claim: Claim) -> None:
        """Record that a video was stopped because a user cancelled it."""
        self._end(claim, "cancelled", None, VideoCancelled())

    def release(self, claim: Claim, reason: str) -> None:
        """Give a video back; whoever claims it next goes on from its checkpoint."""
        with self._change():
            self._set(claim, "state = 'queued', worker = NULL", ())
            self._emit_of(claim, VideoReleased(reason=_storable(reason)))

    def degrade(self, claim: Claim, plan: str, earlier: Sequence[str], error: str) -> None:
        """Give back a video that did not fit into memory; it and the waiting ones of its batch try another plan.

        Args:
            plan: the slug of the memory plan to try.
            earlier: slugs of the plans before it; a video that is past `plan` already keeps its own.
        """
        with self._change() as db:
            self._set(claim, "state = 'queued', worker = NULL", ())
            marks = ", ".join("?" * len(earlier))
            db.execute(
                f"UPDATE video SET plan = ? WHERE batch = ? AND state IN {WAITING} "
                f"AND (plan IS NULL OR plan IN ({marks}))",
                (plan, claim.batch, *earlier),
            )
            self._emit_of(claim, VideoOutOfMemory(plan=plan, error=_storable(error)))

    def fail_batch(self, claim: Claim, error: str, exit_code: int) -> None:
        """Nothing of this claim's batch can be made, as when there are no weights."""
        error = _storable(error)
        with self._change() as db:
            self._set(claim, f"state = 'failed', worker = NULL, error = ?, {ENDED}", (error, *_ended()))
            db.execute(
                f"UPDATE video SET state = 'failed', finished = ?, error = ? WHERE batch = ? AND state IN {WAITING}",
                (time.time(), error, claim.batch),
            )
            self._emit(BatchRefused(error=error, exit_code=exit_code), claim.batch)

    def _end(self, claim: Claim, state: str, error: str | None, payload: VideoPayload) -> None:
        with self._change():
            self._set(claim, f"state = '{state}', worker = NULL, error = ?, {ENDED}", (error, *_ended()))
            self._emit_of(claim, payload)

    def _set(self, claim: Claim, assignments: str, values: tuple[Any, ...]) -> None:
        changed = self.db.execute(
            f"UPDATE video SET {assignments} WHERE id = ? AND attempt = ? AND state = 'running'",
            (*values, claim.video, claim.attempt),
        )
        if not changed.rowcount:
            raise LostClaimError(f"{claim.title} is not made here any more")

    # What the engine does

    def reclaim(self, worker: str, why: str, blame: bool, has_ended: bool = False) -> list[VideoRow]:
        """Take back what a worker that is dead, or lost the queue, was making; returns those videos as they stand now.

        Args:
            blame: whether a video may have been the cause, which it may be once and no more. Of several it is the one
                that was begun last: the files of those before it were only being ended.
            has_ended: whether the worker's process is gone, which is recorded with it.
        """
        lethal = f"NOT cancel AND deaths + :blame >= {MAX_CRASHES}"
        with self._change() as db:
            rows = db.execute(
                "SELECT id FROM video WHERE worker = ? AND state = 'running' ORDER BY boot_seconds DESC, id DESC",
                (worker,),
            ).fetchall()
            for place, row in enumerate(rows):
                db.execute(
                    "UPDATE video SET deaths = deaths + :blame, worker = NULL, finished = :now, "
                    "seconds = max(0, :clock - boot_seconds), state = CASE "
                    f"WHEN cancel THEN 'cancelled' WHEN {lethal} THEN 'failed' ELSE 'interrupted' END, "
                    f"error = CASE WHEN {lethal} THEN :error END WHERE id = :id",
                    {
                        "now": time.time(),
                        "clock": boot_seconds(),
                        "blame": blame and place == 0,
                        "error": f"{MAX_CRASHES} workers died while they made it, the last: {why}",
                        "id": row["id"],
                    },
                )
            videos = [self.video(row["id"]) for row in rows]
            for video in videos:
                payload = _taken_back(video.state, video.title, video.number, video.error or why)
                self._emit(payload, video.batch, video.id)
            if has_ended and db.execute("DELETE FROM worker WHERE name = ?", (worker,)).rowcount:
                self._emit(WorkerEnded(worker=worker))
        return videos

    def recover(self) -> int:
        """What no engine watches over any more is interrupted; the queue is held until a user has seen that.

        Returns how many videos are interrupted.
        """
        with self._change() as db:
            db.execute("DELETE FROM worker")
            rows = db.execute(
                "UPDATE video SET state = CASE WHEN cancel THEN 'cancelled' ELSE 'interrupted' END, worker = NULL "
                "WHERE state = 'running' RETURNING id, batch, number, title, state"
            ).fetchall()
            for row in rows:
                payload = _taken_back(row["state"], row["title"], row["number"], "the engine ended")
                self._emit(payload, row["batch"], row["id"])
            (count,) = db.execute("SELECT count(*) FROM video WHERE state = 'interrupted'").fetchone()
        if count:
            were = "was" if count == 1 else "were"
            self.hold("interrupted", f"{format_count(count, 'video')} {were} interrupted when the engine ended")
        return int(count)

    def add_worker(self, worker: str, device: str) -> None:
        """Record that a worker process was started; importing torch takes it seconds to minutes."""
        with self._change() as db:
            db.execute(
                "INSERT OR REPLACE INTO worker VALUES (?, 'starting', ?, ?, ?)",
                (worker, device, boot_id(), boot_seconds()),
            )
            self._emit(WorkerStarting(worker=worker, device=device))

    def worker_ready(self, worker: str) -> None:
        """Record that a worker process has imported torch and asks for videos."""
        with self._change() as db:
            row = db.execute(
                "UPDATE worker SET state = 'ready' WHERE name = ? RETURNING boot_id, boot_seconds", (worker,)
            ).fetchone()
            if row is not None:
                seconds = seconds_since(row["boot_id"], row["boot_seconds"])
                self._emit(WorkerReady(worker=worker, seconds=None if seconds is None else round(seconds, 1)))


def _taken_back(state: str, title: str, index: int, error: str) -> VideoPayload:
    """Return the event of a video that was taken back from a worker, by the state that it has now."""
    kinds = {"cancelled": VideoCancelled, "failed": VideoFailed, "interrupted": VideoInterrupted}
    return kinds[state](title=title, number=shown_number(index), error=error)


def _storable(text: str) -> str:
    """Return an error text as SQLite and JSON take it: a path in it may hold bytes that are not UTF-8."""
    return printable(text, keep_lines=True)


def _ended() -> tuple[float, float]:
    return time.time(), boot_seconds()


def _wish(db: sqlite3.Connection, claim: Claim) -> UserRequest:
    row = db.execute(
        "SELECT video.cancel, batch.paused OR EXISTS (SELECT 1 FROM hold WHERE kind = 'paused') AS paused "
        "FROM video JOIN batch ON batch.id = video.batch WHERE video.id = ?",
        (claim.video,),
    ).fetchone()
    return "cancel" if row["cancel"] else "pause" if row["paused"] else "go on"


def _which(batch: int, number: int | None) -> tuple[str, tuple[int, ...]]:
    return ("batch = ?", (batch,)) if number is None else ("batch = ? AND number = ?", (batch, number))
