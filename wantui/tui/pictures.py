"""Reading pictures that other processes write: previews and contact sheets."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_PIXELS = 64_000_000
"""Pixels of the largest picture that is read: a file in a shared folder may claim to be any size."""


def read_picture(path: Path, within: tuple[int, int] | None = None) -> "NDArray[np.uint8] | None":
    """Read a picture as uint8 [height, width, rgb]; None where it is missing, damaged or too large.

    Args:
        within: width and height in pixels to which it is scaled down.
    """
    import numpy as np
    from PIL import Image

    try:
        if not path.is_file():  # opening a pipe would never return
            return None
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                return None
            if within is not None:
                image.thumbnail(within)
            return np.asarray(image.convert("RGB"))
    except Exception:  # whatever a decoder raises over damaged bytes: SyntaxError, struct.error, MemoryError, ...
        return None
