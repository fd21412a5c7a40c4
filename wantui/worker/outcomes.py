"""Decide the outcome of a video for each error during generation."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wantui.generation.errors import NotLoadedError
from wantui.generation.placement import is_fatal_cuda_error, is_out_of_memory
from wantui.queue.claims import LostClaimError
from wantui.queue.database import QueueError
from wantui.storage.manifest import ManifestError
from wantui.storage.output_errors import (
    DISK_FULL_ERRORS,
    UNWRITABLE_ERRORS,
    describe_path_conflict,
    describe_sticky_conflict,
    find_unwritable_folder,
    is_folder_deleted,
)
from wantui.storage.video_files import LinkedFolderError
from wantui.storage.zarr_group import CaptureError

MAX_TRANSIENT_ERRORS = 3
"""Number of transient file-system errors at which a video fails."""


class StoppedError(Exception):
    """Raised to stop a video between two steps or frames; it resumes from its checkpoint. The message is the reason."""


class CancelledError(Exception):
    """Raised if a user cancelled the video."""


@dataclass(frozen=True)
class Cancel:
    """Outcome: the video is cancelled."""

    frees_pipeline: bool = False
    """True if parts of the pipeline may be in transit to or from the GPU."""


@dataclass(frozen=True)
class Release:
    """Outcome: the video returns to the queue, to be resumed from its checkpoint."""

    reason: str
    frees_pipeline: bool = False
    is_warning: bool = False


@dataclass(frozen=True)
class Fail:
    """Outcome: the video fails; the other videos of its batch are not affected."""

    error: str
    is_unexpected: bool = False
    """True to log the traceback."""


@dataclass(frozen=True)
class RefuseBatch:
    """Outcome: no video of the batch can be generated, for example without weights."""

    error: str
    exit_code: int


@dataclass(frozen=True)
class TryNextPlan:
    """Outcome: the video did not fit into memory; it is tried with the next memory plan."""

    error: str


@dataclass(frozen=True)
class WaitForDiskSpace:
    """Outcome: the disk is full; the queue is on hold until there is space."""

    reason: str
    """Error message of the system."""


@dataclass(frozen=True)
class WaitForFolder:
    """Outcome: a folder cannot be written now; the queue is on hold until it can."""

    folder: Path
    reason: str


Outcome = Cancel | Release | Fail | RefuseBatch | TryNextPlan | WaitForDiskSpace | WaitForFolder


@dataclass(frozen=True)
class ErrorContext:
    """Facts besides the error that decide the outcome of a video."""

    root: Path
    """The batch folder."""
    is_cancelled: Callable[[], bool]
    """Return whether a user cancelled the video."""
    has_next_plan: Callable[[], bool]
    """Return whether a memory plan exists that needs less memory."""
    count_transient_error: Callable[[], int]
    """Count a transient file-system error; return the number for this video."""


def decide_outcome(error: BaseException, context: ErrorContext) -> Outcome | None:
    """Return the outcome of the video; None if the error must end the worker."""
    match error:
        case LostClaimError() | QueueError():
            return None
        case CancelledError():
            return Cancel()
        case StoppedError():
            return Release(str(error))
        case KeyboardInterrupt():
            if context.is_cancelled():
                return Cancel(frees_pipeline=True)
            return Release("interrupted", frees_pipeline=True)  # SIGINT was meant for the previous video
        case NotLoadedError():
            if is_fatal_cuda_error(error):
                return None
            if is_out_of_memory(error.__cause__) and context.has_next_plan():
                return TryNextPlan(str(error))
            return RefuseBatch(str(error), error.exit_code)
        case OSError():
            return _decide_os_error_outcome(error, context)
        case ManifestError() | LinkedFolderError() | CaptureError():
            return Fail(deleted_folder_error(context.root) if is_folder_deleted(context.root) else str(error))
        case Exception():
            if is_fatal_cuda_error(error):
                return None
            if is_folder_deleted(context.root):  # libraries report a missing file with exceptions of many types
                return Fail(deleted_folder_error(context.root))
            if is_out_of_memory(error):
                return TryNextPlan(str(error))
            return Fail(_describe_error(error), is_unexpected=True)
    return None


def _decide_os_error_outcome(error: OSError, context: ErrorContext) -> Outcome:
    if is_folder_deleted(context.root):
        return Fail(deleted_folder_error(context.root))
    if error.errno in DISK_FULL_ERRORS:
        return WaitForDiskSpace(error.strerror or "")
    if (unwritable := find_unwritable_folder(context.root, error)) is not None:
        return WaitForFolder(*unwritable)
    if (protected := describe_sticky_conflict(error)) is not None:
        return Fail(protected)
    if error.errno in UNWRITABLE_ERRORS and context.count_transient_error() < MAX_TRANSIENT_ERRORS:
        # The folder is writable again, for example after a network outage.
        return Release(f"{error.strerror} (transient)", is_warning=True)
    return Fail(describe_path_conflict(context.root, error) or _describe_error(error))


def deleted_folder_error(root: Path) -> str:
    """Return the error message for a batch folder that no longer exists."""
    return (
        f"the output folder {root} was deleted or moved. If it was moved, continue it from its new place: "
        "wantui run --resume FOLDER"
    )


def _describe_error(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
