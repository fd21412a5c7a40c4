"""Group modes of `wantui analyze`: means beside null models, and comparisons."""

import math
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from wantui.cli.analyze_answers import print_main_answers, print_pair_answers
from wantui.cli.analyze_curves import print_curve_comparison
from wantui.cli.analyze_doses import print_dose_response
from wantui.cli.analyze_interaction import build_interaction_record, print_interaction
from wantui.cli.analyze_output import warn_about_metrics, write_csv_table
from wantui.cli.analyze_request import AnalyzeRequest
from wantui.cli.left_out import print_left_out
from wantui.cli.output import echo, echo_written_file, print_columns, print_json, print_wrapped_line
from wantui.cli.progress_line import open_progress_line
from wantui.errors import UserError
from wantui.formatting import format_count, format_mean, format_percent
from wantui.metric_names import DEFAULT_METRIC_NAMES

if TYPE_CHECKING:
    from wantui.analysis.comparison import Comparison
    from wantui.analysis.curve_comparison import CurveComparison
    from wantui.analysis.label_table import LabelTable
    from wantui.analysis.video import Video


def print_group_means(videos: "list[Video]", grouping: str, chosen_metrics: list[str] | None, as_json: bool) -> None:
    """Print the mean of each metric in each group, and the value of the metric in the null models.

    Args:
        chosen_metrics: metrics and labels to print; None means the default metrics and all labels of the videos.
    """
    from wantui.analysis.groups import group_comparable_videos, summarise_group_metric
    from wantui.analysis.null_models import build_gaussian_null
    from wantui.analysis.serialize import build_group_record

    groups, excluded_videos = group_comparable_videos([video for video in videos if not video.is_damaged], grouping)
    print_left_out(excluded_videos)
    metric_names = chosen_metrics or [
        *DEFAULT_METRIC_NAMES,
        *dict.fromkeys(label for video in videos for label in video.labels),
    ]
    null_models = [build_gaussian_null(group.videos) for group in groups]
    if as_json:
        print_json(
            [
                build_group_record(group, metric_names, null_model)
                for group, null_model in zip(groups, null_models, strict=True)
            ]
        )
        return
    table_rows = []
    for group, null_model in zip(groups, null_models, strict=True):
        for name in metric_names:
            summary = summarise_group_metric(group, name, null_model)
            has_flow = math.isfinite(summary.gaussian_flow_mean)
            flow_text = (
                format_mean(summary.gaussian_flow_mean, summary.gaussian_flow_standard_deviation, 5) if has_flow else ""
            )
            walk_text = "-" if math.isnan(summary.random_walk_mean) else f"{summary.random_walk_mean:.5g}"
            mean_text = format_mean(summary.mean, summary.standard_deviation, 5)
            label = group.label_metric(name)
            table_rows.append((group.name, str(summary.video_count), label, mean_text, walk_text, flow_text))
    print_columns(("group", "n", "metric", "mean ± deviation", "random walk", "Gaussian flow"), *table_rows)
    for text in dict.fromkeys(null_model.description for null_model in null_models):
        echo(f"note: {text}", err=True)
    for group in groups:
        warn_about_metrics(group.videos, metric_names, f"{group.name}: ")


def print_group_comparison(
    request: AnalyzeRequest,
    videos: "list[Video]",
    chosen_metrics: list[str] | None,
    label_table: "LabelTable | None",
) -> list[str]:
    """Compare groups, and print the result or write it to files; return the names of unreadable videos.

    Raises:
        UserError: the margin is out of range, a file cannot be written, or the groups cannot be compared.
    """
    from wantui.analysis.declaration import choose_primary_metric
    from wantui.analysis.interaction import compute_interaction
    from wantui.analysis.serialize import build_comparison_record, build_difference_rows
    from wantui.analysis.serialize_curves import build_curve_records
    from wantui.analysis.unguided import compare_with_unguided

    declaration = choose_primary_metric(videos, request.requested_metric)
    margin, csv_path, html_path = request.equivalence_margin, request.csv_path, request.html_path
    is_ratio = declaration.metric not in {label for video in videos for label in video.labels}
    if margin <= 0 or (is_ratio and margin >= 1):
        raise UserError(f"--margin: {margin} is not {'between 0 and 1' if is_ratio else 'above 0'}")
    with open_progress_line() as line:
        line.show_phase(f"comparing {format_count(len(videos), 'video')}")
        comparison = compare_with_unguided(videos, request.grouping, declaration.metric, chosen_metrics, margin)
        comparison = replace(comparison, declaration=declaration)
        interaction = None
        if request.tests_interaction:
            interaction = compute_interaction(comparison.matched_groups, comparison.grouping, declaration)
    if html_path is not None:
        from wantui.analysis.report import write_report
        from wantui.analysis.report_provenance import ReportProvenance

        is_replaced = html_path.is_file()
        try:
            with open_progress_line() as line:
                line.show_phase(f"drawing {html_path}")
                write_report(html_path, comparison, ReportProvenance(_format_command_line(), label_table))
        except OSError as error:
            raise UserError(f"--html: cannot write {html_path}: {error.strerror or error}") from None
        echo_written_file(html_path, is_replaced)
    if csv_path is not None:
        write_csv_table(csv_path, build_difference_rows(comparison))
    if request.as_json:
        curve_records = build_curve_records(_compare_curves(comparison))
        interaction_record = build_interaction_record(interaction, chosen_metrics)
        print_json(build_comparison_record(comparison) | {"curves": curve_records, "interaction": interaction_record})
    elif interaction is not None:
        print_interaction(interaction, request.has_details, chosen_metrics)
    elif csv_path is None or str(csv_path) != "-":
        _print_comparison_result(comparison, margin, videos, request.has_details)
    return list(comparison.unreadable_videos)


