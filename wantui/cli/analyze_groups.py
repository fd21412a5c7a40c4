"""Group modes of `wantui analyze`: means beside null models, and comparisons."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from wantui.cli.analyze_output import DEFAULT_METRICS, warn_about_metrics, write_table
from wantui.cli.output import echo, print_columns, print_json, print_line
from wantui.errors import UserError
from wantui.formatting import format_count, format_mean, format_percent, format_percent_change

if TYPE_CHECKING:
    from wantui.analysis.compare import Comparison
    from wantui.analysis.video import Video


def print_groups(videos: "list[Video]", by: str, chosen_metrics: list[str] | None, as_json: bool) -> None:
    """Print the means of each group beside its null models."""
    from wantui.analysis.groups import pool_groups, summarise_group
    from wantui.analysis.null_models import build_gaussian_null
    from wantui.analysis.serialize import build_group_record

    groups, left_out = pool_groups([video for video in videos if not video.is_damaged], by)
    for name, reason in left_out:
        echo(f"left out: {name}: {reason}", err=True)
    metrics = chosen_metrics or list(DEFAULT_METRICS)
    nulls = [build_gaussian_null(group.videos) for group in groups]
    if as_json:
        print_json([build_group_record(group, metrics, null) for group, null in zip(groups, nulls, strict=True)])
        return
    rows = []
    for group, null in zip(groups, nulls, strict=True):
        for name in metrics:
            summary = summarise_group(group, name, null)
            has_flow = math.isfinite(summary.gaussian_flow)
            flow = format_mean(summary.gaussian_flow, summary.gaussian_flow_deviation, 5) if has_flow else ""
            walk = "-" if math.isnan(summary.random_walk) else f"{summary.random_walk:.5g}"
            mean = format_mean(summary.mean, summary.deviation, 5)
            rows.append((group.name, str(summary.n), name, mean, walk, flow))
    print_columns(("group", "n", "metric", "mean ± deviation", "random walk", "Gaussian flow"), *rows)
    for text in dict.fromkeys(null.description for null in nulls):
        echo(f"note: {text}", err=True)
    for group in groups:
        warn_about_metrics(group.videos, metrics, f"{group.name}: ")


def compare_groups(
    videos: "list[Video]",
    by: str,
    primary: str,
    chosen_metrics: list[str] | None,
    margin: float,
    as_json: bool,
    csv_path: Path | None,
    html_path: Path | None,
) -> None:
    """Compare groups, and print the result or write it to files.

    Raises:
        UserError: the margin is not between 0 and 1, a file cannot be written, or the groups cannot be compared.
    """
    from wantui.analysis.compare import compare_groups
    from wantui.analysis.serialize import build_comparison_record, build_difference_rows

    if not 0 < margin < 1:
        raise UserError(f"--margin: {margin} is not between 0 and 1")
    comparison = compare_groups(videos, by, primary, chosen_metrics, margin)
    if html_path is not None:
        from wantui.analysis.report import write_report

        try:
            write_report(html_path, comparison)
        except OSError as error:
            raise UserError(f"--html: cannot write {html_path}: {error.strerror}") from None
        echo(f"written: {html_path}", err=True)
    if csv_path is not None:
        write_table(csv_path, build_difference_rows(comparison))
    if as_json:
        print_json(build_comparison_record(comparison))
    elif csv_path is None or str(csv_path) != "-":
        _print_comparison(comparison, margin, videos)


def _print_comparison(comparison: "Comparison", margin: float, videos: "list[Video]") -> None:
    from wantui.analysis.comparability import VideoNamer
    from wantui.analysis.trajectory import METRICS

    for warning in comparison.warnings:
        echo(f"warning: {warning}", err=True)
    names = VideoNamer(videos)
    already_named = {(names(video), video.reason) for video in videos if video.is_damaged}
    for name, reason in comparison.excluded_videos:
        if (name, reason) not in already_named:
            echo(f"left out: {name}: {reason}", err=True)
    seeds, groups = format_count(len(comparison.seeds), "seed"), format_count(len(comparison.groups), "group")
    stride = f"; trajectories at stride {comparison.stride}" if comparison.stride > 1 else ""
    print_line(f"{seeds} in each of {groups}; metric declared with this command: {comparison.primary_metric}{stride}")
    for verdict in comparison.verdicts:
        print_line(f"  {verdict.text}", indent=4)
    print_line(f"any group differs in {comparison.primary_metric}: p {comparison.omnibus_p:.3g}")
    if comparison.spread_test is not None:
        print_line(
            f"spread of the final states (PERMDISP): F {comparison.spread_test.f:.3g}, "
            f"p {comparison.spread_test.p:.3g}",
            indent=2,
        )
    for text in (comparison.describe_location(), comparison.describe_chance()):
        if text:
            print_line(text, indent=2)
    for (first, second), squared in comparison.centroid_distances.items():
        distance = max(squared, 0) ** 0.5
        print_line(f"  mean final states of {first} and {second}: {distance:.3g} sqrt(D) apart")
    echo()
    has_phrasings = any(d.phrasings > 1 for d in comparison.differences)
    rows = []
    for d in comparison.differences:
        e = d.effect
        is_share = d.share == d.share and d.low == d.low
        interval = (
            f"{format_percent_change(d.low)} to {format_percent_change(d.high)}"
            if is_share
            else f"{e.low:+.3g} to {e.high:+.3g}"
        )
        unit = METRICS[d.metric].unit if d.metric in METRICS else ""
        share = format_percent_change(d.share) if is_share else f"{e.mean:+.3g} {unit}"
        p = [f"{d.effect.p:.3g}", f"{d.family_p:.3g}", f"{d.discovery_p:.3g}"]
        if has_phrasings:
            p.append(f"{d.phrasing_p:.3g}" if d.phrasing_p == d.phrasing_p else "")
        pair = f"{d.first} - {d.second}"
        rows.append(
            (pair, d.metric, share, interval, f"{e.size:.2f}" if e.size == e.size else "-", *p, f"{d.needed or '-'}")
        )
    p_names = ("p", "max-T", "BH", *(["p by phrasing"] if has_phrasings else []))
    print_columns(
        ("groups", "metric", "difference", "95 %", "d_z", *p_names, f"seeds to find {format_percent(margin)}"), *rows
    )
