"""Operations of workers and the engine on the queue: claim, report, release, and recover after a crash.

Every statement on a claimed video checks the attempt, so that a worker that lost its claim cannot change anything.
"""

import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from wantui.clock import compute_seconds_since, read_boot_id, read_boot_seconds
from wantui.formatting import format_count
from wantui.queue.events import (
    BatchRefused,
    FramesDecoded,
    StepDone,
    VideoCancelled,
    VideoDone,
    VideoEventPayload,
    VideoFailed,
    VideoInterrupted,
    VideoOutOfMemory,
    VideoReleased,
    VideoStarted,
    WorkerEnded,
    WorkerReady,
    WorkerStarting,
)
from wantui.queue.reader import WAITING_STATES_SQL, make_claimable_videos_sql
from wantui.queue.records import Claim, VideoRow, display_number
from wantui.queue.writer import QueueWriter, to_storable_text

MAX_CRASHES = 2
"""Number of worker crashes after which a video fails."""
MAX_STEP_EVENT_AGE = 20_000
"""Age, in number of newer events, from which step events are deleted: every follower has read them by then."""
UserRequest = Literal["continue", "cancel", "pause"]
"""What a user wants a running video to do."""
END_VIDEO_SQL = "finished = ?, seconds = max(0, ? - boot_seconds)"
"""SQL that ends a video; its parameters are `_make_end_video_parameters()`."""


class LostClaimError(Exception):
    """Raised if a video no longer belongs to a worker."""


