"""Grid of a batch: one row per variation, one column per video number, and the labels of both."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from wantui.errors import UserError
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import VideoEntry, read_manifest
from wantui.storage.manifest_labels import VariationLabel, label_columns, label_variations

MAX_LISTED_NAMES = 10
"""Maximum number of known names that an error lists."""


@dataclass(frozen=True)
class GridCell:
    """One requested video."""

    entry: VideoEntry
    clip: Path | None
    """The existing clip; None if the video is not done or its clip is missing."""


@dataclass(frozen=True)
class GridRow(VariationLabel):
    """One variation and its videos."""

    cells: tuple[GridCell | None, ...]
    """One cell per column; None if the batch has no such video."""


@dataclass(frozen=True)
class BatchGrid:
    """Videos of a batch, or some of them, in rows and columns."""

    folder: Path
    template: str
    column_labels: tuple[str, ...]
    rows: tuple[GridRow, ...]
    faults: tuple[str, ...] = ()
    """Unreadable lines of the journal; the states of their videos may be outdated."""

    def cells(self) -> list[GridCell]:
        """Return the cells with a video, row by row."""
        return [cell for row in self.rows for cell in row.cells if cell is not None]

    def clips(self) -> list[Path]:
        """Return the existing clips, row by row."""
        return [cell.clip for cell in self.cells() if cell.clip is not None]

    def list_options(self) -> dict[int, list[str]]:
        """Return the options that occur, in the order of the rows, by number of the bracket."""
        options: dict[int, list[str]] = {}
        for row in self.rows:
            for bracket, text in row.options.items():
                if text not in options.setdefault(bracket, []):
                    options[bracket].append(text)
        return options


def read_batch_grid(folder: Path, variation_ids: Collection[str] = (), seeds: Collection[int] = ()) -> BatchGrid:
    """Read the grid of a batch folder.

    Args:
        variation_ids: ids of the variations to include; all if empty.
        seeds: seeds to include; all if empty.

    Raises:
        ManifestError: the folder is not a batch folder, or its manifest is damaged.
        UserError: the batch has no such variation or seed, or no video has both.
    """
    manifest = read_manifest(BatchFolder(folder))
    _check_selection("--variation", variation_ids, [variation.id for variation in manifest.variations], folder)
    _check_selection("--seed", seeds, sorted({video.seed for video in manifest.videos}), folder)
    videos = [
        video
        for video in manifest.videos
        if (not variation_ids or manifest.variations[video.variation].id in variation_ids)
        and (not seeds or video.seed in seeds)
    ]
    if not videos:
        raise UserError(f"{folder} has no video with the given --variation and --seed")
    numbers = sorted({video.number for video in videos})
    indices = sorted({video.variation for video in videos})
    rows = []
    for index, label in zip(indices, label_variations(manifest, indices), strict=True):
        by_number = {video.number: _make_cell(folder, video) for video in videos if video.variation == index}
        cells = tuple(by_number.get(number) for number in numbers)
        rows.append(GridRow(label.id, label.label, label.prompt, label.options, cells))
    return BatchGrid(folder, manifest.template, label_columns(videos), tuple(rows), manifest.faults)


def _check_selection(option: str, wanted: Collection[object], known: Sequence[object], folder: Path) -> None:
    for name in wanted:
        if name not in known:
            listed = ", ".join(map(str, known[:MAX_LISTED_NAMES]))
            more = f" and {len(known) - MAX_LISTED_NAMES:,} more" if len(known) > MAX_LISTED_NAMES else ""
            raise UserError(f"{option}: {folder} has no {name}. It has {listed}{more}")


def _make_cell(folder: Path, video: VideoEntry) -> GridCell:
    clip = folder / video.files["clip"] if video.state == "done" and "clip" in video.files else None
    return GridCell(video, clip if clip is not None and clip.is_file() else None)
