"""Worker slots, one per GPU or several on the CPU, each with at most one worker process."""

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wantui.engine.process_output import read_last_line
from wantui.environment import build_python_command, build_torch_environment
from wantui.gpu.nvml import Gpu, list_usable_gpus
from wantui.queue.records import make_worker_name
from wantui.queue.state_files import open_state_file

MIN_RESTART_DELAY_SECONDS, MAX_RESTART_DELAY_SECONDS = 1.0, 60.0
"""Shortest and longest delay before restarting a worker that exited without claiming a video."""


VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
"""Variable that selects the GPUs of a process, in order."""


@dataclass
class WorkerSlot:
    """A device, and the worker process that uses it."""

    name: str
    served_devices: tuple[str, ...]
    """Device names in batches that this slot serves, such as `auto` and `cuda`."""
    torch_device: str
    """Device name for torch in the worker process."""
    added_environment: dict[str, str]
    gpu_name: str = ""
    """Name of the GPU as the driver reports it; empty for a slot on the CPU."""
    gpu_counts: tuple[int, ...] = (1,)
    """Numbers of GPUs per video that the current process serves."""
    partner: "WorkerSlot | None" = None
    """Slot whose GPU the current process uses as its second GPU."""
    uses_one_gpu_only: bool = False
    """True once a process of this slot died while using two GPUs; later processes use one GPU."""
    is_bad_partner: bool = False
    """True once this GPU failed as the second GPU of another slot's process; it is not paired again."""
    one_gpu_reason: str = ""
    """Why the current process has one GPU for videos that ask for two; empty if no second GPU was free."""
    process: subprocess.Popen[bytes] | None = None
    earliest_start_at: float = 0.0
    """Monotonic time in seconds before which no process is started."""
    restart_delay_seconds: float = MIN_RESTART_DELAY_SECONDS
    consecutive_failures: int = 0
    """Consecutive processes that exited without claiming a video."""
    output_start_byte: int = 0
    """Size in bytes of the output file when the current process started."""
    sent_signals: set[int] = field(default_factory=set)
    cancel_seen_at: float = 0.0
    """Monotonic time in seconds when the cancel of the running video was first seen; 0 without a cancel."""

    @property
    def worker_name(self) -> str:
        """Return the worker's name in claims, unique for each process."""
        return make_worker_name(self.name, self.process.pid if self.process else 0)

    def start_process(self, state_directory: Path, logs_folder: Path) -> None:
        """Start a worker process, with its output appended to a file in the log folder.

        Raises:
            OSError: the process cannot be started.
            UserError: the output file is not a regular file.
        """
        command = build_python_command("-m", "wantui.worker.process", "--state", str(state_directory))
        command += ["--logs", str(logs_folder), "--name", self.name, "--device", self.torch_device]
        command += ["--devices", ",".join(self.served_devices), "--parent", str(os.getpid())]
        command += ["--gpu-counts", ",".join(map(str, self.gpu_counts)), "--one-gpu-reason", self.one_gpu_reason]
        logs_folder.mkdir(parents=True, exist_ok=True)
        output_path = self.find_output_path(logs_folder)
        with os.fdopen(
            open_state_file(output_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), "ab"
        ) as output_file:
            self.output_start_byte = output_file.tell()
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output_file,
                stderr=output_file,
                cwd="/",
                env=build_torch_environment(os.environ) | self.build_environment(),
                process_group=0,
            )
        self.sent_signals = set()

    def build_environment(self) -> dict[str, str]:
        """Return the variables that let a process see this slot's GPU first, and then its partner's."""
        if self.partner is None:
            return self.added_environment
        uuids = [slot.added_environment[VISIBLE_DEVICES] for slot in (self, self.partner)]
        return self.added_environment | {VISIBLE_DEVICES: ",".join(uuids)}

    def can_pair_with(self, other: "WorkerSlot") -> bool:
        """Return whether a process of this slot can use the other slot's GPU with bit-identical results."""
        return self.has_equal_gpu(other) and not other.is_bad_partner

    def has_equal_gpu(self, other: "WorkerSlot") -> bool:
        """Return whether the other slot has a different GPU of the same kind, and one process can see both.

        CUDA shows a process only one MIG instance.
        """
        is_instance = self.added_environment.get(VISIBLE_DEVICES, "").startswith("MIG-")
        return other is not self and bool(self.gpu_name) and other.gpu_name == self.gpu_name and not is_instance

    def find_output_path(self, logs_folder: Path) -> Path:
        """Return the output file that all processes of this slot share."""
        return logs_folder / f"{self.name}.out"

    def read_last_output_line(self, logs_folder: Path) -> str:
        """Return the last line that the current process printed."""
        return read_last_line(self.find_output_path(logs_folder), self.output_start_byte)

    def delay_next_start(self) -> None:
        """Delay the next start; the delay doubles each time."""
        self.earliest_start_at = time.monotonic() + self.restart_delay_seconds
        self.restart_delay_seconds = min(2 * self.restart_delay_seconds, MAX_RESTART_DELAY_SECONDS)

    def reset_failures(self) -> None:
        """Reset the failure count and the restart delay."""
        self.restart_delay_seconds, self.consecutive_failures = MIN_RESTART_DELAY_SECONDS, 0


def create_worker_slots(gpus: Sequence[Gpu], worker_count: int | None) -> list[WorkerSlot]:
    """Return one slot per usable GPU; without one, or with `worker_count`, `worker_count` CPU slots (at least 1).

    An unusable GPU keeps its number: `cuda:N` of a batch must not change to a different GPU.
    """
    if worker_count is None and list_usable_gpus(gpus):
        return [
            WorkerSlot(
                f"worker-{i}", ("auto", "cuda", "cpu", f"cuda:{i}"), "cuda", {VISIBLE_DEVICES: gpu.uuid}, gpu.name
            )
            for i, gpu in enumerate(gpus)
            if not gpu.fault
        ]
    return [WorkerSlot(f"worker-{i}", ("auto", "cpu"), "cpu", {VISIBLE_DEVICES: ""}) for i in range(worker_count or 1)]
