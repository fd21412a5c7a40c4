"""The files of one video: create their folders, refuse links, and remove the files of cancelled videos."""

import os
from collections.abc import Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from wantui.atomic_files import partial_path, remove
from wantui.captures import CAPTURES
from wantui.errors import UserError
from wantui.storage.layout import BatchFolder


class LinkedFolderError(UserError):
    """A folder below a batch folder is a symbolic link, which may lead to files of somebody else."""

    def __init__(self, link: Path) -> None:
        super().__init__(
            f"{link} is a symbolic link, and wantui writes only into folders that lie in the batch folder itself; "
            "replace the link by a folder, or give the whole batch another place with output_dir"
        )


@dataclass(frozen=True)
class VideoFiles:
    """Paths of the parts of one video."""

    clip: Path
    sheet: Path
    captures: Mapping[str, Path] = field(default_factory=dict)
    """Zarr groups by the name of their capture; a capture without a path is not stored."""
    checkpoint: Path | None = None
    """Path of the checkpoint; None: an interrupted video leaves no files."""
    root: Path | None = None
    """The batch folder, below which no folder may be a link; None for files that are in no batch."""

    def paths(self) -> Iterator[Path]:
        """Yield the final path of every part that is stored."""
        yield from (self.clip, self.sheet, *self.captures.values())
        if self.checkpoint is not None:
            yield self.checkpoint

    @property
    def preview(self) -> Path:
        """Return the path of the pictures that preview the video while it is rendered."""
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
    """Return the first folder between a batch folder and a path in it that is a symbolic link, if one is.

    The batch folder itself and what is above it may be links: the user named them.
    """
    folder = root
    for part in path.relative_to(root).parts[:-1]:
        folder /= part
        if folder.is_symlink():
            return folder
    return None


def make_parent_folders(root: Path, path: Path) -> None:
    """Make the folders between a batch folder and a path in it.

    Raises:
        LinkedFolderError: one of them is a symbolic link.
        OSError: one cannot be made.
    """
    if (link := find_linked_folder(root, path)) is not None:
        raise LinkedFolderError(link)
    path.parent.mkdir(parents=True, exist_ok=True)


def make_video_folders(files: VideoFiles) -> None:
    """Make the folders of a video's files.

    The writers make none above a file's own: a batch folder that is deleted while they work must not come back.

    Raises:
        LinkedFolderError: one of them is a symbolic link.
        OSError: one cannot be made.
    """
    for path in files.paths():
        make_parent_folders(files.root or path.parent, path)


def refuse_linked_folders(files: VideoFiles) -> None:
    """Check again, before a video's files get their final names, that none of their folders has become a link.

    Raises:
        LinkedFolderError: one has.
    """
    for path in files.paths():
        if files.root is not None and (link := find_linked_folder(files.root, path)) is not None:
            raise LinkedFolderError(link)


def remove_temporary_files(files: VideoFiles) -> None:
    """Remove the temporary files of a video that will not be continued; those behind a linked folder stay."""
    pictures = [partial_path(files.preview), files.preview]
    parts = [partial_path(path) for path in (files.clip, files.sheet, *files.captures.values())]
    parts += pictures
    if files.checkpoint is not None:
        parts += [files.checkpoint, partial_path(files.checkpoint)]
    # Folder by folder: thousands of videos that were never begun can be cancelled at once.
    for folder in dict.fromkeys(part.parent for part in parts):
        if not os.path.lexists(folder):
            continue
        if files.root is not None and find_linked_folder(files.root, folder / files.clip.name) is not None:
            continue
        for part in parts:
            if part.parent == folder and os.path.lexists(part):
                # A preview that cannot be removed costs no video: in a sticky folder it may belong to another user.
                with suppress(OSError) if part in pictures else nullcontext():
                    remove(part)
