"""Submit the missing videos of a batch as a job array to Slurm. Needs submitit: pip install 'wantui[slurm]'."""

import errno
import os
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wantui.batches.enqueue import Shard, find_missing_videos
from wantui.batches.slurm import NoSlurmError, ShardJob, run_squeue
from wantui.environment import build_python_command
from wantui.errors import UserError
from wantui.formatting import UNPRINTABLE_PATTERN
from wantui.process_exits import describe_exit
from wantui.storage.layout import BatchFolder
from wantui.storage.locks import can_lock_files
from wantui.storage.manifest import read_manifest
from wantui.storage.write_checks import explain_batch_write_error, reject_unwritable_batch

MAX_REQUEUE_COUNT = 1000
"""Maximum number of times that a job is requeued at its time limit."""
_FOLDER_ADVICE = "Choose another --output-dir, or work in another folder."
RESERVED_SBATCH_KEYS = {
    "array": "Choose the number of jobs with --jobs and --at-once",  # videos of jobs left out would never be generated
    "error": "The logs are in the folder slurm of the batch folder",
    "output": "The logs are in the folder slurm of the batch folder",
    "wrap": "Run shell commands before the jobs with --setup",
}
"""Advice for each sbatch option that wantui's job arrays need for themselves."""
_SBATCH_KEY_PATTERN = re.compile(r"[A-Za-z][\w-]*", re.ASCII)


@dataclass(frozen=True)
class JobResources:
    """Resources per job of the array."""

    limit_minutes: int
    gpu_count: int
    cpu_count: int
    memory_gb: int
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    max_concurrent_jobs: int | None = None
    """Maximum number of concurrent jobs."""
    setup_commands: tuple[str, ...] = ()
    """Shell commands before wantui."""
    sbatch_options: tuple[tuple[str, str | bool], ...] = ()
    """Any other options of sbatch."""


def check_slurm_installation() -> None:
    """Check that Slurm and submitit are installed. Call this before writing files and before `submit_job_array`.

    Raises:
        NoSlurmError: Slurm or submitit is missing.
    """
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise NoSlurmError(
            "cannot submit jobs: sbatch and srun are not installed. Run `wantui slurm` on a login node of the cluster"
        )
    if find_spec("submitit") is None:
        raise NoSlurmError("cannot submit jobs: submitit is not installed. Run: pip install 'wantui[slurm]'")


def check_submission_values(folder: Path, resources: JobResources) -> None:
    """Reject a folder or option that would break the batch script, or that Slurm would change in log names.

    Raises:
        UserError: names the path or the option.
    """
    folder = folder.resolve()
    if UNPRINTABLE_PATTERN.search(str(folder)):
        raise UserError(
            f"cannot submit {folder}: its path contains a line break or another control character. {_FOLDER_ADVICE}"
        )
    if "%" in str(folder) or "\\" in str(folder):
        raise UserError(f"cannot submit {folder}: Slurm replaces % and \\ in the names of its logs. {_FOLDER_ADVICE}")
    value_by_option = {f"--{name}": getattr(resources, name) for name in ("partition", "account", "qos", "constraint")}
    for key, value in (
        *value_by_option.items(),
        *((f"--sbatch {key}", value) for key, value in resources.sbatch_options),
    ):
        if UNPRINTABLE_PATTERN.search(key) or UNPRINTABLE_PATTERN.search(str(value)):
            raise UserError(f"cannot submit the batch: {key} contains a line break or another control character")
    keys = [key for key, _ in resources.sbatch_options]
    for key in keys:
        if not _SBATCH_KEY_PATTERN.fullmatch(key):
            raise UserError(f"cannot submit the batch: --sbatch {key!r} is not the name of an option")
        if keys.count(key) > 1:
            raise UserError(f"cannot submit the batch: --sbatch {key} is given {keys.count(key)} times. Give it once")
        if (advice := RESERVED_SBATCH_KEYS.get(key)) is not None:
            raise UserError(
                f"cannot submit the batch: --sbatch {key} would override a value that wantui sets. {advice}"
            )


