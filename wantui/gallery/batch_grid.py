"""Grid of a batch: its videos in rows and columns along its axes, and the labels of both."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wantui.errors import UserError
from wantui.formatting import join_and_shorten
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import VideoEntry, read_manifest
from wantui.storage.manifest_axes import BASELINE_POSITION, VARIATION_AXIS, AxisLayout, BatchAxes
from wantui.storage.manifest_labels import make_variation_labels
from wantui.storage.similarity_file import NO_SIMILARITY, BatchSimilarity, read_similarity

MAX_LISTED_NAMES = 10
"""Maximum number of known names that an error lists."""


@dataclass(frozen=True)
class GridCell:
    """One requested video."""

    entry: VideoEntry
    clip: Path | None
    """The existing clip; None if the video is not done or its clip is missing."""


@dataclass(frozen=True)
class GridRow:
    """One row and its videos."""

    label: str
    id: str
    """Id of the variation; empty if the row has several."""
    options: Mapping[int, str]
    """Chosen option by bracket number, for brackets whose options differ between variations."""
    cells: tuple[GridCell | None, ...]
    """One cell per column; None if the batch has no such video."""


@dataclass(frozen=True)
class BatchGrid:
    """Videos of a batch, or some of them, in rows and columns."""

    folder: Path
    template: str
    column_labels: tuple[str, ...]
    rows: tuple[GridRow, ...]
    axes: BatchAxes
    layout: AxisLayout
    faults: tuple[str, ...] = ()
    """Unreadable lines of the journal, whose videos may be outdated, and an unreadable similarity."""
    similarity: BatchSimilarity = NO_SIMILARITY
    """Similarity to a baseline, as measured last."""

    def cells(self) -> list[GridCell]:
        """Return the cells with a video, row by row; an additional baseline may be in several rows."""
        return [cell for row in self.rows for cell in row.cells if cell is not None]

    def list_videos(self) -> list[GridCell]:
        """Return the cells, each video once, in the order of the manifest."""
        cells_by_id = {id(cell.entry): cell for cell in self.cells()}
        entries = (self.axes.manifest.videos[index] for index in self.axes.indices)
        return [cells_by_id[id(entry)] for entry in entries]

    def clips(self) -> list[Path]:
        """Return the existing clips, each once."""
        return list(dict.fromkeys(cell.clip for cell in self.cells() if cell.clip is not None))

    def list_options(self) -> dict[int, list[str]]:
        """Return the options that occur, in the order of the variations, by bracket number."""
        options: dict[int, list[str]] = {}
        for label in make_variation_labels(self.axes.manifest, list(self.axes.axis_by_name[VARIATION_AXIS].labels)):
            for bracket, text in label.options.items():
                if text not in options.setdefault(bracket, []):
                    options[bracket].append(text)
        return options


def read_batch_grid(
    folder: Path,
    variation_ids: Sequence[str] = (),
    seeds: Sequence[int] = (),
    settings: Sequence[str] = (),
    written_rows: str = "",
    written_columns: str = "",
) -> BatchGrid:
    """Read the grid of a batch folder; by default, rows are variations, and columns are seeds or a swept setting.

    Args:
        variation_ids: ids of the variations to include; all if empty.
        seeds: seeds to include; all if empty.
        settings: values of swept settings to include, as NAME=VALUE; all if empty.
        written_rows, written_columns: comma-separated names of the row and column axes.

    Raises:
        ManifestError: the folder is not a batch folder, or its manifest is damaged.
        UserError: the batch has no such variation, seed, value or axis, or no video has all of them.
    """
    manifest = read_manifest(BatchFolder(folder))
    _check_selection("--variation", variation_ids, [variation.id for variation in manifest.variations], folder)
    _check_selection("--seed", seeds, sorted({video.seed for video in manifest.videos}), folder)
    all_axes = BatchAxes(manifest, range(len(manifest.videos)))
    positions_by_axis = all_axes.find_positions("--where", settings)
    indices = [
        index
        for index, video in enumerate(manifest.videos)
        if (not variation_ids or manifest.variations[video.variation].id in variation_ids)
        and (not seeds or video.seed in seeds)
        and all(
            all_axes.get_positions(video)[name] in (*positions, BASELINE_POSITION)
            for name, positions in positions_by_axis.items()
        )
    ]
    if not indices:
        raise UserError(f"{folder} has no video with the given --variation, --seed and --where")
    axes = BatchAxes(manifest, indices)
    rows, columns = (
        axes.find_axis_names(option, written)
        for option, written in (("--rows", written_rows), ("--columns", written_columns))
    )
    layout = axes.choose_flat_layout(rows, columns)
    arranged = axes.arrange_videos(layout)
    cells = {place: _make_cell(folder, manifest.videos[index]) for place, index in arranged.index_by_position.items()}
    grid_rows = []
    for number, line in enumerate(arranged.rows):
        row_cells = tuple(cells.get((number, column)) for column in range(len(arranged.columns)))
        variations = sorted({cell.entry.variation for cell in row_cells if cell is not None})
        row_id, options = "", {}
        if len(variations) == 1:
            (label,) = make_variation_labels(manifest, variations)
            row_id, options = label.id, dict(label.options)
        grid_rows.append(GridRow(line.label, row_id, options, row_cells))
    column_labels = tuple(line.label for line in arranged.columns)
    similarity = read_similarity(folder, manifest)
    faults = (*manifest.faults, *filter(None, [similarity.fault]))
    return BatchGrid(folder, manifest.template, column_labels, tuple(grid_rows), axes, layout, faults, similarity)


def _check_selection(option: str, wanted: Collection[object], known: Sequence[object], folder: Path) -> None:
    for name in wanted:
        if name not in known:
            raise UserError(
                f"{option}: {folder} has no {name!r}. Choose from: {join_and_shorten(known, MAX_LISTED_NAMES)}"
            )


def _make_cell(folder: Path, video: VideoEntry) -> GridCell:
    clip = folder / video.files["clip"] if video.state == "done" and "clip" in video.files else None
    return GridCell(video, clip if clip is not None and clip.is_file() else None)
