"""The process of the engine: lock the state directory, open the queue, and supervise workers until it must stop.

The engine locks its state directory until it exits, and never loads torch. On SIGTERM, workers stop after the current
step, then the engine exits; a second SIGTERM kills the workers. SIGHUP is ignored, so that the engine survives its
terminal.
"""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

from wantui import __version__
from wantui.engine.control import acquire_engine_lock, is_lock_file_in_place, publish_engine_info
from wantui.engine.notices import find_settings_error
from wantui.engine.queue_opening import open_queue
from wantui.engine.slots import WorkerSlot, create_worker_slots
from wantui.engine.stop_requests import StopRequestCounter
from wantui.engine.supervisor import Supervisor
from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.gpu.nvml import NoSuchGpuError, find_device_remarks, query_gpus, select_visible_gpus
from wantui.queue.database import QueueError, is_database_damage
from wantui.queue.queue import Queue
from wantui.queue.state_dir import StateDirectory
from wantui.storage.log_files import open_log


def run_engine(state_dir: StateDirectory, logs_folder: Path, worker_count: int | None, ends_when_idle: bool) -> bool:
    """Run the engine of a state directory; return False if one is already running.

    Raises:
        UserError: the database cannot be opened, or CUDA_VISIBLE_DEVICES names a GPU that does not exist.
        QueueError: the database is damaged; the next engine quarantines it.
    """
    lock_descriptor = acquire_engine_lock(state_dir.directory)
    if lock_descriptor is None:
        return False
    stop_requests = StopRequestCounter()
    try:
        # First, and only once: a stop request between two databases must not be lost.
        stop_requests.install_signal_handlers()
        while _run_until_replaced(state_dir, lock_descriptor, logs_folder, worker_count, ends_when_idle, stop_requests):
            # The database or the lock file was deleted or replaced: start again with the current files.
            if is_lock_file_in_place(lock_descriptor, state_dir.directory):
                continue
            try:
                new_lock_descriptor = acquire_engine_lock(state_dir.directory)
            except OSError:  # the whole directory is missing
                break
            if new_lock_descriptor is None:  # another engine has started meanwhile
                break
            os.close(lock_descriptor)
            lock_descriptor = new_lock_descriptor
    finally:
        os.close(lock_descriptor)
    return True


def _run_until_replaced(
    state_dir: StateDirectory,
    lock_descriptor: int,
    logs_folder: Path,
    worker_count: int | None,
    ends_when_idle: bool,
    stop_requests: StopRequestCounter,
) -> bool:
    """Run the engine while the database and the lock file exist; return whether to start again."""
    log = open_log("engine", logs_folder / "engine.log")
    queue, messages = open_queue(state_dir, is_engine=True)
    try:
        for note in messages:
            log.warning("%s", note)
        slots, engine_notes = _plan_worker_slots(queue, worker_count)
        supervisor = Supervisor(queue, slots, logs_folder, log, ends_when_idle, stop_requests, lock_descriptor)
        log.info(
            "engine of wantui %s, process %d, %s",
            __version__,
            os.getpid(),
            format_count(len(supervisor.slots), "worker"),
        )
        if fault := find_settings_error():
            log.error("%s", fault)
            engine_notes.append(fault)
        supervisor.hold_queue_if_interrupted()
        supervisor.fold_remaining_journals()
        publish_engine_info(
            lock_descriptor,
            logs_folder,
            sorted({name for slot in slots for name in slot.served_devices}),
            engine_notes,
        )
        supervisor.run()
        supervisor.notifier.wait(lambda: stop_requests.count > 1)
    except QueueError as error:
        if is_database_damage(error):
            log.exception("the queue is damaged: %s", error)  # workers end with this process; the next one quarantines
            raise
        if stop_requests.count:
            log.warning("stopped before the queue could be used: %s", error)
        else:
            log.error("cannot use the queue: %s. Another process locks the queue, or the disk is full", error)
        raise UserError(
            f"cannot use the queue {queue.path}: {error}. End the process that is locking the queue, or free disk space"
        ) from None
    finally:
        queue.close()
    log.info("engine ends")
    return supervisor.has_lost_files and not stop_requests.count


def _plan_worker_slots(queue: Queue, worker_count: int | None) -> tuple[list[WorkerSlot], list[str]]:
    """Return the worker slots, and remarks about their devices.

    Raises:
        NoSuchGpuError: CUDA_VISIBLE_DEVICES names a GPU that does not exist, and a batch may need one.
    """
    if worker_count is not None:  # on the CPU, whatever CUDA_VISIBLE_DEVICES says
        return create_worker_slots((), worker_count), []
    gpu_report, visible_gpus_setting = query_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        return create_worker_slots(
            select_visible_gpus(gpu_report.gpus, visible_gpus_setting), None
        ), find_device_remarks(gpu_report, visible_gpus_setting)
    except NoSuchGpuError as error:
        requested_devices = {batch.device for batch in queue.list_batches() if batch.unfinished_count}
        if requested_devices != {"cpu"}:
            raise
        # Serve only batches that request the CPU: a batch that may use a GPU must not silently run on the CPU.
        cpu_slots = [replace(slot, served_devices=("cpu",)) for slot in create_worker_slots((), None)]
        return cpu_slots, [f"{error}. This engine runs only batches with model_settings.device: cpu"]


def main() -> None:
    """Run `python -m wantui.engine.process`, as `wantui engine start` does."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--logs", type=Path, required=True)
    parser.add_argument("--workers", type=int)
    options = parser.parse_args()
    try:
        run_engine(StateDirectory(options.state), options.logs, options.workers, ends_when_idle=False)
    except UserError as error:
        sys.stderr.write(f"wantui: {error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
