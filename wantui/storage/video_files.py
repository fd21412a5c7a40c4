"""Paths of a video's files: create their folders, refuse linked folders, and remove files of cancelled videos."""

import os
from collections.abc import Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from wantui.atomic_files import make_partial_path, remove_path
from wantui.captures import CAPTURES
from wantui.errors import UserError
from wantui.storage.layout import BatchFolder


class LinkedFolderError(UserError):
    """Raised if a folder inside a batch folder is a symbolic link, which may lead to files of another user."""

    def __init__(self, link: Path) -> None:
        super().__init__(
            f"cannot write {link}: it is a symbolic link, and wantui writes only inside the batch folder. "
            "Replace the link by a folder, or move the whole batch with output_dir"
        )


@dataclass(frozen=True)
class VideoFiles:
    """Paths of the files of one video."""

    clip: Path
    sheet: Path
    captures: Mapping[str, Path] = field(default_factory=dict)
    """Zarr groups by name of the capture; captures that are not stored are absent."""
    checkpoint: Path | None = None
    """Path of the checkpoint; None if an interrupted video cannot be resumed and leaves no files."""
    root: Path | None = None
    """The batch folder, which must not contain linked folders; None for files outside a batch."""

    def paths(self) -> Iterator[Path]:
        """Yield the final path of every stored file or group."""
        yield from (self.clip, self.sheet, *self.captures.values())
        if self.checkpoint is not None:
            yield self.checkpoint

    @property
    def preview(self) -> Path:
        """Return the path of the preview picture that is shown while the video is rendered."""
        return self.clip.with_suffix(".preview.png")


def video_files(folder: BatchFolder, variation: int, number: int) -> VideoFiles:
    """Return the files of the `number`-th video (from 1) of a variation (from 0) of a batch."""
    video = variation, number
    return VideoFiles(
        folder.clip(*video),
        folder.sheet(*video),
        {kind.name: folder.capture(kind, *video) for kind in CAPTURES},
        folder.checkpoint(*video),
        folder.root,
    )


def find_linked_folder(root: Path, path: Path) -> Path | None:
    """Return the first symbolic link among the folders between a batch folder and a path in it; None if none is.

    The batch folder and its parents may be links: the user named them.
    """
    folder = root
    for part in path.relative_to(root).parts[:-1]:
        folder /= part
        if folder.is_symlink():
            return folder
    return None


def make_parent_folders(root: Path, path: Path) -> None:
    """Create the folders between a batch folder and a path in it.

    Raises:
        LinkedFolderError: one of the folders is a symbolic link.
        OSError: a folder cannot be created.
    """
    if (link := find_linked_folder(root, path)) is not None:
        raise LinkedFolderError(link)
    path.parent.mkdir(parents=True, exist_ok=True)


def make_video_folders(files: VideoFiles) -> None:
    """Create the folders of a video's files.

    The file writers create no parent folders: a batch folder that is deleted meanwhile must not reappear.

    Raises:
        LinkedFolderError: one of the folders is a symbolic link.
        OSError: a folder cannot be created.
    """
    for path in files.paths():
        make_parent_folders(files.root or path.parent, path)


def refuse_linked_folders(files: VideoFiles) -> None:
    """Refuse folders that became symbolic links, just before a video's files get their final names.

    Raises:
        LinkedFolderError: a folder is a symbolic link.
    """
    for path in files.paths():
        if files.root is not None and (link := find_linked_folder(files.root, path)) is not None:
            raise LinkedFolderError(link)


def remove_temporary_files(files: VideoFiles) -> None:
    """Remove the temporary files of a video that will not be continued, except in linked folders."""
    pictures = [make_partial_path(files.preview), files.preview]
    parts = [make_partial_path(path) for path in (files.clip, files.sheet, *files.captures.values())]
    parts += pictures
    if files.checkpoint is not None:
        parts += [files.checkpoint, make_partial_path(files.checkpoint)]
    # Folder by folder, because thousands of videos that never started may be cancelled at once.
    for folder in dict.fromkeys(part.parent for part in parts):
        if not os.path.lexists(folder):
            continue
        if files.root is not None and find_linked_folder(files.root, folder / files.clip.name) is not None:
            continue
        for part in parts:
            if part.parent == folder and os.path.lexists(part):
                # A preview that cannot be removed is harmless: in a sticky folder it may belong to another user.
                with suppress(OSError) if part in pictures else nullcontext():
                    remove_path(part)
