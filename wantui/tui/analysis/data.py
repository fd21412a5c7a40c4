"""Data of the Analysis screen, read, compared and exported off the UI thread, and the messages that carry them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from textual.message import Message

from wantui.analysis.group import Group
from wantui.analysis.loading import read_batch_videos
from wantui.analysis.metrics import CURVES, METRICS
from wantui.analysis.strides import check_strides, measure_bends_at_settled_strides
from wantui.analysis.video import Video
from wantui.errors import UserError
from wantui.storage.batch_index import BatchSummary, find_batches
from wantui.storage.video_files import make_parent_folders
from wantui.tui.analysis.advice import format_error_for_screen
from wantui.tui.analysis.attention_film import AttentionFilm, OverlayKey, load_attention_film
from wantui.tui.analysis.views import SHOWN_CURVES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from wantui.analysis.comparison import Comparison
    from wantui.analysis.correlation_data import VideoCorrelations
    from wantui.analysis.curve_comparison import CurveComparison
    from wantui.analysis.decodability import Decodability
    from wantui.analysis.interaction import Interaction
    from wantui.analysis.mean_curves import MeanCurve, MedianCurves
    from wantui.analysis.path_components import PathComponents
    from wantui.analysis.variance_shares import VarianceShares

MAX_SCANNED_BATCHES = 50
"""Number of the newest batches that are searched for trajectories in addition to the chosen batches."""


@dataclass
class TrajectoriesLoaded(Message):
    """The trajectories of the chosen batches; `available_batches` are all batches that have trajectories."""

    available_batches: list[BatchSummary]
    chosen_folders: list[Path]
    videos: list[Video]
    load_error: str
    requested_folders: Sequence[Path] = ()
    """Folders that were requested; requested folders without trajectories are not chosen."""
    median_curves: "MedianCurves" = field(default_factory=dict)
    """Median curves of all videos, drawn behind the curves of each video."""


@dataclass
class ComparisonDone(Message):
    """Result of a comparison between groups, or the reason why there is none."""

    videos: Sequence[Video]
    grouping: str
    comparison: "Comparison | None"
    error: str


@dataclass(frozen=True)
class Separation:
    """How groups separate along the path."""

    pairs: "Sequence[Decodability]"
    unguided_pairs: "Sequence[Decodability]"
    """Decodability at cfg_scale 1; empty if there are no such videos."""
    variance_shares: "VarianceShares"
    no_unguided_reason: str = ""
    """Reason why the videos at cfg_scale 1 are not compared; empty if they are, or there are none."""


@dataclass(frozen=True)
class FigureKey:
    """Key of a figure about groups of the loaded videos."""

    view: str
    """`means`, `paths`, `separation`, `interaction` or `correlations`."""
    grouping: str
    """Grouping; for `interaction` two factors, such as "1,2"."""
    curve_name: str = ""
    """Curve of `means`; empty for the one that differs most clearly."""


@dataclass(frozen=True)
class GroupCurves:
    """Mean curves of groups."""

    group_names: Sequence[str]
    """Names of all groups, including those without a readable trajectory."""
    curve_name: str
    mean_curves: "Sequence[MeanCurve]"
    comparison: "CurveComparison | None"
    """Cluster tests of the curves; None if the groups have no pairs of seeds."""


@dataclass(frozen=True)
class GroupPaths:
    """Paths of groups in the plane of their first two principal components."""

    group_names: Sequence[str]
    """Names of all groups, including those without a readable trajectory."""
    components: "PathComponents"


Figure: TypeAlias = "GroupCurves | GroupPaths | Separation | Interaction | VideoCorrelations"


@dataclass
class FigureDone(Message):
    """A figure about groups, or the reason why there is no figure."""

    videos: Sequence[Video]
    key: FigureKey
    figure: "Figure | None"
    error: str = ""


@dataclass
class AttentionLoaded(Message):
    """The attention of one video, or the reason why it cannot be shown."""

    video: Video
    film: AttentionFilm | None
    error: str


@dataclass
class OverlayDrawn(Message):
    """A frame of a film with the attention drawn over it, or the reason why the attention cannot be drawn."""

    film: AttentionFilm
    key: OverlayKey
    picture: "NDArray[np.uint8] | None"
    error: str


def _has_trajectories(latents_folder: Path) -> bool:
    """Return whether a batch's folder of latents contains a trajectory, at its top level or in a cell of a sweep."""
    return any(latents_folder.glob("*/*.zarr")) or any(latents_folder.glob("*/cell_*/*.zarr"))


def load_chosen_trajectories(
    library_roots: Sequence[Path], chosen_folders: Sequence[Path], is_cancelled: Callable[[], bool]
) -> TrajectoriesLoaded | None:
    """Return the trajectories of the chosen batches; None if cancelled.

    If none of the chosen batches is left, load the newest batch with trajectories, preferably of finished videos.
    """
    from wantui.analysis.mean_curves import compute_median_curves

    batches = [batch for batch in find_batches(list(library_roots)) if batch.counts_by_state]
    recent_batches = [
        batch for number, batch in enumerate(batches) if number < MAX_SCANNED_BATCHES or batch.folder in chosen_folders
    ]
    available_batches = [batch for batch in recent_batches if _has_trajectories(batch.folder / "latents")]
    available_folders = [batch.folder for batch in available_batches]
    finished_folders = [batch.folder for batch in available_batches if dict(batch.counts_by_state).get("done")]
    loaded_folders = [folder for folder in chosen_folders if folder in available_folders]
    loaded_folders = loaded_folders or finished_folders[:1] or available_folders[:1]
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
    videos = measure_bends_at_settled_strides(check_strides(videos))
    for video in videos:
        for metric in METRICS:  # which a trajectory remembers: drawing the table then computes nothing
            video.compute_metric(metric)
        if is_cancelled():
            return None
    median_curves = compute_median_curves(videos, SHOWN_CURVES)
    return TrajectoriesLoaded(
        available_batches, loaded_folders, videos, "\n".join(errors), chosen_folders, median_curves
    )


