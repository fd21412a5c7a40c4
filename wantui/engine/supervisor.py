"""The engine: starts a worker for each GPU when there is something to do, and takes back what a dead one was making.

It holds a lock for life, so that there is one for each state directory, and loads no torch. SIGTERM: workers stop at
their next step, then it ends; a second one ends them at once. SIGHUP is ignored: a terminal that goes away is nothing
to it.
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
from wantui.engine.control import acquire_engine_lock, announce, holds_lock_file, open_queue
from wantui.engine.slots import Slot, slots_for
from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.gpu.nvml import NoSuchGpuError, query_gpus, remarks_on_devices, visible
from wantui.queue.database import QueueError, Unavailable, is_damage
from wantui.queue.events import WorkerDied
from wantui.queue.queue import Queue
from wantui.queue.records import VideoRow
from wantui.queue.state_dir import StateDirectory
from wantui.storage.layout import BatchFolder
from wantui.storage.log_files import open_log
from wantui.storage.manifest import State
from wantui.storage.manifest_store import LatestManifestStore
from wantui.storage.output_errors import is_gone, why_unwritable

TICK_SECONDS = 0.1
DISK_SECONDS = 2.0
"""Seconds between two checks of a disk that was full."""
INTERRUPT_SECONDS, KILL_SECONDS = 30.0, 60.0
"""Seconds after which a cancelled video is interrupted within its step, and its worker killed."""
MAX_FAILURES = 3
"""Consecutive worker exits without a claim before the queue is put on hold."""
BUSY_LIMIT_SECONDS = 60.0
"""Seconds a starting engine waits for a locked database."""


class StopRequests:
    """Counts how often the process was asked to stop, over all databases that it serves."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, *_: object) -> None:
        self.count += 1

    def install(self) -> None:
        """Take SIGTERM and SIGINT as requests, and ignore a terminal that goes away."""
        signal.signal(signal.SIGTERM, self.add)
        signal.signal(signal.SIGINT, self.add)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


