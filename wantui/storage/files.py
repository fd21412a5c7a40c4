"""The files of one video, and what of them is removed when it is given up."""

from dataclasses import dataclass
from pathlib import Path

from wantui.storage.atomic import partial_path, remove
from wantui.storage.layout import BatchFolder


@dataclass(frozen=True)
class VideoFiles:
    """Where the parts of one video go."""

    clip: Path
    sheet: Path
    latents: Path | None = None
    """The trajectory: with latents, or only what was derived from them. Nothing: it is not stored."""
    attention: Path | None = None
    checkpoint: Path | None = None
    """Nothing: a video that is ended early leaves nothing."""

    @property
    def preview(self) -> Path:
        """Pictures of what the video will be, while it is made."""
        return self.clip.with_suffix(".preview.png")


def video_files(folder: BatchFolder, variation: int, number: int) -> VideoFiles:
    """Of the `number`-th video (from 1) of a variation (from 0) of a batch."""
    place = variation, number
    return VideoFiles(
        folder.clip(*place),
        folder.sheet(*place),
        folder.latents(*place),
        folder.attention(*place),
        folder.checkpoint(*place),
    )


def make_folders(files: VideoFiles) -> None:
    """Make the folders of a video's files.

    The writers make none above a file's own: a batch folder that is deleted while they work must not come back.
    """
    for path in (files.clip, files.sheet, files.latents, files.attention, files.checkpoint):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)


def discard(files: VideoFiles) -> None:
    """Remove the temporary files of a video that will not be continued."""
    captures = [path for path in (files.latents, files.attention) if path is not None]
    parts = [partial_path(path) for path in (files.clip, files.sheet, files.preview, *captures)]
    parts.append(files.preview)
    if files.checkpoint is not None:
        parts += [files.checkpoint, partial_path(files.checkpoint)]
    for part in parts:
        remove(part)
