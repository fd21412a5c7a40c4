"""wantui analyze: the geometry of stored trajectories, comparisons of groups, attention of words."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wantui.cli.analyze_output import SHOWN, warn_of_steps, write_table
from wantui.cli.output import echo, print_columns, print_json
from wantui.cli.types import PATH, Number, UserPath, VideoId, WholeNumber
from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.paths import check_new_file

if TYPE_CHECKING:
    from wantui.analysis.video import Video


@click.command("analyze")
@click.argument("batches", nargs=-1, required=True, type=PATH)
@click.option("--list-videos", is_flag=True, help="List the videos, and what is stored of each.")
@click.option(
    "--video-id",
    "ids",
    type=VideoId(),
    multiple=True,
    help="Video ID, or the beginning of IDs; repeatable.",
)
@click.option("--metrics", help="Metrics to print, separated by commas, or `all`.")
@click.option("--groups", "by_group", is_flag=True, help="Print the means of each group beside the null models.")
@click.option("--compare", "compared", is_flag=True, help="Compare the groups: effects, tests, and a verdict.")
@click.option(
    "--by",
    default="variation",
    show_default=True,
    help="What defines a group: variation, prompt, batch, or numbers of brackets (1 or 1,3).",
)
@click.option(
    "--primary", default="spread", show_default=True, help="Metric declared in advance, which the verdict is about."
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
@click.option("--overlay", metavar="WORD", help="Write the attention to a word over the clip of one --video-id.")
@click.option(
    "--from-latents", is_flag=True, help="Compute from the stored latents instead of the stored inner products."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the curves.")
@click.option("--csv", "csv_path", type=UserPath(allow_dash=True), help="CSV file to write; - for stdout.")
@click.option("--html", "html_path", type=PATH, help="HTML file to write the comparison to.")
@click.option("-o", "--output", type=PATH, help="File for --overlay.")
def command(
    batches: tuple[Path, ...],
    list_videos: bool,
    ids: tuple[str, ...],
    metrics: str | None,
    by_group: bool,
    compared: bool,
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
    """Geometry of each video of BATCHES, and of groups of them. docs/analysis.md explains every metric.

    Lengths are divided by the square root of the number of latent values; angles are in radians. What cannot be read
    is named on stderr, and the others are analysed; the exit code is then 1.
    """
    from wantui.analysis.loading import read_batches
    from wantui.analysis.strides import strided_videos
    from wantui.analysis.trajectory import FORMER_METRICS, METRICS
    from wantui.cli.analyze_attention import print_word_curves, write_word_overlay
    from wantui.cli.analyze_groups import compare_groups, print_groups

    modes = {
        "--list-videos": list_videos,
        "--overlay": overlay is not None,
        "--attention": attention,
        "--compare": compared or html_path is not None,
        "--groups": by_group,
    }
    _refuse_idle_options([name for name, is_asked in modes.items() if is_asked], as_json)
    chosen, primary = _chosen(metrics, list(METRICS)), FORMER_METRICS.get(primary, primary)
    if csv_path is not None and str(csv_path) != "-":
        check_new_file(csv_path, may_be_device=True)
    if html_path is not None:
        check_new_file(html_path, makes_folders=True)
    loaded, faults = read_batches(batches, from_latents)
    if not (loaded or list_videos or as_json):
        raise UserError(_nothing_finished(batches, faults))
    videos = _with_ids(loaded, ids)
    _warn(videos, faults)
    damaged = faults + [video.name for video in videos if video.is_damaged]
    if stride > 1:
        videos = strided_videos(videos, stride)
    if list_videos:
        _list(videos, as_json)
    elif overlay is not None:
        write_word_overlay(videos, overlay, output)
    elif attention:
        damaged += print_word_curves(videos, as_json)
    elif compared or html_path is not None:
        compare_groups(videos, by, primary, chosen, margin, as_json, csv_path, html_path)
    elif by_group:
        print_groups(videos, by, chosen, as_json)
    else:
        _videos(videos, chosen or (list(METRICS) if as_json or csv_path else list(SHOWN)), as_json, csv_path)
    if damaged:
        sys.exit(1)


def _nothing_finished(batches: Sequence[Path], faults: Sequence[str]) -> str:
    """Return why there is nothing to analyze in batches that can be read."""
    named = ", ".join(str(batch) for batch in batches[:3]) + (", ..." if len(batches) > 3 else "")
    unread = "".join(f" {fault}." for fault in faults)
    return (
        f"cannot analyze {named}: no video is finished.{unread} Wait for the first ones (wantui watch {batches[0]}), "
        f"or put the batch on the queue again: wantui run --resume {batches[0]}"
    )


SERVES = {
    "csv_path": ("--csv", ("", "--compare"), "metrics and --compare, without --json"),
    "html_path": ("--html", ("--compare",), "--compare"),
    "stride": ("--stride", ("", "--groups", "--compare"), "metrics, --groups and --compare"),
    "metrics": ("--metrics", ("", "--groups", "--compare"), "metrics, --groups and --compare"),
    "by": ("--by", ("--groups", "--compare"), "--groups and --compare"),
    "primary": ("--primary", ("--compare",), "--compare"),
    "margin": ("--margin", ("--compare",), "--compare"),
    "output": ("--output", ("--overlay",), "--overlay"),
    "as_json": ("--json", ("", "--list-videos", "--attention", "--compare", "--groups"), "all but --overlay"),
}
"""Options by parameter: name, modes in which they have an effect (empty: metrics of videos), and these in words."""


def _refuse_idle_options(modes: Sequence[str], as_json: bool) -> None:
    """Refuse options that would do nothing, and modes of which only one would run."""
    source = click.get_current_context().get_parameter_source
    for parameter, (option, serving, in_words) in SERVES.items():
        is_given = source(parameter) is click.core.ParameterSource.COMMANDLINE
        is_idle = any(mode not in serving for mode in modes or [""]) or (parameter == "csv_path" and as_json)
        if is_given and is_idle:
            raise click.UsageError(f"{option} is for {in_words}")
    if len(modes) > 1:
        raise click.UsageError(f"choose one of {' and '.join(modes)}: each prints something else")


def _warn(videos: "list[Video]", faults: list[str]) -> None:
    """Name on stderr what cannot be read, and what limits the others."""
    from wantui.analysis.comparable import VideoNames

    for fault in faults:
        echo(f"left out: {fault}", err=True)
    warnings = Counter(warning for video in videos for warning in video.warnings)
    for warning, count in warnings.items():
        echo(f"warning: {warning} ({format_count(count, 'video')})", err=True)
    names = VideoNames(videos)
    for video in videos:
        if video.is_damaged:
            echo(f"left out: {names(video)}: {video.reason}", err=True)


def _chosen(metrics: str | None, known: list[str]) -> list[str] | None:
    from wantui.analysis.trajectory import FORMER_METRICS

    if metrics is None:
        return None
    if metrics == "all":
        return known
    words = list(dict.fromkeys(word.strip() for word in metrics.split(",") if word.strip()))
    if not words:
        raise UserError(f"--metrics: {metrics!r} names no metric; known are {', '.join(known)}")
    words = list(dict.fromkeys(FORMER_METRICS.get(word, word) for word in words))
    for word in words:
        if word not in known:
            raise UserError(f"--metrics: unknown metric {word!r}; known are {', '.join(known)}")
    return words


def _with_ids(videos: "list[Video]", ids: Sequence[str]) -> "list[Video]":
    for wanted in ids:
        if not any(video.id.startswith(wanted) for video in videos):
            raise UserError(f"--video-id: no finished video {wanted!r} here; --list-videos shows them")
    return [video for video in videos if not ids or any(video.id.startswith(wanted) for wanted in ids)]


def _list(videos: "list[Video]", as_json: bool) -> None:
    listed = [
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
        print_json(listed)
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


def _videos(videos: "list[Video]", metrics: list[str], as_json: bool, csv_path: Path | None) -> None:
    from wantui.analysis.comparable import VideoNames
    from wantui.analysis.nulls import null_of_each
    from wantui.analysis.serialize import video_record, video_rows

    if as_json:
        nulls = null_of_each(videos)
        print_json([video_record(video, metrics, null, curves=True) for video, null in zip(videos, nulls, strict=True)])
        return
    if csv_path is not None:
        write_table(csv_path, video_rows(videos, metrics))
        return
    names = VideoNames(videos)
    if not any(video.trajectory for video in videos):
        reasons = "; ".join(dict.fromkeys(f"{names(video)}: {video.reason}" for video in videos)) or "no finished video"
        raise UserError(f"cannot analyze any video: {reasons}")
    from wantui.tui.plots import sparkline

    several = len(names.batches) > 1
    head = (*(["batch"] if several else []), "variation", "seed", *metrics, "velocity")
    rows = []
    for video in videos:
        about = [*([names.batch(video)] if several else []), video.variation, str(video.seed)]
        if video.trajectory is None:
            reason = "cannot be read" if video.is_damaged else video.reason
            rows.append((*about, *["-"] * len(metrics), reason))
            continue
        values = ["-" if (value := video.value(name)) != value else f"{value:.5g}" for name in metrics]
        rows.append((*about, *values, sparkline(video.trajectory.velocity.tolist(), 10).rstrip()))
    print_columns(head, *rows)
    warn_of_steps(videos, metrics)
