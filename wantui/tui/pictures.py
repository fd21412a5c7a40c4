"""Reading pictures that other processes write: previews and contact sheets."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_PICTURE_PIXELS = 64_000_000
"""Maximum pixels of a picture; larger files, possible in a shared folder, are not read."""


def read_picture(path: Path, max_size: tuple[int, int] | None = None) -> "NDArray[np.uint8] | None":
    """Read a picture as uint8 [height, width, rgb]; return None if it is missing, damaged or too large.

    Args:
        max_size: maximum width and height in pixels; a larger picture is scaled down.
    """
    import numpy as np
    from PIL import Image

    try:
        if not path.is_file():  # opening a named pipe would block forever
            return None
        with Image.open(path) as image:
            if image.width * image.height > MAX_PICTURE_PIXELS:
                return None
            if max_size is not None:
                image.thumbnail(max_size)
            return np.asarray(image.convert("RGB"))
    except Exception:  # decoders of damaged files can raise anything: SyntaxError, struct.error, MemoryError, ...
        return None
