"""Pictures in a terminal without colours (NO_COLOR): characters of the same brightness instead of blocks."""

from collections.abc import Callable

from rich.color import Color as RichColor
from rich.segment import Segment
from textual.color import Color
from textual.filter import NoColor

from wantui.tui.block_characters import BLOCKS, FOREGROUNDS, PICTURE_STYLE

SHADES = " ░▒▓█"
"""Characters by brightness, on a dark background."""
FRONT_SHARES = {block: sum(quadrants) / 4 for block, quadrants in zip(BLOCKS, FOREGROUNDS, strict=True)}
"""Share of a cell with the foreground colour, by character."""


class ColourlessFilter(NoColor):
    """Filter that removes colours; cells of a picture (`PICTURE_STYLE`) become shades.

    Args:
        is_dark: returns whether the background of the terminal is dark.
    """

    def __init__(self, is_dark: Callable[[], bool]) -> None:
        super().__init__()
        self._is_dark = is_dark

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """Return segments without colours."""
        shades = SHADES if self._is_dark() else SHADES[::-1]
        return super().apply([_draw_shade(segment, shades) for segment in segments], background)


def _draw_shade(segment: Segment, shades: str) -> Segment:
    """Return a segment of equal picture cells as a shade; return other segments unchanged."""
    text, style, control = segment
    if style is None or text[:1] not in FRONT_SHARES or text.strip(text[0]):
        return segment
    if style.meta != PICTURE_STYLE.meta or style.color is None or style.bgcolor is None:
        return segment
    front, back = _measure_brightness(style.color), _measure_brightness(style.bgcolor)
    brightness = back + FRONT_SHARES[text[0]] * (front - back)
    return Segment(shades[min(len(shades) - 1, int(brightness * len(shades)))] * len(text), style, control)


def _measure_brightness(colour: RichColor) -> float:
    """Return the luma of a colour in 0 to 1."""
    red, green, blue = colour.get_truecolor()
    return (0.299 * red + 0.587 * green + 0.114 * blue) / 255
