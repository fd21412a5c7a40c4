"""Heights of the two panes at the right of the Library screen: the matrix, and the selected video."""

from wantui.tui.library.video_matrix import VideoMatrix
from wantui.tui.screens.library_running import LibraryRunning

FRAME_HEIGHT, MIN_MATRIX_HEIGHT = 2, 6
"""Lines of a pane's frame, and least height of the matrix with its frame, in lines."""
MAX_FEW_COLUMNS = 3
"""Number of columns up to which the height limits the size of their pictures."""
LOW_VIDEO_HEIGHT, VIDEO_HEIGHT, WIDE_VIDEO_HEIGHT = 8, 15, 17
"""Least heights of the selected video with its frame, in lines: in a low terminal, in a high one, and in a high and
wide one, in which the width limits the size of many pictures."""
VIDEO_HEIGHT_BELOW_FEW_COLUMNS, VIDEO_HEIGHT_BELOW_MANY_ROWS, VIDEO_HEIGHT_WITHOUT_SHEET = 13, 10, 11
"""The same in a high and wide terminal below few columns or many rows, and in a high one if no video has a sheet."""
MAX_LARGE_ROWS = 4
"""Number of rows above which the matrix needs the height."""


class LibraryLayout(LibraryRunning):
    """Base of the Library screen that gives the selected video the rows that the matrix leaves free."""

    def plan_heights(self, grid: VideoMatrix) -> None:
        """Plan the height up to which a grid fills the screen."""
        free_height = self.query_one("#right").size.height - self._choose_video_height(grid) - FRAME_HEIGHT
        self.matrix.planned_height = max(0, free_height)

    def share_height(self) -> None:
        """Make the matrix as high as its rows, up to the planned height; the selected video gets the rest."""
        if not (self.matrix.planned_height and self.matrix.row_count):
            for pane in (self.matrix, self.details):
                pane.styles.clear_rule("height")
            return
        total_height = self.query_one("#right").size.height
        matrix_height = max(MIN_MATRIX_HEIGHT, self.matrix.measure_height() + FRAME_HEIGHT)
        self.matrix.styles.height, self.details.styles.height = matrix_height, total_height - matrix_height

    def fit_heights(self) -> None:
        """Fit both panes to a new terminal size."""
        self.plan_heights(self.matrix.grid)
        self.share_height()

    def _choose_video_height(self, grid: VideoMatrix) -> int:
        """Return the least height of the selected video."""
        if self.has_class("-low"):
            return LOW_VIDEO_HEIGHT
        if not any("sheet" in cell.entry.files or cell.running is not None for cell in grid.cells.values()):
            return VIDEO_HEIGHT_WITHOUT_SHEET
        if self.has_class("-narrow"):
            return VIDEO_HEIGHT
        if len(grid.row_labels) > MAX_LARGE_ROWS:
            return VIDEO_HEIGHT_BELOW_MANY_ROWS
        return VIDEO_HEIGHT_BELOW_FEW_COLUMNS if len(grid.column_labels) <= MAX_FEW_COLUMNS else WIDE_VIDEO_HEIGHT
