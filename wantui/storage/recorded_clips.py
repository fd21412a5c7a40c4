"""Read the clips of a batch, after a check that each is the clip that was recorded for its video.

A damaged clip, or a copy of another video's clip under its name, decodes without an error.
"""

import hashlib
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

from wantui.formatting import format_count
from wantui.planning import Recipe
from wantui.storage.manifest import VideoEntry
from wantui.storage.mp4 import ClipError, Frame, read_clip_tags, read_frames
from wantui.storage.recipe_differences import describe_recipe_mismatch

HASH_CHUNK_BYTES = 1 << 20


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
    refuse_other_frame_count(path, frame_count, entry.recipe.frames)


def verify_clip(path: Path, recipe: Recipe, recorded_digest: str | None) -> None:
    """Compare a clip with the SHA-256 that is recorded for a video; without one, compare the recipe in its tags.

    A clip without both, of a version before 0.2, passes.

    Args:
        recipe: recipe of the video.
        recorded_digest: SHA-256 in hexadecimal digits; None if the manifest has none.

    Raises:
        ClipError: the clip cannot be read, is damaged, or belongs to another video.
    """
    if not path.is_file():
        fault = "is not a regular file" if path.exists() else "is missing"
        raise ClipError(f"{path} {fault}. Copy it again from the original batch folder")
    try:
        if recorded_digest is not None and compute_file_sha256(path) == recorded_digest:
            return
    except OSError as error:
        raise ClipError(f"{path} cannot be read: {error.strerror or error}") from error
    _refuse_other_recipe(path, recipe)
    if recorded_digest is not None:
        raise ClipError(
            f"{path} is damaged or was edited: its SHA-256 differs from the recorded one. Copy it again from the "
            "original batch folder"
        )


def refuse_other_frame_count(path: Path, frame_count: int, recorded_count: int) -> None:
    """Refuse a clip whose number of decoded frames is not the recorded one.

    Raises:
        ClipError: the numbers differ.
    """
    if frame_count != recorded_count:
        raise ClipError(
            f"{path} is damaged: it contains {format_count(frame_count, 'frame')} instead of {recorded_count}"
        )


def _refuse_other_recipe(path: Path, recipe: Recipe) -> None:
    try:
        stored_recipe, _ = read_clip_tags(path)
    except ClipError:  # without tags, or unreadable: the digest or the decoder decides
        return
    if stored_recipe != recipe:
        raise ClipError(describe_recipe_mismatch(path, stored_recipe, recipe))


def compute_file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
