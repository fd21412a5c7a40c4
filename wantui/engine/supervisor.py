"""The engine: start a worker per GPU while videos wait, and reclaim the videos of workers that died.

The engine locks its state directory until it exits, and never loads torch. On SIGTERM, workers stop after the current
step, then the engine exits; a second SIGTERM kills the workers. SIGHUP is ignored, so that the engine survives its
terminal.
"""

import argparse
import logging
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from wantui import __version__
from wantui.engine.control import acquire_engine_lock, is_lock_current, open_queue, publish_engine_info
from wantui.engine.slots import Slot, create_slots
from wantui.engine.stop_requests import StopRequests
from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.gpu.nvml import NoSuchGpuError, find_device_remarks, query_gpus, select_visible_gpus
from wantui.queue.database import QueueError, QueueUnavailableError, is_database_damage
from wantui.queue.events import WorkerDied
from wantui.queue.queue import Queue
from wantui.queue.records import VideoRow
from wantui.queue.state_dir import StateDirectory
from wantui.storage.layout import BatchFolder
from wantui.storage.log_files import open_log
from wantui.storage.manifest import VideoState
from wantui.storage.manifest_store import ManifestStoreCache
from wantui.storage.output_errors import is_folder_deleted, probe_write_error

TICK_SECONDS = 0.1
FILE_CHECK_SECONDS = 2.0
"""Seconds between checks of the database, the lock file, and the folder or disk for which the queue is on hold."""
INTERRUPT_SECONDS, KILL_SECONDS = 30.0, 60.0
"""Seconds from a cancel to SIGINT, and to SIGKILL, for a worker that does not stop."""
MAX_FAILURES = 3
"""Consecutive worker exits without a claim before the queue is put on hold."""
BUSY_LIMIT_SECONDS = 60.0
"""Longest wait in seconds of a starting engine for a locked database."""


