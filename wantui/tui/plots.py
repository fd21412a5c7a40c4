"""Curves in braille, sparklines, bars, and pictures in half blocks."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_BARS = " ▁▂▃▄▅▆▇█"


def braille(values: Sequence[float | None], width: int, height: int, low: float, high: float) -> list[str]:
    """Draw a curve between `low` and `high` in `height` lines of `width` characters; None, NaN and infinity leave gaps.

    A character has two by four dots. If there are more than `2 * width` values, only the last ones are drawn.
    """
    cells = [[0] * width for _ in range(height)]
    shown = list(values)[-2 * width :]
    span = (high - low) or 1.0
    before: int | None = None
    for x, value in enumerate(shown):
        if value is None or not math.isfinite(value):
            before = None
            continue
        share = min(1.0, max(0.0, (value - low) / span))
        y = round((1 - share) * (4 * height - 1))
        # A vertical line to the previous value connects steep parts.
        rows = range(min(y, before), max(y, before) + 1) if before is not None else (y,)
        for row in rows:
            cells[row // 4][x // 2] |= _DOTS[row % 4][x % 2]
        before = y
    return ["".join(chr(0x2800 + cell) if cell else " " for cell in line) for line in cells]


def sparkline(values: Sequence[float | None], width: int) -> str:
    """Draw values as one line of bars, scaled from minimum to maximum; None, NaN and infinity leave gaps."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if not finite or width < 1:
        return " " * max(width, 0)
    low, high = min(finite), max(finite)
    span = (high - low) or 1.0
    shown = min(width, len(values))
    chosen = [values[i * len(values) // shown] for i in range(shown)]
    return "".join(
        _BARS[1 + round((value - low) / span * 7)] if value is not None and math.isfinite(value) else " "
        for value in chosen
    ).ljust(width)


def bar(share: float, width: int) -> str:
    """Draw a horizontal bar of `width` characters; a share of 1 fills it."""
    share = min(1.0, max(0.0, share if math.isfinite(share) else 0.0))
    eighths = round(share * width * 8)
    full_cells, remainder = divmod(eighths, 8)
    return ("█" * full_cells + ("▏▎▍▌▋▊▉"[remainder - 1] if remainder else "")).ljust(width, "─")


def half_blocks(picture: "NDArray[np.uint8]", width: int, height: int) -> list[Text]:
    """Draw a picture [rows, columns, rgb] in at most `height` lines of `width` characters, two pixels per character."""
    import numpy as np

    rows, columns = picture.shape[:2]
    scale = min(width / columns, 2 * height / rows)
    size = max(1, round(rows * scale)), max(1, round(columns * scale))
    y = (np.arange(size[0]) * rows // size[0]).astype(int)
    x = (np.arange(size[1]) * columns // size[1]).astype(int)
    pixels = picture[y][:, x]
    if len(pixels) % 2:
        pixels = np.concatenate([pixels, pixels[-1:]])
    lines = []
    for upper, lower in zip(pixels[::2].tolist(), pixels[1::2].tolist(), strict=True):
        line = Text(no_wrap=True, end="")
        for (r, g, b), (s, h, c) in zip(upper, lower, strict=True):
            line.append("▀", Style(color=f"#{r:02x}{g:02x}{b:02x}", bgcolor=f"#{s:02x}{h:02x}{c:02x}"))
        lines.append(line)
    return lines


def centred(picture: "NDArray[np.uint8]", width: int, height: int) -> list[Text]:
    """Draw a picture as large as possible in the centre of `height` lines of `width` characters."""
    lines = half_blocks(picture, max(1, width), max(1, height))
    left = " " * ((width - lines[0].cell_len) // 2)
    above = (height - len(lines)) // 2
    return [Text("")] * above + [Text(left).append_text(line) for line in lines]
