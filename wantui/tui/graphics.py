"""Pixel graphics in terminals: the Kitty graphics protocol and Sixel.

Terminals are recognised by their environment variables, because a query may never be answered. Inside tmux and screen,
graphics are off, because both forward graphics only if configured. (textual-image queries the terminal on import, does
not play video, and needs a newer Python.)
"""

import base64
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Literal

from wantui.errors import UserError
from wantui.formatting import escape_unprintable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Protocol = Literal["kitty", "sixel"]
KITTY_PROGRAMS = {"WezTerm", "ghostty"}
"""Values of TERM_PROGRAM with the Kitty protocol."""
SIXEL_TERMS = {"foot", "foot-extra", "mlterm", "yaft-256color", "xterm-sixel", "contour"}
"""Values of TERM with Sixel."""
KITTY_CHUNK = 4096
"""Maximum base64 characters in one Kitty command."""
DEFAULT_CELL = (8, 16)
"""Assumed width and height of a terminal cell in pixels."""


def detect_protocol(environ: Mapping[str, str]) -> Protocol | None:
    """Return the graphics protocol of a terminal according to its environment, or None."""
    if "TMUX" in environ or environ.get("TERM", "").startswith(("screen", "tmux")):
        return None
    if "KITTY_WINDOW_ID" in environ or environ.get("TERM") in ("xterm-kitty", "xterm-ghostty"):
        return "kitty"
    if environ.get("TERM_PROGRAM") in KITTY_PROGRAMS or "KONSOLE_VERSION" in environ:
        return "kitty"
    return "sixel" if environ.get("TERM") in SIXEL_TERMS else None


def encode_kitty(picture: "NDArray[np.uint8]", columns: int, rows: int) -> bytes:
    """Encode a picture [height, width, rgb] as Kitty commands; the terminal scales it to `columns` by `rows` cells."""
    from PIL import Image

    file = BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    data = base64.standard_b64encode(file.getvalue())
    parts = [data[start : start + KITTY_CHUNK] for start in range(0, len(data), KITTY_CHUNK)]
    commands = []
    for number, part in enumerate(parts):
        # The constant image and placement ids (i, p) let each frame replace the previous one.
        first = f"a=T,f=100,i=1,p=1,q=2,C=1,c={columns},r={rows}," if number == 0 else ""
        commands.append(f"\x1b_G{first}m={int(number + 1 < len(parts))};".encode() + part + b"\x1b\\")
    return b"".join(commands)


def encode_sixel(picture: "NDArray[np.uint8]") -> bytes:
    """Encode a picture [height, width, rgb] as Sixel with up to 256 colours."""
    import numpy as np
    from PIL import Image

    image = Image.fromarray(picture).quantize(256)
    palette, pixels = image.getpalette() or [], np.asarray(image)
    height, width = pixels.shape
    out = [f'\x1bPq"1;1;{width};{height}']
    for colour in np.unique(pixels).tolist():
        red, green, blue = (round(value * 100 / 255) for value in palette[3 * colour : 3 * colour + 3])
        out.append(f"#{colour};2;{red};{green};{blue}")
    for top in range(0, height, 6):
        band = pixels[top : top + 6]
        rows = np.arange(len(band))[:, None]
        for colour in np.unique(band).tolist():
            bits = ((band == colour) << rows).sum(0)
            out.append(f"#{colour}{_encode_runs(bits.tolist())}$")
        out.append("-")
    return ("".join(out) + "\x1b\\").encode()


def _encode_runs(bits: Sequence[int]) -> str:
    """Encode six-pixel columns with run-length encoding of runs longer than three."""
    text, start = [], 0
    for index in range(1, len(bits) + 1):
        if index == len(bits) or bits[index] != bits[start]:
            length, character = index - start, chr(63 + bits[start])
            text.append(f"!{length}{character}" if length > 3 else character * length)
            start = index
    return "".join(text)


def fit_to_cells(
    size: tuple[int, int], columns: int, rows: int, cell: tuple[int, int] = DEFAULT_CELL
) -> tuple[int, int]:
    """Return the largest size in cells of a picture of `size` (width, height) pixels that keeps its aspect ratio."""
    scale = min(columns * cell[0] / size[0], rows * cell[1] / size[1])
    return max(1, round(size[0] * scale / cell[0])), max(1, round(size[1] * scale / cell[1]))


def play_frames(
    frames: Sequence["NDArray[np.uint8]"],
    fps: float,
    protocol: Protocol,
    title: str,
    write: Callable[[bytes], object],
    should_stop: Callable[[float], bool],
    window: tuple[int, int],
) -> None:
    """Play frames in a loop on a terminal.

    Args:
        should_stop: waits the given seconds, and returns true to stop.
        window: columns and rows of the terminal.
    """
    import numpy as np
    from PIL import Image

    size = (frames[0].shape[1], frames[0].shape[0])
    columns, rows = fit_to_cells(size, window[0], window[1] - 1)
    write(b"\x1b[2J\x1b[H")
    encoded: dict[int, bytes] = {}
    while True:
        for number, frame in enumerate(frames):
            start = time.monotonic()
            if number not in encoded:
                if protocol == "kitty":
                    encoded[number] = encode_kitty(frame, columns, rows)
                else:
                    scaled = Image.fromarray(frame).resize((columns * DEFAULT_CELL[0], rows * DEFAULT_CELL[1]))
                    encoded[number] = encode_sixel(np.asarray(scaled))
            line = f"{number + 1}/{len(frames)}  {escape_unprintable(title)}  press any key to stop"[: window[0]]
            write(b"\x1b[H" + encoded[number] + f"\x1b[{window[1]};1H{line}".encode())
            if should_stop(max(0.0, 1 / fps - (time.monotonic() - start))):
                write(b"\x1b_Ga=d\x1b\\\x1b[2J\x1b[H" if protocol == "kitty" else b"\x1b[2J\x1b[H")
                return


def require_protocol() -> Protocol:
    """Return the graphics protocol of this process's terminal.

    Raises:
        UserError: the terminal is not known to support graphics.
    """
    protocol = detect_protocol(os.environ)
    if protocol is None:
        raise UserError(
            "cannot play in pixels: this terminal is not known to support graphics. Use Kitty, WezTerm, Ghostty, "
            "Konsole, foot or mlterm without tmux, or press p to play in half blocks."
        )
    return protocol


def play_on_terminal(frames: Sequence["NDArray[np.uint8]"], fps: float, title: str, protocol: Protocol) -> None:
    """Play frames on this process's terminal until a key is pressed; call this inside `lend_terminal`."""
    out, saved_modes = sys.__stdout__, termios.tcgetattr(0)
    assert out is not None

    def write(data: bytes) -> None:
        out.buffer.write(data)
        out.flush()

    def wait_for_key(seconds: float) -> bool:
        if select.select([0], [], [], seconds)[0]:
            os.read(0, 1024)
            return True
        return False

    window = os.get_terminal_size(out.fileno())
    try:
        tty.setcbreak(0)
        modes = termios.tcgetattr(0)
        modes[3] &= ~termios.ISIG  # Ctrl-C is a key like any other
        termios.tcsetattr(0, termios.TCSADRAIN, modes)
        size = window.columns or 80, window.lines or 24  # some terminals report 0
        play_frames(frames, fps, protocol, title, write, wait_for_key, size)
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, saved_modes)
