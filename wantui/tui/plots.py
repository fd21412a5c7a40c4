"""Curves in braille, sparklines, bars, and pictures in block characters."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text

from wantui.tui.block_characters import PICTURE_STYLE, draw_blocks, name_colour
from wantui.tui.braille import BrailleCanvas
from wantui.tui.pictures import fit_picture_cells

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_BAR_LEVELS = " ▁▂▃▄▅▆▇█"


def draw_curve(values: Sequence[float | None], width: int, height: int, low: float, high: float) -> list[str]:
    """Draw a curve between `low` and `high` in `height` lines of `width` characters; None, NaN and infinity leave gaps.

    A character has two by four dots. Only the last `2 * width` values are drawn.
    """
    canvas = BrailleCanvas(width, height)
    shown_values = list(values)[-2 * width :]
    value_range = (high - low) or 1.0
    previous_y: int | None = None
    for x, value in enumerate(shown_values):
        if value is None or not math.isfinite(value):
            previous_y = None
            continue
        relative_height = min(1.0, max(0.0, (value - low) / value_range))
        y = round((1 - relative_height) * (canvas.dot_rows - 1))
        # A vertical line to the previous value connects steep parts.
        rows = range(min(y, previous_y), max(y, previous_y) + 1) if previous_y is not None else (y,)
        for row in rows:
            canvas.add_dot(x, row, Style.null())
        previous_y = y
    return [canvas.draw_row(row).plain for row in range(height)]


def draw_sparkline(values: Sequence[float | None], width: int) -> str:
    """Draw values as one line of bars, scaled from minimum to maximum; None, NaN and infinity leave gaps."""
    finite_values = [value for value in values if value is not None and math.isfinite(value)]
    if not finite_values or width < 1:
        return " " * max(width, 0)
    low, high = min(finite_values), max(finite_values)
    value_range = (high - low) or 1.0
    bar_count = min(width, len(values))
    chosen_values = [values[i * len(values) // bar_count] for i in range(bar_count)]
    return "".join(
        _BAR_LEVELS[1 + round((value - low) / value_range * 7)] if value is not None and math.isfinite(value) else " "
        for value in chosen_values
    ).ljust(width)


def draw_bar(filled_share: float, width: int) -> str:
    """Draw a slim horizontal bar of `width` characters in steps of half a character; only a share of 1 fills it."""
    filled_count, has_half = _count_filled_cells(filled_share, width)
    return ("━" * filled_count + "╸" * has_half).ljust(width, "─")


def draw_styled_bar(filled_share: float, width: int, style: Style | str) -> Text:
    """Draw the bar of `draw_bar` with its filled part in a style and its empty part dim."""
    filled_count, has_half = _count_filled_cells(filled_share, width)
    bar = draw_bar(filled_share, width)
    return Text.assemble((bar[: filled_count + has_half], style), (bar[filled_count + has_half :], "dim"))


def _count_filled_cells(filled_share: float, width: int) -> tuple[int, int]:
    """Return the number of filled characters, and 1 if half a character follows; only a share of 1 fills the bar."""
    filled_share = min(1.0, max(0.0, filled_share if math.isfinite(filled_share) else 0.0))
    half_count = 2 * width if filled_share == 1 else min(round(filled_share * width * 2), 2 * width - 1)
    filled_count, has_half = divmod(max(0, half_count), 2)
    return filled_count, has_half


def draw_picture(picture: "NDArray[np.uint8]", width: int, height: int) -> list[Text]:
    """Draw a picture [rows, columns, rgb] as large as fits into `height` lines of `width` characters."""
    cells = draw_blocks(fit_picture_cells(picture, width, height))
    return [Text.assemble(*line, no_wrap=True, end="") for line in cells]


def draw_centred_picture(picture: "NDArray[np.uint8]", width: int, height: int) -> list[Text]:
    """Draw a picture as large as possible in the centre of `height` lines of `width` characters."""
    lines = draw_picture(picture, max(1, width), max(1, height))
    left_margin = " " * ((width - lines[0].cell_len) // 2)
    empty_lines = (height - len(lines)) // 2
    return [Text("")] * empty_lines + [Text(left_margin).append_text(line) for line in lines]


def draw_colour_scale(colours: "Sequence[Sequence[int]]", width: int) -> Text:
    """Draw a colour scale in a line of `width` characters, each with two of its colours [rgb] side by side."""
    last = len(colours) - 1
    scale = Text(no_wrap=True, end="")
    for cell in range(width):
        left, right = (colours[(2 * cell + half) * last // (2 * width - 1)] for half in (0, 1))
        style = Style(color=name_colour(left), bgcolor=name_colour(right))
        scale.append("▌", PICTURE_STYLE + style)
    return scale