class Supervisor:
    """Start, watch and stop the workers of one state directory.

    Args:
        drain: True to end once no video waits.
    """

    def __init__(
        self,
        queue: Queue,
        slots: Sequence[Slot],
        logs: Path,
        log: logging.Logger,
        drain: bool,
        requests: StopRequests | None = None,
        lock: int | None = None,
    ) -> None:
        self.queue, self.slots, self.logs, self.log, self.drain = queue, slots, logs, log, drain
        self.requests = requests or StopRequests()
        self.lock = lock
        """Descriptor of the locked engine lock file; None without a lock."""
        self.is_ending = False
        """True if the engine stops on its own: nothing waits, or the database was deleted."""
        self.files_checked_at = -math.inf
        """Monotonic time of the last file check, seconds."""
        self.manifests = ManifestStoreCache()
        """Cached manifest store of the latest batch: reading a large manifest takes seconds."""
        self.is_replaced = False
        """True if the database or the lock file was deleted or replaced; running videos are then stopped."""

    def run(self) -> None:
        """Run until asked to stop, until the database is deleted, or (`drain`) until no video waits.

        Raises:
            QueueError: the database is damaged.
        """
        while True:
            try:
                if not self._tick():
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
            time.sleep(TICK_SECONDS)

    def hold_if_interrupted(self) -> None:
        """Put the queue on hold if the last engine ended with videos in progress.

        Raises:
            QueueError: the database is damaged, or stayed locked.
        """
        until = time.monotonic() + BUSY_LIMIT_SECONDS
        while True:
            try:
                interrupted = self.queue.recover_interrupted_videos()
                # Workers that could not start before may start now: torch was installed, or a driver loaded.
                self.queue.resume("worker")
                break
            except QueueUnavailableError as error:
                if is_database_damage(error) or self.requests.count or time.monotonic() > until:
                    raise
                self.log.warning("the queue cannot be used now: %s", error)
                time.sleep(1.0)
        if interrupted:
            self.log.warning("%d videos were interrupted when an engine ended; the queue is on hold", interrupted)

    def _tick(self) -> bool:
        """Check workers, files and queue once; return whether to continue."""
        for slot in self.slots:
            self._reap_worker(slot)
        self._reset_failures_after_claims()
        busy = [slot for slot in self.slots if slot.process is not None]
        if self._is_stopping():
            self._signal_workers(busy)
            return bool(busy)
        self._check_files()
        self._escalate_cancels()
        self._start_workers()
        if self.drain and not self._has_work():
            self.is_ending = True
        return True

    def _is_stopping(self) -> bool:
        return self.is_ending or self.requests.count > 0

    def _reset_failures_after_claims(self) -> None:
        failed = [slot for slot in self.slots if slot.consecutive_failures and slot.process is not None]
        working = {video.worker for video in self.queue.list_running_videos()} if failed else set()
        for slot in failed:
            if slot.worker in working:
                slot.reset_failures()

    def _has_work(self) -> bool:
        return bool(self.queue.list_running_videos()) or any(
            self.queue.has_claimable_video(slot.devices) for slot in self.slots
        )

    def _start_workers(self) -> None:
        for slot in self.slots:
            if slot.process is not None or time.monotonic() < slot.earliest_start:
                continue
            if not self.queue.has_claimable_video(slot.devices):
                continue
            try:
                slot.start(self.queue.path.parent, self.logs)
            except (OSError, UserError) as error:
                slot.delay_next_start()
                self.log.error("%s cannot be started: %s", slot.name, error)
                self._count_failure(slot, str(error))
                continue
            self.log.info("%s started on %s", slot.worker, slot.device)
            self.queue.record_starting_worker(slot.worker, slot.device)

    def _reap_worker(self, slot: Slot) -> None:
        if slot.process is None or (code := slot.process.poll()) is None:
            return
        why = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        if code == -signal.SIGKILL and not slot.sent_signals:
            why += " (not by the engine: perhaps the system ran out of memory)"
        worker = slot.worker
        # Also after a clean exit: reclaim every video that the worker did not release.
        videos = self.queue.reclaim_videos(
            worker, why, counts_crash=signal.SIGKILL not in slot.sent_signals, has_ended=True
        )
        slot.process = None
        for video in videos:
            self._close_in_manifest(video)
            self.log.error("%s died (%s) during %s, which is now %s", worker, why, video.title, video.state)
        if code == 0:
            slot.reset_failures()
            self.log.info("%s ended", worker)
            return
        self.log.error("%s ended by %s", worker, why)
        if videos:
            slot.reset_failures()
            return
        # No video was claimed: the failure is the worker's own.
        slot.delay_next_start()
        if not slot.sent_signals:
            why = f"{why}: {slot.read_last_output_line(self.logs)}"
            self.queue.emit(WorkerDied(worker=worker, error=f"{why}; see {slot.output_path(self.logs)}"))
            self._count_failure(slot, why)

    def _count_failure(self, slot: Slot, why: str) -> None:
        """Put the queue on hold if every slot with waiting videos has failed MAX_FAILURES times."""
        slot.consecutive_failures += 1
        # A slot without waiting videos starts no worker, and so never fails.
        slots_with_work = [slot for slot in self.slots if self.queue.has_claimable_video(slot.devices)]
        if not slots_with_work or any(slot.consecutive_failures < MAX_FAILURES for slot in slots_with_work):
            return
        for failed_slot in self.slots:
            failed_slot.reset_failures()
        reason = f"no worker can start ({MAX_FAILURES} tries): {why}; see {slot.output_path(self.logs)}"
        self.log.error("the queue is on hold: %s", reason)
        self.queue.hold("worker", reason)

    def _close_in_manifest(self, video: VideoRow) -> None:
        batch = self.queue.batch(video.batch)
        if batch is None or video.state not in ("failed", "cancelled"):
            return
        try:
            state: VideoState = "failed" if video.state == "failed" else "cancelled"
            self.manifests.for_folder(BatchFolder(batch.folder)).close_videos([video.number], state, video.error)
        except (OSError, UserError) as error:
            self.log.warning("cannot record this in the manifest of %s: %s", batch.name, error)

    def _escalate_cancels(self) -> None:
        cancelling = self.queue.list_cancelling_workers()
        for slot in self.slots:
            if slot.process is None or slot.worker not in cancelling:
                slot.cancel_seen_at = 0.0
                slot.sent_signals.discard(signal.SIGINT)
            elif not slot.cancel_seen_at:
                slot.cancel_seen_at = time.monotonic()
            else:
                waited = time.monotonic() - slot.cancel_seen_at
                if waited > KILL_SECONDS:
                    self._send_signal(slot, signal.SIGKILL)
                elif waited > INTERRUPT_SECONDS:
                    self._send_signal(slot, signal.SIGINT)

    def _signal_workers(self, busy: Sequence[Slot]) -> None:
        for slot in busy:
            self._send_signal(slot, signal.SIGTERM if self.requests.count <= 1 else signal.SIGKILL)

    def _send_signal(self, slot: Slot, number: signal.Signals) -> None:
        if slot.process is not None and number not in slot.sent_signals:
            slot.sent_signals.add(number)
            self.log.info("%s gets %s", slot.worker, number.name)
            slot.process.send_signal(number)

    def _check_files(self) -> None:
        if time.monotonic() - self.files_checked_at < FILE_CHECK_SECONDS:
            return
        self.files_checked_at = time.monotonic()
        if self.queue.is_replaced():
            self.log.error(
                "the queue %s or its write-ahead log was deleted or replaced: stopping all workers",
                self.queue.path,
            )
            self.is_replaced = self.is_ending = True
            return
        if self.lock is not None and not is_lock_current(self.lock, self.queue.path.parent):
            self.log.error(
                "the lock file in %s was deleted or replaced, so that another engine may start: stopping all workers",
                self.queue.path.parent,
            )
            self.is_replaced = self.is_ending = True
            return
        held = self.queue.read_hold()
        if held is None or held.folder is None:
            return
        if held.kind == "disk" and _has_free_bytes(held.folder, held.needed_bytes or 0):
            self.log.info("%s has enough disk space again", held.folder)
            self.queue.resume("disk")
        elif held.kind == "folder" and (is_folder_deleted(held.folder) or probe_write_error(held.folder) is None):
            self.log.info("%s can be written again", held.folder)
            self.queue.resume("folder")


