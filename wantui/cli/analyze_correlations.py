"""Correlations of metrics with attention and outside labels: `wantui analyze --correlate`."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from wantui.cli.analyze_output import DEFAULT_METRIC_NAMES
from wantui.cli.output import echo, print_columns, print_json, print_wrapped_line
from wantui.cli.progress_line import open_progress_line
from wantui.formatting import format_count

if TYPE_CHECKING:
    from wantui.analysis.correlation_data import CorrelationData
    from wantui.analysis.correlations import Correlation
    from wantui.analysis.video import Video

QUESTIONS = {
    "seeds": "across seeds (of two videos of one variation, has the one with the larger value the larger metric?):",
    "variations": "across variations (the same of two videos of one seed; the prompt is the unit, and anything else "
    "that differs between the prompts can be the cause):",
}
"""Question of each kind of correlation."""


def print_correlations(
    videos: "Sequence[Video]", chosen_metrics: Sequence[str] | None, label_names: Sequence[str], as_json: bool
) -> None:
    """Correlate metrics with attention and labels, and print a table or JSON.

    Args:
        label_names: outside labels to correlate metrics with.

    Raises:
        UserError: the videos cannot be correlated.
    """
    from wantui.analysis.correlation_data import collect_correlation_data
    from wantui.analysis.correlations import ACROSS_SEEDS, ACROSS_VARIATIONS, correlate_values
    from wantui.analysis.final_states import SPREAD_METRIC
    from wantui.analysis.metrics import METRICS
    from wantui.analysis.strides import check_unsettled_metrics

    chosen_names = [name for name in chosen_metrics or () if name not in label_names]
    metric_names = chosen_names or list(METRICS)
    with open_progress_line() as line:
        data = collect_correlation_data(
            videos,
            metric_names,
            label_names,
            lambda count: line.show_count(f"reading attention maps: {format_count(count, 'video')}"),
        )
        line.show_phase("correlating")
        kinds = [ACROSS_SEEDS, *([ACROSS_VARIATIONS] if len(data.variation_names) > 1 else [])]
        correlations = [item for kind in kinds for item in correlate_values(data.metrics, data.covariates, kind)]
    if as_json:
        print_json(_build_record(data, correlations))
        return
    for warning in data.warnings:
        echo(f"warning: {warning}", err=True)
    for name, reason in data.exclusion_reasons:
        echo(f"left out: {name}: {reason}", err=True)
    variations_text = format_count(len(data.variation_names), "variation")
    print_wrapped_line(
        f"{variations_text} with the same {format_count(len(data.seeds), 'seed')}. rho: Spearman's, with a jackknife "
        "interval over seeds; p: permutations; p over all: over all metrics and values of the table and --json"
    )
    shown_names = list(chosen_names or [*DEFAULT_METRIC_NAMES, SPREAD_METRIC])
    for stride_check in check_unsettled_metrics(videos, shown_names):
        echo(f"warning: {stride_check.description}", err=True)
    for kind in kinds:
        _print_table([item for item in correlations if item.across == kind and item.metric in shown_names], kind)


def _print_table(correlations: "Sequence[Correlation]", kind: str) -> None:
    echo()
    least_p = f" least p {correlations[0].min_attainable_p:.2g}" if correlations else ""
    print_wrapped_line(f"{QUESTIONS[kind]}{least_p}", indent=2)
    rows = [
        (
            item.covariate,
            item.metric,
            _format_value(item.rho, "+.2f"),
            f"{item.low:+.2f} to {item.high:+.2f}" if math.isfinite(item.low) else "-",
            _format_value(item.p, ".3g"),
            _format_value(item.family_p, ".3g"),
        )
        for item in correlations
    ]
    print_columns(("value", "metric", "rho", "95 %", "p", "p over all"), *rows)


def _format_value(value: float, specification: str) -> str:
    return format(value, specification) if math.isfinite(value) else "-"


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
