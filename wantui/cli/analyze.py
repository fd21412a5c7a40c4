"""wantui analyze: the geometry of stored trajectories, comparisons of groups, attention of words."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wantui.cli.output import echo, print_columns, print_json, print_line
from wantui.cli.types import PATH, Number, UserPath, VideoId, WholeNumber
from wantui.errors import UserError
from wantui.formatting import format_change, format_count, format_fraction
from wantui.paths import check_new_file

if TYPE_CHECKING:
    from wantui.analysis.compare import Comparison
    from wantui.analysis.video import Video

SHOWN = ("length", "straightness", "turning", "curvature", "effective_dimension", "log_volume")
"""Metrics of a table if none are chosen: those that fit on a screen."""


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
    from wantui.analysis.trajectory import METRICS
    from wantui.cli.analyze_attention import print_word_curves, write_word_overlay

    modes = {
        "--list-videos": list_videos,
        "--overlay": overlay is not None,
        "--attention": attention,
        "--compare": compared or html_path is not None,
        "--groups": by_group,
    }
    _refuse_idle_options([name for name, is_asked in modes.items() if is_asked], as_json)
    chosen = _chosen(metrics, list(METRICS))
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
        _compare(videos, by, primary, chosen, margin, as_json, csv_path, html_path)
    elif by_group:
        _groups(videos, by, chosen, as_json)
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
        _write_csv(csv_path, video_rows(videos, metrics))
        return
    names = VideoNames(videos)
    if not any(video.trajectory for video in videos):
        reasons = "; ".join(dict.fromkeys(f"{names(video)}: {video.reason}" for video in videos)) or "no finished video"
        raise UserError(f"nothing can be said of any video: {reasons}")
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
    _warn_of_steps(videos, metrics)


def _warn_of_steps(videos: "Sequence[Video]", metrics: Sequence[str], where: str = "") -> None:
    """Say on stderr which metrics need more states, and which are not shown to be the paths'."""
    from wantui.analysis.strides import unsettled
    from wantui.analysis.trajectory import METRICS

    measured = [video for video in videos if video.trajectory is not None]
    paths = [video.trajectory for video in measured if video.trajectory is not None]
    if not paths:
        return
    fewest = min(len(path.sigmas) for path in paths)
    for name in metrics:
        if (needed := METRICS[name].needs) > fewest:
            echo(f"warning: {where}{name} needs {needed} states, and a trajectory has {fewest}", err=True)
    for measured_strides in unsettled(paths, metrics, measured[0].stride):
        echo(f"warning: {where}{measured_strides.in_words}", err=True)


def _groups(videos: "list[Video]", by: str, chosen: list[str] | None, as_json: bool) -> None:
    from wantui.analysis.groups import describe, pooled_groups
    from wantui.analysis.nulls import gaussian_null
    from wantui.analysis.serialize import group_record

    groups, left_out = pooled_groups([video for video in videos if not video.is_damaged], by)
    for name, why in left_out:
        echo(f"left out: {name}: {why}", err=True)
    metrics = chosen or list(SHOWN)
    nulls = [gaussian_null(group.videos) for group in groups]
    if as_json:
        print_json([group_record(group, metrics, null) for group, null in zip(groups, nulls, strict=True)])
        return
    rows = []
    for group, null in zip(groups, nulls, strict=True):
        for name in metrics:
            d = describe(group, name, null)
            flow = (
                f"{d.gaussian_flow:.5g} ± {d.gaussian_flow_deviation:.2g}" if d.gaussian_flow == d.gaussian_flow else ""
            )
            rows.append((group.name, str(d.n), name, f"{d.mean:.5g} ± {d.deviation:.2g}", f"{d.random_walk:.5g}", flow))
    print_columns(("group", "n", "metric", "mean ± deviation", "random walk", "Gaussian flow"), *rows)
    for text in dict.fromkeys(null.in_words for null in nulls):
        echo(f"note: {text}", err=True)
    for group in groups:
        _warn_of_steps(group.videos, metrics, f"{group.name}: ")