class Supervisor:
    """Starts, watches and ends the workers of one state directory."""

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
        """Descriptor that holds the engine lock; None where nothing is held."""
        self.is_ending = False
        """True if the engine stops for its own reason: nothing is left to do, or the database is deleted."""
        self.looked_at_disk = -math.inf
        self.manifests = LatestManifestStore()
        """Manifest store of the batch in which a video was last closed: reading a large manifest again takes
        seconds."""
        self.is_replaced = False
        """True if the database or the lock file was deleted or replaced; running work is then stopped."""

    def run(self) -> None:
        """Run until asked to stop, until the database is deleted, or (`drain`) until no video is left to render.

        Raises:
            QueueError: the database is damaged.
        """
        while True:
            try:
                if not self._tick():
                    return
            except Unavailable as error:  # a full disk, or somebody who holds the database for too long
                if is_damage(error):
                    raise
                self.log.warning("the queue cannot be used now: %s", error)
                if self._is_stopping():
                    self._end([slot for slot in self.slots if slot.process is not None])
                    if all(slot.process is None or slot.process.poll() is not None for slot in self.slots):
                        return
                time.sleep(1.0)
            time.sleep(TICK_SECONDS)

    def hold_if_interrupted(self) -> None:
        """Hold the queue if the last engine ended with videos in progress.

        Raises:
            QueueError: the database is damaged, or was locked by others all the time.
        """
        until = time.monotonic() + BUSY_LIMIT_SECONDS
        while True:
            try:
                interrupted = self.queue.recover()
                # What could not start before may start now: torch was installed, or a driver loaded.
                self.queue.resume("worker")
                break
            except Unavailable as error:
                if is_damage(error) or self.requests.count or time.monotonic() > until:
                    raise
                self.log.warning("the queue cannot be used now: %s", error)
                time.sleep(1.0)
        if interrupted:
            self.log.warning("%d videos were interrupted when an engine ended; the queue is held", interrupted)

    def _tick(self) -> bool:
        """Check everything once; return whether there is a reason to continue."""
        for slot in self.slots:
            self._reap(slot)
        self._note_claims()
        busy = [slot for slot in self.slots if slot.process is not None]
        if self._is_stopping():
            self._end(busy)
            return bool(busy)
        self._look_at_files()
        self._escalate()
        self._start_workers()
        if self.drain and not self._anything_to_do():
            self.is_ending = True
        return True

    def _is_stopping(self) -> bool:
        return self.is_ending or self.requests.count > 0

    def _note_claims(self) -> None:
        failed = [slot for slot in self.slots if slot.failures and slot.process is not None]
        working = {video.worker for video in self.queue.running()} if failed else set()
        for slot in failed:
            if slot.worker in working:
                slot.works()

    def _anything_to_do(self) -> bool:
        return bool(self.queue.running()) or any(self.queue.waiting(slot.devices) for slot in self.slots)

    def _start_workers(self) -> None:
        for slot in self.slots:
            if slot.process is not None or time.monotonic() < slot.not_before:
                continue
            if not self.queue.waiting(slot.devices):
                continue
            try:
                slot.start(self.queue.path.parent, self.logs)
            except OSError as error:
                slot.delay()
                self.log.error("%s cannot be started: %s", slot.name, error)
                self._count_failure(slot, str(error))
                continue
            self.log.info("%s started on %s", slot.worker, slot.device)
            self.queue.add_worker(slot.worker, slot.device)

    def _reap(self, slot: Slot) -> None:
        if slot.process is None or (code := slot.process.poll()) is None:
            return
        why = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        if code == -signal.SIGKILL and not slot.signalled:
            why += " (from outside: perhaps the system ran out of memory)"
        worker = slot.worker
        # Also after a good end: whatever the worker did not give back is taken back.
        videos = self.queue.reclaim(worker, why, blame=signal.SIGKILL not in slot.signalled, has_ended=True)
        slot.process = None
        for video in videos:
            self._close(video)
            self.log.error("%s died (%s) over %s, which is now %s", worker, why, video.title, video.state)
        if code == 0:
            slot.works()
            self.log.info("%s ended", worker)
            return
        self.log.error("%s ended by %s", worker, why)
        if videos:
            slot.works()
            return
        # Without a video it is the worker itself that does not work.
        slot.delay()
        if not slot.signalled:
            why = f"{why}: {slot.last_words(self.logs)}"
            self.queue.emit(WorkerDied(worker=worker, error=f"{why}; see {slot.output(self.logs)}"))
            self._count_failure(slot, why)

    def _count_failure(self, slot: Slot, why: str) -> None:
        """Hold the queue where no worker that could make a waiting video can start: each failed several times."""
        slot.failures += 1
        # A slot without work to do never starts a worker, and so never fails.
        serving = [other for other in self.slots if self.queue.waiting(other.devices)]
        if not serving or any(other.failures < MAX_FAILURES for other in serving):
            return
        for other in self.slots:
            other.works()
        reason = f"no worker can start ({MAX_FAILURES} tries): {why}; see {slot.output(self.logs)}"
        self.log.error("the queue is held: %s", reason)
        self.queue.hold("worker", reason)

    def _close(self, video: VideoRow) -> None:
        batch = self.queue.batch(video.batch)
        if batch is None or video.state not in ("failed", "cancelled"):
            return
        try:
            state: State = "failed" if video.state == "failed" else "cancelled"
            self.manifests.of(BatchFolder(batch.folder)).close([video.number], state, video.error)
        except (OSError, UserError) as error:
            self.log.warning("the manifest of %s does not say so: %s", batch.name, error)

    def _escalate(self) -> None:
        cancelling = self.queue.cancelling()
        for slot in self.slots:
            if slot.process is None or slot.worker not in cancelling:
                slot.cancel_seen = 0.0
                slot.signalled.discard(signal.SIGINT)
            elif not slot.cancel_seen:
                slot.cancel_seen = time.monotonic()
            else:
                waited = time.monotonic() - slot.cancel_seen
                if waited > KILL_SECONDS:
                    self._signal(slot, signal.SIGKILL)
                elif waited > INTERRUPT_SECONDS:
                    self._signal(slot, signal.SIGINT)

    def _end(self, busy: Sequence[Slot]) -> None:
        for slot in busy:
            self._signal(slot, signal.SIGTERM if self.requests.count <= 1 else signal.SIGKILL)

    def _signal(self, slot: Slot, number: signal.Signals) -> None:
        if slot.process is not None and number not in slot.signalled:
            slot.signalled.add(number)
            self.log.info("%s gets %s", slot.worker, number.name)
            slot.process.send_signal(number)

    def _look_at_files(self) -> None:
        if time.monotonic() - self.looked_at_disk < DISK_SECONDS:
            return
        self.looked_at_disk = time.monotonic()
        if self.queue.is_replaced():
            self.log.error(
                "the queue %s was deleted or replaced, or its write-ahead log was: what runs is stopped",
                self.queue.path,
            )
            self.is_replaced = self.is_ending = True
            return
        if self.lock is not None and not holds_lock_file(self.lock, self.queue.path.parent):
            self.log.error(
                "the lock file in %s was deleted or replaced, so that another engine may start: what runs is stopped",
                self.queue.path.parent,
            )
            self.is_replaced = self.is_ending = True
            return
        held = self.queue.held()
        if held is None or held.folder is None:
            return
        if held.kind == "disk" and _has_room(held.folder, held.needed or 0):
            self.log.info("there is room in %s again", held.folder)
            self.queue.resume("disk")
        elif held.kind == "folder" and (is_gone(held.folder) or why_unwritable(held.folder) is None):
            self.log.info("%s can be written again", held.folder)
            self.queue.resume("folder")


