"""wantui analyze: metrics of stored trajectories, comparisons of groups, attention to marked words."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wantui.cli.analyze_output import DEFAULT_METRICS, warn_about_metrics, write_table
from wantui.cli.commands import Command
from wantui.cli.output import echo, print_columns, print_json
from wantui.cli.types import PATH, Number, UserPath, VideoId, WholeNumber
from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.paths import check_new_file

if TYPE_CHECKING:
    from wantui.analysis.video import Video


@click.command("analyze", cls=Command)
@click.argument("batches", nargs=-1, required=True, type=PATH)
@click.option("--list-videos", is_flag=True, help="List the videos with their IDs and stored captures.")
@click.option(
    "--video-id",
    "ids",
    type=VideoId(),
    multiple=True,
    help="Video ID, or its first characters; repeatable.",
)
@click.option("--metrics", help="Comma-separated metrics to print, or `all`.")
@click.option("--groups", "show_groups", is_flag=True, help="Print the means of each group beside the null models.")
@click.option("--compare", "show_comparison", is_flag=True, help="Compare the groups: effects, tests, and a verdict.")
@click.option(
    "--by",
    default="variation",
    show_default=True,
    help="Grouping: variation, prompt, batch, or bracket numbers (1 or 1,3).",
)
@click.option(
    "--primary", default="spread", show_default=True, help="Metric declared in advance, on which the verdict is based."
)
@click.option(
    "--margin",
    type=Number(),
    default=0.05,
    show_default=True,
    help="Equivalence margin, as a fraction of the mean.",
)
@click.option(
    "--stride",
    type=WholeNumber(1, 100),
    default=1,
    show_default=True,
    help="Measure every N-th state. Use 2 or 4 if the sampler dominates the metric `turning`.",
)
@click.option("--attention", is_flag=True, help="Summarise the stored attention maps of marked words.")
@click.option("--overlay", metavar="WORD", help="Draw the attention to WORD over the clip of one video (--video-id).")
@click.option(
    "--from-latents", is_flag=True, help="Compute from the stored latents instead of the stored inner products."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the curves.")
@click.option("--csv", "csv_path", type=UserPath(allow_dash=True), help="CSV file to write; - writes to stdout.")
@click.option("--html", "html_path", type=PATH, help="HTML file for the comparison.")
@click.option("-o", "--output", type=PATH, help="Clip to write with --overlay.  [default: in BATCH/analysis]")
def command(
    batches: tuple[Path, ...],
    list_videos: bool,
    ids: tuple[str, ...],
    metrics: str | None,
    show_groups: bool,
    show_comparison: bool,
    by: str,
    primary: str,
    margin: float,
    stride: int,
    attention: bool,
    overlay: str | None,
    from_latents: bool,
    as_json: bool,
    csv_path: Path | None,
    html_path: Path | None,
    output: Path | None,
) -> None:
    """Analyse the trajectories of the videos in BATCHES, alone or by group. docs/analysis.md defines every metric.

    Lengths are divided by the square root of the number of latent values; angles are in radians. Unreadable videos are
    reported on stderr and left out; the exit code is then 1.
    """
    from wantui.analysis.loading import read_batches
    from wantui.analysis.strides import apply_stride
    from wantui.analysis.trajectory import METRICS, RENAMED_METRICS
    from wantui.cli.analyze_attention import print_word_curves, write_word_overlay
    from wantui.cli.analyze_groups import compare_groups, print_groups

    modes = {
        "--list-videos": list_videos,
        "--overlay": overlay is not None,
        "--attention": attention,
        "--compare": show_comparison or html_path is not None,
        "--groups": show_groups,
    }
    _refuse_unused_options([name for name, is_chosen in modes.items() if is_chosen], as_json)
    chosen_metrics, primary = _parse_metrics(metrics, list(METRICS)), RENAMED_METRICS.get(primary, primary)
    if csv_path is not None and str(csv_path) != "-":
        check_new_file(csv_path, may_be_device=True)
    if html_path is not None:
        check_new_file(html_path, makes_folders=True)
    loaded, faults = read_batches(batches, from_latents)
    if not (loaded or list_videos or as_json):
        raise UserError(_no_finished_video_error(batches, faults))
    videos = _select_videos(loaded, ids)
    _print_warnings(videos, faults)
    damaged = faults + [video.name for video in videos if video.is_damaged]
    if stride > 1:
        videos = apply_stride(videos, stride)
    if list_videos:
        _print_video_list(videos, as_json)
    elif overlay is not None:
        write_word_overlay(videos, overlay, output)
    elif attention:
        damaged += print_word_curves(videos, as_json)
    elif show_comparison or html_path is not None:
        compare_groups(videos, by, primary, chosen_metrics, margin, as_json, csv_path, html_path)
    elif show_groups:
        print_groups(videos, by, chosen_metrics, as_json)
    else:
        default_metrics = list(METRICS) if as_json or csv_path else list(DEFAULT_METRICS)
        _print_metrics(videos, chosen_metrics or default_metrics, as_json, csv_path)
    if damaged:
        sys.exit(1)


def _no_finished_video_error(batches: Sequence[Path], faults: Sequence[str]) -> str:
    """Return the error for batches without a finished video."""
    names = ", ".join(str(batch) for batch in batches[:3]) + (", ..." if len(batches) > 3 else "")
    unread = "".join(f" {fault}." for fault in faults)
    return (
        f"cannot analyze {names}: no video is finished.{unread} Wait for the first one (wantui watch {batches[0]}), "
        f"or queue the batch again: wantui run --resume {batches[0]}"
    )


MODES_OF_OPTIONS = {
    "csv_path": ("--csv", ("", "--compare"), "metrics and --compare, without --json"),
    "html_path": ("--html", ("--compare",), "--compare"),
    "stride": ("--stride", ("", "--groups", "--compare"), "metrics, --groups and --compare"),
    "metrics": ("--metrics", ("", "--groups", "--compare"), "metrics, --groups and --compare"),
    "by": ("--by", ("--groups", "--compare"), "--groups and --compare"),
    "primary": ("--primary", ("--compare",), "--compare"),
    "margin": ("--margin", ("--compare",), "--compare"),
    "output": ("--output", ("--overlay",), "--overlay"),
    "as_json": ("--json", ("", "--list-videos", "--attention", "--compare", "--groups"), "all modes but --overlay"),
}
"""Parameter -> option, modes in which it has an effect ("" prints the metrics of videos), and these modes in words."""


def _refuse_unused_options(modes: Sequence[str], as_json: bool) -> None:
    """Refuse options without effect in the chosen mode, and more than one mode."""
    source = click.get_current_context().get_parameter_source
    for parameter, (option, option_modes, in_words) in MODES_OF_OPTIONS.items():
        is_given = source(parameter) is click.core.ParameterSource.COMMANDLINE
        is_unused = any(mode not in option_modes for mode in modes or [""]) or (parameter == "csv_path" and as_json)
        if is_given and is_unused:
            raise click.UsageError(f"cannot use {option} here: it is for {in_words}")
    if len(modes) > 1:
        raise click.UsageError(f"cannot combine {' and '.join(modes)}. Choose one")


def _print_warnings(videos: "list[Video]", faults: list[str]) -> None:
    """Print to stderr what cannot be read, and the warnings about the other videos."""
    from wantui.analysis.comparability import VideoNamer

    for fault in faults:
        echo(f"left out: {fault}", err=True)
    warnings = Counter(warning for video in videos for warning in video.warnings)
    for warning, count in warnings.items():
        echo(f"warning: {warning} ({format_count(count, 'video')})", err=True)
    names = VideoNamer(videos)
    for video in videos:
        if video.is_damaged:
            echo(f"left out: {names(video)}: {video.reason}", err=True)


def _parse_metrics(metrics: str | None, known: list[str]) -> list[str] | None:
    """Return the names in `--metrics`, in their current spelling; None if the option is not given."""
    from wantui.analysis.trajectory import RENAMED_METRICS

    if metrics is None:
        return None
    if metrics == "all":
        return known
    words = list(dict.fromkeys(word.strip() for word in metrics.split(",") if word.strip()))
    if not words:
        raise UserError(f"--metrics: {metrics!r} names no metric. Choose from: {', '.join(known)}")
    words = list(dict.fromkeys(RENAMED_METRICS.get(word, word) for word in words))
    for word in words:
        if word not in known:
            raise UserError(f"--metrics: unknown metric {word!r}. Choose from: {', '.join(known)}")
    return words


def _select_videos(videos: "list[Video]", id_prefixes: Sequence[str]) -> "list[Video]":
    """Return the videos whose id starts with one of the prefixes; all videos without a prefix."""
    for prefix in id_prefixes:
        if not any(video.id.startswith(prefix) for video in videos):
            raise UserError(f"--video-id: no finished video {prefix!r}. List them with --list-videos")
    return [video for video in videos if not id_prefixes or any(video.id.startswith(prefix) for prefix in id_prefixes)]


def _print_video_list(videos: "list[Video]", as_json: bool) -> None:
    records = [
        {
            "id": video.id,
            "batch": str(video.folder),
            "variation": video.variation,
            "seed": video.seed,
            "trajectory": video.trajectory is not None,
            "attention": video.attention is not None,
            "reason": video.reason,
        }
        for video in videos
    ]
    if as_json:
        print_json(records)
        return
    rows = [
        (
            video.id,
            video.folder.name,
            video.variation,
            str(video.seed),
            video.reason or "trajectory" + (", attention" if video.attention is not None else ""),
        )
        for video in videos
    ]
    print_columns(("id", "batch", "variation", "seed", "stored"), *rows)


def _print_metrics(videos: "list[Video]", metrics: list[str], as_json: bool, csv_path: Path | None) -> None:
    from wantui.analysis.comparability import VideoNamer
    from wantui.analysis.null_models import build_gaussian_null_per_video
    from wantui.analysis.serialize import build_video_record, build_video_rows

    if as_json:
        nulls = build_gaussian_null_per_video(videos)
        print_json(
            [build_video_record(video, metrics, null, curves=True) for video, null in zip(videos, nulls, strict=True)]
        )
        return
    if csv_path is not None:
        write_table(csv_path, build_video_rows(videos, metrics))
        return
    names = VideoNamer(videos)
    if not any(video.trajectory for video in videos):
        reasons = "; ".join(dict.fromkeys(f"{names(video)}: {video.reason}" for video in videos)) or "no finished video"
        raise UserError(f"cannot analyze any video: {reasons}")
    from wantui.tui.plots import sparkline

    has_batch_column = len(names.batch_names) > 1
    header = (*(["batch"] if has_batch_column else []), "variation", "seed", *metrics, "velocity")
    rows = []
    for video in videos:
        labels = [*([names.name_batch(video)] if has_batch_column else []), video.variation, str(video.seed)]
        if video.trajectory is None:
            reason = "unreadable" if video.is_damaged else video.reason
            rows.append((*labels, *["-"] * len(metrics), reason))
            continue
        values = ["-" if (value := video.compute_metric(name)) != value else f"{value:.5g}" for name in metrics]
        rows.append((*labels, *values, sparkline(video.trajectory.velocity.tolist(), 10).rstrip()))
    print_columns(header, *rows)
    warn_about_metrics(videos, metrics)
