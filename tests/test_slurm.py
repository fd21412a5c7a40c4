"""A batch on a cluster: shards that together make up the batch, and a job array with the requested resources."""

import errno
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import Wantui
from forked_process import ForkedPopen
from harness_engine import Machine

from wantui.batches import slurm
from wantui.batches.batch_folders import create_batch_folder
from wantui.batches.enqueue import Shard, find_missing_videos
from wantui.batches.slurm import NoSlurmError, ShardJob, _find_local_temporary_folder
from wantui.batches.slurm_submission import (
    JobResources,
    parse_time_limit_minutes,
    split_into_shards,
    submit_job_array,
)
from wantui.config import load_config
from wantui.errors import UserError
from wantui.planning import plan_batch
from wantui.storage.layout import BatchFolder
from wantui.storage.locks import can_lock_files
from wantui.storage.manifest import read_manifest

pytestmark = pytest.mark.processes
DelayedSubmission = pytest.importorskip("submitit.core.utils", reason="needs submitit (extra slurm)").DelayedSubmission

RESOURCES = JobResources(limit_minutes=90, gpu_count=1, cpu_count=4, memory_gb=32)


@pytest.fixture
def folder(tmp_path: Path) -> BatchFolder:
    """A batch of six videos of two steps, of which nothing was made."""
    settings = [f"output_dir={tmp_path / 'out'}", "videos_per_variation=3", "model_settings.steps=8"]
    folder, _ = create_batch_folder(plan_batch(load_config("nano", settings), "a [red|blue] circle"))
    return folder


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs that answer as Slurm's; `squeue.txt` in it is what the queue holds."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, does in {
        "sbatch": f'cp "$1" {programs}/submitted.sh; echo Submitted batch job 7',
        "srun": "true",
        "squeue": f"cat {programs}/squeue.txt 2>/dev/null; true",
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{does}\n")
        (programs / name).chmod(0o700)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return programs


def test_shards_partition_the_batch(folder: BatchFolder) -> None:
    manifest = read_manifest(folder)
    shares = [[index for index, _ in find_missing_videos(folder, manifest, Shard(k, 4))] for k in range(1, 5)]
    assert shares == [[0, 4], [1, 5], [2], [3]]


@pytest.mark.parametrize("text", ["", "2", "0/2", "3/2", "a/b", "1/-2", "1/2/3"])
def test_shard_that_is_not_k_of_n_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="cannot read the share"):
        Shard.parse(text)


def test_engine_with_a_share_generates_only_its_videos(folder: BatchFolder, tmp_path: Path) -> None:
    code, _, err = Machine(tmp_path).call("engine", "run", "--drain", "--batch", folder.root, "--share", "2/6")
    assert code == 0, err
    assert f"queued 1 missing video of {folder.root}, share 2/6" in err
    states = [video.state for video in read_manifest(folder).videos]
    assert states == ["queued", "done", "queued", "queued", "queued", "queued"]


def test_slurm_array_requests_the_given_resources(cluster: Path, folder: BatchFolder) -> None:
    resources = JobResources(
        90,
        2,
        8,
        64,
        "gpu",
        "me",
        max_concurrent_jobs=2,
        setup_commands=("module load cuda",),
        sbatch_options=(("exclude", "n1"), ("exclusive", True)),
    )
    assert submit_job_array(folder.root, 3, resources) == ["7_0", "7_1", "7_2"]
    script = (cluster / "submitted.sh").read_text()
    for line in (
        "#SBATCH --array=0-2%2",
        "#SBATCH --time=90",
        "#SBATCH --gpus-per-node=2",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --mem=64G",
        "#SBATCH --partition=gpu",
        "#SBATCH --account=me",
        "#SBATCH --exclude=n1",
        "#SBATCH --exclusive",
        "#SBATCH --requeue",
        "module load cuda",
    ):
        assert line in script.splitlines()
    assert f"{sys.executable} -P -u -m submitit" in script  # a file queue.py in the working folder is not imported
    jobs = [DelayedSubmission.load(folder.root / "slurm" / f"7_{k}_submitted.pkl").function for k in range(3)]
    assert [str(job.share) for job in jobs] == ["1/3", "2/3", "3/3"]


