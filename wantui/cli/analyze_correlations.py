"""Correlations of metrics with attention and external labels: `wantui analyze --correlate`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from wantui.cli.output import echo, print_columns, print_json, print_wrapped_line
from wantui.cli.progress_line import open_progress_line
from wantui.formatting import format_count

if TYPE_CHECKING:
    from wantui.analysis.correlation_data import CorrelationData
    from wantui.analysis.correlations import Correlation
    from wantui.analysis.video import Video


def print_correlations(
    videos: "Sequence[Video]", chosen_metrics: Sequence[str] | None, label_names: Sequence[str], as_json: bool
) -> None:
    """Correlate metrics with attention and labels, and print a table or JSON.

    Args:
        label_names: external labels to correlate metrics with.

    Raises:
        UserError: the videos cannot be correlated.
    """
    from wantui.analysis.correlation_data import correlate_videos
    from wantui.analysis.correlation_text import (
        CORRELATION_HEADERS,
        describe_correlations,
        describe_hidden_correlations,
        describe_scope,
        format_correlation,
        list_correlation_notes,
    )
    from wantui.analysis.metrics import METRICS
    from wantui.analysis.strides import list_unsettled_stride_checks

    chosen_names = [name for name in chosen_metrics or () if name not in label_names]
    with open_progress_line() as line:
        result = correlate_videos(
            videos,
            chosen_names or list(METRICS),
            label_names,
            lambda count: line.show_count(f"reading attention maps: {format_count(count, 'video')}"),
        )
    data = result.data
    if as_json:
        print_json(_build_record(data, [item for items in result.correlations_by_kind.values() for item in items]))
        return
    for warning in data.warnings:
        echo(f"warning: {warning}", err=True)
    for name, reason in data.exclusion_reasons:
        echo(f"left out: {name}: {reason}", err=True)
    print_wrapped_line(describe_scope(data))
    shown_by_kind = {kind: result.select(kind, chosen_names) for kind in result.correlations_by_kind}
    shown_names = dict.fromkeys(item.correlation.metric for shown in shown_by_kind.values() for item in shown)
    for stride_check in list_unsettled_stride_checks(videos, list(shown_names)):
        echo(f"warning: {stride_check.description}", err=True)
    for kind, correlations in result.correlations_by_kind.items():
        echo()
        print_wrapped_line(describe_correlations(correlations, kind), indent=2)
        shown = shown_by_kind[kind]
        if shown:
            print_columns(CORRELATION_HEADERS, *map(format_correlation, shown))
        if hidden_text := describe_hidden_correlations(correlations, shown):
            print_wrapped_line(f"note: {hidden_text}", indent=2)
    for note in list_correlation_notes(data):
        print_wrapped_line(f"note: {note}", indent=2)


def _build_record(data: "CorrelationData", correlations: "Sequence[Correlation]") -> dict[str, Any]:
    return {
        "variations": data.variation_names,
        "seeds": data.seeds,
        "correlations": [
            {
                "metric": item.metric,
                "with": item.covariate,
                "across": item.across,
                "rho": item.rho,
                "low": item.low,
                "high": item.high,
                "p": item.p,
                "family_p": item.family_p,
                "least_p": item.min_attainable_p,
            }
            for item in correlations
        ],
        "warnings": data.warnings,
        "excluded": [{"video": name, "reason": reason} for name, reason in data.exclusion_reasons],
    }
