"""Verify that the files of a batch have not changed since they were recorded, and read its clips after this check.

A damaged clip, or a copy of another video's clip under its name, decodes without an error.
"""

import stat
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal

from wantui.checksums import compute_file_sha256
from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.planning import Recipe
from wantui.storage.manifest import VideoEntry
from wantui.storage.mp4 import ClipError, Frame, read_clip_tags, read_frames
from wantui.storage.recipe_differences import describe_recipe_mismatch

RecordedFileProblem = Literal["missing", "not-regular", "unreadable", "changed"]


class RecordedFileError(UserError):
    """Raised for a file that is missing, not regular or unreadable, or has changed since it was recorded.

    Args:
        reason: text without advice.
    """

    def __init__(self, problem: RecordedFileProblem, reason: str) -> None:
        advice = "" if problem == "unreadable" else ". Copy it again from the original batch folder"
        if problem == "missing":
            advice += ", or generate it again: wantui run --resume BATCH"
        super().__init__(f"{reason}{advice}")
        self.problem, self.reason = problem, reason


def verify_recorded_file(path: Path, recorded_digest: str | None) -> None:
    """Read a file, and compare it with its recorded SHA-256 if there is one.

    Args:
        recorded_digest: SHA-256 in hexadecimal digits; None if none was recorded.

    Raises:
        RecordedFileError: the file is missing, cannot be read, or has another SHA-256.
    """
    with _reject_unreadable_file(path):
        digest = compute_file_sha256(path)
    if recorded_digest not in (None, digest):
        raise RecordedFileError(
            "changed", f"{path} is damaged or was changed: its SHA-256 differs from the recorded SHA-256"
        )


@contextmanager
def _reject_unreadable_file(path: Path) -> Iterator[None]:
    """Raise RecordedFileError for a file that is missing or not regular, or that the block cannot read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise RecordedFileError("not-regular", f"{path} is not a regular file")
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise RecordedFileError("missing", f"{path} is missing") from None
    except OSError as error:  # such as a folder that may not be entered
        raise RecordedFileError("unreadable", f"{path} cannot be read: {error.strerror or error}") from error


def read_recorded_frames(path: Path, entry: VideoEntry, thread_count: int = 0) -> Generator[Frame, None, None]:
    """Verify the clip of a video, and yield its frames, uint8 [height, width, rgb].

    Args:
        thread_count: as for `read_frames`.

    Raises:
        ClipError: the clip cannot be decoded, is damaged or of another video, or has another number of frames.
    """
    verify_clip(path, entry.recipe, entry.sha256.get("clip"))
    frame_count = 0
    with closing(read_frames(path, thread_count)) as frames:
        for frame in frames:
            frame_count += 1
            yield frame
    if frame_count != entry.recipe.frames:
        raise ClipError(
            f"{path} is damaged: it contains {format_count(frame_count, 'frame')} instead of {entry.recipe.frames}"
        )


def verify_clip(path: Path, recipe: Recipe, recorded_digest: str | None) -> None:
    """Compare a clip with the SHA-256 that is recorded for a video; without one, compare the recipe in its tags.

    A clip that lacks both was written before version 0.2, and passes.

    Args:
        recipe: recipe of the video.
        recorded_digest: SHA-256 in hexadecimal digits; None if the manifest has none.

    Raises:
        ClipError: the clip cannot be read, is damaged, or belongs to another video.
    """
    try:
        if recorded_digest is None:  # the decoder will read the clip
            with _reject_unreadable_file(path):
                path.open("rb").close()
        else:
            verify_recorded_file(path, recorded_digest)
    except RecordedFileError as error:
        if error.problem == "changed":
            _reject_clip_of_different_recipe(path, recipe)
        raise ClipError(str(error)) from error
    if recorded_digest is None:
        _reject_clip_of_different_recipe(path, recipe)


def _reject_clip_of_different_recipe(path: Path, recipe: Recipe) -> None:
    try:
        stored_recipe, _ = read_clip_tags(path)
    except ClipError:  # without tags, or unreadable: the digest or the decoder decides
        return
    if stored_recipe != recipe:
        raise ClipError(describe_recipe_mismatch(path, stored_recipe, recipe))
