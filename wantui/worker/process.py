"""The worker process, as the engine starts it: python -m wantui.worker.process.

SIGTERM stops it at the next step; the video resumes from there later. It dies with the engine that started it.
"""

import argparse
import ctypes
import os
import signal
from pathlib import Path

from wantui.queue.queue import Queue
from wantui.storage.log_files import open_log
from wantui.worker.worker import Worker

PR_SET_PDEATHSIG = 1


def exit_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, however that ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it had ended before


def main() -> None:
    """Run a worker until the engine stops it or there is nothing to do."""
    parser = argparse.ArgumentParser()
    for name in ("--state", "--logs"):
        parser.add_argument(name, type=Path, required=True)
    for name in ("--name", "--device", "--devices"):
        parser.add_argument(name, required=True)
    parser.add_argument("--parent", type=int, required=True)
    options = parser.parse_args()
    exit_with_parent(options.parent)
    log = open_log(options.name, options.logs / f"{options.name}.log")
    # No two processes claim under one name.
    name = f"{options.name}:{os.getpid()}"
    with Queue(options.state) as queue:
        queue.worker_ready(name)
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