def _has_free_bytes(folder: Path, needed: int) -> bool:
    try:
        return shutil.disk_usage(folder).free >= needed
    except OSError:
        return True  # the folder is missing: its videos will fail with that reason


def run_engine(state_dir: StateDirectory, logs: Path, workers: int | None, drain: bool) -> bool:
    """Run the engine of a state directory; return False if one is already running.

    Raises:
        UserError: the database cannot be opened, or CUDA_VISIBLE_DEVICES names a GPU that does not exist.
        QueueError: the database is damaged; the next engine quarantines it.
    """
    lock = acquire_engine_lock(state_dir.directory)
    if lock is None:
        return False
    requests = StopRequests()
    try:
        # First, and only once: a stop request between two databases must not be lost.
        requests.install()
        while _run(state_dir, lock, logs, workers, drain, requests):
            # The database or the lock file was deleted or replaced: start again with the current files.
            if is_lock_current(lock, state_dir.directory):
                continue
            try:
                new_lock = acquire_engine_lock(state_dir.directory)
            except OSError:  # the whole directory is missing
                break
            if new_lock is None:  # another engine has started meanwhile
                break
            os.close(lock)
            lock = new_lock
    finally:
        os.close(lock)
    return True


def _run(
    state_dir: StateDirectory, lock: int, logs: Path, workers: int | None, drain: bool, requests: StopRequests
) -> bool:
    """Run the engine while the database and the lock file exist; return whether to start again."""
    log = open_log("engine", logs / "engine.log")
    queue, notes = open_queue(state_dir, is_engine=True)
    try:
        for note in notes:
            log.warning("%s", note)
        slots, remarks = _plan_slots(queue, workers)
        supervisor = Supervisor(queue, slots, logs, log, drain, requests, lock)
        log.info(
            "engine of wantui %s, process %d, %s",
            __version__,
            os.getpid(),
            format_count(len(supervisor.slots), "worker"),
        )
        supervisor.hold_if_interrupted()
        publish_engine_info(lock, logs, sorted({name for slot in slots for name in slot.devices}), remarks)
        supervisor.run()
    except QueueError as error:
        if is_database_damage(error):
            log.exception("the queue is damaged: %s", error)  # workers end with this process; the next one quarantines
            raise
        if requests.count:
            log.warning("stopped before the queue could be used: %s", error)
        else:
            log.error("cannot use the queue: %s. Another process locks it, or its disk is full", error)
        raise UserError(
            f"cannot use the queue {queue.path}: {error}. End the process that locks it, or free disk space"
        ) from None
    finally:
        queue.close()
    log.info("engine ends")
    return supervisor.is_replaced and not requests.count


def _plan_slots(queue: Queue, workers: int | None) -> tuple[list[Slot], list[str]]:
    """Return the worker slots, and remarks about their devices.

    Raises:
        NoSuchGpuError: CUDA_VISIBLE_DEVICES names a GPU that does not exist, and a batch may need one.
    """
    if workers is not None:  # on the CPU, whatever CUDA_VISIBLE_DEVICES says
        return create_slots((), workers), []
    report, setting = query_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        return create_slots(select_visible_gpus(report.gpus, setting), None), find_device_remarks(report, setting)
    except NoSuchGpuError as error:
        devices = {batch.device for batch in queue.batches(-1) if batch.unfinished}
        if devices != {"cpu"}:
            raise
        # Serve only batches that request the CPU: a batch that may use a GPU must not silently run on the CPU.
        cpu_slots = [replace(slot, devices=("cpu",)) for slot in create_slots((), None)]
        return cpu_slots, [f"{error}. This engine runs only batches with model_settings.device: cpu"]


def main() -> None:
    """Run `python -m wantui.engine.supervisor`, as `wantui engine start` does."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--logs", type=Path, required=True)
    parser.add_argument("--workers", type=int)
    options = parser.parse_args()
    try:
        run_engine(StateDirectory(options.state), options.logs, options.workers, drain=False)
    except UserError as error:
        sys.stderr.write(f"wantui: {error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
