"""Data of the Analysis screen, read, compared and exported off the UI thread, and the messages that carry them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from textual.message import Message

from wantui.analysis.loading import read_batch
from wantui.analysis.trajectory import METRICS
from wantui.analysis.video import Video
from wantui.errors import UserError
from wantui.storage.batch_index import find_batches
from wantui.storage.video_files import make_parent
from wantui.tui.widgets.trajectory_details import DrawnWord, drawn_words

if TYPE_CHECKING:
    from wantui.analysis.compare import Comparison

MAX_FOLDERS = 50
"""Number of the newest batches that are searched for trajectories."""


@dataclass
class TrajectoriesLoaded(Message):
    """The trajectories of the chosen batches; `folders` are all that have some."""

    folders: list[Path]
    chosen: list[Path]
    videos: list[Video]
    fault: str


@dataclass
class ComparisonDone(Message):
    """Result of a comparison between groups, or the reason why there is none."""

    videos: Sequence[Video]
    by: str
    comparison: "Comparison | None"
    reason: str


@dataclass
class AttentionLoaded(Message):
    """The attention of one video, or the reason why it cannot be shown."""

    video: Video
    words: list[DrawnWord]
    reason: str


def load_trajectories(
    roots: Sequence[Path], chosen: Sequence[Path], is_cancelled: Callable[[], bool]
) -> TrajectoriesLoaded | None:
    """Return the trajectories of the chosen batches, or of the newest where none of them is left; None if cancelled."""
    recent = [batch.folder for batch in find_batches(list(roots)) if batch.counts][:MAX_FOLDERS]
    folders = [path for path in recent if any((path / "latents").glob("*/*.zarr"))]
    kept = [path for path in chosen if path in folders] or folders[:1]
    videos: list[Video] = []
    faults: list[str] = []
    for folder in kept:
        try:
            for video in read_batch(folder):
                videos.append(video)
                if is_cancelled():
                    return None
        except UserError as error:
            faults.append(str(error))
    return TrajectoriesLoaded(folders, kept, videos, "\n".join(faults))


def compare_videos(videos: Sequence[Video], by: str) -> ComparisonDone:
    """Compare groups of videos."""
    from wantui.analysis.compare import compare

    try:
        return ComparisonDone(videos, by, compare(videos, by), "")
    except UserError as error:
        return ComparisonDone(videos, by, None, str(error))


def load_attention(video: Video, with_strips: bool) -> AttentionLoaded:
    """Read the attention maps of one video."""
    if video.attention is None:
        reason = "no attention maps are stored of this video: mark a (word) and set store_attention"
        return AttentionLoaded(video, [], reason)
    try:
        return AttentionLoaded(video, drawn_words(video, with_strips), "")
    except UserError as error:
        return AttentionLoaded(video, [], str(error))


def export_analysis(batch: Path, videos: Sequence[Video], comparison: "Comparison | None") -> tuple[Path, list[str]]:
    """Write a CSV table of the videos, and an HTML report on the groups if they were compared, below a batch folder.

    Returns the folder and the names of the written files.

    Raises:
        OSError, UserError: a file cannot be written.
    """
    from wantui.analysis.report import write_report
    from wantui.analysis.serialize import video_rows, write_csv

    stamp = f"{datetime.now():%Y%m%d_%H%M%S}"
    folder = batch / "reports"
    table = folder / f"trajectories_{stamp}.csv"
    make_parent(batch, table)
    write_csv(table, video_rows(videos, list(METRICS)))
    names = [table.name]
    if comparison is not None:
        report = folder / f"comparison_{stamp}.html"
        write_report(report, comparison)
        names.append(report.name)
    return folder, names
