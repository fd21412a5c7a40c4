"""A batch on a Slurm cluster: an array of jobs, each of which is an engine for its share of the batch.

Each job has a queue of its own on its node's disk, so that no database lies on a network file system; what they share
is the batch folder. A job that is preempted, or comes near its time limit, closes its video at a checkpoint and is put
back into Slurm's queue; it goes on from there, on whichever node it gets. Needs submitit: pip install 'wantui[slurm]'.
"""

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wantui.engine.enqueue import Share, missing_videos
from wantui.engine.record import can_lock
from wantui.errors import UserError
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import read_manifest

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

TIMES = 1000
"""So often a job may reach its time limit and be put back."""
POLL_SECONDS = 0.2
END_SECONDS = 5.0
"""How long Slurm may take to end a job that it was asked to put back."""
log = logging.getLogger("submitit")


class NoSlurm(UserError):
    """Slurm, or what is needed to speak to it, is not here or refuses."""

    exit_code = 3


@dataclass(frozen=True)
class Resources:
    """What each job of the array asks for."""

    minutes: int
    gpus: int
    cpus: int
    memory_gb: int
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    at_once: int | None = None
    """So many jobs run at a time, at most."""
    setup: tuple[str, ...] = ()
    """Shell commands before wantui."""
    others: tuple[tuple[str, str], ...] = ()
    """Any other options of sbatch."""


class DrainShare:
    """What one job of the array does, and does again after it was put back.

    Slurm sends SIGTERM to every process of a job that it preempts: the engine stops at the next step by itself. Near
    the time limit submitit gets its own signal, and calls `checkpoint`.
    """

    def __init__(self, folder: Path, share: Share) -> None:
        self.folder, self.share = folder, share
        self.engine: subprocess.Popen[bytes] | None = None
        self.preempted = False

    def __call__(self) -> None:
        """Make what is missing of the share.

        Raises:
            RuntimeError: not all of it could be made.
        """
        signal.signal(signal.SIGTERM, self._preempt)
        with tempfile.TemporaryDirectory(prefix="wantui-") as state:
            self.engine = self._start(Path(state))
            while self.engine.poll() is None:
                time.sleep(POLL_SECONDS)
        left = [video for _, video in missing_videos(BatchFolder(self.folder), self._manifest(), self.share)]
        if self.preempted and any(video.state != "failed" for video in left):
            self._put_back()
        if left:
            raise RuntimeError(
                f"{len(left)} videos of share {self.share} were not made; their logs are in {self._logs}"
            )

    def checkpoint(self) -> "DelayedSubmission":
        """Close the video at a checkpoint; what submitit is to call when the job runs again."""
        from submitit.helpers import DelayedSubmission

        engine = self.engine
        if engine is not None and engine.poll() is None:
            if not self.preempted:  # else it has been told already, and would take a second time for an order
                engine.send_signal(signal.SIGTERM)
            while engine.poll() is None:
                time.sleep(POLL_SECONDS)
        return DelayedSubmission(DrainShare(self.folder, self.share))

    def _start(self, state: Path) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "wantui", "engine", "run", "--drain", "--logs", str(self._logs)]
        command += ["--batch", str(self.folder), "--share", str(self.share)]
        ours = _own_signal()
        before = signal.signal(ours, signal.SIG_IGN)  # which a child inherits: it is meant for submitit alone
        try:
            return subprocess.Popen(command, env=os.environ | {"XDG_STATE_HOME": str(state)})
        finally:
            signal.signal(ours, before)

    def _preempt(self, *_: object) -> None:
        log.warning("this job is preempted; share %s goes on from its checkpoint later", self.share)
        self.preempted = True

    def _put_back(self) -> None:
        """Slurm calls a job that ends within its time of grace done; submitit puts it back."""
        os.kill(os.getpid(), _own_signal())
        time.sleep(END_SECONDS)

    def _manifest(self) -> Any:
        return read_manifest(BatchFolder(self.folder))

    @property
    def _logs(self) -> Path:
        return self.folder / "slurm" / f"share_{self.share.number}"