class ClaimQueue(QueueWriter):
    """The queue with the operations of workers and the engine."""

    # Workers

    def claim(self, worker: str, devices: Iterable[str]) -> Claim | None:
        """Claim the next video for a worker; return None if no video waits.

        Args:
            devices: values of `batch.device` that the worker serves.
        """
        names = list(devices)
        with self._begin_change() as db:
            row = db.execute(
                "UPDATE video SET state = 'running', worker = ?, attempt = attempt + 1, step = 0, started = ?, "
                "finished = NULL, error = NULL, boot_id = ?, boot_seconds = ?, seconds = NULL WHERE id = ("
                f"SELECT video.id {make_claimable_videos_sql(len(names))} ORDER BY batch.place, video.number LIMIT 1"
                ") RETURNING *",
                (worker, time.time(), read_boot_id(), read_boot_seconds(), *names),
            ).fetchone()
            if row is None:
                return None
            db.execute(
                "DELETE FROM event WHERE kind = 'step' AND seq < (SELECT max(seq) FROM event) - ?",
                (MAX_STEP_EVENT_AGE,),
            )
            batch = db.execute("SELECT folder, device FROM batch WHERE id = ?", (row["batch"],)).fetchone()
            payload = VideoStarted(
                title=row["title"],
                number=display_number(row["number"]),
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

    def record_step(self, claim: Claim, done: StepDone) -> UserRequest:
        """Record a finished step; return the current user request.

        Raises:
            LostClaimError: the video no longer belongs to this claim.
        """
        with self._begin_change() as db:
            self._update_claimed_video(claim, "step = ?, steps = ?", (done.step, done.steps))
            # Leave out the title, which would be most of the bytes of the step events.
            self._emit(replace(done, number=display_number(claim.number)), claim.batch, claim.video)
            return _read_user_request(db, claim)

    def record_decoded_frames(self, claim: Claim, frames: int, count: int) -> UserRequest:
        """Record the number of decoded frames; return the current user request."""
        with self._begin_change() as db:
            self._update_claimed_video(claim, "worker = worker", ())
            self._emit_video_event(claim, FramesDecoded(frames=frames, count=count))
            return _read_user_request(db, claim)

    def check_claim(self, claim: Claim) -> UserRequest:
        """Check that a video still belongs to this claim; return the current user request.

        Raises:
            LostClaimError: the video belongs to another claim.
        """
        with self._begin_change() as db:
            self._update_claimed_video(claim, "worker = worker", ())
            return _read_user_request(db, claim)

    def record_done(self, claim: Claim, done: VideoDone = VideoDone()) -> None:  # noqa: B008 - it is frozen
        """Record that a video and its manifest entry are on disk."""
        self._end_video(claim, "done", None, done)

    def record_failure(self, claim: Claim, error: str) -> None:
        """Record that a video failed."""
        error = to_storable_text(error)
        self._end_video(claim, "failed", error, VideoFailed(error=error))

    def record_cancellation(self, claim: Claim) -> None:
        """Record that a video was stopped because a user cancelled it."""
        self._end_video(claim, "cancelled", None, VideoCancelled())

    def release(self, claim: Claim, reason: str) -> None:
        """Return a video to the queue; the next worker that claims it resumes from its checkpoint."""
        with self._begin_change():
            self._update_claimed_video(claim, "state = 'queued', worker = NULL", ())
            self._emit_video_event(claim, VideoReleased(reason=to_storable_text(reason)))

    def requeue_with_plan(self, claim: Claim, plan: str, earlier: Sequence[str], error: str) -> None:
        """Return a video that ran out of memory to the queue; it and the waiting videos of its batch get another plan.

        Args:
            plan: slug of the memory plan to try next.
            earlier: slugs of the plans before `plan`; videos with a later plan keep it.
        """
        with self._begin_change() as db:
            self._update_claimed_video(claim, "state = 'queued', worker = NULL", ())
            marks = ", ".join("?" * len(earlier))
            db.execute(
                f"UPDATE video SET plan = ? WHERE batch = ? AND state IN {WAITING_STATES_SQL} "
                f"AND (plan IS NULL OR plan IN ({marks}))",
                (plan, claim.batch, *earlier),
            )
            self._emit_video_event(claim, VideoOutOfMemory(plan=plan, error=to_storable_text(error)))

    def record_batch_failure(self, claim: Claim, error: str, exit_code: int) -> None:
        """Fail all unfinished videos of this claim's batch, for example because the weights are missing."""
        error = to_storable_text(error)
        with self._begin_change() as db:
            self._update_claimed_video(
                claim,
                f"state = 'failed', worker = NULL, error = ?, {END_VIDEO_SQL}",
                (error, *_make_end_video_parameters()),
            )
            db.execute(
                "UPDATE video SET state = 'failed', finished = ?, error = ? "
                f"WHERE batch = ? AND state IN {WAITING_STATES_SQL}",
                (time.time(), error, claim.batch),
            )
            self._emit(BatchRefused(error=error, exit_code=exit_code), claim.batch)

    def _end_video(self, claim: Claim, state: str, error: str | None, payload: VideoEventPayload) -> None:
        with self._begin_change():
            self._update_claimed_video(
                claim,
                f"state = '{state}', worker = NULL, error = ?, {END_VIDEO_SQL}",
                (error, *_make_end_video_parameters()),
            )
            self._emit_video_event(claim, payload)

    def _update_claimed_video(self, claim: Claim, assignments: str, values: tuple[Any, ...]) -> None:
        changed = self.db.execute(
            f"UPDATE video SET {assignments} WHERE id = ? AND attempt = ? AND state = 'running'",
            (*values, claim.video, claim.attempt),
        )
        if not changed.rowcount:
            raise LostClaimError(f"{claim.title} is no longer rendered by this worker")

    # The engine

    def reclaim_videos(self, worker: str, why: str, counts_crash: bool, has_ended: bool = False) -> list[VideoRow]:
        """Reclaim the videos of a worker that died or lost the queue; return them in their new state.

        Args:
            counts_crash: whether to count the crash against a video. Of several videos, the last started one is blamed:
                for the others only the final files were being written.
            has_ended: whether the worker's process ended; records that too.
        """
        is_fatal = f"NOT cancel AND worker_crashes + :blame >= {MAX_CRASHES}"
        with self._begin_change() as db:
            rows = db.execute(
                "SELECT id FROM video WHERE worker = ? AND state = 'running' ORDER BY boot_seconds DESC, id DESC",
                (worker,),
            ).fetchall()
            for index, row in enumerate(rows):
                db.execute(
                    "UPDATE video SET worker_crashes = worker_crashes + :blame, worker = NULL, finished = :now, "
                    "seconds = max(0, :clock - boot_seconds), state = CASE "
                    f"WHEN cancel THEN 'cancelled' WHEN {is_fatal} THEN 'failed' ELSE 'interrupted' END, "
                    f"error = CASE WHEN {is_fatal} THEN :error END WHERE id = :id",
                    {
                        "now": time.time(),
                        "clock": read_boot_seconds(),
                        "blame": counts_crash and index == 0,
                        "error": f"{MAX_CRASHES} workers died while rendering it. The last error: {why}",
                        "id": row["id"],
                    },
                )
            videos = [self.video(row["id"]) for row in rows]
            for video in videos:
                payload = _build_reclaim_event(video.state, video.title, video.number, video.error or why)
                self._emit(payload, video.batch, video.id)
            if has_ended and db.execute("DELETE FROM worker WHERE name = ?", (worker,)).rowcount:
                self._emit(WorkerEnded(worker=worker))
        return videos

    def recover_interrupted_videos(self) -> int:
        """Mark the running videos of an ended engine as interrupted, and hold the queue until a user resumes it.

        Returns:
            Number of interrupted videos.
        """
        with self._begin_change() as db:
            db.execute("DELETE FROM worker")
            rows = db.execute(
                "UPDATE video SET state = CASE WHEN cancel THEN 'cancelled' ELSE 'interrupted' END, worker = NULL "
                "WHERE state = 'running' RETURNING id, batch, number, title, state"
            ).fetchall()
            for row in rows:
                payload = _build_reclaim_event(row["state"], row["title"], row["number"], "the engine ended")
                self._emit(payload, row["batch"], row["id"])
            (count,) = db.execute("SELECT count(*) FROM video WHERE state = 'interrupted'").fetchone()
        if count:
            were = "was" if count == 1 else "were"
            self.hold("interrupted", f"{format_count(count, 'video')} {were} interrupted when the engine ended")
        return int(count)

    def record_starting_worker(self, worker: str, device: str) -> None:
        """Record that a worker process was started; it imports torch first, for seconds to minutes."""
        with self._begin_change() as db:
            db.execute(
                "INSERT OR REPLACE INTO worker VALUES (?, 'starting', ?, ?, ?)",
                (worker, device, read_boot_id(), read_boot_seconds()),
            )
            self._emit(WorkerStarting(worker=worker, device=device))

    def record_ready_worker(self, worker: str) -> None:
        """Record that a worker process has imported torch and claims videos."""
        with self._begin_change() as db:
            row = db.execute(
                "UPDATE worker SET state = 'ready' WHERE name = ? RETURNING boot_id, boot_seconds", (worker,)
            ).fetchone()
            if row is not None:
                seconds = compute_seconds_since(row["boot_id"], row["boot_seconds"])
                self._emit(WorkerReady(worker=worker, seconds=None if seconds is None else round(seconds, 1)))


def _build_reclaim_event(state: str, title: str, index: int, error: str) -> VideoEventPayload:
    """Return the event for the new state of a reclaimed video."""
    kinds = {"cancelled": VideoCancelled, "failed": VideoFailed, "interrupted": VideoInterrupted}
    return kinds[state](title=title, number=display_number(index), error=error)


def _make_end_video_parameters() -> tuple[float, float]:
    return time.time(), read_boot_seconds()


def _read_user_request(db: sqlite3.Connection, claim: Claim) -> UserRequest:
    row = db.execute(
        "SELECT video.cancel, batch.paused OR EXISTS (SELECT 1 FROM hold WHERE kind = 'paused') AS paused "
        "FROM video JOIN batch ON batch.id = video.batch WHERE video.id = ?",
        (claim.video,),
    ).fetchone()
    return "cancel" if row["cancel"] else "pause" if row["paused"] else "continue"
