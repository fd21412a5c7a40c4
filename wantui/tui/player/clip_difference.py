"""Difference of two clips: its mean in each frame, and pictures of it in a colour scale."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wantui.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from wantui.tui.pictures import Picture

MAX_LEVEL = 255
"""Largest level of a colour, and so the largest possible difference."""
COLOUR_COUNT = 256
"""Number of colours in the scale."""
MAX_MAP_SIDE = 256
"""Maximum width and height of a frame's stored difference, in pixels: more than most panels show."""


@dataclass(frozen=True)
class ClipDifference:
    """Absolute difference of two clips, in levels of a colour from 0 to 255."""

    means: tuple[float, ...]
    """Mean over the pixels and their three colours, by frame."""
    psnr: float
    """Peak signal-to-noise ratio of all frames in dB; infinite if they are equal."""
    scale_maximum: float
    """Upper end of the colour scale: the largest difference of a pixel, averaged over its colours; 1 if all are 0."""
    colours: "NDArray[np.uint8]"
    """Colours of the scale [COLOUR_COUNT, rgb]."""
    maps: "tuple[NDArray[np.float16], ...]"
    """Difference of each frame [height, width], averaged over the colours, and over the pixels if it is shrunk."""

    @property
    def mean(self) -> float:
        """Return the mean over all frames."""
        return sum(self.means) / len(self.means)

    def draw_picture(self, index: int, size: tuple[int, int]) -> "Picture":
        """Return the difference of a frame in the colours of the scale, in a width and height in pixels."""
        import numpy as np
        from PIL import Image

        levels = Image.fromarray(self.maps[index].astype(np.float32)).resize(size, Image.Resampling.BOX)
        shares = np.clip(np.asarray(levels) / self.scale_maximum, 0, 1)
        picture: Picture = self.colours[np.rint(shares * (COLOUR_COUNT - 1)).astype(np.uint8)]
        return picture


def measure_clip_difference(first: Path, second: Path, is_cancelled: Callable[[], bool]) -> ClipDifference | None:
    """Decode two clips in full size, and return their difference up to the end of the shorter clip; None if cancelled.

    Raises:
        UserError: a clip cannot be decoded, has no frames, or has not the size of the other one.
    """
    import numpy as np
    from PIL import Image

    from wantui.analysis.attention_overlay import map_heat_colours
    from wantui.analysis.similarity import compute_psnr
    from wantui.storage.mp4 import read_frames

    means, maps, largest, squares, value_count = [], [], 0.0, 0, 0
    # One thread for each clip leaves the other cores to the playback and to a running engine.
    for frame, other in zip(read_frames(first, thread_count=1), read_frames(second, thread_count=1), strict=False):
        if is_cancelled():
            return None
        if frame.shape != other.shape:
            raise UserError("cannot compare the clips: they differ in size")
        difference = np.abs(frame.astype(np.int16) - other)
        means.append(float(difference.mean()))
        levels = difference.mean(-1, dtype=np.float32)
        largest = max(largest, float(levels.max()))
        shrunk_levels = Image.fromarray(levels).reduce(-(-max(levels.shape) // MAX_MAP_SIDE))
        maps.append(np.asarray(shrunk_levels).astype(np.float16))
        squares += int(np.square(difference, dtype=np.int32).sum(dtype=np.int64))
        value_count += difference.size
    if not means:
        raise UserError("cannot compare the clips: one contains no frames")
    colours = np.rint(map_heat_colours(np.linspace(0, 1, COLOUR_COUNT, dtype=np.float32))).astype(np.uint8)
    return ClipDifference(tuple(means), compute_psnr(squares, value_count), largest or 1.0, colours, tuple(maps))
