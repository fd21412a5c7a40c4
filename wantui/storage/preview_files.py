"""Preview files of a video that is being rendered: the latest strip, and smaller strips of earlier steps.

A strip is a PNG with frames of the predicted video side by side; its text chunk `frames` contains their number.
`video_001.preview.png` is the latest strip. The folder `video_001.previews` contains `step_00012.png` for each step
with a preview: at most `MAX_STORED_PREVIEWS`, spread over the steps. Versions that know only the latest strip leave the
folder alone, and without the folder only the latest strip is shown.
"""

import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from wantui.atomic_files import create_empty_file, make_partial_path, remove_path, rename_created_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_STORED_PREVIEWS = 64
"""Maximum number of strips that are stored of earlier steps."""
MAX_STORED_FRAME_SIDE = 64
"""Maximum width and height of an earlier step's frame, in pixels: 64 strips of 5 frames take 4 MB at most."""
FRAME_COUNT_TAG = "frames"
"""Keyword of the text chunk with the number of frames in a strip."""
_STEP_FILE_PATTERN = re.compile(r"step_(\d{5,9})\.png")


def make_preview_folder_path(preview_path: Path) -> Path:
    """Return the folder of earlier strips next to the latest strip, `video_001.preview.png`."""
    return preview_path.with_suffix("").with_suffix(".previews")


def make_step_preview_path(folder: Path, step_number: int) -> Path:
    """Return the path of a step's strip in the folder of earlier strips."""
    return folder / f"step_{step_number:05d}.png"


def list_preview_steps(folder: Path) -> list[int]:
    """Return the steps with a stored strip, in order; empty without a folder, or for a symbolic link."""
    if folder.is_symlink():
        return []
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError:
        return []
    return sorted(int(match[1]) for match in map(_STEP_FILE_PATTERN.fullmatch, names) if match)


def write_preview(path: Path, frames: "NDArray[np.uint8]") -> None:
    """Write frames [n, height, width, rgb] as a strip, which gets its final name only when it is complete.

    Raises:
        OSError: the strip cannot be written; no partial file remains.
    """
    import numpy as np
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    tags = PngInfo()
    tags.add_text(FRAME_COUNT_TAG, str(len(frames)))
    temporary_path = make_partial_path(path)
    try:
        temporary_file_identity = create_empty_file(temporary_path)
        image = Image.fromarray(np.concatenate(list(frames), axis=1))
        image.save(temporary_path, format="PNG", pnginfo=tags)
        rename_created_file(temporary_path, path, temporary_file_identity)
    except OSError:
        with suppress(OSError):
            remove_path(temporary_path)
        raise


def shrink_frames(frames: "NDArray[np.uint8]", max_side: int) -> "NDArray[np.uint8]":
    """Return frames [n, height, width, rgb] of height and width at most `max_side`, with the same aspect ratio."""
    import numpy as np
    from PIL import Image

    height, width = frames.shape[1:3]
    scale = max_side / max(height, width)
    if scale >= 1:
        return frames
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX)) for frame in frames])


class PreviewFolder:
    """Writer of the strips of earlier steps; if there are too many strips, every second one is removed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.step_numbers: list[int] | None = None
        """Steps with a stored strip; None before the first strip."""
        self.step_stride = 1
        """Number of previews per stored strip; doubles each time strips are removed."""
        self._preview_count = 0

    def add_preview(self, step_number: int, frames: "NDArray[np.uint8]") -> None:
        """Store a small strip of a step, unless enough strips of neighbouring steps exist.

        Raises:
            OSError: the folder is a symbolic link, or cannot be written.
        """
        if self.step_numbers is None:
            if self.folder.is_symlink():
                raise OSError(f"{self.folder} is a symbolic link")
            self.folder.mkdir(exist_ok=True)
            self.step_numbers = self._remove_later_previews(step_number)
        self._preview_count += 1
        if (self._preview_count - 1) % self.step_stride:
            return
        if len(self.step_numbers) >= MAX_STORED_PREVIEWS:
            for removed_step in self.step_numbers[1::2]:
                make_step_preview_path(self.folder, removed_step).unlink(missing_ok=True)
            self.step_numbers, self.step_stride = self.step_numbers[::2], 2 * self.step_stride
        write_preview(make_step_preview_path(self.folder, step_number), shrink_frames(frames, MAX_STORED_FRAME_SIDE))
        self.step_numbers.append(step_number)

    def _remove_later_previews(self, step_number: int) -> list[int]:
        """Remove the strips of later steps: an interrupted process rendered these steps, which are now repeated."""
        stored_steps = list_preview_steps(self.folder)
        for stored_step in stored_steps:
            if stored_step >= step_number:
                make_step_preview_path(self.folder, stored_step).unlink(missing_ok=True)
        return [stored_step for stored_step in stored_steps if stored_step < step_number]
