"""Read pictures that other processes wrote, such as previews and contact sheets, and fit them into a pane."""

from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from wantui.storage.preview_files import FRAME_COUNT_TAG

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    Picture: TypeAlias = NDArray[np.uint8]
    """Picture [height, width, rgb]."""

MAX_PICTURE_PIXELS = 64_000_000
"""Maximum pixels of a picture; larger files, possible in a shared folder, are not read."""
MAX_STRIP_FRAMES = 64
"""Maximum number of frames in a strip."""


def read_picture(path: Path, max_size: tuple[int, int] | None = None) -> "Picture | None":
    """Read a picture as uint8 [height, width, rgb]; return None if it is missing, damaged or too large.

    Args:
        max_size: maximum width and height in pixels; a larger picture is scaled down.
    """
    image = _read_image(path, max_size)
    return None if image is None else _to_picture(image)


def read_strip_frames(path: Path) -> "list[Picture]":
    """Read the frames of a strip (`storage.preview_files`); empty if it is missing, damaged or too large.

    A strip of an earlier version does not record the number of its frames, and counts as one frame.
    """
    if (image := _read_image(path, None)) is None:
        return []
    try:
        frame_count = int(image.info.get(FRAME_COUNT_TAG, 1))
    except (ValueError, TypeError):
        frame_count = 1
    if not 1 <= frame_count <= MAX_STRIP_FRAMES or image.width % frame_count:
        frame_count = 1
    return _split_frames(_to_picture(image), frame_count)


def read_sheet_frames(path: Path, frame_count: int, max_size: tuple[int, int] | None = None) -> "list[Picture]":
    """Read the frames of a contact sheet; empty if it is missing, damaged or too large.

    Args:
        frame_count: number of frames in the video.
        max_size: maximum width and height of the sheet in pixels.
    """
    from wantui.storage.contact_sheet import list_sheet_frames  # imports numpy

    sheet = read_picture(path, max_size)
    return [] if sheet is None else _split_frames(sheet, len(list_sheet_frames(frame_count)))


def _split_frames(picture: "Picture", count: int) -> "list[Picture]":
    """Return the equally wide frames that are side by side in a picture."""
    edges = [round(index * picture.shape[1] / count) for index in range(count + 1)]
    return [picture[:, left : max(right, left + 1)] for left, right in pairwise(edges)]


def _read_image(path: Path, max_size: tuple[int, int] | None) -> "Image | None":
    from PIL import Image

    try:
        if not path.is_file():  # opening a named pipe would block forever
            return None
        with Image.open(path) as image:
            if image.width * image.height > MAX_PICTURE_PIXELS:
                return None
            if max_size is not None:
                image.thumbnail(max_size)
            rgb_image = image.convert("RGB")
            rgb_image.info = dict(image.info)
            return rgb_image
    except Exception:  # decoders of damaged files can raise anything: SyntaxError, struct.error, MemoryError, ...
        return None


def _to_picture(image: "Image") -> "Picture":
    import numpy as np

    return np.asarray(image)


def shrink_picture(picture: "Picture", max_side: int) -> "Picture":
    """Return a picture scaled to a width and height of at most `max_side`, keeping its aspect ratio."""
    scale = max_side / max(picture.shape[:2])
    return picture if scale >= 1 else _resize_picture(picture, scale)


def fit_picture_cells(picture: "Picture", width: int, height: int) -> "Picture":
    """Return a picture scaled as large as fits into `width` by `height` characters, with 2 by 2 pixels each.

    A character is twice as high as it is wide, and so is the pixel that it shows.
    """
    scale = min(width / picture.shape[1], 2 * height / picture.shape[0])
    columns = min(width, max(1, round(picture.shape[1] * scale)))
    rows = min(height, _count_rows(picture, scale))
    return _resize(picture, (2 * columns, 2 * rows), 2 * scale)


def measure_height(picture: "Picture", width: int) -> int:
    """Return the height in characters of a picture that `fit_picture_cells` makes `width` characters wide."""
    return _count_rows(picture, width / picture.shape[1])


def _count_rows(picture: "Picture", scale: float) -> int:
    pixel_rows: int = round(picture.shape[0] * scale)
    return max(1, ceil(pixel_rows / 2))


def stretch_picture(picture: "Picture", size: tuple[int, int]) -> "Picture":
    """Return a picture scaled to a width and height in pixels."""
    import numpy as np
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize(size))


def _resize_picture(picture: "Picture", scale: float) -> "Picture":
    return _resize(picture, (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))), scale)


def _resize(picture: "Picture", size: tuple[int, int], scale: float) -> "Picture":
    """Return a picture resized to a size in pixels; `scale` chooses between smoothing and averaging."""
    import numpy as np
    from PIL import Image

    method = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.BOX
    return np.asarray(Image.fromarray(picture).resize(size, method))
