"""The engine: starts a worker for each GPU when there is something to do, and takes back what a dead one was making.

It holds a lock for life, so that there is one for each state directory, and loads no torch. SIGTERM: workers stop at
their next step, then it ends; a second one ends them at once. SIGHUP is ignored: a terminal that goes away is nothing
to it.
"""

import argparse
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wantui import __version__
from wantui.engine.control import announce, hold_lock, open_queue
from wantui.engine.logs import open_log
from wantui.engine.output_faults import is_gone, why_unwritable
from wantui.engine.record import close_entry
from wantui.errors import UserError
from wantui.gpu.nvml import Gpu, look, visible
from wantui.queue.database import QueueError, Unavailable
from wantui.queue.place import Place
from wantui.queue.queue import Queue
from wantui.queue.rows import VideoRow
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import State

TICK_SECONDS = 0.1
DISK_SECONDS = 2.0
"""Between two looks at a disk that was full."""
INTERRUPT_SECONDS, KILL_SECONDS = 30.0, 60.0
"""After so long a cancelled video is interrupted in the middle of its step, and its worker killed."""
SHORTEST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 60.0
"""A worker that died before it had a video is started again only after a wait, which doubles each time."""


@dataclass
class Slot:
    """A place for a worker: a device, and the process that has it."""

    name: str
    devices: tuple[str, ...]
    """What a batch may call the device."""
    device: str
    """What torch calls it in the worker."""
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    not_before: float = 0.0
    wait: float = SHORTEST_WAIT_SECONDS
    signalled: set[int] = field(default_factory=set)
    cancel_seen: float = 0.0
    """Since when the video that it makes is given up."""

    @property
    def worker(self) -> str:
        """The name that its claims bear: never the same for two processes."""
        return f"{self.name}:{self.process.pid if self.process else 0}"


def slots_for(gpus: Sequence[Gpu], workers: int | None) -> list[Slot]:
    """One for each GPU; without one, or where a number is given, that many on the CPU."""
    if workers is None and gpus:
        return [
            Slot(f"worker-{i}", ("auto", "cuda", "cpu", f"cuda:{i}"), "cuda", {"CUDA_VISIBLE_DEVICES": gpu.uuid})
            for i, gpu in enumerate(gpus)
        ]
    return [Slot(f"worker-{i}", ("auto", "cpu"), "cpu", {"CUDA_VISIBLE_DEVICES": ""}) for i in range(workers or 1)]


