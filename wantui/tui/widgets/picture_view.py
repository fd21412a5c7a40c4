"""Widget that shows a picture in half blocks and sends only changed cells."""

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from rich.color import Color, ColorType
from rich.color_triplet import ColorTriplet
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.events import Resize
from textual.geometry import Offset, Region
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from wantui.tui.block_characters import PICTURE_STYLE
from wantui.tui.colourless import SHADES
from wantui.tui.widgets.diff_text import make_strip
from wantui.tui.wrapping import wrap_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_INVISIBLE_CHANGE = 3
"""Largest change of a channel, of 255, for which a cell is not sent while the picture moves."""
MAX_GAP_COLUMNS = 6
"""Largest number of unchanged cells between two changed cells that are sent together."""
STANDARD_SYSTEMS = ("standard", "windows")
"""Names of colour systems with 16 colours."""
SHADES_SYSTEM = "shades"
"""Colour system name of a terminal that shows no colours at all."""
CUBE_LEVELS = (0, 95, 135, 175, 215, 255)
"""Levels of the channels in the cube of the 256 colours."""


def fit_picture_size(picture_size: tuple[int, int], columns: int, rows: int) -> tuple[int, int]:
    """Return the largest size in half-block pixels (width, even height) with the proportions of a picture."""
    scale = min(columns / picture_size[0], 2 * rows / picture_size[1])
    width, height = round(picture_size[0] * scale), 2 * round(picture_size[1] * scale / 2)
    return min(columns, max(1, width)), min(2 * rows, max(2, height))


def scale_picture(picture: "NDArray[np.uint8]", width: int, height: int) -> "NDArray[np.uint8]":
    """Scale a picture [rows, columns, rgb] by taking the nearest pixels."""
    import numpy as np

    if picture.shape[:2] == (height, width):
        return picture
    y = np.arange(height) * picture.shape[0] // height
    x = np.arange(width) * picture.shape[1] // width
    scaled: NDArray[np.uint8] = picture[y][:, x]
    return scaled


def round_colours(pixels: "NDArray[np.uint8]") -> "NDArray[np.uint8]":
    """Round colours to 64 levels per channel, so that the styles of a moving picture recur and are cached."""
    import numpy as np

    rounded: NDArray[np.uint8] = (pixels & np.uint8(0xFC)) | (pixels >> np.uint8(6))
    return rounded


