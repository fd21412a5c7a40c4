"""Pixel graphics in terminals: the Kitty graphics protocol and Sixel.

Terminals are recognised by their environment variables, because a query may never be answered. Inside tmux and screen,
graphics are off, because both forward graphics only if configured.

Only whole screens are drawn in pixels. In lists that scroll, pictures are block characters, for these reasons:

* Sixel pixels belong to no cell. Textual redraws cells that changed, so text over a picture, a dialog or a scroll
  leaves torn pictures, unless each one is cropped, encoded and sent again: 11 to 60 kB for a thumbnail of 96x96 pixels.
* The Kitty protocol can tie pictures to cells by placeholder characters, but of the terminals that speak it, few draw
  them; WezTerm and Konsole do not. The iTerm2 protocol has no such mode.
* textual-image queries the terminal when it is imported, has a widget per picture, and says itself that Sixel pictures
  flicker when they scroll. It neither plays videos nor works through `wantui serve`.
"""

import base64
import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Literal

from wantui.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Protocol = Literal["kitty", "sixel"]
KITTY_PROGRAMS = {"WezTerm", "ghostty"}
"""Values of TERM_PROGRAM with the Kitty protocol."""
SIXEL_TERMS = {"foot", "foot-extra", "mlterm", "yaft-256color", "xterm-sixel", "contour"}
"""Values of TERM with Sixel."""
MAX_KITTY_CHUNK_LENGTH = 4096
"""Maximum base64 characters in one Kitty command."""
PNG_LEVEL = 1
"""Compression level of pictures for Kitty: fast, because each frame is compressed while it is due."""
DEFAULT_CELL_SIZE = (8, 16)
"""Assumed width and height of a terminal cell in pixels."""


def detect_graphics_protocol(environment: Mapping[str, str]) -> Protocol | None:
    """Return the graphics protocol of a terminal according to its environment, or None."""
    if "TMUX" in environment or environment.get("TERM", "").startswith(("screen", "tmux")):
        return None
    if "KITTY_WINDOW_ID" in environment or environment.get("TERM") in ("xterm-kitty", "xterm-ghostty"):
        return "kitty"
    if environment.get("TERM_PROGRAM") in KITTY_PROGRAMS or "KONSOLE_VERSION" in environment:
        return "kitty"
    return "sixel" if environment.get("TERM") in SIXEL_TERMS else None


def encode_kitty_picture(picture: "NDArray[np.uint8]", columns: int, rows: int, image_id: int = 1) -> bytes:
    """Encode a picture [height, width, rgb] as Kitty commands; the terminal scales it to `columns` by `rows` cells.

    A picture replaces the previous one with the same `image_id`, without flicker.
    """
    from PIL import Image

    png_buffer = BytesIO()
    Image.fromarray(picture).save(png_buffer, format="PNG", compress_level=PNG_LEVEL)
    data = base64.standard_b64encode(png_buffer.getvalue())
    parts = [data[start : start + MAX_KITTY_CHUNK_LENGTH] for start in range(0, len(data), MAX_KITTY_CHUNK_LENGTH)]
    commands = []
    for part_number, part in enumerate(parts):
        header = f"a=T,f=100,i={image_id},p=1,q=2,C=1,c={columns},r={rows}," if part_number == 0 else ""
        commands.append(f"\x1b_G{header}m={int(part_number + 1 < len(parts))};".encode() + part + b"\x1b\\")
    return b"".join(commands)


def encode_sixel_picture(picture: "NDArray[np.uint8]") -> bytes:
    """Encode a picture [height, width, rgb] as Sixel with up to 256 colours."""
    import numpy as np
    from PIL import Image

    image = Image.fromarray(picture).quantize(256)
    palette, pixels = image.getpalette() or [], np.asarray(image)
    height, width = pixels.shape
    parts = [f'\x1bPq"1;1;{width};{height}']
    for colour in np.unique(pixels).tolist():
        red, green, blue = (round(value * 100 / 255) for value in palette[3 * colour : 3 * colour + 3])
        parts.append(f"#{colour};2;{red};{green};{blue}")
    for top in range(0, height, 6):
        band = pixels[top : top + 6]
        rows = np.arange(len(band))[:, None]
        for colour in np.unique(band).tolist():
            bits = ((band == colour) << rows).sum(0)
            parts.append(f"#{colour}{_encode_runs(bits.tolist())}$")
        parts.append("-")
    return ("".join(parts) + "\x1b\\").encode()


def _encode_runs(bits: Sequence[int]) -> str:
    """Encode six-pixel columns: a run of more than three equal columns becomes a count and one column."""
    runs, start = [], 0
    for index in range(1, len(bits) + 1):
        if index == len(bits) or bits[index] != bits[start]:
            length, character = index - start, chr(63 + bits[start])
            runs.append(f"!{length}{character}" if length > 3 else character * length)
            start = index
    return "".join(runs)


def fit_picture_to_cells(
    picture_size: tuple[int, int], columns: int, rows: int, cell_size: tuple[int, int] = DEFAULT_CELL_SIZE
) -> tuple[int, int]:
    """Return the largest size, in cells, that keeps the proportions of `picture_size` (width, height) pixels."""
    scale = min(columns * cell_size[0] / picture_size[0], rows * cell_size[1] / picture_size[1])
    return max(1, round(picture_size[0] * scale / cell_size[0])), max(1, round(picture_size[1] * scale / cell_size[1]))


def require_graphics_protocol() -> Protocol:
    """Return the graphics protocol of this process's terminal.

    Raises:
        UserError: the terminal is not known to support graphics.
    """
    protocol = detect_graphics_protocol(os.environ)
    if protocol is None:
        raise UserError(
            "cannot play in pixels: this terminal is not known to support graphics. Use Kitty, WezTerm, Ghostty, "
            "Konsole, foot or mlterm without tmux, or press p to play in half blocks."
        )
    return protocol