def _compare(
    videos: "list[Video]",
    by: str,
    primary: str,
    chosen: list[str] | None,
    margin: float,
    as_json: bool,
    csv_path: Path | None,
    html_path: Path | None,
) -> None:
    from wantui.analysis.compare import compare
    from wantui.analysis.serialize import comparison_record, difference_rows

    if not 0 < margin < 1:
        raise UserError(f"--margin: {margin} is not between 0 and 1")
    comparison = compare(videos, by, primary, chosen, margin)
    if html_path is not None:
        from wantui.analysis.report import write_report

        try:
            write_report(html_path, comparison)
        except OSError as error:
            raise UserError(f"--html: {html_path} cannot be written: {error.strerror}") from None
        echo(f"written: {html_path}", err=True)
    if csv_path is not None:
        _write_csv(csv_path, difference_rows(comparison))
    if as_json:
        print_json(comparison_record(comparison))
    elif csv_path is None or str(csv_path) != "-":
        _print_comparison(comparison, margin, videos)


def _print_comparison(comparison: "Comparison", margin: float, videos: "list[Video]") -> None:
    from wantui.analysis.comparable import VideoNames
    from wantui.analysis.trajectory import METRICS

    for warning in comparison.warnings:
        echo(f"warning: {warning}", err=True)
    names = VideoNames(videos)
    already_named = {(names(video), video.reason) for video in videos if video.is_damaged}
    for name, why in comparison.left_out:
        if (name, why) not in already_named:
            echo(f"left out: {name}: {why}", err=True)
    seeds, groups = format_count(len(comparison.seeds), "seed"), format_count(len(comparison.groups), "group")
    stride = f"; trajectories at stride {comparison.stride}" if comparison.stride > 1 else ""
    print_line(f"{seeds} in each of {groups}; metric declared with this command: {comparison.primary}{stride}")
    for verdict in comparison.verdicts:
        print_line(f"  {verdict.text}", indent=4)
    print_line(f"any group differs in {comparison.primary}: p {comparison.omnibus_p:.3g}")
    if comparison.spread is not None:
        print_line(
            f"spread of the final states (PERMDISP): F {comparison.spread.f:.3g}, p {comparison.spread.p:.3g}", indent=2
        )
    for text in (comparison.place(), comparison.by_chance()):
        if text:
            print_line(text, indent=2)
    for (one, other), squared in comparison.centroid_distance.items():
        print_line(f"  means of {one} and {other}: {max(squared, 0) ** 0.5:.3g} sqrt(D) apart at the end")
    echo()
    several = any(d.phrasings > 1 for d in comparison.differences)
    rows = []
    for d in comparison.differences:
        e = d.effect
        is_share = d.share == d.share and d.low == d.low
        interval = (
            f"{format_change(d.low)} to {format_change(d.high)}" if is_share else f"{e.low:+.3g} to {e.high:+.3g}"
        )
        unit = METRICS[d.metric].unit if d.metric in METRICS else ""
        share = format_change(d.share) if is_share else f"{e.mean:+.3g} {unit}"
        p = [f"{d.effect.p:.3g}", f"{d.family_p:.3g}", f"{d.discovery_p:.3g}"]
        if several:
            p.append(f"{d.phrasing_p:.3g}" if d.phrasing_p == d.phrasing_p else "")
        pair = f"{d.first} - {d.second}"
        rows.append(
            (pair, d.metric, share, interval, f"{e.size:.2f}" if e.size == e.size else "-", *p, f"{d.needed or '-'}")
        )
    p_names = ("p", "max-T", "BH", *(["p by phrasing"] if several else []))
    print_columns(
        ("groups", "metric", "difference", "95 %", "d_z", *p_names, f"seeds to find {format_fraction(margin)}"), *rows
    )


def _write_csv(path: Path, rows: list[list[str]]) -> None:
    from wantui.analysis.serialize import csv_text, write_csv

    if str(path) == "-":
        echo(csv_text(rows), nl=False)
        return
    try:
        write_csv(path, rows)
    except OSError as error:
        raise UserError(f"--csv: cannot write {path}: {error.strerror}") from None
    echo(f"written: {path}", err=True)
