"""Labelled grids: pictures or clips in rows and columns, as one picture (PNG) or one clip (MP4) that plays all in sync.

The batch sheet, the grid of decoded steps and the grid of attention maps are drawn here.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wantui.atomic_files import atomic_write
from wantui.errors import UserError
from wantui.formatting import capitalize_first, shorten_labels
from wantui.storage.mp4 import ClipError, Frame, write_mp4

if TYPE_CHECKING:
    from PIL import Image, ImageFont

MAX_PICTURE_SIDE = 16_384
"""Maximum width and height of a PNG in pixels."""
MAX_CLIP_SIDE = 4096
"""Maximum width and height of an MP4 in pixels: most H.264 decoders accept no more."""
MAX_SYNCHRONIZED_CLIPS = 256
"""Maximum number of clips in an MP4: each is an open decoder."""
MIN_CELL_WIDTH = 32
GAP = 4
"""Space between cells in pixels."""
FONT_SIZE = 15
"""Label text height in pixels."""
MAX_LABEL_LENGTH = 500
"""Longest drawn label, in characters."""
MAX_LABEL_SHARE = 0.4
"""Maximum share of a grid's width for the row labels."""
BACKGROUND, EMPTY_CELL, TEXT, DIM_TEXT = (18, 19, 23), (34, 36, 43), (230, 230, 235), (140, 144, 156)
COLOUR_BAR_HEIGHT = 12
"""Height of a colour bar's colours in pixels."""


@dataclass(frozen=True)
class FrameCell:
    """Frames of one cell, read when the grid is written."""

    read_frames: Callable[[], Generator[Frame, None, None]] | None
    """Function that yields the frames; None for a cell without a clip."""
    frame_count: int
    placeholder: str = ""
    """Text in the cell if it has no frames."""


@dataclass(frozen=True)
class ColourBar:
    """Scale of colours below a grid, shared by all its cells."""

    colours: Frame
    """[1, n, rgb] colours from the low to the high end."""
    low_text: str
    high_text: str
    title: str
    """Quantity and unit."""


@dataclass(frozen=True)
class LabelledGrid:
    """Cells with the labels of their rows and columns."""

    row_labels: tuple[str, ...]
    column_labels: tuple[str, ...]
    cells: dict[tuple[int, int], FrameCell]
    """Cells by row and column; places without a cell stay empty."""
    frame_size: tuple[int, int]
    """Width and height of the frames in pixels."""
    selection_advice: str
    """Advice in errors about too many cells: the options that select fewer."""
    colour_bar: ColourBar | None = None
    caption: str = ""
    """Line below the cells."""


@dataclass(frozen=True)
class GridLayout:
    """Positions of a grid's cells, in pixels."""

    cell_size: tuple[int, int]
    """Width and height of a cell."""
    label_width: int
    header_height: int
    footer_height: int
    size: tuple[int, int]
    """Width and height of the grid; both are even, as H.264 requires."""

    def cell_origin(self, row: int, column: int) -> tuple[int, int]:
        """Return the left and top pixel of a cell."""
        width, height = self.cell_size
        return self.label_width + column * (width + GAP), self.header_height + row * (height + GAP)


@dataclass(frozen=True)
class WrittenGrid:
    """A written grid, and the clips that the grid shows as unreadable."""

    path: Path
    size: tuple[int, int]
    """Width and height in pixels."""
    unreadable: tuple[str, ...]
    """Reason for each clip that could not be decoded completely."""


def arrange_grid(grid: LabelledGrid, cell_width: int | None, max_side: int) -> GridLayout:
    """Return the layout of a grid.

    Args:
        cell_width: width of a cell in pixels; None uses the width of the frames, or less if they do not fit.
        max_side: maximum width and height of the grid, in pixels.

    Raises:
        UserError: the grid would be too large.
    """
    frame_width, frame_height = grid.frame_size
    widest_label = max(_measure_text(label) for label in grid.row_labels) + 3 * GAP
    rows, columns = len(grid.row_labels), len(grid.column_labels)
    footer_height = (FONT_SIZE + 2 * GAP) * bool(grid.caption)
    if grid.colour_bar is not None:
        footer_height += COLOUR_BAR_HEIGHT + FONT_SIZE + 4 * GAP

    def arrange(width: int) -> GridLayout:
        height = max(1, round(width * frame_height / frame_width))
        cells_width = columns * (width + GAP)
        label_width = min(widest_label, max(120, round(cells_width * MAX_LABEL_SHARE / (1 - MAX_LABEL_SHARE))))
        header_height = FONT_SIZE + 4 * GAP
        size = label_width + cells_width, header_height + rows * (height + GAP) + footer_height
        even_size = size[0] + size[0] % 2, size[1] + size[1] % 2
        return GridLayout((width, height), label_width, header_height, footer_height, even_size)

    if cell_width is not None:
        layout = arrange(cell_width)
        if max(layout.size) > max_side:
            raise UserError(
                f"cannot make a sheet of {layout.size[0]:,} x {layout.size[1]:,} pixels: the limit is {max_side:,}. "
                f"Use a smaller --cell-width, or {grid.selection_advice}"
            )
        return layout
    width = frame_width
    while max((layout := arrange(width)).size) > max_side:
        width = min(width - 1, int(width * max_side / max(layout.size)))
        if width < MIN_CELL_WIDTH:
            advice = capitalize_first(grid.selection_advice)
            raise UserError(
                f"cannot make a sheet of {rows:,} by {columns:,} videos: cells would be narrower than {MIN_CELL_WIDTH} "
                f"pixels. {advice}"
            )
    return layout


