"""Sheets: the clips of a batch in a labelled grid, as a picture (PNG) or a clip (MP4), a row per variation."""

from functools import partial
from pathlib import Path

from wantui.errors import UserError
from wantui.gallery.batch_grid import BatchGrid, GridCell
from wantui.gallery.labelled_grid import (
    FrameCell,
    GridLayout,
    LabelledGrid,
    WrittenGrid,
    arrange_grid,
    write_grid_clip,
    write_grid_picture,
)
from wantui.storage.recorded_files import read_recorded_frames


def arrange_sheet(grid: BatchGrid, cell_width: int | None, max_side: int) -> GridLayout:
    """Return the layout of a sheet; see `arrange_grid`."""
    return arrange_grid(_label_cells(grid), cell_width, max_side)


def write_sheet_picture(grid: BatchGrid, path: Path, cell_width: int | None = None) -> WrittenGrid:
    """Write the middle frame of every clip as a PNG; see `write_grid_picture`."""
    return write_grid_picture(_label_cells(grid), path, cell_width)


def write_sheet_clip(grid: BatchGrid, path: Path, cell_width: int | None = None) -> WrittenGrid:
    """Write all clips in sync as one MP4; a clip that ends early shows its last frame.

    Raises:
        UserError: no video is done, the clips differ in frames per second, or see `write_grid_clip`.
        OSError: the file cannot be written.
    """
    rates = {cell.entry.recipe.fps for cell in grid.cells() if cell.clip is not None}
    if not rates:
        raise UserError(f"cannot make a clip of {grid.folder}: no selected video is finished")
    if len(rates) > 1:
        shown = ", ".join(map(str, sorted(rates)))
        raise UserError(f"cannot play the clips in sync: they have different frames per second ({shown})")
    tags = {"title": grid.folder.name, "comment": grid.template}
    return write_grid_clip(_label_cells(grid), path, rates.pop(), tags, cell_width)


def _label_cells(grid: BatchGrid) -> LabelledGrid:
    recipe = grid.cells()[0].entry.recipe
    return LabelledGrid(
        tuple(row.label for row in grid.rows),
        grid.column_labels,
        {
            (row_index, column_index): _make_frame_cell(cell)
            for row_index, row in enumerate(grid.rows)
            for column_index, cell in enumerate(row.cells)
            if cell is not None
        },
        (recipe.width, recipe.height),
        "select videos with --variation and --seed",
    )


def _make_frame_cell(cell: GridCell) -> FrameCell:
    frame_count = cell.entry.recipe.frames
    if cell.clip is None:
        return FrameCell(None, frame_count, cell.entry.state)
    return FrameCell(partial(read_recorded_frames, cell.clip, cell.entry, thread_count=1), frame_count)
