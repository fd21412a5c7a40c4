"""wantui analyze: metrics of stored trajectories, comparisons of groups, attention to marked words."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wantui.cli.analyze_output import print_video_list
from wantui.cli.analyze_request import AnalyzeRequest
from wantui.cli.analyze_videos import print_video_metrics
from wantui.cli.commands import WantuiCommand
from wantui.cli.options import print_warnings
from wantui.cli.output import echo
from wantui.cli.progress_line import open_progress_line
from wantui.cli.types import BATCH_FOLDER_TYPE, PATH_TYPE, DecimalNumber, UserPath, VideoIdPrefix, WholeNumber
from wantui.errors import UserError
from wantui.formatting import format_count, join_and_shorten

if TYPE_CHECKING:
    from wantui.analysis.label_table import LabelTable
    from wantui.analysis.loading import LoadedBatches
    from wantui.analysis.video import Video


@click.command("analyze", cls=WantuiCommand)
@click.argument("batches", nargs=-1, required=True, type=BATCH_FOLDER_TYPE)
@click.option("--list-videos", is_flag=True, help="List the videos with their IDs and stored captures.")
@click.option(
    "--video-id",
    "id_prefixes",
    type=VideoIdPrefix(),
    multiple=True,
    help="Include only the video whose ID is or starts with this text; repeatable.  [default: all videos]",
)
@click.option(
    "--where",
    "conditions",
    metavar="NAME=VALUE",
    multiple=True,
    help="Include only videos with this setting (cfg_scale=2), bracket word (1=red) or seed (seed=1..4); repeatable. "
    "Several values of one name (cfg_scale=2,4) are alternatives.",
)
@click.option(
    "--metrics",
    help="Comma-separated metrics to print, or `all`.  [default: the six main metrics; all of them with "
    "--json or --csv]",
)
@click.option(
    "--groups",
    "show_groups",
    is_flag=True,
    help="Print the mean of each metric per group, and its value in the null models.",
)
@click.option("--compare", "show_comparison", is_flag=True, help="Compare the groups: effects, tests, and a verdict.")
@click.option(
    "--decodability",
    "show_decodability",
    is_flag=True,
    help="Print how accurately groups can be distinguished at each noise level.",
)
@click.option(
    "--shares",
    "show_shares",
    is_flag=True,
    help="Print the fraction of the variance that seed, wording and group explain at each noise level.",
)
@click.option(
    "--correlate",
    "show_correlations",
    is_flag=True,
    help="Correlate metrics with attention to marked words, and with your own labels (--scores).",
)
@click.option(
    "--by",
    "grouping",
    default="variation",
    show_default=True,
    help="Grouping of the videos: variation, prompt, batch, bracket numbers (1 or 1,3), or settings (cfg_scale).",
)
@click.option(
    "--primary",
    "primary_metric",
    help="Metric that decides the verdict.  [default: the metric declared in the config, otherwise log_volume]",
)
@click.option(
    "--interaction",
    "tests_interaction",
    is_flag=True,
    help="Test whether the two factors of --by (such as --by 1,2) interact: whether the effect of one depends on the "
    "other. Needs --compare or --html.",
)
@click.option(
    "--details",
    "shows_details",
    is_flag=True,
    help="Print tables of all metrics, pairs of groups, slopes and curves above the answers of --compare; --metrics "
    "implies it.",
)
@click.option(
    "--margin",
    "equivalence_margin",
    type=DecimalNumber(),
    default=0.05,
    show_default=True,
    help="Equivalence margin, as a fraction of the mean.",
)
@click.option(
    "--stride",
    type=WholeNumber(1, 100),
    help="Measure every N-th state.  [default: 1; for turning, curvature and acceleration, the stride at which they "
    "converge]",
)
@click.option(
    "--scores",
    "scores_path",
    type=PATH_TYPE,
    help="CSV file with your own labels for the videos (ratings, codes, CLIP scores); each is treated as a metric.",
)
@click.option(
    "--attention", "show_attention", is_flag=True, help="Summarise the stored attention maps of marked words."
)
@click.option(
    "--contributions",
    "show_contributions",
    is_flag=True,
    help="Summarise the stored contributions of marked words to the cross-attention.",
)
@click.option(
    "--overlay",
    "overlay_word",
    metavar="WORD",
    help="Draw the attention to WORD over the clip of one video (--video-id).",
)
@click.option(
    "--from-latents", is_flag=True, help="Compute from the stored latents instead of the stored inner products."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the curves.")
@click.option("--csv", "csv_path", type=UserPath(allow_dash=True), help="CSV file to write; - writes to stdout.")
@click.option("--html", "html_path", type=PATH_TYPE, help="HTML report of the comparison to write; implies --compare.")
@click.option(
    "-o", "--output", "overlay_path", type=PATH_TYPE, help="Clip to write with --overlay.  [default: in BATCH/analysis]"
)
def command(**options: Any) -> None:
    """Analyse the trajectories of the videos in BATCHES, alone or by group. docs/analysis.md defines every metric.

    Lengths are divided by the square root of the number of latent values; angles are in radians. Unreadable videos are
    reported on stderr and left out; the exit code is then 1.
    """
    from wantui.analysis.group_names import CannotCompareError
    from wantui.analysis.label_table import read_label_table
    from wantui.analysis.labels import join_labels
    from wantui.analysis.metrics import METRICS
    from wantui.analysis.strides import (
        apply_stride_to_videos,
        check_strides,
        measure_bends_at_settled_strides,
        reject_too_large_stride,
    )

    request = AnalyzeRequest(**options)
    request.reject_unused_options()
    label_table = None if request.scores_path is None else read_label_table(request.scores_path)
    label_names = [] if label_table is None else list(label_table.label_names)
    chosen_metrics = request.parse_metrics([*METRICS, *label_names])
    request.check_output_files()
    batches = _read_batches(request)
    loaded_videos = batches.videos if label_table is None else join_labels(batches.videos, label_table)
    if request.stride is not None:
        loaded_videos = apply_stride_to_videos(loaded_videos, request.stride)
    if request.has_metrics:
        loaded_videos = check_strides(loaded_videos)
    videos = _select_videos(request, loaded_videos)
    _print_reading_warnings(batches, videos)
    damaged_names = [*batches.errors, *(video.name for video in videos if video.is_damaged)]
    if label_table is not None:
        videos, label_names = _exclude_videos_without_labels(request, videos, label_table, chosen_metrics)
    if request.stride is not None:
        reject_too_large_stride(videos, request.stride)
    elif request.has_metrics:
        videos = measure_bends_at_settled_strides(videos)
    try:
        damaged_names += _print_results(request, videos, chosen_metrics, label_names, label_table)
    except CannotCompareError:
        _reject_too_few_groups_or_seeds(request, loaded_videos, videos)
        raise
    if damaged_names:
        sys.exit(1)


def _read_batches(request: AnalyzeRequest) -> "LoadedBatches":
    """Return all finished videos of the batches.

    Raises:
        UserError: no video is finished.
    """
    from wantui.analysis.loading import read_batches

    with open_progress_line() as line:
        batches = read_batches(
            request.batches,
            request.from_latents,
            lambda count: line.show_count(f"reading trajectories: {format_count(count, 'video')}"),
        )
    if not (batches.videos or request.list_videos or request.as_json):
        raise UserError(_format_no_finished_video_error(request.batches, batches.errors))
    return batches


def _select_videos(request: AnalyzeRequest, loaded_videos: "list[Video]") -> "list[Video]":
    from wantui.analysis.conditions import select_videos_by_condition

    return select_videos_by_condition(_select_videos_by_id(loaded_videos, request.id_prefixes), request.conditions)


def _print_reading_warnings(batches: "LoadedBatches", videos: "list[Video]") -> None:
    """Print warnings about the manifests, the unreadable batches, the chosen videos, and the unfinished videos."""
    from wantui.storage.layout import BatchFolder
    from wantui.storage.manifest_file import list_manifest_warnings

    for folder, manifest in batches.manifest_by_folder.items():
        print_warnings(list_manifest_warnings(BatchFolder(folder), manifest))
    _print_video_warnings(videos, batches.errors)
    for note in batches.describe_unfinished_videos():
        echo(f"left out: {note}", err=True)


def _reject_too_few_groups_or_seeds(
    request: AnalyzeRequest, loaded_videos: "list[Video]", videos: "list[Video]"
) -> None:
    """Raise UserError if --where leaves too few seeds or groups to compare."""
    from wantui.analysis.conditions import explain_too_few_selected
    from wantui.analysis.decodability import MIN_DECODED_SEEDS

    if request.conditions and request.mode in ("--compare", "--decodability", "--shares"):
        min_seeds = MIN_DECODED_SEEDS if request.mode == "--decodability" else 2
        if text := explain_too_few_selected(loaded_videos, videos, request.conditions, request.grouping, min_seeds):
            raise UserError(text)


def _exclude_videos_without_labels(
    request: AnalyzeRequest, videos: "list[Video]", label_table: "LabelTable", chosen_metrics: list[str] | None
) -> "tuple[list[Video], list[str]]":
    """Exclude videos that lack a label in use; return all videos, and the labels to correlate."""
    from wantui.cli.analyze_labels import exclude_unlabelled_videos

    label_names = list(label_table.label_names)
    if request.show_correlations:  # all metrics are correlated with the labels, unless some labels are chosen
        label_names = [name for name in label_names if name in (chosen_metrics or ())] or label_names
        used_names = label_names
    else:
        used_names = [*(chosen_metrics or label_names), request.requested_metric or ""]
    return exclude_unlabelled_videos(videos, label_table, used_names), label_names


def _print_results(
    request: AnalyzeRequest,
    videos: "list[Video]",
    chosen_metrics: list[str] | None,
    label_names: list[str],
    label_table: "LabelTable | None",
) -> list[str]:
    """Print or write the results of the mode; return the names of unreadable videos."""
    from wantui.cli import (
        analyze_attention,
        analyze_contributions,
        analyze_correlations,
        analyze_groups,
        analyze_levels,
    )

    as_json, grouping = request.as_json, request.grouping
    match request.mode:
        case "--list-videos":
            print_video_list(videos, as_json)
        case "--overlay":
            assert request.overlay_word is not None
            analyze_attention.write_word_overlay(videos, request.overlay_word, request.overlay_path)
        case "--attention":
            return analyze_attention.print_word_curves(videos, as_json)
        case "--contributions":
            return analyze_contributions.print_word_contributions(videos, as_json)
        case "--compare":
            return analyze_groups.print_group_comparison(request, videos, chosen_metrics, label_table)
        case "--decodability":
            return analyze_levels.print_decodability(videos, grouping, as_json)
        case "--shares":
            return analyze_levels.print_variance_shares(videos, grouping, as_json)
        case "--correlate":
            analyze_correlations.print_correlations(videos, chosen_metrics, label_names, as_json)
        case "--groups":
            analyze_groups.print_group_means(videos, grouping, chosen_metrics, as_json)
        case _:
            print_video_metrics(videos, chosen_metrics, as_json, request.csv_path)
    return []


def _format_no_finished_video_error(batch_folders: Sequence[Path], read_errors: Sequence[str]) -> str:
    """Return the error for batches without a finished video."""
    errors_text = "".join(f" {read_error}." for read_error in read_errors)
    return (
        f"cannot analyse {join_and_shorten(batch_folders)}: no video is finished.{errors_text} Wait for the "
        f"first one (wantui watch {batch_folders[0]}), or queue the batch again: wantui run --resume {batch_folders[0]}"
    )


def _print_video_warnings(videos: "list[Video]", read_errors: Sequence[str]) -> None:
    """Print errors of unreadable batches and videos, and warnings about the readable videos, to stderr."""
    from wantui.analysis.comparability import VideoNamer

    for read_error in read_errors:
        echo(f"left out: {read_error}", err=True)
    count_by_warning = Counter(warning for video in videos for warning in video.warnings)
    for warning, video_count in count_by_warning.items():
        echo(f"warning: {warning} ({format_count(video_count, 'video')})", err=True)
    video_namer = VideoNamer(videos)
    for video in videos:
        if video.is_damaged:
            echo(f"left out: {video_namer.name_video(video)}: {video.exclusion_reason}", err=True)


def _select_videos_by_id(videos: "list[Video]", id_prefixes: Sequence[str]) -> "list[Video]":
    """Return the videos whose id starts with one of the prefixes; without prefixes, all videos."""
    for prefix in id_prefixes:
        if not any(video.id.startswith(prefix) for video in videos):
            raise UserError(
                f"--video-id: no finished video has an ID that starts with {prefix!r}. List IDs with --list-videos"
            )
    return [video for video in videos if not id_prefixes or any(video.id.startswith(prefix) for prefix in id_prefixes)]
