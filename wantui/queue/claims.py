"""Operations of workers and the engine on the queue: claim, report, release, and recover after a crash.

Every statement on a claimed video checks the attempt, so a worker that lost its claim cannot change anything.
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
from wantui.queue.reader import CLAIM_ORDER_SQL, make_claimable_videos_sql
from wantui.queue.records import WAITING_STATES, Claim, VideoRow, to_display_number
from wantui.queue.writer import QueueWriter, to_storable_text

MAX_WORKER_CRASHES = 2
"""Number of worker crashes after which a video fails."""
MAX_STEP_EVENT_AGE = 20_000
"""Number of newer events after which a step event is deleted: every follower has read it by then."""
UserRequest = Literal["continue", "cancel", "pause"]
"""Request of a user to a running video."""
END_VIDEO_SQL = "finished = ?, seconds = max(0, ? - boot_seconds)"
"""SQL that ends a video; its parameters are `_make_end_video_sql_parameters()`."""


class LostClaimError(Exception):
    """Raised if a video no longer belongs to a worker."""


class WorkerQueue(QueueWriter):
    """The queue with the operations of workers and the engine."""

    # Workers

    def claim_next_video(
        self, worker_name: str, devices: Iterable[str], gpu_counts: Sequence[int] = (1, 2)
    ) -> Claim | None:
        """Claim the next video for a worker; return None if no video waits, or the next video needs another worker.

        Args:
            devices: values of `batch.device` that the worker serves.
            gpu_counts: values of `batch.gpus_per_video` that the worker serves.
        """
        device_names, gpu_placeholders = list(devices), ", ".join("?" * len(gpu_counts))
        with self._begin_transaction() as db:
            video_row = db.execute(
                "UPDATE video SET state = 'running', worker = ?, attempt = attempt + 1, step = 0, started = ?, "
                "finished = NULL, error = NULL, boot_id = ?, boot_seconds = ?, seconds = NULL WHERE id = ("
                f"SELECT video.id {make_claimable_videos_sql(len(device_names))} {CLAIM_ORDER_SQL}) "
                f"AND (SELECT gpus_per_video FROM batch WHERE batch.id = video.batch) IN ({gpu_placeholders}) "
                "RETURNING *",
                (worker_name, time.time(), read_boot_id(), read_boot_seconds(), *device_names, *gpu_counts),
            ).fetchone()
            if video_row is None:
                return None
            db.execute(
                "DELETE FROM event WHERE kind = 'step' AND seq < (SELECT max(seq) FROM event) - ?",
                (MAX_STEP_EVENT_AGE,),
            )
            batch_row = db.execute(
                "SELECT folder, device, gpus_per_video FROM batch WHERE id = ?", (video_row["batch"],)
            ).fetchone()
            started_event = VideoStarted(
                title=video_row["title"],
                number=to_display_number(video_row["number"]),
                steps=video_row["steps"],
                worker=worker_name,
                attempt=video_row["attempt"],
            )
            self._store_event(started_event, video_row["batch"], video_row["id"])
        return Claim(
            video_id=video_row["id"],
            batch_number=video_row["batch"],
            attempt=video_row["attempt"],
            batch_folder=Path(batch_row["folder"]),
            device=batch_row["device"],
            video_index=video_row["number"],
            title=video_row["title"],
            recipe_json=video_row["recipe"],
            first_plan_slug=video_row["plan"],
            gpus_per_video=batch_row["gpus_per_video"],
        )

    def record_step(self, claim: Claim, step_event: StepDone) -> UserRequest:
        """Record a finished step; return the current user request.

        Raises:
            LostClaimError: the video no longer belongs to this claim.
        """
        with self._begin_transaction() as db:
            self._update_claimed_video(claim, "step = ?, steps = ?", (step_event.step, step_event.steps))
            # Leave out the title, which would be most of the bytes of the step events.
            self._store_event(
                replace(step_event, number=to_display_number(claim.video_index)), claim.batch_number, claim.video_id
            )
            return _read_user_request(db, claim)

    def record_decoded_frames(self, claim: Claim, decoded_count: int, frame_count: int) -> UserRequest:
        """Record the number of decoded frames; return the current user request."""
        with self._begin_transaction() as db:
            self._update_claimed_video(claim, "worker = worker", ())
            self._store_video_event(claim, FramesDecoded(frames=decoded_count, count=frame_count))
            return _read_user_request(db, claim)

    def check_claim(self, claim: Claim) -> UserRequest:
        """Check that a video still belongs to this claim; return the current user request.

        Raises:
            LostClaimError: the video belongs to another claim.
        """
        with self.read_snapshot():
            row = self.db.execute(
                "SELECT 1 FROM video WHERE id = ? AND attempt = ? AND state = 'running'",
                (claim.video_id, claim.attempt),
            ).fetchone()
            if row is None:
                raise _make_lost_claim_error(claim)
            return _read_user_request(self.db, claim)

    def record_done(self, claim: Claim, done_event: VideoDone = VideoDone()) -> None:  # noqa: B008 - it is frozen
        """Record that a video and its manifest entry are on disk."""
        self._end_video(claim, "done", None, done_event)

    def record_failure(self, claim: Claim, error: str) -> None:
        """Record that a video failed."""
        error = to_storable_text(error)
        self._end_video(claim, "failed", error, VideoFailed(error=error))

    def record_cancellation(self, claim: Claim) -> None:
        """Record that a video was stopped because a user cancelled it."""
        self._end_video(claim, "cancelled", None, VideoCancelled())

    def release_video(self, claim: Claim, reason: str) -> bool:
        """Return a video to the queue; the next worker that claims it resumes from its checkpoint.

        Returns:
            False if a user has cancelled the video, which therefore does not return.
        """
        with self._begin_transaction():
            return self._release_or_cancel_video(claim, VideoReleased(reason=to_storable_text(reason)))

    def requeue_video_with_plan(self, claim: Claim, plan_slug: str, earlier_slugs: Sequence[str], error: str) -> bool:
        """Return a video that ran out of memory to the queue; the waiting videos of its batch also get the new plan.

        Args:
            plan_slug: slug of the memory plan to try next.
            earlier_slugs: slugs of the plans before `plan_slug`; videos with a later plan keep it.

        Returns:
            False if a user has cancelled the video, which therefore does not return.
        """
        with self._begin_transaction() as db:
            event = VideoOutOfMemory(plan=plan_slug, error=to_storable_text(error))
            is_released = self._release_or_cancel_video(claim, event)
            placeholders = ", ".join("?" * len(earlier_slugs))
            db.execute(
                f"UPDATE video SET plan = ? WHERE batch = ? AND state IN {WAITING_STATES} "
                f"AND (plan IS NULL OR plan IN ({placeholders}))",
                (plan_slug, claim.batch_number, *earlier_slugs),
            )
        return is_released

    def _release_or_cancel_video(self, claim: Claim, release_event: VideoEventPayload) -> bool:
        if self.is_cancelled(claim):
            self._end_claimed_video(claim, "cancelled", None, VideoCancelled())
            return False
        self._update_claimed_video(claim, "state = 'queued', worker = NULL", ())
        self._store_video_event(claim, release_event)
        return True

    def record_batch_failure(self, claim: Claim, error: str, exit_code: int) -> None:
        """Fail all unfinished videos of this claim's batch, for example because the weights are missing."""
        error = to_storable_text(error)
        with self._begin_transaction() as db:
            self._update_claimed_video(
                claim,
                f"state = 'failed', worker = NULL, error = ?, {END_VIDEO_SQL}",
                (error, *_make_end_video_sql_parameters()),
            )
            db.execute(
                "UPDATE video SET state = 'failed', finished = ?, error = ? "
                f"WHERE batch = ? AND state IN {WAITING_STATES}",
                (time.time(), error, claim.batch_number),
            )
            self._store_event(BatchRefused(error=error, exit_code=exit_code), claim.batch_number)

    def _end_video(self, claim: Claim, state: str, error: str | None, end_event: VideoEventPayload) -> None:
        with self._begin_transaction():
            self._end_claimed_video(claim, state, error, end_event)

    def _end_claimed_video(self, claim: Claim, state: str, error: str | None, end_event: VideoEventPayload) -> None:
        self._update_claimed_video(
            claim,
            f"state = '{state}', worker = NULL, error = ?, {END_VIDEO_SQL}",
            (error, *_make_end_video_sql_parameters()),
        )
        self._store_video_event(claim, end_event)

    def _update_claimed_video(self, claim: Claim, assignments: str, parameters: tuple[Any, ...]) -> None:
        cursor = self.db.execute(
            f"UPDATE video SET {assignments} WHERE id = ? AND attempt = ? AND state = 'running'",
            (*parameters, claim.video_id, claim.attempt),
        )
        if not cursor.rowcount:
            raise _make_lost_claim_error(claim)

    # The engine

    def reclaim_videos(
        self,
        worker_name: str,
        reason: str,
        counts_crash: bool,
        has_worker_ended: bool = False,
        is_unexpected: bool = False,
    ) -> list[VideoRow]:
        """Reclaim the videos of a worker that died or lost the queue; return them in their new state.

        Args:
            counts_crash: whether to count the crash against a video. Of several videos, the last started one is blamed:
                for the others only the final files were being written.
            has_worker_ended: whether the worker's process ended; records that too.
            is_unexpected: whether the worker died without a signal from the engine; the event of the last started video
                then names the worker.
        """
        is_fatal_sql = f"NOT cancel AND worker_crashes + :blame >= {MAX_WORKER_CRASHES}"
        with self._begin_transaction() as db:
            rows = db.execute(
                "SELECT id FROM video WHERE worker = ? AND state = 'running' ORDER BY boot_seconds DESC, id DESC",
                (worker_name,),
            ).fetchall()
            for index, row in enumerate(rows):
                db.execute(
                    "UPDATE video SET worker_crashes = worker_crashes + :blame, worker = NULL, finished = :now, "
                    "seconds = max(0, :clock - boot_seconds), state = CASE "
                    f"WHEN cancel THEN 'cancelled' WHEN {is_fatal_sql} THEN 'failed' ELSE 'interrupted' END, "
                    f"error = CASE WHEN {is_fatal_sql} THEN :error END WHERE id = :id",
                    {
                        "now": time.time(),
                        "clock": read_boot_seconds(),
                        "blame": counts_crash and index == 0,
                        "error": f"{MAX_WORKER_CRASHES} workers died while rendering it. The last error: {reason}",
                        "id": row["id"],
                    },
                )
            videos = [self.get_video(row["id"]) for row in rows]
            for index, video in enumerate(videos):
                payload = _build_reclaim_event(video.state, video.title, video.number, video.error or reason)
                if isinstance(payload, VideoInterrupted) and is_unexpected and index == 0:
                    payload = replace(payload, worker=worker_name)
                self._store_event(payload, video.batch, video.id)
            if has_worker_ended and db.execute("DELETE FROM worker WHERE name = ?", (worker_name,)).rowcount:
                self._store_event(WorkerEnded(worker=worker_name))
        return videos

    def recover_interrupted_videos(self) -> int:
        """Mark the running videos of an ended engine as interrupted, and hold the queue until a user resumes it.

        Returns:
            Number of interrupted videos.
        """
        with self._begin_transaction() as db:
            db.execute("DELETE FROM worker")
            rows = db.execute(
                "UPDATE video SET state = CASE WHEN cancel THEN 'cancelled' ELSE 'interrupted' END, worker = NULL, "
                "finished = ? WHERE state = 'running' RETURNING id, batch, number, title, state",
                (time.time(),),
            ).fetchall()
            for row in rows:
                payload = _build_reclaim_event(row["state"], row["title"], row["number"], "the engine ended")
                self._store_event(payload, row["batch"], row["id"])
            count = len([row for row in rows if row["state"] == "interrupted"])
            if count:
                verb = "was" if count == 1 else "were"
                reason = f"{format_count(count, 'video')} {verb} interrupted when the engine ended"
                self._store_hold("interrupted", reason)
        return count

    def record_starting_worker(self, worker_name: str, device: str) -> None:
        """Record that a worker process was started; it imports torch first, for seconds to minutes."""
        with self._begin_transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO worker VALUES (?, 'starting', ?, ?, ?)",
                (worker_name, device, read_boot_id(), read_boot_seconds()),
            )
            self._store_event(WorkerStarting(worker=worker_name, device=device))

    def record_ready_worker(self, worker_name: str) -> None:
        """Record that a worker process has imported torch and claims videos."""
        with self._begin_transaction() as db:
            row = db.execute(
                "UPDATE worker SET state = 'ready' WHERE name = ? RETURNING boot_id, boot_seconds", (worker_name,)
            ).fetchone()
            if row is not None:
                seconds = compute_seconds_since(row["boot_id"], row["boot_seconds"])
                self._store_event(
                    WorkerReady(worker=worker_name, seconds=None if seconds is None else round(seconds, 1))
                )


def _make_lost_claim_error(claim: Claim) -> LostClaimError:
    return LostClaimError(f"{claim.title} is no longer rendered by this worker")


def _build_reclaim_event(state: str, title: str, video_index: int, error: str) -> VideoEventPayload:
    """Return the event for the new state of a reclaimed video."""
    event_types_by_state = {"cancelled": VideoCancelled, "failed": VideoFailed, "interrupted": VideoInterrupted}
    return event_types_by_state[state](title=title, number=to_display_number(video_index), error=error)


def _make_end_video_sql_parameters() -> tuple[float, float]:
    return time.time(), read_boot_seconds()


def _read_user_request(db: sqlite3.Connection, claim: Claim) -> UserRequest:
    row = db.execute(
        "SELECT video.cancel, batch.paused OR EXISTS (SELECT 1 FROM hold WHERE kind = 'paused') AS paused "
        "FROM video JOIN batch ON batch.id = video.batch WHERE video.id = ?",
        (claim.video_id,),
    ).fetchone()
    return "cancel" if row["cancel"] else "pause" if row["paused"] else "continue"
