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
from wantui.storage.video_files import make_parent_folders

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from wantui.analysis.compare import Comparison

MAX_FOLDERS = 50
"""Number of the newest batches that are searched for trajectories."""


@dataclass(frozen=True)
class WordAttention:
    """Attention to one word, as it is shown."""

    line: str
    mass: list[float]
    strip: "NDArray[np.uint8] | None"


@dataclass
class TrajectoriesLoaded(Message):
    """The trajectories of the chosen batches; `folders` are all that have some."""

    folders: list[Path]
    chosen: list[Path]
    videos: list[Video]
    error: str


@dataclass
class ComparisonDone(Message):
    """Result of a comparison between groups, or the reason why there is none."""

    videos: Sequence[Video]
    grouping: str
    result: "Comparison | None"
    reason: str


@dataclass
class AttentionLoaded(Message):
    """The attention of one video, or the reason why it cannot be shown."""

    video: Video
    words: list[WordAttention]
    reason: str


def load_trajectories(
    roots: Sequence[Path], chosen: Sequence[Path], is_cancelled: Callable[[], bool]
) -> TrajectoriesLoaded | None:
    """Return the trajectories of the chosen batches, or of the newest where none of them is left; None if cancelled."""
    recent = [batch.folder for batch in find_batches(list(roots)) if batch.counts][:MAX_FOLDERS]
    folders = [path for path in recent if any((path / "latents").glob("*/*.zarr"))]
    kept = [path for path in chosen if path in folders] or folders[:1]
    videos: list[Video] = []
    errors: list[str] = []
    for folder in kept:
        try:
            for video in read_batch(folder):
                videos.append(video)
                if is_cancelled():
                    return None
        except UserError as error:
            errors.append(str(error))
    return TrajectoriesLoaded(folders, kept, videos, "\n".join(errors))


def compare_videos(videos: Sequence[Video], grouping: str) -> ComparisonDone:
    """Compare groups of videos."""
    from wantui.analysis.compare import compare_groups

    try:
        return ComparisonDone(videos, grouping, compare_groups(videos, grouping), "")
    except UserError as error:
        return ComparisonDone(videos, grouping, None, str(error))


def load_attention(video: Video, with_strips: bool) -> AttentionLoaded:
    """Read the attention maps of one video."""
    if video.attention is None:
        reason = "no attention maps are stored of this video: mark a (word) and set store_attention"
        return AttentionLoaded(video, [], reason)
    try:
        return AttentionLoaded(video, draw_attention_words(video, with_strips), "")
    except UserError as error:
        return AttentionLoaded(video, [], str(error))


def export_analysis(batch: Path, videos: Sequence[Video], comparison: "Comparison | None") -> tuple[Path, list[str]]:
    """Write a CSV table of the videos, and an HTML report on the groups if they were compared, below a batch folder.

    Returns the folder and the names of the written files.

    Raises:
        OSError, UserError: a file cannot be written.
    """
    from wantui.analysis.report import write_report
    from wantui.analysis.serialize import build_video_rows, write_csv

    stamp = f"{datetime.now():%Y%m%d_%H%M%S}"
    folder = batch / "reports"
    table = folder / f"trajectories_{stamp}.csv"
    make_parent_folders(batch, table)
    write_csv(table, build_video_rows(videos, list(METRICS)))
    names = [table.name]
    if comparison is not None:
        report = folder / f"comparison_{stamp}.html"
        write_report(report, comparison)
        names.append(report.name)
    return folder, names


def draw_attention_words(video: Video, with_strips: bool) -> list[WordAttention]:
    """Draw the attention of a video's marked words.

    Raises:
        UserError: no maps or no clip can be read.
    """
    from wantui.analysis.attention_overlay import compute_shared_scale, draw_strip, find_clip
    from wantui.analysis.attention_summary import average_finite, compute_word_curves
    from wantui.storage.attention_maps import open_attention_maps

    assert video.attention is not None
    maps = open_attention_maps(video.attention)
    if not maps.words:
        return []
    scale = compute_shared_scale(maps, list(maps.words))
    clip = find_clip(video) if with_strips else None
    drawn = []
    for name in maps.words:
        curves = compute_word_curves(maps, name)
        mass, entropy = average_finite(curves.mass), average_finite(curves.entropy)
        line = f"{curves.text} ({' '.join(curves.tokens)}): {mass:.2%} of the attention, entropy {entropy:.2f}"
        picture = draw_strip(clip, maps, name, scale) if clip is not None else None
        drawn.append(WordAttention(line, curves.mass.tolist(), picture))
    return drawn