def check_slurm() -> None:
    """Before anything is written.

    Raises:
        NoSlurm: Slurm, or submitit, is not here.
    """
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise NoSlurm("sbatch and srun are not here; call wantui slurm on a login node of the cluster")
    if find_spec("submitit") is None:
        raise NoSlurm("submitit is not installed: pip install 'wantui[slurm]'")


def submit(folder: Path, jobs: int, resources: Resources) -> list[str]:
    """Submit an array over what is missing of a batch; returns the ids of its jobs.

    Raises:
        NoSlurm: Slurm is not here, refuses, or an earlier array over this batch has not ended.
        UserError: nothing is missing, or the folder's file system has no locks.
    """
    folder = folder.resolve()
    check_slurm()
    if not missing_videos(BatchFolder(folder), read_manifest(BatchFolder(folder))):
        raise UserError(f"nothing is missing of {folder}")
    if alive := _alive(folder / "slurm"):
        raise NoSlurm(
            f"an array over {folder} has not ended: {', '.join(alive)}; its videos would be made twice. "
            f"Wait for it, or first: scancel {' '.join(alive)}"
        )
    if not can_lock(folder):
        raise UserError(
            f"{folder} is on a file system without locks, where jobs would overwrite each other's entries in "
            "batch.json; choose another --output-dir, or have it mounted with locks (Lustre: -o flock)"
        )
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor = SlurmExecutor(folder / "slurm", max_num_timeout=TIMES)
    executor.update_parameters(**_parameters(folder, resources))
    shares = [DrainShare(folder, Share(number, jobs)) for number in range(1, jobs + 1)]
    try:
        with executor.batch():
            submitted = [executor.submit(share) for share in shares]
    except (FailedJobError, FailedSubmissionError) as error:
        said = [line for line in str(error).splitlines() if "sbatch" in line] or str(error).splitlines()[-1:]
        raise NoSlurm(f"Slurm refuses the array: {said[-1].strip()}") from None
    return [str(job.job_id) for job in submitted]


def _parameters(folder: Path, resources: Resources) -> dict[str, Any]:
    asked = {
        "job_name": f"wantui-{folder.name}",
        "time": resources.minutes,
        "cpus_per_task": resources.cpus,
        "mem": f"{resources.memory_gb}G",
        "gpus_per_node": resources.gpus or None,
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "array_parallelism": resources.at_once,
        "setup": list(resources.setup) or None,
        "additional_parameters": {"requeue": True, **dict(resources.others)},
    }
    return {name: value for name, value in asked.items() if value is not None}


def _alive(folder: Path) -> list[str]:
    """Arrays that were submitted from a folder and have not ended."""
    ours = {path.name.split("_")[0] for path in folder.glob("*_submission.sh")}
    if not ours:
        return []
    found = subprocess.run(["squeue", "--me", "--noheader", "--format=%F"], capture_output=True, text=True)
    if found.returncode:
        raise NoSlurm(f"squeue does not say whether an earlier array has ended: {found.stderr.strip()}")
    return sorted(ours & set(found.stdout.split()))


def _own_signal() -> signal.Signals:
    from submitit.slurm.slurm import SlurmJobEnvironment

    return signal.Signals(getattr(signal, f"SIG{SlurmJobEnvironment.USR_SIG}"))


def minutes_in(text: str) -> int:
    """Of a time limit as sbatch takes it: minutes, H:M:S, or D-H:M:S (seconds are rounded up).

    Raises:
        ValueError: it is none.
    """
    match = re.fullmatch(r"(?:(?P<d>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?", text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no time limit; write minutes, H:MM:SS or D-HH:MM:SS")
    parts = [int(match[name] or 0) for name in ("first", "second", "third")]
    if match["d"] is not None:
        hours, minutes, seconds = parts
        hours += 24 * int(match["d"])
    elif match["third"] is not None:
        hours, minutes, seconds = parts
    else:
        hours, (minutes, seconds) = 0, parts[:2]
    total = 60 * hours + minutes + -(-seconds // 60)
    if total < 1:
        raise ValueError("a time limit of less than a minute")
    return total


def jobs_for(videos: int, asked: int | None) -> int:
    """How many jobs an array has: no more than there are videos, four where nothing is asked for."""
    return max(1, min(videos, asked or 4))
