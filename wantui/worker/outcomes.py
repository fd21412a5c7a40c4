"""Decide the outcome of a video for each error during generation."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wantui.errors import SHORTAGE_ERROR_NUMBERS, find_shortage
from wantui.generation.cuda_errors import is_fatal_cuda_error, is_out_of_memory
from wantui.generation.errors import NotLoadedError
from wantui.generation.guidance_split import SecondGpuError
from wantui.queue.claims import LostClaimError
from wantui.queue.database import QueueError
from wantui.storage.manifest_errors import ManifestError
from wantui.storage.output_errors import (
    DISK_FULL_ERROR_NUMBERS,
    UNWRITABLE_ERROR_NUMBERS,
    describe_file_too_large,
    describe_path_conflict,
    describe_sticky_bit_conflict,
    find_full_outside_file,
    find_unwritable_folder,
    is_folder_deleted,
)
from wantui.storage.video_files import LinkedFolderError
from wantui.storage.zarr_group import CaptureError

MAX_TRANSIENT_ERRORS = 3
"""Number of transient errors (from the file system, or from a lack of resources) after which a video fails."""


class StoppedError(Exception):
    """Raised to stop a video between two steps or frames; it resumes from its checkpoint. The message is the reason."""


class CancelledError(Exception):
    """Raised if a user cancelled the video."""


@dataclass(frozen=True)
class CancelVideo:
    """Outcome: the video is cancelled."""

    frees_pipeline: bool = False
    """True if parts of the pipeline may be in transit to or from the GPU."""


@dataclass(frozen=True)
class ReleaseVideo:
    """Outcome: the video returns to the queue, to be resumed from its checkpoint."""

    reason: str
    frees_pipeline: bool = False
    is_warning: bool = False


@dataclass(frozen=True)
class FailVideo:
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
class LeaveSecondGpu:
    """Outcome: the second GPU failed; another process resumes the video on one GPU, with the same result."""

    reason: str


@dataclass(frozen=True)
class WaitForDiskSpace:
    """Outcome: a disk is full; the batch, or for a folder outside it the queue, is on hold until there is space."""

    reason: str
    """Error message of the system."""
    folder: Path | None = None
    """Folder on the full disk if the failed write was outside the batch folder."""


@dataclass(frozen=True)
class WaitForFolder:
    """Outcome: a folder of the batch cannot be written now; the batch is on hold until it can."""

    folder: Path
    reason: str


VideoOutcome = (
    CancelVideo
    | ReleaseVideo
    | FailVideo
    | RefuseBatch
    | TryNextPlan
    | LeaveSecondGpu
    | WaitForDiskSpace
    | WaitForFolder
)


@dataclass(frozen=True)
class ErrorContext:
    """Facts besides the error that decide the outcome of a video."""

    batch_root: Path
    """The batch folder."""
    is_cancelled: Callable[[], bool]
    """Return whether a user cancelled the video."""
    has_next_plan: Callable[[], bool]
    """Return whether a memory plan exists that needs less memory."""
    count_transient_error: Callable[[], int]
    """Count a transient error; return the number for this video."""


def decide_outcome(error: BaseException, context: ErrorContext) -> VideoOutcome | None:
    """Return the outcome of the video; None if the error must end the worker."""
    match error:
        case LostClaimError() | QueueError():
            return None
        case CancelledError():
            return CancelVideo()
        case StoppedError():
            return ReleaseVideo(str(error))
        case KeyboardInterrupt():
            if context.is_cancelled():
                return CancelVideo(frees_pipeline=True)
            return ReleaseVideo("interrupted", frees_pipeline=True)  # SIGINT was meant for the previous video
        case SecondGpuError():
            return LeaveSecondGpu(str(error))
        case NotLoadedError():
            if is_fatal_cuda_error(error):
                return None
            if is_out_of_memory(error.__cause__) and context.has_next_plan():
                return TryNextPlan(str(error))
            return RefuseBatch(str(error), error.exit_code)
        case OSError():
            return _decide_os_error_outcome(error, context)
        case ManifestError() | LinkedFolderError() | CaptureError():
            return FailVideo(
                describe_deleted_folder(context.batch_root) if is_folder_deleted(context.batch_root) else str(error)
            )
        case Exception():
            if is_fatal_cuda_error(error):
                return None
            if is_folder_deleted(context.batch_root):  # libraries report a missing file with exceptions of many types
                return FailVideo(describe_deleted_folder(context.batch_root))
            if is_out_of_memory(error):
                return TryNextPlan(str(error))
            if (shortage := find_shortage(error)) is not None:
                return _decide_os_error_outcome(shortage, context)
            return FailVideo(_describe_error(error), is_unexpected=True)
    return None


def _decide_os_error_outcome(error: OSError, context: ErrorContext) -> VideoOutcome:
    if is_folder_deleted(context.batch_root):
        return FailVideo(describe_deleted_folder(context.batch_root))
    if error.errno in DISK_FULL_ERROR_NUMBERS:
        if (outside_file := find_full_outside_file(context.batch_root, error)) is not None:
            path, folder = outside_file
            return WaitForDiskSpace(f"{error.strerror}: {path}", folder)
        return WaitForDiskSpace(error.strerror or "")
    if (size_error := describe_file_too_large(error)) is not None:
        return FailVideo(size_error)
    if (unwritable_folder := find_unwritable_folder(context.batch_root, error)) is not None:
        return WaitForFolder(*unwritable_folder)
    if (sticky_conflict := describe_sticky_bit_conflict(error)) is not None:
        return FailVideo(sticky_conflict)
    is_transient = error.errno in (*UNWRITABLE_ERROR_NUMBERS, *SHORTAGE_ERROR_NUMBERS)
    if is_transient and context.count_transient_error() < MAX_TRANSIENT_ERRORS:
        # The folder is writable again, for example after a network outage, or resources were lacking.
        return ReleaseVideo(f"{error.strerror} (transient)", is_warning=True)
    return FailVideo(describe_path_conflict(context.batch_root, error) or _describe_error(error))


def describe_deleted_folder(root: Path) -> str:
    """Return the error message for a batch folder that no longer exists."""
    return (
        f"the output folder {root} was deleted or moved. If it was moved, resume it there: wantui run --resume FOLDER"
    )


def _describe_error(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
