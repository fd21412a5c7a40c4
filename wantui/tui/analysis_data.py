"""Data of the Analysis screen, read, compared and exported off the UI thread, and the messages that carry them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from textual.message import Message

from wantui.analysis.loading import read_batch_videos
from wantui.analysis.metrics import METRICS
from wantui.analysis.video import Video
from wantui.errors import UserError
from wantui.storage.batch_index import find_batches
from wantui.storage.video_files import make_parent_folders

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from wantui.analysis.compare import Comparison

MAX_SCANNED_BATCHES = 50
"""Number of the newest batches that are searched for trajectories."""


@dataclass(frozen=True)
class WordAttention:
    """Attention to one word, as it is shown."""

    summary: str
    mass_by_step: list[float]
    strip_picture: "NDArray[np.uint8] | None"


@dataclass
class TrajectoriesLoaded(Message):
    """The trajectories of the chosen batches; `available_folders` are all batches that have trajectories."""

    available_folders: list[Path]
    chosen_folders: list[Path]
    videos: list[Video]
    load_error: str


@dataclass
class ComparisonDone(Message):
    """Result of a comparison between groups, or the reason why there is none."""

    videos: Sequence[Video]
    grouping: str
    comparison: "Comparison | None"
    error: str


@dataclass
class AttentionLoaded(Message):
    """The attention of one video, or the reason why it cannot be shown."""

    video: Video
    word_attentions: list[WordAttention]
    error: str


def load_chosen_trajectories(
    library_roots: Sequence[Path], chosen_folders: Sequence[Path], is_cancelled: Callable[[], bool]
) -> TrajectoriesLoaded | None:
    """Return the trajectories of the chosen batches, or of the newest where none of them is left; None if cancelled."""
    batches = find_batches(list(library_roots))
    recent_folders = [batch.folder for batch in batches if batch.counts_by_state][:MAX_SCANNED_BATCHES]
    available_folders = [folder for folder in recent_folders if any((folder / "latents").glob("*/*.zarr"))]
    loaded_folders = [folder for folder in chosen_folders if folder in available_folders] or available_folders[:1]
    videos: list[Video] = []
    errors: list[str] = []
    for folder in loaded_folders:
        try:
            for video in read_batch_videos(folder):
                videos.append(video)
                if is_cancelled():
                    return None
        except UserError as error:
            errors.append(str(error))
    return TrajectoriesLoaded(available_folders, loaded_folders, videos, "\n".join(errors))


def compare_videos(videos: Sequence[Video], grouping: str) -> ComparisonDone:
    """Compare groups of videos."""
    from wantui.analysis.compare import compare_groups

    try:
        return ComparisonDone(videos, grouping, compare_groups(videos, grouping), "")
    except UserError as error:
        return ComparisonDone(videos, grouping, None, str(error))


def load_video_attention(video: Video, with_strips: bool) -> AttentionLoaded:
    """Read the attention maps of one video."""
    if video.attention_path is None:
        error_text = "no attention maps are stored of this video: mark a (word) and set store_attention"
        return AttentionLoaded(video, [], error_text)
    try:
        return AttentionLoaded(video, draw_word_attentions(video, with_strips), "")
    except UserError as error:
        return AttentionLoaded(video, [], str(error))


def export_analysis(
    batch_folder: Path, videos: Sequence[Video], comparison: "Comparison | None"
) -> tuple[Path, list[str]]:
    """Write a CSV table of the videos, and an HTML report on the groups if they were compared, below a batch folder.

    Returns the folder and the names of the written files.

    Raises:
        OSError, UserError: a file cannot be written.
    """
    from wantui.analysis.report import write_report
    from wantui.analysis.serialize import build_video_rows, write_csv

    timestamp = f"{datetime.now():%Y%m%d_%H%M%S}"
    report_folder = batch_folder / "reports"
    table_path = report_folder / f"trajectories_{timestamp}.csv"
    make_parent_folders(batch_folder, table_path)
    write_csv(table_path, build_video_rows(videos, list(METRICS)))
    file_names = [table_path.name]
    if comparison is not None:
        report_path = report_folder / f"comparison_{timestamp}.html"
        write_report(report_path, comparison)
        file_names.append(report_path.name)
    return report_folder, file_names


def draw_word_attentions(video: Video, with_strips: bool) -> list[WordAttention]:
    """Draw the attention of a video's marked words.

    Raises:
        UserError: no maps or no clip can be read.
    """
    from wantui.analysis.attention_overlay import compute_scale_maximum, draw_strip, find_clip_path
    from wantui.analysis.attention_summary import average_finite_values, compute_word_curves
    from wantui.storage.attention_maps import open_attention_maps

    assert video.attention_path is not None
    maps = open_attention_maps(video.attention_path)
    if not maps.metadata_by_word:
        return []
    scale_maximum = compute_scale_maximum(maps, list(maps.metadata_by_word))
    clip_path = find_clip_path(video) if with_strips else None
    word_attentions = []
    for map_name in maps.metadata_by_word:
        curves = compute_word_curves(maps, map_name)
        mean_mass, mean_entropy = average_finite_values(curves.mass), average_finite_values(curves.entropy)
        summary = (
            f"{curves.word_text} ({' '.join(curves.token_texts)}): {mean_mass:.2%} of the attention, entropy "
            f"{mean_entropy:.2f}"
        )
        strip_picture = draw_strip(clip_path, maps, map_name, scale_maximum) if clip_path is not None else None
        word_attentions.append(WordAttention(summary, curves.mass.tolist(), strip_picture))
    return word_attentions
