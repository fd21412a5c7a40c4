"""Places for workers: one for each GPU, or some on the CPU, and the processes that have them."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wantui.engine.control import last_line
from wantui.environment import torch_environment
from wantui.gpu.nvml import Gpu

MIN_WAIT_SECONDS, MAX_WAIT_SECONDS = 1.0, 60.0
"""Seconds before a worker that ended without a video is started again: the first time, and at most."""


@dataclass
class Slot:
    """A place for a worker: a device, and the process that has it."""

    name: str
    devices: tuple[str, ...]
    """Names of the device in a batch."""
    device: str
    """Name of the device in the worker's torch."""
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    not_before: float = 0.0
    wait: float = MIN_WAIT_SECONDS
    failures: int = 0
    """Processes in a row that ended before they had a video."""
    output_start: int = 0
    """Size of the file with the process's output when it was started."""
    signalled: set[int] = field(default_factory=set)
    cancel_seen: float = 0.0
    """Monotonic time at which a cancel of the running video was first seen, seconds."""

    @property
    def worker(self) -> str:
        """Return the name in its claims: never the same for two processes."""
        return f"{self.name}:{self.process.pid if self.process else 0}"

    def start(self, state: Path, logs: Path) -> None:
        """Start a worker process, whose output goes to a file in the folder for logs.

        Raises:
            OSError: it cannot be started.
        """
        command = [sys.executable, "-m", "wantui.worker.process", "--state", str(state)]
        command += ["--logs", str(logs), "--name", self.name, "--device", self.device]
        command += ["--devices", ",".join(self.devices), "--parent", str(os.getpid())]
        logs.mkdir(parents=True, exist_ok=True)
        with self.output(logs).open("ab") as out:
            self.output_start = out.tell()
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd="/",
                env=torch_environment(os.environ) | self.environment,
                process_group=0,
            )
        self.signalled = set()

    def output(self, logs: Path) -> Path:
        """Return the file for the output of the slot's processes."""
        return logs / f"{self.name}.out"

    def last_words(self, logs: Path) -> str:
        """Return the last line that the process printed."""
        return last_line(self.output(logs), self.output_start)

    def delay(self) -> None:
        """Delay the next start; the delay doubles each time."""
        self.not_before = time.monotonic() + self.wait
        self.wait = min(2 * self.wait, MAX_WAIT_SECONDS)

    def works(self) -> None:
        """Reset the failure count after a claim or a clean exit."""
        self.wait, self.failures = MIN_WAIT_SECONDS, 0


def slots_for(gpus: Sequence[Gpu], workers: int | None) -> list[Slot]:
    """Return one slot per GPU; without one, or if a number is given, that many on the CPU."""
    if workers is None and gpus:
        return [
            Slot(f"worker-{i}", ("auto", "cuda", "cpu", f"cuda:{i}"), "cuda", {"CUDA_VISIBLE_DEVICES": gpu.uuid})
            for i, gpu in enumerate(gpus)
        ]
    return [Slot(f"worker-{i}", ("auto", "cpu"), "cpu", {"CUDA_VISIBLE_DEVICES": ""}) for i in range(workers or 1)]
