"""wantui analyze: metrics of stored trajectories, comparisons of groups, attention to marked words."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wantui.cli.analyze_modes import MODES_WITH_METRICS, refuse_unused_options
from wantui.cli.analyze_output import DEFAULT_METRIC_NAMES, print_video_list, warn_about_metrics, write_csv_table
from wantui.cli.commands import WantuiCommand
from wantui.cli.output import echo, print_columns, print_json
from wantui.cli.progress_line import open_progress_line
from wantui.cli.types import PATH_TYPE, DecimalNumber, UserPath, VideoIdPrefix, WholeNumber
from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.paths import check_output_file

if TYPE_CHECKING:
    from wantui.analysis.video import Video


@click.command("analyze", cls=WantuiCommand)
@click.argument("batches", nargs=-1, required=True, type=PATH_TYPE)
@click.option("--list-videos", is_flag=True, help="List the videos with their IDs and stored captures.")
@click.option(
    "--video-id",
    "id_prefixes",
    type=VideoIdPrefix(),
    multiple=True,
    help="Video to analyze: ID, or first characters of the ID; repeatable.  [default: all videos]",
)
@click.option(
    "--where",
    "conditions",
    metavar="NAME=VALUE",
    multiple=True,
    help="Value of a setting to include; repeatable, several values of one setting are alternatives.",
)
@click.option(
    "--metrics", help="Comma-separated metrics to print, or `all`.  [default: six; with --json or --csv: all]"
)
@click.option(
    "--groups",
    "show_groups",
    is_flag=True,
    help="Print the mean of each metric in each group, and its value for the null models.",
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
    help="Print the shares of seed, wording and group in the variance at each noise level.",
)
@click.option(
    "--correlate",
    "show_correlations",
    is_flag=True,
    help="Correlate metrics with attention to marked words and with outside labels (--scores).",
)
@click.option(
    "--by",
    "grouping",
    default="variation",
    show_default=True,
    help="Grouping: variation, prompt, batch, bracket numbers (1 or 1,3), or settings (cfg_scale).",
)
@click.option(
    "--primary",
    "primary_metric",
    help="Metric that the verdict is based on.  [default: the metric that the config declared, or log_volume]",
)
@click.option(
    "--interaction",
    "tests_interaction",
    is_flag=True,
    help="With --compare, test whether the effect of one factor of --by (such as 1,2) depends on the other.",
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
    help="Measure every N-th state.  [default: 1; turning, curvature and acceleration: the stride where they settle]",
)
@click.option(
    "--scores",
    "scores_path",
    type=PATH_TYPE,
    help="CSV file with outside labels of the videos (ratings, codes, CLIP scores), which count as metrics.",
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
def command(
    batches: tuple[Path, ...],
    list_videos: bool,
    id_prefixes: tuple[str, ...],
    conditions: tuple[str, ...],
    metrics: str | None,
    show_groups: bool,
    show_comparison: bool,
    show_decodability: bool,
    show_shares: bool,
    show_correlations: bool,
    grouping: str,
    primary_metric: str | None,
    tests_interaction: bool,
    equivalence_margin: float,
    stride: int | None,
    scores_path: Path | None,
    show_attention: bool,
    show_contributions: bool,
    overlay_word: str | None,
    from_latents: bool,
    as_json: bool,
    csv_path: Path | None,
    html_path: Path | None,
    overlay_path: Path | None,
) -> None:
    """Analyse the trajectories of the videos in BATCHES, alone or by group. docs/analysis.md defines every metric.

    Lengths are divided by the square root of the number of latent values; angles are in radians. Unreadable videos are
    reported on stderr and left out; the exit code is then 1.
    """
    from wantui.analysis.declaration import choose_primary_metric
    from wantui.analysis.label_table import read_label_table
    from wantui.analysis.labels import join_labels
    from wantui.analysis.loading import read_batches
    from wantui.analysis.metrics import METRICS, RENAMED_METRICS
    from wantui.analysis.setting_values import select_videos_by_setting
    from wantui.analysis.strides import apply_stride_to_videos, measure_bends_at_settled_strides
    from wantui.cli.analyze_attention import print_word_curves, write_word_overlay
    from wantui.cli.analyze_contributions import print_word_contributions
    from wantui.cli.analyze_correlations import print_correlations
    from wantui.cli.analyze_groups import print_group_comparison, print_group_means
    from wantui.cli.analyze_labels import exclude_unlabelled_videos
    from wantui.cli.analyze_levels import print_decodability, print_variance_shares
    from wantui.cli.analyze_output import refuse_unfit_output_files
    from wantui.storage.layout import refuse_batch_file

    is_chosen_by_mode = {
        "--list-videos": list_videos,
        "--overlay": overlay_word is not None,
        "--attention": show_attention,
        "--contributions": show_contributions,
        "--compare": show_comparison or html_path is not None,
        "--groups": show_groups,
        "--decodability": show_decodability,
        "--shares": show_shares,
        "--correlate": show_correlations,
    }
    refuse_unused_options([name for name, is_chosen in is_chosen_by_mode.items() if is_chosen], as_json)
    label_table = None if scores_path is None else read_label_table(scores_path)
    label_names = [] if label_table is None else list(label_table.label_names)
    chosen_metrics = _parse_metrics(metrics, [*METRICS, *label_names])
    requested_metric = None if primary_metric is None else RENAMED_METRICS.get(primary_metric, primary_metric)
    if csv_path is not None and str(csv_path) != "-":
        check_output_file(csv_path, may_be_device=True)
        refuse_batch_file(csv_path)
    if html_path is not None:
        check_output_file(html_path, creates_folders=True)
        refuse_batch_file(html_path)
    refuse_unfit_output_files(csv_path, html_path, scores_path)
    if html_path is not None and tests_interaction:
        raise click.UsageError("cannot combine --interaction and --html: the report has no interaction. Choose one")
    with open_progress_line() as line:
        loaded_videos, read_errors = read_batches(
            batches,
            from_latents,
            lambda count: line.show_count(f"reading trajectories: {format_count(count, 'video')}"),
        )
    if not (loaded_videos or list_videos or as_json):
        raise UserError(_format_no_finished_video_error(batches, read_errors))
    if label_table is not None:
        loaded_videos = join_labels(loaded_videos, label_table)
    videos = select_videos_by_setting(_select_videos(loaded_videos, id_prefixes), conditions)
    _print_video_warnings(videos, read_errors)
    damaged_names = read_errors + [video.name for video in videos if video.is_damaged]
    if label_table is not None:
        if show_correlations:  # all metrics are correlated with the labels, unless some labels are chosen
            label_names = [name for name in label_names if name in (chosen_metrics or ())] or label_names
            used_names = label_names
        else:
            used_names = [*(chosen_metrics or label_names), requested_metric or ""]
        videos = exclude_unlabelled_videos(videos, label_table, used_names)
    if stride is not None:
        videos = apply_stride_to_videos(videos, stride)
    elif not any(is_chosen for mode, is_chosen in is_chosen_by_mode.items() if mode not in MODES_WITH_METRICS):
        videos = measure_bends_at_settled_strides(videos)
    if list_videos:
        print_video_list(videos, as_json)
    elif overlay_word is not None:
        write_word_overlay(videos, overlay_word, overlay_path)
    elif show_attention:
        damaged_names += print_word_curves(videos, as_json)
    elif show_contributions:
        damaged_names += print_word_contributions(videos, as_json)
    elif show_comparison or html_path is not None:
        damaged_names += print_group_comparison(
            videos,
            grouping,
            choose_primary_metric(videos, requested_metric),
            chosen_metrics,
            equivalence_margin,
            as_json,
            csv_path,
            html_path,
            label_table,
            tests_interaction,
        )
    elif show_decodability:
        damaged_names += print_decodability(videos, grouping, as_json)
    elif show_shares:
        damaged_names += print_variance_shares(videos, grouping, as_json)
    elif show_correlations:
        print_correlations(videos, chosen_metrics, label_names, as_json)
    elif show_groups:
        print_group_means(videos, grouping, chosen_metrics, as_json)
    else:
        default_metrics = list(METRICS) if as_json or csv_path else list(DEFAULT_METRIC_NAMES)
        _print_metrics_of_videos(videos, chosen_metrics or default_metrics, as_json, csv_path)
    if damaged_names:
        sys.exit(1)


def _format_no_finished_video_error(batch_folders: Sequence[Path], read_errors: Sequence[str]) -> str:
    """Return the error for batches without a finished video."""
    names_text = ", ".join(str(batch) for batch in batch_folders[:3]) + (", ..." if len(batch_folders) > 3 else "")
    errors_text = "".join(f" {read_error}." for read_error in read_errors)
    return (
        f"cannot analyze {names_text}: no video is finished.{errors_text} Wait for the first one (wantui watch "
        f"{batch_folders[0]}), "
        f"or queue the batch again: wantui run --resume {batch_folders[0]}"
    )


def _print_video_warnings(videos: "list[Video]", read_errors: list[str]) -> None:
    """Print to stderr what cannot be read, and the warnings about the other videos."""
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


def _parse_metrics(metrics: str | None, known_metrics: list[str]) -> list[str] | None:
    """Return the names in `--metrics`, in their current spelling; None if the option is not given."""
    from wantui.analysis.metrics import RENAMED_METRICS

    if metrics is None:
        return None
    if metrics == "all":
        return known_metrics
    metric_names = list(dict.fromkeys(word.strip() for word in metrics.split(",") if word.strip()))
    if not metric_names:
        raise UserError(f"--metrics: {metrics!r} names no metric. Choose from: {', '.join(known_metrics)}")
    metric_names = list(dict.fromkeys(RENAMED_METRICS.get(word, word) for word in metric_names))
    for word in metric_names:
        if word not in known_metrics:
            raise UserError(f"--metrics: unknown metric {word!r}. Choose from: {', '.join(known_metrics)}")
    return metric_names


def _select_videos(videos: "list[Video]", id_prefixes: Sequence[str]) -> "list[Video]":
    """Return the videos whose id starts with one of the prefixes; all videos without a prefix."""
    for prefix in id_prefixes:
        if not any(video.id.startswith(prefix) for video in videos):
            raise UserError(f"--video-id: no finished video {prefix!r}. List them with --list-videos")
    return [video for video in videos if not id_prefixes or any(video.id.startswith(prefix) for prefix in id_prefixes)]


def _print_metrics_of_videos(
    videos: "list[Video]", metric_names: list[str], as_json: bool, csv_path: Path | None
) -> None:
    from wantui.analysis.comparability import VideoNamer
    from wantui.analysis.null_models import build_gaussian_nulls_per_video
    from wantui.analysis.serialize import build_video_record, build_video_rows

    if as_json:
        null_models = build_gaussian_nulls_per_video(videos)
        print_json(
            [
                build_video_record(video, metric_names, null_model, with_curves=True)
                for video, null_model in zip(videos, null_models, strict=True)
            ]
        )
        return
    if csv_path is not None:
        write_csv_table(csv_path, build_video_rows(videos, metric_names))
        return
    video_namer = VideoNamer(videos)
    if not any(video.trajectory for video in videos):
        reasons_text = (
            "; ".join(dict.fromkeys(f"{video_namer.name_video(video)}: {video.exclusion_reason}" for video in videos))
            or "no finished video"
        )
        raise UserError(f"cannot analyze any video: {reasons_text}")
    from wantui.tui.plots import draw_sparkline

    has_batch_column = len(video_namer.batch_names_by_folder) > 1
    has_cell_column = any(video.cell_label for video in videos)
    header_cells = (
        *(["batch"] if has_batch_column else []),
        "variation",
        "seed",
        *(["cell"] if has_cell_column else []),
        *(videos[0].label_metric(name) for name in metric_names),
        "velocity",
    )
    table_rows = []
    for video in videos:
        label_cells = [*([video_namer.name_batch(video)] if has_batch_column else []), video.variation, str(video.seed)]
        label_cells += [video.cell_label] if has_cell_column else []
        if video.trajectory is None:
            reason = "unreadable" if video.is_damaged else video.exclusion_reason
            table_rows.append((*label_cells, *["-"] * len(metric_names), reason))
            continue
        value_cells = [
            "-" if (value := video.compute_metric(name)) != value else f"{value:.5g}" for name in metric_names
        ]
        table_rows.append((*label_cells, *value_cells, draw_sparkline(video.trajectory.velocity.tolist(), 10).rstrip()))
    print_columns(header_cells, *table_rows)
    warn_about_metrics(videos, metric_names)
