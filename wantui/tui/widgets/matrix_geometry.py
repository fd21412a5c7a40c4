"""Arrangement of the matrix in its pane: sizes of labels and cells, and scroll offsets that show whole cells."""

from dataclasses import dataclass, replace

from rich.segment import Segment
from textual.geometry import clamp

from wantui.tui.block_characters import PIXELS_PER_CELL

CELL_SIZES = ("small", "large", "signs")
"""Sizes of the cells, in the order in which the key cycles through them."""
SMALL_BOX, LARGE_BOX = (6, 3), (14, 6)
"""Width and height in characters of small and large pictures."""
SMALLEST_WIDTH = 5
"""Minimum width in characters of pictures that are smaller than small ones, so that `MIN_VISIBLE_CELLS` fit."""
MIN_BOX, MAX_BOX = SMALL_BOX, (44, 16)
"""Limits of large pictures that are made smaller or larger so that all cells fit into the pane."""
MAX_GAP_SHARE = 1.0
"""Maximum width of the blank columns between two pictures, as a share of a picture's width."""
MIN_VISIBLE_CELLS = (6, 2)
"""Columns and rows of pictures that a small pane shows, if the batch has as many."""
SIGNS_WIDTH = 2
"""Width of a cell without picture: a state, and a star or rejection."""
MIN_LABEL_WIDTH, MAX_LABEL_WIDTH, MAX_LABEL_WIDTH_OF_SIGNS = 6, 24, 36


@dataclass(frozen=True)
class CellGeometry:
    """Sizes of the parts of a matrix, in characters."""

    label_width: int
    picture_width: int
    picture_height: int
    """Height of a picture; 0 if the cells show only symbols."""
    gap_width: int = 0
    """Blank columns right of each cell, which spread few columns over the pane."""

    @property
    def column_width(self) -> int:
        """Return the width of a cell: the picture between two bars, and the gap."""
        return self.picture_width + 2 + self.gap_width

    @property
    def gap(self) -> Segment:
        """Return the blanks right of a cell."""
        return Segment(" " * self.gap_width)

    @property
    def row_height(self) -> int:
        """Return the height of a row: the picture above its caption."""
        return self.picture_height + 1

    def count_whole_cells(self, width: int, height: int) -> tuple[int, int]:
        """Return the number of rows and columns that are completely visible in a pane, at least 1.

        Args:
            width: width of the pane in characters, with the labels of the rows.
            height: its height below the header.
        """
        return max(1, height // self.row_height), max(1, (width - self.label_width) // self.column_width)

    @property
    def pixel_size(self) -> tuple[int, int]:
        """Return the width and height in pixels of a picture in block characters."""
        return PIXELS_PER_CELL[0] * self.picture_width, PIXELS_PER_CELL[1] * self.picture_height


@dataclass(frozen=True)
class MatrixPane:
    """Size of the pane in which a matrix is arranged, and the cells to show."""

    width: int
    """Width in characters, with the labels of the rows."""
    height: int
    """Height below the header, in characters."""
    longest_label: int
    """Width of the longest row label."""
    columns: int
    rows: int
    aspect_ratio: float
    """Height of a video divided by its width."""

    def choose_geometry(self, cell_size: str | None) -> CellGeometry:
        """Return the sizes of the cells, with gaps that spread the columns over the pane if all fit.

        Args:
            cell_size: one of `CELL_SIZES`; None uses large cells if two rows and columns of them fit, otherwise the
                largest pictures of which `MIN_VISIBLE_CELLS` fit, or small pictures if those would be tiny.
        """
        if cell_size == "signs":
            max_label_width = max(MIN_LABEL_WIDTH, min(MAX_LABEL_WIDTH_OF_SIGNS, self.width // 2))
            return CellGeometry(self._limit_label_width(max_label_width), SIGNS_WIDTH, 0)
        label_width = self._limit_label_width(max(MIN_LABEL_WIDTH, min(MAX_LABEL_WIDTH, self.width // 4)))
        box = self._choose_picture_box(cell_size, self.width - label_width)
        geometry = CellGeometry(label_width, *_fit_picture_cells(box, self.aspect_ratio))
        spare_width = (self.width - label_width) // max(1, self.columns) - geometry.column_width
        return replace(geometry, gap_width=clamp(spare_width, 0, int(MAX_GAP_SHARE * geometry.picture_width)))

    def _limit_label_width(self, max_width: int) -> int:
        return clamp(self.longest_label + 1, MIN_LABEL_WIDTH, max_width)

    def _choose_picture_box(self, cell_size: str | None, free_width: int) -> tuple[int, int]:
        """Return the width and height into which a picture is fitted.

        Args:
            free_width: width right of the labels.
        """
        columns, rows = max(1, self.columns), max(1, self.rows)
        if cell_size is None:
            fits_rows = self.height >= min(2, rows) * (LARGE_BOX[1] + 1)
            if not (fits_rows and free_width >= min(2, columns) * (LARGE_BOX[0] + 2)):
                width = free_width // min(MIN_VISIBLE_CELLS[0], columns) - 2
                return (
                    width if width >= SMALLEST_WIDTH else SMALL_BOX[0],
                    max(SMALL_BOX[1], self.height // min(MIN_VISIBLE_CELLS[1], rows) - 1),
                )
        if cell_size == "small":
            return SMALL_BOX
        return _fit_or_scroll(free_width, columns, 0) - 2, _fit_or_scroll(self.height, rows, 1) - 1


def _fit_or_scroll(available_size: int, cell_count: int, axis: int) -> int:
    """Return the cell size with which all cells fit or, if that is too small, as many whole cells as possible."""
    frame_size = (2, 1)[axis]
    size = available_size // cell_count
    if size < MIN_BOX[axis] + frame_size:
        size = available_size // max(1, round(available_size / (LARGE_BOX[axis] + frame_size)))
    return clamp(size, MIN_BOX[axis] + frame_size, MAX_BOX[axis] + frame_size)


def _fit_picture_cells(box: tuple[int, int], aspect_ratio: float) -> tuple[int, int]:
    """Return the largest size in characters of a picture in a box; a character is twice as high as it is wide."""
    width = min(box[0], max(2, round(2 * box[1] / aspect_ratio)))
    return width, clamp(round(width * aspect_ratio / 2), 1, box[1])


def extend_to_whole_cells(cell_count: int, visible_count: int, cell_size: int, available_size: int) -> int:
    """Return the size of all cells, plus slack so that whole cells are visible after scrolling to the end."""
    hidden_count = max(0, cell_count - visible_count)
    return hidden_count * cell_size + max(available_size, 0) if hidden_count else cell_count * cell_size


def find_scroll_offset(index: int, visible_count: int, cell_size: int, scroll: int) -> int:
    """Return the scroll offset nearest to the current offset at which a cell is completely visible."""
    first = scroll // cell_size
    if index * cell_size < scroll:
        return index * cell_size
    return (index - visible_count + 1) * cell_size if index >= first + visible_count else scroll