def write_grid_picture(grid: LabelledGrid, path: Path, cell_width: int | None = None) -> WrittenGrid:
    """Write the middle frame of every cell as a PNG.

    Args:
        cell_width: as for `arrange_grid`.

    Raises:
        UserError: the grid would be too large.
        OSError: the file cannot be written.
    """
    layout = arrange_grid(grid, cell_width, MAX_PICTURE_SIDE)
    picture, unreadable = _draw_labels(grid, layout), []
    for place, cell in grid.cells.items():
        if cell.read_frames is None:
            _draw_placeholder(picture, layout, place, cell.placeholder)
            continue
        try:
            _paste_frame(picture, layout, place, _read_middle_frame(cell.read_frames, cell.frame_count))
        except ClipError as error:
            unreadable.append(str(error))
            _draw_placeholder(picture, layout, place, "unreadable")
    with atomic_write(path) as partial:
        picture.save(partial, format="PNG")
    return WrittenGrid(path, layout.size, tuple(unreadable))


def write_grid_clip(
    grid: LabelledGrid, path: Path, fps: int, tags: dict[str, str], cell_width: int | None = None
) -> WrittenGrid:
    """Write all cells in sync as one MP4; a cell that ends early shows its last frame.

    Args:
        cell_width: as for `arrange_grid`.

    Raises:
        UserError: the grid would be too large, or has too many clips.
        OSError: the file cannot be written.
    """
    readers = {place: cell.read_frames for place, cell in grid.cells.items() if cell.read_frames is not None}
    if len(readers) > MAX_SYNCHRONIZED_CLIPS:
        advice = capitalize_first(grid.selection_advice)
        raise UserError(f"cannot play {len(readers):,} clips in sync: the limit is {MAX_SYNCHRONIZED_CLIPS}. {advice}")
    layout = arrange_grid(grid, cell_width, MAX_CLIP_SIDE)
    picture, unreadable = _draw_labels(grid, layout), []
    for place, cell in grid.cells.items():
        if cell.read_frames is None:
            _draw_placeholder(picture, layout, place, cell.placeholder)
    frame_count = max(cell.frame_count for place, cell in grid.cells.items() if place in readers)

    def draw_frames() -> Iterator[Frame]:
        with ExitStack() as stack:
            decoders = {place: stack.enter_context(closing(read())) for place, read in readers.items()}
            for number in range(frame_count):
                for place, decoder in list(decoders.items()):
                    try:
                        frame = next(decoder, None)
                    except ClipError as error:
                        unreadable.append(str(error))
                        frame = None
                        if number == 0:
                            _draw_placeholder(picture, layout, place, "unreadable")
                    if frame is None:
                        del decoders[place]
                    else:
                        _paste_frame(picture, layout, place, frame)
                yield np.asarray(picture)

    write_mp4(path, draw_frames(), fps, frame_count, tags)
    return WrittenGrid(path, layout.size, tuple(unreadable))


