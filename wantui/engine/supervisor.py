"""The supervisor: start a worker per GPU while videos wait, and reclaim the videos of workers that died."""

import logging
import math
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from wantui.engine.control import is_lock_file_in_place
from wantui.engine.hold_recovery import find_hold_end
from wantui.engine.journal_folding import start_folding_journals
from wantui.engine.notices import BatchEnd, BatchEndNotifier
from wantui.engine.pairing import is_gpu_borrowed, prepare_slot
from wantui.engine.process_output import NO_OUTPUT
from wantui.engine.slots import WorkerSlot
from wantui.engine.stop_requests import StopRequestCounter
from wantui.errors import UserError
from wantui.formatting import format_count, format_error
from wantui.process_exits import SECOND_GPU_LOST_EXIT_CODE, describe_exit
from wantui.queue.database import QueueUnavailableError, is_database_damage
from wantui.queue.events import WorkerDied
from wantui.queue.queue import Queue
from wantui.queue.records import VideoRow
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import VideoState
from wantui.storage.manifest_store import ManifestStoreCache

SUPERVISION_INTERVAL_SECONDS = 0.1
FILE_CHECK_INTERVAL_SECONDS = 2.0
"""Seconds between checks of the database, the lock file, and the folders and disks that holds wait for."""
INTERRUPT_SECONDS, KILL_SECONDS = 30.0, 60.0
"""Seconds from a cancel to SIGINT, and to SIGKILL, for a worker that does not stop."""
MAX_WORKER_START_FAILURES = 3
"""Consecutive worker exits without a claim before the queue is put on hold."""
MAX_DATABASE_WAIT_SECONDS = 60.0
"""Longest wait in seconds of a starting engine for a locked database."""


