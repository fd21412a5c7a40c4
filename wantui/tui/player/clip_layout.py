"""Arrangement of compared clips in a grid."""

LABEL_ROWS = 1
"""Rows of a cell that its label takes."""


def choose_grid_columns(clip_count: int, aspect_ratio: float, width: int, height: int) -> int:
    """Return the number of columns with which clips become largest in `width` by `height` terminal cells.

    Args:
        aspect_ratio: width of a clip divided by its height.
    """

    def measure_clip_width(columns: int) -> float:
        rows = -(-clip_count // columns)
        return min(width / columns, 2 * max(1.0, height / rows - LABEL_ROWS) * aspect_ratio)

    return max(range(1, clip_count + 1), key=lambda columns: (measure_clip_width(columns), -columns))