def test_running_slurm_array_is_not_submitted_twice(cluster: Path, folder: BatchFolder) -> None:
    submit_job_array(folder.root, 2, RESOURCES)
    (cluster / "squeue.txt").write_text("6\n7\n")
    with pytest.raises(NoSlurmError, match="scancel 7"):
        submit_job_array(folder.root, 2, RESOURCES)
    (cluster / "squeue.txt").write_text("6\n")
    submit_job_array(folder.root, 2, RESOURCES)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("#!/bin/sh\nexec sleep 60\n", "squeue did not answer within 0.2 s"),
        ("#!/bin/sh\nprintf 'no controller \\377' >&2; exit 1\n", "squeue failed: no controller \ufffd"),
        ("#!/bin/sh\nexit 3\n", "squeue failed: exit code 3"),
        ("#!/no/such/shell\n", "squeue cannot be started: No such file or directory"),
    ],
)
def test_array_is_not_submitted_again_without_an_answer_of_squeue(
    cluster: Path, folder: BatchFolder, monkeypatch: pytest.MonkeyPatch, program: str, reason: str
) -> None:
    monkeypatch.setattr(slurm, "SQUEUE_SECONDS", 0.2 if "sleep" in program else 60)
    submit_job_array(folder.root, 2, RESOURCES)
    (cluster / "squeue").write_text(program)
    with pytest.raises(NoSlurmError, match=f"cannot find out whether an earlier array has ended: {reason}"):
        submit_job_array(folder.root, 2, RESOURCES)


