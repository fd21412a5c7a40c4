"""Outcomes of videos whose rendering raises an error: every row of the table, without a process."""

import errno
import logging
import os
import pwd
import sqlite3
from pathlib import Path

import pytest
import torch

from wantui.generation.errors import LoadError
from wantui.queue.claims import LostClaimError
from wantui.queue.queue import Queue
from wantui.queue.records import NewVideo
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest_errors import ManifestError
from wantui.storage.manifest_store import ManifestStoreCache
from wantui.storage.video_files import LinkedFolderError
from wantui.storage.zarr_group import CaptureError
from wantui.worker import outcomes
from wantui.worker.outcome_applier import OutcomeApplier
from wantui.worker.outcomes import (
    CancelledError,
    CancelVideo,
    ErrorContext,
    FailVideo,
    RefuseBatch,
    ReleaseVideo,
    StoppedError,
    TryNextPlan,
    VideoOutcome,
    WaitForDiskSpace,
    WaitForFolder,
    decide_outcome,
    describe_deleted_folder,
)
from wantui.worker.pipeline_cache import PipelineCache

pytestmark = pytest.mark.torch

OUT_OF_MEMORY = torch.cuda.OutOfMemoryError("CUDA out of memory")
LOST_GPU = RuntimeError("CUDA error: an illegal memory access was encountered")


def situation(root: Path, cancelled: bool = False, next_plan: bool = True, passed: int = 1) -> ErrorContext:
    return ErrorContext(root, lambda: cancelled, lambda: next_plan, lambda: passed)


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


TOO_LARGE = (
    "File too large. Raise the limit of file sizes (ulimit -f) and restart the engine, or use a file system without "
    "such a limit (FAT allows 4 GB). Then generate the video again: wantui queue retry"
)

TABLE: dict[str, tuple[BaseException, VideoOutcome | None]] = {
    "claim lost": (LostClaimError("not ours"), None),
    "queue unavailable": (sqlite3.OperationalError("database is locked"), None),
    "GPU lost": (LOST_GPU, None),
    "GPU lost while loading": (caused(LoadError("cannot load"), LOST_GPU), None),
    "process told to exit": (SystemExit(1), None),
    "cancelled": (CancelledError(), CancelVideo()),
    "paused": (StoppedError("paused after 3 of 9 steps"), ReleaseVideo("paused after 3 of 9 steps")),
    "interrupted": (KeyboardInterrupt(), ReleaseVideo("interrupted", frees_pipeline=True)),
    "out of memory": (OUT_OF_MEMORY, TryNextPlan("CUDA out of memory")),
    "out of memory while loading": (caused(LoadError("cannot load"), OUT_OF_MEMORY), TryNextPlan("cannot load")),
    "no weights": (LoadError("no weights"), RefuseBatch("no weights", LoadError.exit_code)),
    "capture": (CaptureError("cannot complete it"), FailVideo("cannot complete it")),
    "manifest": (ManifestError("another batch"), FailVideo("another batch")),
    "anything else": (ValueError("odd"), FailVideo("ValueError: odd", is_unexpected=True)),
    "full disk": (OSError(errno.ENOSPC, "No space left on device"), WaitForDiskSpace("No space left on device")),
    "missing file": (FileNotFoundError(errno.ENOENT, "No such file", "/elsewhere/x"), FailVideo("FileNotFoundError: ")),
}


@pytest.mark.parametrize("row", TABLE)
def test_every_error_has_one_outcome(row: str, tmp_path: Path) -> None:
    error, expected = TABLE[row]
    result = decide_outcome(error, situation(tmp_path))
    if isinstance(expected, FailVideo) and isinstance(result, FailVideo):
        assert result.error.startswith(expected.error)
        assert result.is_unexpected == expected.is_unexpected
    else:
        assert result == expected


def test_file_that_exceeds_a_size_limit_fails_the_video_with_a_remedy(tmp_path: Path) -> None:
    error = OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    assert decide_outcome(error, situation(tmp_path)) == FailVideo(f"cannot write a file of the video: {TOO_LARGE}")
    path = tmp_path / "videos" / "v.mp4"
    for name in (str(path), f"file:{path}"):  # FFmpeg writes URLs
        error = OSError(errno.EFBIG, os.strerror(errno.EFBIG), name)
        assert decide_outcome(error, situation(tmp_path)) == FailVideo(f"cannot write {path}: {TOO_LARGE}")


def test_full_disk_of_a_file_outside_the_batch_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "batch").mkdir()
    (tmp_path / "cache").mkdir()
    path = tmp_path / "cache" / "missing" / "kernel.so"
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    expected = WaitForDiskSpace(f"No space left on device: {path}", tmp_path / "cache")
    assert decide_outcome(error, situation(tmp_path / "batch")) == expected
    for name in (str(tmp_path / "batch" / "v.mp4"), f"file:{tmp_path}/batch/v.mp4"):  # FFmpeg writes URLs
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
        assert decide_outcome(error, situation(tmp_path / "batch")) == WaitForDiskSpace("No space left on device")


