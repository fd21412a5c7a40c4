"""Entry point of the worker process: python -m wantui.worker.process.

SIGTERM stops the worker after the current step; the video resumes from there later. The kernel kills the worker when
its engine ends.
"""

import argparse
import ctypes
import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wantui.queue.queue import Queue
from wantui.storage.log_files import open_log


@contextmanager
def lean_imports(optional: str = "scipy") -> Iterator[None]:
    """Import diffusers and transformers in three quarters of the CPU time.

    Args:
        optional: package that they import if it is installed, for losses and schedulers that Wan does not use. They
            see it as missing; after this block it can be imported.
    """
    hides = optional not in sys.modules
    if hides:
        sys.modules[optional] = None  # type: ignore[assignment]
    gc.disable()  # modules stay: collections while they are imported find nothing, and take a fifth of the time
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
        if hides:
            del sys.modules[optional]


with lean_imports():
    from wantui.worker.worker import Worker

PR_SET_PDEATHSIG = 1


def exit_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent process ends for any reason."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # the parent ended before the call above


def main() -> None:
    """Run a worker until the engine stops it or no video waits."""
    parser = argparse.ArgumentParser()
    for name in ("--state", "--logs"):
        parser.add_argument(name, type=Path, required=True)
    for name in ("--name", "--device", "--devices"):
        parser.add_argument(name, required=True)
    parser.add_argument("--parent", type=int, required=True)
    options = parser.parse_args()
    exit_with_parent(options.parent)
    log = open_log(options.name, options.logs / f"{options.name}.log")
    # The process ID makes the name unique: claims belong to one process.
    name = f"{options.name}:{os.getpid()}"
    with Queue(options.state) as queue:
        queue.record_ready_worker(name)
        worker = Worker(queue, name, options.devices.split(","), options.device, log)

        def stop(*_: object) -> None:
            worker.stopping = True

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        log.info("%s on %s", name, options.device)
        worker.run()
    log.info("%s ends", name)


if __name__ == "__main__":
    main()