@pytest.mark.parametrize(
    ("sbatch", "reason"),
    [
        (
            "#!/bin/sh\necho 'sbatch: error: invalid partition specified: no' >&2; exit 1\n",
            "invalid partition specified: no",
        ),
        (
            "#!/bin/sh\nkill -9 $$\n",
            "Slurm rejected the array: sbatch printed no reason (signal SIGKILL: ",
        ),
        ("#!/bin/sh\nprintf ' \\n\\n' >&2; exit 4\n", "sbatch printed no reason (exit code 4)"),
        ("no program", "sbatch: Exec format error"),
    ],
)
def test_slurm_refusal_is_reported_and_the_batch_kept(
    sbatch: str, reason: str, cluster: Path, wantui: Wantui, tmp_path: Path
) -> None:
    (cluster / "sbatch").write_text(sbatch)
    outcome = wantui("slurm", "-t", "a circle", "--batch-name", "b", "--output-dir", str(tmp_path / "o"))
    assert (outcome.code, outcome.out) == (3, "")
    assert reason in outcome.err
    (result,) = (tmp_path / "o").glob("b_*")
    assert "Submit it later with --resume" in outcome.err
    assert read_manifest(BatchFolder(result)).count_states() == {"queued": 2}


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "cannot write the batch folder {0}: {0}: No space left on"),
        (PermissionError(errno.EACCES, "Permission denied", "x.pkl"), "cannot write the batch folder {0}: x.pkl: Perm"),
    ],
)
def test_slurm_names_the_batch_folder_that_cannot_be_written(
    error: OSError, message: str, cluster: Path, folder: BatchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr("submitit.core.utils.DelayedSubmission.dump", refuse)
    with pytest.raises(UserError) as caught:
        submit_job_array(folder.root, 2, RESOURCES)
    assert str(caught.value).startswith(message.format(folder.root))


def test_slurm_resumes_the_missing_videos_of_a_batch_and_refuses_other_settings(
    cluster: Path, folder: BatchFolder, wantui: Wantui
) -> None:
    other = wantui("slurm", "--resume", folder.root, "--jobs", 4, "--set", "model_settings.cfg_scale=9")
    assert other.code == 2
    assert "its model_settings.cfg_scale is" in other.err
    assert not (cluster / "submitted.sh").exists()
    resumed = wantui("slurm", "--resume", folder.root, "--jobs", 4)
    assert (resumed.code, resumed.out.strip()) == (0, str(folder.root)), resumed.err
    assert "#SBATCH --array=0-3%4" in (cluster / "submitted.sh").read_text()


def test_resume_names_arrays_that_other_users_submitted(
    cluster: Path, folder: BatchFolder, wantui: Wantui, monkeypatch: pytest.MonkeyPatch
) -> None:
    submissions = folder.root / "slurm"
    submissions.mkdir()
    (submissions / "77_submission.sh").write_text("")
    own_result = wantui("slurm", "--resume", folder.root, "--jobs", 4)
    assert own_result.code == 0, own_result.err
    assert "other users" not in own_result.err
    monkeypatch.setattr("os.getuid", lambda: submissions.stat().st_uid + 1)
    result = wantui("slurm", "--resume", folder.root, "--jobs", 4)
    assert re.search(r"warning: other users submitted arrays for this batch \(\d+, 77\)", result.err)
    assert re.search(r"Check theirs: squeue -j \d+,77", result.err)


def test_killed_slurm_command_has_printed_its_batch_folder(
    cluster: Path, wantui: Wantui, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    errors_before_sbatch: list[str] = []

    def submit(*_: object) -> list[str]:
        errors_before_sbatch.append(capsys.readouterr().err)
        raise KeyboardInterrupt

    monkeypatch.setattr("wantui.batches.slurm_submission.submit_job_array", submit)
    outcome = wantui("slurm", "-t", "a circle", "--batch-name", "b", "--output-dir", str(tmp_path / "o"))
    (folder,) = (tmp_path / "o").glob("b_*")
    assert outcome.code == 130
    assert f"created {folder}" in errors_before_sbatch[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--time", "soon"], "not a time limit"), (["--sbatch", "=x"], "KEY=VALUE"), (["--jobs", "0"], "--jobs")],
)
def test_invalid_slurm_options_are_reported(cluster: Path, wantui: Wantui, arguments: list[str], message: str) -> None:
    result = wantui("slurm", "-t", "a circle", *arguments)
    assert result.code == 2
    assert message in result.err


def test_slurm_job_with_fewer_gpus_than_a_video_is_refused(cluster: Path, wantui: Wantui, tmp_path: Path) -> None:
    asked = ["--set", "model_settings.gpus_per_video=2", "--output-dir", str(tmp_path / "o")]
    result = wantui("slurm", "-t", "a circle", *asked)
    assert result.code == 2
    assert "gpus_per_video: 2 needs 2 GPUs per job, but each job has 1. Add --gpus 2" in result.err
    assert not (tmp_path / "o").exists()


def test_slurm_command_without_slurm_writes_nothing(
    wantui: Wantui, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    result = wantui("slurm", "-t", "a circle", "--output-dir", str(tmp_path / "o"))
    assert result.code == 3
    assert "login node" in result.err
    assert not (tmp_path / "o").exists()


def test_job_generates_its_share_and_reports_failures(folder: BatchFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", ForkedPopen)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ShardJob(folder.root, Shard(1, 6))()
        assert read_manifest(folder).videos[0].state == "done"
        damaged = ShardJob(folder.root, Shard(2, 6))
        monkeypatch.setattr(damaged, "_start_engine", lambda _: subprocess.Popen(["false"]))
        with pytest.raises(RuntimeError, match="cannot generate 1 video of share 2/6"):
            damaged()
    finally:
        signal.signal(signal.SIGTERM, handler)


@pytest.mark.parametrize("state", ["RUNNING", "CANCELLED", "PENDING", ""])
def test_preempted_job_is_requeued_only_if_slurm_still_runs_it(
    cluster: Path, folder: BatchFolder, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    (cluster / "squeue.txt").write_text(state)
    handlers = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGUSR2)}
    put_back: list[int] = []
    job = ShardJob(folder.root, Shard(1, 6))

    def preempt(_: Path) -> "subprocess.Popen[bytes]":
        os.kill(os.getpid(), signal.SIGTERM)
        return subprocess.Popen(["true"])

    monkeypatch.setattr(job, "_start_engine", preempt)
    monkeypatch.setattr("wantui.batches.slurm.REQUEUE_WAIT_SECONDS", 0)
    signal.signal(signal.SIGUSR2, lambda number, _: put_back.append(number))
    try:
        with pytest.raises(RuntimeError, match="cannot generate 1 video"):
            job()
    finally:
        for one, handler in handlers.items():
            signal.signal(one, handler)
    assert bool(put_back) == (state == "RUNNING")


def test_slurm_job_uses_a_local_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {"/tmp": "lustre", "/var/tmp": "ext4"}
    monkeypatch.setattr("wantui.batches.slurm.find_file_system_type", lambda path: kinds.get(str(path), "nfs4"))
    assert str(_find_local_temporary_folder()) == "/var/tmp"
    kinds["/var/tmp"] = "nfs"
    with pytest.raises(RuntimeError, match="Set TMPDIR"):
        _find_local_temporary_folder()


def test_slurm_job_near_its_limit_stops_at_a_checkpoint(
    folder: BatchFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", ForkedPopen)
    job = ShardJob(folder.root, Shard(1, 6))
    job.engine = job._start_engine(tmp_path)
    checkpoint = folder.make_checkpoint_path(0, 1)
    while not checkpoint.exists():
        assert job.engine.poll() is None
        time.sleep(0.02)
    again = job.checkpoint()
    assert job.engine.poll() is not None
    assert checkpoint.exists()
    assert read_manifest(folder).videos[0].state == "queued"
    assert isinstance(again.function, ShardJob)
    assert str(again.function.share) == "1/6"
    assert again.function.engine is None


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("2:30:00", 150), ("1-12:00:00", 2160), ("5:30", 6), ("0:00:01", 1), ("2-0", 2880)],
)
def test_time_limits_are_parsed_as_in_sbatch(text: str, minutes: int) -> None:
    assert parse_time_limit_minutes(text) == minutes


@pytest.mark.parametrize("text", ["", "soon", "-3", "1:2:3:4", "0", "٣", "9" * 30])
def test_invalid_time_limit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="time limit"):
        parse_time_limit_minutes(text)


@pytest.mark.parametrize(
    ("missing", "videos", "jobs", "largest"),
    [
        (range(9), 9, 4, 3),
        (range(3), 3, 6, 1),
        ([2, 10, 18, 26], 32, 4, 1),
        ([2, 10, 18, 26], 32, 2, 2),
        ([5], 8, 4, 1),
    ],
)
def test_missing_videos_are_split_over_at_most_the_given_jobs(
    missing: Sequence[int], videos: int, jobs: int, largest: int
) -> None:
    shares = split_into_shards(missing, videos, jobs)
    dealt = [[index for index in missing if share.contains_index(index)] for share in shares]
    assert sorted(index for one in dealt for index in one) == list(missing)
    assert len(shares) <= jobs
    assert {share.count for share in shares} == {shares[0].count}
    assert [0 < len(one) <= largest for one in dealt] == [True] * len(shares)


def test_missing_file_lock_support_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert can_lock_files(tmp_path)

    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("wantui.storage.locks.fcntl.flock", refuse)
    assert not can_lock_files(tmp_path)


HOSTILE = ["evil\ntouch pwned\n#", "a\rb", "a\x1b[2Jb", "50%j", "x%%y", "back\\slash", "next\x85line"]


@pytest.mark.parametrize("name", HOSTILE)
def test_path_that_would_change_the_sbatch_script_is_refused(
    cluster: Path, wantui: Wantui, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    here = tmp_path / name
    here.mkdir()
    monkeypatch.chdir(here)
    for arguments in (["-t", "a circle"], ["-t", "a circle", "--output-dir", str(here)]):
        result = wantui("slurm", *arguments)
        assert result.code == 2
        assert "cannot" in result.err  # C5, R11
        assert "\nwantui" not in result.err.strip()
        assert list(here.iterdir()) == []
    assert not (cluster / "submitted.sh").exists()


def test_batch_in_a_path_that_would_change_the_sbatch_script_is_refused(
    cluster: Path, folder: BatchFolder, wantui: Wantui, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in HOSTILE:
        evil = folder.root.with_name(name)
        folder.root.rename(evil)
        assert wantui("slurm", "--resume", evil).code == 2  # R11
        monkeypatch.chdir(evil)
        assert wantui("slurm", "--resume", ".").code == 2
        monkeypatch.chdir(evil.parent)
        folder = BatchFolder(evil)
    assert not (cluster / "submitted.sh").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--partition", "gpu\ntouch pwned"),
        ("--account", "me\rtouch pwned"),
        ("--qos", "q\n"),
        ("--constraint", "a\x0bb"),
        ("--sbatch", "comment=x\ntouch pwned"),
        ("--sbatch", "x\ntouch pwned=1"),
        ("--sbatch", "x y=1"),
        ("--sbatch", "=x"),
    ],
)
def test_option_that_would_change_the_sbatch_script_is_refused(
    cluster: Path, wantui: Wantui, option: str, value: str
) -> None:
    result = wantui("slurm", "-t", "a circle", option, value)
    assert result.code == 2
    assert option in result.err  # R11
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            ["array=1-3"],
            "--sbatch array would override a value that wantui sets. Choose the number of jobs with --jobs",
        ),
        (["--output=x"], "--sbatch output would override a value that wantui sets. The logs are in the folder slurm"),
        (
            ["wrap=ls"],
            "--sbatch wrap would override a value that wantui sets. Run shell commands before the jobs with --setup",
        ),
        (["nice=1", "nice=2"], "--sbatch nice is given 2 times. Give it once"),
    ],
)
def test_reserved_or_repeated_sbatch_option_is_refused(
    cluster: Path, wantui: Wantui, options: list[str], reason: str
) -> None:
    result = wantui("slurm", "-t", "a circle", *(word for option in options for word in ("--sbatch", option)))
    assert result.code == 2
    assert reason in result.err
    assert list(Path().iterdir()) == []


def test_path_with_spaces_and_quotes_is_quoted_in_the_sbatch_script(
    cluster: Path, folder: BatchFolder, tmp_path: Path
) -> None:
    other = tmp_path / """it's "a" $HOME `x`"""
    folder.root.rename(other)
    submit_job_array(other, 1, RESOURCES)
    (line,) = [line for line in (cluster / "submitted.sh").read_text().splitlines() if "--output=" in line]
    assert shlex.split(line.removeprefix("#SBATCH "))[0] == f"--output={other}/slurm/%j_0_log.out"