def _has_room(folder: Path, needed: int) -> bool:
    try:
        return shutil.disk_usage(folder).free >= needed
    except OSError:
        return True  # the folder is gone: its videos will fail and say so


def run_engine(state_dir: StateDirectory, logs: Path, workers: int | None, drain: bool) -> bool:
    """Run the engine of a state directory; return False if one is already running.

    Raises:
        UserError: the queue cannot be opened, or CUDA_VISIBLE_DEVICES names a GPU that does not exist.
        QueueError: the queue is damaged; the next engine quarantines it.
    """
    lock = acquire_engine_lock(state_dir.directory)
    if lock is None:
        return False
    requests = StopRequests()
    try:
        # Once, and before anything else: a request between two databases must not be lost.
        requests.install()
        while _run(state_dir, lock, logs, workers, drain, requests):
            # The database or the lock file was deleted or replaced: begin with the one that has its name now.
            if holds_lock_file(lock, state_dir.directory):
                continue
            try:
                another = acquire_engine_lock(state_dir.directory)
            except OSError:  # the whole directory is gone
                break
            if another is None:  # the one of an engine that was started meanwhile
                break
            os.close(lock)
            lock = another
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
        slots, remarks = _slots(queue, workers)
        supervisor = Supervisor(queue, slots, logs, log, drain, requests, lock)
        log.info(
            "engine of wantui %s, process %d, %s",
            __version__,
            os.getpid(),
            format_count(len(supervisor.slots), "worker"),
        )
        supervisor.hold_if_interrupted()
        announce(lock, logs, sorted({name for slot in slots for name in slot.devices}), remarks)
        supervisor.run()
    except QueueError as error:
        if is_damage(error):
            log.exception("the queue is damaged: %s", error)  # workers die with us; the next engine puts it aside
            raise
        if requests.count:
            log.warning("stopped before the queue could be used: %s", error)
        else:
            log.error("cannot use the queue: %s. Others keep it locked, or its disk is full", error)
        raise UserError(
            f"cannot use the queue {queue.path}: {error}. End what keeps it locked, or make room on its disk"
        ) from None
    finally:
        queue.close()
    log.info("engine ends")
    return supervisor.is_replaced and not requests.count


def _slots(queue: Queue, workers: int | None) -> tuple[list[Slot], list[str]]:
    """Return the slots for workers, and remarks about their devices.

    Raises:
        NoSuchGpuError: CUDA_VISIBLE_DEVICES names a GPU that does not exist, and a batch may need one.
    """
    if workers is not None:  # on the CPU, whatever CUDA_VISIBLE_DEVICES says
        return slots_for((), workers), []
    report, setting = query_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        return slots_for(visible(report.gpus, setting), None), remarks_on_devices(report, setting)
    except NoSuchGpuError as error:
        devices = {batch.device for batch in queue.batches(-1) if batch.unfinished}
        if devices != {"cpu"}:
            raise
        # Only what asks for the CPU: a batch that may use a GPU must not be made on the CPU in silence.
        cpu = [replace(slot, devices=("cpu",)) for slot in slots_for((), None)]
        return cpu, [f"{error}. This engine makes only batches with model_settings.device: cpu"]


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
