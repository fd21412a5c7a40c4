"""Jobs of a batch on a Slurm cluster: each runs an engine for its share of the batch (`slurm_submission` submits them).

Each job has its own queue on its node's local disk, because SQLite needs one; the jobs share only the batch folder. A
job that is preempted, or near its time limit, stops its video with a checkpoint and is requeued by Slurm; it resumes
from there on any node. Needs submitit: pip install 'wantui[slurm]'.
"""

import logging
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from wantui.batches.enqueue import Shard, find_missing_videos
from wantui.environment import build_python_command
from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.process_exits import describe_exit
from wantui.queue.state_dir import NETWORK_FILE_SYSTEM_TYPES, find_file_system_type
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import read_manifest

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

POLL_SECONDS = 0.2
SQUEUE_SECONDS = 60.0
"""Seconds to wait for squeue; it retries for a while if Slurm's controller does not respond."""
REQUEUE_WAIT_SECONDS = 5.0
"""Seconds to wait until Slurm ends a job that it was asked to requeue."""
logger = logging.getLogger("submitit")


class NoSlurmError(UserError):
    """Raised if Slurm, or the package that submits jobs to it, is missing or reports an error."""

    exit_code = 3


class ShardJob:
    """Work of one array job; Slurm repeats it after requeueing the job.

    Slurm sends SIGTERM to all processes of a preempted job, and the engine stops at the next step by itself. Near the
    time limit, submitit receives its own signal and calls `checkpoint`.

    submitit pickles this class: renaming it, or its attributes, breaks jobs that wait in Slurm's queue.
    """

    def __init__(self, folder: Path, share: Shard) -> None:
        self.folder, self.share = folder, share
        self.engine: subprocess.Popen[bytes] | None = None
        self.preempted = False

    def __call__(self) -> None:
        """Render the missing videos of the shard.

        Raises:
            RuntimeError: some videos are still missing.
        """
        signal.signal(signal.SIGTERM, self._handle_preemption)
        with tempfile.TemporaryDirectory(prefix="wantui-", dir=_find_local_temporary_folder()) as state:
            self.engine = self._start_engine(Path(state))
            _wait_for_engine(self.engine)
        folder = BatchFolder(self.folder)
        remaining_videos = [video for _, video in find_missing_videos(folder, read_manifest(folder), self.share)]
        if self.preempted and any(video.state != "failed" for video in remaining_videos) and _is_job_running():
            self._requeue_job()
        if remaining_videos:
            raise RuntimeError(
                f"cannot generate {format_count(len(remaining_videos), 'video')} of share {self.share}: "
                f"see the logs in {self._log_folder}"
            )

    def checkpoint(self) -> "DelayedSubmission":
        """Stop the video with a checkpoint; return the call that submitit makes when the job runs again."""
        from submitit.helpers import DelayedSubmission

        engine = self.engine
        if engine is not None:
            if not self.preempted and not _has_engine_ended(engine):  # a second SIGTERM would end the engine at once
                os.kill(engine.pid, signal.SIGTERM)
            _wait_for_engine(engine)
        return DelayedSubmission(ShardJob(self.folder, self.share))

    def _start_engine(self, state_directory: Path) -> subprocess.Popen[bytes]:
        engine_command = build_python_command("-m", "wantui", "engine", "run", "--drain")
        engine_command += ["--logs", str(self._log_folder), "--batch", str(self.folder), "--share", str(self.share)]
        submitit_signal = _find_submitit_signal()
        # inherited by the engine: the signal is only for submitit
        previous_handler = signal.signal(submitit_signal, signal.SIG_IGN)
        try:
            return subprocess.Popen(engine_command, env=os.environ | {"XDG_STATE_HOME": str(state_directory)})
        finally:
            signal.signal(submitit_signal, previous_handler)

    def _handle_preemption(self, *_: object) -> None:
        logger.warning("stop requested: saving a checkpoint of the current video of share %s", self.share)
        self.preempted = True

    def _requeue_job(self) -> None:
        """Requeue the job through submitit: Slurm reports a job that ends within its grace time as completed."""
        os.kill(os.getpid(), _find_submitit_signal())
        time.sleep(REQUEUE_WAIT_SECONDS)

    @property
    def _log_folder(self) -> Path:
        return self.folder / "slurm" / f"share_{self.share.number}"


def _has_engine_ended(engine: subprocess.Popen[bytes]) -> bool:
    """Return whether the engine ended. `Popen.poll` may miss the end in a signal handler that interrupts `poll`."""
    try:
        return os.waitid(os.P_PID, engine.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _wait_for_engine(engine: subprocess.Popen[bytes]) -> None:
    while not _has_engine_ended(engine):
        time.sleep(POLL_SECONDS)


def _is_job_running() -> bool:
    """Return whether Slurm reports this job as running; False if it was cancelled or requeued."""
    job_id = os.environ.get("SLURM_JOB_ID", "")
    try:
        return run_squeue("--format=%T", "--states=all", f"--jobs={job_id}") == "RUNNING"
    except NoSlurmError as error:
        logger.warning("%s", error)
        return False


def run_squeue(*options: str) -> str:
    """Return the output of squeue, without headers.

    Raises:
        NoSlurmError: squeue failed, or did not answer.
    """
    command = ["squeue", "--noheader", *options]
    try:
        result = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SQUEUE_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise NoSlurmError(f"squeue did not answer within {SQUEUE_SECONDS:g} s") from error
    except OSError as error:
        raise NoSlurmError(f"squeue cannot be started: {error.strerror}") from error
    if result.returncode:
        raise NoSlurmError(f"squeue failed: {result.stderr.strip() or describe_exit(result.returncode)}")
    return result.stdout.strip()


def _find_local_temporary_folder() -> Path:
    """Return a temporary folder on a local disk for the queue of this job.

    Raises:
        RuntimeError: no temporary folder is on a local disk.
    """
    candidate_folders = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]
    for folder in candidate_folders:
        if os.access(folder, os.W_OK) and find_file_system_type(folder) not in NETWORK_FILE_SYSTEM_TYPES:
            return folder
    raise RuntimeError(
        f"cannot find a local disk: none of {', '.join(map(str, candidate_folders))} is on one. Set TMPDIR to a "
        "folder on a local disk"
    )


def _find_submitit_signal() -> signal.Signals:
    from submitit.slurm.slurm import SlurmJobEnvironment

    return signal.Signals(getattr(signal, f"SIG{SlurmJobEnvironment.USR_SIG}"))