class Supervisor:
    """Starts, watches and ends the workers of one state directory."""

    def __init__(self, queue: Queue, slots: Sequence[Slot], logs: Path, log: logging.Logger, drain: bool) -> None:
        self.queue, self.slots, self.logs, self.log, self.drain = queue, slots, logs, log, drain
        self.stops = 0
        self.looked_at_disk = 0.0

    def run(self) -> None:
        """Until told to stop, or (`drain`) until nothing is left that could be made."""
        while True:
            try:
                if not self._tick():
                    return
            except Unavailable as error:  # a full disk, or somebody who holds the database for too long
                self.log.warning("the queue cannot be used now: %s", error)
                time.sleep(1.0)
            time.sleep(TICK_SECONDS)

    def take_stock(self) -> None:
        """Hold the queue where an engine ended over something."""
        while True:
            try:
                interrupted = self.queue.recover()
                break
            except Unavailable as error:
                self.log.warning("the queue cannot be used now: %s", error)
                time.sleep(1.0)
        if interrupted:
            self.log.warning("%d videos were interrupted when an engine ended; the queue is held", interrupted)

    def _tick(self) -> bool:
        """Look at everything once; whether there is a reason to go on."""
        for slot in self.slots:
            self._reap(slot)
        busy = [slot for slot in self.slots if slot.process is not None]
        if self.stops:
            self._end(busy)
            return bool(busy)
        self._look_at_disk()
        self._escalate()
        self._start_workers()
        if self.drain and not self._anything_to_do():
            self.stop()
        return True

    def stop(self, *_: object) -> None:
        self.stops += 1

    def _anything_to_do(self) -> bool:
        return bool(self.queue.running()) or any(self.queue.waiting(slot.devices) for slot in self.slots)

    def _start_workers(self) -> None:
        for slot in self.slots:
            if slot.process is not None or time.monotonic() < slot.not_before:
                continue
            if not self.queue.waiting(slot.devices):
                continue
            command = [sys.executable, "-m", "wantui.engine.worker", "--state", str(self.queue.path.parent)]
            command += ["--logs", str(self.logs), "--name", slot.name, "--device", slot.device]
            command += ["--devices", ",".join(slot.devices), "--parent", str(os.getpid())]
            try:
                self.logs.mkdir(parents=True, exist_ok=True)
                with (self.logs / f"{slot.name}.out").open("ab") as out:
                    slot.process = subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=out,
                        stderr=out,
                        cwd="/",
                        env={"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"} | os.environ | slot.environment,
                        process_group=0,
                    )
            except OSError as error:
                self._wait(slot)
                self.log.error("%s cannot be started: %s", slot.name, error)
                continue
            slot.signalled = set()
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
        videos = self.queue.take_back(worker, why, blame=signal.SIGKILL not in slot.signalled)
        self.queue.remove_worker(worker)
        slot.process = None
        for video in videos:
            self._close(video)
            self.log.error("%s died (%s) over %s, which is now %s", worker, why, video.title, video.state)
        if code == 0:
            slot.wait = SHORTEST_WAIT_SECONDS
            self.log.info("%s ended", worker)
            return
        self.log.error("%s ended by %s", worker, why)
        if videos:
            slot.wait = SHORTEST_WAIT_SECONDS
            return
        # Without a video it is the worker itself that does not work.
        if not slot.signalled:
            self.queue.tell("worker died", error=f"{why}; see {self.logs / slot.name}.out", worker=worker)
        self._wait(slot)

    def _wait(self, slot: Slot) -> None:
        slot.not_before = time.monotonic() + slot.wait
        slot.wait = min(2 * slot.wait, LONGEST_WAIT_SECONDS)

    def _close(self, video: VideoRow) -> None:
        batch = self.queue.batch(video.batch)
        if batch is None or video.state not in ("failed", "cancelled"):
            return
        try:
            state: State = "failed" if video.state == "failed" else "cancelled"
            close_entry(BatchFolder(batch.folder), video.number, state, video.error)
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
            self._signal(slot, signal.SIGTERM if self.stops == 1 else signal.SIGKILL)

    def _signal(self, slot: Slot, number: signal.Signals) -> None:
        if slot.process is not None and number not in slot.signalled:
            slot.signalled.add(number)
            self.log.info("%s gets %s", slot.worker, number.name)
            slot.process.send_signal(number)

    def _look_at_disk(self) -> None:
        if time.monotonic() - self.looked_at_disk < DISK_SECONDS:
            return
        self.looked_at_disk = time.monotonic()
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


def run_engine(place: Place, logs: Path, workers: int | None, drain: bool) -> bool:
    """Be the engine of a state directory; False where there is one already."""
    logs.mkdir(parents=True, exist_ok=True)
    lock = hold_lock(place.directory)
    if lock is None:
        return False
    log = open_log("engine", logs / "engine.log")
    queue, notes = open_queue(place, is_engine=True)
    for note in notes:
        log.warning("%s", note)
    gpus = visible(look().gpus, os.environ.get("CUDA_VISIBLE_DEVICES"))
    slots = slots_for(gpus, workers)
    supervisor = Supervisor(queue, slots, logs, log, drain)
    signal.signal(signal.SIGTERM, supervisor.stop)
    signal.signal(signal.SIGINT, supervisor.stop)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    log.info("engine of wantui %s, process %d, %d workers", __version__, os.getpid(), len(supervisor.slots))
    try:
        supervisor.take_stock()
        announce(lock, logs, __version__, sorted({name for slot in slots for name in slot.devices}))
        supervisor.run()
    except QueueError as error:
        log.exception("the queue is damaged: %s", error)  # workers die with us; the next engine puts it aside
        raise
    log.info("engine ends")
    os.close(lock)
    return True


def main() -> None:
    """python -m wantui.engine.supervisor, as `wantui engine start` calls it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--logs", type=Path, required=True)
    parser.add_argument("--workers", type=int)
    options = parser.parse_args()
    run_engine(Place(options.state), options.logs, options.workers, drain=False)


if __name__ == "__main__":
    main()