def _compare_curves(comparison: "Comparison") -> "tuple[CurveComparison, ...]":
    """Compare the curves of the groups; 45 pairs of groups take up to 15 seconds."""
    from wantui.analysis.curve_comparison import compare_curves

    with open_progress_line() as line:
        line.show_phase("comparing curves")
        return compare_curves(comparison.matched_groups)


def _format_command_line() -> str:
    """Return the command line, quoted for a shell."""
    return shlex.join(["wantui", *click.get_current_context().find_root().obj])


def _print_comparison_result(
    comparison: "Comparison", equivalence_margin: float, videos: "list[Video]", has_details: bool
) -> None:
    """Print the details if they are requested, then the verdict, and the answers last, where a terminal shows them."""
    from wantui.analysis.comparability import VideoNamer

    for warning in comparison.warnings:
        echo(f"warning: {warning}", err=True)
    video_namer = VideoNamer(videos)
    already_named = {(video_namer.name_video(video), video.exclusion_reason) for video in videos if video.is_damaged}
    print_left_out(item for item in comparison.exclusion_reasons if item not in already_named)
    seeds_text, groups_text = format_count(len(comparison.seeds), "seed"), format_count(len(comparison.groups), "group")
    stride_text = f"; trajectories at stride {comparison.stride}" if comparison.stride > 1 else ""
    hint = "" if has_details else " (all metrics, pairs and curves: --details)"
    print_wrapped_line(f"{seeds_text} in each of {groups_text}{stride_text}{hint}")
    if has_details:
        _print_details(comparison, equivalence_margin)
    _print_verdicts(comparison, has_details)
    echo()
    print_main_answers(comparison)


def _print_details(comparison: "Comparison", equivalence_margin: float) -> None:
    """Print tables of all metrics, slopes and curves, and the answers of each pair of groups."""
    echo()
    _print_differences(comparison, equivalence_margin)
    if comparison.dose_response is not None:
        print_dose_response(comparison.dose_response)
    print_curve_comparison(_compare_curves(comparison), len(comparison.seeds))
    if chance_text := comparison.describe_chance():
        echo()
        print_wrapped_line(chance_text, indent=2)
    print_pair_answers(comparison)
    echo()


def _print_verdicts(comparison: "Comparison", has_details: bool) -> None:
    """Print the verdict on the declared metric: of each pair if details are requested, otherwise one on all groups."""
    from wantui.analysis.calibrated_effect import describe_calibrated_scale, explain_effect
    from wantui.analysis.p_values import explain_declared_p
    from wantui.analysis.unguided import describe_unguided

    if comparison.declaration is not None:
        print_wrapped_line(f"verdict on a single metric: {comparison.declaration.text}", indent=2)
    if comparison.dose_response is not None:
        print_wrapped_line(f"  {comparison.dose_response.verdict_text}", indent=4)
    elif len(comparison.groups) > 2:
        metric, p = comparison.primary_metric, comparison.omnibus_p
        print_wrapped_line(f"  test for any difference between the groups in {metric}: p {p:.3g}", indent=4)
    if has_details or (len(comparison.groups) == 2 and comparison.dose_response is None):
        for verdict in comparison.verdicts:
            print_wrapped_line(f"  {verdict.verdict_text}", indent=4)
            if has_details and (explanation := explain_effect(comparison, verdict)):
                print_wrapped_line(f"    {explanation}", indent=6)
    if not has_details:  # the notes of the table explain it too
        for text in explain_declared_p(comparison):
            print_wrapped_line(f"  note: {text}", indent=4)
    if has_details and (scale_text := describe_calibrated_scale(comparison)):
        print_wrapped_line(f"  {scale_text}", indent=4)
    if has_details or comparison.unguided is not None:
        for text in describe_unguided(comparison):
            print_wrapped_line(f"  {text}", indent=4)


def _print_differences(comparison: "Comparison", equivalence_margin: float) -> None:
    """Print a table of all differences with p, and explain how p is corrected."""
    from wantui.analysis.differences import P_HEADER
    from wantui.analysis.effect_table import (
        RESPONSE_HEADER,
        UNGUIDED_HEADER,
        build_effect_rows,
        describe_needed_seeds,
        describe_response_column,
    )
    from wantui.analysis.metrics import describe_ratio_origins
    from wantui.analysis.p_values import describe_p_values

    has_unguided = comparison.unguided is not None
    table_rows = [
        (
            row.groups,
            row.metric,
            row.question,
            row.change,
            row.interval,
            *([row.unguided_change] if has_unguided else []),
            row.d_z,
            f"{row.p:.3g}",
            f"{row.difference.seeds_needed or '-'}",
            row.response,
        )
        for row in build_effect_rows(comparison, comparison.differences)
    ]
    seeds_header = f"seeds to detect {format_percent(equivalence_margin)}"
    effect_headers = ("groups", "metric", "answer", "difference", "95 %", *([UNGUIDED_HEADER] if has_unguided else []))
    print_columns((*effect_headers, "d_z", P_HEADER, seeds_header, RESPONSE_HEADER), *table_rows)
    origins_text = describe_ratio_origins(difference.metric for difference in comparison.differences)
    notes = [
        *describe_p_values(comparison),
        origins_text,
        describe_needed_seeds(equivalence_margin),
        describe_response_column(comparison),
        f"--decodability --by {comparison.grouping} shows the noise level from which groups can be distinguished; "
        f"`wantui commitment` (not the metric `commitment`) measures when a video commits to its word",
        "--json and --csv also contain p without correction, p corrected for all metrics, and the Benjamini-Hochberg p",
    ]
    for note in filter(None, notes):
        print_wrapped_line(f"note: {note}", indent=2)