def test_queue_waits_for_the_disk_of_the_file_outside_the_batch(tmp_path: Path) -> None:
    batch_root, cache, state = (tmp_path / name for name in ("batch", "cache", "state"))
    for folder in (batch_root, cache, state):
        folder.mkdir()
    with Queue(state) as queue:
        queue.add_batch(batch_root, "cpu", [NewVideo(0, "video", "{}", 4)])
        claim = queue.claim_next_video("worker-0:1", ("auto", "cpu"))
        assert claim is not None
        log = logging.getLogger("batch")
        applier = OutcomeApplier(queue, PipelineCache(queue, "cpu"), ManifestStoreCache(), log)
        outcome = WaitForDiskSpace(f"No space left on device: {cache}/kernel.so", cache)
        applier.apply_outcome(outcome, claim, BatchFolder(batch_root), log)
        hold = queue.read_hold()
    assert hold is not None
    assert (hold.kind, hold.folder) == ("disk", cache)
    assert hold.reason.startswith(f"not enough disk space in {cache} (")
    assert hold.reason.endswith(f" needed; No space left on device: {cache}/kernel.so)")


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (
            errno.ENOENT,
            "No such file or directory. A file or a folder was removed while the video was generated. Generate",
        ),
        (errno.ENOTDIR, "Not a directory. A file is in the place of a folder. Remove it, then generate"),
        (errno.EISDIR, "Is a directory. A folder is in the place of a file. Remove it, then generate"),
    ],
)
def test_files_removed_by_others_are_named_with_a_remedy(tmp_path: Path, number: int, message: str) -> None:
    path = tmp_path / "videos" / "v.mp4"
    for names in ((str(path),), (f"{path}.partial", None, str(path)), (f"file:{path}",)):
        result = decide_outcome(OSError(number, os.strerror(number), *names), situation(tmp_path))
        assert result == FailVideo(f"cannot write {path}: {message} the video again: wantui queue retry")


def test_linked_folder_error_fails_the_video_with_its_message(tmp_path: Path) -> None:
    error = LinkedFolderError(tmp_path / "videos")
    assert decide_outcome(error, situation(tmp_path)) == FailVideo(str(error))


def test_interrupting_a_cancelled_video_cancels_it(tmp_path: Path) -> None:
    assert decide_outcome(KeyboardInterrupt(), situation(tmp_path, cancelled=True)) == CancelVideo(frees_pipeline=True)


def test_model_that_does_not_fit_the_last_plan_fails_the_batch(tmp_path: Path) -> None:
    error = caused(LoadError("cannot load"), OUT_OF_MEMORY)
    assert isinstance(decide_outcome(error, situation(tmp_path, next_plan=False)), RefuseBatch)


@pytest.mark.parametrize("error", [ValueError("odd"), OSError(errno.EIO, "I/O error"), ManifestError("gone")], ids=str)
def test_deleted_folder_is_named_for_any_exception(error: Exception, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    assert decide_outcome(error, situation(gone)) == FailVideo(describe_deleted_folder(gone))


def test_unwritable_folder_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "find_unwritable_folder", lambda root, error: (root, "read-only"))
    error = OSError(errno.EROFS, os.strerror(errno.EROFS))
    assert decide_outcome(error, situation(tmp_path)) == WaitForFolder(tmp_path, "read-only")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ESTALE, "Stale file handle"), "Stale file handle"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
        (RuntimeError("can't start new thread"), "cannot start a thread"),
    ],
    ids=str,
)
def test_transient_error_is_retried_a_few_times(tmp_path: Path, error: Exception, reason: str) -> None:
    again = decide_outcome(error, situation(tmp_path, passed=outcomes.MAX_TRANSIENT_ERRORS - 1))
    assert again == ReleaseVideo(f"{reason} (transient)", is_warning=True)
    assert isinstance(decide_outcome(error, situation(tmp_path, passed=outcomes.MAX_TRANSIENT_ERRORS)), FailVideo)


def test_foreign_file_in_a_sticky_folder_fails_the_video_naming_the_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / "video_001.mp4.partial"
    theirs.touch()
    tmp_path.chmod(0o1777)
    owner = pwd.getpwuid(os.geteuid()).pw_name
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    error = PermissionError(errno.EPERM, "Operation not permitted", str(theirs))
    result = decide_outcome(error, situation(tmp_path))
    assert isinstance(result, FailVideo)
    assert f"{theirs}: it belongs to {owner}" in result.error
    tmp_path.chmod(0o777)
    assert isinstance(decide_outcome(error, situation(tmp_path)), ReleaseVideo), (
        "without the sticky bit anybody may replace it"
    )
