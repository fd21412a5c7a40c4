"""Paths of a video's files: create their folders, reject linked folders, and remove files of cancelled videos."""

import os
from collections.abc import Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from wantui.atomic_files import make_partial_path, remove_path
from wantui.captures import CAPTURES
from wantui.errors import UserError
from wantui.storage.layout import BatchFolder
from wantui.storage.preview_files import make_preview_folder_path


class LinkedFolderError(UserError):
    """Raised if a folder inside a batch folder is a symbolic link, which may lead to files of another user."""

    def __init__(self, link: Path) -> None:
        super().__init__(
            f"cannot write {link}: it is a symbolic link, and wantui writes only inside the batch folder. "
            "Replace the link with a folder, or move the whole batch with output_dir"
        )


@dataclass(frozen=True)
class VideoFiles:
    """Paths of one video's files."""

    clip_path: Path
    sheet_path: Path
    capture_paths: Mapping[str, Path] = field(default_factory=dict)
    """Zarr groups by capture name; captures that are not stored are absent."""
    checkpoint_path: Path | None = None
    """Path of the checkpoint; None if the video cannot be resumed after an interruption, and then leaves no files."""
    batch_root: Path | None = None
    """The batch folder, which must not contain linked folders; None for files outside a batch."""

    def list_paths(self) -> Iterator[Path]:
        """Yield the final path of every stored file or group."""
        yield from (self.clip_path, self.sheet_path, *self.capture_paths.values())
        if self.checkpoint_path is not None:
            yield self.checkpoint_path

    @property
    def preview_path(self) -> Path:
        """Return the path of the preview picture that is shown while the video is rendered."""
        return self.clip_path.with_suffix(".preview.png")


def find_video_files(folder: BatchFolder, variation: int, number: int, cell_folder: str = "") -> VideoFiles:
    """Return the files of the `number`-th video (from 1) of a variation (from 0) of a batch.

    Args:
        cell_folder: folder name of its cell; empty without a sweep.
    """
    location = variation, number, cell_folder
    return VideoFiles(
        folder.make_clip_path(*location),
        folder.make_sheet_path(*location),
        {kind.name: folder.make_capture_path(kind, *location) for kind in CAPTURES},
        folder.make_checkpoint_path(*location),
        folder.root,
    )


def find_linked_folder(batch_root: Path, path: Path) -> Path | None:
    """Return the first symbolic link among the folders between a batch folder and a path in it; None without one.

    The batch folder and its parents may be links: the user named them.
    """
    folder = batch_root
    for folder_name in path.relative_to(batch_root).parts[:-1]:
        folder /= folder_name
        if folder.is_symlink():
            return folder
    return None


def make_parent_folders(batch_root: Path, path: Path) -> None:
    """Create the folders between a batch folder and a path in it.

    Raises:
        LinkedFolderError: one of the folders is a symbolic link.
        OSError: a folder cannot be created.
    """
    if (link := find_linked_folder(batch_root, path)) is not None:
        raise LinkedFolderError(link)
    path.parent.mkdir(parents=True, exist_ok=True)


def make_video_folders(files: VideoFiles) -> None:
    """Create the folders of a video's files.

    The file writers create no parent folders: a batch folder that is deleted meanwhile must not reappear.

    Raises:
        LinkedFolderError: one of the folders is a symbolic link.
        OSError: a folder cannot be created.
    """
    for path in files.list_paths():
        make_parent_folders(files.batch_root or path.parent, path)


def reject_linked_folders(files: VideoFiles) -> None:
    """Reject folders that became symbolic links, just before a video's files get their final names.

    Raises:
        LinkedFolderError: a folder is a symbolic link.
    """
    for path in files.list_paths():
        if files.batch_root is not None and (link := find_linked_folder(files.batch_root, path)) is not None:
            raise LinkedFolderError(link)


def remove_temporary_files(files: VideoFiles) -> None:
    """Remove the temporary files of a video that will not be continued, except in linked folders."""
    preview_paths = [
        make_partial_path(files.preview_path),
        files.preview_path,
        make_preview_folder_path(files.preview_path),
    ]
    temporary_paths = [
        make_partial_path(path) for path in (files.clip_path, files.sheet_path, *files.capture_paths.values())
    ]
    temporary_paths += preview_paths
    if files.checkpoint_path is not None:
        temporary_paths += [files.checkpoint_path, make_partial_path(files.checkpoint_path)]
    # Folder by folder, because thousands of videos that never started may be cancelled at once.
    for folder in dict.fromkeys(temporary_path.parent for temporary_path in temporary_paths):
        if not os.path.lexists(folder):
            continue
        if (
            files.batch_root is not None
            and find_linked_folder(files.batch_root, folder / files.clip_path.name) is not None
        ):
            continue
        for temporary_path in temporary_paths:
            if temporary_path.parent == folder and os.path.lexists(temporary_path):
                # A preview that cannot be removed is harmless: in a sticky folder it may belong to another user.
                with suppress(OSError) if temporary_path in preview_paths else nullcontext():
                    remove_path(temporary_path)
