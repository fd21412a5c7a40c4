"""Pictures in a terminal without colours (NO_COLOR): characters of the same brightness instead of half blocks."""

from collections.abc import Callable

from rich.color import Color as RichColor
from rich.segment import Segment
from textual.color import Color
from textual.filter import NoColor

SHADES = " ░▒▓█"
"""Characters by brightness, on a dark background."""
HALF_BLOCK = "▀"


class ColourlessFilter(NoColor):
    """Filter that removes colours; cells of a picture, half blocks of two colours, become shades.

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
    """Return a segment of half blocks of two colours as a shade; others as they are."""
    text, style, control = segment
    if style is None or not text.startswith(HALF_BLOCK) or text.strip(HALF_BLOCK):
        return segment
    colours = [colour for colour in (style.color, style.bgcolor) if colour is not None and not colour.is_default]
    if len(colours) < 2:
        return segment
    brightness = sum(map(_measure_brightness, colours)) / 2
    return Segment(shades[min(len(shades) - 1, int(brightness * len(shades)))] * len(text), style, control)


def _measure_brightness(colour: RichColor) -> float:
    """Return the luma of a colour in 0 to 1."""
    red, green, blue = colour.get_truecolor()
    return (0.299 * red + 0.587 * green + 0.114 * blue) / 255
