"""Outcomes of videos whose rendering raises an error: every row of the table, without a process."""

import errno
import os
import pwd
import sqlite3
from pathlib import Path

import pytest
import torch

from wantui.generation.errors import LoadError
from wantui.queue.claims import LostClaimError
from wantui.storage.manifest import ManifestError
from wantui.storage.video_files import LinkedFolderError
from wantui.storage.zarr_group import CaptureError
from wantui.worker import outcomes
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

pytestmark = pytest.mark.torch

OUT_OF_MEMORY = torch.cuda.OutOfMemoryError("CUDA out of memory")
LOST_GPU = RuntimeError("CUDA error: an illegal memory access was encountered")


def situation(root: Path, cancelled: bool = False, next_plan: bool = True, passed: int = 1) -> ErrorContext:
    return ErrorContext(root, lambda: cancelled, lambda: next_plan, lambda: passed)


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


TABLE: dict[str, tuple[BaseException, VideoOutcome | None]] = {
    "claim lost": (LostClaimError("not ours"), None),
    "queue unavailable": (sqlite3.OperationalError("database is locked"), None),
    "GPU lost": (LOST_GPU, None),
    "GPU lost while loading": (caused(LoadError("cannot load"), LOST_GPU), None),
    "process told to exit": (SystemExit(1), None),
    "cancelled": (CancelledError(), CancelVideo()),
    "paused": (StoppedError("paused after step 3 of 9"), ReleaseVideo("paused after step 3 of 9")),
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


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOENT, "No such file or directory. A folder was removed while the video was generated. Generate"),
        (errno.ENOTDIR, "Not a directory. A file is in the place of a folder. Remove it, then generate"),
        (errno.EISDIR, "Is a directory. A folder is in the place of a file. Remove it, then generate"),
    ],
)
def test_files_removed_by_others_are_named_with_a_remedy(tmp_path: Path, number: int, message: str) -> None:
    path = tmp_path / "videos" / "v.mp4"
    for names in ((str(path),), (f"{path}.partial", None, str(path))):
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


def test_transient_error_is_retried_a_few_times(tmp_path: Path) -> None:
    error = OSError(errno.ESTALE, "Stale file handle")
    again = decide_outcome(error, situation(tmp_path, passed=outcomes.MAX_TRANSIENT_ERRORS - 1))
    assert again == ReleaseVideo("Stale file handle (transient)", is_warning=True)
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