def _read_middle_frame(read_frames: Callable[[], Generator[Frame, None, None]], frame_count: int) -> Frame:
    """Return the middle frame of a clip of `frame_count` frames, or the last frame if the clip is shorter.

    Raises:
        ClipError: the clip has no decodable frame.
    """
    with closing(read_frames()) as frames:
        last_frames = deque(islice(frames, frame_count // 2 + 1), maxlen=1)
    if not last_frames:
        raise ClipError("a clip of the sheet contains no frame")
    return last_frames[0]


def _draw_labels(grid: LabelledGrid, layout: GridLayout) -> "Image.Image":
    """Return a grid without frames: background, labels of rows and columns, caption and colour bar."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", layout.size, BACKGROUND)
    draw = ImageDraw.Draw(picture)
    width, height = layout.cell_size
    for column, label in enumerate(_fit_labels(grid.column_labels, width)):
        left, _ = layout.cell_origin(0, column)
        draw.text((left, layout.header_height - GAP), label, DIM_TEXT, _load_font(), anchor="ls")
    max_lines = max(1, height // (FONT_SIZE + GAP))
    for row, lines in enumerate(_wrap_labels(grid.row_labels, layout.label_width - 3 * GAP, max_lines)):
        _, top = layout.cell_origin(row, 0)
        middle = top + height / 2 - (len(lines) - 1) * (FONT_SIZE + GAP) / 2
        for number, line in enumerate(lines):
            place = (layout.label_width - 2 * GAP, middle + number * (FONT_SIZE + GAP))
            draw.text(place, line, TEXT, _load_font(), anchor="rm")
    footer_left, footer_top = layout.cell_origin(len(grid.row_labels), 0)
    footer_width = layout.size[0] - footer_left - GAP
    if grid.colour_bar is not None:
        _draw_colour_bar(picture, grid.colour_bar, (footer_left, footer_top + GAP), footer_width)
        footer_top += COLOUR_BAR_HEIGHT + FONT_SIZE + 4 * GAP
    if grid.caption:
        caption = _fit_text(grid.caption, footer_width)
        draw.text((footer_left, footer_top + FONT_SIZE), caption, DIM_TEXT, _load_font(), anchor="ls")
    return picture


def _draw_colour_bar(picture: "Image.Image", bar: ColourBar, place: tuple[int, int], width: int) -> None:
    from PIL import Image, ImageDraw

    left, top = place
    colours = Image.fromarray(bar.colours).resize((width, COLOUR_BAR_HEIGHT), Image.Resampling.NEAREST)
    picture.paste(colours, place)
    draw, baseline = ImageDraw.Draw(picture), top + COLOUR_BAR_HEIGHT + FONT_SIZE
    draw.text((left, baseline), bar.low_text, DIM_TEXT, _load_font(), anchor="ls")
    draw.text((left + width, baseline), bar.high_text, DIM_TEXT, _load_font(), anchor="rs")
    title = _fit_text(bar.title, width - _measure_text(bar.low_text) - _measure_text(bar.high_text) - 4 * GAP)
    draw.text((left + width / 2, baseline), title, TEXT, _load_font(), anchor="ms")


def _draw_placeholder(picture: "Image.Image", layout: GridLayout, place: tuple[int, int], text: str) -> None:
    from PIL import ImageDraw

    draw = ImageDraw.Draw(picture)
    (left, top), (width, height) = layout.cell_origin(*place), layout.cell_size
    draw.rectangle((left, top, left + width - 1, top + height - 1), EMPTY_CELL)
    middle = (left + width / 2, top + height / 2)
    draw.text(middle, _fit_text(text, width), DIM_TEXT, _load_font(), anchor="mm")


def _paste_frame(picture: "Image.Image", layout: GridLayout, place: tuple[int, int], frame: Frame) -> None:
    from PIL import Image

    cell_picture = Image.fromarray(frame)
    if cell_picture.size != layout.cell_size:
        cell_picture = cell_picture.resize(layout.cell_size, Image.Resampling.LANCZOS)
    picture.paste(cell_picture, layout.cell_origin(*place))


@cache
def _load_font() -> "ImageFont.FreeTypeFont":
    """Return DejaVu Sans, which matplotlib contains; it has Latin, Greek, Cyrillic, Hebrew, Arabic and symbols."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", FONT_SIZE)


def _measure_text(text: str) -> int:
    """Return a text line's width in pixels."""
    return round(_load_font().getlength(_clean_label(text)))


def _clean_label(text: str) -> str:
    """Return a label as one line without repeated spaces, cut to MAX_LABEL_LENGTH."""
    return " ".join(text.split())[:MAX_LABEL_LENGTH]


def _fit_labels(labels: Sequence[str], width: int) -> list[str]:
    """Shorten labels of one axis to a width in pixels; different labels stay different."""
    return shorten_labels(list(map(_clean_label, labels)), lambda text: _measure_text(text) <= width)


def _fit_text(text: str, width: int) -> str:
    """Shorten a text with an ellipsis to a width in pixels; return an empty text if even the ellipsis does not fit."""
    return _fit_labels([text], width)[0]


def _wrap_labels(labels: Sequence[str], width: int, max_lines: int) -> list[list[str]]:
    """Wrap the labels of one axis into a limited number of lines; different labels stay different."""
    wrapped = [_wrap_label(label, width, max_lines) for label in labels]
    if len({tuple(lines) for lines in wrapped}) == len(set(labels)):
        return wrapped
    shortened = shorten_labels(
        list(map(_clean_label, labels)), lambda text: " ".join(_wrap_label(text, width, max_lines)) == text
    )
    return [_wrap_label(text, width, max_lines) for text in shortened]


def _wrap_label(text: str, width: int, max_lines: int) -> list[str]:
    """Wrap a text into a limited number of lines of limited pixel width; shorten the last line if words remain."""
    lines: list[str] = []
    words = text.split()
    while words:
        if len(lines) + 1 == max_lines:
            return [*lines, _fit_text(" ".join(words), width)]
        count = 1
        while count < len(words) and _measure_text(" ".join(words[: count + 1])) <= width:
            count += 1
        lines.append(_fit_text(" ".join(words[:count]), width))
        words = words[count:]
    return lines