def compare_videos(videos: Sequence[Video], grouping: str) -> ComparisonDone:
    """Compare groups of videos."""
    from wantui.analysis.declaration import choose_primary_metric
    from wantui.analysis.unguided import compare_with_unguided

    try:
        declaration = choose_primary_metric(videos)
        comparison = compare_with_unguided(videos, grouping, declaration.metric)
        return ComparisonDone(videos, grouping, replace(comparison, declaration=declaration), "")
    except UserError as error:
        return ComparisonDone(videos, grouping, None, format_error_for_screen(error))


def compute_figure(videos: Sequence[Video], key: FigureKey) -> FigureDone:
    """Compute a figure about groups of comparable videos."""
    from wantui.analysis.groups import group_comparable_videos, group_videos
    from wantui.analysis.interaction import measure_interaction
    from wantui.analysis.mean_curves import compute_mean_curves
    from wantui.analysis.path_components import compute_path_components

    try:
        if key.view == "separation":
            return FigureDone(videos, key, _measure_separation(videos, key.grouping))
        if key.view == "interaction":
            return FigureDone(videos, key, measure_interaction(videos, key.grouping))
        if key.view == "correlations":
            return FigureDone(videos, key, _correlate_with_attention(videos))
        groups = group_comparable_videos(videos, key.grouping)[0]
        group_names = [group.name for group in group_videos(videos, key.grouping)]
        if key.view == "means":
            comparison = _compare_curve(videos, key)
            curve_name = key.curve_name or (next(iter(CURVES)) if comparison is None else comparison.curve_name)
            mean_curves = compute_mean_curves(groups, curve_name)
            return FigureDone(videos, key, GroupCurves(group_names, curve_name, mean_curves, comparison))
        return FigureDone(videos, key, GroupPaths(group_names, compute_path_components(groups)))
    except UserError as error:
        return FigureDone(videos, key, None, format_error_for_screen(error))


def _measure_separation(videos: Sequence[Video], grouping: str) -> Separation:
    from wantui.analysis.decodability import compute_decodability
    from wantui.analysis.level_states import load_guided_and_unguided
    from wantui.analysis.variance_shares import compute_variance_shares

    level_states, unguided_states, reason = load_guided_and_unguided(videos, grouping)
    unguided_pairs = [] if unguided_states is None else compute_decodability(unguided_states)
    return Separation(compute_decodability(level_states), unguided_pairs, compute_variance_shares(level_states), reason)


def _correlate_with_attention(videos: Sequence[Video]) -> "VideoCorrelations":
    from wantui.analysis.correlation_data import correlate_videos

    return correlate_videos(videos, list(METRICS), [])


def _compare_curve(videos: Sequence[Video], key: FigureKey) -> "CurveComparison | None":
    """Return the comparison of a curve; None if the groups do not match.

    By default, choose the curve that differs most clearly.
    """
    from wantui.analysis.curve_comparison import compare_curves
    from wantui.analysis.group_names import CannotCompareError
    from wantui.analysis.matching import match_comparable_groups

    try:
        matched_groups, _ = match_comparable_groups(videos, key.grouping)
    except CannotCompareError:  # such as a single group, or seeds that differ: the means are shown without a test
        return None
    comparisons = compare_curves(matched_groups)  # of all curves, because people choose the clearest one
    if key.curve_name:
        return next(comparison for comparison in comparisons if comparison.curve_name == key.curve_name)
    return choose_clearest_curve(comparisons)


def choose_clearest_curve(comparisons: "Sequence[CurveComparison]") -> "CurveComparison":
    """Return the comparison with the smallest p; of equal p, the comparison with the largest mass.

    A curve that depends on the sampler's steps is chosen only if all do.
    """

    def rank(comparison: "CurveComparison") -> tuple[bool, float, float]:
        clusters = [cluster for difference in comparison.differences for cluster in difference.clusters]
        smallest_p = min((cluster.family_p for cluster in clusters), default=1.0)
        largest_mass = max((abs(cluster.mass) for cluster in clusters), default=0.0)
        return not comparison.is_settled, smallest_p, -largest_mass

    return min(comparisons, key=rank)


def load_video_attention(video: Video, with_frames: bool) -> AttentionLoaded:
    """Read the attention to the marked words of one video."""
    try:
        return AttentionLoaded(video, load_attention_film(video, with_frames), "")
    except UserError as error:
        return AttentionLoaded(video, None, str(error))


def draw_overlay_picture(film: AttentionFilm, key: OverlayKey) -> OverlayDrawn:
    """Draw one picture of a film."""
    try:
        return OverlayDrawn(film, key, film.draw_picture(key), "")
    except UserError as error:
        return OverlayDrawn(film, key, None, str(error))


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


def filter_groups(groups: Sequence[Group], matching_videos: Sequence[Video]) -> list[Group]:
    """Return the groups reduced to the matching videos; groups without a match are dropped."""
    matching_keys = {(video.folder, video.video_index) for video in matching_videos}
    filtered_groups = [
        (group, [video for video in group.videos if (video.folder, video.video_index) in matching_keys])
        for group in groups
    ]
    return [Group(group.name, tuple(videos)) for group, videos in filtered_groups if videos]
