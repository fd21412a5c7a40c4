"""Matrix of a batch: which videos its rows and columns show, and how the rows and columns are labelled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from statistics import fmean

from wantui.formatting import format_count
from wantui.storage.manifest import Manifest, VideoEntry
from wantui.storage.manifest_axes import SEED_AXIS, VARIATION_AXIS, ArrangedVideos, AxisLayout, BatchAxes
from wantui.storage.marks import BatchMarks, VideoMark
from wantui.storage.similarity_file import DISTANCE_SCORES, NO_SIMILARITY, SCORE_LABELS, BatchSimilarity
from wantui.tui.plain_names import replace_names
from wantui.tui.running_videos import RunningVideo
from wantui.tui.series_colours import assign_variation_colours

VIDEO_FILTERS = ("starred", "unrejected")
"""Filters that choose videos; the other filters of the Library choose batches."""
SORT_SCORES = {"": "the axes", **SCORE_LABELS}
"""Row orders by score name, and their names for people."""
ROW_NAME_SEPARATOR = " · "
"""Text between the values of several axes in the label of a row, and between the names of the axes in the title."""
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
    running: RunningVideo | None = None
    """Progress of the video; None unless a worker generates it now."""

    @property
    def state(self) -> str:
        """Return the state to display; the manifest does not record which videos are running."""
        return self.entry.state if self.running is None else self.running.state


@dataclass(frozen=True)
class MatrixView:
    """Choice of axes, page and row order."""

    layout_number: int = 0
    page_number: int = 0
    sort_score: str = ""
    """Score of `SORT_SCORES` by whose mean the rows are sorted, most similar first; empty for the order of the axes."""


@dataclass(frozen=True)
class VideoMatrix:
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
    page_labels: tuple[str, ...] = ()
    row_colours: tuple[str, ...] = ()
    """Theme colour of each row, if the rows are the variations; otherwise empty."""

    @property
    def arrangement(self) -> tuple[object, ...]:
        """Return a value that changes if any matrix cell shows a different video."""
        indices = {place: cell.video_index for place, cell in self.cells.items()}
        return self.folder, self.row_labels, self.column_labels, indices

    def find_cell(self, video_index: int) -> tuple[int, int] | None:
        """Return the row and column of a video of the manifest, or None if the filter hides it."""
        return next((place for place, cell in self.cells.items() if cell.video_index == video_index), None)

    def describe_axes(self, max_width: int) -> str:
        """Describe the axes of rows and columns, the numbers of rows and columns, and the order of the rows.

        If the text is longer than `max_width` characters, the first parts of the names of settings are omitted, or the
        names themselves.
        """
        counts = (self.layout.rows[0], len(self.row_labels)), (self.layout.columns[0], len(self.column_labels))
        if len(self.layout.rows) > 1:
            counts = (ROW_NAME_SEPARATOR.join(self.layout.rows), 0), counts[1]
        order = f", sorted by {SORT_SCORES[self.view.sort_score]}" if self.view.sort_score else ""
        texts = [
            " by ".join(_describe_axis(name, count) for name, count in counts),
            " by ".join(_describe_axis(name.rpartition(".")[2], count) for name, count in counts),
            " x ".join(str(count) for _, count in counts),
        ]
        return next((f"{text}{order}" for text in texts if len(text) + len(order) <= max_width), texts[-1])

    def describe_page(self) -> str:
        """Return the positions on the other axes, and the number of the page; empty without other axes."""
        if not self.layout.pages or not self.page_labels:
            return ""
        number, count = self.view.page_number, len(self.page_labels)
        return self.page_labels[number] + (f" (page {number + 1}/{count})" if count > 1 else "")

    def replace_marks(self, marks: BatchMarks) -> "VideoMatrix":
        """Return the same videos with new marks."""
        cells = {place: replace(cell, mark=marks.get_mark(cell.entry.id)) for place, cell in self.cells.items()}
        return replace(self, cells=cells)

    def replace_running(self, running_by_index: Mapping[int, RunningVideo]) -> "VideoMatrix":
        """Return the same videos, of which exactly the videos with these indices are running."""
        cells = {
            place: replace(cell, running=running_by_index.get(cell.video_index)) for place, cell in self.cells.items()
        }
        return replace(self, cells=cells)


def _describe_axis(name: str, count: int) -> str:
    if not count:  # the names of several axes
        return replace_names(name)
    singulars = {VARIATION_AXIS: "variation", SEED_AXIS: "seed"}
    return (
        format_count(count, singulars[name])
        if name in singulars
        else f"{format_count(count, 'value')} of {replace_names(name)}"
    )


def arrange_matrix(
    folder: Path,
    manifest: Manifest,
    marks: BatchMarks,
    video_filter: str = "all",
    view: MatrixView = MatrixView(),
    similarity: BatchSimilarity = NO_SIMILARITY,
    video_index: int | None = None,
) -> VideoMatrix:
    """Arrange the videos of a page that match a filter; rows and columns without such videos are left out.

    Args:
        video_filter: one of `VIDEO_FILTERS`; any other value shows all videos.
        video_index: video whose page is arranged instead of the page of the view, if the filter shows the video.
    """
    shown = [
        index for index, entry in enumerate(manifest.videos) if _matches_filter(marks.get_mark(entry.id), video_filter)
    ]
    recipe = manifest.videos[0].recipe
    aspect_ratio = recipe.height / recipe.width
    if not shown:
        return VideoMatrix(folder, aspect_ratio=aspect_ratio)
    axes = BatchAxes(manifest, shown)
    layouts = axes.list_layouts()
    layout = layouts[view.layout_number % len(layouts)]
    page_number = view.page_number if video_index is None else axes.find_page(layout, view.page_number, video_index)
    arranged = axes.arrange_videos(layout, page_number)
    cells = {
        index: MatrixCell(
            index,
            entry := manifest.videos[index],
            marks.get_mark(entry.id),
            replace_names(axes.name_video(entry)),
            _describe_similarity(entry, manifest, similarity),
        )
        for index in set(arranged.index_by_position.values())
    }
    rows = _sort_rows(arranged, manifest, similarity, view.sort_score)
    new_rows = {row: number for number, row in enumerate(rows)}
    return VideoMatrix(
        folder,
        tuple(replace_names(_shorten_row_label(arranged.rows[row].label, layout)) for row in rows),
        replace_names(arranged.column_heading),
        tuple(map(replace_names, arranged.column_labels)),
        {(new_rows[row], column): cells[index] for (row, column), index in arranged.index_by_position.items()},
        aspect_ratio,
        layout,
        MatrixView(view.layout_number % len(layouts), arranged.page_number, view.sort_score),
        tuple(replace_names(line.label) for line in arranged.pages),
        _choose_row_colours(arranged, layout, manifest, rows),
    )


def _shorten_row_label(label: str, layout: AxisLayout) -> str:
    """Return the label of a row of several axes without the names of the settings, which the title has."""
    for name in layout.rows[1:]:
        label = label.replace(f", {name} ", ROW_NAME_SEPARATOR)
    return label


def _choose_row_colours(
    arranged: ArrangedVideos, layout: AxisLayout, manifest: Manifest, rows: Sequence[int]
) -> tuple[str, ...]:
    """Return the colour of each row's variation; empty if the rows do not begin with the variation."""
    colours = assign_variation_colours(manifest.variations)
    if layout.rows[0] != VARIATION_AXIS or not colours:
        return ()
    return tuple(colours[manifest.variations[arranged.rows[row].key[0]].id] for row in rows)


