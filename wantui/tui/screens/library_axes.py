"""Actions of the Library screen on the axes of its matrix: rows and columns, page, and order of the rows."""

from dataclasses import replace
from pathlib import Path

from textual.content import Content

from wantui.storage.similarity_file import NO_SIMILARITY
from wantui.tui.content import make_content
from wantui.tui.library.video_matrix import SORT_SCORES, MatrixView, VideoMatrix, arrange_matrix
from wantui.tui.pane_titles import find_key
from wantui.tui.screens.library_marks import LibraryMarks


class LibraryAxes(LibraryMarks):
    """Base of the Library screen that arranges a batch with a sweep along other axes."""

    def __init__(self) -> None:
        super().__init__()
        self.shown_filter = "all"
        """Filter of the videos in the matrix."""
        self.shown_similarity = NO_SIMILARITY
        """Similarity of the shown videos to a baseline."""
        self._views_by_folder: dict[Path, MatrixView] = {}
        """Chosen axes and page of each batch."""

    def show_grid(self, grid: VideoMatrix, is_same_batch: bool) -> None:
        """Show videos in the matrix."""
        raise NotImplementedError

    def show_current_video(self) -> None:
        """Show the details of the video under the cursor."""
        raise NotImplementedError

    def get_view(self, folder: Path) -> MatrixView:
        """Return the chosen axes and page of a batch."""
        return self._views_by_folder.get(folder, MatrixView())

    def remember_view(self, grid: VideoMatrix) -> None:
        """Show the same axes and page when the batch is read again."""
        self._views_by_folder[grid.folder] = grid.view

    def describe_page(self, grid: VideoMatrix) -> Content:
        """Return the page of a grid, with the keys that turn it; empty without pages."""
        page = make_content(grid.describe_page())
        if len(grid.page_labels) < 2:
            return page
        back, forward = (
            (find_key(self, f"library.{name}"), "bold $footer-key-foreground") for name in ("page_back", "page")
        )
        return Content.assemble(page, "   ", back, " back  ", forward, " next")

    def action_next_layout(self) -> None:
        """Show the next axes as rows and columns."""
        if self.shown_folder is None or self.shown_manifest is None:
            return
        if self.shown_manifest.sweep is None:
            self.notify("this batch has no sweep: rows are variations, columns are seeds")
            return
        view = self.get_view(self.shown_folder)
        self._show_view(replace(view, layout_number=view.layout_number + 1, page_number=0))

    def action_turn_page(self, pages: int) -> None:
        """Show the next or previous page: other values of the axes that are neither rows nor columns."""
        if self.shown_folder is not None:
            view = self.get_view(self.shown_folder)
            self._show_view(replace(view, page_number=max(0, view.page_number + pages)))

    def action_sort_rows(self) -> None:
        """Sort the rows by the next measured kind of similarity to a baseline; after the last kind, by the axes."""
        videos = self.shown_similarity.by_video.values()
        scores = [name for name in SORT_SCORES if name and any(getattr(video, name) is not None for video in videos)]
        if self.shown_folder is None or not scores:
            self.notify("no similarity has been measured: run wantui similarity BATCH --baseline WHICH")
            return
        view, orders = self.get_view(self.shown_folder), ["", *scores]
        number = orders.index(view.sort_score) + 1 if view.sort_score in orders else 0
        self._show_view(replace(view, sort_score=orders[number % len(orders)]))

    def _show_view(self, view: MatrixView) -> None:
        folder, manifest = self.shown_folder, self.shown_manifest
        if folder is None or manifest is None:
            return
        grid = arrange_matrix(folder, manifest, self.shown_marks, self.shown_filter, view, self.shown_similarity)
        self.remember_view(grid)
        self.show_grid(grid, is_same_batch=True)
        self.show_current_video()
