"""Entry point of the worker process: python -m wantui.worker.process.

SIGTERM stops the worker after the current step; the video resumes from there later. The kernel kills the worker when
its engine ends.
"""

import argparse
import ctypes
import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wantui.environment import build_python_command
from wantui.process_exits import SECOND_GPU_LOST_EXIT_CODE
from wantui.queue.queue import Queue
from wantui.queue.records import make_worker_name
from wantui.stop_signals import NOTICE_SIGNALS
from wantui.storage.log_files import open_log

HIDDEN_PACKAGES = ("sklearn", "scipy", "torchao")
"""Packages that diffusers and transformers import if they are installed, although wantui does not use the features
that need them; torchao is imported later, for 8-bit weights."""
IMPORT_ALL_FLAG = "--import-all"


def find_missing_package(error: BaseException | None) -> str:
    """Return the package that could not be imported: the first package that an error or one of its causes names."""
    while error is not None:
        if isinstance(error, ImportError) and error.name:
            return error.name.partition(".")[0]
        error = error.__cause__ or error.__context__
    return ""


@contextmanager
def hide_slow_packages() -> Iterator[None]:
    """Import diffusers and transformers faster: they see HIDDEN_PACKAGES as missing.

    After this block these can be imported. Another installed package that needs a hidden one cannot be imported then:
    the process starts again, and imports all.
    """
    hidden = [] if IMPORT_ALL_FLAG in sys.argv else [name for name in HIDDEN_PACKAGES if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    gc.disable()  # modules stay: collections while they are imported find nothing, and take a fifth of the time
    try:
        yield
    except (ImportError, RuntimeError) as error:  # diffusers raises RuntimeError
        needed = find_missing_package(error)
        if __name__ != "__main__" or needed not in hidden:
            raise
        sys.stderr.write(f"starting again without hidden packages, because another package needs {needed}\n")
        sys.stderr.flush()
        command = build_python_command("-m", "wantui.worker.process", *sys.argv[1:], IMPORT_ALL_FLAG)
        os.execv(sys.executable, command)
    finally:
        gc.enable()
        gc.freeze()
        for name in hidden:
            del sys.modules[name]


with hide_slow_packages():
    # Every video needs these, which other modules import late. A worker without them must not start: videos would fail
    # after their denoising. Importing them now also keeps an upgrade during a video from mixing two versions.
    import av  # noqa: F401
    import PIL.PngImagePlugin  # noqa: F401
    import torch
    import zarr.codecs  # noqa: F401

    from wantui.worker.worker import Worker

PR_SET_PDEATHSIG = 1
SECOND_DEVICE = "cuda:1"
"""Second GPU of a worker that sees two."""


def exit_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent process ends for any reason."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)  # the parent ended before the call above


def explain_unusable_gpu(device_name: str) -> str | None:
    """Return why torch cannot use the GPU of this worker; None if it can, or for a CPU or a CPU build of torch."""
    is_cuda_build = torch.backends.cuda.is_built()  # type: ignore[no-untyped-call]
    if device_name == "cpu" or not is_cuda_build or torch.cuda.is_available():
        return None
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return "torch finds no GPU"


def choose_served_devices(device_name: str, served_devices: list[str], queue: Queue) -> list[str]:
    """Return the devices in batches that this worker serves: only `cpu` if torch cannot use its GPU.

    `auto` would mean the CPU in such a process, and a batch for a GPU would be refused, although other workers may
    have a GPU.

    Raises:
        SystemExit: torch cannot use the GPU, and no batch for the CPU waits.
    """
    if (reason := explain_unusable_gpu(device_name)) is None:
        return served_devices
    if queue.has_claimable_video(("cpu",)):
        return ["cpu"]
    sys.exit(
        f"torch {torch.__version__} cannot use the GPU of this worker ({reason}). Run `wantui doctor`, or set "
        "model_settings.device: cpu"
    )


def main() -> None:
    """Run a worker until the engine stops it or no video is waiting."""
    parser = argparse.ArgumentParser()
    for option in ("--state", "--logs"):
        parser.add_argument(option, type=Path, required=True)
    for option in ("--name", "--device", "--devices"):
        parser.add_argument(option, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--gpu-counts", default="1,2")
    parser.add_argument("--one-gpu-reason", default="")
    parser.add_argument(IMPORT_ALL_FLAG, action="store_true")
    options = parser.parse_args()
    exit_with_parent(options.parent)
    log = open_log(options.name, options.logs / f"{options.name}.log")
    # The process ID makes the name unique: claims belong to one process.
    worker_name = make_worker_name(options.name, os.getpid())
    with Queue(options.state) as queue:
        served_devices = choose_served_devices(options.device, options.devices.split(","), queue)
        queue.record_ready_worker(worker_name)
        gpu_counts = tuple(map(int, options.gpu_counts.split(",")))
        second_device_name = SECOND_DEVICE if gpu_counts == (2,) else None
        worker = Worker(
            queue,
            worker_name,
            served_devices,
            options.device,
            log,
            gpu_counts,
            second_device_name,
            options.one_gpu_reason,
        )

        def request_stop(*_: object) -> None:
            worker.is_stopping = True

        for signal_number in (signal.SIGTERM, signal.SIGQUIT, *NOTICE_SIGNALS):
            if signal.getsignal(signal_number) is not signal.SIG_IGN:
                signal.signal(signal_number, request_stop)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        log.info("%s on %s", worker_name, options.device)
        worker.run()
    log.info("%s ends", worker_name)
    if worker.has_lost_second_gpu:
        logging.shutdown()
        os._exit(SECOND_GPU_LOST_EXIT_CODE)  # without the exit functions of CUDA, which may wait for the lost GPU


if __name__ == "__main__":
    main()
