"""Matrix of a batch: which videos its rows and columns show, and how the rows and columns are labelled."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from wantui.storage.manifest import Manifest, VideoEntry
from wantui.storage.manifest_labels import label_columns, label_variations
from wantui.storage.marks import BatchMarks, VideoMark

VIDEO_FILTERS = ("starred", "unrejected")
"""Filters that choose videos; the other filters of the Library choose batches."""


@dataclass(frozen=True)
class MatrixCell:
    """One video of the matrix."""

    video_index: int
    """Index in the manifest."""
    entry: VideoEntry
    mark: VideoMark


@dataclass(frozen=True)
class MatrixGrid:
    """Videos of a batch in rows and columns."""

    folder: Path
    row_labels: tuple[str, ...] = ()
    """What differs between the variations, such as "red, left"."""
    column_heading: str = ""
    """Word that applies to all column labels."""
    column_labels: tuple[str, ...] = ()
    cells: Mapping[tuple[int, int], MatrixCell] = field(default_factory=dict)
    """Videos by row and column."""
    aspect_ratio: float = 1.0
    """Height of a video divided by its width."""

    def find_cell(self, video_index: int) -> tuple[int, int] | None:
        """Return the row and column of a video of the manifest, or None if the filter hides it."""
        return next((place for place, cell in self.cells.items() if cell.video_index == video_index), None)

    def replace_marks(self, marks: BatchMarks) -> "MatrixGrid":
        """Return the same videos with other marks."""
        cells = {place: replace(cell, mark=marks.get_mark(cell.entry.id)) for place, cell in self.cells.items()}
        return replace(self, cells=cells)


def arrange_matrix(folder: Path, manifest: Manifest, marks: BatchMarks, video_filter: str = "all") -> MatrixGrid:
    """Arrange the videos of a batch that match a filter; rows and columns without such videos are left out.

    Args:
        video_filter: one of `VIDEO_FILTERS`; any other value shows all videos.
    """
    shown = [
        MatrixCell(index, entry, marks.get_mark(entry.id))
        for index, entry in enumerate(manifest.videos)
        if _matches_filter(marks.get_mark(entry.id), video_filter)
    ]
    variations = sorted({cell.entry.variation for cell in shown})
    numbers = sorted({cell.entry.number for cell in shown})
    rows = {variation: row for row, variation in enumerate(variations)}
    columns = {number: column for column, number in enumerate(numbers)}
    column_labels = label_columns(cell.entry for cell in shown)
    has_only_seeds = bool(column_labels) and all(label.startswith("seed ") for label in column_labels)
    recipe = manifest.videos[0].recipe
    return MatrixGrid(
        folder,
        tuple(label.label for label in label_variations(manifest, variations)),
        "seed" if has_only_seeds else "",
        tuple(label.removeprefix("seed ") for label in column_labels) if has_only_seeds else column_labels,
        {(rows[cell.entry.variation], columns[cell.entry.number]): cell for cell in shown},
        recipe.height / recipe.width,
    )


def _matches_filter(mark: VideoMark, video_filter: str) -> bool:
    return mark.star if video_filter == "starred" else not mark.reject if video_filter == "unrejected" else True