def encode_colours(pixels: "NDArray[np.uint8]", color_system: str | None) -> "NDArray[np.int32]":
    """Encode colours as integers: 0xRRGGBB, indices of a terminal's 256 or 16 colours, or indices of `SHADES`."""
    import numpy as np

    values = pixels.astype(np.int32)
    codes: NDArray[np.int32]
    if color_system == "256":
        levels = np.abs(values[..., None] - np.array(CUBE_LEVELS)).argmin(-1)
        cube = 16 + 36 * levels[..., 0] + 6 * levels[..., 1] + levels[..., 2]
        cube_error = ((np.array(CUBE_LEVELS)[levels] - values) ** 2).sum(-1)
        grey_step = np.clip((values.mean(-1) - 3) // 10, 0, 23).astype(np.int32)
        grey_error = ((8 + 10 * grey_step[..., None] - values) ** 2).sum(-1)
        codes = np.where(grey_error < cube_error, 232 + grey_step, cube)
    elif color_system in STANDARD_SYSTEMS:
        palette = np.array([_get_standard_colour(number) for number in range(16)], dtype=np.int32)
        codes = ((values[..., None, :] - palette) ** 2).sum(-1).argmin(-1)
    elif color_system == SHADES_SYSTEM:
        codes = values @ np.array([299, 587, 114]) * len(SHADES) // 256_000
    else:
        codes = (values[..., 0] << 16) | (values[..., 1] << 8) | values[..., 2]
    return codes


def _get_standard_colour(number: int) -> tuple[int, int, int]:
    """Return the usual red, green and blue of one of the 16 colours."""
    triplet = Color.from_ansi(number).get_truecolor()
    return triplet.red, triplet.green, triplet.blue


@lru_cache(maxsize=1 << 14)
def _make_cell_style(upper: int, lower: int, color_system: str | None) -> Style:
    return PICTURE_STYLE + Style.from_color(_decode_colour(upper, color_system), _decode_colour(lower, color_system))


@lru_cache(maxsize=1 << 16)
def _decode_colour(code: int, color_system: str | None) -> Color:
    if color_system == "256":
        return Color(f"color({code})", ColorType.EIGHT_BIT, number=code)
    if color_system in STANDARD_SYSTEMS:
        return Color(f"color({code})", ColorType.STANDARD, number=code)
    # Color.from_triplet formats a name, which takes longer than all else.
    return Color("rgb", ColorType.TRUECOLOR, triplet=ColorTriplet(code >> 16, code >> 8 & 255, code & 255))


class PictureView(Widget):
    """Picture in half blocks, as large as possible in the centre, or a message.

    Args:
        is_at_top: whether the picture is at the top, below its label, instead of in the centre.
    """

    class Resized(Message):
        """The size of the widget changed."""

    def __init__(self, *, is_at_top: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.is_at_top = is_at_top
        self.set_reactive(PictureView.auto_links, False)  # else, the mouse over the picture repaints everything
        self.picture: NDArray[np.uint8] | None = None
        """The shown picture; None before the first one."""
        self.shown_pixels: NDArray[np.uint8] | None = None
        """Half-block pixels on the screen [2 * rows, columns, rgb]."""
        self._codes: NDArray[np.int32] | None = None
        self.picture_left = self._top = 0
        """First column and first row of the picture."""
        self._message_strips: list[Strip] = []

    def on_resize(self, event: Resize) -> None:
        if self.picture is not None:
            self.shown_pixels = None
            self.show_picture(self.picture)
        self.post_message(self.Resized())

    @property
    def _color_system(self) -> str | None:
        is_colourless = self.app.no_color and self.app.native_ansi_color  # NO_COLOR with a theme of 16 colours
        return SHADES_SYSTEM if is_colourless else self.app.console.color_system

    def show_message(self, text: str) -> None:
        """Show a centred text instead of a picture."""
        width = max(1, self.content_size.width)
        self.picture = self.shown_pixels = self._codes = None
        lines = wrap_text(text, max(1, width - 4), indent="") or [Text("")]
        self._top = max(0, (self.content_size.height - len(lines)) // 2)
        self._message_strips = []
        for line in lines:
            margin = " " * max(0, (width - line.cell_len) // 2)
            self._message_strips.append(make_strip(Text(margin).append_text(line), width))
        self.refresh()

    def show_picture(self, picture: "NDArray[np.uint8]", is_moving: bool = False) -> None:
        """Show a picture [rows, columns, rgb]; while it moves, changes that nobody sees are not sent."""
        import numpy as np

        columns, rows = self.content_size
        self.picture = picture
        if columns < 1 or rows < 1:
            return
        width, height = fit_picture_size((picture.shape[1], picture.shape[0]), columns, rows)
        pixels = scale_picture(picture, width, height)
        previous_pixels, previous_codes = self.shown_pixels, self._codes
        color_system = self._color_system
        if previous_pixels is None or previous_codes is None or previous_pixels.shape != pixels.shape:
            self._message_strips = []
            self.picture_left = (columns - width) // 2
            self._top = 0 if self.is_at_top else (rows - height // 2) // 2
            self.shown_pixels, self._codes = pixels, encode_colours(pixels, color_system)
            self.refresh()
            return
        change = np.abs(pixels.astype(np.int16) - previous_pixels).max(-1)
        is_pixel_changed = change > (MAX_INVISIBLE_CHANGE if is_moving else 0)
        is_cell_changed = is_pixel_changed[::2] | is_pixel_changed[1::2]
        is_sent = np.repeat(is_cell_changed, 2, axis=0)
        self.shown_pixels = np.where(is_sent[..., None], pixels, previous_pixels)
        sent_pixels = round_colours(self.shown_pixels) if is_moving else self.shown_pixels
        self._codes = encode_colours(sent_pixels, color_system)
        is_code_changed = self._codes != previous_codes
        self._refresh_cells(is_code_changed[::2] | is_code_changed[1::2])

    def _refresh_cells(self, is_changed: "NDArray[np.bool_]") -> None:
        """Refresh the changed cells [rows, columns] of the picture."""
        import numpy as np

        offset = Offset(self.picture_left, self._top)
        regions = []
        for y in np.flatnonzero(is_changed.any(1)).tolist():
            columns = np.flatnonzero(is_changed[y])
            ends = np.flatnonzero(np.diff(columns) > MAX_GAP_COLUMNS)
            starts = columns[np.concatenate([[0], ends + 1])].tolist()
            stops = columns[np.concatenate([ends, [len(columns) - 1]])].tolist()
            regions += [Region(start, y, stop + 1 - start, 1) for start, stop in zip(starts, stops, strict=True)]
        if regions:
            self.refresh(*(region.translate(offset) for region in regions))

    def render_line(self, y: int) -> Strip:
        width, base_style = self.content_size.width, self.rich_style
        row = y - self._top
        if self._message_strips:
            if not 0 <= row < len(self._message_strips):
                return Strip.blank(width, base_style)
            return self._message_strips[row].apply_style(base_style).adjust_cell_length(width, base_style)
        codes = self._codes
        if codes is None or not 0 <= row < len(codes) // 2:
            return Strip.blank(width, base_style)
        segments = [Segment(" " * self.picture_left, base_style)] if self.picture_left else []
        run_start, previous_pair, uppers, lowers = 0, None, codes[2 * row].tolist(), codes[2 * row + 1].tolist()
        for x, pair in enumerate([*zip(uppers, lowers, strict=True), None]):
            if pair != previous_pair:
                if previous_pair is not None:
                    segments.append(self._draw_equal_cells(previous_pair, x - run_start))
                run_start, previous_pair = x, pair
        picture_width = codes.shape[1]
        right_width = width - self.picture_left - picture_width
        if right_width > 0:
            segments.append(Segment(" " * right_width, base_style))
        return Strip(segments, self.picture_left + picture_width + max(0, right_width))

    def _draw_equal_cells(self, codes: tuple[int, int], width: int) -> Segment:
        """Draw `width` equal cells with the codes of their upper and lower pixel."""
        color_system = self._color_system
        if color_system != SHADES_SYSTEM:
            return Segment("▀" * width, _make_cell_style(*codes, color_system))
        shades = SHADES if self.app.current_theme.dark else SHADES[::-1]
        return Segment(shades[sum(codes) // 2] * width, self.rich_style)
