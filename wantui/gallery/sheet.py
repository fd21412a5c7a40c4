"""Sheets: the clips of a batch in one labelled picture (PNG) or clip (MP4), a row per variation."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wantui.atomic_files import atomic_write
from wantui.errors import UserError
from wantui.gallery.batch_grid import BatchGrid, GridCell
from wantui.storage.mp4 import ClipError, Frame, read_frames, read_middle_frame, write_mp4

if TYPE_CHECKING:
    from PIL import Image, ImageFont

MAX_PICTURE_SIDE = 16_384
"""Maximum width and height of a PNG sheet in pixels."""
MAX_CLIP_SIDE = 4096
"""Maximum width and height of an MP4 sheet in pixels: most decoders of H.264 accept no more."""
MAX_SYNCHRONIZED_CLIPS = 256
"""Maximum number of clips in an MP4 sheet: each is an open decoder."""
MIN_CELL_WIDTH = 32
GAP = 4
"""Space between cells in pixels."""
FONT_SIZE = 15
"""Height of the text of labels in pixels."""
MAX_LABEL_SHARE = 0.4
"""Maximum share of the width of a sheet that the labels of the rows may take."""
BACKGROUND, EMPTY_CELL, TEXT, DIM_TEXT = (18, 19, 23), (34, 36, 43), (230, 230, 235), (140, 144, 156)


@dataclass(frozen=True)
class SheetLayout:
    """Positions of the cells on a sheet, in pixels."""

    cell_size: tuple[int, int]
    """Width and height of a cell."""
    label_width: int
    header_height: int
    size: tuple[int, int]
    """Width and height of the sheet; both are even, as H.264 requires."""

    def cell_origin(self, row: int, column: int) -> tuple[int, int]:
        """Return the left and top pixel of a cell."""
        width, height = self.cell_size
        return self.label_width + column * (width + GAP), self.header_height + row * (height + GAP)


@dataclass(frozen=True)
class WrittenSheet:
    """A sheet on disk, and the clips that it shows as unreadable."""

    path: Path
    size: tuple[int, int]
    """Width and height in pixels."""
    unreadable: tuple[str, ...]
    """Reason for each clip that could not be decoded completely."""


def arrange_sheet(grid: BatchGrid, cell_width: int | None, max_side: int) -> SheetLayout:
    """Return the layout of a sheet.

    Args:
        cell_width: width of a cell in pixels; None uses the width of the clips, or less if they do not fit.
        max_side: maximum width and height of the sheet, in pixels.

    Raises:
        UserError: the sheet would be too large.
    """
    recipe = grid.cells()[0].entry.recipe
    widest_label = max(_measure_text(row.label) for row in grid.rows) + 3 * GAP
    rows, columns = len(grid.rows), len(grid.column_labels)

    def arrange(width: int) -> SheetLayout:
        height = max(1, round(width * recipe.height / recipe.width))
        cells_width = columns * (width + GAP)
        label_width = min(widest_label, max(120, round(cells_width * MAX_LABEL_SHARE / (1 - MAX_LABEL_SHARE))))
        header_height = FONT_SIZE + 4 * GAP
        size = label_width + cells_width, header_height + rows * (height + GAP)
        return SheetLayout((width, height), label_width, header_height, (size[0] + size[0] % 2, size[1] + size[1] % 2))

    if cell_width is not None:
        layout = arrange(cell_width)
        if max(layout.size) > max_side:
            raise UserError(
                f"cannot make a sheet of {layout.size[0]:,} x {layout.size[1]:,} pixels: the limit is {max_side:,}. "
                "Use a smaller --cell-width, or select videos with --variation and --seed"
            )
        return layout
    width = recipe.width
    while max((layout := arrange(width)).size) > max_side:
        width = min(width - 1, int(width * max_side / max(layout.size)))
        if width < MIN_CELL_WIDTH:
            raise UserError(
                f"cannot make a sheet of {rows:,} by {columns:,} videos: cells would be narrower than {MIN_CELL_WIDTH} "
                "pixels. Select videos with --variation and --seed"
            )
    return layout


def write_sheet_picture(grid: BatchGrid, path: Path, cell_width: int | None = None) -> WrittenSheet:
    """Write the middle frame of every clip as a PNG.

    Args:
        cell_width: as for `arrange_sheet`.

    Raises:
        UserError: the sheet would be too large.
        OSError: the file cannot be written.
    """
    layout = arrange_sheet(grid, cell_width, MAX_PICTURE_SIDE)
    sheet, unreadable = _draw_labels(grid, layout), []
    for row, column, cell in _list_cells(grid):
        if cell.clip is None:
            _draw_placeholder(sheet, layout, (row, column), cell.entry.state)
            continue
        try:
            _paste_frame(sheet, layout, (row, column), read_middle_frame(cell.clip, cell.entry.recipe.frames))
        except ClipError as error:
            unreadable.append(str(error))
            _draw_placeholder(sheet, layout, (row, column), "unreadable")
    with atomic_write(path) as partial:
        sheet.save(partial, format="PNG")
    return WrittenSheet(path, layout.size, tuple(unreadable))


def write_sheet_clip(grid: BatchGrid, path: Path, cell_width: int | None = None) -> WrittenSheet:
    """Write all clips in step as one MP4; a clip that ends early shows its last frame.

    Args:
        cell_width: as for `arrange_sheet`.

    Raises:
        UserError: the sheet would be too large, has too many clips, or the clips differ in frames per second.
        OSError: the file cannot be written.
    """
    clips = [(row, column, cell) for row, column, cell in _list_cells(grid) if cell.clip is not None]
    if not clips:
        raise UserError(f"cannot make a clip of {grid.folder}: no selected video is done")
    if len(clips) > MAX_SYNCHRONIZED_CLIPS:
        raise UserError(
            f"cannot play {len(clips):,} clips in step: the limit is {MAX_SYNCHRONIZED_CLIPS}. Select videos with "
            "--variation and --seed"
        )
    rates = {cell.entry.recipe.fps for _, _, cell in clips}
    if len(rates) > 1:
        shown = ", ".join(map(str, sorted(rates)))
        raise UserError(f"cannot play the clips in step: they have different frames per second ({shown})")
    layout = arrange_sheet(grid, cell_width, MAX_CLIP_SIDE)
    sheet, unreadable = _draw_labels(grid, layout), []
    for row, column, cell in _list_cells(grid):
        if cell.clip is None:
            _draw_placeholder(sheet, layout, (row, column), cell.entry.state)
    frame_count = max(cell.entry.recipe.frames for _, _, cell in clips)

    def draw_frames() -> Iterator[Frame]:
        with ExitStack() as stack:
            decoders: dict[tuple[int, int], Iterator[Frame]] = {}
            for row, column, cell in clips:
                assert cell.clip is not None
                decoders[row, column] = stack.enter_context(closing(read_frames(cell.clip, thread_count=1)))
            for number in range(frame_count):
                for place, decoder in list(decoders.items()):
                    try:
                        frame = next(decoder, None)
                    except ClipError as error:
                        unreadable.append(str(error))
                        frame = None
                        if number == 0:
                            _draw_placeholder(sheet, layout, place, "unreadable")
                    if frame is None:
                        del decoders[place]
                    else:
                        _paste_frame(sheet, layout, place, frame)
                yield np.asarray(sheet)

    write_mp4(path, draw_frames(), rates.pop(), frame_count, {"title": grid.folder.name, "comment": grid.template})
    return WrittenSheet(path, layout.size, tuple(unreadable))


def _list_cells(grid: BatchGrid) -> list[tuple[int, int, GridCell]]:
    """Return the row index, column index and cell of each video."""
    return [
        (row_index, column_index, cell)
        for row_index, row in enumerate(grid.rows)
        for column_index, cell in enumerate(row.cells)
        if cell is not None
    ]


def _draw_labels(grid: BatchGrid, layout: SheetLayout) -> "Image.Image":
    """Return a sheet without videos: background, labels of rows and columns."""
    from PIL import Image, ImageDraw

    sheet = Image.new("RGB", layout.size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    width, height = layout.cell_size
    for column, label in enumerate(grid.column_labels):
        left, _ = layout.cell_origin(0, column)
        draw.text((left, layout.header_height - GAP), _fit_text(label, width), DIM_TEXT, _load_font(), anchor="ls")
    for row, entry in enumerate(grid.rows):
        _, top = layout.cell_origin(row, 0)
        lines = _wrap_label(entry.label, layout.label_width - 3 * GAP, max(1, height // (FONT_SIZE + GAP)))
        middle = top + height / 2 - (len(lines) - 1) * (FONT_SIZE + GAP) / 2
        for number, line in enumerate(lines):
            place = (layout.label_width - 2 * GAP, middle + number * (FONT_SIZE + GAP))
            draw.text(place, line, TEXT, _load_font(), anchor="rm")
    return sheet


def _draw_placeholder(sheet: "Image.Image", layout: SheetLayout, place: tuple[int, int], text: str) -> None:
    from PIL import ImageDraw

    draw = ImageDraw.Draw(sheet)
    (left, top), (width, height) = layout.cell_origin(*place), layout.cell_size
    draw.rectangle((left, top, left + width - 1, top + height - 1), EMPTY_CELL)
    middle = (left + width / 2, top + height / 2)
    draw.text(middle, _fit_text(text, width), DIM_TEXT, _load_font(), anchor="mm")


def _paste_frame(sheet: "Image.Image", layout: SheetLayout, place: tuple[int, int], frame: Frame) -> None:
    from PIL import Image

    picture = Image.fromarray(frame)
    if picture.size != layout.cell_size:
        picture = picture.resize(layout.cell_size, Image.Resampling.LANCZOS)
    sheet.paste(picture, layout.cell_origin(*place))


@cache
def _load_font() -> "ImageFont.FreeTypeFont":
    """Return DejaVu Sans, which matplotlib contains; it has Latin, Greek, Cyrillic, Hebrew, Arabic and symbols."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", FONT_SIZE)


def _measure_text(text: str) -> int:
    """Return the width of a line of text in pixels."""
    return round(_load_font().getlength(" ".join(text.split())[:500]))


def _fit_text(text: str, width: int) -> str:
    """Return a text shortened with an ellipsis to a width in pixels; an empty text if not even that fits."""
    text = " ".join(text.split())[:500]
    if _measure_text(text) <= width:
        return text
    while text and _measure_text(text + "…") > width:
        text = text[:-1]
    return text + "…" if text else ""


def _wrap_label(text: str, width: int, max_lines: int) -> list[str]:
    """Break a text between words into lines of a width in pixels; the last line is shortened if words remain."""
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
