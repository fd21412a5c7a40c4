"""Outcome of a video for each error during rendering: one table, which needs no process to be tested."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wantui.generation.errors import NotLoadedError
from wantui.generation.placement import is_fatal_cuda_error, is_out_of_memory
from wantui.queue.claims import LostClaimError
from wantui.queue.database import QueueError
from wantui.storage.manifest import ManifestError
from wantui.storage.output_errors import FULL, UNWRITABLE, changed_by_others, is_gone, protected_file, unwritable_folder
from wantui.storage.video_files import LinkedFolderError
from wantui.storage.zarr_group import CaptureError

MAX_PASSING_ERRORS = 3
"""Errors of a file system that had passed each time it was looked into, after which a video fails over them."""


class StoppedError(Exception):
    """A video was closed between two steps or frames for the reason in the text; it resumes from its checkpoint."""


class CancelledError(Exception):
    """A user cancelled the video."""


@dataclass(frozen=True)
class Cancel:
    """The video is cancelled."""

    frees_pipeline: bool = False
    """True if parts of the pipeline may be in transit to or from the GPU."""


@dataclass(frozen=True)
class Release:
    """The video goes back to the queue, to be resumed from its checkpoint."""

    reason: str
    frees_pipeline: bool = False
    is_warning: bool = False


@dataclass(frozen=True)
class Fail:
    """The video fails; others of its batch may be well."""

    error: str
    is_unexpected: bool = False
    """True if the log gets the traceback."""


@dataclass(frozen=True)
class RefuseBatch:
    """Outcome: no video of the batch can be rendered, as without weights."""

    error: str
    exit_code: int


@dataclass(frozen=True)
class TryNextPlan:
    """The video did not fit into memory."""

    error: str


@dataclass(frozen=True)
class WaitForRoom:
    """The disk is full: the queue is held until there is room."""

    reason: str
    """Error text of the system."""


@dataclass(frozen=True)
class WaitForFolder:
    """A folder cannot be written now: the queue is held until it can."""

    folder: Path
    reason: str


Outcome = Cancel | Release | Fail | RefuseBatch | TryNextPlan | WaitForRoom | WaitForFolder


@dataclass(frozen=True)
class Situation:
    """Facts that determine the outcome of a video, besides the error."""

    root: Path
    """The batch folder."""
    is_cancelled: Callable[[], bool]
    """True if a user cancelled the video."""
    has_next_plan: Callable[[], bool]
    """True if there is a memory plan that needs less."""
    count_passing_error: Callable[[], int]
    """Count an error of the file system that has passed; return how many the video had."""


def outcome_of(error: BaseException, situation: Situation) -> Outcome | None:
    """Return what becomes of the video; None where the error is the worker's and must end it."""
    match error:
        case LostClaimError() | QueueError():
            return None
        case CancelledError():
            return Cancel()
        case StoppedError():
            return Release(str(error))
        case KeyboardInterrupt():
            if situation.is_cancelled():
                return Cancel(frees_pipeline=True)
            return Release("interrupted", frees_pipeline=True)  # it was meant for the video before
        case NotLoadedError():
            if is_fatal_cuda_error(error):
                return None
            if is_out_of_memory(error.__cause__) and situation.has_next_plan():
                return TryNextPlan(str(error))
            return RefuseBatch(str(error), error.exit_code)
        case OSError():
            return _of_os_error(error, situation)
        case ManifestError() | LinkedFolderError() | CaptureError():
            return Fail(deleted(situation.root) if is_gone(situation.root) else str(error))
        case Exception():
            if is_fatal_cuda_error(error):
                return None
            if is_gone(situation.root):  # libraries name a file that is missing in ways of their own
                return Fail(deleted(situation.root))
            if is_out_of_memory(error):
                return TryNextPlan(str(error))
            return Fail(_named(error), is_unexpected=True)
    return None


def _of_os_error(error: OSError, situation: Situation) -> Outcome:
    if is_gone(situation.root):
        return Fail(deleted(situation.root))
    if error.errno in FULL:
        return WaitForRoom(error.strerror or "")
    if (unwritable := unwritable_folder(situation.root, error)) is not None:
        return WaitForFolder(*unwritable)
    if (protected := protected_file(error)) is not None:
        return Fail(protected)
    if error.errno in UNWRITABLE and situation.count_passing_error() < MAX_PASSING_ERRORS:
        # As of a network that was away for a moment.
        return Release(f"{error.strerror}, which has passed", is_warning=True)
    return Fail(changed_by_others(situation.root, error) or _named(error))


def deleted(root: Path) -> str:
    """Return the error of a video whose batch folder is deleted."""
    return f"the output folder {root} was deleted"


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
