"""Matrix of a batch: which videos its rows and columns show, and how the rows and columns are labelled."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from wantui.formatting import format_count
from wantui.storage.manifest import Manifest, VideoEntry
from wantui.storage.manifest_axes import SEED_AXIS, VARIATION_AXIS, AxisLayout, BatchAxes
from wantui.storage.marks import BatchMarks, VideoMark
from wantui.storage.similarity_file import NO_SIMILARITY, BatchSimilarity

VIDEO_FILTERS = ("starred", "unrejected")
"""Filters that choose videos; the other filters of the Library choose batches."""
DEFAULT_LAYOUT = AxisLayout((VARIATION_AXIS,), (SEED_AXIS,))


@dataclass(frozen=True)
class MatrixCell:
    """One video of the matrix."""

    video_index: int
    """Index in the manifest."""
    entry: VideoEntry
    mark: VideoMark
    name: str = ""
    """Variation, seed, and the values of swept settings."""
    similarity: str = ""
    """Similarity to a baseline, as measured last; empty if it is not."""


@dataclass(frozen=True)
class MatrixView:
    """Choice of the axes and of the page."""

    layout_number: int = 0
    page_number: int = 0


@dataclass(frozen=True)
class MatrixGrid:
    """Videos of a batch in rows and columns."""

    folder: Path
    row_labels: tuple[str, ...] = ()
    """What differs between the rows, such as "red, left"."""
    column_heading: str = ""
    """Word that applies to all column labels."""
    column_labels: tuple[str, ...] = ()
    cells: Mapping[tuple[int, int], MatrixCell] = field(default_factory=dict)
    """Videos by row and column."""
    aspect_ratio: float = 1.0
    """Height of a video divided by its width."""
    layout: AxisLayout = DEFAULT_LAYOUT
    """Axes of the rows, the columns and the pages."""
    view: MatrixView = MatrixView()
    layout_count: int = 1
    page_labels: tuple[str, ...] = ()

    def find_cell(self, video_index: int) -> tuple[int, int] | None:
        """Return the row and column of a video of the manifest, or None if the filter hides it."""
        return next((place for place, cell in self.cells.items() if cell.video_index == video_index), None)

    def describe(self) -> str:
        """Return the axes of rows and columns with the numbers of their lines, and the page."""
        plurals = {VARIATION_AXIS: "variation", SEED_AXIS: "seed"}
        parts = [
            format_count(count, plurals[names[0]])
            if names[0] in plurals
            else f"{format_count(count, 'value')} of {names[0]}"
            for names, count in (
                (self.layout.rows, len(self.row_labels)),
                (self.layout.columns, len(self.column_labels)),
            )
        ]
        text = " by ".join(parts)
        if self.layout.pages and self.page_labels:
            text += f": {self.page_labels[self.view.page_number]}"
            if len(self.page_labels) > 1:
                text += f" (page {self.view.page_number + 1}/{len(self.page_labels)})"
        return text

    def replace_marks(self, marks: BatchMarks) -> "MatrixGrid":
        """Return the same videos with other marks."""
        cells = {place: replace(cell, mark=marks.get_mark(cell.entry.id)) for place, cell in self.cells.items()}
        return replace(self, cells=cells)


def arrange_matrix(
    folder: Path,
    manifest: Manifest,
    marks: BatchMarks,
    video_filter: str = "all",
    view: MatrixView = MatrixView(),
    similarity: BatchSimilarity = NO_SIMILARITY,
) -> MatrixGrid:
    """Arrange the videos of a batch that match a filter; rows and columns without such videos are left out.

    Args:
        video_filter: one of `VIDEO_FILTERS`; any other value shows all videos.
    """
    shown = {
        index: MatrixCell(index, entry, marks.get_mark(entry.id))
        for index, entry in enumerate(manifest.videos)
        if _matches_filter(marks.get_mark(entry.id), video_filter)
    }
    recipe = manifest.videos[0].recipe
    aspect_ratio = recipe.height / recipe.width
    if not shown:
        return MatrixGrid(folder, aspect_ratio=aspect_ratio)
    axes = BatchAxes(manifest, list(shown))
    shown = {
        index: replace(
            cell,
            name=axes.name_video(cell.entry),
            similarity=_describe_similarity(cell.entry, manifest, similarity),
        )
        for index, cell in shown.items()
    }
    layouts = axes.list_layouts()
    layout = layouts[view.layout_number % len(layouts)]
    arranged = axes.arrange(layout, view.page_number)
    return MatrixGrid(
        folder,
        tuple(line.label for line in arranged.rows),
        arranged.column_heading,
        arranged.column_labels,
        {place: shown[index] for place, index in arranged.index_by_place.items()},
        aspect_ratio,
        layout,
        MatrixView(view.layout_number % len(layouts), arranged.page_number),
        len(layouts),
        tuple(line.label for line in arranged.pages),
    )


def _describe_similarity(entry: VideoEntry, manifest: Manifest, similarity: BatchSimilarity) -> str:
    video = similarity.by_video.get(entry.id)
    if video is None or not (scores := video.list_scores()):
        return ""
    baseline = next((other for other in manifest.videos if other.id == video.baseline), None)
    name = video.baseline if baseline is None else manifest.make_video_title(baseline)
    return f"{', '.join(scores)} to {name}"


def _matches_filter(mark: VideoMark, video_filter: str) -> bool:
    return mark.star if video_filter == "starred" else not mark.reject if video_filter == "unrejected" else True
