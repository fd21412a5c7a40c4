"""Arrangement of compared clips in a grid, with the picture and the curve of their difference."""

from dataclasses import dataclass

LABEL_ROWS = 1
"""Rows of a cell that its label takes."""
GRID_GAP = 1
"""Columns of the terminal between two cells."""
FIGURE_ROWS = 1
"""Rows that the figures of the difference take at least, below the panels."""


@dataclass(frozen=True)
class PanelLayout:
    """Grid of a player's panels."""

    columns: int
    rows: int
    panel_rows: int | None = None
    """Rows of the terminal that each panel takes; None divides all of them equally."""
    curve_span: int = 0
    """Columns of the grid that the figures and the curve of the difference take, after the panels; 0 without them."""

    @property
    def grid_rows(self) -> str:
        """Return the row heights of the grid, as in CSS."""
        return "1fr" if self.panel_rows is None else f"{self.panel_rows} " * self.rows + "1fr"


def choose_grid_columns(clip_count: int, aspect_ratio: float, width: int, height: int) -> int:
    """Return the number of columns with which clips become largest in `width` by `height` terminal cells.

    Args:
        aspect_ratio: width of a clip divided by its height.
    """

    def measure_clip_width(columns: int) -> float:
        rows = -(-clip_count // columns)
        return min(width / columns, 2 * max(1.0, height / rows - LABEL_ROWS) * aspect_ratio)

    return max(range(1, clip_count + 1), key=lambda columns: (measure_clip_width(columns), -columns))


def arrange_panels(panel_count: int, aspect_ratio: float, width: int, height: int, has_curve: bool) -> PanelLayout:
    """Return the grid with the largest panels; the curve takes the free cells or, if none are free, the rows below.

    Args:
        aspect_ratio: width of a clip divided by its height.
        has_curve: whether the figures and the curve of the difference are shown.
    """
    panels_height = height - FIGURE_ROWS if has_curve else height
    columns = choose_grid_columns(panel_count, aspect_ratio, width, panels_height)
    rows = -(-panel_count // columns)
    if not has_curve:
        return PanelLayout(columns, rows)
    if columns * rows > panel_count:
        return PanelLayout(columns, rows, curve_span=columns * rows - panel_count)
    cell_width = (width - GRID_GAP * (columns - 1)) // columns
    panel_rows = min(panels_height // rows, LABEL_ROWS + round(cell_width / aspect_ratio / 2))
    return PanelLayout(columns, rows, max(1, panel_rows), columns)