class Supervisor:
    """Start, watch and stop the workers of one state directory.

    Args:
        ends_when_idle: True to end once no video waits.
    """

    def __init__(
        self,
        queue: Queue,
        slots: Sequence[WorkerSlot],
        logs_folder: Path,
        log: logging.Logger,
        ends_when_idle: bool,
        stop_requests: StopRequestCounter | None = None,
        lock_descriptor: int | None = None,
    ) -> None:
        self.queue = queue
        self.slots = slots
        self.logs_folder = logs_folder
        self.log = log
        self.ends_when_idle = ends_when_idle
        self.stop_requests = stop_requests or StopRequestCounter()
        self.lock_descriptor = lock_descriptor
        """Descriptor of the locked engine lock file; None without a lock."""
        self.notifier = BatchEndNotifier(queue, logs_folder, log)
        self.folding_threads: list[tuple[threading.Thread, BatchEnd | None]] = []
        """Threads that fold journals, each with the ended batch whose notice is sent afterwards."""
        self.is_ending = False
        """True if the engine stops on its own: nothing waits, or the database was deleted."""
        self.files_checked_at = -math.inf
        """Monotonic time of the last file check, seconds."""
        self.manifest_stores = ManifestStoreCache()
        """Cached manifest store of the latest batch: reading a large manifest takes seconds."""
        self.has_lost_files = False
        """True if the database or the lock file was deleted or replaced; running videos are then stopped."""

    def run(self) -> None:
        """Run until asked to stop, until the database is deleted, or (`drain`) until no video waits.

        Raises:
            QueueError: the database is damaged.
        """
        while True:
            try:
                if not self._supervise_once():
                    return
            except (
                QueueUnavailableError
            ) as error:  # a full disk, or another process that locks the database for too long
                if is_database_damage(error):
                    raise
                self.log.warning("the queue cannot be used now: %s", error)
                if self._is_stopping():
                    self._signal_workers([slot for slot in self.slots if slot.process is not None])
                    if all(slot.process is None or slot.process.poll() is not None for slot in self.slots):
                        return
                time.sleep(1.0)
            time.sleep(SUPERVISION_INTERVAL_SECONDS)

    def hold_queue_if_interrupted(self) -> None:
        """Put the queue on hold if the last engine ended with videos in progress.

        Raises:
            QueueError: the database is damaged, or stayed locked.
        """
        deadline = time.monotonic() + MAX_DATABASE_WAIT_SECONDS
        left_videos: dict[int, VideoRow] = {}
        interrupted_count = 0
        while True:
            try:
                left_videos |= {video.id: video for video in self.queue.list_running_videos()}
                interrupted_count += self.queue.recover_interrupted_videos()
                # Workers that could not start before may start now: torch was installed, or a driver loaded.
                self.queue.resume_queue("worker")
                for left_video in left_videos.values():  # some were cancelled while no engine ran
                    if (video := self.queue.find_video(left_video.batch, left_video.number)) is not None:
                        self._record_end_in_manifest(video)
                break
            except QueueUnavailableError as error:
                if is_database_damage(error) or self.stop_requests.count or time.monotonic() > deadline:
                    raise
                self.log.warning("the queue cannot be used now: %s", error)
                time.sleep(1.0)
        if interrupted_count:
            interrupted_text = format_count(interrupted_count, "video")
            self.log.warning("the previous engine ended while %s ran; the queue is on hold", interrupted_text)

    def _supervise_once(self) -> bool:
        """Check workers, files and queue once; return whether to continue."""
        for slot in self.slots:
            self._reap_worker(slot)
        self._reset_failures_after_claims()
        self._finish_ended_batches()
        busy_slots = [slot for slot in self.slots if slot.process is not None]
        if self._is_stopping():
            self._signal_workers(busy_slots)
            return bool(busy_slots) or (bool(self.folding_threads) and self.stop_requests.count <= 1)
        self._check_queue_files()
        self._escalate_cancels()
        self._start_workers()
        if self.ends_when_idle and not self._has_work():
            self.is_ending = True
        return True

    def _is_stopping(self) -> bool:
        return self.is_ending or self.stop_requests.count > 0

    def _reset_failures_after_claims(self) -> None:
        failed_slots = [slot for slot in self.slots if slot.consecutive_failures and slot.process is not None]
        working_workers = {video.worker for video in self.queue.list_running_videos()} if failed_slots else set()
        for slot in failed_slots:
            if slot.worker_name in working_workers:
                slot.reset_failures()

    def _has_work(self) -> bool:
        return bool(self.queue.list_running_videos()) or any(
            self.queue.has_claimable_video(slot.served_devices) for slot in self.slots
        )

    def _start_workers(self) -> None:
        for slot in self.slots:
            if (
                slot.process is not None
                or time.monotonic() < slot.earliest_start_at
                or is_gpu_borrowed(slot, self.slots)
            ):
                continue
            gpu_count = self.queue.find_next_gpu_count(slot.served_devices)
            if gpu_count is None or not prepare_slot(slot, self.slots, gpu_count, self._list_busy_workers(gpu_count)):
                continue
            try:
                slot.start_process(self.queue.path.parent, self.logs_folder)
            except (OSError, UserError) as error:
                slot.delay_next_start()
                self.log.error("%s cannot be started: %s", slot.name, format_error(error))
                self._count_start_failure(slot, format_error(error))
                continue
            second_text = "" if slot.partner is None else f" and on the GPU of {slot.partner.name}"
            self.log.info("%s started on %s%s", slot.worker_name, slot.torch_device, second_text)
            self.queue.record_starting_worker(slot.worker_name, slot.torch_device)

    def _list_busy_workers(self, gpu_count: int) -> set[str]:
        """Return the busy workers that a video on several GPUs waits for; none for a video on one GPU."""
        return {video.worker or "" for video in self.queue.list_running_videos()} if gpu_count > 1 else set()

    def _reap_worker(self, slot: WorkerSlot) -> None:
        if slot.process is None or (exit_code := slot.process.poll()) is None:
            return
        reason = describe_exit(exit_code, is_signal_expected=bool(slot.sent_signals))
        worker_name = slot.worker_name
        if ends_unready := exit_code == 0 and not slot.sent_signals and self._is_starting(worker_name):
            reason += " before it could claim a video"
        has_failed = ends_unready or exit_code not in (0, SECOND_GPU_LOST_EXIT_CODE)
        if has_failed and not slot.sent_signals:  # the last line of a traceback, or of std::terminate
            last_line = slot.read_last_output_line(self.logs_folder)
            if exit_code >= 0:
                reason += f": {last_line}"
            elif last_line != NO_OUTPUT:
                reason += f". Its last output: {last_line}"
        # Also after a clean exit: reclaim every video that the worker did not release.
        videos = self.queue.reclaim_videos(
            worker_name,
            reason,
            counts_crash=signal.SIGKILL not in slot.sent_signals,
            has_worker_ended=True,
            is_unexpected=not slot.sent_signals,
        )
        slot.process = None
        if slot.partner is not None and exit_code == SECOND_GPU_LOST_EXIT_CODE:
            slot.partner.is_bad_partner = True
            self.log.error("the GPU of %s failed in %s and will not be paired again", slot.partner.name, worker_name)
        elif slot.partner is not None and exit_code and videos and not slot.sent_signals:
            slot.uses_one_gpu_only = True
            self.log.error("%s died while using two GPUs: later workers of %s will use one", worker_name, slot.name)
        for video in videos:
            self._record_end_in_manifest(video)
            self.log.error("%s died (%s) during %s, which is now %s", worker_name, reason, video.title, video.state)
        if not has_failed:
            slot.reset_failures()
            self.log.info("%s ended", worker_name)
            return
        self.log.error("%s ended by %s", worker_name, reason)
        if videos:
            slot.reset_failures()
            return
        # No video was claimed: the failure is the worker's own.
        slot.delay_next_start()
        if not slot.sent_signals:
            self.queue.emit_event(
                WorkerDied(worker=worker_name, error=f"{reason}; see {slot.find_output_path(self.logs_folder)}")
            )
            self._count_start_failure(slot, reason)

    def _is_starting(self, worker_name: str) -> bool:
        return any(worker.name == worker_name and worker.state == "starting" for worker in self.queue.list_workers())

    def _count_start_failure(self, slot: WorkerSlot, failure_reason: str) -> None:
        """Put the queue on hold if every slot with waiting videos has failed MAX_WORKER_START_FAILURES times."""
        slot.consecutive_failures += 1
        # A slot without waiting videos starts no worker, and so never fails.
        slots_with_work = [
            slot
            for slot in self.slots
            if self.queue.has_claimable_video(slot.served_devices) and not is_gpu_borrowed(slot, self.slots)
        ]
        if not slots_with_work or any(
            slot.consecutive_failures < MAX_WORKER_START_FAILURES for slot in slots_with_work
        ):
            return
        for failed_slot in self.slots:
            failed_slot.reset_failures()
        hold_reason = (
            f"no worker can start ({MAX_WORKER_START_FAILURES} tries): {failure_reason}; see "
            f"{slot.find_output_path(self.logs_folder)}"
        )
        self.log.error("the queue is on hold: %s", hold_reason)
        self.queue.hold_queue("worker", hold_reason)

    def _record_end_in_manifest(self, video: VideoRow) -> None:
        batch = self.queue.get_batch(video.batch)
        if batch is None or video.state not in ("failed", "cancelled"):
            return
        try:
            state: VideoState = "failed" if video.state == "failed" else "cancelled"
            self.manifest_stores.get_store(BatchFolder(batch.folder)).end_videos([video.number], state, video.error)
        except (OSError, UserError) as error:
            self.log.warning("cannot record ended videos in the manifest of %s: %s", batch.name, error)

    def fold_remaining_journals(self) -> None:
        """Fold the journals of ended batches that an earlier engine could not fold, or left when it was killed."""
        folders = [batch.folder for batch in self.queue.list_batches() if not batch.unfinished_count]
        self.folding_threads.append((start_folding_journals(folders, self.log), None))

    def _finish_ended_batches(self) -> None:
        """Fold the journals of batches that ended, and then send their notices."""
        for end in self.notifier.find_new_ends():
            self.folding_threads.append((start_folding_journals([Path(end.folder)], self.log), end))
        for thread, batch_end in self.folding_threads:
            if batch_end is not None and not thread.is_alive():
                self.notifier.send_notice(batch_end)
        self.folding_threads = [entry for entry in self.folding_threads if entry[0].is_alive()]

    def _escalate_cancels(self) -> None:
        cancelling_workers = self.queue.list_cancelling_workers()
        for slot in self.slots:
            if slot.process is None or slot.worker_name not in cancelling_workers:
                slot.cancel_seen_at = 0.0
                slot.sent_signals.discard(signal.SIGINT)
            elif not slot.cancel_seen_at:
                slot.cancel_seen_at = time.monotonic()
            else:
                waited_seconds = time.monotonic() - slot.cancel_seen_at
                if waited_seconds > KILL_SECONDS:
                    self._send_signal(slot, signal.SIGKILL)
                elif waited_seconds > INTERRUPT_SECONDS:
                    self._send_signal(slot, signal.SIGINT)

    def _signal_workers(self, busy_slots: Sequence[WorkerSlot]) -> None:
        for slot in busy_slots:
            self._send_signal(slot, signal.SIGTERM if self.stop_requests.count <= 1 else signal.SIGKILL)

    def _send_signal(self, slot: WorkerSlot, signal_number: signal.Signals) -> None:
        if slot.process is not None and signal_number not in slot.sent_signals:
            slot.sent_signals.add(signal_number)
            self.log.info("%s gets %s", slot.worker_name, signal_number.name)
            slot.process.send_signal(signal_number)

    def _check_queue_files(self) -> None:
        if time.monotonic() - self.files_checked_at < FILE_CHECK_INTERVAL_SECONDS:
            return
        self.files_checked_at = time.monotonic()
        if self.queue.is_replaced():
            self.log.error(
                "the queue %s or its write-ahead log was deleted or replaced: stopping all workers",
                self.queue.path,
            )
            self.has_lost_files = self.is_ending = True
            return
        if self.lock_descriptor is not None and not is_lock_file_in_place(self.lock_descriptor, self.queue.path.parent):
            self.log.error(
                "the lock file in %s was deleted or replaced, so another engine could start: stopping all workers",
                self.queue.path.parent,
            )
            self.has_lost_files = self.is_ending = True
            return
        hold = self.queue.read_hold()
        if hold is not None and (end_description := find_hold_end(hold)) is not None:
            self.log.info("%s", end_description)
            self.queue.resume_queue(hold.kind, hold.reason)
        for batch in self.queue.list_held_batches():
            if (
                batch.hold is not None
                and (end_description := find_hold_end(batch.hold)) is not None
                and self.queue.end_batch_hold(batch.id, batch.hold)
            ):
                self.log.info("the hold of batch %d ended: %s", batch.id, end_description)