def _sort_rows(arranged: ArrangedVideos, manifest: Manifest, similarity: BatchSimilarity, sort_score: str) -> list[int]:
    """Return the rows by the mean score of their videos, most similar first; rows without a score come last."""
    rows = range(len(arranged.rows))
    if not sort_score:
        return list(rows)
    scores_by_row: dict[int, list[float]] = {row: [] for row in rows}
    for (row, _), index in arranged.index_by_position.items():
        video = similarity.by_video.get(manifest.videos[index].id)
        if video is not None and (score := getattr(video, sort_score)) is not None:
            scores_by_row[row].append(score)
    sign = 1 if sort_score in DISTANCE_SCORES else -1
    return sorted(rows, key=lambda row: sign * fmean(scores_by_row[row]) if scores_by_row[row] else inf)


def _describe_similarity(entry: VideoEntry, manifest: Manifest, similarity: BatchSimilarity) -> str:
    video = similarity.by_video.get(entry.id)
    if video is None or not (scores := video.list_scores()):
        return ""
    baseline = next((other for other in manifest.videos if other.id == video.baseline), None)
    name = video.baseline if baseline is None else manifest.make_video_title(baseline)
    return f"{', '.join(scores)} to {name}"


def _matches_filter(mark: VideoMark, video_filter: str) -> bool:
    return mark.star if video_filter == "starred" else not mark.reject if video_filter == "unrejected" else True