def submit_job_array(folder: Path, max_jobs: int, resources: JobResources) -> list[str]:
    """Submit a job array for the missing videos of a batch; return the ids of the jobs.

    Args:
        max_jobs: maximum number of jobs; fewer if fewer videos are missing.

    Raises:
        NoSlurmError: Slurm refuses, or an earlier array over this batch has not ended.
        UserError: no video is missing, or the folder cannot be written, or its file system has no locks.
    """
    check_submission_values(folder, resources)
    folder = folder.resolve()
    manifest = read_manifest(BatchFolder(folder))
    missing_indices = [index for index, _ in find_missing_videos(BatchFolder(folder), manifest)]
    if not missing_indices:
        raise UserError(f"cannot submit {folder}: no video is missing")
    if active_arrays := _find_active_arrays(folder):
        raise NoSlurmError(
            f"cannot submit {folder}: an earlier array has not ended ({', '.join(active_arrays)}), "
            f"and would generate the same videos. Wait until it ends, or cancel it: scancel {' '.join(active_arrays)}"
        )
    reject_unwritable_batch(BatchFolder(folder))
    if not can_lock_files(folder):
        raise UserError(
            f"cannot submit {folder}: its file system has no locks, so jobs would overwrite each other's entries in "
            "batch.json. Choose another --output-dir, or ask for a mount with locks (Lustre: -o flock)"
        )
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    python = shlex.join(build_python_command())
    executor = SlurmExecutor(folder / "slurm", max_num_timeout=MAX_REQUEUE_COUNT, python=python)
    executor.update_parameters(**_build_submitit_parameters(folder, resources))
    drain_shares = [
        ShardJob(folder, share) for share in split_into_shards(missing_indices, len(manifest.videos), max_jobs)
    ]
    try:
        with executor.batch():
            submitted_jobs = [executor.submit(share) for share in drain_shares]
    except (FailedJobError, FailedSubmissionError) as error:
        exit_code = getattr(error.__cause__, "returncode", None)
        exit_text = "exit code unknown" if exit_code is None else describe_exit(exit_code)
        lines = [line for line in str(error).splitlines() if line.strip()]
        lines = lines or [f"sbatch printed no reason ({exit_text})"]
        reason = ([line for line in lines if "sbatch" in line] or lines)[-1].strip()
        raise NoSlurmError(f"Slurm rejected the array: {reason}") from None
    except OSError as error:
        # Only an error of the program itself names `sbatch`; a fork that fails names nothing.
        if error.filename == "sbatch" or error.errno in (errno.EAGAIN, errno.ENOMEM):
            raise NoSlurmError(f"cannot submit {folder}: sbatch: {error.strerror}") from None
        raise UserError(explain_batch_write_error(error, folder)) from None
    return [str(job.job_id) for job in submitted_jobs]


def _build_submitit_parameters(folder: Path, resources: JobResources) -> dict[str, Any]:
    parameters = {
        "job_name": f"wantui-{folder.name}",
        "time": resources.limit_minutes,
        "cpus_per_task": resources.cpu_count,
        "mem": f"{resources.memory_gb}G",
        "gpus_per_node": resources.gpu_count or None,
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "array_parallelism": resources.max_concurrent_jobs,
        "setup": list(resources.setup_commands) or None,
        "additional_parameters": {"requeue": True, **dict(resources.sbatch_options)},
    }
    return {name: value for name, value in parameters.items() if value is not None}


def _list_submissions(folder: Path) -> list[tuple[str, Path]]:
    """Return the id and the script of each array that was submitted for a batch."""
    return [(path.name.split("_")[0], path) for path in (folder / "slurm").glob("*_submission.sh")]


def _find_active_arrays(folder: Path) -> list[str]:
    """Return the ids of the arrays that this user submitted for a batch and that have not ended."""
    submitted_ids = {array_id for array_id, _ in _list_submissions(folder)}
    if not submitted_ids:
        return []
    try:
        active_ids = run_squeue("--me", "--format=%F").split()
    except NoSlurmError as error:
        raise NoSlurmError(f"cannot find out whether an earlier array has ended: {error}") from error
    return sorted(submitted_ids & set(active_ids))


def find_foreign_arrays(folder: Path) -> list[str]:
    """Return the ids of the arrays that other users submitted for a batch; they may not have ended."""
    foreign_ids = set()
    for array_id, script_path in _list_submissions(folder):
        with suppress(FileNotFoundError):
            if script_path.stat().st_uid != os.getuid():
                foreign_ids.add(array_id)
    return sorted(foreign_ids)


def parse_time_limit_minutes(text: str) -> int:
    """Return the minutes of an sbatch time limit (minutes, H:M:S or D-H:M:S), with seconds rounded up.

    Raises:
        ValueError: the text is not a time limit, or the limit is below a minute.
    """
    limit_match = re.fullmatch(
        r"(?:(?P<d>\d{1,5})-)?(?P<first>\d{1,8})(?::(?P<second>\d{1,8}))?(?::(?P<third>\d{1,8}))?",
        text.strip(),
        re.ASCII,
    )
    if limit_match is None:
        raise ValueError(f"{text!r} is not a time limit; write minutes, H:MM:SS or D-HH:MM:SS")
    limit_numbers = [int(limit_match[name] or 0) for name in ("first", "second", "third")]
    if limit_match["d"] is not None:
        hours, minutes, seconds = limit_numbers
        hours += 24 * int(limit_match["d"])
    elif limit_match["third"] is not None:
        hours, minutes, seconds = limit_numbers
    else:
        hours, (minutes, seconds) = 0, limit_numbers[:2]
    total_minutes = 60 * hours + minutes + -(-seconds // 60)
    if total_minutes < 1:
        raise ValueError("a time limit must be at least a minute")
    return total_minutes


def split_into_shards(missing_indices: Sequence[int], video_count: int, max_jobs: int) -> list[Shard]:
    """Divide all missing videos into at most `max_jobs` shards, so that the largest shard is as small as possible.

    Args:
        missing_indices: indices of the missing videos, from 0.
        video_count: number of videos in the whole batch.
    """
    best_shards: list[Shard] = []
    min_shard_size = len(missing_indices) + 1
    for shard_count in range(min(max_jobs, video_count), video_count + 1):
        size_by_remainder = Counter(index % shard_count for index in missing_indices)
        if len(size_by_remainder) <= max_jobs and max(size_by_remainder.values()) < min_shard_size:
            min_shard_size = max(size_by_remainder.values())
            best_shards = [Shard(number + 1, shard_count) for number in sorted(size_by_remainder)]
        if min_shard_size == -(-len(missing_indices) // max_jobs):
            break
    return best_shards
